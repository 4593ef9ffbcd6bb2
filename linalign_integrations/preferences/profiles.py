"""Profiles: users' stored preferences, over LangGraph's store interface."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from linalign_integrations.errors import (
    InvalidArgument,
    InvalidPreferences,
    LinAlignError,
    ProfileConflict,
    ProfileStoreFailed,
    ProfileUnreadable,
    describe,
)
from linalign_integrations.preferences.model import Preferences, Principle
from linalign_integrations.preferences.records import (
    SHARDS,
    Change,
    Profile,
    Records,
    document_of,
    label_of,
    not_found,
    profile_of,
)
from linalign_integrations.preferences.scope import as_preferences
from linalign_integrations.preferences.stores import connect, home_of, opened, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from langgraph.store.base import BaseStore
    from llama_index.core.storage.kvstore.types import BaseKVStore

    from linalign_integrations.preferences.records import Steps
    from linalign_integrations.preferences.stores import Home

_T = TypeVar("_T")
# Inside the class below, "list" is a method.
_Names = list[str]
_History = list[Profile]

_CHUNK = 100
_ATTEMPTS = 10


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: str
    preferences: Any
    version: int | None = None
    updated_at: AwareDatetime | None = None


class Profiles:
    """Users' stored preferences. ``open_profiles`` makes one; copies share the store.

    ``get`` answers from a cache for ``cache_seconds``; everything else asks the store. What is
    written here is seen here at once, by every object over the same store in this process.
    Asynchronous twins (``aget``, ``aput``, ...) never block the event loop. Objects may be used by
    many threads.

    Args:
        store: a URL, any LangGraph ``BaseStore``, or a LlamaIndex ``BaseKVStore``.
        tenant: whose users these are; a tenant's profiles are invisible to the others.
        cache_seconds: how long ``get`` may answer from memory; 0 asks the store each time.
        keep: versions of a profile that are kept, the newest included.

    Raises:
        InvalidArgument: an argument is of the wrong type or out of range.
        MissingExtra: the store's package is not installed; the message names the extra.
        ProfileStoreFailed: the store cannot be opened.
    """

    def __init__(
        self,
        store: str | BaseStore | BaseKVStore,
        *,
        tenant: str = "default",
        cache_seconds: float = 5.0,
        keep: int = 20,
    ) -> None:
        _require_options(cache_seconds, keep)
        self._records = Records(tenant, keep)
        self._tenant = tenant
        self._cache_seconds = cache_seconds
        self._keep = keep
        self._url = settled(store) if isinstance(store, str) else None
        self._given = None if isinstance(store, str) else home_of(store)
        self._shown = self._home.shown

    def __repr__(self) -> str:
        return f"Profiles({self._shown!r}, tenant={self._tenant!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Profiles:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._url is None:
            raise TypeError("profiles over a store object cannot be pickled: open them by URL")
        return _reopen, (self._url, self._tenant, self._cache_seconds, self._keep)

    def get(self, user_id: str) -> Preferences:
        """The preferences of a user, at most ``cache_seconds`` old.

        Raises:
            InvalidArgument: the name is empty, too long, or not text.
            ProfileNotFound: the user has none.
            ProfileUnreadable: what is stored is not preferences; it is left as it is.
            ProfileStoreFailed: the store cannot be read.
        """
        hit = self._cached(user_id)
        return _found(user_id, hit[1] if hit else self._fetch(user_id)).preferences

    async def aget(self, user_id: str) -> Preferences:
        """``get`` without blocking the event loop."""
        await self._ahome()
        hit = self._cached(user_id)
        return _found(user_id, hit[1] if hit else await self._afetch(user_id)).preferences

    def read(self, user_id: str) -> Profile:
        """The profile of a user as the store has it now, with its version.

        Raises:
            LinAlignError: as for ``get``.
        """
        return _found(user_id, self._fetch(user_id))

    async def aread(self, user_id: str) -> Profile:
        """``read`` without blocking the event loop."""
        return _found(user_id, await self._afetch(user_id))

    def put(
        self,
        user_id: str,
        preferences: Preferences | Principle | str | Sequence[str | Principle],
        *,
        expected_version: int | Profile | None = None,
    ) -> Profile:
        """Stores the preferences of a user in place of earlier ones, which join the history.

        Args:
            user_id: the user.
            preferences: preferences, or only principles.
            expected_version: the version that is replaced, 0 for none; by default any. A profile
                that ``read`` gave is told from one of the same number that was made anew since.

        Returns:
            The profile that was written.

        Raises:
            InvalidArgument: the name is empty, too long, or not text, or the version is none.
            InvalidPreferences: they are not preferences, or a value lies outside its range.
            ProfileConflict: another version than the expected one is stored; nothing was written.
            ProfileUnreadable: what is stored cannot be read, and would be lost; delete it first.
            ProfileStoreFailed: the store cannot be written; what was stored is unchanged.
        """
        return self._store([(user_id, _said(preferences), expected_version)])[user_id]

    async def aput(
        self,
        user_id: str,
        preferences: Preferences | Principle | str | Sequence[str | Principle],
        *,
        expected_version: int | Profile | None = None,
    ) -> Profile:
        """``put`` without blocking the event loop."""
        stored = await self._astore([(user_id, _said(preferences), expected_version)])
        return stored[user_id]

    def update(
        self,
        user_id: str,
        change: Callable[[Preferences], Preferences | Principle | str | Sequence[str | Principle]]
        | None = None,
        **fields: Any,
    ) -> Profile:
        """Changes the preferences of a user; what others write meanwhile is not lost.

        Example:
            ``profiles.update("ann", ratio=3.0)``

        Args:
            user_id: the user; one without a profile starts from ``Preferences()``.
            change: makes new preferences of the present ones, or only new principles; called again
                after a conflict. After ten conflicts it is called while nobody else can write, so
                that it must not write to the store itself.
            **fields: fields of ``Preferences`` that are replaced, after ``change`` if both are
                given.

        Returns:
            The profile that was written.

        Raises:
            LinAlignError: as for ``put``.
        """
        for pause in _pauses():
            present = self._fetch(user_id)
            try:
                return self._store([_changed(user_id, change, fields, present)])[user_id]
            except ProfileConflict:
                time.sleep(pause)
        # Those who just wrote come first again and again, so that this might never end.
        last = self._records.changing(user_id, partial(_changed_alone, user_id, change, fields))
        with _as_raised():
            return self._write(last, [user_id])[user_id]

    async def aupdate(
        self,
        user_id: str,
        change: Callable[[Preferences], Preferences | Principle | str | Sequence[str | Principle]]
        | None = None,
        **fields: Any,
    ) -> Profile:
        """``update`` without blocking the event loop."""
        for pause in _pauses():
            present = await self._afetch(user_id)
            try:
                stored = await self._astore([_changed(user_id, change, fields, present)])
            except ProfileConflict:
                await asyncio.sleep(pause)
            else:
                return stored[user_id]
        last = self._records.changing(user_id, partial(_changed_alone, user_id, change, fields))
        with _as_raised():
            return (await self._awrite(last, [user_id]))[user_id]

    def delete(self, user_id: str) -> None:
        """Forgets a user, history included; nothing happens if there is no profile.

        Raises:
            InvalidArgument: the name is empty, too long, or not text.
            ProfileStoreFailed: the store cannot be written.
        """
        with self._noting([user_id]) as known:
            known |= self._run(self._records.deleting(user_id), [user_id])
            self._home.purge()

    async def adelete(self, user_id: str) -> None:
        """``delete`` without blocking the event loop."""
        if not (await self._ahome()).native:
            await asyncio.to_thread(self.delete, user_id)
            return
        with self._noting([user_id]) as known:
            known |= await self._arun(self._records.deleting(user_id), [user_id])

    def list(self) -> _Names:
        """The names of all users with a profile, readable or not, in order.

        Raises:
            ProfileStoreFailed: the store cannot be read.
        """
        return sorted(
            user for shard in range(SHARDS) for user, _ in self._run(self._records.listing(shard))
        )

    async def alist(self) -> _Names:
        """``list`` without blocking the event loop."""
        if not (await self._ahome()).native:
            return await asyncio.to_thread(self.list)
        shards = [await self._arun(self._records.listing(shard)) for shard in range(SHARDS)]
        return sorted(user for shard in shards for user, _ in shard)

    def history(self, user_id: str) -> _History:
        """The versions of a profile that are kept, the newest, which holds now, first.

        Raises:
            LinAlignError: as for ``get``.
        """
        return self._run(self._records.remembering(user_id))

    async def ahistory(self, user_id: str) -> _History:
        """``history`` without blocking the event loop."""
        if not (await self._ahome()).native:
            return await asyncio.to_thread(self.history, user_id)
        return await self._arun(self._records.remembering(user_id))

    def export_lines(self) -> Iterator[str]:
        """Every profile as a line of JSON, read from the store as the lines are taken.

        Yields:
            ``{"user_id": ..., "version": ..., "updated_at": ..., "preferences": {...}}``. The
            history is left out.

        Raises:
            ProfileUnreadable: after the last line, if profiles had to be left out; names them.
            ProfileStoreFailed: the store cannot be read.
        """
        left_out = []
        for shard in range(SHARDS):
            for user, item in self._run(self._records.listing(shard)):
                try:
                    profile = document_of(user, item)
                    profile_of(user, profile)
                except ProfileUnreadable:
                    left_out.append(user)
                    continue
                line = profile.model_dump(mode="json", exclude={"format", "history"})
                yield json.dumps({"user_id": user, **line}, ensure_ascii=False)
        if left_out:
            raise ProfileUnreadable(
                f"everything else was exported, but not the unreadable profiles of "
                f"{_listed(left_out)}: read one for the reason"
            )

    def import_lines(
        self, lines: Iterable[str], *, advance: Callable[[int, int], None] | None = None
    ) -> int:
        """Stores profiles given as lines of JSON, as ``export_lines`` writes them.

        All lines are read and checked before the first is written, in bounded memory. A user who
        has a profile gets a new version of it. ``version`` and ``updated_at`` are not taken over.

        Args:
            lines: text lines; ``preferences`` may also be principles only. Empty lines are skipped.
            advance: called with how many profiles are written and how many there are in all.

        Returns:
            How many profiles were written.

        Raises:
            InvalidPreferences: a line is not a profile or a user is named twice; nothing was
                written.
            ProfileUnreadable: a profile in the store would be lost; nothing was written, or the
                message says how much was before another process stored it.
            ProfileStoreFailed: the store failed; the message says how many were written.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8") as checked:
            total = self._check(lines, checked.write)
            checked.seek(0)
            while chunk := list(islice(checked, _CHUNK)):
                users = [json.loads(line)["user_id"] for line in chunk]
                for user, kept in zip(users, self._run(self._records.finding(users)), strict=True):
                    if kept is not None:
                        profile_of(user, kept)
            checked.seek(0)
            written = 0
            while chunk := list(islice(checked, _CHUNK)):
                changes = [_parsed_line(line) for line in chunk]
                try:
                    self._store([(user, said, None) for user, said in changes])
                except (ProfileStoreFailed, ProfileUnreadable) as error:
                    raise type(error)(
                        f"{error}; at least {written} of {total} profiles had been imported before"
                    ) from error.__cause__
                written += len(chunk)
                if advance:
                    advance(written, total)
        return total

    def _check(self, lines: Iterable[str], keep: Callable[[str], object]) -> int:
        seen: dict[str, int] = {}
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if number == 1 and isinstance(line, str):
                    line = line.removeprefix("\ufeff")
                if isinstance(line, str) and not line.strip():
                    continue
                user, _ = _parsed_line(line)
                if user in seen:
                    raise InvalidPreferences(f"user {user!r} stands on line {seen[user]} already")  # noqa: TRY301
                seen[user] = number
                # A break within a line of JSON is a space between its parts.
                keep(line.strip().replace("\r", " ").replace("\n", " ") + "\n")
        except UnicodeDecodeError as error:
            raise InvalidPreferences(
                f"nothing was imported: after line {number} the text is not UTF-8"
            ) from error
        except (InvalidPreferences, InvalidArgument) as error:
            raise InvalidPreferences(f"nothing was imported: line {number}: {error}") from error
        return len(seen)

    @property
    def _home(self) -> Home:
        # By URL each time, since a forked process needs a connection of its own.
        return self._given or connect(self._url or "")

    async def _ahome(self) -> Home:
        """``_home``; where it must be opened, as after a fork or over a new file, in a thread."""
        url = self._url or ""
        home = self._given or opened(url)
        return home if home is not None else await asyncio.to_thread(connect, url)

    def _cached(self, user: str) -> tuple[float, Profile | None] | None:
        if not isinstance(user, str):
            return None
        return self._home.recent.find((self._tenant, user), self._cache_seconds)

    @contextmanager
    def _noting(self, written: Sequence[str] = ()) -> Iterator[dict[str, Profile | None]]:
        """Keeps the cache true while profiles are read, or written if their users are given."""
        for user in written:
            label_of(user, "user_id")
        recent = self._home.recent
        begun = recent.begin()
        known: dict[str, Profile | None] = {}
        try:
            yield known
        except BaseException:
            if written:
                recent.forget([(self._tenant, user) for user in written])
            raise
        values = {(self._tenant, user): profile for user, profile in known.items()}
        if written:
            recent.note_written(values, begun)
        else:
            recent.note_read(values, begun)

    def _fetch(self, user: str) -> Profile | None:
        with self._noting() as known:
            known[user] = self._run(self._records.reading(user))
        return known[user]

    async def _afetch(self, user: str) -> Profile | None:
        if not (await self._ahome()).native:
            return await asyncio.to_thread(self._fetch, user)
        with self._noting() as known:
            known[user] = await self._arun(self._records.reading(user))
        return known[user]

    def _store(self, changes: Sequence[Change]) -> dict[str, Profile]:
        return self._write(self._records.writing(changes), [user for user, _, _ in changes])

    async def _astore(self, changes: Sequence[Change]) -> dict[str, Profile]:
        steps = self._records.writing(changes)
        return await self._awrite(steps, [user for user, _, _ in changes])

    def _write(self, steps: Steps[dict[str, Profile]], users: Sequence[str]) -> dict[str, Profile]:
        with self._noting(users) as known:
            written = self._run(steps, users)
            known |= written
        return written

    async def _awrite(
        self, steps: Steps[dict[str, Profile]], users: Sequence[str]
    ) -> dict[str, Profile]:
        if not (await self._ahome()).native:
            return await asyncio.to_thread(self._write, steps, users)
        with self._noting(users) as known:
            written = await self._arun(steps, users)
            known |= written
        return written

    def _run(self, steps: Steps[_T], alone: Sequence[str] = ()) -> _T:
        home = self._home
        names = ["/".join((*place, label)) for place, label in map(self._records.key, alone)]
        with (
            home.reported("written" if alone else "read"),
            home.alone(names) if alone else home.reading() as store,
        ):
            try:
                ops = next(steps)
                while True:
                    ops = steps.send(store.batch(ops))
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

    async def _arun(self, steps: Steps[_T], alone: Sequence[str] = ()) -> _T:
        home = self._home
        with home.reported("written" if alone else "read"):
            async with home.alone_async() if alone else nullcontext(home.store) as store:
                try:
                    ops = next(steps)
                    while True:
                        try:
                            results = await store.abatch(ops)
                        except NotImplementedError:
                            results = await asyncio.to_thread(store.batch, ops)
                        ops = steps.send(results)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]


