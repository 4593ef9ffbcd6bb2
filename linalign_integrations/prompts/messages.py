"""OpenAI-style messages: checked, normalised, merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from linalign_integrations.errors import InvalidMessages

Message = dict[str, Any]
"""``role`` and ``content``, and where they apply ``tool_calls``, ``tool_call_id`` and ``name``."""

ROLES = ("system", "user", "assistant", "tool")
_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")


def normalise_messages(messages: str | Iterable[Mapping[str, Any]]) -> list[Message]:
    """Messages with known roles and plain-text content; the input is left as it was.

    Args:
        messages: a string, which is one user turn, or mappings in the OpenAI style. Content may be
            a string or a list of ``{"type": "text", "text": ...}`` parts; an assistant message
            that calls tools may have none.

    Raises:
        InvalidMessages: nothing was given, a role is unknown, or content is not text.
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
    kept["content"] = _text(message.get("content"), place, optional="tool_calls" in kept)
    return kept


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
