"""What every framework class shares: its model, its preferences, its sampling, and its users."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from linalign_integrations.errors import (
    InvalidArgument,
    InvalidPreferences,
    InvalidSampling,
    LinAlignError,
    ProfileNotFound,
    UnsupportedModel,
    describe,
)
from linalign_integrations.preferences import (
    Placement,
    Preferences,
    Principle,
    Profiles,
    as_preferences,
    open_profiles,
    resolve,
)
from linalign_integrations.preferences.records import label_of
from linalign_integrations.preferences.scope import OnProfile

if TYPE_CHECKING:
    from linalign_integrations.engine import Engine, SamplingParams

_PREFERENCE_FIELDS = tuple(Preferences.model_fields)
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "seed", "max_tokens", "stop")
# What a call may ask of the engine beside preferences and sampling.
_CALL_ARGUMENTS = ("tools", "tool_choice", "parallel_tool_calls", "grammar", "timeout")
# Other classes' names of fields that are here too.
_ELSEWHERE = {
    "device_map": "device",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "model_id": "model",
    "model_name": "model",
    "request_timeout": "timeout",
    "stop_sequences": "stop",
    "torch_dtype": "dtype",
    "num_output": "max_tokens",
    "user": "user_id",
}
# LangChain's own flag to stream inside generate, and what LlamaIndex tells servers.
_HARMLESS = ("stream", "extra_headers")


def fingerprint(value: object) -> str | None:
    """A short text that differs where the value does and does not quote it.

    Cache keys must tell users' preferences apart, and caches and traces must not spell them out.
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
        InvalidArgument: a field is unknown or wrong, or there is no such device here.
    """

    # Beside preferences and sampling.
    _takes: ClassVar[tuple[str, ...]] = _CALL_ARGUMENTS
    # Arguments of the constructor that mean nothing; None where the framework passes any.
    _ignored: ClassVar[tuple[str, ...] | None] = None

    model: str = Field(
        default="",
        validate_default=True,
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
    align_tool_calls: bool | None = Field(
        default=None,
        description="Whether tool calls and JSON schemas are aligned; not unless said.",
    )
    align_reasoning: bool | None = Field(
        default=None, description="Whether hidden reasoning is aligned; it is unless said."
    )
    profiles: Any = Field(
        default=None,
        exclude=True,  # a URL may hold a password
        repr=False,
        description="Where users' preferences are kept: a URL, a LangGraph store, or Profiles.",
    )
    user_id: str | None = Field(default=None, description="The user this object answers for.")
    on_profile_error: OnProfile = Field(
        default="raise", description='Where a profile cannot be read; "plain" answers unaligned.'
    )
    on_unknown_user: OnProfile = Field(
        default="raise", description='Where a user has no profile; "plain" answers unaligned.'
    )
    temperature: float | None = Field(default=None, description="0.7 unless said; 0 is greedy.")
    top_p: float | None = Field(default=None, description="1 unless said.")
    top_k: int | None = Field(default=None, description="No limit unless said.")
    seed: int | None = Field(default=None, description="Same seed, same answer.")
    max_tokens: int | None = Field(default=None, description="Most tokens of an answer; 512.")
    stop: tuple[str, ...] | None = Field(default=None, description="Texts that end an answer.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that an answer may take; no limit unless said.",
    )

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _own_error(error, type(self)) or error from None

    @model_validator(mode="before")
    @classmethod
    def _read_fields(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        read = dict(fields)
        whole = read.pop("preferences", None)
        if whole is not None:
            if not isinstance(whole, Preferences):
                raise _not_preferences(whole)
            read |= {name: getattr(whole, name) for name in whole.model_fields_set - read.keys()}
        for name in read.keys() - cls.model_fields.keys():
            # A slip of the pen is none of those that mean nothing, nor what others call a field.
            if meant := _meant(name, cls.model_fields):
                raise InvalidArgument(
                    f"{cls.__name__} has no field {name!r}: did you mean {meant!r}?"
                )
            if cls._ignored is not None and name not in cls._ignored:
                there_are = ", ".join(Adapter.model_fields)
                raise InvalidArgument(f"{cls.__name__} has no field {name!r}; it has {there_are}")
        if isinstance(read.get("stop"), str):
            read["stop"] = (read["stop"],)
        if read.get("principles") is not None:
            read["principles"] = Preferences(principles=read["principles"]).principles
        return read

    @field_validator("model", mode="before")
    @classmethod
    def _name_model(cls, value: Any) -> str:
        from linalign_integrations.engine.loading import model_name

        return model_name(value or None)

    @field_validator("user_id")
    @classmethod
    def _check_user(cls, value: str | None) -> str | None:
        if value is not None:
            label_of(value, "user_id")
        return value

    @field_validator("profiles", mode="before")
    @classmethod
    def _open_profiles(cls, value: Any) -> Any:
        # Opened once: a cache that were made anew for each call would never hold anything.
        return value if value is None or isinstance(value, Profiles) else open_profiles(value)

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        self._own_preferences()
        self._sampling({})
        if self.device is not None or self.dtype is not None:
            # Only then, since it takes torch.
            from linalign_integrations.engine.loading import pick_device, pick_dtype

            pick_dtype(self.dtype, pick_device(self.device))
        return self

    def for_user(self, user_id: str) -> Self:
        """A cheap copy that answers for one user, by the profile stored under that name.

        The profile is looked up at each request, so a change takes effect at once, or within the
        ``cache_seconds`` of ``open_profiles`` if another process makes it.

        Raises:
            InvalidArgument: ``user_id`` is not text, empty, or too long.
            ProfileNotFound: this object has no profile store.
        """
        label_of(user_id, "user_id")
        if self.profiles is None:
            raise ProfileNotFound(
                f"for_user({user_id!r}) needs a profile store: pass profiles= to "
                f"{type(self).__name__}, for example profiles='sqlite:///profiles.db'"
            )
        return self._copy(user_id=user_id)

    def _copy(self, **changes: Any) -> Self:
        if changes.get("model", self.model) != self.model:
            # A revision is of one model, and trust is in one.
            changes = {"revision": None, "trust_remote_code": False, **changes}
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

        asked = self._copy(model=model) if model else self
        try:
            return Engine.load(
                asked.model,
                device=asked.device,
                dtype=asked.dtype,
                revision=asked.revision,
                trust_remote_code=asked.trust_remote_code,
            )
        except InvalidArgument as error:
            if model:  # named by the call, whose mistake it is
                raise
            # What was right where this was made, such as a device, may be wrong where it came to.
            raise UnsupportedModel(str(error)) from error

    def _context_length(self) -> int:
        """Most tokens that prompt and answer may have; reads weights only where nothing else says.

        Raises:
            ModelNotFound: there is no such model within reach.
            UnsupportedModel: its config cannot be used.
        """
        from linalign_integrations.engine.loading import context_length

        said = context_length(self.model, self.revision, self.trust_remote_code)
        return said or self._engine().context_length

    def _own_preferences(self) -> Preferences | None:
        return as_preferences(None, **{name: getattr(self, name) for name in _PREFERENCE_FIELDS})

    def _take_preferences(
        self,
        call: dict[str, Any],
        *,
        config: Mapping[str, Any] | None = None,
        context: object = None,
        profiles: Profiles | None = None,
        house_rules: Preferences | None = None,
    ) -> Preferences:
        """Resolves the preferences of one call and removes from ``call`` what it said of them."""
        said = {name: call.pop(name, None) for name in _PREFERENCE_FIELDS}
        whole = call.pop("preferences", None)
        if whole is not None and not isinstance(whole, Preferences):
            raise _not_preferences(whole)
        kept = profiles or self.profiles
        return resolve(
            call=as_preferences(whole, **said),
            config=config,
            context=context,
            own=self._own_preferences(),
            user_id=self.user_id,
            profiles=kept if kept is None or isinstance(kept, Profiles) else open_profiles(kept),
            on_profile_error=self.on_profile_error,
            on_unknown_user=self.on_unknown_user,
            house_rules=house_rules,
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

    def _request(
        self, call: dict[str, Any], *, stop: Sequence[str] | None = None
    ) -> tuple[Engine, dict[str, Any]]:
        """The engine for one call, and the arguments to ask it with.

        Args:
            call: what the call says; emptied of what is understood.
            stop: the framework's own stop argument, if it has one.

        Raises:
            InvalidArgument: something is left that would change the answer if it were obeyed.
        """
        request = {
            "preferences": self._take_preferences(call),
            "sampling": self._sampling(call, stop=stop),
            "user": self.user_id,
            "timeout": self.timeout,
        }
        for name in _CALL_ARGUMENTS:
            if (value := call.pop(name, None)) is not None:
                request[name] = value
        model = call.pop("model", None)
        known = (*_PREFERENCE_FIELDS, "preferences", *_SAMPLING_FIELDS, *self._takes, "model")
        # Frameworks turn off by a falsy value what is not there; a slip of the pen is refused.
        left = sorted(
            name
            for name, value in call.items()
            if name not in _HARMLESS and (value or (value is not None and _meant(name, known)))
        )
        if left:
            raise InvalidArgument(
                f"{type(self).__name__} does not understand {', '.join(left)}; it takes "
                f"{', '.join(known)}"
            )
        return self._engine(model), request


def _meant(name: str, known: Collection[str]) -> str | None:
    """What somebody meant who wrote a name that there is not, as far as it can be told."""
    likely = get_close_matches(name, [*known, *_ELSEWHERE], 1, 0.8)
    meant = _ELSEWHERE.get(likely[0], likely[0]) if likely else None
    return meant if meant in known else None


def _own_error(error: ValidationError, cls: type[Adapter]) -> LinAlignError | None:
    """This package's error for a refused field; None where the field is the framework's."""
    ours = [one for one in cls.__mro__ if one.__module__.startswith("linalign_integrations")]
    own = {field for one in ours for field in vars(one).get("__annotations__", ())}
    for item in error.errors():
        reason = item.get("ctx", {}).get("error")
        if isinstance(reason, LinAlignError):
            return reason
        field = item["loc"][0] if item["loc"] else None
        if field in _PREFERENCE_FIELDS:
            return InvalidPreferences(describe(error))
        if field in _SAMPLING_FIELDS:
            return InvalidSampling(describe(error))
        if field in own:
            return InvalidArgument(describe(error))
    return None


def _not_preferences(value: object) -> InvalidPreferences:
    return InvalidPreferences(
        f"preferences= takes Preferences, not {type(value).__name__}; strings go into principles="
    )
