"""``linalign profiles``: what users want, shown and changed in the terminal."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from linalign_integrations.cli.report import plain_table
from linalign_integrations.errors import (
    InvalidArgument,
    InvalidPreferences,
    LinAlignError,
    ProfileConflict,
    ProfileNotFound,
    ProfileStoreFailed,
    ProfileUnreadable,
)
from linalign_integrations.preferences import (
    Preferences,
    Principle,
    as_preferences,
    open_profiles,
    resolve,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from linalign_integrations.preferences import Profile, Profiles

app = typer.Typer(
    help="Users' stored preferences: list, show, set, edit, delete, import, export.",
    no_args_is_help=True,
)

Store = Annotated[
    str,
    typer.Option(
        envvar="LINALIGN_PROFILES",
        help="Such as sqlite:///profiles.db or postgresql://host/database.",
        show_default=False,
    ),
]
Tenant = Annotated[str, typer.Option(help="Whose users they are.")]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's name.", show_default=False)]

EDITED = (
    "# The preferences of {user}, as JSON. Lines that begin with # are left out; save nothing to "
    "change nothing.\n"
)


def _open(store: str, tenant: str) -> Profiles:
    if not store:
        raise InvalidArgument(
            "which store? say --store sqlite:///profiles.db, or set LINALIGN_PROFILES"
        )
    # However many versions the application keeps, none is cut off here.
    return open_profiles(store, tenant=tenant, cache_seconds=0, keep=sys.maxsize)


@app.command("list")
def list_(store: Store = "", tenant: Tenant = "default") -> None:
    """All users with a profile."""
    profiles = _open(store, tenant)
    made = plain_table()
    for heading in ("user", "version", "changed", "principles"):
        made.add_column(heading, overflow="fold" if heading == "user" else "ellipsis")
    for user in profiles.list():
        try:
            profile = profiles.read(user)
        except ProfileNotFound:  # deleted since the list was made
            continue
        except LinAlignError as error:
            made.add_row(_name(user), "", "", Text(f"unreadable: {error}", style="red"))
            continue
        said = "; ".join(principle.text for principle in profile.preferences.principles)
        shown = Text(said.replace("\n", " "), overflow="ellipsis", no_wrap=True)
        made.add_row(_name(user), str(profile.version), _time(profile), shown)
    Console().print(made if made.row_count else f"no profiles in {profiles!r}", markup=False)


@app.command()
def show(
    user: User,
    store: Store = "",
    tenant: Tenant = "default",
    history: Annotated[bool, typer.Option("--history", help="Earlier versions too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, what was said only.")] = False,
) -> None:
    """One user's preferences."""
    profiles = _open(store, tenant)
    kept = profiles.history(user) if history else [profiles.read(user)]
    for profile in kept:
        if as_json:
            print(profile.preferences.model_dump_json())
        else:
            _print(user, profile)


@app.command("set")
def set_(
    user: User,
    store: Store = "",
    tenant: Tenant = "default",
    principle: Annotated[
        list[str] | None,
        typer.Option("--principle", "-p", help="In place of those stored; may be repeated."),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", "-a", help="Beside those stored, once each; may be repeated."),
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Of the principles given here; below 0 steers away.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="No principles: plain answers.")] = False,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", help="A field to say nothing of, such as ratio; may be repeated."),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Largest step.")] = None,
    kl_budget: Annotated[float | None, typer.Option(help="Most nats per token.")] = None,
    plausibility: Annotated[float | None, typer.Option(help="Mass of the plausible set.")] = None,
    placement: Annotated[str | None, typer.Option(help='"system" or "last_user".')] = None,
    align_tool_calls: Annotated[
        bool | None,
        typer.Option("--align-tool-calls/--plain-tool-calls", help="Calls to tools and JSON."),
    ] = None,
    align_reasoning: Annotated[
        bool | None,
        typer.Option("--align-reasoning/--plain-reasoning", help="Hidden reasoning."),
    ] = None,
) -> None:
    """Changes what is said here of a user's preferences and keeps the rest."""
    fields: dict[str, Any] = {
        "ratio": ratio,
        "kl_budget": kl_budget,
        "plausibility": plausibility,
        "placement": placement,
        "align_tool_calls": align_tool_calls,
        "align_reasoning": align_reasoning,
    }
    said = {name: value for name, value in fields.items() if value is not None}
    unsaid = {name.replace("-", "_") for name in unset or ()}
    if unknown := sorted(unsaid - set(Preferences.model_fields)):
        raise InvalidArgument(
            f"--unset takes {', '.join(Preferences.model_fields)}, not {unknown[0]!r}"
        )
    if both := sorted(unsaid & (said.keys() | ({"principles"} if principle or none else set()))):
        raise InvalidArgument(f"{both[0]} is both set and unset: leave one out")
    if not (said or unsaid or principle or add or none or weight is not None):
        raise InvalidArgument("nothing to set: give --principle, --add, --none, --ratio or another")
    if none and (principle or add):
        raise InvalidArgument("--none is no principle at all: leave out --principle and --add")
    if weight is not None and not (principle or add):
        raise InvalidArgument("--weight is that of --principle or --add: give one, or use edit")

    def weighted(texts: list[str] | None) -> list[Principle]:
        return [Principle(text, 1.0 if weight is None else weight) for text in texts or ()]

    def change(now: Preferences) -> Preferences:
        now = Preferences(**{name: getattr(now, name) for name in now.model_fields_set - unsaid})
        if principle or none:
            now = now.model_copy(update={"principles": weighted(principle)})
        # One that is there already would count twice: what is said now replaces it.
        return now.merge(Preferences(principles=weighted(add))) if add else now

    written = _open(store, tenant).update(user, change, **said)
    _print(user, written)


