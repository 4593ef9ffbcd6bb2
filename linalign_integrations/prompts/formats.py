"""How one model writes tool calls and reasoning: read from its chat template, by trying it.

Which family a model belongs to shows in what its template makes of two calls, not in its name: the
first response template that reads them back is the one to use.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from linalign_integrations.prompts.answers import REASONING_FIELDS, AnswerReader
from linalign_integrations.prompts.tools import Tools, read_tools, spell_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from linalign_integrations.prompts.messages import Message

    Render = Callable[[list[Message], list[dict[str, Any]] | None, bool], str]

ID = "\0"
"""Stands for the id of a call in a syntax."""

# What families that ship no response template write around calls. Calls themselves are JSON with a
# name and arguments (or parameters), or a name and then JSON.
FAMILIES: dict[str, dict[str, str]] = {
    "hermes": {"open_pattern": r"\s*<tool_call>", "close": "</tool_call>"},
    "mistral": {"open_pattern": r"\s*\[TOOL_CALLS\]", "close_pattern": r"\s*(?=\[TOOL_CALLS\])"},
    "llama": {
        "open_pattern": r"\s*<\|python_tag\|>\s*"
        r'|\A\s*(?=\{\s*"name"\s*:\s*"[^"]*"\s*,\s*"(?:parameters|arguments)"\s*:)'
    },
}
_MARKS = ("<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
_QUESTION = {"role": "user", "content": "a"}
_SAID = "probe answer"
_IDS = ("a1b2c3d4e", "f5g6h7i8j")
_NAMES = ("first_probe", "second_probe")
_ARGUMENTS = {"value": "probe"}


@dataclass(frozen=True)
class CallSyntax:
    """The text of calls: ``opening name between arguments (link name between arguments)* closing``.

    Attributes:
        opening: what comes before the first name.
        between: between a name and its arguments, which are JSON.
        link: between arguments and the next name; None where there can be one call only.
        closing: what comes after the last arguments.
    """

    opening: str
    between: str
    link: str | None
    closing: str


_HERMES = CallSyntax(
    opening='<tool_call>\n{"name": "',
    between='", "arguments": ',
    link='}\n</tool_call>\n<tool_call>\n{"name": "',
    closing="}\n</tool_call>",
)


@dataclass(frozen=True)
class AnswerFormat:
    """How answers are written and read.

    Attributes:
        template: transformers' response template.
        prefix: what prompts have begun of the answer.
        begins_in_reasoning: whether prompts end inside of reasoning.
        reasoning: what stands before and after reasoning; None where the model has none.
        native: whether the chat template writes tools, calls and results by itself.
        calls_as_text: whether it wants the arguments of calls as JSON instead of mappings.
        syntax: how calls are written; None where their arguments are not JSON.
        marker: the text that opens a call.
        at_start: whether it does so at the beginning of an answer only.
        end_marker: the text that ends calls; may be empty.
        fallback: the format of this package's own, in which any model can be made to call.
    """

    template: dict[str, Any]
    prefix: str
    begins_in_reasoning: bool
    reasoning: tuple[str, str] | None
    native: bool
    calls_as_text: bool
    syntax: CallSyntax | None
    marker: str
    at_start: bool
    end_marker: str
    fallback: AnswerFormat | None = None

    def shown(self, special: Mapping[str, int]) -> frozenset[int]:
        """Special tokens that part calls and reasoning from text."""
        texts = [*(self.reasoning or ()), self.marker, self.end_marker, *_MARKS]
        texts += [text.replace("\\", "") for text in _strings(self.template["fields"])]
        if self.syntax is not None:
            texts += filter(None, (self.syntax.opening, self.syntax.link, self.syntax.closing))
            texts.append(self.syntax.between)
        return frozenset(
            token for mark, token in special.items() if any(mark in text for text in texts)
        )

    def reader(self, tools: Tools | None, call_id: Callable[[int], str]) -> AnswerReader | None:
        """Reads one answer; None where an answer can be nothing but text."""
        if tools is None and self.reasoning is None:
            return None
        return AnswerReader(self.template, prefix=self.prefix, tools=tools, call_id=call_id)


def _strings(value: Any) -> list[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for one in value for text in _strings(one)] if isinstance(value, list) else []


def find_format(
    render: Render, own: Mapping[str, Any] | None, known: Callable[[str], bool]
) -> AnswerFormat:
    """The format of a model's answers.

    Args:
        render: messages, tools and whether to begin the answer → the text of the prompt. It raises
            ``ValueError`` where the template refuses.
        own: the tokenizer's response template.
        known: whether the chat template or the vocabulary holds a text.
    """
    if not (isinstance(own, dict) and isinstance(own.get("fields"), dict)):
        own = None
    begun = _prefix(render)
    reasoning = _reasoning(own, known)
    opened = ""
    if reasoning and reasoning[1] not in begun.rpartition(reasoning[0])[2]:
        opened = reasoning[0] if reasoning[0] in begun else ""
    fallback = AnswerFormat(
        template=_template(FAMILIES["hermes"], reasoning),
        prefix=opened,
        begins_in_reasoning=bool(opened),
        reasoning=reasoning,
        native=False,
        calls_as_text=False,
        syntax=_HERMES,
        marker="<tool_call>",
        at_start=False,
        end_marker="</tool_call>",
    )
    for as_text in (False, True):
        written = _write_calls(render, reasoning, as_text=as_text)
        if written is None:
            continue
        made = replace(fallback, native=True, calls_as_text=as_text)
        tries = [replace(made, template=_template(one, reasoning)) for one in FAMILIES.values()]
        if own and "tool_calls" in own["fields"]:
            tries.insert(0, replace(made, template=dict(own), prefix=begun))
        for one in tries:
            if _reads_back(one, written):
                return replace(_with_syntax(one, written), fallback=fallback)
    return fallback


def _prefix(render: Render) -> str:
    try:
        asked = render([_QUESTION], None, False)
        return render([_QUESTION], None, True).removeprefix(asked)
    except ValueError:
        return ""


def _reasoning(
    own: Mapping[str, Any] | None, known: Callable[[str], bool]
) -> tuple[str, str] | None:
    fields = own["fields"] if own else {}
    for name in REASONING_FIELDS:
        if name in fields:
            marks = [fields[name].get(key) for key in ("open", "close")]
            literal = [one[0] if isinstance(one, list) else one for one in marks]
            return (str(literal[0] or "<think>"), str(literal[1] or "</think>"))
    if own is None and (known("<think>") or known("</think>")):
        return "<think>", "</think>"
    return None


def _template(calls: Mapping[str, str], reasoning: tuple[str, str] | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"content": {"content": "text"}, "tool_calls": dict(calls)}
    if reasoning:
        # Only an answer's beginning is reasoning; further on it may be about such marks.
        fields["reasoning_content"] = {
            "open_pattern": rf"\A\s*{re.escape(reasoning[0])}",
            "close": reasoning[1],
        }
    # The prefix is the generation prompt and nothing else: there is nothing to cut away.
    return {"fields": fields, "start_anchor_pattern": r"\A"}


def _call(place: int, *, as_text: bool) -> dict[str, Any]:
    arguments = json.dumps(_ARGUMENTS) if as_text else dict(_ARGUMENTS)
    return {
        "id": _IDS[place],
        "type": "function",
        "function": {"name": _NAMES[place], "arguments": arguments},
    }


def probe_tools() -> Tools:
    """The two tools that templates are tried with."""
    parameters = {"type": "object", "properties": {"value": {"type": "string"}}}
    tools = read_tools(
        [
            {
                "type": "function",
                "function": {"name": name, "description": "b", "parameters": parameters},
            }
            for name in _NAMES
        ]
    )
    assert tools is not None  # noqa: S101 - there are two
    return tools


@dataclass(frozen=True)
class _Written:
    """What a template makes of one call and of two; None where it takes only one."""

    one: str
    two: str | None


def _write_calls(
    render: Render, reasoning: tuple[str, str] | None, *, as_text: bool
) -> _Written | None:
    """The text of an answer that calls; None where the template does not write tools or calls."""
    tools = list(probe_tools().definitions)
    calls = [_call(0, as_text=as_text), _call(1, as_text=as_text)]

    def answer(**message: Any) -> str:
        asked = render([_QUESTION], tools, True)
        if reasoning is not None and reasoning[0] in asked:
            # Earlier answers are written without the reasoning that a new one begins with.
            asked = asked[: asked.rindex(reasoning[0])]
        whole = render([_QUESTION, {"role": "assistant", **message}], tools, False)
        same = (
            place
            for place, pair in enumerate(zip(asked, whole, strict=False))
            if pair[0] != pair[1]
        )
        return whole[next(same, len(asked)) :]

    try:
        if _NAMES[0] not in render([_QUESTION], tools, True):
            return None
        said = answer(content=_SAID)
        after = said.partition(_SAID)[2]
        one = answer(content="", tool_calls=calls[:1])
    except ValueError:
        return None
    try:
        two: str | None = answer(content="", tool_calls=calls)
    except ValueError:
        two = None
    one, two = _bare(one, after), None if two is None else _bare(two, after)
    if _NAMES[0] not in one:
        return None
    if two is not None and not all(name in two for name in _NAMES):
        two = None
    return _Written(one, two)


def _bare(answer: str, after: str) -> str:
    """An answer without what ends a turn and without empty reasoning."""
    answer = answer.rpartition("</think>")[2] if "</think>" in answer else answer
    ending = after.strip()
    if ending and answer.rstrip().endswith(ending):
        answer = answer.rstrip().removesuffix(ending)
    else:
        # Some templates end a call with another token than an answer.
        answer = re.sub(r"<\|eom_id\|>\s*\Z", "", answer)
    return answer.strip()


def _reads_back(made: AnswerFormat, written: _Written) -> bool:
    def calls(text: str) -> list[tuple[str | None, str]]:
        reader = AnswerReader(
            made.template, prefix="", tools=probe_tools(), call_id=lambda index: str(index)
        )
        readings = [reader.push(text), reader.finish()]
        if any(one.invalid_tool_calls or one.text.strip() for one in readings):
            return []
        deltas = [delta for one in readings for delta in one.tool_calls]
        count = 1 + max((delta.index for delta in deltas), default=-1)
        made_calls = []
        for index in range(count):
            mine = [delta for delta in deltas if delta.index == index]
            made_calls.append((mine[0].name, "".join(delta.arguments for delta in mine)))
        return made_calls

    def right(found: list[tuple[str | None, str]], count: int) -> bool:
        return [name for name, _ in found] == list(_NAMES[:count]) and all(
            json.loads(arguments) == _ARGUMENTS for _, arguments in found
        )

    try:
        return right(calls(written.one), 1) and (
            written.two is None or right(calls(written.two), 2)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        # A tokenizer's own template may be anything.
        return False


def _with_syntax(made: AnswerFormat, written: _Written) -> AnswerFormat:
    opening = written.one[: written.one.index(_NAMES[0])]
    head = re.split(r"\s*(?:\[\s*)?\{", opening)[0].strip()
    marker = head or opening.strip()
    made = replace(made, marker=marker, at_start=not head, syntax=None, end_marker="")
    one = _parts(written.one, 1)
    if one is None:
        return made
    two = None if written.two is None else _parts(written.two, 2)
    syntax = CallSyntax(opening, one[0], two[1] if two else None, one[-1])
    closing = re.split(r"[}\]]", syntax.closing.replace(ID, ""))[-1].strip()
    return replace(made, syntax=syntax, end_marker=closing)


def _parts(text: str, count: int) -> list[str] | None:
    """What stands between names and arguments, in turn; None where arguments are not JSON."""
    parts: list[str] = []
    at = 0
    for place in range(count):
        start = text.index(_NAMES[place], at)
        if place:
            parts.append(_with_id(text[at:start]))
        after = start + len(_NAMES[place])
        found = re.compile(r"\{").search(text, after)
        if found is None:
            return None
        try:
            value, at = json.JSONDecoder().raw_decode(text, found.start())
        except ValueError:
            return None
        if value != _ARGUMENTS:
            return None
        parts.append(_with_id(text[after : found.start()]))
    return [*parts, _with_id(text[at:])]


def _with_id(text: str) -> str:
    for one in _IDS:
        text = text.replace(one, ID)
    return text


def spelt_out(messages: list[Message], made: AnswerFormat) -> list[Message]:
    """The messages as the chat template of this format takes them."""
    if not made.native:
        return spell_out(messages)
    if not made.calls_as_text:
        return messages
    return [
        {**message, "tool_calls": [_as_text(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _as_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
