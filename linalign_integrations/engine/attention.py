"""Attention of rows of unequal length in one pass, without padding.

The new tokens of all rows stand one behind the other, so that everything but attention is computed
once for exactly the tokens there are. Attention is computed by runs: adjacent rows of about the
same length with equally many new tokens.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PretrainedConfig

NAME = "linalign_rows"
WINDOWED = "sliding_attention"

# Rows are computed together where that costs the shorter ones at most this many times their own
# length, or so few positions that another call would cost more.
_LONGER = 2.0
_FEW = 256

# Torch computes queries in blocks of so many or a multiple, and in bfloat16 a block of a single
# one takes up to twice as long as a block of two.
_BLOCK = 32


@dataclass
class Run:
    """Adjacent rows with equally many new tokens.

    Attributes:
        rows: these rows.
        tokens: their new tokens among all of the pass.
        filled: positions that the longest has, the new ones included.
        positions: ``[rows, new]`` where the new tokens stand.
    """

    rows: slice
    tokens: slice
    filled: int
    positions: Tensor
    _masks: dict[tuple[int | None, int, torch.dtype], Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """``[rows, 1, group * new, filled]`` which keys each new token sees.

        Args:
            window: how many of the newest; None for all.
            group: how many query heads share a key.
            dtype: bool, or that of scores, to which 0 is added for a key that is seen and ``-inf``
                for another: torch would make that of a bool mask in every layer.
        """
        known = self._masks.get((window, group, dtype))
        if known is None:
            keys = torch.arange(self.filled, device=self.positions.device)
            queries = self.positions[:, None, :, None]
            mask = keys <= queries
            if window is not None:
                mask &= keys > queries - window
            if dtype is not torch.bool:
                mask = mask.new_zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)
            known = self._masks[window, group, dtype] = (
                mask.expand(-1, -1, group, -1)
                if self.positions.shape[1] == 1
                else mask.repeat(1, 1, group, 1)
            )
        return known


@dataclass(frozen=True)
class Pass:
    """One forward pass over new tokens of some rows.

    Attributes:
        runs: all rows of the pass, in order.
        rows: ``[tokens]`` the row of each new token.
        positions: ``[tokens]`` where it stands there.
        last: ``[rows]`` which token is the last new one of each row.
    """

    runs: Sequence[Run]
    rows: Tensor
    positions: Tensor
    last: Tensor

    @classmethod
    def over(
        cls,
        rows: Sequence[int],
        lengths: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
    ) -> Pass:
        """The pass that reads so many new tokens of these rows, whose lengths are known."""
        bounds = [0]
        for at in range(1, len(rows)):
            begun = bounds[-1]
            if rows[at] != rows[at - 1] + 1 or counts[at] != counts[begun]:
                bounds.append(at)
                continue
            run = [*lengths[begun : at + 1]]
            longest = max(run) + counts[at]
            wasted = longest * len(run) - sum(run) - counts[at] * len(run)
            if wasted > max(_FEW, (1 - 1 / _LONGER) * longest * len(run)):
                bounds.append(at)
        ends = [*bounds[1:], len(rows)]
        lengths_of, counts_of = torch.tensor(lengths), torch.tensor(counts)
        last = counts_of.cumsum(0) - 1
        begins = (last + 1 - counts_of).repeat_interleave(counts_of)
        positions = (
            torch.arange(int(last[-1]) + 1) - begins + lengths_of.repeat_interleave(counts_of)
        ).to(device)
        runs = []
        token = 0
        for begin, end in zip(bounds, ends, strict=True):
            width = counts[begin]
            tokens = slice(token, token + width * (end - begin))
            token = tokens.stop
            runs.append(
                Run(
                    slice(rows[begin], rows[end - 1] + 1),
                    tokens,
                    max(lengths[begin:end]) + width,
                    positions[tokens].view(-1, width),
                )
            )
        row_of = torch.tensor(rows).repeat_interleave(counts_of)
        return cls(runs, row_of.to(device), positions, last.to(device))


class _Current(threading.local):
    """The pass that a thread's model is in the middle of."""

    value: Pass | None = None


