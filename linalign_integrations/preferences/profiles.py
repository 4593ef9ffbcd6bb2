"""Profiles: users' stored preferences, over LangGraph's store interface."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from pydantic import ValidationError

from linalign_integrations.errors import (
    LinAlignError,
    MissingExtra,
    ProfileNotFound,
    ProfileUnreadable,
    describe,
)
from linalign_integrations.preferences.model import Preferences

if TYPE_CHECKING:
    from langgraph.store.base import BaseStore

_NAMESPACE = ("linalign", "profiles")


class Profiles:
    """Users' stored preferences.

    Args:
        store: any LangGraph ``BaseStore``.
    """

    def __init__(self, store: BaseStore) -> None:
        self._store = store

    def get(self, user_id: str) -> Preferences:
        """The preferences of a user.

        Raises:
            ProfileNotFound: the user has none.
            ProfileUnreadable: what is stored is not preferences; it is left as it is.
        """
        item = self._store.get(_NAMESPACE, user_id)
        if item is None:
            raise ProfileNotFound(f"user {user_id!r} has no profile: store one with profiles.put")
        try:
            return Preferences.model_validate(item.value)
        except ValidationError as error:
            raise ProfileUnreadable(
                f"the stored profile of user {user_id!r} is not valid: {describe(error)}"
            ) from error

    def put(self, user_id: str, preferences: Preferences) -> None:
        """Stores the preferences of a user in place of earlier ones."""
        # What was left unsaid stays unsaid, so that later defaults still apply.
        value = preferences.model_dump(mode="json", exclude_unset=True)
        self._store.put(_NAMESPACE, user_id, value, index=False)

    def delete(self, user_id: str) -> None:
        """Forgets a user; nothing happens if there is no profile."""
        self._store.delete(_NAMESPACE, user_id)


def open_profiles(url: str | BaseStore) -> Profiles:
    """Opens a profile store.

    Args:
        url: ``"memory://"`` (gone with the process), ``"sqlite:///profiles.db"`` (a file, relative
            to the working folder; four slashes for an absolute path), or any LangGraph store.

    Raises:
        MissingExtra: the store's package is not installed; the message names the extra.
        LinAlignError: the URL names no known kind of store, or the file cannot be opened.
    """
    if not isinstance(url, str):
        return Profiles(url)
    kind, _, path = url.partition("://")
    try:
        if url == "memory://":
            from langgraph.store.memory import InMemoryStore

            return Profiles(InMemoryStore())
        if kind == "sqlite" and path.startswith("/") and len(path) > 1:
            from langgraph.store.sqlite import SqliteStore

            store = SqliteStore(_connect(path[1:]))
            store.setup()
            return Profiles(store)
    except ImportError as error:
        raise MissingExtra(
            f"{url!r} needs a package that is not installed: "
            "pip install 'linalign-integrations[profiles]'"
        ) from error
    raise LinAlignError(f"unknown profile store {url!r}: use memory:// or sqlite:///file")


def _connect(path: str) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        raise LinAlignError(f"cannot open the profile store {path!r}: {error}") from error
    return connection
