"""Prompts on their way into rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from linalign_integrations.engine.prefixes import WORTHWHILE, as_tokens, common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from linalign_integrations.engine.request import Request
    from linalign_integrations.engine.rows import Layers, Rows
    from linalign_integrations.engine.solo_rows import SoloRows

    # How many tokens of a prompt are known already, and the row or kept rows that begin with them.
    Known = tuple[int, int | Layers | None]

# Positions to make room for beyond the prompt.
_ROOM = 64


class Reading:
    """A request whose prompts are being read into the last rows, piece by piece.

    What the branches have in common is read once and copied.

    Args:
        request: the request.
        rows: where its rows are added, behind all others.
        known: for each branch what is known of it.
    """

    def __init__(self, request: Request, rows: Rows | SoloRows, known: Sequence[Known]) -> None:
        self.request = request
        self._rows = rows
        self._prompts = request.plan.token_ids
        self._logits: dict[int, Tensor] = {}
        best = max(known, key=lambda one: one[0])
        first, *others = map(as_tokens, self._prompts)
        shared = min((common(first[:-1], ids[:-1]) for ids in others), default=0)
        # Tokens that all branches begin with and that are not known: these are read in one row.
        together = rows.divisible and shared - best[0] >= WORTHWHILE
        self._together = shared if together else 0
        rows.add(len(self._prompts))
        # All at once: each time that rows grow, everybody waits for what they hold to be copied.
        rows.reserve(max(map(len, self._prompts)) + _ROOM)
        for row, start in enumerate([best] if together else known, self._first):
            self._begin(row, *start)

    @property
    def _first(self) -> int:
        """Its first row; rows before it come and go."""
        return len(self._rows.lengths) - len(self._prompts)

    @property
    def begun(self) -> int:
        """Tokens that the first branch has already."""
        return self._rows.lengths[self._first]

    @property
    def done(self) -> bool:
        """Whether every branch was read to its end."""
        return len(self._logits) == len(self._prompts)

    @property
    def logits(self) -> Tensor:
        """``[branches, vocab]`` what may follow the prompts."""
        return torch.stack([self._logits[branch] for branch in range(len(self._prompts))])

    def _begin(self, row: int, length: int, source: int | Layers | None) -> None:
        if source is None or length < WORTHWHILE or not self._rows.divisible:
            return
        if isinstance(source, int):
            self._rows.copy(source, row, length)
        else:
            self._rows.put(row, source, length)

    def advance(self, budget: int) -> int:
        """Reads a piece of the prompts.

        Args:
            budget: about how many tokens to read, all rows together.

        Returns:
            How many were read.
        """
        return self._read_together(budget) if self._together else self._read_each(budget)

    def _read_together(self, budget: int) -> int:
        assert self._rows.divisible  # noqa: S101 - others are never read together
        first = self._first
        length = self._rows.lengths[first]
        new = [self._prompts[0][length : min(self._together, length + budget)]]
        self._rows.forward(new, first)
        self._rows.extend(new, first)
        if self._rows.lengths[first] == self._together:
            for row in range(first + 1, first + len(self._prompts)):
                self._rows.copy(first, row, self._together)
            self._together = 0
        return len(new[0])

    def _read_each(self, budget: int) -> int:
        first = self._first
        left = [
            ids[length:]
            for ids, length in zip(self._prompts, self._rows.lengths[first:], strict=True)
        ]
        unread = [branch for branch, ids in enumerate(left) if ids]
        piece = max(1, budget // len(unread)) if self._rows.divisible else max(map(len, left))
        # Rows that go along between these read a token that does not count.
        reading = range(unread[0], unread[-1] + 1)
        logits = self._rows.forward(
            [left[branch][:piece] or (0,) for branch in reading], first + unread[0]
        )
        new = [left[branch][:piece] for branch in reading]
        self._rows.extend(new, first + unread[0])
        for branch, row in zip(reading, logits, strict=True):
            if 0 < len(left[branch]) <= piece:
                self._logits[branch] = row
        return sum(map(len, new))
