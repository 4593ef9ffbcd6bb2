"""Every error a caller can catch. Each says what was wrong and what to do about it.

Only a wrong argument is a ``ValueError``. LlamaIndex's query engines take a ``ValueError`` of a
model for an answer that cannot be read, and go on without it: what may come up while a question is
answered must be none, or nobody would hear of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError


class LinAlignError(Exception):
    """Base of every error raised by this package."""


class InvalidPreferences(LinAlignError, ValueError):
    """Preferences cannot mean anything: an empty principle, a negative ratio, a budget of zero."""


class InvalidArgument(LinAlignError, ValueError):
    """An argument is unknown, or of the wrong type."""


class InvalidSampling(LinAlignError, ValueError):
    """Sampling parameters lie outside their range."""


class InvalidGrammar(LinAlignError, ValueError):
    """A grammar, regex or JSON schema cannot be read, enforced, or satisfied by any text."""


class InvalidMessages(LinAlignError, RuntimeError):
    """A conversation is empty or malformed, or the chat template cannot take it or a principle."""


class InvalidTools(LinAlignError, ValueError):
    """Tools are malformed or bear the same name, or the tool to be called is none of them."""


class PromptTooLong(LinAlignError, RuntimeError):
    """A prompt leaves no room for an answer in the model's context.

    Attributes:
        prompt_tokens: length of the longest branch prompt, in tokens.
        context_length: most tokens, prompt and answer together, that the model can hold.
    """

    def __init__(self, message: str, *, prompt_tokens: int, context_length: int) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class ModelNotFound(LinAlignError, LookupError):
    """No model was named, or the name is neither a folder nor a reachable Hugging Face model."""


class UnsupportedModel(LinAlignError, RuntimeError):
    """The model exists but cannot be used: not a causal decoder, or no safetensors weights."""


class MissingExtra(LinAlignError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class EngineClosed(LinAlignError, RuntimeError):
    """The engine was closed; load the model again to go on."""


class GenerationFailed(LinAlignError, RuntimeError):
    """The model produced no usable distribution for the next token."""


class GenerationTimeout(LinAlignError, TimeoutError):
    """An answer was not finished in the time that its caller gave it."""


class QueueFull(LinAlignError, RuntimeError):
    """More requests wait for the engine than it lets wait; try again later.

    Attributes:
        waiting: how many wait.
    """

    def __init__(self, message: str, *, waiting: int) -> None:
        super().__init__(message)
        self.waiting = waiting


class RequestTooLarge(LinAlignError, RuntimeError):
    """A request needs more rows or memory than the engine has, even if it ran alone."""


class ProfileNotFound(LinAlignError, LookupError):
    """A user has no stored profile, or no profile store was given to look them up in."""


class ProfileStoreFailed(LinAlignError, RuntimeError):
    """The profile store cannot be opened, read or written."""


class ProfileUnreadable(LinAlignError, RuntimeError):
    """A stored profile exists but cannot be read as preferences; it is kept as it is."""


class ProfileConflict(LinAlignError, RuntimeError):
    """A profile was not written because someone else had written it in the meantime.

    Attributes:
        expected_version: the version that was to be replaced; 0 for none.
        version: the version that is stored; 0 for none.
    """

    def __init__(self, message: str, *, expected_version: int, version: int) -> None:
        super().__init__(message)
        self.expected_version = expected_version
        self.version = version


# Nobody reads more, and a thousand lines would hide the first.
_MOST_SHOWN = 5


def describe(error: ValidationError, fields: Iterable[str] = ()) -> str:
    """What a person can act on, for each of the first few fields that a pydantic model refused.

    Args:
        error: what pydantic raised.
        fields: the names of the model's fields, for those who wrote another.
    """
    lines = []
    found = error.errors(include_url=False)
    for item in found[:_MOST_SHOWN]:
        place = ".".join(map(str, item["loc"])) or error.title
        reason = item.get("ctx", {}).get("error")
        if isinstance(reason, LinAlignError):
            # A value inside this one has said already what was wrong with it.
            lines.append(f"{place}: {reason}" if item["loc"] else str(reason))
            continue
        if item["type"] == "extra_forbidden" and len(item["loc"]) == 1 and fields:
            lines.append(f"{place:.80}: there is no such field, only {', '.join(fields)}")
            continue
        message = item["msg"].removeprefix("Value error, ")
        shown = "" if item["type"] == "missing" else f" (got {item['input']!r:.80})"
        lines.append(f"{place}: {message}{shown}")
    if len(found) > _MOST_SHOWN:
        lines.append(f"and {len(found) - _MOST_SHOWN} more")
    return "; ".join(lines)
