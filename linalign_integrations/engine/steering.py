"""Which part of an answer comes next: what may stand there, and whether it is aligned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from linalign_integrations.engine.grammar import Matching
from linalign_integrations.errors import GenerationFailed

if TYPE_CHECKING:
    from linalign_integrations.engine.grammar import Constraint
    from linalign_integrations.preferences.model import Preferences
    from linalign_integrations.prompts import AnswerFormat

# While this few tokens are to spare, every one of them is looked at before it is taken; before,
# only now and then.
_NARROW = 32


class Steering:
    """Follows one answer through its parts: reasoning, answer, call.

    Args:
        form: how the model writes the parts; None where there is nothing but the answer.
        preferences: which parts are aligned.
        shown: special tokens that part one part from another.
        constraint: what the answer must be; it begins after reasoning.
        in_call: what a call must be, from its marker on; None where calls are not enforced.
        calls: whether the answer may hold calls: ``"only"`` where it is nothing else.
        as_data: whether the answer itself is data like the arguments of a call.
        close_reasoning: tokens that end reasoning.
        ends: tokens that end the answer.

    Attributes:
        constraint: what the next token must satisfy; None where it is free.
        shown: as given.
        in_reasoning: whether the next token is part of the reasoning.
    """

    def __init__(
        self,
        form: AnswerFormat | None,
        preferences: Preferences,
        *,
        shown: frozenset[int] = frozenset(),
        constraint: Constraint | None = None,
        in_call: Constraint | None = None,
        calls: Literal["no", "maybe", "only"] = "no",
        as_data: bool = False,
        close_reasoning: tuple[int, ...] = (),
        ends: frozenset[int] = frozenset(),
    ) -> None:
        self._form = form
        self._preferences = preferences
        self._in_call = in_call
        self._calls = calls
        self._as_data = as_data
        self._close_reasoning = close_reasoning
        self._ends = ends
        self.shown = shown
        self.in_reasoning = form is not None and form.begins_in_reasoning
        self._later = constraint if self.in_reasoning else None
        self.constraint = None if self.in_reasoning else constraint
        self._is_call = calls == "only" and not self.in_reasoning
        # The text of this part, and where in it its tokens end.
        self._text = ""
        self._tokens: list[tuple[int, int]] = []
        self._check_at = 0

    @property
    def aligned(self) -> bool:
        """Whether principles may pull the next token."""
        if self.in_reasoning:
            return self._preferences.align_reasoning
        if self._is_call or self._as_data:
            return self._preferences.align_tool_calls
        return True

    @property
    def finished(self) -> bool:
        """Whether nothing but an end may follow."""
        return self.constraint is not None and self.constraint.finished

    @property
    def may_end(self) -> bool:
        """Whether a grammar lets the answer end here."""
        return isinstance(self.constraint, Matching) and self.constraint.may_end

    @property
    def whole(self) -> bool:
        """Whether the answer is one that its reader can use, should it end here."""
        return isinstance(self.constraint, Matching) and self.constraint.whole

    def advance(self, token: int) -> None:
        """Takes note of a token before its text is known."""
        if self.constraint is not None:
            self.constraint.advance(token)

    def see(self, token: int, text: str) -> None:
        """Takes note of the text that a token added; another part may begin after it."""
        form = self._form
        if form is None:
            return
        self._text += text
        self._tokens.append((token, len(self._text)))
        if self.in_reasoning:
            assert form.reasoning is not None  # noqa: S101 - what has none is never in it
            if self._came(form.reasoning[1], text):
                self._enter()
                self.constraint, self._later = self._later, None
                self._is_call = self._calls == "only"
                self._plan_ending(None)
        elif self._is_call:
            if self.constraint is None and self._came(form.end_marker, text):
                self._enter()
        elif self._begins_reasoning():
            self._enter(reasoning=True)
        elif self._calls == "maybe" and (start := self._call_start(text)) is not None:
            self._open_call(start)

    def _begins_reasoning(self) -> bool:
        assert self._form is not None  # noqa: S101 - asked for where there is one
        marks = self._form.reasoning
        # Nothing but space comes before it.
        return (
            marks is not None
            and len(self._text) < 4 * len(marks[0])
            and self._text.lstrip().startswith(marks[0])
        )

    def _enter(self, *, reasoning: bool = False) -> None:
        self.in_reasoning, self._is_call = reasoning, False
        self._text, self._tokens = "", []

    def _came(self, marker: str, text: str) -> bool:
        return bool(marker) and marker in self._text[-len(text) - len(marker) :]

    def _call_start(self, text: str) -> int | None:
        """Where in the text a call has begun; None where none has."""
        assert self._form is not None  # noqa: S101 - asked for where there is one
        marker = self._form.marker
        if self._form.at_start:
            begun = "".join(self._text[: 4 * len(marker)].split())
            return 0 if begun.startswith("".join(marker.split())) else None
        if not self._came(marker, text):
            return None
        return self._text.rindex(marker)

    def _open_call(self, start: int) -> None:
        tokens = [token for token, end in self._tokens if end > start]
        self._enter()
        self._is_call = True
        constraint, self._in_call = self._in_call, None
        if constraint is None or self.constraint is not None:
            return
        try:
            for token in tokens:
                constraint.advance(token)
        except GenerationFailed:
            # Written in another way than the model's template does: it is read as it comes.
            return
        self.constraint = constraint
        self._plan_ending(None)

    def begin(self, left: int) -> None:
        """Sets out with room for so many tokens."""
        self._plan_ending(left)

    def _plan_ending(self, left: int | None) -> None:
        """Decides from how many tokens left on to look whether the grammar can still be met."""
        constraint = self.constraint
        if not isinstance(constraint, Matching):
            self._check_at = 0
        elif left is None or constraint.shortest is None:
            self._check_at = 2**62
        else:
            self._check_at = left - max(0, left - constraint.shortest) // 4

    def ending(self, token: int, left: int) -> tuple[int, ...] | None:
        """What must be written instead of a token, so that the grammar is met in time.

        Args:
            token: what was drawn.
            left: how many tokens there is room for, this one included.

        Returns:
            Tokens that complete the answer; None where the token may stand.
        """
        if self._later is not None:
            need = self._later.shortest if isinstance(self._later, Matching) else None
            late = left <= (need or 0) + len(self._close_reasoning) + 1
            # What is to come after reasoning must not be missed.
            return (self._close_reasoning or None) if late or token in self._ends else None
        constraint = self.constraint
        if left > self._check_at or not isinstance(constraint, Matching):
            return None
        after = constraint.copy()
        after.advance(token)
        ending = after.shortest_ending(left - 1)
        if ending is not None:
            spare = left - 1 - len(ending)
            self._check_at = left - 1 - (spare // 4 if spare > _NARROW else 0)
            return None
        # Either this is the last chance, or there may be one later on.
        self._check_at = left * 3 // 4 - 1
        ending = constraint.shortest_ending(left)
        return (*ending, *constraint.ends[: not ending]) or None if ending is not None else None
