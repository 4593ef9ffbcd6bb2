"""Where profiles are kept: LangGraph stores, opened by URL, written to without losing a write."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import threading
import time
from collections import deque
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote, unquote, urlsplit
from weakref import WeakKeyDictionary

from linalign_integrations.errors import (
    InvalidArgument,
    LinAlignError,
    MissingExtra,
    ProfileStoreFailed,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Callable,
        Generator,
        Hashable,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from langgraph.store.base import Op

    from linalign_integrations.preferences.operations import Store

TIMEOUT = 10.0
"""Most seconds to wait for a store's connection, answer or lock."""

CACHED = 1024
"""Most entries in the read cache of a store."""

_FORK_TIMEOUT = 1.0

CONNECTIONS = 8
"""Most connections of a process to one PostgreSQL database."""

_URLS = "memory://, sqlite:///profiles.db, postgresql://user:password@host/database or redis://host"

_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """What was read or written a moment ago. Bounded, and safe to use from many threads."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[float, _Value]] = {}
        self.lock = threading.Lock()
        self._writes = 0

    def begin(self) -> tuple[int, float]:
        """What is to be passed on when what now begins to be read or written is noted."""
        return self._writes, time.monotonic()

    def find(self, key: Hashable, seconds: float) -> tuple[float, _Value] | None:
        """When a key's value held, and the value, if it is no older than ``seconds``."""
        entry = self._entries.get(key)
        return entry if entry and time.monotonic() - entry[0] < seconds else None

    def note_read(self, values: Mapping[Any, _Value], begun: tuple[int, float]) -> None:
        """Notes what was read, unless something was written meanwhile."""
        with self.lock:
            if begun[0] == self._writes:
                self._note(values, begun[1])

    def note_written(self, values: Mapping[Any, _Value], begun: tuple[int, float]) -> None:
        """Notes what was written; forgets it if something else was written meanwhile.

        Whose writing was last is known to the store only.
        """
        with self.lock:
            if begun[0] == self._writes:
                self._note(values, begun[1])
            else:
                self._drop(values)
            self._writes += 1

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Forgets keys of which it is not known what holds."""
        with self.lock:
            self._drop(keys)
            self._writes += 1

    def _drop(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._entries.pop(key, None)

    def _note(self, values: Mapping[Any, _Value], when: float) -> None:
        for key, value in values.items():
            # Anew at the end, so that the first is the oldest.
            self._entries.pop(key, None)
            if len(self._entries) >= CACHED:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = when, value


class Home:
    """An open store.

    This one is for stores without transactions of ours: writers of this process take turns, and
    nothing holds back those of another.

    Args:
        shown: what the store is called in messages.
    """

    native = True
    """Whether the store's own asynchronous methods are used; else a thread calls the others."""

    failures: tuple[type[Exception], ...] = (Exception,)
    secrets: tuple[str, ...] = ()
    store: Store

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.lock = threading.Lock()
        self.recent: Recent[Any] = Recent()

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """The store, to read from."""
        yield self.store

    @contextmanager
    def alone(self, names: Sequence[str]) -> Iterator[Store]:  # noqa: ARG002
        """The store, while nobody else writes what goes by these names; all or nothing is kept."""
        with self._in_turn():
            yield self.store

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self.lock.acquire(timeout=TIMEOUT):
            raise self._busy()
        try:
            yield
        finally:
            self.lock.release()

    @asynccontextmanager
    async def alone_async(self) -> AsyncIterator[Store]:
        """``alone`` for a native store; the event loop runs on while it waits."""
        # Polled, since a thread that waits could not be called off.
        deadline = time.monotonic() + TIMEOUT
        while not self.lock.acquire(blocking=False):
            if time.monotonic() > deadline:
                raise self._busy()
            await asyncio.sleep(0.001)
        try:
            yield self.store
        finally:
            self.lock.release()

    def _busy(self) -> ProfileStoreFailed:
        return ProfileStoreFailed(
            f"others have been writing to {self.shown} for {TIMEOUT:.0f} seconds; in an event "
            "loop, use aput, aupdate and adelete: a write that blocks the loop stops theirs"
        )

    def is_gone(self) -> bool:
        """Whether what was opened is no longer what its URL names."""
        return False

    def purge(self) -> None:
        """Removes what the store still holds of what was deleted, where it would hold it."""

    @property
    def connected(self) -> bool:
        """Whether it holds connections, which a forked process must not share."""
        return False

    def locks(self) -> list[threading.Lock]:
        """All its locks, in the order in which they are taken."""
        return [self.lock, self.recent.lock]

    def close_before_fork(self) -> None:
        """Closes what must not be open in two processes, even if only one of them uses it."""

    @contextmanager
    def reported(self, done: str) -> Iterator[None]:
        """Turns what the store raises into this package's error, without what is secret."""
        try:
            yield
        except LinAlignError:
            raise
        except asyncio.InvalidStateError as error:
            # What LangGraph's asynchronous stores say where they would wait for themselves.
            raise InvalidArgument(
                f"the profile store {self.shown} cannot be {done} by a call that blocks its event "
                "loop: use the asynchronous methods there, such as aget or ainvoke"
            ) from error
        except self.failures as error:
            reason = text = str(error) or type(error).__name__
            for secret in self.secrets:
                text = text.replace(secret, "***")
            raise ProfileStoreFailed(
                f"the profile store {self.shown} cannot be {done}: {text}"
            ) from (error if text == reason else None)


