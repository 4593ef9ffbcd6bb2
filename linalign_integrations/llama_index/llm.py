"""LinAlign: a local model for LlamaIndex that follows each user's preferences."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    TextBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM

from linalign_integrations.adapter import Adapter
from linalign_integrations.errors import InvalidMessages

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        Callable,
        Generator,
        Iterable,
        Sequence,
    )

    from linalign_integrations.engine import Piece, Result

_Response = TypeVar("_Response", ChatResponse, CompletionResponse)
_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}


class LinAlign(Adapter, LLM):
    """A local Hugging Face model as a LlamaIndex LLM with per-user preferences.

    LlamaIndex's engines and agents pass no arguments on to their LLM, so give them a copy per user:
    ``index.as_query_engine(llm=llm.for_user("ann"))``, or run them inside ``use_preferences``.
    Direct calls take ``principles=``, ``ratio=``, ``kl_budget=`` and sampling arguments as well.
    Preferences are settled when a method is called, also for streams that are consumed later.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises this class."""
        return "LinAlign"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex needs to know of the model; loads it on first use."""
        engine = self._engine()
        return LLMMetadata(
            context_window=engine.context_length,
            num_output=self._sampling({}).max_tokens,
            is_chat_model=True,
            is_function_calling_model=False,
            model_name=engine.model_id,
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answers a conversation."""
        engine, request = self._request(kwargs)
        result = engine.generate(_as_dicts(messages), **request)
        return _chat_response(result.text, result)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answers a conversation piece by piece."""
        engine, request = self._request(kwargs)
        pieces = engine.stream(_as_dicts(messages), **request)
        return _growing(pieces, _chat_response)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """``chat`` without blocking the event loop."""
        engine, request = await asyncio.to_thread(self._request, kwargs)
        result = await engine.agenerate(_as_dicts(messages), **request)
        return _chat_response(result.text, result)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """``stream_chat`` for ``async for``."""
        engine, request = await asyncio.to_thread(self._request, kwargs)
        pieces = engine.astream(_as_dicts(messages), **request)
        return _agrowing(pieces, _chat_response)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answers one prompt."""
        engine, request = self._request(kwargs)
        result = engine.generate(self._as_turn(prompt, formatted), **request)
        return _completion(result.text, result)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answers one prompt piece by piece."""
        engine, request = self._request(kwargs)
        pieces = engine.stream(self._as_turn(prompt, formatted), **request)
        return _growing(pieces, _completion)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """``complete`` without blocking the event loop."""
        engine, request = await asyncio.to_thread(self._request, kwargs)
        result = await engine.agenerate(self._as_turn(prompt, formatted), **request)
        return _completion(result.text, result)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """``stream_complete`` for ``async for``."""
        engine, request = await asyncio.to_thread(self._request, kwargs)
        pieces = engine.astream(self._as_turn(prompt, formatted), **request)
        return _agrowing(pieces, _completion)

    def _as_turn(self, prompt: str, formatted: bool) -> list[dict[str, str]]:
        to_prompt = self.completion_to_prompt
        text = prompt if formatted or to_prompt is None else to_prompt(prompt)
        return [{"role": "user", "content": text}]


def _as_dicts(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [_as_dict(message) for message in messages]


def _as_dict(message: ChatMessage) -> dict[str, str]:
    if not all(isinstance(block, TextBlock) for block in message.blocks):
        kinds = ", ".join(sorted({type(block).__name__ for block in message.blocks}))
        raise InvalidMessages(f"this model reads text; a message holds {kinds}")
    role = _ROLES.get(message.role, message.role.value)
    return {"role": role, "content": message.content or ""}


def _growing(
    pieces: Iterable[Piece], respond: Callable[..., _Response]
) -> Generator[_Response, None, None]:
    text = ""
    for piece in pieces:
        text += piece.text
        yield respond(text, piece, delta=piece.text)


async def _agrowing(
    pieces: AsyncIterable[Piece], respond: Callable[..., _Response]
) -> AsyncGenerator[_Response, None]:
    text = ""
    async for piece in pieces:
        text += piece.text
        yield respond(text, piece, delta=piece.text)


def _raw(answer: Result | Piece) -> dict[str, Any]:
    usage = answer.usage
    if usage is None:
        return {}
    return {
        "finish_reason": answer.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "branch_tokens": usage.branch_tokens,
    }


def _chat_response(text: str, answer: Result | Piece, delta: str | None = None) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    return ChatResponse(message=message, delta=delta, raw=_raw(answer))


def _completion(text: str, answer: Result | Piece, delta: str | None = None) -> CompletionResponse:
    return CompletionResponse(text=text, delta=delta, raw=_raw(answer))
