"""Keys and values of the running branches, one row each, preallocated."""

from __future__ import annotations

import inspect
import math
import mmap
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from linalign_integrations.engine.attention import WINDOWED, Pass, computing, marks, prepare
from linalign_integrations.errors import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

# Keys and values ``[heads, length, head_dim]`` of one row, for every layer.
Layers = list[tuple[Tensor, Tensor]]

_KINDS = {"full_attention", WINDOWED}


class Rows(Cache):
    """A key/value cache in which every row starts at position 0 and has a length of its own.

    Rows in use are always the first ``len(lengths)``; the others hold zeros only, since a NaN
    spoils whoever has its row next, masked or not. Nothing is copied per step: new positions
    are written in place and the filled part is handed out as a view. Room for rows and for
    positions doubles when it is used up. No row is ever padded.

    Everything happens in ``torch.inference_mode``, which the caller has entered.

    Args:
        model: a causal decoder with full or sliding-window attention.
        max_positions: most positions that a row will need.
        max_bytes: most bytes to hold beyond what is in use; None for no limit.

    Attributes:
        lengths: tokens that each row in use holds.
    """

    # Any number of new tokens may be read at a time, and a known start may be put in.
    divisible: Literal[True] = True

    def __init__(
        self, model: PreTrainedModel, *, max_positions: int, max_bytes: int | None = None
    ) -> None:
        self._rows: list[_RowLayer] = []
        super().__init__(layers=self._rows)  # type: ignore[arg-type] # a list of a subclass
        self._model = model
        self._config = model.config.get_text_config()
        prepare(self._config)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._max_positions = max_positions
        self._max_bytes = max_bytes
        self._room = (0, 0)
        self._pass: Pass | None = None
        # Positions of each row in use that were ever written.
        self._touched: list[int] = []
        self.lengths: list[int] = []

    @property
    def position_bytes(self) -> int:
        """Bytes of one position of one row; 0 before the first forward pass."""
        return sum(
            (one.keys[0, :, 0].numel() + one.values[0, :, 0].numel()) * one.keys.element_size()
            for one in self._rows
            if one.is_initialized
        )

    def add(self, count: int) -> None:
        """Takes empty rows into use, behind the others."""
        self.lengths += [0] * count
        self._touched += [0] * count

    def drop(self, count: int) -> None:
        """Gives the last rows back, emptied."""
        kept = len(self.lengths) - count
        for row in range(kept, len(self.lengths)):
            self._empty(row, 0)
        del self.lengths[kept:], self._touched[kept:]

    def move(self, source: int, target: int) -> None:
        """Makes a row hold what another does."""
        self.copy(source, target, self.lengths[source])

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes a row hold the first tokens of another, and nothing else."""
        self.reserve(length)
        for layer in self._rows:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]
        self._empty(target, length)
        self.lengths[target] = length

    def _empty(self, row: int, begin: int) -> None:
        """Forgets what a row ever held from a position on."""
        for layer in self._rows if self._touched[row] > begin else ():
            if layer.is_initialized:
                layer.keys[row, :, begin : self._touched[row]] = 0
                layer.values[row, :, begin : self._touched[row]] = 0
        self._touched[row] = begin

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order; one that is named twice becomes two."""
        self.lengths = [self.lengths[row] for row in rows]
        self._touched = [self._touched[row] for row in rows]
        for layer in self._rows:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self._room = (len(rows), self._room[1])

    def put(self, row: int, layers: Layers, length: int) -> None:
        """Makes a row hold the first ``length`` tokens of what ``read`` returned."""
        while len(self._rows) < len(layers):
            self._rows.append(_RowLayer())  # type: ignore[no-untyped-call]
        self.reserve(length)
        for layer, (keys, values) in zip(self._rows, layers, strict=True):
            layer.fit(keys[None], values[None], self._room)
            layer.keys[row, :, :length] = keys[:, :length]
            layer.values[row, :, :length] = values[:, :length]
        self._empty(row, length)
        self.lengths[row] = length

    def read(self, row: int) -> Layers:
        """Copies of a row's keys and values."""
        length = self.lengths[row]
        held = [one[row, :, :length] for layer in self._rows for one in (layer.keys, layer.values)]
        copies = iter(_together(held))
        return list(zip(copies, copies, strict=True))

    def release(self) -> None:
        """Gives everything back, the model included; the rows are of no use any more."""
        self.lengths.clear()
        self._rows.clear()
        del self._model

    def reserve(self, positions: int) -> None:
        """Makes room for the rows in use to have that many positions.

        Raises:
            MemoryError, RuntimeError: no memory can be had; the rows are as they were.
        """
        rows = len(self.lengths)
        had_rows, had_positions = self._room
        if rows <= had_rows and positions <= had_positions:
            return
        # What grows doubles; what does not shrinks to what is in use.
        positions = max([positions, *self.lengths])
        wide = min(_doubled(positions), max(positions, self._max_positions))
        high = _doubled(rows)
        if self._max_bytes is not None and self.position_bytes:
            most = self._max_bytes // self.position_bytes
            wide = max(positions, min(wide, most // rows))
            high = max(rows, min(high, most // wide))
        room = (high, wide)
        kept = max(self.lengths[:had_rows], default=0)
        # All layers or none: memory may run out halfway.
        grown = [layer.grown(room, min(rows, had_rows), kept) for layer in self._rows]
        for layer, held in zip(self._rows, grown, strict=True):
            if held is not None:
                layer.keys, layer.values = held
        self._room = room

    def forward(self, new: Sequence[Sequence[int]], first: int = 0) -> Tensor:
        """Reads new tokens and returns what may follow them.

        The rows' lengths stay as they are: a pass that failed may be tried again. ``extend``
        makes the new tokens count.

        Args:
            new: tokens for each of some adjacent rows; one with none is left as it is.
            first: the first of these rows.

        Returns:
            ``[rows with new tokens, vocab]`` float32 logits after the last of them.
        """
        device = self._model.device
        reading = [(row, tokens) for row, tokens in enumerate(new, first) if tokens]
        rows, counts = [row for row, _ in reading], [len(tokens) for _, tokens in reading]
        lengths = [self.lengths[row] for row in rows]
        ends = [length + count for length, count in zip(lengths, counts, strict=True)]
        self.reserve(max(ends))
        for row, end in zip(rows, ends, strict=True):
            self._touched[row] = max(self._touched[row], end)
        self._pass = Pass.over(rows, lengths, counts, device)
        token_ids = [token for _, tokens in reading for token in tokens]
        last = self._pass.last
        try:
            with computing(self._pass):
                logits: Tensor = self._model(
                    input_ids=torch.tensor([token_ids], device=device),
                    position_ids=self._pass.positions[None],
                    attention_mask=marks(self._config, device),
                    cache=self,
                    use_cache=True,
                    **({"logits_to_keep": last} if self._keeps_logits else {}),
                ).logits[0]
        finally:
            self._pass = None
        if not self._keeps_logits:
            logits = logits[last]
        logits = logits.float()
        # MPS has no float64, in which the step is computed.
        return logits.cpu() if logits.device.type == "mps" else logits

    def extend(self, new: Sequence[Sequence[int]], first: int = 0) -> None:
        """Makes tokens that ``forward`` has read count."""
        for row, tokens in enumerate(new, first):
            self.lengths[row] += len(tokens)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Writes one layer's new keys and values and returns all that the layer has."""
        del args, kwargs
        while len(self._rows) <= layer_idx:
            self._rows.append(_RowLayer())  # type: ignore[no-untyped-call]
        layer = self._rows[layer_idx]
        layer.fit(key_states, value_states, self._room)
        assert self._pass is not None  # noqa: S101 - models ask in ``forward`` only
        return layer.write(key_states, value_states, self._pass)


class _RowLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, ``[rows, heads, positions, head_dim]`` each."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def fit(self, keys: Tensor, values: Tensor, room: tuple[int, int]) -> None:
        """Allocates on first use, when the shape of a head is known."""
        if not self.is_initialized:
            self.keys, self.values = _room(keys, room), _room(values, room)
            self.is_initialized = True

    def grown(self, room: tuple[int, int], rows: int, length: int) -> tuple[Tensor, Tensor] | None:
        """Copies with other room that hold the first tokens of the first rows; None if unused."""
        if not self.is_initialized:
            return None
        keys, values = _room(self.keys, room), _room(self.values, room)
        keys[:rows, :, :length] = self.keys[:rows, :, :length]
        values[:rows, :, :length] = self.values[:rows, :, :length]
        return keys, values

    def write(self, keys: Tensor, values: Tensor, of: Pass) -> tuple[Tensor, Tensor]:
        # The indexed dimensions come first in the assigned view: [tokens, heads, head_dim].
        self.keys[of.rows, :, of.positions] = keys[0].transpose(0, 1)
        self.values[of.rows, :, of.positions] = values[0].transpose(0, 1)
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do before the first write, which knows the room."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Rows need positions; ``Rows.update`` writes them."""
        del key_states, value_states, args, kwargs
        raise TypeError("write through Rows.update")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """What models ask to make masks of, which they need not."""
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


def _room(like: Tensor, room: tuple[int, int]) -> Tensor:
    """Room for rows and positions; zeros, since a masked key counts as 0 times its value."""
    return _zeros(like, (room[0], like.shape[1], room[1], like.shape[3]))


def _together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies that lie in one piece of memory.

    What is kept of rows comes and goes in all sizes, and among thousands of small pieces malloc
    soon held as much memory between them as in them.
    """
    sizes = [one.numel() for one in tensors]
    pieces = torch.split(_zeros(tensors[0], (sum(sizes),)), sizes)
    return [piece.view(one.shape).copy_(one) for piece, one in zip(pieces, tensors, strict=True)]


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of the same kind."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    # Asked this way, the system hands out zeroed pages as they are first used; torch would write
    # them all now, while everybody waits. Small pages, since of a large one most would be zeroed
    # for positions that nobody has yet, and since a guest of a virtual machine may wait four times
    # as long for large ones. Private ones, which a process that is forked off copies before it
    # writes, and which come faster than shared ones.
    size = max(1, math.prod(shape) * like.element_size())
    try:
        if sys.platform == "win32":
            held = mmap.mmap(-1, size)
        else:
            held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size / 2**20:.0f} MiB are not to be had") from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A kernel that knows no large pages has none to do without.
        with suppress(OSError):
            held.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(held, dtype=torch.uint8).view(like.dtype).view(shape)


def _doubled(needed: int) -> int:
    """The next power of two, so that growing by one at a time rarely copies."""
    return 1 << (needed - 1).bit_length()


def check_supported(model: PreTrainedModel) -> None:
    """Refuses attention that rows cannot express.

    Raises:
        UnsupportedModel: the model has layers other than full or sliding-window attention, or
            computes its attention in a way of its own.
    """
    config = model.config.get_text_config()
    unknown = set(getattr(config, "layer_types", None) or ()) - _KINDS
    if unknown:
        raise UnsupportedModel(
            f"{config.model_type} has layers of kind {', '.join(sorted(unknown))}; only full and "
            "sliding-window attention can be run in rows"
        )
    if not model._supports_attention_backend:
        raise UnsupportedModel(
            f"{config.model_type} computes attention in a way of its own, which knows no rows"
        )
