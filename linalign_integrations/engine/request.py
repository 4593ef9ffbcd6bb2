"""One request: what it asks, and how far its answer is."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from linalign_integrations.engine.answer import FinishReason, Piece, Usage
from linalign_integrations.engine.record import Recorder, Strength
from linalign_integrations.engine.text import TextAssembler

if TYPE_CHECKING:
    from collections.abc import Callable

    from linalign_integrations.engine.grammar import Constraint
    from linalign_integrations.engine.record import Seen
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
        explain: alternatives to record of each token; 0 records nothing.

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
        explain: int = 0,
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
        self._draws = 0
        self._kl = self._ratios = 0.0
        self._recorder = Recorder(form, explain) if explain else None

    @property
    def rows(self) -> int:
        """How many rows it needs."""
        return len(self.plan.token_ids)

    @property
    def positions(self) -> int:
        """Most positions that a row of it can come to need."""
        return max(map(len, self.plan.token_ids)) + self._most

    @property
    def alternatives(self) -> int:
        """How many alternatives of the next token to record; 0 where nothing is recorded."""
        return 0 if self._recorder is None else self._recorder.alternatives

    def open(self) -> list[Piece]:
        """What a grammar forces the answer to begin with; none where it may begin freely."""
        return self._force() if self.constraint is not None else []

    def accept(
        self, token: int, kl: float, ratio: float = 0.0, seen: Seen | None = None
    ) -> list[Piece]:
        """Adds a drawn token to the answer, and those that a grammar forces after it.

        Args:
            token: what was drawn.
            kl: nats that alignment spent on it.
            ratio: the step taken for it.
            seen: what it was drawn from, where that is recorded.

        Returns:
            A piece for each token; the last one says whether the answer ends with it.
        """
        if self.constraint is not None:
            self.constraint.advance(token)
        self.next = []
        self._draws += 1
        self._kl += kl
        self._ratios += ratio
        pieces = [self._add(token, kl, ratio, seen)]
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

    def _add(self, token: int, kl: float, ratio: float = 0.0, seen: Seen | None = None) -> Piece:
        self.drawn.append(token)
        self.next.append(token)
        ended = token in self._ends
        text = "" if ended else self._text.push(token)
        finish: FinishReason | None = None
        if ended or self._text.stopped or (self.constraint and self.constraint.finished):
            finish = "stop"
        elif len(self.drawn) == self._most:
            finish = "length"
        if finish is not None:
            text += self._text.finish()
        if self._recorder is not None:
            self._recorder.add(token, ratio, kl, seen, text, self._text.written)
        if finish is None:
            return Piece(text, (token,), None, None, kl)
        finish = "stop" if self._text.stopped else finish
        lengths = [len(ids) for ids in self.plan.token_ids]
        usage = Usage(lengths[0], len(self.drawn), sum(lengths), self.reused)
        draws = max(1, self._draws)
        strength = Strength(self._kl / draws, self._ratios / draws)
        recorder = self._recorder
        record = None if recorder is None else recorder.finish(strength, ended=ended)
        return Piece(text, (token,), finish, usage, kl, strength=strength, alignment=record)


def _nobody(item: Piece | BaseException) -> None:
    del item
