"""Measures the embedded model on the held-out splits: `linalign pocket` shows what comes out.

Held-out scenes are answered by the package's own engine, plainly, with principles in the prompt,
and aligned at several ratios, with and without a KL budget; the judge reads the answers.
"""

import asyncio
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from linalign_integrations.engine import Engine, Result, SamplingParams
from linalign_integrations.engine.grammar import require_llguidance
from linalign_integrations.engine.loading import load_weights, pick_device, pick_dtype
from linalign_integrations.errors import InvalidArgument, UnsupportedModel
from linalign_integrations.pocket.corpus import Kind, Scene, Writer
from linalign_integrations.pocket.judge import Reading, SentenceKind, read
from linalign_integrations.preferences import Preferences
from linalign_integrations.preferences.model import Placement

__all__ = [
    "FIGURES",
    "KL_BUDGET",
    "RATIOS",
    "SETS",
    "TEMPERATURE",
    "Answer",
    "Measurement",
    "SceneSet",
    "Score",
    "Share",
    "Speed",
    "Target",
    "Verdict",
    "answer_all",
    "held_out",
    "measure",
    "score",
    "speed",
    "targets",
    "verdict",
    "ways",
]

RATIOS = (1.0, 2.0, 3.0, 5.0)
KL_BUDGET = 1.0
TEMPERATURE = 0.7
LONGEST = 160
TIMED = 20
# Enough to keep a processor busy.
_ROWS = 256


@dataclass(frozen=True)
class SceneSet:
    """One held-out set.

    Attributes:
        name: What to call it.
        kind: The kind of its scenes.
        principles: How many principles each of them states.
        placement: Where they are stated.
        turns: How many questions the user asks; None draws it as in training.
        tool: In scenes about tools, whether the last question needs one that is at hand, one that
            is absent, or none; None elsewhere.
    """

    name: str
    kind: Kind
    principles: int
    placement: Placement = "system"
    turns: int | None = None
    tool: Literal["at hand", "absent", "none"] | None = None

    def holds(self, scene: Scene) -> bool:
        """Whether a scene of this kind belongs to the set."""
        needed = "at hand" if scene.calls else "none" if scene.topic else "absent"
        return self.tool in (None, needed)


SETS = (
    SceneSet("one principle", "chat", 1),
    SceneSet("two principles", "chat", 2),
    SceneSet("three principles", "chat", 3),
    SceneSet("last user turn", "chat", 1, placement="last_user"),
    SceneSet("several turns", "turns", 1),
    SceneSet("documents", "documents", 1, turns=1),
    SceneSet("documents, several turns", "documents", 1, turns=3),
    SceneSet("tool results", "results", 1),
    SceneSet("tool calls", "calls", 1, tool="at hand"),
    SceneSet("no tool fits", "calls", 1, tool="absent"),
    SceneSet("no tool needed", "calls", 1, tool="none"),
    SceneSet("JSON", "json", 1),
)


@dataclass(frozen=True)
class Way:
    """One way to answer: a name, and how strongly to follow; None states no principle at all."""

    name: str
    preferences: Preferences | None


def ways(kl_budget: float = KL_BUDGET) -> tuple[Way, ...]:
    """List the ways to answer.

    Args:
        kl_budget: The budget of those that have one, in nats per token.

    Raises:
        InvalidPreferences: The budget is not positive.
    """
    budgets = (("", None), (", budget", kl_budget))
    return (
        Way("plain", None),
        Way("prompted", Preferences(ratio=0)),
        *(
            Way(f"ratio {ratio:g}{suffix}", Preferences(ratio=ratio, kl_budget=budget))
            for suffix, budget in budgets
            for ratio in RATIOS
        ),
    )


@dataclass(frozen=True)
class Share:
    """A share of one, and of how many cases."""

    share: float
    cases: int


