"""How the next token is drawn from what the model, aligned or not, holds likely."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from linalign_integrations.alignment import AlignedStep, align, nucleus
from linalign_integrations.errors import GenerationFailed, InvalidSampling, describe

if TYPE_CHECKING:
    from linalign_integrations.alignment import Candidates
    from linalign_integrations.preferences.model import Preferences
    from linalign_integrations.prompts import BranchPlan


def _as_stops(value: object) -> object:
    return (value,) if isinstance(value, str) else () if value is None else value


class SamplingParams(BaseModel):
    """How to draw an answer. Frozen, hashable, compared by value.

    Raises:
        InvalidSampling: a field lies outside its range; the message names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(
        default=0.7,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="0 always takes the likeliest token.",
    )
    top_p: float = Field(default=1.0, gt=0, le=1, description="Mass of the nucleus drawn from.")
    top_k: int | None = Field(default=None, ge=1, le=2**31, description="Most tokens to draw from.")
    seed: int | None = Field(
        default=None, description="Same seed, same answer; None draws a fresh one."
    )
    max_tokens: int = Field(default=512, ge=1, description="Most tokens of the answer.")
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_stops)] = (
        Field(default=(), description="Texts that end the answer; they are not part of it.")
    )

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InvalidSampling(describe(error)) from error


def distribution(
    logits: Tensor, plan: BranchPlan, preferences: Preferences, sampling: SamplingParams
) -> AlignedStep:
    """What the next token of one request is drawn from.

    Without principles this is the model's own distribution. With principles only their plausible
    set may be drawn from, moved along the direction where there is one. Temperature 0 aligns at
    temperature 1, so that the plausible set keeps a meaning.

    Args:
        logits: ``[branches, vocab]`` of the request.
        plan: how its branches combine.
        preferences: the request's; only its numbers are used here.
        sampling: the request's.

    Raises:
        GenerationFailed: the logits contain NaN, or every token is forbidden.
    """
    if not bool(logits.amax(-1).isfinite().all()):
        raise GenerationFailed(
            "the model gave no usable logits (NaN, infinite, or every token forbidden): "
            "try dtype='float32', and check the weights"
        )
    cold = sampling.temperature == 0
    heat = 1.0 if cold else sampling.temperature
    top_p = logits.new_tensor([sampling.top_p], dtype=torch.double)
    top_k = torch.tensor([1 if cold else sampling.top_k or 0], device=logits.device)
    if not plan.guided:
        own = nucleus(logits[:1], torch.full_like(top_p, heat), top_p, top_k)
        still = torch.zeros_like(top_p)
        return AlignedStep(own.token_ids, own.log_probs, still, still)
    step = align(
        logits[:1],
        logits[plan.plain][None],
        ratio=preferences.ratio,
        kl_budget=preferences.kl_budget,
        plausibility=preferences.plausibility,
        temperature=heat,
        principles=logits[[index for index, _ in plan.terms]][None],
        weights=top_p.new_tensor([[weight for _, weight in plan.terms]]),
    )
    if cold or sampling.top_k is not None or sampling.top_p < 1:
        kept = nucleus(step.log_probs, torch.ones_like(top_p), top_p, top_k)
        token_ids = step.token_ids.gather(-1, kept.token_ids)
        return AlignedStep(token_ids, kept.log_probs, step.ratio, step.kl)
    return step


def draw(candidates: Candidates | AlignedStep, seed: int, position: int) -> int:
    """One token of a single request, by inverting the cumulative distribution.

    The only randomness is ``(seed, position)``, so an answer does not depend on what else runs.
    """
    mass = candidates.log_probs[0].exp().cumsum(-1)
    threshold = uniform(seed, position) * mass[-1]
    place = int(torch.searchsorted(mass, threshold, right=True))
    return int(candidates.token_ids[0, min(place, len(mass) - 1)])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
