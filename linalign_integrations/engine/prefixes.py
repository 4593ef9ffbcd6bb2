"""Keys and values of prompts that were read before, found again by their tokens."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from linalign_integrations.engine.rows import Layers

    Tokens = NDArray[np.int32]

# Of fewer tokens copying costs about as much as computing.
WORTHWHILE = 16


@dataclass(slots=True)
class _Entry:
    """One kept row.

    Attributes:
        token_ids: its tokens.
        layers: its keys and values.
        size: bytes of these.
        owners: for each user who sent or received its first tokens, how many of them.
    """

    token_ids: Tokens
    layers: Layers
    size: int
    owners: dict[str | None, int]


class PrefixStore:
    """Keeps the rows of finished requests, the least recently used ones giving way.

    A prefix is found by equality of tokens from position 0 and by nothing else, so that reuse
    changes speed only. What a user is *told* about reuse counts what that user sent or received.

    Args:
        limit: most bytes of keys and values to keep; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # The least recently used first.
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._next = 0
        self.size = 0

    def find(self, token_ids: Sequence[int] | Tokens) -> tuple[int, Layers]:
        """The longest known start of these tokens: its length, and rows that begin with it.

        What is not worth its while is not found, nor does it count as used.
        """
        wanted = as_tokens(token_ids)
        best, length = None, WORTHWHILE
        for name, entry in self._entries.items():
            shared = common(wanted, entry.token_ids)
            # Of equals the one used last: so many begin alike that the others could never go.
            if shared >= length:
                best, length = name, shared
        if best is None:
            return 0, []
        self._entries.move_to_end(best)
        return length, self._entries[best].layers

    def told(self, token_ids: Sequence[int] | Tokens, user: str | None) -> int:
        """How many of the first tokens are kept and known to that user already.

        Where this user's own are not worth their while none are told, whatever strangers sent.
        """
        wanted = as_tokens(token_ids)
        known = [
            min(common(wanted, entry.token_ids), entry.owners[user])
            for entry in self._entries.values()
            if user in entry.owners
        ]
        longest = max(known, default=0)
        return longest if longest >= WORTHWHILE else 0

    def holds(self, token_ids: Sequence[int], user: str | None) -> bool:
        """Whether all of these tokens begin a kept row; if so that user is known to know them."""
        wanted = as_tokens(token_ids)
        for name, entry in self._entries.items():
            if common(wanted, entry.token_ids) == len(wanted):
                entry.owners[user] = max(entry.owners.get(user, 0), len(wanted))
                self._entries.move_to_end(name)
                return True
        return False

    def add(self, token_ids: Sequence[int], layers: Layers, user: str | None) -> None:
        """Keeps a row, in place of those that are only the start of it.

        Args:
            token_ids: its tokens.
            layers: its keys and values, which nobody else may change.
            user: who sent and received the tokens.
        """
        ids = as_tokens(token_ids)
        size = sum(one.numel() * one.element_size() for pair in layers for one in pair)
        if size > self._limit:
            return
        owners = {user: len(ids)}
        for name, entry in list(self._entries.items()):
            if common(ids, entry.token_ids) == len(entry.token_ids):
                for owner, length in entry.owners.items():
                    owners[owner] = max(owners.get(owner, 0), length)
                self._remove(name)
        self._entries[self._next] = _Entry(ids, layers, size, owners)
        self._next += 1
        self.size += size
        while self.size > self._limit:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.size = 0

    def _remove(self, name: int) -> None:
        self.size -= self._entries.pop(name).size


def as_tokens(token_ids: Sequence[int] | Tokens) -> Tokens:
    """Token ids in the form that is compared fastest."""
    return np.asarray(token_ids, dtype=np.int32)


def common(first: Tokens, second: Tokens) -> int:
    """How many tokens two sequences have in common from their beginning."""
    length = min(len(first), len(second))
    differs = first[:length] != second[:length]
    at = int(differs.argmax()) if length else 0
    return at if length and differs[at] else length
