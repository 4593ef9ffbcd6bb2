"""PreferencesMiddleware: agents of ``create_agent`` that answer each user as that user prefers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from linalign_integrations.errors import InvalidArgument, MissingExtra, ProfileNotFound
from linalign_integrations.langchain.bindings import unbound
from linalign_integrations.langchain.chat import ChatLinAlign
from linalign_integrations.preferences import Preferences, Profiles, as_preferences, open_profiles

try:
    from langchain.agents.middleware import AgentMiddleware
except ImportError as error:
    raise MissingExtra(
        "PreferencesMiddleware needs a package that is not installed: "
        "pip install 'linalign-integrations[agents]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from langchain.agents.middleware import ModelRequest, ModelResponse
    from langgraph.store.base import BaseStore
    from llama_index.core.storage.kvstore.types import BaseKVStore

    from linalign_integrations.preferences import Principle


class PreferencesMiddleware(AgentMiddleware[Any, Any, Any]):
    """Gives every model call of an agent the preferences of the user whom it runs for.

    Who that is, or what they prefer, stands in the run's configuration or in its context:
    ``user_id``, ``principles`` (with ``ratio``, ... beside them) or whole ``preferences``, as keys
    or attributes, first hit first as in ``ChatLinAlign``. Profiles are looked up here, else where
    the model looks them up, else in the agent's own ``store``. The middleware keeps nothing of a
    user between calls, and works in ``invoke`` and ``ainvoke``.

    Example:
        ``create_agent(chat, tools, middleware=[PreferencesMiddleware("sqlite:///profiles.db")])``
        ``.invoke(question, {"configurable": {"user_id": "ann"}})``

    Args:
        profiles: where users' preferences are kept: a URL, a store, or ``Profiles``.
        house_rules: an organisation's preferences, which stand below each user's own as in
            ``Preferences.merge``: principles add up, and a user who asks for *no alignment*, by an
            explicit empty tuple, gets none. A user without a profile gets house rules alone where
            the model's ``on_unknown_user`` is ``"plain"``.

    Raises:
        InvalidArgument: profiles cannot be kept in what is given.
        InvalidPreferences: the house rules are no preferences.
        MissingExtra: the store's package is not installed.
        ProfileStoreFailed: the store cannot be opened.
    """

    def __init__(
        self,
        profiles: Profiles | BaseStore | BaseKVStore | str | None = None,
        *,
        house_rules: Preferences | Principle | str | Sequence[str | Principle] | None = None,
    ) -> None:
        super().__init__()
        self._profiles = None if profiles is None else _opened(profiles)
        self._house_rules = as_preferences(house_rules)

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Calls the model under the preferences of the run's user.

        Raises:
            InvalidArgument: the model is no ``ChatLinAlign``.
            InvalidPreferences: what configuration or context say is no preferences.
            ProfileNotFound: the user has no profile, or there is no store to look it up in.
            ProfileStoreFailed: the store cannot be read.
        """
        return handler(self._settle(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """``wrap_model_call`` without blocking the event loop while a profile is read."""
        return await handler(await asyncio.to_thread(self._settle, request))

    def _settle(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        model, bound, config = unbound(request.model)
        runtime = request.runtime
        if not isinstance(model, ChatLinAlign):
            raise InvalidArgument(
                f"PreferencesMiddleware aligns the answers of ChatLinAlign, and the agent's model "
                f"is {type(request.model).__name__}: pass create_agent a ChatLinAlign, or leave "
                "the middleware out"
            )
        profiles = self._profiles or model.profiles
        if profiles is None:
            store = getattr(runtime, "store", None)
            profiles = _NoProfiles() if store is None else _opened(store)
        call = {**bound, **request.model_settings}
        preferences = model._take_preferences(
            call,
            config=config.get("configurable"),
            context=getattr(runtime, "context", None),
            profiles=_opened(profiles),
            house_rules=self._house_rules,
        )
        # Arguments that are part of them by now are set to None, or they would be put on top again.
        names = request.model_settings.keys() | (bound.keys() - call.keys())
        settings = {name: call.get(name) for name in names}
        return request.override(model_settings={**settings, "preferences": preferences})


class _NoProfiles(Profiles):
    """What is asked where there is no store, since somebody who is named expects to be known."""

    def __init__(self) -> None:
        """Opens nothing."""

    def __repr__(self) -> str:
        return "PreferencesMiddleware without profiles"

    def get(self, user_id: str) -> Preferences:
        raise ProfileNotFound(
            f"the run is for user {user_id!r}, and there is no store to find their preferences in: "
            "pass PreferencesMiddleware profiles=, for example 'sqlite:///profiles.db', or "
            "create_agent a store="
        )


def _opened(profiles: Any) -> Profiles:
    return profiles if isinstance(profiles, Profiles) else open_profiles(profiles)
