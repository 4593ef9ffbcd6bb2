"""OpenAI-style messages: checked, normalised, merged."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from linalign_integrations.errors import InvalidMessages

Message = dict[str, Any]
"""``role`` and ``content``, and where they apply ``tool_calls``, ``tool_call_id`` and ``name``."""

ROLES = ("system", "user", "assistant", "tool")
_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")
# Some templates (Mistral's) take no other ids than these, which is why ours look like this.
_ID = re.compile(r"[A-Za-z0-9]{9}")
# Real schemas stay far below, and Python's own stack far above.
_DEEPEST = 100
_SIGNS = string.ascii_letters + string.digits


def normalise_messages(messages: str | Iterable[Mapping[str, Any]]) -> list[Message]:
    """Messages with known roles and plain-text content; the input is left as it was.

    Args:
        messages: a string, which is one user turn, or mappings in the OpenAI style. Content may be
            a string or a list of ``{"type": "text", "text": ...}`` parts; an assistant message
            that calls tools may have none. The arguments of calls may be mappings or JSON.

    Raises:
        InvalidMessages: nothing was given, a role is unknown, content is not text, or a tool's
            result answers no call.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif isinstance(messages, Mapping) or not isinstance(messages, Iterable):
        raise InvalidMessages(
            f"messages must be a string or a list of messages, not {type(messages).__name__}"
        )
    checked = [_normalise(message, place) for place, message in enumerate(messages)]
    if not any(message["content"].strip() or "tool_calls" in message for message in checked):
        raise InvalidMessages("there are no messages: give at least one user message with text")
    _match_results(checked)
    return checked


def _normalise(message: Mapping[str, Any], place: int) -> Message:
    if not isinstance(message, Mapping):
        raise InvalidMessages(
            f"message {place} is a {type(message).__name__}, not a mapping with role and content"
        )
    role = message.get("role")
    if role not in ROLES:
        raise InvalidMessages(
            f"message {place} has the unknown role {role!r}: use one of {', '.join(ROLES)}"
        )
    kept = {key: message[key] for key in _KEYS if message.get(key) is not None}
    if role != "assistant" or not kept.get("tool_calls"):
        kept.pop("tool_calls", None)
    else:
        kept["tool_calls"] = [
            _call(call, place, number) for number, call in enumerate(kept["tool_calls"])
        ]
    if not isinstance(kept.get("reasoning_content", ""), str):
        raise InvalidMessages(f"message {place} has reasoning_content that is not text")
    optional = "tool_calls" in kept or "reasoning_content" in kept
    kept["content"] = _text(message.get("content"), place, optional=optional)
    return kept


def short_id(*parts: object) -> str:
    """Nine letters and digits that depend on nothing but what is given."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    number, signs = int.from_bytes(digest, "little"), []
    for _ in range(9):
        number, sign = divmod(number, len(_SIGNS))
        signs.append(_SIGNS[sign])
    return "".join(signs)


def is_deep(value: object) -> bool:
    """Whether JSON is nested more deeply than what writes it into prompts can bear."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            part
            for one in level
            for part in (
                one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            )
        ]
    return bool(level)


def _call(call: object, place: int, number: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidMessages(
            f"message {place} has a tool call that is not "
            '{"id": ..., "type": "function", "function": {"name": ..., "arguments": {...}}}'
        )
    name, arguments = function.get("name"), function.get("arguments") or {}
    if not isinstance(name, str) or not name:
        raise InvalidMessages(f"message {place} has a tool call without a name")
    try:
        # Read and written anew: a copy that is JSON all through.
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        arguments = json.loads(written)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessages(f"message {place}: the call to {name!r} is not JSON") from error
    if not isinstance(arguments, dict):
        raise InvalidMessages(f"message {place}: the call to {name!r} has no mapping of arguments")
    if is_deep(arguments):
        raise InvalidMessages(
            f"message {place}: the arguments of the call to {name!r} are nested too deeply"
        )
    own = call.get("id")
    return {
        "id": _short(own) if own else short_id(place, number, name),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _short(call_id: object) -> str:
    return str(call_id) if _ID.fullmatch(str(call_id)) else short_id(str(call_id))


def _match_results(messages: list[Message]) -> None:
    """Says of each tool message which call it answers.

    Raises:
        InvalidMessages: it answers none.
    """
    open_calls: list[tuple[str, str]] = []
    for place, message in enumerate(messages):
        if message["role"] != "tool":
            calls = message.get("tool_calls", ())
            open_calls = [(call["id"], call["function"]["name"]) for call in calls]
            continue
        told = message.get("tool_call_id")
        # Without an id, results come in the order of the calls.
        wanted = None if told is None else _short(told)
        answered = [one for one in open_calls if wanted in (None, one[0])]
        if not answered:
            raise InvalidMessages(
                f"message {place} is the result of a call that was not made"
                + ("" if told is None else f" (tool_call_id {told!r})")
                + ": put the assistant message with its tool_calls right before the results"
            )
        open_calls.remove(answered[0])
        message["tool_call_id"], name = answered[0]
        message.setdefault("name", name)


def _text(content: object, place: int, *, optional: bool) -> str:
    if isinstance(content, str):
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise InvalidMessages(f"message {place} is not valid Unicode: {error}") from error
        return content
    if content is None and optional:
        return ""
    if isinstance(content, (list, tuple)):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(text, str) for text in texts):
            return _text("".join(map(str, texts)), place, optional=optional)
    raise InvalidMessages(
        f"message {place} has content that is not text: this model reads strings and text parts"
    )


def add_to(message: Message, text: str, *, before: bool = False) -> Message:
    """The message with ``text`` as a paragraph of its own after (or before) its content."""
    paragraphs = [text, message["content"]] if before else [message["content"], text]
    return {**message, "content": "\n\n".join(filter(None, paragraphs))}


def merge_neighbours(messages: list[Message]) -> list[Message]:
    """Consecutive messages of the same role as one, for templates that want roles to alternate."""
    merged: list[Message] = []
    for message in messages:
        if (
            merged
            and message["role"] == merged[-1]["role"] != "tool"
            and "tool_calls" not in {**message, **merged[-1]}
        ):
            merged[-1] = add_to(merged[-1], message["content"])
        else:
            merged.append(message)
    return merged


def fold_system(messages: list[Message]) -> list[Message]:
    """System messages moved into the user turn that follows, or into the last one."""
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            folded.append(add_to(message, "\n\n".join(waiting), before=True))
            waiting = []
        else:
            folded.append(message)
    if waiting:
        text = "\n\n".join(waiting)
        if folded and folded[-1]["role"] == "user":
            folded[-1] = add_to(folded[-1], text)
        else:
            folded.append({"role": "user", "content": text})
    return folded


def system_first(messages: list[Message]) -> list[Message]:
    """Later system messages in user turns, for templates that want one at the start only."""
    at = next((at for at, one in enumerate(messages) if one["role"] != "system"), len(messages))
    return messages[:at] + fold_system(messages[at:])
