"""``linalign pocket --weights``: what weights do on the embedded model, in a table and a plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from linalign_integrations.cli.pocket import targets_table
from linalign_integrations.cli.report import (
    answers_bar,
    check_files,
    plain_table,
    require_plots,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from rich.console import Console
    from rich.table import Table

    from linalign_integrations.pocket.composition import Composition, Row


def run(
    console: Console,
    *,
    model: str,
    count: int,
    seed: int,
    kl_budget: float | None,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Measures, prints every figure and every target, and writes the files asked for.

    Raises:
        InvalidArgument: a file names a folder, or has none to be written into.
        MissingExtra: a plot is asked for and cannot be drawn.
        LinAlignError: the model cannot be loaded, or a value lies outside its range.
    """
    check_files(json_file, plot_file)
    from linalign_integrations.pocket import composition

    with answers_bar(console, composition.total(count)) as advance:
        measured = composition.compose(
            model, count, seed=seed, kl_budget=kl_budget, advance=advance
        )
    goals = composition.targets(measured)
    console.print(table(measured))
    console.print(targets_table(goals))
    if json_file:
        report = {
            **asdict(measured),
            "targets": [{"name": one.name, "value": one.value, "met": one.met} for one in goals],
        }
        Path(json_file).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if plot_file:
        plot(measured, Path(plot_file))


def _shares(rows: Sequence[Row], principle: int = 0) -> list[str]:
    return [f"{row.followed[principle]:.2f}" for row in rows]


def table(measured: Composition) -> Table:
    """What was followed at each weight, with a row per dimension."""
    from linalign_integrations.pocket import composition as known

    budget = f", within {measured.kl_budget:g} nats per token" if measured.kl_budget else ""
    made = plain_table(Text(f"{measured.model}, {measured.count} held-out questions each{budget}"))
    made.add_column("weight")
    for weight in known.WEIGHTS:
        made.add_column(f"{weight:g}", justify="right")
    titles = {
        (known.ALONE, 0): "the only principle",
        (known.BESIDE, 0): "beside one of weight 1",
        (known.BESIDE, 1): "that one of weight 1",
    }
    dimensions = list(dict.fromkeys(row.dimension for row in measured.rows))
    for (experiment, principle), title in titles.items():
        made.add_section()
        made.add_row(f"[bold]{title}[/]")
        for dimension in dimensions:
            rows = list(measured.of(experiment, dimension).values())
            made.add_row(dimension, *_shares(rows, principle))
    made.add_section()
    made.add_row("[bold]two opposites[/]", *(f"{a:g}:{b:g}" for a, b in known.TILTS for _ in "ab"))
    for dimension in dimensions:
        rows = list(measured.of(known.AGAINST, dimension).values())
        shares = [f"{share:.2f}" for row in rows for share in row.followed]
        made.add_row(f"{dimension}: {' / '.join(known.opposites(dimension))}", *shares)
    least = min(measured.rows, key=lambda row: row.accepted)
    made.caption = (
        f"Standard error of a share at most {0.5 / measured.count**0.5:.2f}. "
        f"Answers accepted: at least {least.accepted:.2f}."
    )
    made.caption_justify = "left"
    return made


_STYLE: Any = {
    "svg.hashsalt": "linalign",
    "font.size": 9,
    "axes.axisbelow": True,
    "axes.edgecolor": "0.6",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "0.9",
    "legend.frameon": False,
}
# Colours that colour-blind readers can tell apart (Okabe and Ito).
_OWN, _BESIDE, _OTHER = "#0072B2", "#E69F00", "#999999"
_COLUMNS = 3


def plot(measured: Composition, file: Path) -> None:
    """Draws what is followed against the weight, and which of two opposites wins.

    Equal figures give equal bytes.

    Args:
        measured: what to draw.
        file: an SVG file.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require_plots()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from linalign_integrations.pocket import composition as known

    dimensions = list(dict.fromkeys(row.dimension for row in measured.rows))
    lines = -(-len(dimensions) // _COLUMNS)
    with rc_context(_STYLE):
        drawn = Figure(figsize=(8, 2.0 * lines + 2.6), layout="constrained")
        grid = drawn.add_gridspec(lines + 1, _COLUMNS, height_ratios=[1] * lines + [1.3])
        for place, dimension in enumerate(dimensions):
            axes = drawn.add_subplot(grid[divmod(place, _COLUMNS)])
            axes.set_title(dimension, loc="left", fontsize=9)
            for experiment, principle, colour, label in (
                (known.ALONE, 0, _OWN, "followed, the only principle"),
                (known.BESIDE, 0, _BESIDE, "followed, beside another of weight 1"),
                (known.BESIDE, 1, _OTHER, "that other one"),
            ):
                rows = list(measured.of(experiment, dimension).values())
                _line(axes, rows, principle, colour, label)
            axes.set_ylim(-0.03, 1.03)
            if place % _COLUMNS == 0:
                axes.set_ylabel("share of answers")
            if place >= len(dimensions) - _COLUMNS:
                axes.set_xlabel("weight (0: not stated)")
        keys, labels = axes.get_legend_handles_labels()
        drawn.legend(keys, labels, loc="outside upper center", ncols=3)
        _plot_opposites(drawn.add_subplot(grid[lines, :]), measured, dimensions)
        drawn.savefig(file, format="svg", metadata={"Date": None})


def _line(axes: Axes, rows: Sequence[Row], principle: int, colour: str, label: str) -> None:
    """Shares over the weight, in a band of one standard error to either side."""
    weights = [row.weights[0] for row in rows]
    shares = [row.followed[principle] for row in rows]
    errors = [row.errors[principle] for row in rows]
    axes.plot(weights, shares, "o-", ms=3, lw=1.4, color=colour, label=label)
    low, high = (
        [share + sign * error for share, error in zip(shares, errors, strict=True)]
        for sign in (-1, 1)
    )
    axes.fill_between(weights, low, high, color=colour, alpha=0.2, lw=0)


def _plot_opposites(axes: Axes, measured: Composition, dimensions: Sequence[str]) -> None:
    from linalign_integrations.pocket import composition as known

    names = [" / ".join(known.opposites(dimension)) for dimension in dimensions]
    for (first, second), marker, colour in zip(
        known.TILTS, ("^", "o", "v"), ("#009E73", "0.2", "#D55E00"), strict=True
    ):
        shares = []
        for dimension in dimensions:
            one, other = measured.of(known.AGAINST, dimension)[first, second].followed
            shares.append(one / (one + other) if one + other else float("nan"))
        label = f"weights {first:g} and {second:g}"
        axes.plot(names, shares, marker, ms=6, color=colour, label=label)
    axes.axhline(0.5, lw=1, color="0.4")
    axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel("share of the first\nof two opposites")
    axes.tick_params(axis="x", labelsize=7.5, rotation=20)
    axes.legend(loc="lower left", ncols=3, fontsize=8, bbox_to_anchor=(0, 1))