@app.command()
def edit(user: User, store: Store = "", tenant: Tenant = "default") -> None:
    """Opens a user's preferences in $EDITOR; a user who has none yet begins with none."""
    profiles = _open(store, tenant)
    expected: Profile | int
    try:
        # The profile, since one that was made anew meanwhile may have the same version.
        before = profiles.read(user)
        said, expected = before.preferences, before
    except ProfileNotFound:
        said, expected = Preferences(principles=()), 0
    head = EDITED.format(user=json.dumps(user))
    fields = said.model_dump(mode="json")
    begun = f"{head}{json.dumps(fields, indent=2, ensure_ascii=False)}\n"
    text = begun
    while True:
        try:
            text = _edited(text)
        except InvalidArgument as error:
            if text == begun:
                raise
            _stderr().print(Text(str(error), style="red"))
            _keep(text, error)
        said_now = "\n".join(line for line in text.split("\n") if not line.startswith("#"))
        if text == begun or not said_now.strip():
            Console().print("nothing changed")
            return
        try:
            new = as_preferences(json.loads(said_now))
            if new is None:
                raise InvalidPreferences("null is no preferences: say {} to have none")  # noqa: TRY301
            _print(user, profiles.put(user, new, expected_version=expected))
        except (ValueError, TypeError, InvalidPreferences) as error:
            _again(f"this cannot be stored: {error}", "Edit it again?", text, error)
        except ProfileConflict as error:
            try:
                expected = profiles.read(user)
                _print(user, expected)
            except ProfileNotFound:
                expected = 0
            _again(
                f"meanwhile {'this was stored' if expected else 'it was deleted'}",
                "Edit, and replace it?",
                text,
                error,
            )
        except LinAlignError as error:
            _again(str(error), "Edit and try again?", text, error)
        else:
            return


