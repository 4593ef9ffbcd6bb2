"""What a store is asked: LangGraph's operations, or their like where LangGraph is not installed.

LlamaIndex's key-value stores need no LangGraph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langgraph.store.base import GetOp, PutOp, SearchOp
else:
    try:
        from langgraph.store.base import GetOp, PutOp, SearchOp
    except ImportError:

        class GetOp(NamedTuple):
            """Asks for the item of a key."""

            namespace: tuple[str, ...]
            key: str

        class PutOp(NamedTuple):
            """Stores a value under a key, or removes it where there is none."""

            namespace: tuple[str, ...]
            key: str
            value: dict[str, Any] | None
            index: bool | None = None

        class SearchOp(NamedTuple):
            """Asks for the items of a namespace."""

            namespace_prefix: tuple[str, ...]
            limit: int = 10
            offset: int = 0


__all__ = ["GetOp", "Op", "PutOp", "SearchOp", "Store"]

Op = GetOp | PutOp | SearchOp


class Store(Protocol):
    """The part of LangGraph's ``BaseStore`` that profiles use."""

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        """Runs operations in their order."""
        ...

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        """``batch`` without blocking the event loop."""
        ...
