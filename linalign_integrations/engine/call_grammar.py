"""Grammars of tool calls, in the words of the model's own template."""

from __future__ import annotations

import json
import re
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from linalign_integrations.engine.grammar import (
    CallGrammar,
    Grammar,
    check_schema,
    enforceable_part,
)
from linalign_integrations.prompts.formats import ID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from linalign_integrations.prompts import AnswerFormat, Tools
    from linalign_integrations.prompts.formats import CallSyntax

# As models write JSON on one line; see ``grammar``.
_ONE_LINE = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}
# Schemas with one of these say themselves what else there may be.
_OPEN = {"additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"}
_SPACE = "/[ \\n]{1,3}/"


def call_grammar(
    tools: Tools,
    form: AnswerFormat,
    special: Mapping[str, int],
    *,
    after: Literal["nothing", "text"],
    answer: Grammar | None = None,
) -> CallGrammar:
    """What calls must be: to these tools, with arguments that their schemas accept.

    Args:
        tools: what may be called.
        form: how the model writes calls.
        special: the tokenizer's special tokens, which a grammar names by id.
        after: ``"nothing"`` where the answer is calls and no more; ``"text"`` where the grammar is
            to be fed from the token on in which the marker of a call begins.
        answer: what the answer may be instead of calls.

    Raises:
        InvalidGrammar: a schema cannot be enforced.
    """
    syntax = form.syntax
    assert syntax is not None  # noqa: S101 - formats without one are not asked for
    write = _Writer(special)
    lines = [_start(form, syntax, write, after=after, answer=answer is not None)]
    tail = ""
    if syntax.link is not None and tools.parallel:
        tail = f"({write.text(syntax.link)} call)*"
    lines.append(f"calls: call {tail} {write.text(syntax.closing)}")
    names = tools.callable_names
    lines.append("call: " + " | ".join(f"call{place}" for place in range(len(names))))
    for place, name in enumerate(names):
        schema = _arguments(name, tools.schemas[name])
        head = write.text(json.dumps(name)[1:-1] + syntax.between)
        lines.append(f"call{place}: {head} %json {json.dumps(schema, ensure_ascii=False)}")
    return CallGrammar("lark", "\n".join(lines), answer)


def no_call_grammar(form: AnswerFormat, special: Mapping[str, int]) -> Grammar:
    """Any text but the marker of a call."""
    marker = re.escape(form.marker).replace("/", r"\/").replace('"', r"\"")
    marker = re.sub(r"(\\ |\\\n|\s)+", r"\\s*", marker)
    text = "TEXT: /(?s:.+)/"
    if form.at_start:
        text += rf" & ~/\s*{marker}(?s:.*)/"
    elif not any(form.marker.startswith(one) for one in special):
        text += f" & ~/(?s:.*){marker}(?s:.*)/"
    marks = [f"<[{special[one]}]>" for one in form.reasoning or () if one in special]
    between = f" (({' | '.join(marks)}) TEXT?)*" if marks else ""
    return Grammar.lark(f"start: TEXT?{between}\n{text}")


def _start(
    form: AnswerFormat,
    syntax: CallSyntax,
    write: _Writer,
    *,
    after: Literal["nothing", "text"],
    answer: bool,
) -> str:
    if after == "nothing":
        return f"start: {write.text(syntax.opening)} calls" + (" | @answer" if answer else "")
    if form.at_start:
        return f"start: {_SPACE}? {write.loosely(syntax.opening)} calls"
    rest = syntax.opening.lstrip().removeprefix(form.marker)
    opening = write.loosely(rest) if rest.strip() else ""
    begun = write.text(form.marker)
    if begun.startswith("<["):
        return f"start: {begun} {opening} calls"
    # The token in which the marker begins may have begun with something else.
    return f"start: lead {opening} calls\nlead[lazy]: /(?s:.*)/ {begun}"


class _Writer:
    """Writes texts as a grammar's terminals: special tokens by id, ids of calls by their form."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        marks = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
        self._split = re.compile(f"({marks}|{ID})" if marks else f"({ID})")

    def text(self, text: str) -> str:
        return " ".join(map(self._terminal, filter(None, self._split.split(text))))

    def loosely(self, text: str) -> str:
        """The same, whatever the space between its words."""
        words = re.split(r"[ \n]+", text)
        first = f"{_SPACE}? " if text[:1].isspace() else ""
        return first + f" {_SPACE}? ".join(self.text(word) for word in words if word)

    def _terminal(self, piece: str) -> str:
        if piece == ID:
            return "/[A-Za-z0-9]{9}/"
        if piece in self._special:
            return f"<[{self._special[piece]}]>"
        return json.dumps(piece, ensure_ascii=False)


def _arguments(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments as far as it can be enforced; no others than it names."""
    closed: dict[str, Any] = dict(schema)
    if "properties" in schema and not _OPEN & schema.keys():
        closed["additionalProperties"] = False
    enforced, fault = _enforced(json.dumps(closed))
    if fault is not None:
        warnings.warn(
            f"calls of {name!r} are enforced in part, so their arguments have to be checked: "
            f"{fault}",
            stacklevel=6,
        )
    check_schema(enforced)
    return {"x-guidance": _ONE_LINE, **enforced}


@lru_cache(maxsize=1024)
def _enforced(schema: str) -> tuple[dict[str, Any], str | None]:
    return enforceable_part(json.loads(schema))