def open_profiles(
    url: str | BaseStore | BaseKVStore,
    *,
    tenant: str = "default",
    cache_seconds: float = 5.0,
    keep: int = 20,
) -> Profiles:
    """Opens a profile store; the same arguments give the same object throughout the process.

    Args:
        url: ``"memory://"`` or ``"memory://name"`` (gone with the process),
            ``"sqlite:///profiles.db"`` (a file, relative to the working folder; four slashes for
            an absolute path), ``"postgresql://user:password@host/database"``,
            ``"redis://host:6379"``, any LangGraph store, or a LlamaIndex key-value store.
        tenant: whose users these are; a tenant's profiles are invisible to the others.
        cache_seconds: how long ``get`` may answer from memory; 0 asks the store each time.
        keep: versions of a profile that are kept, the newest included.

    Raises:
        InvalidArgument: an argument is of the wrong type or out of range.
        MissingExtra: the store's package is not installed; the message names the extra.
        ProfileStoreFailed: the URL names no known kind of store, or it cannot be opened.
    """
    label_of(tenant, "tenant")
    _require_options(cache_seconds, keep)
    options: dict[str, Any] = {"tenant": tenant, "cache_seconds": cache_seconds, "keep": keep}
    if not isinstance(url, str):
        return Profiles(url, **options)
    key = (settled(url), *options.values())
    if key not in _opened:
        _opened.setdefault(key, Profiles(url, **options))
    return _opened[key]


