"""LangChain's messages as the engine takes them, and the engine's answers as LangChain's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk
from langchain_core.utils.json import parse_partial_json

from linalign_integrations.errors import InvalidMessages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langchain_core.messages import BaseMessage
    from langchain_core.messages.tool import ToolCallChunk

    from linalign_integrations.engine import AlignmentRecord, Piece, Result, Usage
    from linalign_integrations.engine.record import Strength

_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
_CHAT_ROLES = {"developer": "system", "human": "user", "ai": "assistant", "function": "tool"}
_TEXTS = ("text", "text-plain", "output_text", "input_text")
_THOUGHTS = ("thinking", "reasoning")
_CALLS = ("tool_use", "tool_call")
# What stands elsewhere in the message as well, and what nobody but its writer can read.
_PASSED_OVER = ("tool_call_chunk", "input_json_delta", "invalid_tool_call", "redacted_thinking")
# What OpenAI's API says of a token whose probability is 0.
_NEVER = -9999.0
# LangChain numbers blocks of text and reasoning from 0, and joins blocks of one number.
_BLOCK_CALLS = 1000
FIRST_CALL = (0, _BLOCK_CALLS, None)
"""How the parts of an answer's first call may be numbered."""


def as_dicts(messages: Iterable[BaseMessage]) -> list[dict[str, Any]]:
    """Messages in the OpenAI style; content in any of LangChain's or Anthropic's block formats.

    Raises:
        InvalidMessages: one holds what this model cannot read, such as an image.
    """
    return [made for message in messages for made in _as_dicts(message)]


def _as_dicts(message: BaseMessage) -> Iterator[dict[str, Any]]:
    role = _role(message)
    made: dict[str, Any] = {"role": role}
    if message.name:
        made["name"] = message.name
    if isinstance(message, ToolMessage):
        made["tool_call_id"] = message.tool_call_id
    texts: list[str] = []
    thoughts: list[str] = []
    calls = []
    if isinstance(message, AIMessage):
        calls = [_as_call(call["id"], call["name"], call["args"]) for call in message.tool_calls]
        thoughts = [message.additional_kwargs.get("reasoning_content") or ""]
    made_already = {call["id"] for call in calls}
    content = message.content
    for block in [content] if isinstance(content, str) else content:
        kind = "text" if isinstance(block, str) else block.get("type", "text")
        if isinstance(block, str):
            texts.append(block)
        elif kind in _TEXTS:
            texts.append(block.get("text") or "")
        elif kind == "json":
            texts.append(json.dumps(block.get("json"), ensure_ascii=False))
        elif kind == "tool_result":
            # Anthropic's results of tools are part of a user's turn.
            yield {
                "role": "tool",
                "tool_call_id": block.get("tool_use_id"),
                "content": _text(block.get("content")),
            }
        elif role == "assistant" and kind in _THOUGHTS:
            thoughts.append(_thought(block))
        elif role == "assistant" and kind in _CALLS:
            if block.get("id") not in made_already:
                arguments = block.get("args", block.get("input"))
                calls.append(_as_call(block.get("id"), block.get("name"), arguments))
        elif role != "assistant" or kind not in _PASSED_OVER:
            raise _unreadable(kind)
    if any(thoughts):
        made["reasoning_content"] = "\n".join(dict.fromkeys(filter(None, thoughts)))
    if calls:
        made["tool_calls"] = calls
    told = [block for block in content if _is_result(block)]
    if not told or any(texts):
        yield {**made, "content": "".join(texts)}


