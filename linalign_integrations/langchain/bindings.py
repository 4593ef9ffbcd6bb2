"""What is bound to a model stays with it, in every way to ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.language_models import BaseLanguageModel
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.runnables.config import ensure_config, set_config_context
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.runnables.utils import Input, Output

from linalign_integrations.errors import InvalidArgument
from linalign_integrations.preferences import Preferences, Principle


def unbound(model: Any) -> tuple[Any, dict[str, Any], RunnableConfig]:
    """What stands under all bindings, the arguments bound to it, and the configuration it gets."""
    arguments: dict[str, Any] = {}
    config: RunnableConfig | None = None
    while isinstance(model, (RunnableBinding, RunnableConfigurableFields)):
        if isinstance(model, RunnableBinding):
            arguments = {**model.kwargs, **arguments}
            model, config = model.bound, model._merge_configs(config)
        else:
            model, config = model.prepare(config)
    return model, arguments, ensure_config(config)


class Generates:
    """LangChain's own bindings hand these four on to the model alone, without what was bound."""

    def generate(
        self, given: Any, stop: list[str] | None = None, callbacks: Callbacks = None, **kwargs: Any
    ) -> LLMResult:
        """Answers several conversations or prompts with what is bound here."""
        return self._run("generate", given, stop, callbacks, kwargs)

    def generate_prompt(
        self, given: Any, stop: list[str] | None = None, callbacks: Callbacks = None, **kwargs: Any
    ) -> LLMResult:
        """``generate`` for LangChain's prompt values."""
        return self._run("generate_prompt", given, stop, callbacks, kwargs)

    async def agenerate(
        self, given: Any, stop: list[str] | None = None, callbacks: Callbacks = None, **kwargs: Any
    ) -> LLMResult:
        """``generate`` without blocking the event loop."""
        return await self._arun("agenerate", given, stop, callbacks, kwargs)

    async def agenerate_prompt(
        self, given: Any, stop: list[str] | None = None, callbacks: Callbacks = None, **kwargs: Any
    ) -> LLMResult:
        """``generate_prompt`` without blocking the event loop."""
        return await self._arun("agenerate_prompt", given, stop, callbacks, kwargs)

    def _run(self, name: str, given: Any, *said: Any) -> LLMResult:
        model, call, config = self._asked(*said)
        with set_config_context(config) as context:
            answers: LLMResult = context.run(getattr(model, name), given, **call)
        return answers

    async def _arun(self, name: str, given: Any, *said: Any) -> LLMResult:
        model, call, config = self._asked(*said)
        with set_config_context(config) as context:
            asking = asyncio.create_task(getattr(model, name)(given, **call), context=context)
            answers: LLMResult = await asking
        return answers

    def _asked(
        self, stop: list[str] | None, callbacks: Callbacks, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any], RunnableConfig]:
        model, bound, config = unbound(self)
        if not isinstance(model, BaseLanguageModel):
            raise InvalidArgument(f"generate cannot be asked of {type(model).__name__}: use batch")
        traced = {name: config.get(name) for name in ("callbacks", "tags", "metadata", "run_name")}
        said = {"stop": stop, "callbacks": callbacks}
        call = {
            **{name: one for name, one in traced.items() if one},
            **bound,
            **{name: one for name, one in said.items() if one is not None},
            **kwargs,
        }
        return model, call, config


class Bound(Generates, RunnableBinding[Input, Output]):  # type: ignore[no-redef]
    """A model with arguments and a configuration, which it keeps."""

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Serialised as itself: as LangChain's own binding it would lose what was bound."""
        return cls.__module__.split(".")

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """Arguments that have to be written in plain values."""
        return {"kwargs": _plain(self.kwargs)}

    def for_user(self, user_id: str) -> Bound[Input, Output]:
        """A cheap copy that answers for one user, with the same arguments."""
        bound: Any = self.bound
        return self.model_copy(update={"bound": bound.for_user(user_id)})

    # Not generators: preferences are those of the moment of the call, not of the first piece.
    def stream(
        self, input: Input, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Output]:
        """Answers one input piece by piece."""
        return self.bound.stream(input, self._merge_configs(config), **{**self.kwargs, **kwargs})

    def astream(
        self, input: Input, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Output]:
        """``stream`` for ``async for``."""
        return self.bound.astream(input, self._merge_configs(config), **{**self.kwargs, **kwargs})


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(arguments)
    whole, principles = made.pop("preferences", None), made.get("principles")
    if isinstance(principles, (tuple, list)):
        made["principles"] = [
            one.model_dump(mode="json") if isinstance(one, Principle) else one for one in principles
        ]
    elif isinstance(principles, Principle):
        made["principles"] = [principles.model_dump(mode="json")]
    if isinstance(whole, Preferences):
        made = {**whole.model_dump(mode="json"), **made}
    return made
