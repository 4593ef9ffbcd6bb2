"""From a model's text to what it means: visible text, reasoning, and tool calls, as they come."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.content_parsers import process_field
from transformers.utils.chat_parsing.response_templates import load_response_template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from linalign_integrations.prompts.tools import Tools

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_LONGEST_MARKER = 200
_BETWEEN = re.compile(r"[\s\[\],;]*")
_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
# The usual way to write a call, whose arguments can be streamed.
_USUAL = re.compile(
    rf'\{{\s*"name"\s*:\s*({_STRING})\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)'
)
_REST = re.compile(rf"\s*(?:,\s*{_STRING}\s*:\s*{_STRING}\s*)*\}}")
# Mistral's newer way: name[ARGS]{...}, some with an id between.
_NAMED = re.compile(r"([\w./:-]+)\s*(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(?=\{)")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made.

    Attributes:
        id: tells it from other calls of a conversation; nine letters and digits.
        name: the tool.
        arguments: read from JSON.
    """

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A part of a call in a stream.

    Attributes:
        index: which call of the answer, from 0.
        id: on the first part of a call; None after.
        name: on the first part of a call; None after.
        arguments: more of the JSON text of the arguments.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class InvalidToolCall:
    """What the model wrote as a call and cannot be one.

    Attributes:
        text: as the model wrote it.
        reason: what is wrong with it.
        index: the index of the parts that were streamed of it before that showed; None if none.
        name: the tool it names, where that can be read.
        id: as in ``ToolCall``; only with ``index``.
    """

    text: str
    reason: str
    index: int | None = None
    name: str | None = None
    id: str | None = None


