"""One request: what it asks, and how far its answer is."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from linalign_integrations.engine.answer import FinishReason, Piece, Usage
from linalign_integrations.engine.prefixes import as_tokens
from linalign_integrations.engine.record import Recorder, Strength
from linalign_integrations.engine.text import Stops, TextAssembler

if TYPE_CHECKING:
    from collections.abc import Callable

    from linalign_integrations.engine.grammar import Constraint
    from linalign_integrations.engine.record import Seen
    from linalign_integrations.engine.sampling import SamplingParams
    from linalign_integrations.engine.steering import Steering
    from linalign_integrations.preferences.model import Preferences
    from linalign_integrations.prompts import AnswerReader, BranchPlan, PromptFormat

    Delivery = Callable[[Piece | BaseException], None]


class Request:
    """A request on its way through the engine; only the engine's thread changes it.

    Args:
        plan: its branches.
        preferences: its numbers.
        sampling: how to draw.
        steering: what the answer must be, part by part.
        reader: splits its text; None where it is nothing but visible text.
        user: whose turn in the queue it takes; None is one user more.
        form: turns tokens into text.
        ends: tokens that end the answer.
        context_length: most tokens of a prompt and its answer.
        explain: alternatives to record of each token; 0 records nothing.

    Attributes:
        prompts: the tokens of each branch in the form that is compared fastest.
        first: its first row in the running batch; the others follow, one per branch.
        next: the tokens that every branch reads in the next step.
        drawn: the tokens of the answer so far.
        reused: prompt tokens that the same user sent before.
        awaits: whose prompts, being read, will spare it most of its own.
        cancelled: nobody waits for it any more; anybody may set it.
        deliver: takes the pieces and the error that ends the answer.
    """

    def __init__(
        self,
        plan: BranchPlan,
        preferences: Preferences,
        sampling: SamplingParams,
        *,
        steering: Steering,
        reader: AnswerReader | None,
        user: str | None,
        form: PromptFormat,
        ends: frozenset[int],
        context_length: int,
        explain: int = 0,
    ) -> None:
        self.plan = plan
        self.preferences = preferences
        self.sampling = sampling
        self.prompts = [as_tokens(ids) for ids in plan.token_ids]
        self._steering = steering
        self._reader = reader
        self.user = user
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.first = 0
        self.next: list[int] = []
        self.drawn: list[int] = []
        self.reused = 0
        self.awaits: Request | None = None
        self.cancelled = False
        self.deliver: Delivery = _nobody
        longest = max(map(len, plan.token_ids))
        self._most = min(sampling.max_tokens, context_length - longest)
        # A control token is never part of the text, so as a stop it must be told by its id.
        named = form.control_tokens
        self._ends = ends | {named[text] for text in sampling.stop if text in named}
        # Stop texts are looked for in what is visible.
        self._stops = Stops(sampling.stop)
        self._text = TextAssembler(form, steering.shown)
        self._reasoning_tokens = 0
        self._draws = 0
        self._kl = self._ratios = 0.0
        self._recorder = Recorder(form, explain) if explain else None

    @property
    def rows(self) -> int:
        """How many rows it needs."""
        return len(self.plan.token_ids)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompts, all branches together."""
        return sum(map(len, self.prompts))

    @property
    def positions(self) -> int:
        """Most positions that a row of it can come to need."""
        return max(map(len, self.plan.token_ids)) + self._most

    @property
    def alternatives(self) -> int:
        """How many alternatives of the next token to record; 0 where nothing is recorded."""
        return 0 if self._recorder is None else self._recorder.alternatives

    @property
    def constraint(self) -> Constraint | None:
        """What the next token must satisfy; None where it is free."""
        return self._steering.constraint

    @property
    def ratio(self) -> float:
        """The largest step along the direction that the next token may take."""
        return self.preferences.ratio if self._steering.aligned else 0.0

    def open(self) -> list[Piece]:
        """What a grammar forces the answer to begin with; none where it may begin freely."""
        self._steering.begin(self._most)
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
        self.next = []
        ending = self._steering.ending(token, self._most - len(self.drawn))
        if ending is not None:
            return self._close(ending)
        self._steering.advance(token)
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
            self._steering.advance(token)
            pieces.append(self._add(token, 0.0))
            if pieces[-1].finish_reason is not None:
                break
        return pieces

    def _close(self, ending: tuple[int, ...]) -> list[Piece]:
        """Adds the tokens that complete a grammar in the room that is left."""
        pieces: list[Piece] = []
        for place, token in enumerate(ending, 1):
            self._steering.advance(token)
            pieces.append(self._add(token, 0.0, closes=place == len(ending)))
            if pieces[-1].finish_reason is not None:
                return pieces
        return pieces + (self._force() if self.constraint is not None else [])

    def _add(
        self,
        token: int,
        kl: float,
        ratio: float = 0.0,
        seen: Seen | None = None,
        *,
        closes: bool = False,
    ) -> Piece:
        self.drawn.append(token)
        self.next.append(token)
        ended = token in self._ends
        raw = "" if ended else self._text.push(token)
        if not ended:
            self._reasoning_tokens += self._steering.in_reasoning
            self._steering.see(token, raw)
        piece = self._piece(raw, (token,), kl)
        finish: FinishReason | None = None
        if (
            ended
            or self._stops.stopped
            or self._steering.finished
            or (closes and self._steering.may_end)
        ):
            finish = "stop"
        elif len(self.drawn) == self._most:
            finish = "stop" if self._steering.whole else "length"
        rest = ""
        if finish is not None:
            rest = self._text.finish()
            piece = self._whole(piece, self._piece(rest, (), 0.0, last=True))
        if self._recorder is not None:
            text = piece.text if self._reader is None else raw + rest
            self._recorder.add(token, ratio, kl, seen, text, self._text.written)
        if finish is None:
            return piece
        lengths = [len(ids) for ids in self.plan.token_ids]
        draws = max(1, self._draws)
        strength = Strength(self._kl / draws, self._ratios / draws)
        recorder = self._recorder
        return replace(
            piece,
            finish_reason="stop" if self._stops.stopped else finish,
            usage=Usage(
                lengths[0], len(self.drawn), sum(lengths), self.reused, self._reasoning_tokens
            ),
            strength=strength,
            alignment=None if recorder is None else recorder.finish(strength, ended=ended),
        )

    @staticmethod
    def _whole(piece: Piece, rest: Piece) -> Piece:
        return replace(
            piece,
            text=piece.text + rest.text,
            reasoning=piece.reasoning + rest.reasoning,
            tool_calls=piece.tool_calls + rest.tool_calls,
            invalid_tool_calls=piece.invalid_tool_calls + rest.invalid_tool_calls,
        )

    def _piece(self, raw: str, tokens: tuple[int, ...], kl: float, *, last: bool = False) -> Piece:
        if self._reader is None:
            return Piece(self._stops.push(raw, last=last), tokens, None, None, kl)
        readings = [self._reader.push(raw), *([self._reader.finish()] if last else ())]
        text = self._stops.push("".join(one.text for one in readings), last=last)
        calls = tuple(delta for one in readings for delta in one.tool_calls)
        invalid = tuple(one for reading in readings for one in reading.invalid_tool_calls)
        thought = "".join(one.reasoning for one in readings)
        return Piece(text, tokens, None, None, kl, thought, calls, invalid)


def _nobody(item: Piece | BaseException) -> None:
    del item