@dataclass(frozen=True)
class Score:
    """What the answers of a set showed, as shares of one; None where a figure has no meaning.

    Attributes:
        followed: Principles that the answers show, counted one by one.
        accepted: Answers, as in `Verdict`.
        exact: Answers, as in `Verdict`.
        perplexity: Of the answers, per token, under the plain branch at temperature 1.
        kl: Nats per token that alignment spent.
        tokens: Mean length of an answer, its end included.
        cases: The number of answers.
        values: `followed` for each value asked for.
    """

    followed: float | None
    accepted: float | None
    exact: float | None
    perplexity: float
    kl: float
    tokens: float
    cases: int
    values: dict[str, Share]

    @property
    def dimensions(self) -> dict[str, Share]:
        """`followed` for each dimension, whichever value was asked for."""
        found: dict[str, list[Share]] = {}
        for name, value in self.values.items():
            found.setdefault(name.partition(":")[0], []).append(value)
        return {
            name: Share(
                sum(one.share * one.cases for one in values) / sum(one.cases for one in values),
                sum(one.cases for one in values),
            )
            for name, values in found.items()
        }


# What a score says, in the order in which tables show it, and what to call it in full.
FIGURES = {
    "followed": "Principles followed",
    "accepted": "Answers accepted",
    "exact": "Answers exact",
    "perplexity": "Perplexity under the plain model",
    "kl": "Nats spent per token",
}


@dataclass(frozen=True)
class Measurement:
    """The score of each set under each way to answer, and how they were measured.

    Attributes:
        model: The model's name or folder.
        count: Answers for each score.
        seed: Decides scenes and draws.
        kl_budget: Nats per token, of the ways that have a budget.
        scores: By set, then by way.
    """

    model: str
    count: int
    seed: int
    kl_budget: float
    scores: dict[str, dict[str, Score]]


def held_out(chosen: SceneSet, count: int, seed: int) -> list[Scene]:
    """Draw the scenes of a held-out set."""
    writer = Writer(f"{chosen.name}/{seed}", "held_out")
    drawn = (
        writer.scene(chosen.kind, chosen.principles, placement=chosen.placement, turns=chosen.turns)
        for _ in itertools.count()
    )
    return list(itertools.islice(filter(chosen.holds, drawn), count))


@dataclass(frozen=True)
class Answer:
    """One answer to a scene.

    Attributes:
        text: What a user would read.
        calls: The name and the arguments of each tool call; None if one of them is malformed.
        tokens: Its length, its end included.
        kl: Nats that alignment spent, summed.
        surprise: Nats of surprise under the plain branch at temperature 1, summed.
    """

    text: str
    calls: Sequence[dict[str, Any]] | None = ()
    tokens: int = 0
    kl: float = 0.0
    surprise: float = 0.0

    @classmethod
    def of(cls, result: Result, surprise: float = 0.0) -> "Answer":
        """What the engine answered."""
        calls = ({"name": one.name, "arguments": one.arguments} for one in result.tool_calls)
        return cls(
            text=result.text,
            calls=None if result.invalid_tool_calls else tuple(calls),
            tokens=len(result.token_ids),
            kl=result.kl,
            surprise=surprise,
        )


@dataclass(frozen=True)
class Verdict:
    """What is right with one answer.

    Attributes:
        shown: Whether it shows each value asked for, named as in "tone: formal"; empty for calls
            and JSON, which have no style.
        accepted: Whether the world's grammar accepts it and it is about the question: advice on
            its topic and no other, a fact at hand, or that the documents or the tools have none.
            None for calls and JSON.
        exact: Whether it says what was asked for and nothing else: the facts that answer the
            question, or that there are none; the calls and no prose; no call where none was
            needed; the JSON. None for advice in chat.
    """

    shown: dict[str, bool]
    accepted: bool | None
    exact: bool | None


