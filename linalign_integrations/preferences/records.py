"""What is stored for a user, and how it is read and written, whatever the store."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from linalign_integrations.errors import (
    InvalidArgument,
    InvalidPreferences,
    ProfileConflict,
    ProfileNotFound,
    ProfileUnreadable,
    describe,
)
from linalign_integrations.preferences.model import Preferences

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMAT = 1
ROOT = ("linalign", "profiles")
# LangGraph's search pages through an order that is not stable, so a whole namespace is listed at
# once; that many of them, by a hash of the user's name, keep what is held in memory small.
SHARDS = 64
_WHOLE = 1_000_000
_LONGEST = 1000
_SPECIAL = re.compile("[^a-z0-9_-]+")

_T = TypeVar("_T")
Steps = Generator[list[Any], list[Any], _T]
"""Yields operations of LangGraph's store interface, is sent what they gave, returns a result."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a user wants, or wanted, with what tells one version from another."""

    preferences: Preferences
    version: int
    """1 for the first, one more with each write."""
    updated_at: datetime
    """When this version was written, in UTC, by the clock of its writer."""


class _Version(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1)
    updated_at: AwareDatetime
    preferences: dict[str, Any]


class _Document(_Version):
    """What is stored for a user: one value under one key, so that it is written whole or not."""

    format: Literal[1] = 1
    history: list[_Version] = []


Change = tuple[str, Preferences, int | Profile | None]
"""A user, what is to be stored, and the version that it replaces: 0 for none, None for any."""


class Records:
    """The profiles of one tenant, as operations on a store that somebody else runs.

    Args:
        tenant: whose they are.
        keep: versions of a profile that are kept, the newest included.
    """

    def __init__(self, tenant: str, keep: int) -> None:
        self._place = (*ROOT, label_of(tenant, "tenant"))
        self._keep = keep

    def reading(self, user: str) -> Steps[Profile | None]:
        """Gives a user's profile, or None."""
        document = (yield from self.finding([user]))[0]
        return profile_of(user, document) if document else None

    def remembering(self, user: str) -> Steps[list[Profile]]:
        """Gives the versions that are kept and can be read, the newest first."""
        document = (yield from self.finding([user]))[0]
        if document is None:
            raise not_found(user)
        kept = [profile_of(user, document)]
        for version in document.history:
            # One that this release cannot read says nothing against the others.
            with suppress(ProfileUnreadable):
                kept.append(profile_of(user, version))
        return kept

    def finding(self, users: Sequence[str]) -> Steps[list[_Document | None]]:
        """Gives what is stored for each user, or None."""
        from linalign_integrations.preferences.operations import GetOp

        items = yield [GetOp(*self.key(user)) for user in users]
        return [
            document_of(user, item) if item else None
            for user, item in zip(users, items, strict=True)
        ]

    def writing(self, changes: Sequence[Change]) -> Steps[dict[str, Profile]]:
        """Gives the profiles that were written, by user. To be run alone."""
        from linalign_integrations.preferences.operations import PutOp

        found = yield from self.finding([user for user, _, _ in changes])
        now = datetime.now(UTC)
        puts, written = [], {}
        for (user, said, expected), before in zip(changes, found, strict=True):
            _require(user, expected, before)
            history = []
            if before:
                # What would be lost if this release cannot read it is not written over.
                profile_of(user, before)
                history = [_Version(**before.model_dump(exclude={"format", "history"}))]
                history += before.history
            after = _Document(
                version=before.version + 1 if before else 1,
                updated_at=now,
                preferences=said.model_dump(mode="json"),
                history=history[: self._keep - 1],
            )
            puts.append(PutOp(*self.key(user), after.model_dump(mode="json"), index=False))
            written[user] = Profile(said, after.version, now)
        yield puts
        return written

    def changing(
        self, user: str, change: Callable[[Profile | None], Change]
    ) -> Steps[dict[str, Profile]]:
        """Gives the profile that a change of the present one makes. To be run alone."""
        present = yield from self.reading(user)
        return (yield from self.writing([change(present)]))

    def deleting(self, user: str) -> Steps[dict[str, None]]:
        """Gives what is left of a user. To be run alone."""
        from linalign_integrations.preferences.operations import PutOp

        yield [PutOp(*self.key(user), None)]
        return {user: None}

    def listing(self, shard: int) -> Steps[list[tuple[str, Any]]]:
        """Gives the users of a shard in order, and what is stored for each."""
        from linalign_integrations.preferences.operations import SearchOp

        namespace = (*self._place, f"{shard:02d}")
        [items] = yield [SearchOp(namespace, limit=_WHOLE)]
        # A store may search by a pattern in which some characters of another tenant's name match.
        own = [item for item in items if tuple(item.namespace) == namespace]
        return sorted(((unquote(item.key), item) for item in own), key=itemgetter(0))

    def key(self, user: str) -> tuple[tuple[str, ...], str]:
        """Where a user's profile lies: namespace and key."""
        label = label_of(user, "user_id")
        shard = blake2b(label.encode(), digest_size=1).digest()[0] % SHARDS
        return (*self._place, f"{shard:02d}"), label


