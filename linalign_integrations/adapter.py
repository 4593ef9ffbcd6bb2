"""What every framework class shares: its model, its preferences, its sampling, and its users."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from linalign_integrations.errors import InvalidPreferences, LinAlignError, ProfileNotFound
from linalign_integrations.preferences import (
    Placement,
    Preferences,
    Principle,
    Profiles,
    as_preferences,
    open_profiles,
    resolve,
)

if TYPE_CHECKING:
    from linalign_integrations.engine import Engine, SamplingParams

_PREFERENCE_FIELDS = ("principles", "ratio", "kl_budget", "plausibility", "placement")
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "seed", "max_tokens", "stop")


def fingerprint(value: object) -> str | None:
    """A short text that differs where the value does and from which the value cannot be read.

    Cache keys must tell users' preferences apart, and traces, which show them, must not quote them.
    """
    return None if value is None else blake2b(repr(value).encode(), digest_size=16).hexdigest()


class Adapter(BaseModel):
    """The part of a framework's model class that is the same in every framework.

    Construction is cheap: weights are read on the first request, once per process, however many
    objects point at them. A field left at None means "not said": the next level decides.

    Raises:
        ModelNotFound: neither ``model`` nor the variable ``LINALIGN_MODEL`` names a model.
        InvalidPreferences: principles, ratio or budget lie outside their range.
        InvalidSampling: a sampling field lies outside its range.
    """

    model: str = Field(
        default_factory=lambda: os.environ.get("LINALIGN_MODEL", ""),
        description='A Hugging Face id, a folder, or "pocket"; else the variable LINALIGN_MODEL.',
    )
    device: str | None = Field(default=None, description="By default the fastest device here.")
    dtype: str | None = Field(default=None, description="By default the fastest dtype here.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of the model.")
    trust_remote_code: bool = Field(default=False, description="Run code that the model brings.")
    # Kept out of the repr, which frameworks put into traces.
    principles: tuple[Principle, ...] | None = Field(
        default=None,
        repr=False,
        description="What every answer should follow unless a call says otherwise.",
    )
    ratio: float | None = Field(default=None, description="Largest step; 2 unless said.")
    kl_budget: float | None = Field(default=None, description="Most nats per token, or no budget.")
    plausibility: float | None = Field(
        default=None, description="Mass of the plausible set; 0.8 unless said."
    )
    placement: Placement | None = Field(default=None, description='"system" unless said.')
    profiles: Any = Field(
        default=None,
        exclude=True,
        repr=False,
        description="Where users' preferences are kept: a URL, a LangGraph store, or Profiles.",
    )
    user_id: str | None = Field(default=None, description="The user this object answers for.")
    temperature: float | None = Field(default=None, description="0.7 unless said; 0 is greedy.")
    top_p: float | None = Field(default=None, description="1 unless said.")
    top_k: int | None = Field(default=None, description="No limit unless said.")
    seed: int | None = Field(default=None, description="Same seed, same answer.")
    max_tokens: int | None = Field(default=None, description="Most tokens of an answer; 512.")
    stop: tuple[str, ...] | None = Field(default=None, description="Texts that end an answer.")

    _opened_profiles: Profiles | None = PrivateAttr(default=None)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            for item in error.errors():
                reason = item.get("ctx", {}).get("error")
                if isinstance(reason, LinAlignError):
                    raise reason from None
            raise

    @model_validator(mode="before")
    @classmethod
    def _read_lists(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        read = dict(fields)
        if isinstance(read.get("stop"), str):
            read["stop"] = (read["stop"],)
        if read.get("principles") is not None:
            read["principles"] = Preferences(principles=read["principles"]).principles
        return read

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        from linalign_integrations.engine.loading import model_name

        model_name(self.model)
        self._own_preferences()
        self._sampling({})
        if isinstance(self.profiles, Profiles):
            self._opened_profiles = self.profiles
        elif self.profiles is not None:
            self._opened_profiles = open_profiles(self.profiles)
        return self

    def for_user(self, user_id: str) -> Self:
        """A cheap copy that answers for one user, by the profile stored under that name.

        The profile is read at each request, so a change takes effect at once.

        Raises:
            ProfileNotFound: this object has no profile store.
        """
        if self._opened_profiles is None:
            raise ProfileNotFound(
                f"for_user({user_id!r}) needs a profile store: pass profiles= to "
                f"{type(self).__name__}, for example profiles='sqlite:///profiles.db'"
            )
        return self._copy(user_id=user_id)

    def _copy(self, **changes: Any) -> Self:
        copy = self.model_copy(update=changes)
        # A cached property of LangChain's that would carry the original's fields into cache keys.
        copy.__dict__.pop("_serialized", None)
        return copy

    def _identity(self) -> dict[str, Any]:
        """Fields that tell one object's answers from another's, without quoting principles."""
        fields = self.model_dump(include=set(Adapter.model_fields) - {"profiles", "principles"})
        return {**fields, "principles": fingerprint(self.principles)}

    def _engine(self, model: str | None = None) -> Engine:
        from linalign_integrations.engine import Engine

        return Engine.load(
            model or self.model,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )

    def _own_preferences(self) -> Preferences | None:
        return as_preferences(None, **{name: getattr(self, name) for name in _PREFERENCE_FIELDS})

    def _take_preferences(
        self,
        call: dict[str, Any],
        *,
        config: Mapping[str, Any] | None = None,
        context: object = None,
    ) -> Preferences:
        """Resolves the preferences of one call and removes from ``call`` what it said of them."""
        said = {name: call.pop(name, None) for name in _PREFERENCE_FIELDS}
        whole = call.pop("preferences", None)
        if whole is not None and not isinstance(whole, Preferences):
            raise InvalidPreferences(
                f"preferences= takes Preferences, not {type(whole).__name__}; "
                "strings go into principles="
            )
        principles = said.pop("principles")
        layer = as_preferences(principles, **said)
        if whole is not None:
            layer = whole if layer is None else layer.over(whole)
        return resolve(
            call=layer,
            config=config,
            context=context,
            own=self._own_preferences(),
            user_id=self.user_id,
            profiles=self._opened_profiles,
        )

    def _sampling(
        self, call: dict[str, Any], *, stop: Sequence[str] | None = None
    ) -> SamplingParams:
        """Sampling parameters of one call; removes from ``call`` what it said of them."""
        from linalign_integrations.engine import SamplingParams

        said = {name: getattr(self, name) for name in _SAMPLING_FIELDS}
        for name in _SAMPLING_FIELDS:
            if (value := call.pop(name, None)) is not None:
                said[name] = value
        if stop is not None:
            said["stop"] = stop
        return SamplingParams(**{name: value for name, value in said.items() if value is not None})
