"""Whom ``linalign bench`` compares: requests, and other ways to answer them beside ours."""

from __future__ import annotations

import bisect
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from linalign_integrations.engine import Engine, SamplingParams
from linalign_integrations.errors import LinAlignError
from linalign_integrations.preferences import Preferences, Principle

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Iterable,
        Iterator,
        Sequence,
    )

    from torch import Tensor

    from linalign_integrations.preferences.model import Placement

    Peer = Callable[[Any, Engine, "Case", int], "Timing"]

# The released rule's demo settings, which are also the defaults of Preferences and SamplingParams;
# classifier-free guidance at scale 3 is ratio 2.
RATIO, TEMPERATURE, TOP_P = 2.0, 0.7, 0.8

_QUESTION = (
    "Tell me about the sea and the people who live by it, what they eat in winter, how they build "
    "their boats, and which of their stories a stranger should hear before going out with them."
)
_ROLES = (
    "a pirate who has seen a good deal of the world and likes to tell of it",
    "a doctor who explains every hard word and never promises too much",
    "a poet who prefers short lines and does not care for numbers at all",
    "a teacher whose pupils are eight years old and easily distracted",
    "a lawyer who is careful, formal, and names what is not known",
    "a cook who compares whatever is asked to a dish and how it is made",
    "a friend who is brief, warm, and asks one question in return",
    "an engineer who wants steps, units, and the reason for each of them",
)


@dataclass(frozen=True)
class Case:
    """One request, for whoever is to answer it.

    Attributes:
        messages: the conversation.
        preferences: what the user wants.
        prompted: tokens of the prompt with the principles.
        plain: tokens of the prompt without.
        user: who asks.
    """

    messages: list[dict[str, Any]]
    preferences: Preferences
    prompted: tuple[int, ...]
    plain: tuple[int, ...]
    user: str


@dataclass(frozen=True)
class Timing:
    """How an answer came, in milliseconds.

    Attributes:
        first: until the first token.
        step: from one token to the next, on average: what a thread delivers may come in bursts.
    """

    first: float
    step: float


def principles(name: str, count: int, *, weighted: bool = False) -> tuple[Principle, ...]:
    """That many principles; their texts begin with the name.

    Args:
        name: anything; see ``make_case``.
        count: how many.
        weighted: every one with a weight of its own, so that each needs its own prompt.
    """
    return tuple(
        Principle(
            f"({name}.{number}) Answer like {_ROLES[number % len(_ROLES)]}.",
            weight=1 + number / 8 if weighted else 1.0,
        )
        for number in range(count)
    )


def make_case(
    engine: Engine,
    name: str,
    tokens: int,
    *,
    count: int = 1,
    weighted: bool = False,
    placement: Placement = "system",
    turns: int = 1,
    asked_by: str | None = None,
) -> Case:
    """A request whose prompt has about as many tokens as asked for, principles not counted.

    Args:
        engine: writes the prompts.
        name: stands at the beginning of all that is said. Requests of different names share no
            beginning worth keeping, so that none is quicker for what was asked before.
        tokens: length of the prompt without principles.
        count: number of principles.
        weighted: whether each principle has a weight of its own.
        placement: where the principles stand.
        turns: messages over which the text is spread; odd, the user's first and last.
        asked_by: name of the principles and of the user, if it is another.
    """
    preferences = Preferences(
        principles=principles(asked_by or name, count, weighted=weighted), placement=placement
    )

    def said(words: int) -> list[dict[str, Any]]:
        share = words // turns
        text = list(itertools.islice(itertools.cycle(_QUESTION.split()), words))
        parts = [text[turn * share : (turn + 1) * share] for turn in range(turns - 1)]
        parts.append(text[(turns - 1) * share :])
        return [
            {
                "role": "assistant" if turn % 2 else "user",
                "content": " ".join([f"({name})", *part]),
            }
            for turn, part in enumerate(parts)
        ]

    def length(words: int) -> int:
        return len(engine.branches(said(words))[0].token_ids)

    # No word is less than a token.
    words = bisect.bisect_left(range(tokens), tokens, lo=1, key=length)
    return asking(engine, said(words), preferences, asked_by or name)


def asking(
    engine: Engine, messages: list[dict[str, Any]], preferences: Preferences, user: str
) -> Case:
    """A request with the prompts that everybody answers."""
    branches = engine.branches(messages, preferences=preferences)
    plain = next((one.token_ids for one in branches if one.name == "plain"), branches[0].token_ids)
    return Case(messages, preferences, branches[0].token_ids, plain, user)


