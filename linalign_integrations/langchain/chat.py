"""ChatLinAlign: a local chat model that follows each user's preferences."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langchain_core.runnables.utils import AnyConfigurableField
from pydantic import BaseModel, Field, ValidationError, model_validator

from linalign_integrations.adapter import Adapter, fingerprint
from linalign_integrations.errors import InvalidArgument, InvalidMessages, describe
from linalign_integrations.langchain.errors import langchain_errors
from linalign_integrations.langchain.messages import Answer, as_dicts
from linalign_integrations.langchain.profile import model_profile
from linalign_integrations.langchain.scope import (
    asettle,
    by_value,
    in_crowds,
    require_reusable,
    settle,
    settled_first,
)
from linalign_integrations.langchain.structured import read_format, spelled_out
from linalign_integrations.langchain.tools import (
    Bindable,
    BoundLinAlign,
    ConfigurableLinAlign,
    as_schemas,
    read_tool_choice,
)

if TYPE_CHECKING:
    from linalign_integrations.engine import Engine, Result
    from linalign_integrations.engine.generation import AsyncGeneration, Generation
    from linalign_integrations.langchain.structured import Format


class ChatLinAlign(Bindable, Adapter, BaseChatModel):  # type: ignore[misc]
    """A local Hugging Face model as a LangChain chat model with per-user preferences.

    Example:
        ``ChatLinAlign(model="pocket").invoke("Hello", principles=["Answer like a pirate."])``

    Preferences are looked up per call, first hit first: call arguments (``principles=``,
    ``ratio=``, ``kl_budget=``, ...), ``config["configurable"]``'s ``principles``, the stored
    profile of its ``user_id``, ``use_preferences``, then this object's own fields.
    """

    _takes = (*Adapter._takes, "n", "logprobs", "top_logprobs", "response_format", "user")

    streaming: bool = Field(default=False, description="Whether invoke streams to callbacks.")
    n: int = Field(default=1, ge=1, le=64, description="Answers that generate gives per prompt.")
    logprobs: bool | None = Field(
        default=None, description="Whether response_metadata has each token's log-probability."
    )
    top_logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Alternatives to tell of each token, too."
    )
    trace_principles: bool = Field(
        default=False, description="Whether tracers see what principles say."
    )

    @property
    def _llm_type(self) -> str:
        return "linalign-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        made = self._identity()
        if self.trace_principles:
            made["principles"] = self.lc_attributes.get("principles")
        return made

    def _identity(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _Counts.model_fields}
        return {**super()._identity(), **own}

    def for_user(self, user_id: str) -> ChatLinAlign:
        """A cheap copy that answers for one user; behind ``with_fallbacks`` all of them do."""
        # Not ``Self``: LangChain's fallbacks ask by this type whether a model comes back.
        return super().for_user(user_id)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> BoundLinAlign:
        """The model under a configuration, which it keeps as well."""
        merged: Any = {**(config or {}), **kwargs}
        return BoundLinAlign(bound=self, config=merged, kwargs={})

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> ConfigurableLinAlign:
        """The model with fields that a configuration sets, also beside tools or a schema."""
        made: Any = super().configurable_fields(**kwargs)
        return ConfigurableLinAlign(default=self, fields=made.fields)

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answers one input; see the class for the arguments that set preferences."""
        settle(self, config, kwargs)
        return super().invoke(input, config, stop=stop, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """``invoke`` without blocking the event loop."""
        await asettle(self, config, kwargs)
        return await super().ainvoke(input, config, stop=stop, **kwargs)

    # Not generators: preferences are those of the moment of the call, not of the first piece.
    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answers one input piece by piece."""
        settle(self, config, kwargs)
        return super().stream(input, config, stop=stop, **kwargs)

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """``stream`` for ``async for``."""
        ask: Any = super().astream
        if self.profiles is None:
            settle(self, config, kwargs)
            answer: AsyncIterator[AIMessageChunk] = ask(input, config, stop=stop, **kwargs)
            return answer
        return settled_first(
            lambda: settle(self, config, kwargs),
            lambda _: ask(input, config, stop=stop, **kwargs),
        )

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answers several inputs at once, each under the preferences of its own config."""
        configs = in_crowds(config, len(inputs))
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """``batch`` without blocking the event loop."""
        configs = in_crowds(config, len(inputs))
        return await super().abatch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answers one input as a stream of events."""
        settle(self, config, kwargs)
        return super().stream_events(input, config, **kwargs)

    def astream_events(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """``stream_events`` for ``async for``; version 3 is to be awaited first."""
        ask = super().astream_events
        if self.profiles is None:
            settle(self, config, kwargs)
            return ask(input, config, **kwargs)
        if kwargs.get("version") != "v3":
            return settled_first(
                lambda: settle(self, config, kwargs), lambda _: ask(input, config, **kwargs)
            )
        context = copy_context()

        async def awaited() -> Any:
            await asyncio.to_thread(context.run, settle, self, config, kwargs)
            return await ask(input, config, **kwargs)

        return awaited()

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> LLMResult:
        """Answers several conversations, one after the other."""
        settle(self, None, kwargs)
        return super().generate(messages, stop, *args, **kwargs)

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> LLMResult:
        """``generate`` without blocking the event loop."""
        await asettle(self, None, kwargs)
        return await super().agenerate(messages, stop, *args, **kwargs)

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        params = super()._get_invocation_params(stop=stop, **kwargs)
        params.pop("user", None)
        preferences = kwargs.get("preferences")
        if self.trace_principles and preferences is not None:
            return {**params, "preferences": preferences.model_dump(mode="json")}
        return {**params, "preferences": fingerprint(preferences)}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # Never the serialised model: it says nothing of principles, and copies share it.
        call = {name: value for name, value in by_value(kwargs).items() if name != "user"}
        with langchain_errors():
            if call.get("tools"):
                call["tools"] = as_schemas(call["tools"])
            if call.get("response_format") is not None:
                call["response_format"] = spelled_out(call["response_format"])
        call["preferences"] = fingerprint(call.get("preferences"))
        return str(sorted({**self._identity(), **call, "stop": stop}.items()))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "linalign"
        params["ls_model_name"] = kwargs.get("model") or self.model
        # What is no list of texts is refused once the call is looked at.
        if isinstance(stops := stop or self.stop, (list, tuple)):
            params["ls_stop"] = list(stops)
        return params

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Yes: as what it was made with, without weights and without its profile store."""
        return True

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """Fields that have to be written in plain values."""
        if self.principles is None:
            return {}
        return {"principles": [one.model_dump(mode="json") for one in self.principles]}

    # Not kept, as LangChain does: copies with other principles would be traced with these.
    @property
    def _serialized(self) -> dict[str, Any]:
        made: dict[str, Any] = dumpd(self)
        if not self.trace_principles:
            made["kwargs"].pop("principles", None)
        return made

    @model_validator(mode="after")
    def _set_linalign_version(self) -> Self:
        from linalign_integrations import __version__

        self._add_version("linalign-integrations", __version__)
        return self

    def _resolve_model_profile(self) -> ModelProfile | None:
        return model_profile(self.model, self.revision)

    def get_token_ids(self, text: str) -> list[int]:
        """Tokens of a text, by the model's own tokenizer."""
        return self._engine().tokenize(text)

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Tokens of a conversation as the model's own template writes it, principles not counted.

        Messages that make no conversation by themselves, such as a tool's result without its call,
        are counted by their texts.
        """
        with langchain_errors():
            engine, told = self._engine(), as_dicts(messages)
            schemas = None if tools is None else as_schemas(tools)
            try:
                return len(engine.branches(told, tools=schemas)[0].token_ids)
            except InvalidMessages:
                return sum(len(engine.tokenize(message["content"])) for message in told)

    def _ask(
        self, messages: list[BaseMessage], stop: list[str] | None, call: dict[str, Any]
    ) -> _Asked:
        """Settles all that one call needs."""
        from linalign_integrations.prompts.schemas import tell_schema

        wanted, told = call.pop("response_format", None), as_dicts(messages)
        form = None if wanted is None else read_format(wanted)
        if form is not None:
            if call.get("grammar") is not None:
                raise InvalidArgument("response_format= and grammar= exclude each other")
            call["grammar"] = form.grammar
        schemas: dict[str, dict[str, Any]] = {}
        if tools := call.get("tools"):
            call["tools"] = as_schemas(tools)
            # What calls are checked against: a grammar may hold less.
            functions = [tool.get("function", {}) for tool in call["tools"]]
            schemas = {one.get("name", ""): one.get("parameters") or {} for one in functions}
        if form is not None and form.told is not None:
            told = tell_schema(told, form.told, after_tools=bool(tools))
        call["tool_choice"] = read_tool_choice(call.get("tool_choice"))
        # What has been used already where it is bound.
        call.pop("strict", None)
        count = self._said(call, "n") or 1
        # A call that asks for alternatives is above a field that says no.
        told_of = call.get("top_logprobs") is not None and call.get("logprobs") is None
        alternatives, logprobs = self._said(call, "top_logprobs"), self._said(call, "logprobs")
        if logprobs:
            alternatives = alternatives or 0
        elif logprobs is False and not told_of:
            alternatives = None
        user = call.pop("user", None)
        engine, request = self._request(call, stop=stop)
        if user is not None:
            request["user"] = user
        if alternatives is not None:
            request["explain"] = max(1, alternatives)
        blocks = self.output_version == "v1"
        return _Asked(engine, told, request, count, schemas, alternatives, form, blocks)

    def _said(self, call: dict[str, Any], name: str) -> Any:
        """What the call says of a field, else the field."""
        said = call.pop(name, None)
        if said is None:
            return getattr(self, name)
        try:
            return getattr(_Counts(**{name: said}), name)
        except ValidationError as error:
            raise InvalidArgument(describe(error)) from error

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            asked = self._ask(messages, stop, kwargs)
            begun = asked.begin("stream")
            if len(begun) == 1:
                return asked.result([gather(begun[0])])
            with ContextThreadPoolExecutor(len(begun)) as threads:
                return asked.result(list(threads.map(gather, begun)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            asked, begun = await asyncio.to_thread(self._begin, messages, stop, kwargs)
            if len(begun) == 1:
                return asked.result([await _agather(begun[0])])
            tasks = [asyncio.create_task(_agather(pieces)) for pieces in begun]
            try:
                return asked.result(await asyncio.gather(*tasks))
            finally:
                # Where one fails, nobody waits for the others any more.
                for task in tasks:
                    task.cancel()

    def _begin(
        self, messages: list[BaseMessage], stop: list[str] | None, call: dict[str, Any]
    ) -> tuple[_Asked, list[AsyncGeneration]]:
        # Weights, prompts and grammars are read where nobody else has to wait for them.
        asked = self._ask(messages, stop, call)
        return asked, asked.begin("astream")

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            asked = self._ask(messages, stop, kwargs)
            pieces, answer = asked.begin_one("stream"), asked.answer()
            try:
                for piece in pieces:
                    for chunk in answer.chunks(piece):
                        if run_manager:
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
            finally:
                pieces.close()
            asked.check(answer.text)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            asked = await asyncio.to_thread(self._ask, messages, stop, kwargs)
            pieces = await asyncio.to_thread(asked.begin_one, "astream")
            answer = asked.answer()
            try:
                async for piece in pieces:
                    for chunk in answer.chunks(piece):
                        if run_manager:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
            finally:
                await pieces.aclose()
            asked.check(answer.text)


class _Counts(BaseModel):
    """Fields of a call that are LangChain's alone."""

    n: int = Field(default=1, ge=1, le=64)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


@dataclass(frozen=True)
class _Asked:
    """What one call asks of the engine."""

    engine: Engine
    messages: list[dict[str, Any]]
    request: dict[str, Any]
    count: int
    schemas: dict[str, dict[str, Any]]
    alternatives: int | None
    form: Format | None
    as_blocks: bool

    def answer(self) -> Answer:
        return Answer(self.engine.model_id, self.schemas, self.alternatives, self.as_blocks)

    def begin(self, way: Literal["stream", "astream"]) -> list[Any]:
        """The answers to come, each with a seed of its own."""
        require_reusable(self.request.get("grammar"), self.count)
        ask, sampling = getattr(self.engine, way), self.request["sampling"]
        begun = []
        for number in range(self.count):
            seed = None if sampling.seed is None else sampling.seed + number
            own = sampling.model_copy(update={"seed": seed}) if number else sampling
            begun.append(ask(self.messages, **{**self.request, "sampling": own}))
        return begun

    def begin_one(self, way: Literal["stream", "astream"]) -> Any:
        if self.count > 1:
            raise InvalidArgument("n= above 1 cannot be streamed: use generate, or ask n times")
        return self.begin(way)[0]

    def result(self, results: Sequence[Result]) -> ChatResult:
        for one in results:
            if not (one.tool_calls or one.invalid_tool_calls):
                self.check(one.text)
        return ChatResult(generations=[self.answer().generation(one) for one in results])

    def check(self, text: str) -> None:
        if self.form is not None and text:
            self.form.check(text)


def gather(pieces: Generation) -> Result:
    """The whole answer."""
    from linalign_integrations.engine.answer import gather as joined

    return joined(pieces)


async def _agather(pieces: AsyncGeneration) -> Result:
    from linalign_integrations.engine.answer import gather as joined

    return joined([piece async for piece in pieces])
