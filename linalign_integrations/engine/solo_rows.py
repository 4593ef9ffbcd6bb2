"""Rows of models that cannot read several prompts at once: each has a cache of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from linalign_integrations.errors import GenerationFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import Cache, PreTrainedModel


@dataclass(slots=True)
class _Row:
    """One row.

    Attributes:
        state: what the model keeps of the tokens so far.
        ahead: tokens that the state holds beyond the row's length, and the logits after them.
        broken: the error that left the state halfway.
    """

    state: Cache | None = None
    ahead: tuple[tuple[int, ...], Tensor] | None = None
    broken: Exception | None = None


class SoloRows:
    """The slower kind of rows, with the methods of ``Rows``: one forward pass per row and token.

    For recurrent models, whose state cannot be cut, shared or padded. A prompt is read in one
    piece, and nothing of it is used again.

    Args:
        model: any causal decoder that returns and takes back a cache.
    """

    divisible: Literal[False] = False
    position_bytes = 0

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._rows: list[_Row] = []
        self.lengths: list[int] = []

    def add(self, count: int) -> None:
        """Takes empty rows into use, behind the others."""
        self.lengths += [0] * count
        self._rows += [_Row() for _ in range(count)]

    def drop(self, count: int) -> None:
        """Gives the last rows back."""
        del self.lengths[len(self.lengths) - count :]
        del self._rows[len(self._rows) - count :]

    def move(self, source: int, target: int) -> None:
        """Makes a row hold what another does, which is of no use afterwards."""
        self._rows[target], self._rows[source] = self._rows[source], _Row()
        self.lengths[target] = self.lengths[source]

    def reserve(self, positions: int) -> None:
        """Nothing: memory is found by the model as it goes."""

    def release(self) -> None:
        """Gives everything back, the model included; the rows are of no use any more."""
        self.lengths.clear()
        self._rows.clear()
        del self._model

    def forward(self, new: Sequence[Sequence[int]], first: int = 0) -> Tensor:
        """Reads new tokens and returns what may follow them, as ``Rows.forward`` does."""
        rows = self._rows[first : first + len(new)]
        return torch.stack(
            [self._read(row, tuple(ids)) for row, ids in zip(rows, new, strict=True) if ids]
        )

    def extend(self, new: Sequence[Sequence[int]], first: int = 0) -> None:
        """Makes tokens that ``forward`` has read count."""
        for index, tokens in enumerate(new, first):
            if tokens:
                self.lengths[index] += len(tokens)
                self._rows[index].ahead = None

    def _read(self, row: _Row, token_ids: tuple[int, ...]) -> Tensor:
        if row.broken is not None:
            raise row.broken
        # The pass is tried again, because another row failed in it; this one was read already.
        if row.ahead is not None and row.ahead[0] == token_ids:
            return row.ahead[1]
        try:
            logits = self._run(row, token_ids)
        except Exception as error:
            row.broken = error
            raise
        row.ahead = (token_ids, logits)
        return logits

    def _run(self, row: _Row, token_ids: tuple[int, ...]) -> Tensor:
        # With a state, recurrent models take one token at a time.
        pieces = [token_ids] if row.state is None else [(token,) for token in token_ids]
        logits = torch.empty(0)
        for piece in pieces:
            ids = torch.tensor([piece], device=self._model.device)
            out = self._model(input_ids=ids, use_cache=True, cache=row.state)
            row.state = getattr(out, "cache", None)
            if row.state is None:
                raise GenerationFailed("the model returns no state to go on from")
            logits = out.logits[0, -1].float()
        return logits