class _Memory(Home):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        with _extra("profiles", url):
            from langgraph.store.memory import InMemoryStore

        self._searched = lock = threading.Lock()

        class Store(InMemoryStore):
            # A search would stumble over what another thread puts meanwhile.
            def batch(self, ops: Iterable[Op]) -> list[Any]:
                with lock:
                    return super().batch(ops)

            async def abatch(self, ops: Iterable[Op]) -> list[Any]:
                return self.batch(ops)

        self.store = Store()

    def locks(self) -> list[threading.Lock]:
        return [self.lock, self._searched, self.recent.lock]


class _Connection(sqlite3.Connection):
    """Lets one transaction of ours span calls of the store, which would begin one for each."""

    spanning = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self.spanning and sql in ("BEGIN", "COMMIT"):
            return self.cursor()
        return super().execute(sql, parameters)

    def executescript(self, script: str, /) -> sqlite3.Cursor:
        # The inherited one commits first.
        cursor, statement = self.cursor(), ""
        for line in script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                cursor.execute(statement)
                statement = ""
        return cursor.execute(statement)


class _Sqlite(Home):
    native = False
    # A path that cannot be one is a ValueError.
    failures = (sqlite3.Error, ValueError)

    def __init__(self, url: str) -> None:
        super().__init__(url)
        with _extra("profiles", url):
            from langgraph.store.sqlite import SqliteStore
        self._path = path = url.removeprefix("sqlite:///")
        self._open: Callable[[], Any] = lambda: SqliteStore(_open_sqlite(path), deserializer=_value)
        # Readers have a connection of their own, so that they never wait for a writer.
        self._writer: Any = None
        self._reader: Any = None
        self._turn = threading.Lock()
        with self.reported("opened"):
            with self.alone(()) as store:
                store.setup()  # type: ignore[attr-defined]
            with self.reading() as store:
                store.setup()  # type: ignore[attr-defined]
        self._file = _file_id(path)

    @contextmanager
    def reading(self) -> Iterator[Store]:
        with self._turn:
            self._reader = self._reader or self._open()
            yield self._reader

    @contextmanager
    def alone(self, names: Sequence[str]) -> Iterator[Store]:  # noqa: ARG002
        with self._writing() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.spanning = True
            try:
                yield self._writer
                connection.spanning = False
                connection.execute("COMMIT")
            except BaseException:
                connection.spanning = False
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _writing(self) -> Iterator[_Connection]:
        with self._in_turn():
            self._writer = self._writer or self._open()
            yield self._writer.conn

    def purge(self) -> None:
        # Not certain, since a reader of an older state may stand in the way. Nobody waits for that:
        # the next deletion takes this one's traces along.
        with suppress(sqlite3.OperationalError, ProfileStoreFailed), self._writing() as connection:
            connection.execute("PRAGMA busy_timeout=0")
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.execute(f"PRAGMA busy_timeout={TIMEOUT * 1000:.0f}")

    def is_gone(self) -> bool:
        return self._file is not None and _file_id(self._path) != self._file

    @property
    def connected(self) -> bool:
        return self._writer is not None or self._reader is not None

    def locks(self) -> list[threading.Lock]:
        return [self.lock, self._turn, self.recent.lock]

    def close_before_fork(self) -> None:
        # In a child that inherits a connection, SQLite takes locks of the parent for its own.
        for store in (self._writer, self._reader):
            if store is not None:
                store.conn.close()
        self._writer = self._reader = None


