"""LlamaIndex's key-value stores behind LangGraph's store interface."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from langgraph.store.base import BaseStore, GetOp, Item, PutOp, SearchItem, SearchOp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from langgraph.store.base import Op
    from llama_index.core.storage.kvstore.types import BaseKVStore

_UNKNOWN = datetime.fromtimestamp(0, UTC)


class KeyValueStore(BaseStore):
    """A ``BaseStore`` over a LlamaIndex ``BaseKVStore``; a namespace is a collection.

    It gets, puts, deletes, and lists one namespace. Key-value stores keep no times, so those of the
    items mean nothing.

    Args:
        kept: any LlamaIndex key-value store.
    """

    def __init__(self, kept: BaseKVStore) -> None:
        self._kept = kept

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        """Runs operations in their order."""
        return [self._run(op) for op in ops]

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        """``batch`` by the store's own asynchronous methods."""
        return [await self._arun(op) for op in ops]

    def _run(self, op: Op) -> Any:
        match op:
            case GetOp():
                return _item(op, self._kept.get(op.key, _collection(op.namespace)))
            case PutOp(value=value):
                if value is None:
                    self._kept.delete(op.key, _collection(op.namespace))
                else:
                    self._kept.put(op.key, dict(value), _collection(op.namespace))
            case SearchOp():
                return _items(op, self._kept.get_all(_collection(op.namespace_prefix)))
            case _:
                raise NotImplementedError(type(op).__name__)
        return None

    async def _arun(self, op: Op) -> Any:
        match op:
            case GetOp():
                return _item(op, await self._kept.aget(op.key, _collection(op.namespace)))
            case PutOp(value=value):
                if value is None:
                    await self._kept.adelete(op.key, _collection(op.namespace))
                else:
                    await self._kept.aput(op.key, dict(value), _collection(op.namespace))
            case SearchOp():
                return _items(op, await self._kept.aget_all(_collection(op.namespace_prefix)))
            case _:
                raise NotImplementedError(type(op).__name__)
        return None


def _collection(namespace: tuple[str, ...]) -> str:
    return ".".join(namespace)


def _item(op: GetOp, value: dict[str, Any] | None) -> Item | None:
    if value is None:
        return None
    return Item(
        value=value,
        key=op.key,
        namespace=op.namespace,
        created_at=_UNKNOWN,
        updated_at=_UNKNOWN,
    )


def _items(op: SearchOp, values: Mapping[str, dict[str, Any]]) -> list[SearchItem]:
    return [
        SearchItem(op.namespace_prefix, key, value, created_at=_UNKNOWN, updated_at=_UNKNOWN)
        for key, value in list(values.items())[op.offset : op.offset + op.limit]
    ]