@app.command()
def delete(
    user: User,
    store: Store = "",
    tenant: Tenant = "default",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forgets a user, history included."""
    profiles = _open(store, tenant)
    # What cannot be read is to go as well.
    with suppress(ProfileUnreadable, ProfileStoreFailed):
        profiles.read(user)
    if not yes:
        typer.confirm(f"Delete the profile of {user!r} and its history?", abort=True)
    profiles.delete(user)
    Console().print(f"deleted the profile of {user!r}", markup=False)


@app.command("export")
def export(
    file: Annotated[str, typer.Argument(help="A file to write; - is the terminal.")] = "-",
    store: Store = "",
    tenant: Tenant = "default",
) -> None:
    """Writes every profile as a line of JSON."""
    lines = _open(store, tenant).export_lines()
    if file == "-":
        _as_utf8(sys.stdout)
        for line in lines:
            print(line)
        return
    unreadable = None
    try:
        with (
            _replacing(Path(file)) as out,
            Progress(TextColumn("{task.completed} profiles exported"), console=_stderr()) as bar,
        ):
            task = bar.add_task("profiles", total=None)
            try:
                for line in lines:
                    out.write(f"{line}\n")
                    bar.advance(task)
            except ProfileUnreadable as error:
                unreadable = error
    except OSError as error:
        raise InvalidArgument(f"{file!r} cannot be written: {error.strerror}") from error
    if unreadable:
        raise unreadable


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="A file of JSON lines; - is the standard input.")],
    store: Store = "",
    tenant: Tenant = "default",
) -> None:
    """Stores profiles from lines of JSON, after all of them were checked."""
    profiles = _open(store, tenant)
    columns = (TextColumn("profiles"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_stderr()) as bar:
        task = bar.add_task("profiles", total=None)

        def advance(written: int, total: int) -> None:
            bar.update(task, completed=written, total=total)

        try:
            if file == "-":
                _as_utf8(sys.stdin)
                count = profiles.import_lines(sys.stdin, advance=advance)
            else:
                with Path(file).open(encoding="utf-8-sig") as lines:
                    count = profiles.import_lines(lines, advance=advance)
        except OSError as error:
            raise InvalidArgument(f"{file!r} cannot be read: {error.strerror}") from error
    Console().print(f"imported {count} profiles")


@app.command()
def bench(
    store: Store = "memory://bench",
    rounds: Annotated[int, typer.Option(min=1, help="Calls of the slow kinds.")] = 200,
) -> None:
    """What reading and writing a profile costs, on a tenant of its own that is emptied after."""
    tenant = "linalign-bench"
    kept, asked = (open_profiles(store, tenant=tenant, cache_seconds=s) for s in (3600, 0))
    user = "ann"
    said = Preferences(principles=["I am vegan.", Principle("Be brief.", 2.0)], ratio=3.0)
    kept.put(user, said)
    config = {"user_id": user}
    own = Preferences(ratio=2.0)
    cases: dict[str, tuple[int, Callable[[], object]]] = {
        "get, from the cache": (100 * rounds, lambda: kept.get(user)),
        "resolve a call, no profile": (10 * rounds, lambda: resolve(call=said, own=own)),
        "resolve a call by user_id, from the cache": (
            10 * rounds,
            lambda: resolve(config=config, own=own, profiles=kept),
        ),
        "get, from the store": (rounds, lambda: asked.get(user)),
        "put": (rounds, lambda: asked.put(user, said)),
        "update": (rounds, lambda: asked.update(user, ratio=3.0)),
    }
    made = plain_table()
    for heading in ("", "median µs", "worst in a hundred µs"):
        made.add_column(heading)
    for name, (times, call) in cases.items():
        taken = sorted(_timed(call, times))
        made.add_row(name, f"{taken[len(taken) // 2]:.1f}", f"{taken[int(len(taken) * 0.99)]:.1f}")
    kept.delete(user)
    Console().print(made)


def _as_utf8(stream: TextIO) -> None:
    """Lines of JSON are UTF-8, whatever the terminal's own encoding."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8")


@contextmanager
def _replacing(file: Path) -> Iterator[TextIO]:
    """A file to write that takes the place of another once it is whole, with the same rights.

    A new one is for its owner alone. What is no file, such as a pipe, is written as it comes.
    """
    file = file.resolve()
    if file.exists() and not file.is_file():
        with file.open("w", encoding="utf-8") as out:
            yield out
        return
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            yield out
        if file.exists():
            part.chmod(file.stat().st_mode)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _edited(text: str) -> str:
    """What a user makes of a text in the editor of their choice."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "preferences.json"
        file.write_text(text, encoding="utf-8")
        try:
            subprocess.run([*shlex.split(editor), str(file)], check=True)  # noqa: S603
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise InvalidArgument(
                f"the editor {editor!r} did not work, nothing changed: set EDITOR to another"
            ) from error
        try:
            return file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeError) as error:
            raise InvalidArgument(
                f"what the editor {editor!r} left cannot be read, nothing changed: {error}"
            ) from error


def _again(why: str, question: str, text: str, error: Exception) -> None:
    """Asks whether to go on; if not, keeps what was written and ends."""
    _stderr().print(Text(why, style="red"))
    with suppress(typer.Abort):  # as after an end of input: what was written is not lost
        if typer.confirm(question, default=True):
            return
    _keep(text, error)


def _keep(text: str, error: Exception) -> NoReturn:
    """Keeps what was written in a file, says in which, and ends."""
    handle, name = tempfile.mkstemp(prefix="linalign-", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as kept:
        kept.write(text)
    _stderr().print(f"what you wrote is kept in {name}", markup=False)
    raise typer.Exit(1) from error


def _name(user: str, more: str = "") -> Text:
    """A user's name for the terminal, in which a name could otherwise write what it likes."""
    spelt = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in user
    )
    return Text(spelt + more)


def _timed(call: Callable[[], object], times: int) -> Iterator[float]:
    call()
    for _ in range(times):
        began = time.perf_counter()
        call()
        yield (time.perf_counter() - began) * 1e6


def _stderr() -> Console:
    return Console(stderr=True)


def _time(profile: Profile) -> str:
    return f"{profile.updated_at.astimezone():%Y-%m-%d %H:%M}"


def _print(user: str, profile: Profile) -> None:
    console = Console()
    console.print(_name(user, f", version {profile.version}, {_time(profile)}"), style="bold")
    made = plain_table(show_header=False)
    made.add_column(style="cyan", no_wrap=True)
    made.add_column()
    preferences = profile.preferences
    for principle in preferences.principles:
        made.add_row(f"weight {principle.weight:g}", Text(principle.text))
    if not preferences.principles:
        said = "principles" in preferences.model_fields_set
        made.add_row("principles", "none: plain answers" if said else "not said")
    made.add_section()
    for name in type(preferences).model_fields:
        if name != "principles" and name in preferences.model_fields_set:
            made.add_row(name, Text(str(getattr(preferences, name))))
    console.print(made)
