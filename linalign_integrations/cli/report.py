"""What the measuring commands share: files, a progress bar, tables."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from linalign_integrations.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.text import Text


def check_files(json_file: str | None, plot_file: str | None) -> None:
    """Refuses what would fail at the end, before minutes of measuring.

    Raises:
        InvalidArgument: a file names a folder, has none to be written into, or may not be written.
        MissingExtra: a plot is asked for and cannot be drawn.
    """
    for file in filter(None, (json_file, plot_file)):
        require_parent(file)
        if Path(file).is_dir():
            raise InvalidArgument(f"{file!r} is a folder: name a file in it")
        is_new = not Path(file).exists()
        if not (is_new or Path(file).is_file()):
            continue  # whoever reads a pipe would take this for its end
        try:
            Path(file).open("a").close()
        except OSError as error:
            raise InvalidArgument(f"{file!r} cannot be written: {error.strerror}") from error
        if is_new:
            Path(file).unlink()
    if plot_file:
        require_plots()


def require_parent(name: str) -> None:
    """Refuses to go on where there is no folder that a file or folder is to be written into.

    Raises:
        InvalidArgument: there is none.
    """
    if not Path(name).resolve().parent.is_dir():
        raise InvalidArgument(f"there is no folder to write {name!r} into")


def require_plots() -> None:
    """Refuses to go on without what draws plots.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "a plot needs a package that is not installed: "
            "pip install 'linalign-integrations[plots]'"
        ) from error


@contextmanager
def answers_bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; what it gives is called with the number of answers that were added."""
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("answers", total=total)
        yield lambda answers: bar.advance(task, answers)


def plain_table(title: str | Text | None = None, **more: Any) -> Table:
    """A table of figures: no frame, a line below its head.

    Args:
        title: stands above it.
        **more: as for ``rich.table.Table``.
    """
    looks = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "title_justify": "left"}
    return Table(title=title, **{**looks, **more})


def verdict(*, met: bool | None) -> str:
    """Whether a target is met, in colour."""
    return "[green]met[/]" if met else "[red]not met[/]"