def _require_options(cache_seconds: object, keep: object) -> None:
    if not (isinstance(cache_seconds, (int, float)) and 0 <= cache_seconds < float("inf")):
        raise InvalidArgument(f"cache_seconds is 0 or more, not {cache_seconds!r}")
    if not (isinstance(keep, int) and keep >= 1):
        raise InvalidArgument(f"keep is 1 version or more, not {keep!r}")


def _reopen(url: str, tenant: str, cache_seconds: float, keep: int) -> Profiles:
    return open_profiles(url, tenant=tenant, cache_seconds=cache_seconds, keep=keep)


def _said(value: object) -> Preferences:
    if not isinstance(value, (Preferences, Principle, str, Mapping, Sequence)):
        raise InvalidPreferences(f"{value!r:.80} is neither Preferences nor principles")
    said: Any = value
    return as_preferences(said) or Preferences()


def _changed(
    user: str,
    change: Callable[[Preferences], Any] | None,
    fields: dict[str, Any],
    present: Profile | None,
) -> Change:
    said = present.preferences if present else Preferences()
    if not (change is None or callable(change)):
        raise InvalidArgument(
            "update takes a function of the present preferences, or fields such as ratio=3.0: "
            "put stores others in their place"
        )
    if change:
        changed = change(said)
        if not isinstance(changed, (Preferences, Mapping)):
            # Only principles: what else the user said is left as it is.
            changed = said.model_copy(update={"principles": _said(changed).principles})
        said = _said(changed)
    new = Preferences(**fields)
    said = said.model_copy(update={name: getattr(new, name) for name in new.model_fields_set})
    return user, _said(said), present or 0


class _Raised(LinAlignError):
    """Carries what a caller's function raised past those who tell of a store's failures."""


def _changed_alone(*changing: Any) -> Change:
    try:
        return _changed(*changing)
    except Exception as error:
        raise _Raised(error) from error


@contextmanager
def _as_raised() -> Iterator[None]:
    try:
        yield
    except _Raised as carried:
        error = carried.args[0]
        raise error from error.__cause__


def _found(user: str, profile: Profile | None) -> Profile:
    if profile is None:
        raise not_found(user)
    return profile


def _parsed_line(line: str) -> tuple[str, Preferences]:
    if not isinstance(line, str):
        raise InvalidPreferences(f"a line is text, not {type(line).__name__}")
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        raise InvalidPreferences(describe(error).removeprefix("_Line: ")) from error
    label_of(read.user_id, "user_id")
    return read.user_id, _said(read.preferences)


def _pauses() -> Iterator[float]:
    """Seconds to wait after each conflict, in chance lengths that grow."""
    for attempt in range(_ATTEMPTS):
        yield random.uniform(0, min(0.001 * 2**attempt, 0.05))  # noqa: S311


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


_opened: dict[tuple[Any, ...], Profiles] = {}
