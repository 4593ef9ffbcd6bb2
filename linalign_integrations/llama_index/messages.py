"""LlamaIndex's messages as the engine takes them, and the engine's answers as LlamaIndex's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.llm import ToolSelection
from pydantic_core import from_json

from linalign_integrations.adapter import fingerprint
from linalign_integrations.errors import InvalidMessages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable

    from linalign_integrations.engine import InvalidToolCall, Piece
    from linalign_integrations.engine.generation import AsyncGeneration, Generation

_Response = TypeVar("_Response", ChatResponse, CompletionResponse)
_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}
# Hints for a provider's cache, where what was read before is reused here anyway, and notes on where
# a text comes from that stands in a block of its own.
_HINTS = (CachePoint, CitationBlock)


def as_dicts(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """Messages in the OpenAI style.

    Raises:
        InvalidMessages: one holds what this model cannot read, such as an image.
    """
    # LlamaIndex's events check messages before, and let mappings pass.
    return [_as_dict(ChatMessage.model_validate(one)) for one in messages]


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    read = (TextBlock, ThinkingBlock, ToolCallBlock, *_HINTS)
    blocks: list[Any] = []
    for block in message.blocks:
        blocks += block.content if isinstance(block, CitableBlock) else [block]
    strange = {type(block).__name__ for block in blocks if not isinstance(block, read)}
    if strange:
        raise InvalidMessages(
            f"this model reads text; a message holds {', '.join(sorted(strange))}: leave it out"
        )
    more = message.additional_kwargs
    made: dict[str, Any] = {
        "role": _ROLES.get(message.role, message.role.value),
        "content": "\n".join(block.text for block in blocks if isinstance(block, TextBlock)),
    }
    if made["role"] == "tool":
        return {**made, "tool_call_id": more.get("tool_call_id"), "name": more.get("name")}
    calls = [
        _as_call(block.tool_call_id, block.tool_name, block.tool_kwargs)
        for block in message.blocks
        if isinstance(block, ToolCallBlock)
    ]
    # Other classes, and memories written before there were blocks, keep calls here.
    made["tool_calls"] = calls or [
        dict(call) if isinstance(call, Mapping) else call.model_dump()
        for call in more.get("tool_calls") or ()
    ]
    thoughts = [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]
    if any(thoughts):
        made["reasoning_content"] = "\n".join(filter(None, thoughts))
    return made


def _as_call(call_id: str | None, name: str, arguments: Mapping[str, Any] | str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


@dataclass
class Answer:
    """An answer as far as it has come.

    Attributes:
        model: what wrote it.
        tools: the names of those that it may call.
        text: what is visible of it.
        reasoning: what the model wrote for itself.
        calls: id, name and JSON of the arguments of each call, by index.
        invalid: what it wrote as calls and cannot be any.
    """

    model: str
    tools: frozenset[str] = frozenset()
    text: str = ""
    reasoning: str = ""
    calls: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    invalid: list[InvalidToolCall] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Takes note of more of it."""
        self.text += piece.text
        self.reasoning += piece.reasoning
        for part in piece.tool_calls:
            made, name, text = self.calls.get(part.index, ("", "", ""))
            self.calls[part.index] = (part.id or made, part.name or name, text + part.arguments)
        for one in piece.invalid_tool_calls:
            self.invalid.append(one)
            if one.index is not None:
                self.calls.pop(one.index, None)

    def chat(self, piece: Piece) -> ChatResponse:
        """What LlamaIndex calls a chat response, up to this piece."""
        blocks: list[Any] = []
        if self.reasoning:
            tokens = piece.usage.reasoning_tokens if piece.usage else None
            blocks.append(ThinkingBlock(content=self.reasoning, num_tokens=tokens))
        called, more = self._calls()
        if self.text or not called:
            blocks.append(TextBlock(text=self.text))
        message = ChatMessage(
            role=MessageRole.ASSISTANT, blocks=[*blocks, *called], additional_kwargs=more
        )
        return ChatResponse(message=message, raw=self._raw(piece))

    def completion(self, piece: Piece) -> CompletionResponse:
        """The same as a completion: a text, and the rest in ``additional_kwargs``."""
        _, more = self._calls()
        if self.reasoning:
            more["reasoning_content"] = self.reasoning
        return CompletionResponse(text=self.text, additional_kwargs=more, raw=self._raw(piece))

    def _calls(self) -> tuple[list[ToolCallBlock], dict[str, Any]]:
        """The calls, those of unknown tools included, and what tells of them beside the blocks."""
        blocks = [
            ToolCallBlock(tool_call_id=made, tool_name=name, tool_kwargs=_arguments(text))
            for made, name, text in self.calls.values()
        ]
        refused = []
        for place, one in enumerate(self.invalid):
            made = one.id or str(fingerprint((place, one.text)))
            unknown = one.name is not None and one.name not in self.tools
            refused.append({"id": made, "name": one.name, "text": one.text, "reason": one.reason})
            if unknown:
                # LlamaIndex's agents tell the model so, and it goes on.
                blocks.append(ToolCallBlock(tool_call_id=made, tool_name=str(one.name)))
        more: dict[str, Any] = {}
        if blocks:
            # Where LlamaIndex's programs look for calls.
            more["tool_calls"] = [
                _as_call(block.tool_call_id, block.tool_name, block.tool_kwargs) for block in blocks
            ]
        if refused:
            more["invalid_tool_calls"] = refused
        return blocks, more

    def _raw(self, piece: Piece) -> dict[str, Any]:
        """What is known at the end, all of it fit for JSON."""
        usage = piece.usage
        if usage is None or piece.strength is None:
            return {}
        called = self.calls and piece.finish_reason == "stop"
        return {
            "model": self.model,
            "finish_reason": "tool_calls" if called else piece.finish_reason,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.total_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.reused_tokens},
                "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            },
            "branch_tokens": usage.branch_tokens,
            "alignment": asdict(piece.strength),
        }


