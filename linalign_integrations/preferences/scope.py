"""Which preferences hold for a call: one rule, used by every framework."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from linalign_integrations.errors import ProfileNotFound
from linalign_integrations.preferences.model import Preferences, Principle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from linalign_integrations.preferences.profiles import Profiles

STRENGTH = (
    "ratio",
    "kl_budget",
    "plausibility",
    "placement",
    "align_tool_calls",
    "align_reasoning",
)
"""The fields of Preferences beside the principles."""


@dataclass(frozen=True)
class _Scope:
    preferences: Preferences
    outer: _Scope | None


_scope: ContextVar[_Scope | None] = ContextVar("linalign_preferences", default=None)


def as_preferences(
    value: Preferences | Principle | str | Mapping[str, Any] | Sequence[Any] | None, **fields: Any
) -> Preferences | None:
    """Preferences from principles or preferences and from single fields that are not None.

    Returns:
        None if neither ``value`` nor any field says anything.

    Raises:
        InvalidPreferences: a value lies outside its range.
    """
    said = {name: field for name, field in fields.items() if field is not None}
    if isinstance(value, Mapping):
        value = Preferences(**value)
    if isinstance(value, Preferences):
        return Preferences(**said).over(value)
    if value is not None:
        said["principles"] = value
    return Preferences(**said) if said else None


class use_preferences:  # noqa: N801 - reads as a verb where it is used
    """Sets the preferences of every call made inside a ``with`` or ``async with`` block.

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
        outer = _scope.get()
        inherited = outer.preferences if outer else Preferences()
        _scope.set(_Scope(self._preferences.over(inherited), outer))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The way out is kept in the context, so that tasks may share one object.
        if (scope := _scope.get()) is not None:
            _scope.set(scope.outer)

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
        config: LangChain's ``configurable`` or a like mapping. Beside ``principles``, ``ratio`` and
            the other fields are read as well; alone they are none of ours.
        context: a runtime context with the same keys or attributes.
        own: the fields of the model object.
        user_id: the user the model object was made for.
        profiles: where profiles are looked up.

    Raises:
        InvalidPreferences: a value lies outside its range.
        ProfileNotFound: the user has no profile, or the model object was made for a user but has
            no profile store.
        ProfileUnreadable: what is stored for the user is not preferences.
    """
    settled = Preferences()

    def says_principles() -> bool:
        return "principles" in settled.model_fields_set

    def levels() -> Iterator[Preferences | None]:
        yield call
        named = False
        for carrier in (config, context):
            yield _said_by(carrier)
            user = _read(carrier, "user_id")
            # Apps carry a user_id for purposes of their own: without a store it is none of ours.
            if user is not None and profiles is not None and not (named or says_principles()):
                named = True
                yield profiles.get(user)
        if (scope := _scope.get()) is not None:
            yield scope.preferences
        if user_id is not None and not (named or says_principles()):
            if profiles is None:
                raise ProfileNotFound(
                    f"this model answers for user {user_id!r} but has no profile store: pass "
                    'profiles=, for example profiles="sqlite:///profiles.db"'
                )
            yield profiles.get(user_id)
        yield own

    for level in levels():
        if level is not None:
            settled = settled.over(level)
    return Preferences(**dict(settled))


def _said_by(carrier: object) -> Preferences | None:
    principles, whole = _read(carrier, "principles"), as_preferences(_read(carrier, "preferences"))
    if principles is None:
        return whole
    said = as_preferences(principles, **{name: _read(carrier, name) for name in STRENGTH})
    return said.over(whole) if said and whole else said


def _read(carrier: object, name: str) -> Any:
    return carrier.get(name) if isinstance(carrier, Mapping) else getattr(carrier, name, None)
