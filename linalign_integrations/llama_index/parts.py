"""Which part of LlamaIndex asks: one that answers, or one that needs something to work on."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.postprocessor.node import (
    DEFAULT_INFER_PREV_NEXT_TMPL,
    DEFAULT_REFINE_INFER_PREV_NEXT_TMPL,
)
from llama_index.core.postprocessor.pii import DEFAULT_PII_TMPL
from llama_index.core.prompts.prompt_type import PromptType

from linalign_integrations.adapter import Adapter
from linalign_integrations.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from llama_index.core.prompts import BasePromptTemplate

    from linalign_integrations.engine import Piece, Usage
    from linalign_integrations.engine.generation import AsyncGeneration, Generation
    from linalign_integrations.llama_index.llm import LinAlign

Align = Literal["everything", "answers", "nothing"]
"""What principles apply to: see ``answers_only``."""

_LLM = TypeVar("_LLM", bound="LinAlign")
_ANSWERS = {
    PromptType.QUESTION_ANSWER,
    PromptType.REFINE,
    PromptType.SIMPLE_INPUT,
    PromptType.CONVERSATION,
    PromptType.SQL_RESPONSE_SYNTHESIS,
    PromptType.SQL_RESPONSE_SYNTHESIS_V2,
}
# Types that say nothing: users' own templates, and summaries, which may be of an index.
_UNSAID = {PromptType.CUSTOM, PromptType.SUMMARY, None}
_SOURCES = {"context_str", "context_msg", "context_messages", "query_engine_response_str"}
_QUESTION = "query_str"
_DRAFT = "existing_answer"
# They hold a text and a question, and what they ask for is read by LlamaIndex.
_READ = {DEFAULT_PII_TMPL, DEFAULT_INFER_PREV_NEXT_TMPL, DEFAULT_REFINE_INFER_PREV_NEXT_TMPL}
# Where a step of reasoning is asked for, which is the next question.
_STEPS = "prev_reasoning"


class Plumbing(list[ChatMessage]):
    """Messages whose answer is for LlamaIndex to work with, not for a user to read."""


def answers_only(llm: _LLM) -> _LLM:
    """A cheap copy that follows principles where it answers, and not where LlamaIndex works.

    Without principles are then: structured output; completions (with which chat engines and fusion
    retrievers rewrite questions); prompts that are not a question about given text (selectors,
    condensed questions, keywords, rerankers); and whether to call a tool, and with what: an answer
    beside tools is first asked for without principles, and once more with them, without tools,
    where the first holds no call.

    What is asked as plain chat, or as a question about given text, cannot be told from an answer:
    give ``unaligned(llm)`` to memory blocks that extract facts, to summarising memories and to
    evaluators. A call that says itself what its principles are is obeyed.

    Raises:
        InvalidArgument: it is not a ``LinAlign``.
    """
    return _aligning(llm, "answers")


def unaligned(llm: _LLM) -> _LLM:
    """A cheap copy that never follows principles, whoever's they are, unless a call names some.

    Raises:
        InvalidArgument: it is not a ``LinAlign``.
    """
    return _aligning(llm, "nothing")


def _aligning(llm: _LLM, what: Align) -> _LLM:
    if not isinstance(llm, Adapter) or "align" not in type(llm).model_fields:
        raise InvalidArgument(
            f"only a LinAlign can be told what to align, not {type(llm).__name__}; tell the one "
            "that it was made from"
        )
    return llm._copy(align=what)


def is_answer(prompt: BasePromptTemplate) -> bool:
    """Whether what a template asks for is an answer, as far as it tells.

    Its type says so where LlamaIndex gave it one. Others are answers where they hold the question
    and a text to answer it from, or the question alone, or with an answer to go on with.
    """
    kind = prompt.metadata.get("prompt_type")
    if kind not in _UNSAID:
        return kind in _ANSWERS
    held = {*prompt.template_vars, *(prompt.template_var_mappings or {})}
    if _QUESTION not in held or _STEPS in held or getattr(prompt, "template", None) in _READ:
        return False
    return bool(_SOURCES & held) or held <= {_QUESTION, _DRAFT}


def decide(first: Generation, then: Callable[[float], Generation]) -> Generator[Piece, None, None]:
    """The first answer where it calls tools, else the second, which costs both.

    Args:
        first: the answer that may call tools.
        then: asks for the second one, given the seconds that the first one took.
    """
    held: list[Piece] = []
    second = None
    begun = time.monotonic()
    try:
        for piece in first:
            held.append(piece)
            if piece.tool_calls or piece.invalid_tool_calls:
                yield from held
                yield from first
                return
        second = then(time.monotonic() - begun)
        silent: list[Piece] | None = []
        for piece in second:
            ready, silent = _heard(held, silent, piece)
            yield from ready
        yield from _unless_void(held, silent)
    finally:
        first.close()
        if second is not None:
            second.close()


async def adecide(
    first: AsyncGeneration, then: Callable[[float], AsyncGeneration]
) -> AsyncGenerator[Piece, None]:
    """``decide`` for ``async for``."""
    held: list[Piece] = []
    second = None
    begun = time.monotonic()
    try:
        async for piece in first:
            held.append(piece)
            if piece.tool_calls or piece.invalid_tool_calls:
                for one in held:
                    yield one
                async for one in first:
                    yield one
                return
        second = then(time.monotonic() - begun)
        silent: list[Piece] | None = []
        async for piece in second:
            ready, silent = _heard(held, silent, piece)
            for one in ready:
                yield one
        for one in _unless_void(held, silent):
            yield one
    finally:
        await first.aclose()
        if second is not None:
            await second.aclose()


def _heard(
    first: list[Piece], silent: list[Piece] | None, piece: Piece
) -> tuple[list[Piece], list[Piece] | None]:
    """What of a second answer can be handed on, and what waits for it to say something.

    Args:
        first: the first answer.
        silent: what waits; None once the second answer said something.
        piece: what came of the second.
    """
    piece = _with_cost_of(first[-1], piece)
    if silent is None:
        return [piece], None
    if piece.text:
        return [*silent, piece], None
    # Reasoning is shown at once, and says nothing yet.
    return ([*silent, piece], []) if piece.reasoning else ([], [*silent, piece])


def _unless_void(first: list[Piece], silent: list[Piece] | None) -> list[Piece]:
    """What is left to hand on at the end of a second answer.

    Where no grammar holds it back, a model may call a tool that it was not given this time. The
    first answer is then the better one.
    """
    if not silent:
        return []
    if not any(one.invalid_tool_calls for one in silent):
        return silent
    return [*first[:-1], replace(first[-1], usage=silent[-1].usage)]


def _with_cost_of(before: Piece, piece: Piece) -> Piece:
    if piece.usage is None or before.usage is None:
        return piece
    return replace(piece, usage=_sum(before.usage, piece.usage))


def _sum(one: Usage, other: Usage) -> Usage:
    return replace(
        one, **{name: getattr(one, name) + getattr(other, name) for name in one.__slots__}
    )
