"""``linalign pocket``: how well the embedded model follows, in figures, tables and a plot."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.text import Text

from linalign_integrations.cli.report import (
    answers_bar,
    check_files,
    plain_table,
    require_plots,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from linalign_integrations.pocket.measure import Measurement, Target


def run(
    console: Console,
    *,
    model: str,
    count: int,
    seed: int,
    kl_budget: float,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Measures, prints every figure and every target, and writes the files asked for.

    Raises:
        InvalidArgument: a file names a folder, or has none to be written into.
        MissingExtra: the extra ``grammar`` is not installed, or a plot is asked for and cannot be
            drawn.
        LinAlignError: the model cannot be loaded, or a value lies outside its range.
    """
    check_files(json_file, plot_file)
    from linalign_integrations.pocket import measure

    total = count * len(measure.SETS) * len(measure.ways(kl_budget))
    with answers_bar(console, total) as advance:
        measured = measure.measure(model, count, seed=seed, kl_budget=kl_budget, advance=advance)
        timed = measure.speed(model)
    goals = measure.targets(measured, timed)
    console.print(scores_table(measured))
    console.print(targets_table(goals))
    if json_file:
        report = {
            **asdict(measured),
            "speed": asdict(timed),
            "targets": [
                # JSON has no NaN.
                {
                    "name": one.name,
                    "value": None if math.isnan(one.value) else one.value,
                    "met": one.met,
                }
                for one in goals
            ],
        }
        Path(json_file).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if plot_file:
        plot(measured, Path(plot_file))


def scores_table(measured: Measurement) -> Table:
    """Every figure of every set, with a column per way to answer."""
    from linalign_integrations.pocket.measure import FIGURES

    ways = list(next(iter(measured.scores.values())))
    title = (
        f"{measured.model}, {measured.count} held-out cases each; "
        f"≤KL: within {measured.kl_budget:g} nats per token"
    )
    made = plain_table(Text(title), padding=0)
    made.add_column()
    for way in ways:
        # Three short lines: the table just fits into 80 columns.
        made.add_column(way.replace(", budget", " ≤KL").replace(" ", "\n"), justify="right")
    for figure in FIGURES:
        made.add_section()
        made.add_row(f"[bold]{figure}[/]")
        for name, scores in measured.scores.items():
            values = [getattr(scores[way], figure) for way in ways]
            if None not in values:
                made.add_row(name, *(f"{value:.2f}" for value in values))
    made.add_section()
    made.add_row("[bold]followed, one principle[/]")
    one = [measured.scores["one principle"][way].dimensions for way in ways]
    for name in one[0]:
        made.add_row(name, *(f"{shares[name].share:.2f}" for shares in one))
    return made


def targets_table(goals: Sequence[Target]) -> Table:
    """What was asked for, what came out, and whether the one is the other."""
    made = plain_table("\nTargets")
    for heading in ("", "asked", "measured", ""):
        made.add_column(heading, justify="left" if not heading else "right")
    for goal in goals:
        made.add_row(goal.name, goal.asked, f"{goal.value:.3f}", verdict(met=goal.met))
    return made


PANELS = {"followed": ("principles followed", "C0"), "accepted": ("answers accepted", "C1")}
LINES = {"one principle": "-", "two principles": "--", "three principles": ":"}
BUDGETS: dict[str, Literal["full", "none"]] = {"": "full", ", budget": "none"}


def plot(measured: Measurement, file: Path) -> None:
    """Draws what a larger step brings and what it costs, against the ratio and against nats spent.

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
    from matplotlib.lines import Line2D

    from linalign_integrations.pocket import measure

    ratios = [0.0, *measure.RATIOS]
    with rc_context(
        {"svg.hashsalt": "linalign", "font.size": 9, "axes.grid": True, "grid.alpha": 0.4}
    ):
        drawn = Figure(figsize=(8, 6.2), layout="constrained")
        axes = drawn.subplots(2, 2, sharex="col", sharey="row")
        for (by_ratio, by_kl), (figure, (label, colour)) in zip(axes, PANELS.items(), strict=True):
            by_ratio.set_ylabel(label)
            for (name, dashes), (suffix, fill) in itertools.product(LINES.items(), BUDGETS.items()):
                ways = ["prompted", *(f"ratio {ratio:g}{suffix}" for ratio in measure.RATIOS)]
                scores = [measured.scores[name][way] for way in ways]
                shares = [getattr(score, figure) for score in scores]
                style = {"ls": dashes, "color": colour, "marker": "o", "ms": 4, "fillstyle": fill}
                by_ratio.plot(ratios, shares, **style)
                by_kl.plot([score.kl for score in scores], shares, **style)
            # A scale of their own would blow up differences that are nothing but noise.
            by_ratio.set_ylim(min(0.9, by_ratio.get_ylim()[0]), 1.005)
        axes[1, 0].set_xlabel("ratio (0 is prompting alone)")
        axes[1, 1].set_xlabel("nats spent per token")
        budget = f"KL budget of {measured.kl_budget:g} (nats per token)"
        keys = [
            Line2D([], [], color="0.3", ls=dashes, label=name) for name, dashes in LINES.items()
        ]
        keys += [
            Line2D([], [], color="0.3", ls="", marker="o", fillstyle=fill, label=label)
            for fill, label in zip(BUDGETS.values(), ("ratio alone", budget), strict=True)
        ]
        drawn.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False)
        drawn.savefig(file, format="svg", metadata={"Date": None})