def _value(kept: Any) -> Any:
    """What was stored, or its text where that is no JSON, so that it hides no other row."""
    try:
        return json.loads(kept)
    except ValueError:
        return str(kept)


def _as_it_is(kept: Any) -> Any:
    return kept


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - asked before each call
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_sqlite(path: str) -> _Connection:
    connection = sqlite3.connect(
        path, timeout=TIMEOUT, check_same_thread=False, isolation_level=None, factory=_Connection
    )
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA secure_delete=ON")
        except sqlite3.OperationalError as error:
            # SQLite does not wait where two connections switch at the same time.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return connection


class _Postgres(Home):
    native = False
    connected = True

    def __init__(self, url: str) -> None:
        super().__init__(_shown(url))
        with _extra("postgres", self.shown):
            import psycopg
            from langgraph.store.postgres import PostgresStore
            from psycopg.conninfo import conninfo_to_dict
            from psycopg.rows import dict_row
        self.failures = (psycopg.Error,)

        class Connection(psycopg.Connection[Any]):
            # It would wait without end for a server that fell silent.
            def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
                late = psycopg.OperationalError(f"no answer within {TIMEOUT:.0f} seconds")
                return super().wait(_until(time.monotonic() + TIMEOUT, gen, late), *args, **kwargs)

        with _parsed(self.shown):
            said = conninfo_to_dict(url)
            if "@" in str(said.get("host") or ""):
                raise ValueError("what is taken for a host is the end of a password")
            [int(port) for port in str(said.get("port") or 0).split(",")]
        self.secrets = _spellings(said.get("password"))
        settings: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": 0,
            "row_factory": dict_row,
            "connect_timeout": said.get("connect_timeout") or int(TIMEOUT),
            "fallback_application_name": "linalign",
        }
        self._connect: Callable[[], Any] = lambda: Connection.connect(url, **settings)
        # A value that is no object, which psycopg has read already, hides no other either.
        self._store_over: Callable[[Any], Store] = partial(PostgresStore, deserializer=_as_it_is)
        # psycopg's own pool goes on trying where a server refuses, and its callers wait for long.
        self._idle: deque[Any] = deque()
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        with self.reported("opened"), self._connection() as connection:
            self._set_up(connection)

    def _set_up(self, connection: Any) -> None:
        deadline = time.monotonic() + TIMEOUT
        # Two that create the same tables disturb each other. To wait inside the database for a
        # lock would hold up the other's index, which is created concurrently.
        name = "hashtextextended('linalign', 0)"
        while not connection.execute(f"SELECT pg_try_advisory_lock({name}) AS it").fetchone()["it"]:
            if time.monotonic() > deadline:
                raise ProfileStoreFailed(f"another process keeps setting up {self.shown}")
            time.sleep(0.01)
        self._store_over(connection).setup()  # type: ignore[attr-defined]
        connection.execute(f"SELECT pg_advisory_unlock({name})")

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if not self._free.acquire(timeout=TIMEOUT):
            raise ProfileStoreFailed(f"all {CONNECTIONS} connections to {self.shown} are busy")
        connection = None
        try:
            connection = self._living() or self._connect()
            yield connection
        finally:
            # One that broke, or that was left within a transaction, is of no more use.
            if connection is not None and connection.info.transaction_status == 0:
                self._idle.append(connection)
            elif connection is not None:
                connection.close()
            self._free.release()

    def _living(self) -> Any:
        """A connection that is idle and still answers, or None."""
        while self._idle:
            try:
                connection = self._idle.pop()
                connection.execute("SELECT 1")
            except IndexError:
                break
            except self.failures:
                connection.close()
            else:
                return connection
        return None

    @contextmanager
    def reading(self) -> Iterator[Store]:
        with self._connection() as connection:
            yield self._store_over(connection)

    @contextmanager
    def alone(self, names: Sequence[str]) -> Iterator[Store]:
        with self._connection() as connection, connection.transaction():
            connection.execute(
                "SELECT set_config('lock_timeout', %s, true)", [f"{TIMEOUT * 1000:.0f}ms"]
            )
            # Advisory, since a profile that is not there yet has no row to lock. Sorted, so that
            # two who take several locks cannot wait for each other.
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(name, 0))"
                " FROM unnest(%s::text[]) AS name",
                [sorted(names)],
            )
            yield self._store_over(connection)


