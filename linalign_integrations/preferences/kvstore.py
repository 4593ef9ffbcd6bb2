"""LlamaIndex's key-value stores, asked as LangGraph's stores are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from linalign_integrations.preferences.operations import GetOp, PutOp, SearchOp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llama_index.core.storage.kvstore.types import BaseKVStore

    from linalign_integrations.preferences.operations import Op


class KeyValueStore:
    """A LlamaIndex ``BaseKVStore`` as a ``Store``; a namespace is a collection.

    It gets, puts, deletes, and lists one namespace.

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


class _Item(NamedTuple):
    namespace: tuple[str, ...]
    key: str
    value: dict[str, Any]


def _item(op: GetOp, value: dict[str, Any] | None) -> _Item | None:
    return None if value is None else _Item(op.namespace, op.key, value)


def _items(op: SearchOp, values: Mapping[str, dict[str, Any]]) -> list[_Item]:
    found = list(values.items())[op.offset : op.offset + op.limit]
    return [_Item(op.namespace_prefix, key, value) for key, value in found]
