"""Principle and Preferences: what one user wants of one answer, as a value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Never, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
)

from linalign_integrations.errors import InvalidPreferences, describe

if TYPE_CHECKING:
    from collections.abc import Mapping

Placement = Literal["system", "last_user"]
"""Where principles stand in the prompt: in the system message, or after the last user turn."""

# Far beyond what a model heeds, and small enough that no value can burden a store or a prompt.
_LONGEST_TEXT = 10_000
_MOST_PRINCIPLES = 100
_LARGEST = 1000
# Line breaks and tabs are text; other control characters are not, and some stores cannot hold them.
_BREAK = re.compile("\r\n|[\r\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def _as_text(text: str) -> str:
    if found := _CONTROL.search(text):
        raise ValueError(
            f"U+{ord(found[0]):04X} at position {found.start()} is a control character: remove it"
        )
    # Forms and word processors have line breaks of their own; what reads the same should be the
    # same value, and stay on its line where it is written as JSON.
    return _BREAK.sub("\n", text)


_Text = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=_LONGEST_TEXT),
    AfterValidator(_as_text),
]
# Adding zero makes -0.0, which equals 0.0 and reads otherwise, the same value in every respect.
_Number = Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda x: x + 0)]


class _Value(BaseModel):
    """A frozen value. Equal ones have equal hashes and equal reprs, however they were made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InvalidPreferences(describe(error, type(self).model_fields)) from error

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed; they are checked like any other.

        Raises:
            InvalidPreferences: a field lies outside its range.
        """
        del deep  # nothing in it can change
        return type(self)(**{**self._said(), **(update or {})})

    def _said(self) -> dict[str, Any]:
        """The fields that were given explicitly."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Principle(_Value):
    """One preference in natural language. Frozen, hashable, compared by value.

    Raises:
        InvalidPreferences: the text is empty, too long, not a string or holds control characters,
            or the weight is not a finite number within its range.
    """

    model_config = ConfigDict(
        json_schema_extra={"description": "One preference in natural language."}
    )

    text: _Text = Field(
        title="Principle",
        description="What the user prefers, in plain words.",
        examples=["Answer like a pirate.", "I am vegan.", "Keep it under three sentences."],
    )
    weight: _Number = Field(
        default=1.0,
        strict=True,
        ge=-_LARGEST,
        le=_LARGEST,
        title="Weight",
        description="How strongly it counts beside the others; negative steers away from it.",
        examples=[1.0, 2.0, -1.0],
    )

    def __init__(self, /, text: str = "", weight: float = 1.0, **unknown: Any) -> None:
        super().__init__(text=text, weight=weight, **unknown)


def _as_principle(value: object) -> object:
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, (Principle, dict)):
        return value
    raise ValueError("a principle is a string or a Principle")


def _as_principles(value: object) -> object:
    if isinstance(value, (str, Principle)):
        return (value,)
    if isinstance(value, (list, tuple)):
        return value
    # A set is none of these: without an order of its own its repr would not be stable.
    hint = ": whole ones go into preferences=" if isinstance(value, Preferences) else ""
    raise ValueError(f"principles are a string, a Principle, or a list or tuple of them{hint}")


class Preferences(_Value):
    """All that alignment needs to know for one request. Frozen, hashable, compared by value.

    Principles may be given as strings; a single one needs no list. A field that was not given
    explicitly leaves room for a lower level to say it (see ``resolve`` and ``merge``), whereas an
    explicit empty ``principles=()`` means *no alignment*.

    Raises:
        InvalidPreferences: a field lies outside its range; the message names it.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "description": "What a user prefers, and how strongly answers follow it.",
            "examples": [
                {"principles": [{"text": "Answer like a pirate."}], "ratio": 2.0},
                {"principles": [{"text": "I am vegan.", "weight": 2.0}], "kl_budget": 0.5},
            ],
        }
    )

    principles: Annotated[
        tuple[Annotated[Principle, BeforeValidator(_as_principle)], ...],
        Field(max_length=_MOST_PRINCIPLES),
        BeforeValidator(_as_principles),
    ] = Field(
        default=(),
        title="Principles",
        description="What the user prefers; empty means plain, unaligned answers.",
        examples=[[{"text": "Be brief.", "weight": 1.0}]],
    )
    ratio: _Number = Field(
        default=2.0,
        ge=0,
        le=_LARGEST,
        title="Ratio",
        description="Largest step along the direction; 0 is plain prompting.",
        examples=[0.0, 1.0, 2.0, 3.0],
    )
    kl_budget: Annotated[float, Field(allow_inf_nan=False, gt=0)] | None = Field(
        default=None,
        title="KL budget",
        description="Most nats per token that the step may spend; null (None) for no budget.",
        examples=[0.1, 0.5, 1.0, None],
    )
    plausibility: _Number = Field(
        default=0.8,
        gt=0,
        le=1,
        title="Plausibility",
        description="Mass of the prompted distribution that the answer may be drawn from.",
        examples=[0.8, 0.95, 1.0],
    )
    placement: Placement = Field(
        default="system",
        title="Placement",
        description="Principles in the system message, or at the end of the last user turn.",
        examples=["system", "last_user"],
    )
    align_tool_calls: bool = Field(
        default=False,
        title="Align tool calls",
        description="Whether calls to tools and answers forced into a JSON schema are aligned.",
    )
    align_reasoning: bool = Field(
        default=True,
        title="Align reasoning",
        description="Whether hidden reasoning is aligned as well as the answer.",
    )

    def __init__(self, /, *unnamed: Never, **fields: Any) -> None:
        if unnamed:
            raise InvalidPreferences(
                f"fields have names here: Preferences(principles=[{unnamed[0]!r:.80}])"
            )
        super().__init__(**fields)

    # Without the type of what it returns, or the JSON schema of what it writes would say no more.
    @model_serializer(mode="wrap")
    def _write_what_is_said(  # type: ignore[no-untyped-def]
        self, write: SerializerFunctionWrapHandler
    ):
        # What was left unsaid stays unsaid, or what is read back would hide what lower levels say.
        return {name: one for name, one in write(self).items() if name in self.model_fields_set}

    def merge(self, *higher: Preferences) -> Preferences:
        """These preferences with higher layers on top of them, the last one uppermost.

        ``house.merge(anns, call)`` puts an organisation's house rules below a user's preferences
        and what one call says above both. Principles add up, so that house rules hold for users
        with principles of their own: each layer's stand after those of the layers below it, and one
        with the text of a lower one takes its place, weight included. An explicit empty tuple of
        principles, *no alignment*, drops those of all layers below it. Any other field is what the
        uppermost layer says that says it; what no layer says stays unsaid.

        This is how layers become one value. ``resolve`` finds the value for a call instead: there
        a higher level's principles replace those of lower ones.

        Raises:
            InvalidPreferences: a layer is not Preferences, or they have too many principles in all.
        """
        said: dict[str, Any] = {}
        for layer in (self, *higher):
            if not isinstance(layer, Preferences):
                raise InvalidPreferences(
                    f"merge takes Preferences, not {type(layer).__name__}: wrap principles as "
                    "Preferences(principles=[...])"
                )
            new = layer._said()
            if layer.principles:
                replaced = {principle.text for principle in layer.principles}
                kept = [one for one in said.get("principles", ()) if one.text not in replaced]
                new["principles"] = (*kept, *layer.principles)
            said |= new
        return Preferences(**said)
