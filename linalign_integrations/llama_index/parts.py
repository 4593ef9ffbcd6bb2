"""Which part of LlamaIndex asks: one that answers, or one that needs something to work on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts.prompt_type import PromptType

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

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
_SOURCES = {"context_str", "context_msg", "context_messages"}
_QUESTION = "query_str"


class Plumbing(list[ChatMessage]):
    """Messages whose answer is for LlamaIndex to work with, not for a user to read."""


def answers_only(llm: _LLM) -> _LLM:
    """A cheap copy that follows principles where it answers, and not where LlamaIndex works.

    Without principles are then: structured output; completions (with which chat engines and fusion
    retrievers rewrite questions); prompts that are not a question about given text (selectors,
    condensed questions, keywords, rerankers); and whether to call a tool, and with what: an answer
    beside tools is first asked for without principles, and once more with them, without tools,
    where the first holds no call.

    What is asked as plain chat cannot be told from an answer: give ``unaligned(llm)`` to memory
    blocks that extract facts, to summarising memories and to evaluators. A call that says itself
    what its principles are is obeyed.
    """
    return llm._copy(align="answers")


def unaligned(llm: _LLM) -> _LLM:
    """A cheap copy that never follows principles, whoever's they are, unless a call names some."""
    return llm._copy(align="nothing")


def is_answer(prompt: BasePromptTemplate) -> bool:
    """Whether what a template asks for is an answer, as far as it tells.

    Its type says so where LlamaIndex gave it one. Others are answers where they hold the question
    and a text to answer it from, or the question alone.
    """
    kind = prompt.metadata.get("prompt_type")
    if kind not in _UNSAID:
        return kind in _ANSWERS
    held = {*prompt.template_vars, *(prompt.template_var_mappings or {})}
    return _QUESTION in held and (bool(_SOURCES & held) or held == {_QUESTION})


def decide(first: Generation, then: Generation) -> Generator[Piece, None, None]:
    """The first answer where it calls tools, else the second, which costs both."""
    held: list[Piece] = []
    try:
        for piece in first:
            held.append(piece)
            if piece.tool_calls or piece.invalid_tool_calls:
                yield from held
                yield from first
                return
        for piece in then:
            yield _with_cost_of(held[-1], piece)
    finally:
        first.close()
        then.close()


async def adecide(first: AsyncGeneration, then: AsyncGeneration) -> AsyncGenerator[Piece, None]:
    """``decide`` for ``async for``."""
    held: list[Piece] = []
    try:
        async for piece in first:
            held.append(piece)
            if piece.tool_calls or piece.invalid_tool_calls:
                for one in held:
                    yield one
                async for one in first:
                    yield one
                return
        async for piece in then:
            yield _with_cost_of(held[-1], piece)
    finally:
        await first.aclose()
        await then.aclose()


def _with_cost_of(before: Piece, piece: Piece) -> Piece:
    if piece.usage is None or before.usage is None:
        return piece
    return replace(piece, usage=_sum(before.usage, piece.usage))


def _sum(one: Usage, other: Usage) -> Usage:
    return replace(
        one, **{name: getattr(one, name) + getattr(other, name) for name in one.__slots__}
    )