_current = _Current()


def prepare(config: PretrainedConfig) -> None:
    """Lets models of this configuration be run in passes, and otherwise as before."""
    config._attn_implementation = NAME


@contextmanager
def computing(of: Pass) -> Iterator[None]:
    """Lets this thread's models attend as the pass says."""
    _current.value = of
    try:
        yield
    finally:
        _current.value = None


def marks(config: PretrainedConfig, device: torch.device) -> Tensor | dict[str, Tensor]:
    """What to hand a model as its masks, so that ``attend`` knows which kind a layer has.

    Models return a mask of four dimensions as it is; the last one is the window, or 0.
    """
    window = getattr(config, "sliding_window", None) or 0
    kinds = getattr(config, "layer_types", None)
    full, windowed = (torch.empty(1, 1, 1, size, device=device) for size in (0, window))
    if kinds is None:
        return windowed
    return {kind: windowed if kind == WINDOWED else full for kind in set(kinds)}


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers asks for.

    Args:
        module: the layer.
        query: ``[1, heads, tokens, head_dim]``.
        key: ``[all rows, key heads, positions, head_dim]``, as ``Rows.update`` returns them.
        value: the same of the values.
        attention_mask: what ``marks`` made.
        scaling: factor of the scores; by default one over the root of ``head_dim``.
        softcap: scores are bent to lie below this.
        s_aux: ``[heads]`` scores of a key that every token sees and that has no value.
        **kwargs: what does not matter in a pass.

    Returns:
        ``[1, tokens, heads, head_dim]``.
    """
    heads, tokens, width = query.shape[1:]
    groups = key.shape[1]
    group = heads // groups
    scale = width**-0.5 if scaling is None else scaling
    if _current.value is None or attention_mask is None:
        # The model runs for somebody else.
        if softcap is None and s_aux is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, **kwargs
            )
        if attention_mask is None:
            attention_mask = query.new_ones(tokens, key.shape[2], dtype=torch.bool).tril(
                key.shape[2] - tokens
            )
        keys, values = (one.repeat_interleave(group, 1) for one in (key, value))
        sinks = None if s_aux is None else s_aux[:, None].expand(-1, tokens)
        got = _bent(query, keys, values, attention_mask, scale, softcap, sinks)
        return got.transpose(1, 2), None
    window = attention_mask.shape[-1] or None
    parts = []
    for run in _current.value.runs:
        count, new = run.positions.shape
        # [heads, rows * new, width] -> [rows, key heads, group * new, width]: queries that share a
        # key are computed as if they were further tokens, and no key is ever copied.
        own = query[0, :, run.tokens].view(groups, group, count, new, width)
        own = own.permute(2, 0, 1, 3, 4).reshape(count, groups, group * new, width)
        keys, values = key[run.rows, :, : run.filled], value[run.rows, :, : run.filled]
        if softcap is None and s_aux is None:
            mask = run.mask(window, group, own.dtype)
            got = _attention(own, keys, values, mask, scale)
        else:
            mask = run.mask(window, group, torch.bool)
            sinks = (
                None if s_aux is None else s_aux.view(1, groups, group).repeat_interleave(new, 2)
            )
            got = _bent(own, keys, values, mask, scale, softcap, sinks)
        got = got.view(count, groups, group, new, -1).permute(0, 3, 1, 2, 4)
        parts.append(got.reshape(1, count * new, heads, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1), None


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Torch's own attention, with a query more where that takes less time."""
    plain = query.dtype != torch.bfloat16 or query.device.type != "cpu"
    if plain or query.shape[2] % _BLOCK != 1:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    query = torch.cat([query, query[:, :, -1:]], 2)
    if mask.shape[2] > 1:
        mask = torch.cat([mask, mask[:, :, -1:]], 2)
    got = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return got[:, :, :-1]


def _bent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention with what torch's own knows nothing of: soft caps (Gemma 2), sinks (gpt-oss)."""
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        ends = sinks.float()[..., None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, ends], -1)
    weights = scores.softmax(-1).to(value.dtype)
    return weights[..., : key.shape[-2]] @ value


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
