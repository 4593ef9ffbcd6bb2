"""Keys and values of prompts that were read before, found again by their tokens."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from linalign_integrations.engine.rows import Layers

    Tokens = NDArray[np.int32]
    Owners = dict[str | None, tuple[int, int]]

# Of fewer tokens copying costs about as much as computing.
WORTHWHILE = 16
# Most users of whom an entry knows that they know it; whoever came last is remembered.
_MOST_OWNERS = 1000
# Most replaced entries that are remembered; without them users are told of less.
_MOST_REPLACED = 1000


@dataclass(slots=True)
class _Entry:
    """One kept row.

    Attributes:
        token_ids: its tokens.
        layers: its keys and values.
        size: bytes of these.
        owners: for each user who sent or received its first tokens, how many of them, and how
            many bytes had been kept by then; whoever did so last comes last.
        added: how many bytes had been kept when it was added, its own included.
    """

    token_ids: Tokens
    layers: Layers
    size: int
    owners: Owners
    added: int


class PrefixStore:
    """Keeps the rows of finished requests, the least recently used ones giving way.

    A prefix is found by equality of tokens from position 0 and by nothing else, so that reuse
    changes speed only. What a user is *told* about reuse counts what that user sent or received.

    Args:
        limit: most bytes of keys and values to keep; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # The least recently used first; named by their tokens, which bytes sort like.
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        # Sorted, what has most in common stands side by side: nobody looks at every entry.
        self._order: list[bytes] = []
        # Bytes of all entries that were ever added, and of those that longer ones replaced: when
        # each was added, and its size.
        self._added = 0
        self._replaced: deque[tuple[int, int]] = deque(maxlen=_MOST_REPLACED)
        self.size = 0

    def find(self, token_ids: Sequence[int] | Tokens) -> tuple[int, Layers]:
        """The longest known start of these tokens: its length, and rows that begin with it.

        What is not worth its while is not found. Nothing counts as used yet: when the request is
        done its own row is kept, or the one that holds all of it is.
        """
        wanted = as_tokens(token_ids)
        at = bisect_left(self._order, _name(wanted))
        beside = self._order[max(0, at - 1) : at + 1]
        shared = [common(wanted, self._entries[name].token_ids) for name in beside]
        length = max(shared, default=0)
        if length < WORTHWHILE:
            return 0, []
        best = beside[shared.index(length)]
        return length, self._entries[best].layers

    def told(self, token_ids: Sequence[int] | Tokens, user: str | None) -> int:
        """How many of the first tokens are kept and known to that user already.

        Where this user's own are not worth their while none are told, whatever strangers sent. Nor
        is what would be gone by now, had not strangers sent it again.
        """
        wanted = as_tokens(token_ids)
        at = bisect_left(self._order, _name(wanted))
        longest = WORTHWHILE - 1
        for places in (range(at - 1, -1, -1), range(at, len(self._order))):
            for place in places:
                entry = self._entries[self._order[place]]
                shared = common(wanted, entry.token_ids)
                if shared <= longest:
                    break  # the further away, the less in common
                known, then = entry.owners.get(user, (0, 0))
                size = entry.size * known // len(entry.token_ids)
                if min(shared, known) > longest and self._added_since(then) <= self._limit - size:
                    longest = min(shared, known)
        return longest if longest >= WORTHWHILE else 0

    def holds(self, token_ids: Sequence[int], user: str | None) -> bool:
        """Whether all of these tokens begin a kept row; if so that user is known to know them."""
        name = _name(as_tokens(token_ids))
        at = bisect_left(self._order, name)
        if at == len(self._order) or not self._order[at].startswith(name):
            return False
        found = self._order[at]
        self._own(self._entries[found].owners, user, len(token_ids))
        self._entries.move_to_end(found)
        return True

    def add(self, token_ids: Sequence[int], layers: Layers, user: str | None) -> None:
        """Keeps a row that is not held yet, in place of the one that is only the start of it.

        Args:
            token_ids: its tokens.
            layers: its keys and values, which nobody else may change.
            user: who sent and received the tokens.
        """
        ids = as_tokens(token_ids)
        size = sum(one.numel() * one.element_size() for pair in layers for one in pair)
        if size > self._limit:
            return
        name = _name(ids)
        owners: Owners = {}
        # No entry begins another, so there is one start at most, and it stands right before.
        at = bisect_left(self._order, name)
        if at and name.startswith(start := self._order[at - 1]):
            owners = self._entries[start].owners
            self._replaced.append((self._entries[start].added, self._entries[start].size))
            self._remove(start)
        self._added += size
        self._own(owners, user, len(ids))
        self._entries[name] = _Entry(ids, layers, size, owners, self._added)
        insort(self._order, name)
        self.size += size
        while self.size > self._limit:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self._order.clear()
        self._replaced.clear()
        self.size = 0

    def _added_since(self, then: int) -> int:
        """Bytes of what was added since, but for what has been replaced by longer entries."""
        return self._added - then - sum(size for added, size in self._replaced if added > then)

    def _own(self, owners: Owners, user: str | None, length: int) -> None:
        known, _ = owners.pop(user, (0, 0))
        owners[user] = max(known, length), self._added
        if len(owners) > _MOST_OWNERS:
            del owners[next(iter(owners))]

    def _remove(self, name: bytes) -> None:
        self.size -= self._entries.pop(name).size
        del self._order[bisect_left(self._order, name)]


def as_tokens(token_ids: Sequence[int] | Tokens) -> Tokens:
    """Token ids in the form that is compared fastest."""
    return np.asarray(token_ids, dtype=np.int32)


def common(first: Tokens, second: Tokens) -> int:
    """How many tokens two sequences have in common from their beginning."""
    length = min(len(first), len(second))
    differs = first[:length] != second[:length]
    at = int(differs.argmax()) if length else 0
    return at if length and differs[at] else length


def _name(ids: Tokens) -> bytes:
    """Bytes that sort like the tokens."""
    return ids.astype(">i4").tobytes()
