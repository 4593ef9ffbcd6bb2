"""Principle and Preferences: what one user wants of one answer, as a value."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from linalign_integrations.errors import InvalidPreferences, describe

Placement = Literal["system", "last_user"]
"""Where principles stand in the prompt: in the system message, or after the last user turn."""


class Principle(BaseModel):
    """One preference in natural language.

    Raises:
        InvalidPreferences: the text is empty or not a string, or the weight is not finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        description="What the user prefers, in plain words."
    )
    weight: float = Field(
        default=1.0,
        ge=-1000,
        le=1000,
        allow_inf_nan=False,
        description="How strongly it counts; negative steers away from it.",
    )

    def __init__(self, text: str = "", weight: float = 1.0, **unknown: Any) -> None:
        _build(super().__init__, text=text, weight=weight, **unknown)


def _as_principles(value: object) -> object:
    if isinstance(value, (str, Principle)):
        value = (value,)
    if isinstance(value, (list, tuple)):
        return tuple(
            Principle(text=item)
            if isinstance(item, str)
            else Principle(**item)
            if isinstance(item, dict) and item.keys() <= {"text", "weight"} and "text" in item
            else item
            for item in value
        )
    return value


class Preferences(BaseModel):
    """All that alignment needs to know for one request. Frozen, hashable, compared by value.

    Principles may be given as strings; a single one needs no list. A field that was not given
    explicitly leaves room for a lower level to say it (see ``resolve``), whereas an explicit empty
    ``principles=()`` means *no alignment*.

    Raises:
        InvalidPreferences: a field lies outside its range; the message names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    principles: Annotated[tuple[Principle, ...], BeforeValidator(_as_principles)] = Field(
        default=(), description="What the user prefers; empty means plain, unaligned answers."
    )
    ratio: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=False,
        description="Largest step along the direction; 0 is plain prompting.",
    )
    kl_budget: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Most nats per token that the step may spend; None for no budget.",
    )
    plausibility: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Mass of the prompted distribution that the answer may be drawn from.",
    )
    placement: Placement = Field(
        default="system",
        description="Principles in the system message, or at the end of the last user turn.",
    )
    align_tool_calls: bool = Field(
        default=False,
        description="Whether calls to tools and answers forced into a JSON schema are aligned.",
    )
    align_reasoning: bool = Field(
        default=True, description="Whether hidden reasoning is aligned as well as the answer."
    )

    def __init__(self, **fields: Any) -> None:
        _build(super().__init__, **fields)

    def over(self, lower: Preferences) -> Preferences:
        """These preferences, with what they leave unsaid taken from ``lower``."""
        said = self.model_fields_set
        merged = {name: getattr(self, name) for name in said}
        merged |= {
            name: getattr(lower, name) for name in lower.model_fields_set if name not in said
        }
        return Preferences(**merged)


def _build(construct: Any, **fields: Any) -> None:
    try:
        construct(**fields)
    except ValidationError as error:
        raise InvalidPreferences(describe(error)) from error
