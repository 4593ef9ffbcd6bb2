"""Decodes many prompts in many ways at once, which measuring a model would otherwise wait for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from linalign_integrations.alignment import align
from linalign_integrations.engine.rows import Rows
from linalign_integrations.preferences import Preferences

__all__ = ["TEMPERATURE", "Written", "write"]

TEMPERATURE = 0.7


@dataclass(frozen=True)
class Written:
    """One answer as it was drawn.

    Attributes:
        token_ids: Its tokens, the one that ends it included.
        surprise: Nats of surprise under the plain branch, summed.
        kl: Nats that alignment spent, summed.
    """

    token_ids: list[int]
    surprise: float
    kl: float


@torch.inference_mode()
def write(
    model: PreTrainedModel,
    prompted: Sequence[list[int]],
    plain: Sequence[list[int]],
    preferences: Sequence[Preferences | None],
    draws: Tensor,
    *,
    end: int,
) -> list[list[Written]]:
    """Answer several prompts in several ways, all in one batch.

    Every prompt is read once, whatever the number of ways. Rows that are done leave the batch.

    Args:
        model: A causal decoder with full attention.
        prompted: Token ids of each prompt with principles.
        plain: The same without.
        preferences: One for each way; None answers the plain prompt.
        draws: ``[prompts, ways, longest]`` float64 in [0, 1), a number for each token to draw.
        end: The token that ends an answer.

    Returns:
        For each prompt its answer in each way.
    """
    count, width, longest = draws.shape
    prompts = [*prompted, *plain]
    rows = Rows(model, max_positions=max(map(len, prompts)) + longest)
    rows.add(len(prompts))
    logits = rows.forward(prompts)
    rows.extend(prompts)

    # Half of the rows decide, the other half follow the same answers without principles.
    told = torch.tensor([one is not None for one in preferences]).repeat(count)
    source = torch.arange(count).repeat_interleave(width)
    both = torch.cat([torch.where(told, source, source + count), source + count])
    rows.select(both.tolist())
    logits = logits[both]
    # Plain answers are the model's own: no step, and nothing is ruled out.
    known = [one or Preferences(ratio=0, plausibility=1) for one in preferences]
    settings = torch.tensor(
        [[one.ratio, one.kl_budget or math.inf, one.plausibility] for one in known] * count,
        dtype=torch.double,
    )
    numbers = draws.flatten(0, 1)

    tokens = torch.full((count * width, longest), -1)
    surprise, kl = torch.zeros(2, count * width, dtype=torch.double)
    at = torch.arange(count * width)
    running = torch.ones_like(at, dtype=torch.bool)
    for place in range(longest):
        ahead, behind = logits.chunk(2)
        token, spent = _draw(ahead, behind, settings[at], numbers[at, place])
        missed = -behind.log_softmax(-1).gather(-1, token[:, None])[:, 0].double()
        here = at[running]
        tokens[here, place] = token[running]
        surprise[here] += missed[running]
        kl[here] += spent[running]
        running &= token != end
        left = int(running.sum())
        if not left or place + 1 == longest:
            break
        # Dropping rows copies all others, so it waits until it saves more than that.
        if left < 0.8 * len(at):
            kept = running.nonzero()[:, 0]
            both = torch.cat([kept, kept + len(at)])
            rows.select(both.tolist())
            token, at, running = token[kept], at[kept], running[kept]
        new = token.repeat(2)[:, None].tolist()
        logits = rows.forward(new)
        rows.extend(new)
    answers = [
        Written([token for token in ids if token >= 0], float(missed), float(spent))
        for ids, missed, spent in zip(tokens.tolist(), surprise, kl, strict=True)
    ]
    return [answers[at : at + width] for at in range(0, len(answers), width)]


def _draw(
    ahead: Tensor, behind: Tensor, settings: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw a token for every row.

    Args:
        ahead: ``[rows, vocab]`` logits of the rows that decide.
        behind: The same of the plain branch.
        settings: ``[rows, 3]`` ratio, KL budget and plausibility.
        numbers: ``[rows]`` in [0, 1).

    Returns:
        ``[rows]`` tokens, and ``[rows]`` nats spent on them.
    """
    token = torch.empty(len(numbers), dtype=torch.long)
    spent = torch.empty(len(numbers), dtype=torch.double)
    open_ended = settings[:, 2] == 1
    # Where nothing is ruled out the whole vocabulary is a candidate: apart from these, rows need
    # only a few.
    for part in filter(torch.any, (open_ended, ~open_ended)):
        ratio, kl_budget, plausibility = settings[part].T
        step = align(
            ahead[part],
            behind[part],
            ratio=ratio,
            kl_budget=kl_budget,
            plausibility=plausibility,
            temperature=TEMPERATURE,
        )
        mass = step.log_probs.exp().cumsum(-1)
        goal = numbers[part, None] * mass[:, -1:]
        place = torch.searchsorted(mass, goal, right=True).clamp_max(mass.shape[-1] - 1)
        token[part], spent[part] = step.token_ids.gather(-1, place)[:, 0], step.kl
    return token, spent