def verdict(scene: Scene, answer: Answer) -> Verdict:
    """Judge an answer to a scene."""
    reading = read(answer.text, scene.facts)
    exact: bool | None
    match scene.kind:
        case "calls":
            exact = _decides(scene, reading, answer)
        case "json":
            exact = answer.text == scene.gold
        case "documents" | "results":
            exact = " ".join(reading.facts) == scene.gold and _says_only(reading, "fact", "remark")
        case _:
            exact = None
    if scene.kind == "json" or scene.calls:
        return Verdict({}, None, exact)
    return Verdict(
        {f"{name}: {value}": reading.shows(name, value) for name, value in scene.wanted.items()},
        reading.accepted and _is_about(scene, reading),
        exact,
    )


def _decides(scene: Scene, reading: Reading, answer: Answer) -> bool:
    """Whether an answer decides rightly on calling tools."""
    if scene.calls:
        # Written as JSON, 21.0 is not 21 and true is not 1; the order of arguments is free.
        found, wanted = (json.dumps(one, sort_keys=True) for one in (answer.calls, scene.calls))
        return found == wanted and not answer.text
    kinds: tuple[SentenceKind, ...] = ("item", "advice") if scene.topic else ("no tool", "remark")
    return answer.calls == () and _is_about(scene, reading) and _says_only(reading, *kinds)


def _says_only(reading: Reading, *kinds: SentenceKind) -> bool:
    return reading.kinds <= set(kinds) and not reading.unknown


def _is_about(scene: Scene, reading: Reading) -> bool:
    """Whether what an answer says belongs to the question."""
    match scene.kind:
        case "documents" | "results":
            return bool(reading.facts)
        case _ if scene.topic:
            return reading.topics == {scene.topic}
        case _:
            return reading.denied


def score(scenes: Sequence[Scene], answers: Sequence[Answer]) -> Score:
    """Judge one answer to each scene."""
    verdicts = [verdict(scene, answer) for scene, answer in zip(scenes, answers, strict=True)]
    shown: dict[str, list[bool]] = {}
    for name, hit in itertools.chain.from_iterable(one.shown.items() for one in verdicts):
        shown.setdefault(name, []).append(hit)
    tokens = sum(answer.tokens for answer in answers)
    return Score(
        followed=_share(itertools.chain(*shown.values())),
        accepted=_share(one.accepted for one in verdicts),
        exact=_share(one.exact for one in verdicts),
        perplexity=math.exp(sum(answer.surprise for answer in answers) / tokens),
        kl=sum(answer.kl for answer in answers) / tokens,
        tokens=tokens / len(answers),
        cases=len(answers),
        values={name: Share(fmean(hits), len(hits)) for name, hits in sorted(shown.items())},
    )


def _share(hits: Iterable[bool | None]) -> float | None:
    known = [hit for hit in hits if hit is not None]
    return fmean(known) if known else None