def ours_arguments(case: Case, steps: int) -> dict[str, Any]:
    """Keyword arguments of the engine's methods for a request."""
    sampling = SamplingParams(temperature=TEMPERATURE, seed=0, max_tokens=steps)
    return {"preferences": case.preferences, "sampling": sampling, "user": case.user}


def plain_generate(model: Any, engine: Engine, case: Case, steps: int) -> Timing:
    """``generate`` of transformers on the prompt without principles."""
    del engine
    return _generate(model, case.plain, steps)


def guidance(model: Any, engine: Engine, case: Case, steps: int) -> Timing:
    """``generate(guidance_scale=…)`` of transformers: classifier-free guidance."""
    del engine
    negative = _as_tensor(model, case.plain)
    return _generate(
        model, case.prompted, steps, guidance_scale=1 + RATIO, negative_prompt_ids=negative
    )


def sequential(model: Any, engine: Engine, case: Case, steps: int) -> Timing:
    """The released rule as its code runs it: two forward passes a token, one after the other."""
    del engine
    return _timed(lambda: _two_passes(model, case, steps))


def ours_plain(model: Any, engine: Engine, case: Case, steps: int) -> Timing:
    """The engine without principles."""
    return ours(model, engine, asking(engine, case.messages, Preferences(), case.user), steps)


def ours(model: Any, engine: Engine, case: Case, steps: int) -> Timing:
    """The engine with the request's principles."""
    del model
    return _timed(lambda: engine.stream(case.messages, **ours_arguments(case, steps)))


PLAIN, GUIDANCE, SEQUENTIAL, OURS = "plain generate", "guidance", "two passes", "ours"
OURS_PLAIN = "ours, no principles"
PEERS: dict[str, Peer] = {
    PLAIN: plain_generate,
    GUIDANCE: guidance,
    SEQUENTIAL: sequential,
    OURS_PLAIN: ours_plain,
    OURS: ours,
}


def timing(stamps: Sequence[float]) -> Timing:
    """What these moments say, in seconds: the start, then each token's arrival.

    Raises:
        LinAlignError: there are fewer than two tokens.
    """
    if len(stamps) < 3:
        raise LinAlignError(
            "the answer ended at once, so there is no step to measure: "
            "choose a model with a longer context"
        )
    return Timing(first=1e3 * (stamps[1] - stamps[0]), step=mean_gap(stamps[1:]))


def mean_gap(stamps: Sequence[float]) -> float:
    """Milliseconds from one moment to the next, on average; moments in seconds."""
    return 1e3 * (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def _timed(start: Callable[[], Iterable[object]]) -> Timing:
    stamps = [time.perf_counter()]
    stamps += (time.perf_counter() for _ in start())
    return timing(stamps)


class _Clock(BaseStreamer):
    """Notes when ``generate`` hands over each token."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def put(self, value: Tensor) -> None:
        del value
        self.stamps.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is held back."""


def _generate(model: Any, prompt: Sequence[int], steps: int, **options: Any) -> Timing:
    clock = _Clock()
    ids = _as_tensor(model, prompt)
    begun = time.perf_counter()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=steps,
        max_new_tokens=steps,
        streamer=clock,
        **options,
    )
    # What comes first is the prompt.
    return timing([begun, *clock.stamps[1:]])


def _as_tensor(model: Any, prompt: Sequence[int]) -> Tensor:
    return torch.tensor([prompt], device=model.device)


def _two_passes(model: Any, case: Case, steps: int) -> Iterator[int]:
    new = [_as_tensor(model, prompt) for prompt in (case.prompted, case.plain)]
    caches = [DynamicCache(config=model.config) for _ in new]
    for _ in range(steps):
        with torch.inference_mode():
            prompted, plain = (
                model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
                for ids, cache in zip(new, caches, strict=True)
            )
            token = released_rule(prompted.float(), plain.float()).multinomial(1)
            new = [token[None]] * 2
        yield int(token)


def released_rule(prompted: Tensor, plain: Tensor) -> Tensor:
    """Probabilities ``[vocab]`` of the next token, by way of a sort of the whole vocabulary.

    Args:
        prompted: float32 logits ``[vocab]`` with the principles.
        plain: the same without.
    """
    probs, order = (prompted / TEMPERATURE).softmax(-1).sort(descending=True)
    implausible = torch.empty_like(probs, dtype=torch.bool)
    implausible[order] = probs.cumsum(-1) - probs >= TOP_P
    moved = prompted + RATIO * (prompted - plain)
    return moved.masked_fill(implausible, -torch.inf).div(TEMPERATURE).softmax(-1)