def _until(deadline: float, waiting: Generator[Any, Any, Any], late: Exception) -> Any:
    """A generator that says what it waits for, ended by an error if that comes too late."""
    ready = None
    while True:
        try:
            wanted = waiting.send(ready)
        except StopIteration as done:
            return done.value
        # What it is sent is false where a while passed and nothing came.
        ready = yield wanted
        if not ready and time.monotonic() > deadline:
            raise late


class _Redis(Home):
    native = False
    connected = True

    def __init__(self, url: str) -> None:
        super().__init__(_shown(url))
        with _extra("redis", self.shown):
            from llama_index.storage.kvstore.redis import RedisKVStore
            from redis import Redis
            from redis.exceptions import LockNotOwnedError, RedisError

            from linalign_integrations.preferences.kvstore import KeyValueStore

        class Kept(RedisKVStore):  # type: ignore[misc]
            # The inherited ones stumble over a value that is no JSON.
            def get(self, key: str, collection: str = "data") -> Any:
                kept = client.hget(collection, key)
                return None if kept is None else _value(kept)

            def get_all(self, collection: str = "data") -> dict[str, Any]:
                return {key: _value(kept) for key, kept in client.hscan_iter(collection)}

        self.failures = (RedisError, OSError)
        with _parsed(self.shown):
            said = urlsplit(url)
            self.secrets = _spellings(said.password)
            # The client would take database 0 for what is no number.
            int(said.path.strip("/") or 0)
            client = Redis.from_url(
                url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, decode_responses=True
            )
        with self.reported("opened"):
            client.ping()
        self._client = client
        self._lost = LockNotOwnedError
        # LangGraph's own Redis store does not find what lies under several labels, takes names for
        # equal that differ in case, and replaces a document by deleting it first.
        self.store = KeyValueStore(Kept(redis_client=client, async_redis_client=client))

    @contextmanager
    def alone(self, names: Sequence[str]) -> Iterator[Store]:  # noqa: ARG002
        # The lock of a process that died ends by itself.
        lock = self._client.lock(
            "linalign.writing", timeout=TIMEOUT, sleep=0.002, blocking_timeout=2 * TIMEOUT
        )
        if not lock.acquire():
            raise TimeoutError(f"others have been writing for {2 * TIMEOUT:g} seconds")
        try:
            yield _Held(self.store, lock)
        finally:
            # What was written while it was held is written, even if it has ended since.
            with suppress(self._lost):
                lock.release()


class _Held:
    """A store that is asked only while a lock is still held, for as long as the lock lasts anew."""

    def __init__(self, store: Store, lock: Any) -> None:
        self._store = store
        self._lock = lock

    def batch(self, ops: Iterable[Any]) -> list[Any]:
        self._lock.reacquire()
        return self._store.batch(ops)

    async def abatch(self, ops: Iterable[Any]) -> list[Any]:
        return self.batch(ops)


def connect(url: str) -> Home:
    """Opens the store that a URL from ``settled`` names, once per process.

    Raises:
        MissingExtra: the store's package is not installed; the message names the extra.
        ProfileStoreFailed: it cannot be opened.
    """
    if (home := opened(url)) is None:
        with _opening:
            if (home := opened(url)) is None:
                home = _homes[url] = _open(url)
    return home


def opened(url: str) -> Home | None:
    """What ``connect`` opened already, if it is still what the URL names."""
    home = _homes.get(url)
    return None if home is None or home.is_gone() else home