def _arguments(text: str) -> dict[str, Any]:
    """What is there of the arguments of a call that may still be written."""
    try:
        read = from_json(text or "{}", allow_partial="trailing-strings")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def whole(
    pieces: Iterable[Piece], answer: Answer, respond: Callable[[Piece], _Response]
) -> _Response:
    """The response that all pieces make."""
    for piece in pieces:
        answer.add(piece)
    return respond(piece)


async def awhole(
    pieces: AsyncIterable[Piece], answer: Answer, respond: Callable[[Piece], _Response]
) -> _Response:
    """``whole`` for pieces to await."""
    async for piece in pieces:
        answer.add(piece)
    return respond(piece)


def growing(
    pieces: Generation, answer: Answer, respond: Callable[[Piece], _Response]
) -> Generator[_Response, None, None]:
    """A response for each piece, with all that has come so far."""
    try:
        for piece in pieces:
            yield _grown(piece, answer, respond)
    finally:
        pieces.close()


async def agrowing(
    pieces: AsyncGeneration, answer: Answer, respond: Callable[[Piece], _Response]
) -> AsyncGenerator[_Response, None]:
    """``growing`` for ``async for``."""
    try:
        async for piece in pieces:
            yield _grown(piece, answer, respond)
    finally:
        await pieces.aclose()


def _grown(piece: Piece, answer: Answer, respond: Callable[[Piece], _Response]) -> _Response:
    answer.add(piece)
    response = respond(piece)
    response.delta = piece.text
    if piece.reasoning:
        response.additional_kwargs["thinking_delta"] = piece.reasoning
    return response


def selections(response: ChatResponse, *, required: bool) -> list[ToolSelection]:
    """The calls of a response.

    Args:
        response: an answer of this package's, or a message of any other class.
        required: whether there has to be one that can be made.

    Raises:
        ValueError: there is none although it is required, or the whole answer is an attempt to
            call a tool that cannot be read as a call.
    """
    message = response.message
    refused = message.additional_kwargs.get("invalid_tool_calls") or []
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if required:
        void = {one["id"] for one in refused}
        calls = [block for block in calls if block.tool_call_id not in void]
    # What a stream has given so far may still become an answer or a call.
    useless = bool(response.raw) and not message.content
    if not calls and refused and (required or useless):
        one = refused[0]
        raise ValueError(
            f"the model tried to call {one['name'] or 'a tool'} and wrote no valid call: "
            f"{one['reason']} ({one['text']!r:.200})"
        )
    if not calls and required:
        raw = response.raw
        if isinstance(raw, Mapping) and raw.get("finish_reason") == "length":
            raise ValueError(
                "Expected at least one tool call, but max_tokens cut the answer off before there "
                f"was one: allow more ({message.content or ''!r:.200})"
            )
        raise ValueError(
            "Expected at least one tool call, but got 0 tool calls: ask with tool_required=True, "
            f"or answer with the text ({message.content or ''!r:.200})"
        )
    return [
        ToolSelection(
            tool_id=block.tool_call_id or "",
            tool_name=block.tool_name,
            tool_kwargs=_arguments(block.tool_kwargs)
            if isinstance(block.tool_kwargs, str)
            else block.tool_kwargs,
        )
        for block in calls
    ]
