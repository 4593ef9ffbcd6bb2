"""Which preferences hold for a call: one rule, used by every framework."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self

from linalign_integrations.errors import ProfileNotFound
from linalign_integrations.preferences.model import Preferences, Principle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from linalign_integrations.preferences.profiles import Profiles

_ambient: ContextVar[Preferences | None] = ContextVar("linalign_preferences", default=None)


def as_preferences(
    value: Preferences | Principle | str | Sequence[str | Principle] | None, **fields: Any
) -> Preferences | None:
    """Preferences from principles or preferences and from single fields that are not None.

    Returns:
        None if neither ``value`` nor any field says anything.

    Raises:
        InvalidPreferences: a value lies outside its range.
    """
    said = {name: field for name, field in fields.items() if field is not None}
    if isinstance(value, Preferences):
        return Preferences(**said).over(value)
    if value is not None:
        said["principles"] = value
    return Preferences(**said) if said else None


class use_preferences:  # noqa: N801 - reads as a verb where it is used
    """Sets the preferences of every call made inside a ``with`` or ``async with`` block.

    Blocks nest: the inner one wins where it says something. The value follows the context into
    asyncio tasks and into threads that copy the context; a plain ``ThreadPoolExecutor`` does not.

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
        self._tokens: list[Token[Preferences | None]] = []

    def __enter__(self) -> Self:
        outer = _ambient.get()
        self._tokens.append(_ambient.set(self._preferences.over(outer or Preferences())))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _ambient.reset(self._tokens.pop())

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
    config: Mapping[str, Any] | None = None,
    context: object = None,
    own: Preferences | None = None,
    user_id: str | None = None,
    profiles: Profiles | None = None,
) -> Preferences:
    """The preferences that hold for one call.

    For each field the first level that says it wins: call argument, ``principles`` (and other
    fields) in the configuration, the profile of the configuration's ``user_id``, the same of the
    runtime context, ``use_preferences``, then the model object's own profile and fields. An
    explicit empty tuple of principles is a statement, *no alignment*, and never falls through.

    Args:
        call: what the call itself says.
        config: LangChain's ``configurable`` or a like mapping.
        context: a runtime context with ``principles`` or ``user_id`` as keys or attributes.
        own: the fields of the model object.
        user_id: the user the model object was made for.
        profiles: where profiles are looked up.

    Raises:
        InvalidPreferences: a value lies outside its range.
        ProfileNotFound: a user is named who has no profile, or the model object was made for a
            user but has no profile store.
    """
    levels = [call, *_from_carrier(config, profiles), *_from_carrier(context, profiles)]
    levels += [_ambient.get(), _profile(user_id, profiles), own]
    settled = Preferences()
    for level in levels:
        if level is not None:
            settled = settled.over(level)
    # Everything is said now, so that resolving again cannot change it.
    return Preferences(**dict(settled))


def _from_carrier(carrier: object, profiles: Profiles | None) -> list[Preferences | None]:
    if carrier is None:
        return []

    def read(name: str) -> Any:
        return carrier.get(name) if isinstance(carrier, Mapping) else getattr(carrier, name, None)

    fields = {name: read(name) for name in Preferences.model_fields if name != "principles"}
    said = as_preferences(read("principles"), **fields)
    if said is not None and "principles" in said.model_fields_set:
        return [said]
    # Apps carry a user_id for purposes of their own: without a store it is none of ours.
    return [said, _profile(read("user_id"), profiles) if profiles is not None else None]


def _profile(user_id: str | None, profiles: Profiles | None) -> Preferences | None:
    if user_id is None:
        return None
    if profiles is None:
        raise ProfileNotFound(
            f"user_id={user_id!r} was given but no profile store: pass profiles=, for example "
            'profiles="sqlite:///profiles.db", or pass principles= instead'
        )
    return profiles.get(user_id)