def settled(url: str) -> str:
    """A URL as it is known by in this process, whatever becomes of the working folder.

    Raises:
        ProfileStoreFailed: it names no known kind of store.
    """
    kind, separator, path = url.partition("://")
    if kind == "sqlite" and path.startswith("/") and path not in ("/", "/:memory:"):
        if "?" in path:
            raise ProfileStoreFailed(f"{url!r} has parameters, and a file takes none: leave out ?")
        try:
            return f"sqlite:///{Path(path[1:]).resolve()}"
        except (OSError, RuntimeError, ValueError) as error:
            raise ProfileStoreFailed(
                f"the profile store {url!r} cannot be opened: {error}"
            ) from error
    if kind == "postgres" and separator:
        return f"postgresql://{path}"
    if not separator or kind not in ("memory", "postgresql", "redis", "rediss"):
        raise ProfileStoreFailed(f"unknown profile store {_shown(url)!r}: use {_URLS}")
    return url


def home_of(store: Any) -> Home:
    """The home of a store object; the same lock and cache for the same object.

    Raises:
        InvalidArgument: it is neither a LangGraph store nor a LlamaIndex key-value store.
    """
    shown = type(store).__name__
    # Whoever has such an object has imported its class.
    key_value = sys.modules.get("llama_index.core.storage.kvstore.types")
    langgraph = sys.modules.get("langgraph.store.base")
    is_key_value = key_value is not None and isinstance(store, key_value.BaseKVStore)
    if not is_key_value and not (langgraph and isinstance(store, langgraph.BaseStore)):
        raise InvalidArgument(
            f"profiles are kept in a URL ({_URLS}), a LangGraph store or a LlamaIndex "
            f"key-value store, not in {shown}"
        )
    with _opening:
        known = _shared.setdefault(store, (threading.Lock(), Recent()))
    if is_key_value:
        from linalign_integrations.preferences.kvstore import KeyValueStore

        store = KeyValueStore(store)
    home = Home(shown)
    home.store = store
    home.lock, home.recent = known
    return home


def _open(url: str) -> Home:
    match url.partition("://")[0]:
        case "memory":
            return _Memory(url)
        case "sqlite":
            return _Sqlite(url)
        case "postgresql":
            return _Postgres(url)
        case _:
            return _Redis(url)


@contextmanager
def _extra(name: str, needing: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtra(
            f"profiles in {needing} need a package that is not installed: "
            f"pip install 'linalign-integrations[{name}]'"
        ) from error


@contextmanager
def _parsed(shown: str) -> Iterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001 - drivers raise what they like, and quote the URL in it
        raise ProfileStoreFailed(
            f"the profile store {shown} cannot be opened: the URL is not well formed; in a user "
            "name or password, write other characters than letters and digits as %40 for @"
        ) from None


def _shown(url: str) -> str:
    """A URL without its user, password and parameters, even where it is malformed."""
    kind, separator, rest = url.partition("://")
    if not separator:
        return "***" if "@" in url or "=" in url else url
    if "@" in rest.partition("?")[2]:
        # Whether it ends the user's password or stands within another's nobody can tell.
        return f"{kind}://***"
    _, user, place = rest.rpartition("@")
    place, parameters, _ = place.partition("?")
    return f"{kind}://{'***@' if user else ''}{place}{'?***' if parameters else ''}"


def _spellings(password: object) -> tuple[str, ...]:
    plain = unquote(str(password or ""))
    return tuple({str(password), plain, quote(plain, safe="")}) if plain else ()


def _before_fork() -> None:
    # Held by another thread, a lock would stay held for ever in the child.
    _hold([_opening])
    for home in _homes.values():
        if _hold(home.locks()):
            home.close_before_fork()
    for lock, recent in list(_shared.values()):
        _hold([lock, recent.lock])


def _hold(locks: Sequence[threading.Lock]) -> bool:
    held = [lock for lock in locks if lock.acquire(timeout=_FORK_TIMEOUT)]
    _held.extend(held)
    return len(held) == len(locks)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    global _opening
    _after_fork()
    _opening = threading.Lock()
    for url, home in list(_homes.items()):
        if home.connected:
            # Two processes on one connection would read each other's answers. Kept from being
            # closed here, which would close it for the parent.
            _inherited.append(_homes.pop(url))
        elif home.lock.locked():
            # By what did not let go of it in time, and does not live here.
            home.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )

_homes: dict[str, Home] = {}
_inherited: list[Home] = []
_opening = threading.Lock()
_held: list[threading.Lock] = []
_shared: WeakKeyDictionary[Any, tuple[threading.Lock, Recent[Any]]] = WeakKeyDictionary()