def label_of(name: object, what: str) -> str:
    """A name in characters that no store splits, folds or escapes.

    Raises:
        InvalidArgument: it is not text, empty, or too long.
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"{what} is text, not {type(name).__name__}")
    if not name.strip():
        raise InvalidArgument(f"{what} is empty")
    try:
        label = _SPECIAL.sub(lambda found: "".join(f"%{b:02x}" for b in found[0].encode()), name)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what} {name!r:.80} is not valid Unicode") from error
    if len(label) > _LONGEST:
        raise InvalidArgument(f"{what} {name[:20]!r}... is too long: {len(label)} of {_LONGEST}")
    return label


def _require(user: str, expected: int | Profile | None, before: _Document | None) -> None:
    version = before.version if before else 0
    if isinstance(expected, Profile):
        # The time as well: a profile that was deleted and made anew counts from 1 again.
        same = before is not None and (expected.version, expected.updated_at) == (
            before.version,
            before.updated_at,
        )
        expected = expected.version
    else:
        if expected is not None and (isinstance(expected, bool) or not isinstance(expected, int)):
            raise InvalidArgument(
                f"expected_version is a number or a Profile, not {expected!r:.80}"
            )
        same = expected is None or expected == version
    if not same:
        raise ProfileConflict(
            f"the profile of user {user!r} is at version {version}, not {expected}: read it again "
            "and decide, or let profiles.update do so",
            expected_version=expected or 0,
            version=version,
        )


def document_of(user: str, item: Any) -> _Document:
    """What a store's item holds.

    Raises:
        ProfileUnreadable: nothing that this release can read.
    """
    kept = item.value
    found = kept.get("format") if isinstance(kept, Mapping) else None
    if isinstance(found, int) and found > FORMAT:
        raise ProfileUnreadable(
            f"the stored profile of user {user!r} was written by a newer release (format {found}, "
            f"this one reads {FORMAT}): upgrade linalign-integrations"
        )
    try:
        return _Document.model_validate(kept)
    except ValidationError as error:
        raise _unreadable(user, describe(error)) from error


def profile_of(user: str, version: _Version) -> Profile:
    """A version of a document as it is handed out.

    Raises:
        ProfileUnreadable: its preferences cannot be read.
    """
    try:
        said = Preferences.model_validate(version.preferences)
    except ValidationError as error:
        raise _unreadable(user, describe(error)) from error
    except InvalidPreferences as error:
        raise _unreadable(user, str(error)) from error
    return Profile(said, version.version, version.updated_at)


def _unreadable(user: str, reason: str) -> ProfileUnreadable:
    return ProfileUnreadable(
        f"the stored profile of user {user!r} is not valid, or of a newer release: {reason}. It is "
        "kept; profiles.delete would remove it"
    )


def not_found(user: str) -> ProfileNotFound:
    """The error for a user without a profile."""
    return ProfileNotFound(
        f"user {user!r} has no profile: store one with profiles.put or linalign profiles set"
    )
