"""Which preferences hold for a call: one rule, used by every framework."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Self

from linalign_integrations.errors import (
    InvalidPreferences,
    ProfileNotFound,
    ProfileStoreFailed,
    ProfileUnreadable,
)
from linalign_integrations.preferences.model import Preferences, Principle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from linalign_integrations.preferences.profiles import Profiles

# What is read beside the user_id of a profile alone, where apps have keys of their own as well.
_STRENGTH = ("ratio", "kl_budget", "plausibility")
# What may be misspelt, and what looks like it but is a word of its own.
_WORDS = ("principles", "preferences", "kl_budget", "plausibility")
_OTHER_WORDS = {"principal", "principals", "references"}
_UNSAID = dict(Preferences())
_scopes: ContextVar[tuple[use_preferences, ...]] = ContextVar("linalign_scopes", default=())

OnProfile = Literal["raise", "plain"]
"""What becomes of a call whose profile is not to be had: an error, or no alignment at all."""


def as_preferences(
    value: Preferences | Principle | str | Mapping[str, Any] | Sequence[Any] | None, **fields: Any
) -> Preferences | None:
    """Preferences from principles or preferences, and on top of them the fields that are not None.

    Returns:
        None if neither ``value`` nor any field says anything.

    Raises:
        InvalidPreferences: a value lies outside its range.
    """
    said = {name: field for name, field in fields.items() if field is not None}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise InvalidPreferences(f"{value!r:.80} is neither Preferences nor principles")
        value = Preferences(**value)
    if isinstance(value, Preferences):
        return value.model_copy(update=said) if said else value
    if value is not None:
        said["principles"] = value
    return Preferences(**said) if said else None


class use_preferences:  # noqa: N801 - reads as a verb where it is used
    """Sets the preferences of calls made inside a ``with`` or ``async with`` block.

    Of calls of the frameworks' classes, that is: an ``Engine`` takes what it is given.

    Blocks nest: the inner one wins where it says something. The value follows the context into
    asyncio tasks and into threads that copy the context; a plain ``ThreadPoolExecutor`` does not.
    Do not ``yield`` out of a block: a generator's caller would see its preferences.

    Example:
        ``with use_preferences("Be formal.", ratio=3.0): chain.invoke(question)``

    Args:
        principles: one or several principles, or whole Preferences; ``()`` switches alignment off.
        **fields: single fields of ``Preferences``, such as ``ratio`` or ``kl_budget``.

    Raises:
        InvalidPreferences: a value lies outside its range.
    """

    def __init__(
        self,
        principles: Preferences | Principle | str | Sequence[str | Principle] | None = None,
        **fields: Any,
    ) -> None:
        self._preferences = as_preferences(principles, **fields) or Preferences()

    def __enter__(self) -> Self:
        _scopes.set((*_scopes.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The way out is kept in the context, so that tasks may share one object; and blocks that
        # generators leave in another order than they entered them close none but their own.
        scopes = _scopes.get()
        for place in reversed(range(len(scopes))):
            if scopes[place] is self:
                _scopes.set(scopes[:place] + scopes[place + 1 :])
                break

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


def resolve(
    *,
    call: Preferences | None = None,
    config: object = None,
    context: object = None,
    own: Preferences | None = None,
    user_id: str | None = None,
    profiles: Profiles | None = None,
    on_profile_error: OnProfile = "raise",
    on_unknown_user: OnProfile = "raise",
    house_rules: Preferences | None = None,
) -> Preferences:
    """The preferences that hold for one call, every field of them said.

    For each field the first level that says it wins: call argument, ``principles`` or
    ``preferences`` in the configuration, the profile of the configuration's ``user_id``, the same
    of the runtime context, ``use_preferences``, then the model object's own user and fields. An
    explicit empty tuple of principles is a statement, *no alignment*, and never falls through.

    A profile is read only where nothing above it says principles, and only that of the first user
    who is named: two users' profiles never mix.

    Args:
        call: what the call itself says.
        config: LangChain's ``configurable`` or a like mapping. Beside ``principles``
            or ``preferences``, ``ratio`` and the other fields are read as well, and ``ratio``,
            ``kl_budget`` and ``plausibility`` beside the ``user_id`` whose profile is read; alone
            they are none of ours.
        context: a runtime context with the same keys or attributes.
        own: the fields of the model object.
        user_id: the user the model object was made for.
        profiles: where profiles are looked up.
        on_profile_error: what to do where a profile cannot be read, because the store is down or
            what it holds is not valid. ``"plain"`` means no alignment, whatever the levels below
            say, and a warning.
        on_unknown_user: the same for a user who has no profile.
        house_rules: what stands below all levels together, as in ``Preferences.merge``. They hold
            as well for a user whom ``"plain"`` answers without principles of their own.

    Raises:
        InvalidArgument: the user's name is empty, too long, or not text.
        InvalidPreferences: a value lies outside its range, or a key of the configuration or context
            is a misspelt one.
        ProfileNotFound: the user has no profile, or the model object was made for a user but has
            no profile store.
        ProfileStoreFailed: the store cannot be read.
        ProfileUnreadable: what is stored for the user is not preferences.
    """
    if call is not None and house_rules is None and len(call.model_fields_set) == len(_UNSAID):
        return call
    said: dict[str, Any] = {}
    unknown: list[str] = []

    def says_principles() -> bool:
        return "principles" in said

    def profile(profiles: Profiles, user: str) -> Preferences:
        try:
            return profiles.get(user)
        except ProfileNotFound as error:
            if on_unknown_user == "raise":
                raise
            _warn_once(f"{profiles!r}: {error}; answered without principles")
        except (ProfileStoreFailed, ProfileUnreadable) as error:
            if on_profile_error == "raise":
                raise
            warnings.warn(f"{error}; answered without principles", stacklevel=2)
        unknown.append(user)
        return Preferences(principles=())

    def levels() -> Iterator[Preferences | None]:
        yield call
        named, first = False, named_user(config, context)
        for carrier in (config, context):
            user = _read(carrier, "user_id")
            of_profile = user is not None and profiles is not None
            _refuse_slips(carrier, users=profiles is not None)
            yield _said_by(carrier, of_profile=of_profile and user == first)
            # Apps carry a user_id for purposes of their own: without a store it is none of ours.
            if user is not None and profiles is not None and not (named or says_principles()):
                named = True
                yield profile(profiles, user)
        for scope in reversed(_scopes.get()):
            yield scope._preferences
        if user_id is not None and not (named or says_principles()):
            if profiles is None:
                raise ProfileNotFound(
                    f"this model answers for user {user_id!r} but has no profile store: pass "
                    'profiles=, for example profiles="sqlite:///profiles.db"'
                )
            yield profile(profiles, user_id)
        yield own

    for level in levels():
        if level is not None:
            said = {**level._said(), **said}
    if house_rules is not None:
        if unknown:
            # It was not the user who asked for no alignment.
            del said["principles"]
        said = house_rules.merge(Preferences(**said))._said()
    # Each of these values was checked when its level was made.
    return Preferences.model_construct(**{**_UNSAID, **said})


@lru_cache(maxsize=1024)
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _said_by(carrier: object, *, of_profile: bool) -> Preferences | None:
    """What a carrier says.

    Args:
        carrier: the configuration or context.
        of_profile: whether it names the user whose profile is read, which it may then sharpen.
    """
    whole = as_preferences(_read(carrier, "preferences"))
    fields: tuple[str, ...] = ()
    if whole is not None or _read(carrier, "principles") is not None:
        fields = tuple(Preferences.model_fields)
    elif of_profile:
        fields = _STRENGTH
    return as_preferences(whole, **{name: _read(carrier, name) for name in fields})


def _refuse_slips(carrier: object, *, users: bool) -> None:
    """Refuses misspelt keys; of the user's only where there are ``users`` of ours to mean."""
    if carrier is None:
        return
    for key in carrier if isinstance(carrier, Mapping) else dir(carrier):
        meant = _slip(key) if isinstance(key, str) else None
        if meant is None or (meant == "user_id" and not users):
            continue
        if _read(carrier, key) is not None and _read(carrier, meant) is None:
            raise InvalidPreferences(
                f"{key!r} in the configuration or context is read by nobody: did you mean "
                f"{meant!r}?"
            )


@lru_cache(maxsize=1024)
def _slip(key: str) -> str | None:
    """What a key must be a misspelling of; None where it may mean something else."""
    plain = key.lower().replace("-", "_")
    if key in (*_WORDS, "user_id") or plain in _OTHER_WORDS:
        return None
    if plain.replace("_", "") == "userid":
        return "user_id"
    close = get_close_matches(plain, _WORDS, 1, 0.9)
    return close[0] if close else None


def named_user(*carriers: object) -> str | None:
    """The first user whom one of these, configurations or contexts, names."""
    users = (_read(carrier, "user_id") for carrier in carriers)
    return next((user for user in users if isinstance(user, str)), None)


def _read(carrier: object, name: str) -> Any:
    return carrier.get(name) if isinstance(carrier, Mapping) else getattr(carrier, name, None)