def _is_result(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "tool_result"


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return _CHAT_ROLES.get(message.role, message.role)
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    raise InvalidMessages(
        f"a {type(message).__name__} is nothing that a model can read: give system, human, AI and "
        "tool messages"
    )


def _as_call(call_id: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def _thought(block: Mapping[str, Any]) -> str:
    said = block.get("thinking") or block.get("reasoning") or block.get("text")
    summary = [part.get("text", "") for part in block.get("summary") or ()]
    return str(said or "\n".join(summary))


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for block in content:
        if isinstance(block, str):
            texts.append(block)
        elif isinstance(block, Mapping) and block.get("type") in _TEXTS:
            texts.append(block.get("text") or "")
        else:
            raise _unreadable(block.get("type") if isinstance(block, Mapping) else block)
    return "".join(texts)


def _unreadable(kind: object) -> InvalidMessages:
    return InvalidMessages(
        f"a message holds content that is not text: this model cannot read {kind!r} blocks, leave "
        "them out"
    )


def _usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.reused_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )


@dataclass
class Answer:
    """What is made of the engine's answer to one request.

    Attributes:
        model: what writes it.
        schemas: the JSON schema of the arguments of each tool, by name.
        top_logprobs: how many alternatives to tell of each token; None where log-probabilities
            were not asked for.
        as_blocks: whether LangChain makes content blocks (``output_version="v1"``) of its chunks.
        text: what is visible of it so far.
        calls: id, name and JSON of the arguments of each call so far, by index.
        void: indices of calls that showed to be none.
    """

    model: str
    schemas: Mapping[str, Mapping[str, Any]]
    top_logprobs: int | None = None
    as_blocks: bool = False
    text: str = ""
    calls: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    void: set[int] = field(default_factory=set)

    def generation(self, result: Result) -> ChatGeneration:
        """The whole answer."""
        calls, invalid = [], []
        for one in result.tool_calls:
            fault = self._fault(one.name, one.arguments)
            if fault is None:
                calls.append(tool_call(name=one.name, args=one.arguments, id=one.id))
                continue
            written = json.dumps(one.arguments, ensure_ascii=False)
            invalid.append(invalid_tool_call(name=one.name, args=written, id=one.id, error=fault))
        invalid += [
            invalid_tool_call(name=one.name, args=one.text, id=one.id, error=one.reason)
            for one in result.invalid_tool_calls
        ]
        message = AIMessage(
            result.text,
            tool_calls=calls,
            invalid_tool_calls=invalid,
            additional_kwargs={"reasoning_content": result.reasoning} if result.reasoning else {},
            usage_metadata=_usage_metadata(result.usage),
            response_metadata=self._metadata(
                result.usage,
                result.finish_reason,
                result.strength,
                result.alignment,
                called=bool(calls),
            ),
        )
        return ChatGeneration(message=message)

    def chunks(self, piece: Piece) -> Iterator[ChatGenerationChunk]:
        """More of a streamed answer: its text, its calls, and how it ended, if anything.

        Apart from each other, since LangChain takes the calls of a chunk that has text as well, or
        that is the last, for whole ones when it makes content blocks.
        """
        self.text += piece.text
        if piece.text or piece.reasoning:
            thought = {"reasoning_content": piece.reasoning} if piece.reasoning else {}
            yield _as_chunk(content=piece.text, additional_kwargs=thought)
        chunks = self._call_chunks(piece)
        if piece.usage is not None:
            chunks += self._refused()
        if chunks:
            yield _as_chunk(content="", tool_call_chunks=_joined(chunks))
        if piece.usage is not None and piece.strength is not None:
            yield _as_chunk(
                content="",
                chunk_position="last",
                usage_metadata=_usage_metadata(piece.usage),
                response_metadata=self._metadata(
                    piece.usage,
                    str(piece.finish_reason),
                    piece.strength,
                    piece.alignment,
                    called=bool(self.calls.keys() - self.void),
                ),
            )

    def _call_chunks(self, piece: Piece) -> list[ToolCallChunk]:
        chunks = []
        for part in piece.tool_calls:
            made, name, text = self.calls.get(part.index, ("", "", ""))
            self.calls[part.index] = (part.id or made, part.name or name, text + part.arguments)
            chunks.append(self._part(part.index, part.arguments, part.name, part.id))
        for one in piece.invalid_tool_calls:
            if one.index is not None and one.index in self.calls:
                chunks.append(self._voided(one.index))
                continue
            index = 1 + max(self.calls, default=-1)
            self.calls[index] = (one.id or "", one.name or "", one.text)
            self.void.add(index)
            text = one.text + _breaker(one.text)
            chunks.append(self._part(index, text, one.name, one.id))
        return chunks

    def _refused(self) -> list[ToolCallChunk]:
        """Voids calls that were streamed and whose arguments are not what their tools take."""
        chunks = []
        for index in self.calls.keys() - self.void:
            _, name, text = self.calls[index]
            if self._fault(name, json.loads(text or "{}")) is not None:
                chunks.append(self._voided(index))
        return chunks

    def _voided(self, index: int) -> ToolCallChunk:
        self.void.add(index)
        return self._part(index, _breaker(self.calls[index][2]))

    def _part(
        self, index: int, text: str, name: str | None = None, call_id: str | None = None
    ) -> ToolCallChunk:
        place = index + _BLOCK_CALLS if self.as_blocks else index
        return tool_call_chunk(name=name, args=text, id=call_id, index=place)

    def _fault(self, name: str, arguments: dict[str, Any]) -> str | None:
        from linalign_integrations.prompts.schemas import find_fault

        return find_fault(arguments, self.schemas[name]) if name in self.schemas else None

    def _metadata(
        self,
        usage: Usage,
        finish_reason: str,
        strength: Strength,
        record: AlignmentRecord | None,
        *,
        called: bool,
    ) -> dict[str, Any]:
        made = {
            "model_name": self.model,
            "model_provider": "linalign",
            "finish_reason": "tool_calls" if called and finish_reason == "stop" else finish_reason,
            "branch_tokens": usage.branch_tokens,
            "alignment": asdict(strength),
        }
        if self.top_logprobs is not None and record is not None:
            made["logprobs"] = _logprobs(record, self.top_logprobs)
        return made


def _joined(chunks: list[ToolCallChunk]) -> list[ToolCallChunk]:
    """One part per call: LangChain joins those of different messages only."""
    made: dict[int | None, ToolCallChunk] = {}
    for one in chunks:
        if (first := made.setdefault(one["index"], one)) is not one:
            first["args"] = (first["args"] or "") + (one["args"] or "")
    return list(made.values())


def _as_chunk(**fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(**fields))


def _breaker(text: str) -> str:
    """What keeps LangChain from completing JSON that was cut off, and making a call of it."""
    for bracket in ("]", "}", '"]', '"}'):
        try:
            if not isinstance(parse_partial_json(text + bracket), dict):
                return bracket
        except ValueError:
            return bracket
    return ""


def _logprobs(record: AlignmentRecord, most: int) -> dict[str, Any]:
    """Log-probabilities in the shape of OpenAI's API."""
    content = []
    for token in record.tokens:
        # What a grammar left no choice about was certain.
        drawn = 1.0 if token.aligned is None else token.aligned
        others = sorted(token.alternatives, key=lambda one: -one.aligned)
        ranked = [(token.token, drawn), *((one.token, one.aligned) for one in others)]
        ranked.sort(key=lambda one: -one[1])
        content.append(
            {
                **_logprob(token.token, drawn),
                "top_logprobs": [_logprob(*one) for one in ranked[:most]],
            }
        )
    return {"content": content}


def _logprob(token: str, probability: float) -> dict[str, Any]:
    logprob = math.log(probability) if probability > 0 else _NEVER
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
