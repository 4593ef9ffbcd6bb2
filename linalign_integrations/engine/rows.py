"""Keys and values of the running branches, one row each, preallocated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from linalign_integrations.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_WINDOWED = "sliding_attention"
_KINDS = {"full_attention", _WINDOWED}


class Rows(Cache):
    """A key/value cache in which every row starts at position 0 and has a length of its own.

    Nothing is copied per step: new positions are written in place and the filled part is handed
    out as a view. Capacity doubles when it is reached. Rows shorter than the longest are told
    apart by the explicit masks of ``inputs``, so no row is ever padded on the left.

    Args:
        config: the model's text configuration.
        dtype: the model's.
        capacity: positions to allocate at first; a good guess avoids growing.
        limit: most positions that will ever be needed.
    """

    def __init__(
        self, config: PretrainedConfig, dtype: torch.dtype, capacity: int, limit: int
    ) -> None:
        self._rows: list[_RowLayer] = []
        super().__init__(layers=self._rows)  # type: ignore[arg-type] # a list of a subclass
        self._config = config
        self._dtype = dtype
        self._capacity = capacity
        self._limit = limit
        self._positions = torch.empty(0, 0, dtype=torch.long)
        self._filled = 0

    def inputs(self, token_ids: Tensor, lengths: Tensor) -> dict[str, Any]:
        """Keyword arguments for the model's forward pass over new tokens of every row.

        Args:
            token_ids: ``[rows, q]``; a row with fewer new tokens is padded on the right, and what
                is computed for the padding is overwritten before anything can attend to it.
            lengths: ``[rows]`` tokens that each row held before.
        """
        new = token_ids.shape[1]
        self._positions = lengths[:, None] + torch.arange(new, device=token_ids.device)
        self._filled = int(lengths.max()) + new
        return {
            "input_ids": token_ids,
            "position_ids": self._positions,
            "attention_mask": self._masks(),
            "past_key_values": self,
            "use_cache": True,
        }

    def _masks(self) -> Tensor | dict[str, Tensor]:
        keys = torch.arange(self._filled, device=self._positions.device)
        queries = self._positions[:, None, :, None]
        causal = keys <= queries
        window = getattr(self._config, "sliding_window", None)
        windowed = causal & (keys > queries - window) if window else causal
        causal, windowed = self._as_bias(causal), self._as_bias(windowed)
        kinds = getattr(self._config, "layer_types", None)
        if kinds is None:
            return windowed
        return {kind: windowed if kind == _WINDOWED else causal for kind in set(kinds)}

    def _as_bias(self, allowed: Tensor) -> Tensor:
        """The mask in the form that the model's attention adds or reads."""
        if self._config._attn_implementation != "eager":
            return allowed
        return torch.where(allowed, 0.0, torch.finfo(self._dtype).min).to(self._dtype)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Writes one layer's new keys and values and returns all of that layer's, as views."""
        del args, kwargs
        while len(self._rows) <= layer_idx:
            self._rows.append(_RowLayer())
        layer = self._rows[layer_idx]
        while self._capacity < self._filled:
            self._capacity = max(self._filled, min(2 * self._capacity, self._limit))
        return layer.write(key_states, value_states, self._positions, self._filled, self._capacity)


class _RowLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, ``[rows, heads, capacity, head_dim]`` each."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._filled = 0

    def write(
        self, keys: Tensor, values: Tensor, positions: Tensor, filled: int, capacity: int
    ) -> tuple[Tensor, Tensor]:
        self.keys = self._fit(self.keys, keys, capacity)
        self.values = self._fit(self.values, values, capacity)
        self.is_initialized = True
        row = torch.arange(len(positions), device=positions.device)[:, None]
        # The indexed dimensions come first in the assigned view: [rows, q, heads, head_dim].
        self.keys[row, :, positions] = keys.transpose(1, 2)
        self.values[row, :, positions] = values.transpose(1, 2)
        self._filled = filled
        return self.keys[:, :, :filled], self.values[:, :, :filled]

    def _fit(self, held: Tensor | None, new: Tensor, capacity: int) -> Tensor:
        if held is not None and held.shape[2] >= capacity:
            return held
        # Zeros, since a masked key still takes part as 0 times its value, which must not be NaN.
        room = new.new_zeros(*new.shape[:2], capacity, new.shape[3])
        if held is not None:
            room[:, :, : held.shape[2]] = held
        return room

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do before the first write, which knows the capacity."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Rows need positions; ``Rows.update`` writes them."""
        del key_states, value_states, args, kwargs
        raise TypeError("write through Rows.update")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        del query_length
        return self._filled, 0

    def get_seq_length(self) -> int:
        return self._filled

    def get_max_length(self) -> int:
        return -1


def check_supported(config: PretrainedConfig) -> None:
    """Refuses attention that rows cannot express.

    Raises:
        UnsupportedModel: the model has layers other than full or sliding-window attention.
    """
    # GPT-Neo's local layers cut a window by the cache's length, which rows do not share.
    named = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    unknown = set(named or ()) - _KINDS
    if unknown:
        raise UnsupportedModel(
            f"{config.model_type} has layers of kind {', '.join(sorted(unknown))}; only full and "
            "sliding-window attention are supported"
        )
