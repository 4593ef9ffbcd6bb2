"""Answers: whole, in pieces, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

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
    """

    prompt_tokens: int
    completion_tokens: int
    branch_tokens: int
    reused_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together, each counted once."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a streamed answer.

    Attributes:
        text: text that is now certain; may be empty.
        token_ids: tokens drawn since the piece before.
        finish_reason: on the last piece, why the answer ended: ``"stop"`` (the model or a stop
            text ended it) or ``"length"``. None before.
        usage: on the last piece, what the request cost. None before.
        kl: nats that alignment spent on these tokens.
        strength: on the last piece, how strongly the answer was aligned. None before.
        alignment: on the last piece, where ``explain`` asked for it, what alignment did to each
            token of the whole answer: only then is it certain which text is whose.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    usage: Usage | None
    kl: float
    strength: Strength | None = None
    alignment: AlignmentRecord | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A finished answer.

    Attributes:
        text: the answer, without special tokens and without the stop text that ended it.
        token_ids: every token drawn, in order; an end-of-sequence token comes last.
        finish_reason: ``"stop"`` (the model or a stop text ended it) or ``"length"``.
        usage: what the request cost.
        kl: nats that alignment spent on the whole answer; 0 without principles.
        strength: how strongly the answer was aligned: mean KL per token, mean ratio.
        alignment: what alignment did to each token, where ``explain`` asked for it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    kl: float
    strength: Strength
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
        strength=last.strength,
        alignment=last.alignment,
    )