def measure(
    model: str,
    count: int,
    *,
    seed: int = 7,
    kl_budget: float = KL_BUDGET,
    advance: Callable[[int], object],
) -> Measurement:
    """Measure a model on every held-out set, in float32 on the CPU.

    Args:
        model: "pocket", or the folder of a model that was trained on the same world.
        count: Scenes per set.
        seed: Decides scenes and draws.
        kl_budget: Nats per token, of the ways that have a budget.
        advance: Called with the number of answers that were added, `count` for each set and way in
            the end.

    Raises:
        InvalidArgument: `count` is not positive.
        InvalidPreferences: The budget is not positive.
        MissingExtra: The extra `grammar` is not installed, so that calls could not be held to
            their tools as applications hold them.
        ModelNotFound: There is no such model.
        UnsupportedModel: It cannot be loaded, or was not trained on this world.
    """
    if count < 1:
        raise InvalidArgument(f"count={count}: measuring takes at least one scene per set")
    require_llguidance()
    chosen = ways(kl_budget)
    loaded, tokenizer = load_weights(
        model,
        revision=None,
        device=pick_device("cpu"),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    if getattr(tokenizer, "response_template", None) is None:
        raise UnsupportedModel(
            f"{model!r} has no response_template to read its tool calls by: what is measured here "
            'are models trained by linalign_integrations.pocket.train, like "pocket"'
        )
    scores: dict[str, dict[str, Score]] = {}
    most = count * len(chosen)
    engine = Engine(loaded, tokenizer, model_id=model, max_rows=_ROWS, max_waiting=most)
    with closing(engine):
        for one in SETS:
            scenes = held_out(one, count, seed)
            asked = [
                (scene, _stated(scene, way), _seed(seed, one.name, index, way.name))
                for index, scene in enumerate(scenes)
                for way in chosen
            ]
            results = iter(asyncio.run(answer_all(engine, asked, advance)))
            answers = [
                _read(loaded, engine, scene, list(itertools.islice(results, len(chosen))))
                for scene in scenes
            ]
            scores[one.name] = {
                way.name: score(scenes, [found[number] for found in answers])
                for number, way in enumerate(chosen)
            }
    return Measurement(model, count, seed, kl_budget, scores)


def _stated(scene: Scene, way: Way) -> Preferences | None:
    return way.preferences and Preferences(
        principles=scene.principles,
        placement=scene.placement,
        ratio=way.preferences.ratio,
        kl_budget=way.preferences.kl_budget,
    )


def _seed(*decisive: object) -> int:
    return random.Random("/".join(map(str, decisive))).getrandbits(32)


async def answer_all(
    engine: Engine,
    asked: Iterable[tuple[Scene, Preferences | None, int]],
    advance: Callable[[int], object],
) -> list[Result]:
    """The engine's answer to each scene, under these preferences and this seed."""

    async def answer(scene: Scene, preferences: Preferences | None, seed: int) -> Result:
        result = await engine.agenerate(
            scene.messages(told=False, answered=False),
            preferences=preferences,
            sampling=SamplingParams(temperature=TEMPERATURE, seed=seed, max_tokens=LONGEST),
            tools=scene.tools,
        )
        advance(1)
        return result

    return await asyncio.gather(*itertools.starmap(answer, asked))


def _read(
    model: PreTrainedModel, engine: Engine, scene: Scene, results: Sequence[Result]
) -> list[Answer]:
    """What each answer says, and how much it surprises the plain branch."""
    messages = scene.messages(told=False, answered=False)
    [plain] = engine.branches(messages, tools=scene.tools)
    surprises = _surprises(model, plain.token_ids, [one.token_ids for one in results])
    return list(itertools.starmap(Answer.of, zip(results, surprises, strict=True)))


@torch.inference_mode()
def _surprises(
    model: PreTrainedModel, prompt: Sequence[int], answers: Sequence[Sequence[int]]
) -> list[float]:
    """Nats of surprise of each answer after the same prompt, which is read once."""
    read_once = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    cache = read_once.cache
    cache.batch_repeat_interleave(len(answers))
    longest = max(map(len, answers))
    # What stands behind an answer's end comes too late to be seen by it.
    padded = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in answers])
    ahead = model(padded, cache=cache).logits[:, :-1]
    first = read_once.logits.expand(len(answers), -1, -1)
    missed = -torch.cat([first, ahead], 1).log_softmax(-1).gather(-1, padded[..., None])[..., 0]
    return [float(row[: len(ids)].double().sum()) for row, ids in zip(missed, answers, strict=True)]


@dataclass(frozen=True)
class Speed:
    """How fast a model is where it runs.

    Attributes:
        load: Seconds to load it in a process that has the libraries.
        tokens: Tokens per second of one aligned answer after the other, prompts included.
    """

    load: float
    tokens: float


