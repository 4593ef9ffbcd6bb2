"""How the next token is drawn from what the model, aligned or not, holds likely."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.nn.functional import pad

from linalign_integrations.alignment import AlignedStep, align, nucleus
from linalign_integrations.engine.record import Seen, look
from linalign_integrations.errors import (
    GenerationFailed,
    InvalidSampling,
    LinAlignError,
    describe,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from linalign_integrations.engine.request import Request


# What `_kind` says of requests that may draw any token.
_FREE = (False, 0, True)
# Tokens whose masses are added up before one of them is looked for.
_BLOCK = 512


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
            raise InvalidSampling(describe(error, type(self).model_fields)) from error


class Choice(NamedTuple):
    """A token that was drawn.

    Attributes:
        token: which.
        kl: nats that alignment spent on it.
        ratio: the step taken for it; 0 where nothing was aligned.
        seen: what it was drawn from, for requests that record it.
    """

    token: int
    kl: float
    ratio: float
    seen: Seen | None = None


def choose(logits: Tensor, requests: Sequence[Request]) -> list[Choice | LinAlignError]:
    """The next token of each request, all drawn together.

    Args:
        logits: ``[rows, vocab]`` float32; the branches of each request, one request after another.
        requests: whose rows these are.

    Returns:
        For each request its choice, or, where there is nothing to draw from, the error that ends
        it. The others are not disturbed.
    """
    usable = logits.amax(-1).isfinite().tolist()
    chosen: list[Choice | LinAlignError] = [_unusable() for _ in requests]
    alike: dict[tuple[bool, int, bool], list[tuple[int, int]]] = {}
    first = 0
    for place, request in enumerate(requests):
        rows = request.rows
        if all(usable[first : first + rows]):
            alike.setdefault(_kind(request), []).append((place, first))
        first += rows
    for members in alike.values():
        places = [place for place, _ in members]
        group = [requests[place] for place in places]
        drawn = _draw_alike(logits, group, [row for _, row in members])
        for place, one in zip(places, drawn, strict=True):
            chosen[place] = one
    return chosen


def _unusable() -> GenerationFailed:
    return GenerationFailed(
        "the model gave no usable logits (NaN, infinite, or every token forbidden): "
        "try dtype='float32', and check the weights"
    )


def _nothing_allowed() -> GenerationFailed:
    return GenerationFailed(
        "the model gives no probability to any token that the grammar allows: "
        "loosen the grammar, or take another model"
    )


def _kind(request: Request) -> tuple[bool, int, bool]:
    """Requests of one kind are computed in the same tensors.

    Where nothing is ruled out the whole vocabulary is a candidate: apart from these, requests need
    only a few hundred tokens each.
    """
    plan, sampling = request.plan, request.sampling
    if plan.guided:
        return True, len(plan.terms), request.preferences.plausibility == 1
    bounded = sampling.temperature == 0 or sampling.top_k is not None or sampling.top_p < 1
    return False, 0, not bounded


def _draw_alike(
    logits: Tensor, requests: list[Request], rows: list[int]
) -> list[Choice | LinAlignError]:
    """``choose`` for requests of one kind, each beginning at its row of the logits."""
    masks = [
        _mask(request, logits[row : row + request.rows])
        for request, row in zip(requests, rows, strict=True)
    ]
    guided: AlignedStep | None = None
    apart: dict[int, Choice | LinAlignError] = {}
    if _kind(requests[0]) == _FREE:
        drawn = _draw_from_all(_own(logits, rows, masks), requests)
    else:
        step = _aligned(logits, requests, rows, masks)
        if requests[0].plan.guided:
            guided = step
            step, apart = _within_grammars(step, logits, requests, rows, masks)
        drawn = _draw(_cut(step, requests), requests)
    drawn = _with_seen(drawn, guided, logits, requests, rows, masks)
    return [
        mask if isinstance(mask, LinAlignError) else apart.get(at, one)
        for at, (mask, one) in enumerate(zip(masks, drawn, strict=True))
    ]


def _within_grammars(
    step: AlignedStep,
    logits: Tensor,
    requests: list[Request],
    rows: list[int],
    masks: Sequence[Tensor | LinAlignError | None],
) -> tuple[AlignedStep, dict[int, Choice | LinAlignError]]:
    """What grammars leave of an aligned step; where they leave nothing, what is drawn instead.

    That is an error where the model gives no probability to what is allowed.
    """
    narrowed = step
    if any(mask is not None for mask in masks):
        narrowed = replace(step, log_probs=step.log_probs.clone())
    apart: dict[int, Choice | LinAlignError] = {}
    for place, mask in enumerate(masks):
        if not isinstance(mask, Tensor):
            continue
        allowed = mask[step.token_ids[place]] & (step.log_probs[place] > -torch.inf)
        if bool(allowed.any()):
            kept = step.log_probs[place].masked_fill(~allowed, -torch.inf)
            narrowed.log_probs[place] = kept.log_softmax(-1)
        else:
            # Nothing plausible is allowed: what is allowed decides.
            branches = logits[rows[place] : rows[place] + requests[place].rows]
            only = branches.masked_fill(~mask, -torch.inf)
            if not bool(only.amax(-1).isfinite().all()):
                apart[place] = _nothing_allowed()
                continue
            alone = _aligned(only, [requests[place]], [0], [None])
            own = _draw(_cut(alone, [requests[place]]), [requests[place]])
            (apart[place],) = _with_seen(own, alone, only, [requests[place]], [0], [mask])
    return narrowed, apart


def _with_seen(
    drawn: list[Choice],
    step: AlignedStep | None,
    logits: Tensor,
    requests: list[Request],
    rows: list[int],
    masks: Sequence[Tensor | LinAlignError | None],
) -> list[Choice]:
    """The choices, those of requests that record them with what they were drawn from.

    That is the step where there are principles, else, cut or not, the model's own distribution.
    """
    at = [place for place, request in enumerate(requests) if request.alternatives]
    if not at:
        return drawn
    tokens = [drawn[place].token for place in at]
    allowed = [mask if isinstance(mask := masks[place], torch.Tensor) else None for place in at]
    counts = [requests[place].alternatives for place in at]
    if step is not None:
        ids, prompted, aligned = step.token_ids[at], step.prompted[at], step.log_probs[at]
    else:
        own = _take(logits, [rows[place] for place in at])
        heat = _numbers(own, [requests[place].sampling.temperature or 1.0 for place in at])
        ids, prompted = _likeliest(own, heat, tokens, allowed, 1 + max(counts))
        aligned = prompted
    seen = look(ids, prompted, aligned, drawn=tokens, allowed=allowed, counts=counts)
    held = dict(zip(at, seen, strict=True))
    return [choice._replace(seen=held.get(place)) for place, choice in enumerate(drawn)]


def _likeliest(
    logits: Tensor,
    heat: Tensor,
    drawn: list[int],
    allowed: list[Tensor | None],
    count: int,
) -> tuple[Tensor, Tensor]:
    """``[n, 1 + count]`` the drawn tokens and the likeliest allowed ones, and their log-probs.

    Probabilities are those within the whole vocabulary.
    """
    scaled = (logits - logits.amax(-1, keepdim=True)) / heat.clamp_min(1e-30).to(logits)[:, None]
    total = scaled.exp().sum(-1, keepdim=True, dtype=torch.double).log()
    free = scaled.clone() if any(mask is not None for mask in allowed) else scaled
    for row, mask in enumerate(allowed):
        if mask is not None:
            free[row].masked_fill_(~mask, -torch.inf)
    best = free.topk(min(count, logits.shape[-1]), dim=-1).indices
    ids = torch.cat([torch.tensor(drawn, device=logits.device)[:, None], best], dim=-1)
    return ids, scaled.gather(-1, ids).double() - total


def _mask(request: Request, logits: Tensor) -> Tensor | LinAlignError | None:
    """``[vocab]`` whether the request's grammar allows each token; None where it has none.

    The logits are those of the request.
    """
    if request.constraint is None:
        return None
    try:
        mask: Tensor = request.constraint.mask().to(logits.device)
    except LinAlignError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a grammar may be anybody's code
        failure = GenerationFailed(f"the grammar failed: {error}")
        failure.__cause__ = error
        return failure
    if mask.dtype != torch.bool or mask.shape != logits.shape[-1:]:
        return GenerationFailed(
            f"the grammar failed: its mask is not a tensor of {logits.shape[-1]} bools"
        )
    if not bool(mask.any()):
        return GenerationFailed("the grammar allows no token at all: make it satisfiable")
    # With principles what is plausible has some probability, and nothing else is looked at here.
    if not request.plan.guided and not bool(logits.where(mask, -torch.inf).amax().isfinite()):
        return _nothing_allowed()
    return mask


def _aligned(
    logits: Tensor,
    requests: list[Request],
    rows: list[int],
    masks: Sequence[Tensor | LinAlignError | None],
) -> AlignedStep:
    """What the next tokens of requests of one kind may be, before any cut.

    Without principles this is the model's own distribution. With principles only their plausible
    set may be drawn from, moved along the direction where there is one. Temperature 0 aligns at
    temperature 1, so that the plausible set keeps a meaning.
    """
    heat = _numbers(logits, [request.sampling.temperature or 1.0 for request in requests])
    if not requests[0].plan.guided:
        top_p, top_k = _limits(logits, requests)
        kept = nucleus(_own(logits, rows, masks), heat, top_p, top_k)
        still = torch.zeros_like(heat)
        return AlignedStep(kept.token_ids, kept.log_probs, still, still, kept.log_probs)
    terms = [request.plan.terms for request in requests]
    plain = [row + one.plan.plain for row, one in zip(rows, requests, strict=True)]
    pulling = [row + index for row, one in zip(rows, terms, strict=True) for index, _ in one]
    wanted = [request.preferences for request in requests]
    return align(
        _take(logits, rows),
        _take(logits, plain),
        # Where nothing pulls, nothing is stepped along.
        ratio=_numbers(logits, [one.ratio if terms[0] else 0.0 for one in requests]),
        kl_budget=_numbers(
            logits, [torch.inf if one.kl_budget is None else one.kl_budget for one in wanted]
        ),
        plausibility=_numbers(logits, [one.plausibility for one in wanted]),
        temperature=heat,
        principles=_take(logits, pulling).reshape(len(rows), len(terms[0]), logits.shape[-1]),
        weights=_numbers(logits, [[weight for _, weight in one] for one in terms]),
    )


def _own(logits: Tensor, rows: list[int], masks: Sequence[Tensor | LinAlignError | None]) -> Tensor:
    """``[rows, vocab]`` logits of requests without principles, within their grammars."""
    if not any(isinstance(mask, Tensor) for mask in masks):
        return _take(logits, rows)
    own = logits[rows]
    for place, mask in enumerate(masks):
        if isinstance(mask, Tensor):
            own[place].masked_fill_(~mask, -torch.inf)
    return own


def _draw_from_all(own: Tensor, requests: list[Request]) -> list[Choice]:
    """Draws from whole distributions as ``_draw`` does from what is left of others.

    First a block of tokens is found, then a token in it, so that little is computed in float64.
    """
    heat = _numbers(own, [request.sampling.temperature for request in requests])
    terms = own - own.amax(-1, keepdim=True)
    terms.div_(heat.clamp(1e-30, 1e30).to(own)[:, None]).exp_()
    blocks = pad(terms, (0, -terms.shape[-1] % _BLOCK)).view(len(own), -1, _BLOCK)
    mass = blocks.sum(-1, dtype=torch.double).cumsum(-1)
    goal = _goal(mass, requests)
    block = _find(mass, goal)
    within = blocks[torch.arange(len(own), device=own.device), block[:, 0]].double().cumsum(-1)
    begun = mass.gather(-1, block) - within[:, -1:]
    tokens = (block * _BLOCK + _find(within, (goal - begun).clamp_min(0.0)))[:, 0]
    return [Choice(token, 0.0, 0.0) for token in tokens.tolist()]


def _goal(mass: Tensor, requests: list[Request]) -> Tensor:
    """``[n, 1]`` the share of all mass that each request's random number says."""
    numbers = [uniform(request.seed, len(request.drawn)) for request in requests]
    return _numbers(mass, numbers)[:, None] * mass[:, -1:]


