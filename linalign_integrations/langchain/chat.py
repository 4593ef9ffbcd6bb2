"""ChatLinAlign: a local chat model that follows each user's preferences."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from linalign_integrations.adapter import Adapter, fingerprint
from linalign_integrations.langchain.scope import atake_preferences, take_preferences

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.language_models.base import LangSmithParams
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import RunnableConfig

    from linalign_integrations.engine import Engine, Piece, Result, Usage


class ChatLinAlign(Adapter, BaseChatModel):
    """A local Hugging Face model as a LangChain chat model with per-user preferences.

    Example:
        ``ChatLinAlign(model="pocket").invoke("Hello", principles=["Answer like a pirate."])``

    Preferences are looked up per call, first hit first: call arguments (``principles=``,
    ``ratio=``, ``kl_budget=``, ...), ``config["configurable"]``'s ``principles``, the stored
    profile of its ``user_id``, ``use_preferences``, then this object's own fields.
    """

    @property
    def _llm_type(self) -> str:
        return "linalign-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._identity()

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answers one input; see the class for the arguments that set preferences."""
        kwargs["preferences"] = take_preferences(self, config, kwargs)
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
        kwargs["preferences"] = await atake_preferences(self, config, kwargs)
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
        kwargs["preferences"] = take_preferences(self, config, kwargs)
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
        kwargs["preferences"] = take_preferences(self, config, kwargs)
        return super().astream(input, config, stop=stop, **kwargs)

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answers one input as a stream of events."""
        kwargs["preferences"] = take_preferences(self, config, kwargs)
        return super().stream_events(input, config, **kwargs)

    def astream_events(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """``stream_events`` for ``async for``."""
        kwargs["preferences"] = take_preferences(self, config, kwargs)
        return super().astream_events(input, config, **kwargs)

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> LLMResult:
        """Answers several conversations, one after the other."""
        kwargs["preferences"] = take_preferences(self, None, kwargs)
        return super().generate(messages, stop, *args, **kwargs)

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> LLMResult:
        """``generate`` without blocking the event loop."""
        kwargs["preferences"] = await atake_preferences(self, None, kwargs)
        return await super().agenerate(messages, stop, *args, **kwargs)

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        params = super()._get_invocation_params(stop=stop, **kwargs)
        return {**params, "preferences": fingerprint(kwargs.get("preferences"))}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        kwargs["preferences"] = fingerprint(kwargs.get("preferences"))
        return super()._get_llm_string(stop, **kwargs)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "linalign"
        params["ls_model_name"] = kwargs.get("model") or self.model
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Tokens of a text, by the model's own tokenizer."""
        return self._engine().tokenize(text)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        engine, request = self._request(kwargs, stop=stop)
        result = engine.generate(_as_dicts(messages), **request)
        return _chat_result(engine, result)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        engine, request = await asyncio.to_thread(self._request, kwargs, stop=stop)
        result = await engine.agenerate(_as_dicts(messages), **request)
        return _chat_result(engine, result)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        engine, request = self._request(kwargs, stop=stop)
        for piece in engine.stream(_as_dicts(messages), **request):
            chunk = _chunk(engine, piece)
            if run_manager:
                run_manager.on_llm_new_token(piece.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        engine, request = await asyncio.to_thread(self._request, kwargs, stop=stop)
        async for piece in engine.astream(_as_dicts(messages), **request):
            chunk = _chunk(engine, piece)
            if run_manager:
                await run_manager.on_llm_new_token(piece.text, chunk=chunk)
            yield chunk


def _as_dicts(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    return convert_to_openai_messages(messages, text_format="string")


def _usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def _response_metadata(engine: Engine, usage: Usage, finish_reason: str) -> dict[str, Any]:
    return {
        "model_name": engine.model_id,
        "model_provider": "linalign",
        "finish_reason": finish_reason,
        "branch_tokens": usage.branch_tokens,
    }


def _chat_result(engine: Engine, result: Result) -> ChatResult:
    message = AIMessage(
        result.text,
        usage_metadata=_usage_metadata(result.usage),
        response_metadata=_response_metadata(engine, result.usage, result.finish_reason),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunk(engine: Engine, piece: Piece) -> ChatGenerationChunk:
    if piece.usage is None or piece.finish_reason is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=piece.text))
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=piece.text,
            chunk_position="last",
            usage_metadata=_usage_metadata(piece.usage),
            response_metadata=_response_metadata(engine, piece.usage, piece.finish_reason),
        )
    )
