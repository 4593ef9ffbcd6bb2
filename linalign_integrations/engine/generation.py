"""One running request: its rows, its tokens, its text."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from linalign_integrations.engine.answer import FinishReason, Piece, Usage
from linalign_integrations.engine.sampling import SamplingParams, distribution, draw
from linalign_integrations.engine.text import TextAssembler

if TYPE_CHECKING:
    from linalign_integrations.engine.engine import Engine
    from linalign_integrations.engine.rows import Rows
    from linalign_integrations.preferences.model import Preferences
    from linalign_integrations.prompts import BranchPlan

# Room for this much of an answer is allocated with the prompt; longer ones make it grow.
_FIRST_ROOM = 128


class Generation(Iterator[Piece]):
    """Draws an answer token by token; each ``next`` is one step of all branches.

    Args:
        engine: runs the branches.
        plan: the request's branches.
        preferences: the request's.
        sampling: the request's.
    """

    def __init__(
        self, engine: Engine, plan: BranchPlan, preferences: Preferences, sampling: SamplingParams
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._preferences = preferences
        self._sampling = sampling
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._lengths = torch.tensor([len(ids) for ids in plan.token_ids])
        longest = int(self._lengths.max())
        self._most = min(sampling.max_tokens, engine.context_length - longest)
        self._rows: Rows | None = engine._new_rows(longest + min(self._most, _FIRST_ROOM))
        self._text = TextAssembler(engine._form, sampling.stop)
        # A control token is never part of the text, so as a stop it must be told by its id.
        named = engine._form.control_tokens
        self._ends = engine._end_tokens | {named[text] for text in sampling.stop if text in named}
        self._next: list[tuple[int, ...]] = list(plan.token_ids)
        self._filled = torch.zeros_like(self._lengths)
        self._drawn = 0

    def __next__(self) -> Piece:
        if self._rows is None:
            raise StopIteration
        try:
            return self._step(self._rows)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the answer here and gives its memory back."""
        self._rows = None

    def _step(self, rows: Rows) -> Piece:
        logits = self._engine._forward(rows, self._next, self._filled)
        self._filled = self._filled + torch.tensor([len(tokens) for tokens in self._next])
        with torch.inference_mode():
            step = distribution(logits, self._plan, self._preferences, self._sampling)
            token = draw(step, self._seed, self._drawn)
            kl = float(step.kl[0])
        self._drawn += 1
        self._next = [(token,)] * len(self._lengths)
        ended = token in self._ends
        text = "" if ended else self._text.push(token)
        finish: FinishReason | None = None
        if ended or self._text.stopped:
            finish = "stop"
        elif self._drawn == self._most:
            finish = "length"
        if finish is None:
            return Piece(text, (token,), None, None, kl)
        self.close()
        text += self._text.finish()
        finish = "stop" if self._text.stopped else finish
        usage = Usage(int(self._lengths[0]), self._drawn, int(self._lengths.sum()))
        return Piece(text, (token,), finish, usage, kl)
