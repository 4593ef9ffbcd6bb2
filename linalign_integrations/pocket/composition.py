"""Measures what weights do on the embedded model: `linalign pocket --weights` shows what comes out.

Held-out questions are answered by the package's own engine, under principles whose weights differ;
the judge reads the answers. Unlike `measure`, nothing here knows how principles are combined.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from linalign_integrations.engine import Engine
from linalign_integrations.engine.loading import load_weights, pick_device
from linalign_integrations.errors import InvalidArgument
from linalign_integrations.pocket import world
from linalign_integrations.pocket.corpus import Scene, Writer
from linalign_integrations.pocket.judge import read
from linalign_integrations.pocket.measure import Target, answer_all
from linalign_integrations.preferences import Preferences, Principle

__all__ = [
    "AGAINST",
    "ALONE",
    "BESIDE",
    "TILTS",
    "WEIGHTS",
    "Composition",
    "Row",
    "compose",
    "opposites",
    "targets",
    "total",
]

WEIGHTS = (-1.0, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0)
TILTS = ((2.0, 1.0), (1.0, 1.0), (1.0, 2.0))
ALONE, BESIDE, AGAINST = "alone", "beside another", "against its opposite"
# Enough to keep a processor busy.
_ROWS = 256
# What is asked: shares of answers, and of those that show either of two opposites.
_FALL, _RISE, _BELOW, _BALANCE = 0.05, 0.3, 0.01, 0.3


@dataclass(frozen=True)
class Row:
    """What answers showed under principles of certain weights.

    Attributes:
        experiment: `ALONE`, `BESIDE` or `AGAINST`.
        dimension: What the first principle is about.
        weights: The weight of each principle.
        followed: The share of answers that show what each principle asks for.
        accepted: The share of answers that the world's grammar accepts.
        cases: The number of answers.
    """

    experiment: str
    dimension: str
    weights: tuple[float, ...]
    followed: tuple[float, ...]
    accepted: float
    cases: int

    @property
    def errors(self) -> tuple[float, ...]:
        """The standard error of each share in `followed`."""
        return tuple(math.sqrt(one * (1 - one) / self.cases) for one in self.followed)


@dataclass(frozen=True)
class Composition:
    """What was measured, and how.

    Attributes:
        model: The model's name or folder.
        count: Answers for each row.
        seed: Decides questions and draws.
        kl_budget: Nats per token, or None.
        rows: By dimension, experiment and weights.
    """

    model: str
    count: int
    seed: int
    kl_budget: float | None
    rows: tuple[Row, ...]

    def of(self, experiment: str, dimension: str) -> dict[tuple[float, ...], Row]:
        """The rows of one experiment on one dimension, by weights."""
        return {
            row.weights: row
            for row in self.rows
            if (row.experiment, row.dimension) == (experiment, dimension)
        }


@dataclass(frozen=True)
class _Case:
    """One question, and the principles whose weights vary: what each asks for, and its words."""

    scene: Scene
    values: tuple[tuple[str, str], ...]
    texts: tuple[str, ...]
    backwards: bool = False

    def preferences(self, weights: Sequence[float], kl_budget: float | None) -> Preferences:
        stated = [Principle(text, weight) for text, weight in zip(self.texts, weights, strict=True)]
        return Preferences(
            principles=stated[::-1] if self.backwards else stated, kl_budget=kl_budget
        )


def opposites(dimension: str) -> tuple[str, str]:
    """Two values of a dimension that no answer can show at once; the first two if it has more."""
    one, other, *_ = world.PRIOR[dimension]
    return one, other


def _scenes(dimension: str, principles: int, seed: int) -> Iterator[Scene]:
    writer = Writer(f"weights/{dimension}/{principles}/{seed}", "held_out")
    while True:
        scene = writer.scene("chat", principles, placement="system")
        if next(iter(scene.wanted)) == dimension:
            yield scene


def _stated(dimension: str, principles: int, seed: int) -> Iterator[_Case]:
    for scene in _scenes(dimension, principles, seed):
        yield _Case(scene, tuple(scene.wanted.items()), tuple(scene.principles))


def _opposed(dimension: str, seed: int) -> Iterator[_Case]:
    """Cases that state both values of a dimension, the first two where it has more."""
    rng = random.Random(f"against/{dimension}/{seed}")
    values = [(dimension, value) for value in opposites(dimension)]
    for number, scene in enumerate(_scenes(dimension, 1, seed)):
        texts = tuple(rng.choice(world.WORDINGS[value].unseen) for value in values)
        yield _Case(scene, tuple(values), texts, backwards=bool(number % 2))


def _plan(count: int, seed: int) -> Iterator[tuple[str, str, tuple[float, ...], list[_Case]]]:
    """What each row measures: an experiment, a dimension, weights, and the cases to ask."""
    for dimension in world.PRIOR:
        for experiment, drawn, choices in (
            (ALONE, _stated(dimension, 1, seed), [(one,) for one in WEIGHTS]),
            (BESIDE, _stated(dimension, 2, seed), [(one, 1.0) for one in WEIGHTS]),
            (AGAINST, _opposed(dimension, seed), TILTS),
        ):
            cases = list(itertools.islice(drawn, count))
            for weights in choices:
                yield experiment, dimension, weights, cases


def total(count: int) -> int:
    """How many answers `compose` takes."""
    return count * len(world.PRIOR) * (2 * len(WEIGHTS) + len(TILTS))


def compose(
    model: str,
    count: int,
    *,
    seed: int = 7,
    kl_budget: float | None = None,
    advance: Callable[[int], object],
) -> Composition:
    """Measure what weights do, in float32 on the CPU, at the package's default ratio.

    Args:
        model: "pocket", or the folder of a model that was trained on the same world.
        count: Answers for each row.
        seed: Decides questions and draws. All weights meet the same questions and random numbers.
        kl_budget: Nats per token; None for no budget.
        advance: Called with 1 for each answer, `total(count)` times in the end.

    Raises:
        InvalidArgument: `count` is not positive.
        InvalidPreferences: The budget is not positive.
        ModelNotFound: There is no such model.
        UnsupportedModel: It cannot be loaded.
    """
    if count < 1:
        raise InvalidArgument(f"count={count}: measuring takes at least one question per row")
    Preferences(kl_budget=kl_budget)  # refused before anything is loaded
    loaded, tokenizer = load_weights(
        model,
        revision=None,
        device=pick_device("cpu"),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    engine = Engine(
        loaded, tokenizer, model_id=model, max_rows=_ROWS, max_waiting=total(count), reuse_bytes=0
    )
    plan = list(_plan(count, seed))
    asked = [
        (case.scene, case.preferences(weights, kl_budget), seed * 100_003 + number)
        for _, _, weights, cases in plan
        for number, case in enumerate(cases)
    ]
    with closing(engine):
        results = asyncio.run(answer_all(engine, asked, advance))
    texts = (result.text for result in results)
    rows = (_row(*row, list(itertools.islice(texts, count))) for row in plan)
    return Composition(model, count, seed, kl_budget, tuple(rows))


def _row(
    experiment: str,
    dimension: str,
    weights: tuple[float, ...],
    cases: Sequence[_Case],
    texts: Sequence[str],
) -> Row:
    readings = [read(text) for text in texts]
    shown = [
        [reading.shows(*value) for value in case.values]
        for case, reading in zip(cases, readings, strict=True)
    ]
    return Row(
        experiment,
        dimension,
        weights,
        followed=tuple(sum(hits) / len(cases) for hits in zip(*shown, strict=True)),
        accepted=sum(reading.accepted for reading in readings) / len(cases),
        cases=len(cases),
    )


def targets(measured: Composition) -> list[Target]:
    """Compare what was measured with what weights are meant to do.

    Where a bound holds for all dimensions, the one that is nearest to missing it is named.
    """
    dimensions = list(dict.fromkeys(row.dimension for row in measured.rows))

    def shares(experiment: str, dimension: str) -> dict[float, float]:
        rows = measured.of(experiment, dimension)
        return {weights[0]: row.followed[0] for weights, row in rows.items()}

    def gap(experiment: str, dimension: str, upper: float, lower: float) -> float:
        found = shares(experiment, dimension)
        return found[upper] - found[lower]

    def fall(experiment: str, dimension: str) -> float:
        rising = shares(experiment, dimension).values()
        return max(one - after for one, after in itertools.pairwise(rising))

    made = []
    for kind in (ALONE, BESIDE):
        value, name = max((fall(kind, one), one) for one in dimensions)
        made.append(Target(f"{kind}: largest fall as the weight rises ({name})", value, most=_FALL))
    for kind in (ALONE, BESIDE):
        value, name = min((gap(kind, one, 1.0, 0.0), one) for one in dimensions)
        made.append(Target(f"{kind}: weight 1 above 0, least ({name})", value, least=_RISE))
    value, name = min((gap(ALONE, one, 0.0, -1.0), one) for one in dimensions)
    made.append(Target(f"{ALONE}: weight -1 below 0, least ({name})", value, least=_BELOW))
    for name in dimensions:
        both = measured.of(AGAINST, name)[1.0, 1.0].followed
        lesser = min(both) / sum(both) if any(both) else 0.0
        made.append(Target(f"{name}: the lesser of two opposites", lesser, least=_BALANCE))
    return made
