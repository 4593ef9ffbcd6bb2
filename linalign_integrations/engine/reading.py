"""Prompts on their way into rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from linalign_integrations.engine.prefixes import WORTHWHILE, common

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
    """A request whose prompts are being read into its rows, piece by piece.

    What the branches have in common is read once and copied.

    Args:
        request: the request, whose rows are the next behind all others.
        rows: where they are added.
        known: for each branch what is known of it.
    """

    def __init__(self, request: Request, rows: Rows | SoloRows, known: Sequence[Known]) -> None:
        self.request = request
        self._rows = rows
        self._prompts = request.plan.token_ids
        self._logits: dict[int, Tensor] = {}
        best = max(known, key=lambda one: one[0])
        first, *others = request.prompts
        shared = min((common(first[:-1], ids[:-1]) for ids in others), default=0)
        # Tokens that all branches begin with and that are not known: these are read in one row.
        together = rows.divisible and shared - best[0] >= WORTHWHILE
        self._together = shared if together else 0
        rows.add(len(self._prompts))
        # All at once: each time that rows grow, everybody waits for what they hold to be copied.
        rows.reserve(max(map(len, self._prompts)) + _ROOM)
        for row, start in enumerate([best] if together else known, request.first):
            self._begin(row, *start)

    @property
    def _lengths(self) -> list[int]:
        first = self.request.first
        return self._rows.lengths[first : first + len(self._prompts)]

    @property
    def begun(self) -> int:
        """Tokens that the first branch has already."""
        return self._lengths[0]

    @property
    def unread(self) -> int:
        """Tokens that are still to be read, all branches together."""
        lengths = self._lengths
        if self._together:
            lengths = [lengths[0], *[self._together] * (len(lengths) - 1)]
        return sum(len(ids) - length for ids, length in zip(self._prompts, lengths, strict=True))

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

    def next(self, budget: int) -> list[Sequence[int]]:
        """What to read next.

        Args:
            budget: about how many tokens, all rows together.

        Returns:
            Tokens for each of the request's rows; none for some.
        """
        lengths = self._lengths
        if self._together:
            end = min(self._together, lengths[0] + budget)
            return [self._prompts[0][lengths[0] : end], *[()] * (len(lengths) - 1)]
        left = [ids[length:] for ids, length in zip(self._prompts, lengths, strict=True)]
        unread = sum(map(bool, left))
        piece = max(1, budget // unread) if self._rows.divisible else max(map(len, left))
        return [ids[:piece] for ids in left]

    def take(self, pieces: Sequence[Sequence[int]], logits: Tensor) -> None:
        """Learns that pieces were read and count.

        Args:
            pieces: what ``next`` returned.
            logits: ``[rows that read, vocab]`` what may follow each of them.
        """
        lengths = self._lengths
        if self._together:
            assert self._rows.divisible  # noqa: S101 - others are never read together
            if lengths[0] == self._together:
                self._together = 0
                for row in range(1, len(lengths)):
                    self._rows.copy(self.request.first, self.request.first + row, lengths[0])
            return
        read = (branch for branch, ids in enumerate(pieces) if ids)
        for branch, row in zip(read, logits, strict=True):
            if lengths[branch] == len(self._prompts[branch]):
                self._logits[branch] = row