@dataclass(slots=True)
class Reading:
    """What a bit of text added."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()


def read_arguments(text: str) -> dict[str, Any]:
    """A call's arguments from their JSON, which some models write as a string once more.

    Raises:
        ValueError: it is not the JSON of an object.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        if isinstance(value, str):
            value = json.loads(value, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the arguments are not JSON: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("the arguments are not a JSON object")  # noqa: TRY004 - JSON is a value
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


class AnswerReader:
    """Splits an answer into text, reasoning and calls while it is being written.

    Text is held back only while it may be the beginning of a marker.

    Args:
        template: a response template of transformers, which says where parts begin and end.
        prefix: the end of the prompt, in which the template may have begun the answer.
        tools: the tools of the request; without them calls are text.
        call_id: names the call of an index.
    """

    def __init__(
        self,
        template: Mapping[str, Any],
        *,
        prefix: str,
        tools: Tools | None,
        call_id: Callable[[int], str],
    ) -> None:
        fields = {
            name: field
            for name, field in template["fields"].items()
            if name != "tool_calls" or tools is not None
        }
        self._fields = load_response_template({**template, "fields": fields}).fields
        plain = {name: _as_text(field, self._fields[name]) for name, field in fields.items()}
        self._parser = ResponseParser({**template, "defaults": {}, "fields": plain}, prefix=prefix)
        self._tools = tools
        self._call_id = call_id
        self._calls: _Calls | None = None
        self._count = 0
        self._after_part = False
        self._blank = self._tail = ""
        self._reading = Reading()
        self._take(self._parser.initial_events)
        self._reading = Reading()

    def push(self, text: str) -> Reading:
        """What is certain after this text."""
        self._reading = Reading()
        self._tail = (self._tail + text)[-_LONGEST_MARKER:]
        self._take(self._parser.feed(text))
        return self._reading

    def finish(self) -> Reading:
        """What is left when no more text comes; a call that is not complete is invalid."""
        self._reading = Reading()
        if self._calls is not None:
            # A marker at the very end was not taken for one yet.
            close = self._fields["tool_calls"].close_re
            self._calls.ended_early = close is None or not any(
                match.end() == len(self._tail) for match in close.finditer(self._tail)
            )
        _, events = self._parser.finalize()
        self._take(events)
        return self._reading

    def _take(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            name, kind = event["field"], event["type"]
            if name == "content":
                if kind == "region_chunk":
                    self._add_text(event["text"])
            elif name in REASONING_FIELDS:
                self._add_reasoning(event)
            elif name == "tool_calls":
                self._add_call(event)

    def _add_text(self, text: str) -> None:
        # Line breaks between reasoning, calls and text belong to none of them.
        if self._after_part:
            text = text.lstrip()
            self._after_part = not text
        self._reading.text += text

    def _add_reasoning(self, event: dict[str, Any]) -> None:
        if event["type"] == "region_open":
            self._after_part, self._blank = True, ""
        elif event["type"] == "region_close":
            self._after_part = True
        else:
            text = self._blank + event["text"]
            if self._after_part:
                text = text.lstrip()
                self._after_part = not text
            kept = text.rstrip()
            self._blank = text[len(kept) :]
            self._reading.reasoning += kept

    def _add_call(self, event: dict[str, Any]) -> None:
        assert self._tools is not None  # noqa: S101 - without tools there is no such field
        if event["type"] == "region_open":
            self._calls = _Calls(self._tools, self._fields["tool_calls"], self._count)
            return
        assert self._calls is not None  # noqa: S101 - regions are opened first
        if event["type"] == "region_chunk":
            self._calls.feed(event["text"])
        else:
            self._calls.close(event["value"])
            self._after_part = True
        self._count = self._calls.index
        self._reading.tool_calls += tuple(
            ToolCallDelta(index, None if name is None else self._call_id(index), name, arguments)
            for index, name, arguments in self._calls.deltas
        )
        self._reading.invalid_tool_calls += tuple(
            InvalidToolCall(
                text, reason, index, name, None if index is None else self._call_id(index)
            )
            for text, reason, index, name in self._calls.invalid
        )
        self._calls.deltas, self._calls.invalid = [], []


def _as_text(field: Mapping[str, Any], loaded: Any) -> dict[str, Any]:
    """The field with its content left as it stands, so that nothing in it can fail the parser."""
    plain = {key: field[key] for key in field if key.startswith(("open", "close"))}
    groups = {
        name
        for pattern in (loaded.open_re, loaded.close_re)
        if pattern is not None
        for name in pattern.groupindex
    }
    plain |= {"content": "text", "content_args": {"strip": False}, "repeats": True}
    if groups:
        plain["transform"] = {"body": "{content}", **{name: f"{{{name}}}" for name in groups}}
    else:
        plain["join"] = ""
    return plain


class _Calls:
    """Reads the calls of one part of an answer, as they come.

    Args:
        tools: which there are.
        field: how transformers would read the part.
        index: of the first call.
    """

    def __init__(self, tools: Tools, field: Any, index: int) -> None:
        self._tools = tools
        self._field = field
        self.index = index
        self.deltas: list[tuple[int, str | None, str]] = []
        self.invalid: list[tuple[str, str, int | None, str | None]] = []
        self.ended_early = False
        # What is not understood yet, or belongs to a call that is not complete.
        self._body = ""
        self._name: str | None = None
        self._begun = self._given = 0
        self._stage = "between"
        self._streams = _is_usual(field)
        self._usual = True

    def feed(self, text: str) -> None:
        self._body += text
        while self._streams and self._step():
            pass

    def _step(self) -> bool:
        """Whether the body took a step forward."""
        return {"between": self._find, "arguments": self._stream, "rest": self._leave}[
            self._stage
        ]()

    def _find(self) -> bool:
        """Looks for the next call."""
        start = _BETWEEN.match(self._body)
        assert start is not None  # noqa: S101 - it matches nothing as well
        self._body = self._body[start.end() :]
        if not self._body:
            return False
        self._usual = self._body[0] == "{"
        header = (_USUAL if self._usual else _NAMED).match(self._body)
        if header is not None:
            name = json.loads(header[1]) if self._usual else header[1]
            if self._refusal(name) is None:
                self._name, self._begun, self._given = name, header.end(), header.end()
                self._stage = "arguments"
                self.deltas.append((self.index, name, ""))
                return True
        if not self._usual:
            return False
        end = _end(self._body, 0)
        if end is None:
            return False
        self._whole(self._body[:end])
        self._body = self._body[end:]
        return True

    def _stream(self) -> bool:
        """Gives on what there is of the arguments."""
        # To look at all of it again is of use only where something may have been closed.
        closed = "}" in self._body[self._given :]
        end = _end(self._body, self._begun) if closed else None
        until = len(self._body) if end is None else end
        if until > self._given:
            fresh, self._given = self._body[self._given : until], until
            if self.deltas and self.deltas[-1][0] == self.index:
                _, name, before = self.deltas.pop()
                self.deltas.append((self.index, name, before + fresh))
            else:
                self.deltas.append((self.index, None, fresh))
        if end is None:
            return False
        self._stage = "rest"
        return True

    def _leave(self) -> bool:
        """Looks for the end of the call."""
        end = self._given
        if self._usual:
            rest = _REST.match(self._body, end)
            if rest is None:
                return False
            end = rest.end()
        try:
            read_arguments(self._body[self._begun : self._given])
        except ValueError as error:
            self._spoil(self._body[:end], str(error))
        self.index += 1
        self._body, self._name, self._stage = self._body[end:], None, "between"
        return True

    def _spoil(self, text: str, reason: str) -> None:
        self.invalid.append((text, reason, self.index, self._name))

    def _refusal(self, name: object) -> str | None:
        """Why this tool cannot be called; None where it can."""
        if self._tools.choice == "none":
            return 'tool_choice is "none"'
        if name not in self._tools.schemas:
            return f"there is no tool {name!r}"
        if name not in self._tools.callable_names:
            return f"only {self._tools.choice!r} was to be called"
        if self.index and not self._tools.parallel:
            return "there was to be one call only"
        return None

    def _whole(self, text: str) -> None:
        """Reads a call that is complete, however its keys are arranged."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.invalid.append((text, f"it is not JSON: {error}", None, None))
            return
        self._add(value, text)

    def _add(self, value: Any, text: str) -> None:
        inner = value.get("function", value) if isinstance(value, dict) else value
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            self.invalid.append((text, "it names no tool", None, None))
            return
        name = inner["name"]
        reason = self._refusal(name)
        arguments = inner.get("arguments", inner.get("parameters", {}))
        try:
            read = read_arguments(json.dumps(arguments))
        except ValueError as error:
            reason = reason or str(error)
            read = {}
        if reason is not None:
            self.invalid.append((text, reason, None, name))
            return
        cast = _cast(read, self._tools.schemas[name]) if not self._streams else read
        self.deltas.append((self.index, name, json.dumps(cast, ensure_ascii=False)))
        self.index += 1

    def close(self, value: Any) -> None:
        """Judges what is left when the part ends."""
        if not self._streams or isinstance(value, dict):
            self._by_template(value)
        elif self._stage != "between":
            self._spoil(self._body, self._unfinished())
            self.index += 1
        elif self._body.strip():
            name = _NAMED.match(self._body) if not self._usual else _USUAL.match(self._body)
            told = (json.loads(name[1]) if self._usual else name[1]) if name else None
            reason = None if told is None else self._refusal(told)
            self.invalid.append((self._body, reason or self._unfinished(), None, told))
        self._body, self._stage = "", "between"

    def _unfinished(self) -> str:
        return (
            "the answer ended before the call was complete"
            if self.ended_early
            else "it is not a call that can be read"
        )

    def _by_template(self, value: Any) -> None:
        captures = dict(value) if isinstance(value, dict) else {}
        body = captures.pop("body", self._body)
        try:
            read = process_field(body, self._field, captures)
        except (ValueError, KeyError, RecursionError) as error:
            self.invalid.append((body, f"it is not a call that can be read: {error}", None, None))
            return
        for one in read if isinstance(read, list) else [read]:
            if self.ended_early and self._field.close_re is not None:
                self.invalid.append((body, self._unfinished(), None, None))
            else:
                self._add(one, body)


def _is_usual(field: Any) -> bool:
    """Whether calls are written as JSON with a name and arguments, which can be read early."""
    if any(one is not None and one.groupindex for one in (field.open_re, field.close_re)):
        return False
    if field.transform is None:
        return True
    shape = field.transform.get("function") if isinstance(field.transform, dict) else None
    each = {"name": "{content.name}", "arguments": "{content.arguments}"}
    return field.content == "json" and not field.content_args and shape in ("{content}", each)


def _end(text: str, start: int) -> int | None:
    """Where the JSON object that begins here ends; None while it is not complete."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _cast(arguments: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that a format writes as bare text, as the schema wants them."""
    properties = schema.get("properties") or {}
    return {name: _cast_one(value, properties.get(name)) for name, value in arguments.items()}


def _cast_one(value: Any, schema: Any) -> Any:
    wanted = schema.get("type") if isinstance(schema, dict) else None
    if not isinstance(value, str) or wanted is None or "string" in wanted:
        return value
    try:
        return json.loads(value, parse_constant=_refuse)
    except ValueError:
        return value
