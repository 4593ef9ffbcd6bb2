"""What LangChain's configuration says of a call's preferences."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from langchain_core.runnables.config import ensure_config, get_config_list

from linalign_integrations.errors import InvalidArgument
from linalign_integrations.langchain.errors import langchain_errors
from linalign_integrations.preferences import scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from langchain_core.runnables import RunnableConfig

    from linalign_integrations.adapter import Adapter
    from linalign_integrations.preferences import Preferences

_Settled = TypeVar("_Settled")
_Piece = TypeVar("_Piece")


def take_preferences(
    adapter: Adapter, config: RunnableConfig | None, call: dict[str, Any]
) -> Preferences:
    """Resolves the preferences of a call and removes from ``call`` what it said of them.

    It must happen at the public entry points: only those see the configuration of a direct call or
    of one item of a batch, and what they pass on by value is what caches compare.
    """
    configurable, context = _carriers(config)
    with langchain_errors():
        return adapter._take_preferences(call, config=configurable, context=context)


async def atake_preferences(
    adapter: Adapter, config: RunnableConfig | None, call: dict[str, Any]
) -> Preferences:
    """``take_preferences`` without blocking the event loop where a profile may have to be read."""
    if adapter.profiles is None:
        return take_preferences(adapter, config, call)
    return await asyncio.to_thread(take_preferences, adapter, config, call)


def named_user(config: RunnableConfig | None) -> str | None:
    """Whom the configuration or LangGraph's context says the call is for.

    The engine deals fairly with users, and tells nobody what others' prompts began with.
    """
    return scope.named_user(*_carriers(config))


def _carriers(config: RunnableConfig | None) -> tuple[dict[str, Any], object]:
    """Where preferences and users are said: the configuration's values, and LangGraph's context."""
    configurable = ensure_config(config).get("configurable", {})
    return configurable, getattr(configurable.get("__pregel_runtime"), "context", None)


def require_reusable(grammar: object, answers: int) -> None:
    """Refuses a constraint for several answers: it goes along with the text of one.

    Raises:
        InvalidArgument: it is one, and there are several.
    """
    if answers < 2:
        return
    from linalign_integrations.engine import Grammar

    if not isinstance(grammar, Grammar | None):
        raise InvalidArgument(
            f"grammar= is a {type(grammar).__name__}, which is good for one answer, not for "
            f"{answers}: give a Grammar, or ask one by one"
        )


def settle(adapter: Adapter, config: RunnableConfig | None, call: dict[str, Any]) -> None:
    """Puts into a call whose it is and what they prefer, by value."""
    call["preferences"] = take_preferences(adapter, config, call)
    if call.get("user") is None and (user := named_user(config)) is not None:
        call["user"] = user


async def asettle(adapter: Adapter, config: RunnableConfig | None, call: dict[str, Any]) -> None:
    """``settle`` without blocking the event loop where a profile may have to be read."""
    if adapter.profiles is None:
        settle(adapter, config, call)
    else:
        await asyncio.to_thread(settle, adapter, config, call)


def settled_first(
    settle: Callable[[], _Settled], ask: Callable[[_Settled], Any]
) -> AsyncIterator[_Piece]:
    """A stream whose preferences are read where nobody else waits, in the context of this moment.

    Args:
        settle: reads them, in another thread, when the first piece is asked for.
        ask: what begins the stream, given what ``settle`` returned.
    """
    context = copy_context()

    async def pieces() -> AsyncIterator[_Piece]:
        settled = await asyncio.to_thread(context.run, settle)
        async with aclosing(ask(settled)) as told:
            async for piece in told:
                yield piece

    return pieces()


def by_value(call: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments such that those that differ have another ``repr``, for cache keys."""
    from linalign_integrations.engine import Grammar

    grammar = call.get("grammar")
    if isinstance(grammar, Grammar):
        # Its repr is shortened.
        return {**call, "grammar": (grammar.kind, grammar.text)}
    # A constraint of the caller's own has a state, and no two are known to be equal.
    return call if grammar is None else {**call, "grammar": uuid4()}


# Rows that an engine has unless it is told otherwise; it batches what arrives together.
CROWD = 64


def in_crowds(
    config: RunnableConfig | Sequence[RunnableConfig] | None, count: int
) -> list[RunnableConfig]:
    """A batch's configurations, with as many items at once as an engine has use for.

    LangChain's own default is a few threads per core, which would leave most rows empty, and for
    tasks no limit, with which a large batch would be refused by a full engine.
    """
    return [
        {**one, "max_concurrency": one.get("max_concurrency") or CROWD}
        for one in get_config_list(config, count)
    ]
