"""One request: what it asks, and how far its answer is."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from linalign_integrations.engine.answer import FinishReason, Piece, Usage
from linalign_integrations.engine.text import TextAssembler

if TYPE_CHECKING:
    from collections.abc import Callable

    from linalign_integrations.engine.grammar import Constraint
    from linalign_integrations.engine.sampling import SamplingParams
    from linalign_integrations.preferences.model import Preferences
    from linalign_integrations.prompts import BranchPlan, PromptFormat

    Delivery = Callable[[Piece | BaseException], None]


class Request:
    """A request on its way through the engine; only the engine's thread changes it.

    Args:
        plan: its branches.
        preferences: its numbers.
        sampling: how to draw.
        constraint: what the answer must be, or None.
        user: whose turn in the queue it takes; None is one user more.
        form: turns tokens into text.
        ends: tokens that end the answer.
        context_length: most tokens of a prompt and its answer.

    Attributes:
        first: its first row in the running batch; the others follow, one per branch.
        next: the tokens that every branch reads in the next step.
        drawn: the tokens of the answer so far.
        reused: prompt tokens that the same user sent before.
        cancelled: nobody waits for it any more; anybody may set it.
        deliver: takes the pieces and the error that ends the answer.
    """

    def __init__(
        self,
        plan: BranchPlan,
        preferences: Preferences,
        sampling: SamplingParams,
        *,
        constraint: Constraint | None,
        user: str | None,
        form: PromptFormat,
        ends: frozenset[int],
        context_length: int,
    ) -> None:
        self.plan = plan
        self.preferences = preferences
        self.sampling = sampling
        self.constraint = constraint
        self.user = user
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.first = 0
        self.next: list[int] = []
        self.drawn: list[int] = []
        self.reused = 0
        self.cancelled = False
        self.deliver: Delivery = _nobody
        longest = max(map(len, plan.token_ids))
        self._most = min(sampling.max_tokens, context_length - longest)
        # A control token is never part of the text, so as a stop it must be told by its id.
        named = form.control_tokens
        self._ends = ends | {named[text] for text in sampling.stop if text in named}
        self._text = TextAssembler(form, sampling.stop)

    @property
    def rows(self) -> int:
        """How many rows it needs."""
        return len(self.plan.token_ids)

    @property
    def positions(self) -> int:
        """Most positions that a row of it can come to need."""
        return max(map(len, self.plan.token_ids)) + self._most

    def open(self) -> list[Piece]:
        """What a grammar forces the answer to begin with; none where it may begin freely."""
        return self._force() if self.constraint is not None else []

    def accept(self, token: int, kl: float) -> list[Piece]:
        """Adds a drawn token to the answer, and those that a grammar forces after it.

        Args:
            token: what was drawn.
            kl: nats that alignment spent on it.

        Returns:
            A piece for each token; the last one says whether the answer ends with it.
        """
        if self.constraint is not None:
            self.constraint.advance(token)
        self.next = []
        pieces = [self._add(token, kl)]
        if self.constraint is not None and pieces[-1].finish_reason is None:
            pieces += self._force()
        return pieces

    def _force(self) -> list[Piece]:
        assert self.constraint is not None  # noqa: S101 - its callers have looked
        pieces: list[Piece] = []
        for token in self.constraint.forced():
            self.constraint.advance(token)
            pieces.append(self._add(token, 0.0))
            if pieces[-1].finish_reason is not None:
                break
        return pieces

    def _add(self, token: int, kl: float) -> Piece:
        self.drawn.append(token)
        self.next.append(token)
        ended = token in self._ends
        text = "" if ended else self._text.push(token)
        finish: FinishReason | None = None
        if ended or self._text.stopped or (self.constraint and self.constraint.finished):
            finish = "stop"
        elif len(self.drawn) == self._most:
            finish = "length"
        if finish is None:
            return Piece(text, (token,), None, None, kl)
        text += self._text.finish()
        finish = "stop" if self._text.stopped else finish
        lengths = [len(ids) for ids in self.plan.token_ids]
        usage = Usage(lengths[0], len(self.drawn), sum(lengths), self.reused)
        return Piece(text, (token,), finish, usage, kl)


def _nobody(item: Piece | BaseException) -> None:
    del item
