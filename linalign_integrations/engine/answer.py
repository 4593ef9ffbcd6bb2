"""Answers: whole, in pieces, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from linalign_integrations.prompts.answers import (
    InvalidToolCall,
    ToolCall,
    ToolCallDelta,
    read_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from linalign_integrations.engine.record import AlignmentRecord, Strength

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost, in tokens.

    Attributes:
        prompt_tokens: length of the prompted branch.
        completion_tokens: tokens drawn, an end-of-sequence token included.
        branch_tokens: length of all branches' prompts together.
        reused_tokens: how many of ``prompt_tokens`` were not computed again because the same user
            had sent them before. What others sent saves time as well but is not told.
        reasoning_tokens: how many of ``completion_tokens`` are hidden reasoning.
    """

    prompt_tokens: int
    completion_tokens: int
    branch_tokens: int
    reused_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together, each counted once."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a streamed answer.

    Attributes:
        text: visible text that is now certain; may be empty.
        token_ids: tokens drawn since the piece before.
        finish_reason: on the last piece, why the answer ended: ``"stop"`` (the model or a stop
            text ended it) or ``"length"``. None before.
        usage: on the last piece, what the request cost. None before.
        kl: nats that alignment spent on these tokens.
        reasoning: more of the hidden reasoning.
        tool_calls: more of calls; only of those to tools there are.
        invalid_tool_calls: what showed to be no call; where it has an index, the parts that were
            streamed with that index are void.
        strength: on the last piece, how strongly the answer was aligned. None before.
        alignment: on the last piece, where ``explain`` asked for it, what alignment did to each
            token of the whole answer: only then is it certain which text is whose.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    usage: Usage | None
    kl: float
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    strength: Strength | None = None
    alignment: AlignmentRecord | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A finished answer.

    Attributes:
        text: the visible answer, without special tokens, reasoning, calls and the stop text that
            ended it.
        token_ids: every token drawn, in order; an end-of-sequence token comes last.
        finish_reason: ``"stop"`` (the model or a stop text ended it) or ``"length"``.
        usage: what the request cost.
        kl: nats that alignment spent on the whole answer; 0 without principles.
        strength: how strongly the answer was aligned: mean KL per token, mean ratio.
        reasoning: what the model wrote for itself before it answered; may be empty.
        tool_calls: the calls it makes, in order.
        invalid_tool_calls: what it wrote as calls and cannot be any.
        alignment: what alignment did to each token, where ``explain`` asked for it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    kl: float
    strength: Strength
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    alignment: AlignmentRecord | None = field(default=None, repr=False)


def gather(pieces: Iterable[Piece]) -> Result:
    """The whole answer that these pieces make."""
    held = list(pieces)
    last = held[-1]
    assert last.finish_reason is not None  # noqa: S101 - the last piece of a stream says why
    assert last.usage is not None  # noqa: S101
    assert last.strength is not None  # noqa: S101
    return Result(
        text="".join(piece.text for piece in held),
        token_ids=tuple(token for piece in held for token in piece.token_ids),
        finish_reason=last.finish_reason,
        usage=last.usage,
        kl=sum(piece.kl for piece in held),
        reasoning="".join(piece.reasoning for piece in held),
        tool_calls=join_calls(held),
        invalid_tool_calls=tuple(one for piece in held for one in piece.invalid_tool_calls),
        strength=last.strength,
        alignment=last.alignment,
    )


def join_calls(pieces: Iterable[Piece]) -> tuple[ToolCall, ...]:
    """The calls that these pieces make, those left out that showed to be invalid."""
    parts: dict[int, list[ToolCallDelta]] = {}
    void: set[int | None] = set()
    for piece in pieces:
        void |= {one.index for one in piece.invalid_tool_calls}
        for delta in piece.tool_calls:
            parts.setdefault(delta.index, []).append(delta)
    return tuple(
        ToolCall(str(deltas[0].id), str(deltas[0].name), _arguments(deltas))
        for index, deltas in parts.items()
        if index not in void
    )


def _arguments(deltas: list[ToolCallDelta]) -> dict[str, Any]:
    return read_arguments("".join(delta.arguments for delta in deltas))
