"""What alignment did to an answer, token by token; kept for those who ask for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from linalign_integrations.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from torch import Tensor

    from linalign_integrations.prompts import PromptFormat

MOST_ALTERNATIVES = 20
"""Most alternatives that can be asked for."""

MOST_TOKENS = 1024
"""Most tokens of an answer that are recorded."""

_USUAL_ALTERNATIVES = 3
# Added to a logarithm of a probability.
_ABOVE_ALL = 1e6


@dataclass(frozen=True, slots=True)
class Strength:
    """How strongly an answer was aligned, over the tokens that were drawn.

    Attributes:
        mean_kl: nats that alignment spent per token.
        mean_ratio: mean of the ratios used; below the ratio asked for where a KL budget cut steps,
            0 where nothing was aligned.
    """

    mean_kl: float
    mean_ratio: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have been drawn.

    Attributes:
        token_id: its number in the vocabulary.
        token: what it writes; the vocabulary's name for it where that is no text of its own (a
            control token, a part of a character).
        prompted: its probability with the principles in the prompt and no step taken.
        aligned: its probability after the step.
    """

    token_id: int
    token: str
    prompted: float
    aligned: float


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What alignment did to one token of an answer.

    Probabilities are those that the step moves, and that its KL is measured on: at the request's
    temperature (greedy: 1), on the plausible set (without principles: the whole vocabulary), before
    a grammar, top-k and top-p narrow the choice. Where a grammar allows nothing plausible, they are
    those of what it allows.

    Attributes:
        token_id: its number in the vocabulary.
        token: what it is, as in ``Alternative``.
        text: the part of the answer's text that came with it. Empty for an end-of-sequence token,
            for what a stop text cut off, and for all but the last token of a character.
        prompted: probability that it had before the step; None where it was not drawn.
        aligned: probability that it had after the step; None where it was not drawn.
        ratio: the step taken; 0 where nothing was aligned.
        kl: nats spent on the step: KL(aligned || prompted).
        forced: a grammar left no other token.
        displaced: what the prompted model held likelier than anything else, where that is another
            token. Where its aligned probability is still the larger one, chance displaced it.
        alternatives: other tokens that a grammar, if there is one, allowed, likeliest under the
            prompted model first; ``displaced`` leads them.
    """

    token_id: int
    token: str
    text: str
    prompted: float | None
    aligned: float | None
    ratio: float
    kl: float
    forced: bool
    displaced: Alternative | None
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True, repr=False)
class AlignmentRecord:
    """What alignment did to an answer. Shows itself in notebooks, and in terminals through rich.

    Attributes:
        tokens: a record of each token, in order, of the first 1,024 of them. Their texts, one after
            the other, are the answer's text, or its beginning where tokens were omitted.
        omitted: how many more tokens the answer has.
        strength: how strongly the whole answer was aligned.
    """

    tokens: tuple[TokenRecord, ...]
    omitted: int
    strength: Strength

    def to_dict(self) -> dict[str, Any]:
        """All of it as dictionaries, lists, numbers and strings, ready for JSON."""
        made: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return made

    def __repr__(self) -> str:
        return (
            f"<AlignmentRecord of {len(self.tokens) + self.omitted} tokens, mean KL "
            f"{self.strength.mean_kl:.3g} nats, mean ratio {self.strength.mean_ratio:.3g}>"
        )

    def __rich__(self) -> RenderableType:
        from linalign_integrations.engine.rendering import as_terminal

        return as_terminal(self)

    def _repr_html_(self) -> str:
        from linalign_integrations.engine.rendering import as_html

        return as_html(self)


class Seen(NamedTuple):
    """What a token was drawn from.

    Attributes:
        prompted: probability of the drawn token before the step.
        aligned: the same after it.
        others: ``(token, prompted, aligned)`` of other tokens, likeliest before the step first.
        forced: whether a grammar left no other token.
    """

    prompted: float
    aligned: float
    others: list[tuple[int, float, float]]
    forced: bool


def count_alternatives(explain: object) -> int:
    """How many alternatives an ``explain`` argument asks for; 0 where nothing is to be recorded.

    Raises:
        InvalidArgument: it is neither a bool nor a number in range.
    """
    if isinstance(explain, bool):
        return _USUAL_ALTERNATIVES if explain else 0
    if not isinstance(explain, int) or not 0 <= explain <= MOST_ALTERNATIVES:
        raise InvalidArgument(
            "explain= is True, False, or how many alternatives to keep per token, from 0 (off) to "
            f"{MOST_ALTERNATIVES}, not {explain!r}"
        )
    return explain


def look(
    token_ids: Tensor,
    prompted: Tensor,
    aligned: Tensor,
    *,
    drawn: Sequence[int],
    allowed: Sequence[Tensor | None],
    counts: Sequence[int],
) -> list[Seen]:
    """What tokens were drawn from, for several requests at once.

    Of the other tokens it keeps the one that the prompted model held likeliest, then those that
    either distribution holds likely.

    Args:
        token_ids: ``[n, m]`` the tokens that each request's step was taken on.
        prompted: ``[n, m]`` their log-probabilities before the step; ``-inf`` marks padding.
        aligned: ``[n, m]`` the same after it.
        drawn: the token of each request.
        allowed: ``[vocab]`` what the grammar of each allows; None where it has none.
        counts: how many others each wants, above 0.
    """
    taken = token_ids == torch.tensor(drawn, device=token_ids.device)[:, None]
    free = (aligned > -torch.inf) & ~taken
    for row, mask in enumerate(allowed):
        if mask is not None:
            free[row] &= mask[token_ids[row]]
    worth = prompted.maximum(aligned).masked_fill(~free, -torch.inf)
    favourite = prompted.masked_fill(~free, -torch.inf).argmax(-1, keepdim=True)
    worth.scatter_add_(-1, favourite, torch.full_like(worth[:, :1], _ABOVE_ALL))
    kept = worth.topk(min(max(counts), token_ids.shape[-1]), dim=-1)
    place = torch.cat([taken.int().argmax(-1, keepdim=True), kept.indices], dim=-1)
    tokens = token_ids.gather(-1, place).tolist()
    before, after = (one.gather(-1, place).exp().tolist() for one in (prompted, aligned))
    found = (kept.values > -torch.inf).sum(-1).tolist()
    seen = []
    for row, mask in enumerate(allowed):
        rows = zip(tokens[row], before[row], after[row], strict=True)
        (_, was, became), *others = list(rows)[: 1 + min(found[row], counts[row])]
        others.sort(key=lambda other: -other[1])
        seen.append(Seen(was, became, others, mask is not None and int(mask.sum()) == 1))
    return seen


class Recorder:
    """Grows the record of one answer.

    Args:
        form: names tokens.
        wanted: alternatives to keep per token, above 0.
    """

    def __init__(self, form: PromptFormat, wanted: int) -> None:
        self._form = form
        self._wanted = wanted
        self._tokens: list[TokenRecord] = []
        self._ends: list[int] = []
        self._omitted = 0
        self._text = ""

    @property
    def alternatives(self) -> int:
        """How many alternatives of the next token to look for; 0 where no more is recorded."""
        return self._wanted if len(self._tokens) < MOST_TOKENS else 0

    def add(
        self, token: int, ratio: float, kl: float, seen: Seen | None, text: str, written: int
    ) -> None:
        """Takes note of the next token.

        Args:
            token: which it is.
            ratio: the step taken for it.
            kl: nats spent on it.
            seen: what it was drawn from; None where a grammar forced it.
            text: text that became certain with it.
            written: characters that all tokens so far have written, certain or not.
        """
        self._text += text
        if self.alternatives:
            # Described now, so that nobody waits for a whole answer to be described at once.
            self._tokens.append(self._describe(token, ratio, kl, seen))
            self._ends.append(written)
        else:
            self._omitted += 1

    def finish(self, strength: Strength, *, ended: bool) -> AlignmentRecord:
        """The record of the whole answer.

        Args:
            strength: how strongly it was aligned.
            ended: whether its last token is one that ends answers, which writes nothing.
        """
        ends = self._ends
        if ended and not self._omitted:
            # What was left of an unfinished character came with the end, but is not its own.
            ends = [*ends[:-2], *ends[-1:] * 2][-len(ends) :]
        tokens = tuple(
            replace(token, text=self._text[start:end])
            for token, start, end in zip(self._tokens, [0, *ends], ends, strict=False)
        )
        return AlignmentRecord(tokens, self._omitted, strength)

    def _describe(self, token: int, ratio: float, kl: float, seen: Seen | None) -> TokenRecord:
        others = [] if seen is None else seen.others
        alternatives = tuple(
            Alternative(other, self._form.token_name(other), prompted, aligned)
            for other, prompted, aligned in others
        )
        surpassed = seen is not None and bool(others) and others[0][1] > seen.prompted
        return TokenRecord(
            token_id=token,
            token=self._form.token_name(token),
            text="",  # it is known at the end
            prompted=None if seen is None else seen.prompted,
            aligned=None if seen is None else seen.aligned,
            ratio=ratio,
            kl=kl,
            forced=seen is None or seen.forced,
            displaced=alternatives[0] if surpassed else None,
            alternatives=alternatives,
        )