def _find(mass: Tensor, goal: Tensor) -> Tensor:
    """``[n, 1]`` where cumulative mass ``[n, m]`` first exceeds a goal ``[n, 1]``."""
    # Rounding must not carry the goal beyond the last place that has any mass.
    last = (mass >= mass[:, -1:]).int().argmax(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(mass, goal, right=True), last)


def _take(logits: Tensor, rows: list[int]) -> Tensor:
    """``[rows, vocab]`` some rows; a view where they are evenly spaced, for they are long."""
    apart = rows[1] - rows[0] if len(rows) > 1 else 1
    if rows and apart > 0 and rows == list(range(rows[0], rows[-1] + 1, apart)):
        return logits[rows[0] : rows[-1] + 1 : apart]
    return logits[rows]


def _cut(step: AlignedStep, requests: list[Request]) -> AlignedStep:
    """What is left of an aligned step within each request's top-p and top-k."""
    if not requests[0].plan.guided:
        return step  # it was cut already, from the logits
    top_p, top_k = _limits(step.log_probs, requests)
    if not bool(((top_p < 1) | (top_k > 0)).any()):
        return step
    kept = nucleus(step.log_probs, torch.ones_like(top_p), top_p, top_k)
    return replace(
        step,
        token_ids=step.token_ids.gather(-1, kept.token_ids),
        log_probs=kept.log_probs,
        prompted=step.prompted.gather(-1, kept.token_ids),
    )


def _limits(like: Tensor, requests: list[Request]) -> tuple[Tensor, Tensor]:
    """``[n]`` top-p, and ``[n]`` top-k with 0 for no limit; greedy takes one token."""
    each = [request.sampling for request in requests]
    top_k = [1 if one.temperature == 0 else one.top_k or 0 for one in each]
    return _numbers(like, [one.top_p for one in each]), torch.tensor(top_k, device=like.device)


def _numbers(like: Tensor, values: Sequence[float | Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.double, device=like.device)


def _draw(step: AlignedStep, requests: list[Request]) -> list[Choice]:
    """Draws by inverting the cumulative distribution.

    The only randomness is a request's seed and how many tokens it has drawn, so an answer does not
    depend on what else runs.
    """
    probs = step.log_probs.exp()
    mass = probs.cumsum(-1)
    place = _find(mass, _goal(mass, requests))
    tokens = step.token_ids.gather(-1, place)[:, 0].tolist()
    ratios = step.ratio.tolist()
    # Without a step, KL is nothing but rounding.
    spent = [kl if ratio else 0.0 for kl, ratio in zip(step.kl.tolist(), ratios, strict=True)]
    return list(map(Choice, tokens, spent, ratios))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
