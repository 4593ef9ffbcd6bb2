"""One question, three answers: without principles, with them in the prompt, and aligned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# name of the column -> the preferences that make it, beside the user's principles
COLUMNS: dict[str, dict[str, object]] = {
    "plain": {"principles": ()},
    "prompted": {"ratio": 0.0},
    "aligned": {},
}


def table(title: str, rows: Sequence[tuple[str, list[str]]], *, ratio: float) -> Table:
    """A table with a row per user and a column per way to answer.

    Args:
        title: stands above it.
        rows: a label and three answers each.
        ratio: shown in the heading of the aligned column.
    """
    made = Table(
        title=Text(title), box=box.ROUNDED, show_lines=True, title_justify="left", expand=True
    )
    made.add_column("principle", style="cyan", ratio=3)
    plain, prompted, aligned = COLUMNS
    made.add_column(plain, ratio=4, style="dim")
    made.add_column(prompted, ratio=4)
    made.add_column(f"{aligned} (ratio {ratio:g})", ratio=4, style="bold")
    for label, answers in rows:
        made.add_row(Text(label), *(Text(answer) for answer in answers))
    return made


def three_answers(
    answer: Callable[[dict[str, object]], str], fields: dict[str, object]
) -> list[str]:
    """The three answers to one question.

    Args:
        answer: gives the answer under preference fields.
        fields: the user's own preference fields.
    """
    return [answer({**fields, **column}) for column in COLUMNS.values()]
