"""Profiles: users' stored preferences, over LangGraph's store interface."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from linalign_integrations.errors import (
    InvalidPreferences,
    MissingExtra,
    ProfileNotFound,
    ProfileStoreFailed,
    ProfileUnreadable,
    describe,
)
from linalign_integrations.preferences.model import Preferences, Principle
from linalign_integrations.preferences.scope import as_preferences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langgraph.store.base import BaseStore

_NAMESPACE = ("linalign", "profiles")


class Profiles:
    """Users' stored preferences. ``open_profiles`` makes one; copies share the store.

    Args:
        store: any LangGraph ``BaseStore``.
        url: where the store was opened from, if it was; only then can this object be pickled.
    """

    def __init__(self, store: BaseStore, *, url: str | None = None) -> None:
        self._store = store
        self._url = url

    def __deepcopy__(self, memo: dict[int, Any]) -> Profiles:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._url is None:
            raise TypeError("profiles over a store object cannot be pickled: open them by URL")
        return open_profiles, (self._url,)

    def get(self, user_id: str) -> Preferences:
        """The preferences of a user.

        Raises:
            ProfileNotFound: the user has none.
            ProfileUnreadable: what is stored is not preferences; it is left as it is.
            ProfileStoreFailed: the store cannot be read.
        """
        with _reported("read"):
            item = self._store.get(_NAMESPACE, user_id)
        if item is None:
            raise ProfileNotFound(f"user {user_id!r} has no profile: store one with profiles.put")
        try:
            return Preferences.model_validate(item.value)
        except ValidationError as error:
            raise ProfileUnreadable(
                f"the stored profile of user {user_id!r} is not valid: {describe(error)}"
            ) from error

    def put(self, user_id: str, preferences: Preferences | str | Sequence[str | Principle]) -> None:
        """Stores the preferences of a user in place of earlier ones.

        Raises:
            InvalidPreferences: they are not preferences, or a value lies outside its range.
            ProfileStoreFailed: the store cannot be written; what was stored is unchanged.
        """
        if not isinstance(preferences, (Preferences, str, Mapping, Sequence)):
            raise InvalidPreferences(f"{preferences!r} is neither Preferences nor principles")
        said = as_preferences(preferences) or Preferences()
        with _reported("written"):
            # What was left unsaid stays unsaid, so that later defaults still apply.
            value = said.model_dump(mode="json", exclude_unset=True)
            self._store.put(_NAMESPACE, user_id, value, index=False)

    def delete(self, user_id: str) -> None:
        """Forgets a user; nothing happens if there is no profile.

        Raises:
            ProfileStoreFailed: the store cannot be written.
        """
        with _reported("written"):
            self._store.delete(_NAMESPACE, user_id)


def open_profiles(url: str | BaseStore) -> Profiles:
    """Opens a profile store; the same URL gives the same store throughout the process.

    Args:
        url: ``"memory://"`` or ``"memory://name"`` (gone with the process),
            ``"sqlite:///profiles.db"`` (a file, relative to the working folder; four slashes for
            an absolute path), or any LangGraph store.

    Raises:
        MissingExtra: the store's package is not installed; the message names the extra.
        ProfileStoreFailed: the URL names no known kind of store, or it cannot be opened.
    """
    if not isinstance(url, str):
        return Profiles(url)
    kind, separator, path = url.partition("://")
    if kind == "sqlite" and path.startswith("/") and len(path) > 1:
        # The working folder may change before the same store is opened again.
        url = f"sqlite:///{Path(path[1:]).absolute()}"
    elif kind != "memory" or not separator:
        raise ProfileStoreFailed(
            f"unknown profile store {url!r}: use memory:// or sqlite:///profiles.db"
        )
    with _opening:
        if url not in _opened:
            _opened[url] = Profiles(_open(kind, url), url=url)
        return _opened[url]


def _open(kind: str, url: str) -> BaseStore:
    try:
        if kind == "memory":
            from langgraph.store.memory import InMemoryStore

            return InMemoryStore()
        from langgraph.store.sqlite import SqliteStore
    except ImportError as error:
        raise MissingExtra(
            f"{url!r} needs a package that is not installed: "
            "pip install 'linalign-integrations[profiles]'"
        ) from error
    with _reported("opened"):
        connection = sqlite3.connect(
            url.removeprefix("sqlite:///"), check_same_thread=False, isolation_level=None
        )
        connection.execute("PRAGMA journal_mode=WAL")
        store: BaseStore = SqliteStore(connection)
        store.setup()  # type: ignore[attr-defined]
        return store


@contextmanager
def _reported(done: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ProfileStoreFailed(f"the profile store cannot be {done}: {error}") from error


_opened: dict[str, Profiles] = {}
_opening = threading.Lock()
