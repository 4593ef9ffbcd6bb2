"""What weights do on the embedded model, and how that is shown.

Bounds are wide: the cases are few, and weights of the same kind may take the place of today's.
`docs/weights.md` has the figures of a larger run.
"""

from __future__ import annotations

import io
import json
import sys
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from typer.testing import CliRunner

from linalign_integrations.cli import app, weights
from linalign_integrations.errors import (
    InvalidArgument,
    InvalidPreferences,
    MissingExtra,
    ModelNotFound,
)
from linalign_integrations.pocket import composition, world
from linalign_integrations.pocket.composition import AGAINST, ALONE, BESIDE, Composition, Row

if TYPE_CHECKING:
    from pathlib import Path

# With 3, chance may have the plain model show none of the values beside another.
CASES = 8


@pytest.fixture(scope="module")
def measured() -> Composition:
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "WEIGHTS", (-1.0, 0.0, 1.0))
        found = composition.compose("pocket", CASES, seed=1, advance=done.append)
        assert sum(done) == composition.total(CASES)
    assert all(row.cases == CASES for row in found.rows)
    return found


def followed(measured: Composition, experiment: str, *given: float) -> dict[str, float]:
    """How often the first principle was followed at these weights, by dimension."""
    return {
        dimension: measured.of(experiment, dimension)[given].followed[0]
        for dimension in world.PRIOR
    }


@pytest.mark.parametrize(("experiment", "others"), [(ALONE, ()), (BESIDE, (1.0,))])
def test_following_rises_with_the_weight_and_falls_below_plain_for_a_negative_one(
    measured: Composition, experiment: str, others: tuple[float, ...]
) -> None:
    away, plain, towards = (
        followed(measured, experiment, weight, *others) for weight in (-1.0, 0.0, 1.0)
    )
    # With so few cases, chance may have its way with one.
    rises = [away[dimension] < towards[dimension] for dimension in world.PRIOR]
    assert sum(rises) >= len(rises) - 1
    assert fmean(towards.values()) > fmean(plain.values()) + 0.3
    assert fmean(away.values()) < fmean(plain.values())


def test_a_principle_is_still_followed_beside_another(measured: Composition) -> None:
    rows = [measured.of(BESIDE, dimension)[1.0, 1.0] for dimension in world.PRIOR]
    for shares in zip(*(row.followed for row in rows), strict=True):
        assert fmean(shares) > 0.6


def test_of_two_opposites_the_heavier_wins_more(measured: Composition) -> None:
    heavier, lighter = (followed(measured, AGAINST, *pair) for pair in ((2.0, 1.0), (1.0, 2.0)))
    assert fmean(heavier.values()) > fmean(lighter.values()) + 0.2


def test_two_opposites_of_equal_weight_come_out_balanced_on_every_dimension(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(composition, "WEIGHTS", ())
    monkeypatch.setattr(composition, "TILTS", ((1.0, 1.0),))
    found = composition.compose("pocket", 80, advance=lambda _: None)
    for dimension in world.PRIOR:
        both = found.of(AGAINST, dimension)[1.0, 1.0].followed
        assert sum(both) <= 1, "no answer shows both"
        # The documented figures are 0.3 or more; another processor may draw a few other answers.
        assert min(both) / sum(both) > 0.25, dimension


def made_up(count: int = 50) -> Composition:
    """Figures as they should be, but for one dimension."""
    rows = []
    for dimension in world.PRIOR:
        for weight in composition.WEIGHTS:
            share = min(0.9, 0.2 + 0.7 * weight) if weight > 0 else 0.2 + 0.1 * weight
            rows += [
                Row(ALONE, dimension, (weight,), (share,), 1.0, count),
                Row(BESIDE, dimension, (weight, 1.0), (share, 0.8), 0.97, count),
            ]
        for tilt in composition.TILTS:
            share = (0.9 if dimension == "tone" else 0.45) * tilt[0] / sum(tilt) * 2
            rows.append(Row(AGAINST, dimension, tilt, (share, max(0, 0.95 - share)), 1.0, count))
    return Composition("made up", count, 7, None, tuple(rows))


def test_a_target_is_read_from_its_own_figures() -> None:
    goals = {goal.name: goal for goal in composition.targets(made_up())}
    missed = [name for name, goal in goals.items() if not goal.met]
    assert missed == ["tone: the lesser of two opposites"]
    assert goals["length: the lesser of two opposites"].value == pytest.approx(0.45 / 0.95, abs=0.1)
    [below] = [goal for name, goal in goals.items() if "-1 below 0" in name]
    assert below.value == pytest.approx(0.1)
    [rise] = [goal for name, goal in goals.items() if name.startswith(f"{ALONE}: weight 1 above")]
    assert rise.value == pytest.approx(0.7)


def test_the_error_is_that_of_a_share() -> None:
    assert Row(ALONE, "tone", (1.0,), (0.5, 0.0), 1.0, 100).errors == (0.05, 0.0)


def test_the_command_prints_its_tables_and_writes_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {}

    def compose(model: str, count: int, **how: object) -> Composition:
        asked.update(how, model=model, count=count)
        return made_up()

    monkeypatch.setattr(composition, "compose", compose)
    report, drawn = tmp_path / "report.json", tmp_path / "plot.svg"
    files = ["--json", str(report), "--plot", str(drawn)]
    shown = CliRunner().invoke(app, ["pocket", "--weights", "--kl-budget", "0.5", *files])
    assert shown.exit_code == 0, shown.exception
    assert asked.items() >= {"count": 100, "seed": 7, "kl_budget": 0.5, "model": "pocket"}.items()
    for words in ("mood: cheerful / calm", "the only principle", "at most 0.07", "not met"):
        assert words in shown.output
    figures = json.loads(report.read_text())
    assert len(figures["rows"]) == len(made_up().rows)
    assert [goal["met"] for goal in figures["targets"]].count(False) == 1
    again = tmp_path / "again.svg"
    weights.plot(made_up(), again)
    assert again.read_bytes() == drawn.read_bytes(), "equal figures give equal bytes"
    assert b"<svg" in drawn.read_bytes()


def test_the_table_fits_into_80_columns() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(weights.table(made_up()))
    shown = console.export_text()
    assert "…" not in shown
    assert "expertise: beginner / expert" in shown


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--kl-budget", "0"], InvalidPreferences),
        (["--json", "no/such/folder/file.json"], InvalidArgument),
        (["--plot", "."], InvalidArgument),
        (["--model", "./no-such-folder"], ModelNotFound),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    arguments: list[str], error: type[Exception]
) -> None:
    shown = CliRunner().invoke(app, ["pocket", "--weights", *arguments])
    assert isinstance(shown.exception, error)


def test_nothing_is_measured_on_no_question() -> None:
    with pytest.raises(InvalidArgument, match="at least one"):
        composition.compose("pocket", 0, advance=print)


def test_a_missing_plot_library_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(composition, "compose", None)
    shown = CliRunner().invoke(app, ["pocket", "--weights", "--plot", str(tmp_path / "plot.svg")])
    assert isinstance(shown.exception, MissingExtra)