def speed(model: str) -> Speed:
    """Measure how fast the package's own engine loads and answers.

    Args:
        model: As in `measure`.

    Raises:
        ModelNotFound: There is no such model.
        UnsupportedModel: It cannot be loaded.
    """
    device = pick_device(None)
    begun = time.perf_counter()
    loaded, tokenizer = load_weights(
        model,
        revision=None,
        device=device,
        dtype=pick_dtype(None, device),
        trust_remote_code=False,
    )
    with closing(Engine(loaded, tokenizer, model_id=model)) as engine:
        ready = time.perf_counter()
        results = [
            engine.generate(
                scene.messages(told=False, answered=False),
                preferences=Preferences(principles=scene.principles),
                sampling=SamplingParams(temperature=TEMPERATURE, seed=number, max_tokens=LONGEST),
            )
            for number, scene in enumerate(held_out(SETS[0], TIMED, seed=0))
        ]
        took = time.perf_counter() - ready
    return Speed(ready - begun, sum(len(one.token_ids) for one in results) / took)


@dataclass(frozen=True)
class Target:
    """What the model is meant to reach.

    Attributes:
        name: What is measured.
        value: What it came to; NaN where two sets have nothing to compare.
        least: The least that is asked for.
        most: The most that is asked for.
    """

    name: str
    value: float
    least: float = -math.inf
    most: float = math.inf

    @property
    def met(self) -> bool:
        """Whether the value lies within what is asked for."""
        return self.least <= self.value <= self.most

    @property
    def asked(self) -> str:
        """What is asked for, in signs."""
        if self.most == math.inf:
            return f"≥ {self.least:g}"
        return f"≤ {self.most:g}" if self.least == -math.inf else f"{self.least:g} to {self.most:g}"


def targets(measured: Measurement, timed: Speed) -> list[Target]:
    """Compare what was measured with what the model is meant to reach.

    Sets of different kinds ask for different values, some of them harder to follow than others.
    They are therefore compared over the values that both ask for, all of equal weight.
    """

    def figure(
        name: str, way: str, kind: Literal["followed", "accepted", "exact"] = "followed"
    ) -> float:
        found = getattr(measured.scores[name][way], kind)
        return float(found)

    def gap(name: str) -> float:
        these, chat = (measured.scores[one]["ratio 2"].values for one in (name, "one principle"))
        gaps = [one.share - chat[value].share for value, one in these.items() if value in chat]
        return fmean(gaps) if gaps else math.nan

    def lowest(way: str) -> tuple[float, str]:
        return min(
            (accepted, name)
            for name, one in measured.scores.items()
            if (accepted := one[way].accepted) is not None
        )

    default, boldest = lowest("ratio 2"), lowest("ratio 5, budget")
    compared = {
        "last user turn against system": "last user turn",
        "several turns against one": "several turns",
        "documents against chat": "documents",
        "documents, several turns, against chat": "documents, several turns",
        "tool results against chat": "tool results",
    }
    exact = {
        "tool calls exact": ("tool calls", 0.95),
        "no call when no tool fits": ("no tool fits", 0.95),
        "no call when none is needed": ("no tool needed", 0.95),
        "documents exact": ("documents", 0.9),
    }
    return [
        Target("plain: followed", figure("one principle", "plain"), most=0.4),
        Target("prompted: followed", figure("one principle", "prompted"), 0.45, 0.7),
        *(
            Target(f"ratio 2: followed, {name}", figure(name, "ratio 2"), least)
            for name, least in (
                ("one principle", 0.95),
                ("two principles", 0.88),
                ("three principles", 0.88),
            )
        ),
        *(Target(f"ratio 2: {name}", gap(other), -0.05) for name, other in compared.items()),
        Target(
            "ratio 2: accepted, one principle", figure("one principle", "ratio 2", "accepted"), 0.95
        ),
        Target(f"ratio 2: accepted, lowest ({default[1]})", default[0], 0.95),
        Target(
            "ratio 5, budget: accepted, one principle",
            figure("one principle", "ratio 5, budget", "accepted"),
            0.98,
        ),
        Target(f"ratio 5, budget: accepted, lowest ({boldest[1]})", boldest[0], 0.98),
        *(
            Target(f"ratio 2: {name}", figure(other, "ratio 2", "exact"), least)
            for name, (other, least) in exact.items()
        ),
        Target("seconds to load", timed.load, most=1),
        Target("tokens per second, aligned", timed.tokens, 150),
    ]
