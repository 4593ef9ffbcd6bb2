"""Tokens to text as they come: whole characters only, and never a part of a stop text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linalign_integrations.prompts import PromptFormat

_REPLACEMENT = "\ufffd"
# Tokens decoded again before each new one, so that tokenizers which treat the start of a text
# specially (a dropped leading space) see where they are.
_CONTEXT = 6


class TextAssembler:
    """Grows an answer's text token by token.

    Args:
        form: decodes tokens.
        shown: special tokens that are to stand in the text.

    Attributes:
        written: how many characters came out so far.
    """

    def __init__(self, form: PromptFormat, shown: frozenset[int] = frozenset()) -> None:
        self._form = form
        self._shown = shown
        self._token_ids: list[int] = []
        self._settled = 0
        self._given = 0
        self.written = 0

    def push(self, token_id: int) -> str:
        """The text that is certain after this token; what may yet change is held back."""
        self._token_ids.append(token_id)
        text = self._decode_new()
        # An unfinished character shows as replacement marks at the very end.
        if text.endswith(_REPLACEMENT):
            return ""
        fresh, self._given = text[self._given :], len(text)
        # A run of byte tokens is decoded as a whole, so it must not be cut.
        if token_id not in self._form.byte_tokens:
            self._settled, self._given = len(self._token_ids), 0
        self.written += len(fresh)
        return fresh

    def finish(self) -> str:
        """The rest of the text, when no more tokens come."""
        rest = self._decode_new()[self._given :]
        self.written += len(rest)
        return rest

    def _decode_new(self) -> str:
        start = max(0, self._settled - _CONTEXT)
        known = self._decode(self._token_ids[start : self._settled])
        return self._decode(self._token_ids[start:])[len(known) :]

    def _decode(self, token_ids: list[int]) -> str:
        # Most answers show none, and a decoder then has nothing to be told.
        if self._shown:
            return self._form.decode(token_ids, shown=self._shown)
        return self._form.decode(token_ids)


class Stops:
    """Cuts text before the first stop text, which may come in pieces.

    Args:
        stop: texts that end an answer and are not part of it; the earliest one counts.

    Attributes:
        stopped: whether one came.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, text: str, *, last: bool = False) -> str:
        """What of the text is certain; what may be the start of a stop text is held back."""
        if self.stopped:
            return ""
        held = self._held + text
        found = [place for place in (held.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)]
        keep = 0 if last else self._possible_stop(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of ``text`` that is the start of a stop string."""
        return max(
            (
                size
                for stop in self._stop
                for size in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:size])
            ),
            default=0,
        )
