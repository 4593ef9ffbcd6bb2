"""Profiles, on every kind of store that there is here.

``LINALIGN_TEST_POSTGRES`` and ``LINALIGN_TEST_REDIS`` name servers to run the suite on as well.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from langgraph.store.base import SearchOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from llama_index.core.storage.kvstore import SimpleKVStore
from typer.testing import CliRunner

from linalign_integrations import Preferences, Principle, open_profiles
from linalign_integrations.cli import app
from linalign_integrations.errors import (
    InvalidArgument,
    InvalidPreferences,
    LinAlignError,
    MissingExtra,
    ProfileConflict,
    ProfileNotFound,
    ProfileStoreFailed,
    ProfileUnreadable,
)
from linalign_integrations.preferences import Profile, Profiles, resolve, stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVERS = {
    name: os.environ[variable]
    for name, variable in (
        ("postgresql", "LINALIGN_TEST_POSTGRES"),
        ("redis", "LINALIGN_TEST_REDIS"),
    )
    if variable in os.environ
}
# pytest-socket sees Redis's connections, which Python makes, and not PostgreSQL's.
MARKS = {"redis": pytest.mark.enable_socket}
DATABASES = [pytest.param(name, marks=MARKS.get(name, ())) for name in ("sqlite", *SERVERS)]
STORES = [pytest.param(name) for name in ("memory", "langgraph", "llama_index")] + DATABASES
WRITERS = Path(__file__).parent / "profile_writers.py"
fresh = itertools.count()


def url_of(kind: str, folder: Path) -> str:
    return (
        SERVERS.get(kind)
        or {
            "memory": f"memory://{folder.name}",
            "sqlite": f"sqlite:///{folder}/profiles.db",
        }[kind]
    )


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Profiles]]:
    """Opens the store under test, empty, any number of times."""
    kind = request.param
    tenant = f"{os.getpid()}-{next(fresh)}"
    store: Any = None
    if kind == "langgraph":
        store = InMemoryStore()
    elif kind == "llama_index":
        store = SimpleKVStore()
    made = []

    def open_(**options: Any) -> Profiles:
        options.setdefault("tenant", tenant)
        made.append(open_profiles(store or url_of(kind, tmp_path), **options))
        return made[-1]

    yield open_
    for profiles in made:
        for user in profiles.list():
            profiles.delete(user)


@pytest.fixture
def profiles(opened: Callable[..., Profiles]) -> Profiles:
    return opened()


every_store = pytest.mark.parametrize("opened", STORES, indirect=True)
every_database = pytest.mark.parametrize("opened", DATABASES, indirect=True)


class Broken(InMemoryStore):
    """A store that can be switched off, and that counts what it is asked."""

    down = False
    asked = 0

    def batch(self, ops: Any) -> Any:
        self.asked += 1
        if self.down:
            raise ConnectionError("the server is away")
        return super().batch(ops)

    async def abatch(self, ops: Any) -> Any:
        return self.batch(ops)


def texts(preferences: Preferences) -> list[str]:
    return [principle.text for principle in preferences.principles]


@every_store
def test_a_profile_is_kept_replaced_listed_and_forgotten(profiles: Profiles) -> None:
    first = Preferences(principles=["I am vegan.", Principle("Be brief.", weight=2)])
    assert profiles.list() == []
    profiles.put("ann", first)
    profiles.put("bob", "B.")
    assert profiles.get("ann") == first
    profiles.put("ann", ["Changed."])
    assert texts(profiles.get("ann")) == ["Changed."]
    assert texts(profiles.get("bob")) == ["B."]
    assert profiles.list() == ["ann", "bob"]
    profiles.delete("ann")
    profiles.delete("ann")
    assert profiles.list() == ["bob"]
    for look in (profiles.get, profiles.read, profiles.history):
        with pytest.raises(ProfileNotFound, match="'ann' has no profile"):
            look("ann")


@every_store
async def test_every_asynchronous_twin_does_the_same(profiles: Profiles) -> None:
    with pytest.raises(ProfileNotFound):
        await profiles.aget("ann")
    written = await profiles.aput("ann", "One.")
    assert written.version == 1
    with pytest.raises(ProfileConflict):
        await profiles.aput("ann", "No.", expected_version=0)
    await profiles.aupdate("ann", lambda now: [*now.principles, "Two."], ratio=3.0)
    assert await profiles.aget("ann") == Preferences(principles=["One.", "Two."], ratio=3.0)
    assert await profiles.aread("ann") == profiles.read("ann")
    assert await profiles.ahistory("ann") == profiles.history("ann")
    assert await profiles.alist() == ["ann"]
    await profiles.adelete("ann")
    assert await profiles.alist() == []
    with pytest.raises(ProfileNotFound):
        await profiles.aget("ann")


def test_every_operation_has_an_asynchronous_twin_with_the_same_arguments() -> None:
    import inspect

    for name in ("get", "read", "put", "update", "delete", "list", "history"):
        twins = getattr(Profiles, name), getattr(Profiles, f"a{name}")
        one, two = (list(inspect.signature(twin).parameters.values()) for twin in twins)
        assert one == two


@every_store
def test_versions_count_up_and_history_is_the_newest_first(opened: Callable) -> None:
    profiles = opened(keep=3)
    for number in range(1, 6):
        written = profiles.put("ann", f"Version {number}.")
        assert written.version == number
        assert profiles.read("ann") == written
    history = profiles.history("ann")
    assert [one.version for one in history] == [5, 4, 3]
    assert [texts(one.preferences) for one in history] == [[f"Version {n}."] for n in (5, 4, 3)]
    assert isinstance(history[0], Profile)
    assert [one.updated_at for one in history] == sorted(
        (one.updated_at for one in history), reverse=True
    )


@every_store
def test_a_write_that_expects_another_version_is_refused_and_changes_nothing(
    profiles: Profiles,
) -> None:
    profiles.put("ann", "One.", expected_version=0)
    profiles.put("ann", "Two.", expected_version=1)
    for stale in (0, 1, 3):
        with pytest.raises(ProfileConflict, match=f"version 2, not {stale}") as caught:
            profiles.put("ann", "Lost.", expected_version=stale)
        assert (caught.value.expected_version, caught.value.version) == (stale, 2)
    assert texts(profiles.get("ann")) == ["Two."]
    assert [one.version for one in profiles.history("ann")] == [2, 1]


@pytest.mark.parametrize("expected", ["1", 1.5, True])
def test_an_expected_version_is_a_number_or_a_profile(expected: Any) -> None:
    profiles = open_profiles(InMemoryStore())
    first = profiles.put("ann", "A.")
    with pytest.raises(InvalidArgument, match="expected_version"):
        profiles.put("ann", "B.", expected_version=expected)
    profiles.delete("ann")
    profiles.put("ann", "Anew.")
    with pytest.raises(ProfileConflict):
        profiles.put("ann", "B.", expected_version=first)


def test_a_single_principle_is_preferences_too() -> None:
    profiles = open_profiles(InMemoryStore())
    profiles.put("ann", Principle("Be brief.", 2))
    assert profiles.get("ann") == Preferences(principles=[Principle("Be brief.", 2)])
    with pytest.raises(InvalidPreferences, match="neither"):
        profiles.put("ann", {1: 2})  # type: ignore[arg-type]


@every_store
def test_update_changes_fields_or_calls_a_function(profiles: Profiles) -> None:
    profiles.update("ann", principles=["A."])
    profiles.update("ann", ratio=3.0, kl_budget=0.5)
    profiles.update("ann", lambda now: [*now.principles, "B."])
    profiles.update("ann", kl_budget=None)
    found = profiles.get("ann")
    assert found == Preferences(principles=["A.", "B."], ratio=3.0, kl_budget=None)
    profiles.update("ann", lambda now: Preferences(principles=now.principles, kl_budget=0.5))
    assert profiles.get("ann") == Preferences(principles=["A.", "B."], kl_budget=0.5)
    profiles.update("ann", lambda _: found)
    with pytest.raises(InvalidPreferences, match="ratio"):
        profiles.update("ann", ratio=-1)
    with pytest.raises(InvalidArgument, match="put stores others in their place"):
        profiles.update("ann", "Be brief.")  # type: ignore[arg-type]
    assert profiles.get("ann") == found


@every_store
def test_updates_by_many_threads_lose_nothing(profiles: Profiles) -> None:
    def add(number: int) -> None:
        profiles.update("ann", lambda now: [*now.principles, f"{number}."])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert sorted(texts(profiles.get("ann"))) == sorted(f"{number}." for number in range(40))
    assert profiles.read("ann").version == 40


@every_store
async def test_updates_by_many_tasks_lose_nothing(profiles: Profiles) -> None:
    async def add(number: int) -> None:
        await profiles.aupdate("ann", lambda now: [*now.principles, f"{number}."])

    await asyncio.gather(*(add(number) for number in range(20)))
    assert len(texts(await profiles.aget("ann"))) == 20


@every_store
@pytest.mark.parametrize("way", ["update", "aupdate"])
def test_an_update_that_always_comes_second_is_made_at_last(profiles: Profiles, way: str) -> None:
    others = 0

    def late(now: Preferences) -> list[Principle | str]:
        nonlocal others
        # Nobody else can write during the last attempt, and nobody can go on writing for ever.
        if others < 10:
            others += 1
            profiles.put("ann", f"Other {others}.")
        return [*now.principles, "Mine."]

    if way == "update":
        profiles.update("ann", late)
    else:
        asyncio.run(profiles.aupdate("ann", late))
    assert texts(profiles.get("ann")) == ["Other 10.", "Mine."]
    assert others == 10


@every_store
def test_a_change_made_while_an_update_thinks_is_not_lost(profiles: Profiles) -> None:
    profiles.put("ann", ["A."])
    calls = []

    def slowly(now: Preferences) -> list[Principle | str]:
        calls.append(texts(now))
        if len(calls) == 1:
            # Deleted and made anew: version 1 again, but not the same one.
            profiles.delete("ann")
            profiles.put("ann", ["B."])
        return [*now.principles, "C."]

    profiles.update("ann", slowly)
    assert calls == [["A."], ["B."]]
    assert texts(profiles.get("ann")) == ["B.", "C."]


def test_a_store_that_finds_more_than_it_was_asked_for_shows_no_other_tenant_s_users() -> None:
    class Generous(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            wide = [
                op._replace(namespace_prefix=op.namespace_prefix[:1])
                if isinstance(op, SearchOp)
                else op
                for op in ops
            ]
            return super().batch(wide)

    store = Generous()
    open_profiles(store, tenant="a-b").put("ann", "A.")
    seen = open_profiles(store, tenant="a_b")
    seen.put("bob", "B.")
    assert seen.list() == ["bob"]
    assert [json.loads(line)["user_id"] for line in seen.export_lines()] == ["bob"]


@every_store
def test_tenants_do_not_see_each_other(opened: Callable) -> None:
    # Characters that search patterns know would match any other.
    for name in ("a_b", "a%b"):
        opened(tenant="a-b").put("ann", "A.")
        assert opened(tenant=name).list() == []
    one, two = opened(tenant="acme"), opened(tenant="acme.eu")
    one.put("ann", "One.")
    two.put("ann", "Two.")
    assert texts(one.get("ann")) == ["One."]
    assert texts(two.get("ann")) == ["Two."]
    two.put("bob", "B.")
    assert one.list() == ["ann"]
    one.delete("ann")
    assert texts(two.get("ann")) == ["Two."]
    with pytest.raises(ProfileNotFound):
        one.get("bob")


NAMES = [
    "ann",
    "Ann",
    "ANN",
    "a/b",
    "a.b",
    "a",
    "a%2fb",
    "../../etc/passwd",
    "ann@example.org",
    "zoë",
    "zoe\u0308",
    "Ωmega 東京 🙂",
    " ann",
    "a*",
    "a_b",
    "a-b",
    "a,b|{c}",
    "'; DROP TABLE store; --",
    "nul\0byte",
    "x" * 900,
]


@every_store
def test_names_of_any_kind_stay_apart(profiles: Profiles) -> None:
    for name in NAMES:
        profiles.put(name, f"I am {name!r}.")
    assert profiles.list() == sorted(NAMES)
    for name in NAMES:
        assert texts(profiles.read(name).preferences) == [f"I am {name!r}."]
    for name in NAMES[::2]:
        profiles.delete(name)
    assert profiles.list() == sorted(NAMES[1::2])


@every_store
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (7, "text, not int"),
        (None, "text"),
        (["a"], "text"),
        ("a\ud800", "Unicode"),
        ("x" * 1001, "too long"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(profiles: Profiles, name: Any, words: str) -> None:
    for use in (profiles.get, profiles.read, profiles.delete, profiles.history):
        with pytest.raises(InvalidArgument, match=words):
            use(name)
    with pytest.raises(InvalidArgument, match=words):
        profiles.put(name, "A.")
    assert profiles.list() == []


@every_store
def test_large_profiles_are_kept_whole(profiles: Profiles) -> None:
    long = [
        Principle(f"{number}. Be brief. \U0001f642 ".ljust(9_000, "x")) for number in range(100)
    ]
    profiles.put("ann", long)
    many = [Principle(f"Principle {number}.", number / 7) for number in range(100)]
    profiles.put("ann", many)
    assert profiles.read("ann").preferences == Preferences(principles=many)
    assert profiles.history("ann")[1].preferences == Preferences(principles=long)


@every_store
@pytest.mark.parametrize("huge", ["Be brief. " * 10_000, [f"{n}." for n in range(1_000)]])
def test_huge_preferences_are_kept_whole_or_refused(profiles: Profiles, huge: Any) -> None:
    kept = profiles.put("ann", "A.")
    try:
        preferences = Preferences(principles=huge)
    except InvalidPreferences:
        with pytest.raises(InvalidPreferences):
            profiles.put("ann", huge)
        assert profiles.read("ann") == kept
    else:
        profiles.put("ann", huge)
        assert profiles.read("ann").preferences == preferences


@every_store
def test_what_cannot_be_stored_is_refused_and_changes_nothing(profiles: Profiles) -> None:
    profiles.put("ann", "A.")
    for wrong in (7, None, "a\0b", [""], {"ratio": -1}, ["A.", "a\0b"]):
        with pytest.raises(InvalidPreferences):
            profiles.put("ann", wrong)  # type: ignore[arg-type]
    assert profiles.read("ann").version == 1


@every_store
def test_what_a_profile_leaves_unsaid_stays_unsaid(profiles: Profiles) -> None:
    profiles.put("ann", Preferences(principles=["A."]))
    profiles.update("ann", plausibility=0.9)
    for cached in (True, False):
        assert profiles.get("ann").model_fields_set == {"principles", "plausibility"}, cached
        profiles.read("ann")


@every_database
def test_another_connection_sees_what_was_written(opened: Callable, tmp_path: Path) -> None:
    profiles = opened()
    profiles.put("ann", "A.")
    code = (
        "import sys; from linalign_integrations import open_profiles\n"
        "p = open_profiles(sys.argv[1], tenant=sys.argv[2])\n"
        "p.update('ann', ratio=3.0); p.put('bob', 'B.'); print(p.read('ann').version)\n"
    )
    url = profiles._url
    assert url
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, url, profiles._tenant],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "2"
    assert profiles.read("ann").preferences == Preferences(principles=["A."], ratio=3.0)
    assert texts(profiles.get("bob")) == ["B."]


def run_writers(command: str, profiles: Profiles, *arguments: object) -> Any:
    assert profiles._url
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(WRITERS), command, profiles._url, profiles._tenant]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@every_database
def test_eight_processes_that_update_one_profile_lose_nothing_and_meet_conflicts(
    opened: Callable,
) -> None:
    profiles = opened()
    told = run_writers("update", profiles, 8, 125)
    found = profiles.read("ann")
    assert found.version == 1_000
    assert found.preferences.ratio == 1_000
    assert told["conflicts"] > 0


# Redis has no transaction for this, and a lock that ends some seconds after its owner.
@pytest.mark.parametrize(
    "opened", [name for name in ("sqlite", *SERVERS) if name != "redis"], indirect=True
)
def test_a_process_killed_while_it_writes_leaves_the_old_or_the_new_profile(
    opened: Callable,
) -> None:
    profiles = opened(cache_seconds=0)
    told = run_writers("kill", profiles, 12)
    assert told["killed"] == 12
    found = profiles.read("ann")
    # A version is empty, or 100 principles that all name it: never half of one and half of another.
    for one in profiles.history("ann"):
        written = texts(one.preferences)
        assert written in ([], [f"Version {one.version}."] * 100)
    assert profiles.put("ann", "Still writable.").version == found.version + 1


@every_database
def test_eight_processes_may_open_a_new_store_at_the_same_time(
    opened: Callable, tmp_path: Path
) -> None:
    profiles = opened()
    told = run_writers("open", profiles, 8)
    assert told["opened"] == 8


@every_database
def test_forked_processes_never_read_each_other_s_answers(opened: Callable) -> None:
    assert run_writers("fork", opened()) == {"parent": 200, "child": 200}


@every_database
def test_a_process_may_be_forked_while_another_thread_writes(opened: Callable) -> None:
    profiles = opened(cache_seconds=0)
    assert run_writers("fork_busy", profiles, 20) == {"written": [1] * 20}
    assert len(profiles.list()) == 21


@pytest.mark.parametrize("opened", ["memory"], indirect=True)
def test_a_process_forked_by_whoever_writes_can_write(opened: Callable) -> None:
    assert run_writers("fork_inside", opened()) == {"written": 1}


def test_a_store_that_has_to_be_opened_anew_is_opened_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "profiles.db"
    profiles = open_profiles(f"sqlite:///{file}", cache_seconds=0)
    profiles.put("ann", "A.")
    opening: list[int] = []
    opens = stores._open

    def noted(url: str) -> stores.Home:
        opening.append(threading.get_ident())
        return opens(url)

    monkeypatch.setattr(stores, "_open", noted)
    for asked in (lambda: profiles.alist(), lambda: profiles.aupdate("bob", ratio=1.0)):
        for path in tmp_path.iterdir():
            path.unlink()
        assert repr(profiles)
        assert not file.exists()
        asyncio.run(asked())  # type: ignore[no-untyped-call]
    assert len(opening) == 2
    assert threading.get_ident() not in opening


@pytest.mark.enable_socket
@pytest.mark.skipif("redis" not in SERVERS, reason="needs LINALIGN_TEST_REDIS")
@pytest.mark.parametrize("opened", ["redis"], indirect=True)
def test_nothing_is_written_under_a_lock_that_ended(
    opened: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "TIMEOUT", 0.3)
    profiles = opened(cache_seconds=0)
    profiles.put("ann", "A.")

    def slow(_present: object) -> Any:
        time.sleep(0.6)
        return "ann", Preferences(principles=["B."]), None

    with pytest.raises(ProfileStoreFailed, match="cannot be written"):
        profiles._write(profiles._records.changing("ann", slow), ["ann"])
    assert texts(profiles.get("ann")) == ["A."]


@every_database
def test_a_connection_that_the_server_ended_is_replaced(opened: Callable) -> None:
    profiles = opened(cache_seconds=0)
    profiles.put("ann", "A.")
    if profiles._url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(profiles._url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name = 'linalign'"
            )
    elif profiles._url.startswith("redis"):
        from redis import Redis

        Redis.from_url(profiles._url).client_kill_filter(_type="normal", skipme=True)
    assert texts(profiles.get("ann")) == ["A."]
    assert profiles.put("ann", "B.").version == 2


@contextmanager
def held_up(url: str) -> Iterator[None]:
    """A store that answers nobody who wants to write."""
    kind = url.partition("://")[0]
    if kind == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
    elif kind == "postgresql":
        import psycopg

        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE store IN ACCESS EXCLUSIVE MODE")
            yield
    else:
        from redis import Redis

        with Redis.from_url(url).lock("linalign.writing", timeout=10):
            yield


@every_database
def test_a_store_that_does_not_answer_is_not_waited_for_without_end(
    opened: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "TIMEOUT", 0.5)
    profiles = opened()
    profiles.put("ann", "A.")
    with held_up(profiles._url):
        with pytest.raises(ProfileStoreFailed, match="cannot be written"):
            profiles.put("ann", "B.")
        if profiles._url.startswith("postgresql"):  # in the others readers wait for nobody
            with pytest.raises(ProfileStoreFailed, match="cannot be read: no answer within"):
                profiles.read("ann")
        else:
            assert profiles.read("ann").version == 1
    assert profiles.put("ann", "C.").version == 2


# The read cache.


def test_a_hit_does_not_ask_the_store_and_lives_for_its_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Broken()
    profiles = open_profiles(store, cache_seconds=5)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    profiles.put("ann", "A.")
    asked = store.asked
    for _ in range(3):
        assert texts(profiles.get("ann")) == ["A."]
    assert store.asked == asked
    store.down = True
    now += 4.9
    assert texts(profiles.get("ann")) == ["A."], "a store that is down is not needed"
    now += 0.2
    with pytest.raises(ProfileStoreFailed, match="Broken cannot be read: the server is away"):
        profiles.get("ann")
    store.down = False
    assert texts(profiles.get("ann")) == ["A."]
    assert store.asked == asked + 2
    assert open_profiles(store, cache_seconds=0).get("ann") == profiles.get("ann")
    assert store.asked == asked + 3


def test_unknown_users_are_remembered_as_unknown_until_they_are_written() -> None:
    store = Broken()
    profiles = open_profiles(store)
    for _ in range(3):
        with pytest.raises(ProfileNotFound):
            profiles.get("ann")
    assert store.asked == 1
    profiles.put("ann", "A.")
    assert texts(profiles.get("ann")) == ["A."]


def test_the_cache_is_bounded() -> None:
    from linalign_integrations.preferences.stores import CACHED

    store = Broken()
    profiles = open_profiles(store)
    for number in range(CACHED + 10):
        with pytest.raises(ProfileNotFound):
            profiles.get(f"nobody {number}")
    assert len(profiles._home.recent._entries) == CACHED


def test_a_slow_read_does_not_bring_back_what_was_deleted_meanwhile() -> None:
    class Slow(InMemoryStore):
        reading = threading.Event()
        go_on = threading.Event()
        slow = False

        def batch(self, ops: Any) -> Any:
            found = super().batch(ops)
            if self.slow and threading.current_thread() is not threading.main_thread():
                self.reading.set()
                assert self.go_on.wait(10)
            return found

    store = Slow()
    profiles = open_profiles(store, cache_seconds=0)
    profiles.put("ann", "A.")
    store.slow = True
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(profiles.get, "ann")
        assert store.reading.wait(10)
        profiles.delete("ann")
        store.go_on.set()
        assert texts(late.result()) == ["A."], "it was read before"
    with pytest.raises(ProfileNotFound):
        open_profiles(store, cache_seconds=60).get("ann")


def test_objects_over_one_store_share_what_they_wrote(tmp_path: Path) -> None:
    for store in (InMemoryStore(), SimpleKVStore(), f"sqlite:///{tmp_path}/p.db"):
        one, two = open_profiles(store, keep=5), open_profiles(store, keep=6)
        one.put("ann", "A.")
        assert texts(two.get("ann")) == ["A."]
        two.delete("ann")
        with pytest.raises(ProfileNotFound):
            one.get("ann")


def test_a_deleted_profile_leaves_no_trace_in_the_sqlite_files(tmp_path: Path) -> None:
    profiles = open_profiles(f"sqlite:///{tmp_path}/p.db")
    for version in range(5):
        profiles.put("ann", f"My secret wish number {version}.")
    profiles.put("bob", "Mine stays.")
    profiles.delete("ann")
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret wish" not in kept
    assert b"Mine stays." in kept


def test_a_deletion_waits_for_no_reader(tmp_path: Path) -> None:
    profiles = open_profiles(f"sqlite:///{tmp_path}/p.db")
    profiles.put("ann", "My secret wish.")
    profiles.put("bob", "My other wish.")
    with closing(sqlite3.connect(tmp_path / "p.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM store").fetchone()
        began = time.monotonic()
        profiles.delete("ann")
        assert time.monotonic() - began < stores.TIMEOUT / 2
    profiles.delete("bob")
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"wish" not in kept


def test_a_file_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/p.db"
    profiles = open_profiles(url, cache_seconds=60)
    profiles.put("ann", "A.")
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(ProfileNotFound):
        profiles.get("ann")
    profiles.put("bob", "B.")
    with closing(sqlite3.connect(tmp_path / "p.db")) as connection:
        assert connection.execute("SELECT count(*) FROM store").fetchone() == (1,)


def test_one_file_is_one_store_however_its_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    paths = ("sub/p.db", "sub/../sub/p.db", "link/p.db")
    one, *others = (open_profiles(f"sqlite:///{tmp_path}/{path}") for path in paths)
    one.put("ann", "A.")
    assert all(texts(other.get("ann")) == ["A."] for other in others)
    one.delete("ann")
    for other in others:
        with pytest.raises(ProfileNotFound):
            other.get("ann")
    with pytest.raises(ProfileStoreFailed, match="has parameters"):
        open_profiles(f"sqlite:///{tmp_path}/p.db?mode=ro")


def test_a_write_that_blocks_the_loop_of_another_ends_with_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(InMemoryStore):
        async def abatch(self, ops: Any) -> Any:
            await asyncio.sleep(0.05)
            return self.batch(ops)

    monkeypatch.setattr(stores, "TIMEOUT", 0.2)
    profiles = open_profiles(Slow())

    async def both() -> None:
        task = asyncio.create_task(profiles.aput("ann", "A."))
        await asyncio.sleep(0.01)
        with pytest.raises(ProfileStoreFailed, match="use aput"):
            profiles.put("bob", "B.")
        await task

    asyncio.run(both())
    assert profiles.list() == ["ann"]


# Import and export.


@every_store
def test_an_export_can_be_imported_elsewhere(profiles: Profiles) -> None:
    kept = {
        name: Preferences(principles=[f"I am {name!r}."], ratio=number / 3)
        for number, name in enumerate(NAMES)
    }
    for name, preferences in kept.items():
        profiles.put(name, preferences)
    lines = list(profiles.export_lines())
    assert all(json.loads(line)["version"] == 1 for line in lines)
    other = open_profiles(InMemoryStore())
    seen: list[tuple[int, int]] = []
    assert other.import_lines(lines, advance=lambda *done: seen.append(done)) == len(NAMES)
    assert seen[-1] == (len(NAMES), len(NAMES))
    assert {name: other.get(name) for name in other.list()} == kept
    assert profiles.import_lines(f"{line}\n" for line in lines) == len(NAMES)
    assert profiles.read("ann").version == 2


def test_principles_alone_may_be_imported() -> None:
    profiles = open_profiles(InMemoryStore())
    lines = [
        '{"user_id": "ann", "preferences": "A."}',
        "",
        '{"user_id": "bob",\r"preferences":\n["B.", {"text": "C.", "weight": 2}]}\r\n',
    ]
    lines[0] = f"\ufeff{lines[0]}"
    assert profiles.import_lines(lines) == 2
    assert profiles.get("bob") == Preferences(principles=["B.", Principle("C.", 2)])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not JSON", "line 3: .*JSON"),
        ("[]", "line 3"),
        ('{"preferences": "A."}', "line 3: user_id"),
        ('{"user_id": "cleo"}', "line 3: preferences"),
        ('{"user_id": "cleo", "preferences": {"ratio": -1}}', "line 3: ratio"),
        ('{"user_id": "cleo", "preferences": {"strength": 1}}', "line 3: strength"),
        ('{"user_id": "cleo", "preferences": 7}', "line 3"),
        ('{"user_id": "cleo", "preferences": null}', "line 3"),
        ('{"user_id": "", "preferences": "A."}', "line 3: user_id is empty"),
        ('{"user_id": "ann", "preferences": "A."}', "line 3: .*'ann' stands on line 1"),
    ],
)
def test_one_wrong_line_and_nothing_is_imported(line: str, words: str) -> None:
    profiles = open_profiles(InMemoryStore())
    good = ['{"user_id": "ann", "preferences": "A."}', '{"user_id": "bob", "preferences": "B."}']
    with pytest.raises(InvalidPreferences, match=f"nothing was imported: {words}"):
        profiles.import_lines([*good, line])
    assert profiles.list() == []


def test_an_import_that_would_overwrite_something_unreadable_writes_nothing() -> None:
    store = InMemoryStore()
    profiles = open_profiles(store)
    profiles.put("ann", "A.")
    [item] = store.search(("linalign",))
    store.put(item.namespace, item.key, {"format": 2})
    lines = [f'{{"user_id": "{user}", "preferences": "X."}}' for user in ("bob", "ann")]
    with pytest.raises(ProfileUnreadable, match="'ann'"):
        profiles.import_lines(lines)
    assert profiles.list() == ["ann"]


def test_an_import_checks_all_that_it_would_overwrite_before_it_writes() -> None:
    store = InMemoryStore()
    profiles = open_profiles(store)
    profiles.put("user 220", "A.")
    damage(store, "user%20220", preferences={"from_the_future": 1})
    lines = [f'{{"user_id": "user {n}", "preferences": "X."}}' for n in range(250)]
    with pytest.raises(ProfileUnreadable, match="'user 220'"):
        profiles.import_lines(lines)
    assert profiles.list() == ["user 220"]


@pytest.mark.parametrize("line", [b"{}", {"user_id": "ann"}, 3])
def test_lines_to_import_are_text(line: Any) -> None:
    with pytest.raises(InvalidPreferences, match="line 1: a line is text"):
        open_profiles(InMemoryStore()).import_lines([line])


def test_an_import_that_breaks_off_says_how_far_it_came() -> None:
    store = Broken()
    profiles = open_profiles(store)
    lines = [f'{{"user_id": "user {n}", "preferences": "X."}}' for n in range(250)]

    def advance(written: int, _: int) -> None:
        store.down = written >= 200

    with pytest.raises(
        ProfileStoreFailed, match="away; at least 200 of 250 profiles had been imported"
    ):
        profiles.import_lines(lines, advance=advance)


# What cannot be read.


def ann_hides_no_other(profiles: Profiles) -> None:
    """An unreadable profile is listed, named in an export, and makes way when it is deleted."""
    assert profiles.list() == ["ann", "bob"]
    lines = profiles.export_lines()
    assert json.loads(next(lines))["user_id"] == "bob"
    with pytest.raises(ProfileUnreadable, match="unreadable profiles of 'ann'"):
        next(lines)
    profiles.delete("ann")
    assert profiles.put("ann", "Anew.").version == 1


def damage(store: InMemoryStore, user: str, **changes: Any) -> dict[str, Any]:
    [item] = [item for item in store.search(("linalign",), limit=100) if item.key == user]
    value = {**item.value, **changes}
    store.put(item.namespace, item.key, value)
    return value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "newer release"),
        ({"preferences": {"principles": 3}}, "'ann'.*principles"),
        ({"preferences": {"principles": [], "from_the_future": 1}}, "from_the_future"),
        ({"version": 0}, "version"),
        ({"preferences": None}, "preferences"),
        ({"format": None}, "format"),
        ({"more": 1}, "more"),
    ],
)
def test_an_unreadable_profile_is_reported_and_never_overwritten(
    changes: dict[str, Any], words: str
) -> None:
    store = InMemoryStore()
    profiles = open_profiles(store, cache_seconds=0)
    profiles.put("ann", "A.")
    profiles.put("bob", "B.")
    kept = damage(store, "ann", **changes)
    uses: list[Callable[[], object]] = [
        lambda: profiles.get("ann"),
        lambda: profiles.read("ann"),
        lambda: profiles.history("ann"),
        lambda: profiles.update("ann", ratio=1.0),
        lambda: profiles.put("ann", "Over it."),
    ]
    for use in uses:
        with pytest.raises(ProfileUnreadable, match=words):
            use()
    assert damage(store, "ann") == kept
    ann_hides_no_other(profiles)


@pytest.mark.parametrize("opened", DATABASES, indirect=True)
def test_a_row_that_is_no_json_hides_no_other(opened: Callable, tmp_path: Path) -> None:
    profiles = opened(cache_seconds=0)
    for user in ("ann", "bob"):
        profiles.put(user, "A.")
    namespace, key = profiles._records.key("ann")
    if "sqlite" in profiles._url:
        with closing(sqlite3.connect(tmp_path / "profiles.db")) as other, other:
            other.execute("UPDATE store SET value = '{\"preferences' WHERE key = ?", [key])
    elif "postgresql" in profiles._url:
        import psycopg

        # It takes no other than JSON, but any.
        with psycopg.connect(profiles._url) as connection:
            connection.execute("UPDATE store SET value = '[1]' WHERE key = %s", [key])
    else:
        from redis import Redis

        Redis.from_url(profiles._url).hset(".".join(namespace), key, '{"preferences')
    uses: list[Callable[[], object]] = [
        lambda: profiles.get("ann"),
        lambda: profiles.history("ann"),
        lambda: profiles.put("ann", "Over it."),
    ]
    for use in uses:
        with pytest.raises(ProfileUnreadable, match="'ann'"):
            use()
    ann_hides_no_other(profiles)


@every_store
def test_who_writes_last_is_what_is_read_whoever_is_told_last(
    opened: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = opened(cache_seconds=60)
    profiles.put("ann", "A.")
    note = stores.Recent.note_written

    def late(recent: Any, *values: Any) -> None:
        # What is written and not yet noted is overtaken by somebody else.
        monkeypatch.setattr(stores.Recent, "note_written", note)
        with ThreadPoolExecutor(1) as other:
            other.submit(profiles.delete, "ann").result()
        note(recent, *values)

    monkeypatch.setattr(stores.Recent, "note_written", late)
    profiles.put("ann", "B.")
    with pytest.raises(ProfileNotFound):
        profiles.get("ann")


def test_the_age_of_what_is_cached_counts_from_when_it_was_asked_for() -> None:
    class Slow(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            found = super().batch(ops)
            time.sleep(pause)
            return found

    pause, store = 0.0, Slow()
    profiles = open_profiles(store, cache_seconds=0.2)
    profiles.put("ann", "A.")
    time.sleep(0.21)
    pause = 0.3
    assert texts(profiles.get("ann")) == ["A."]
    pause = 0.0
    damage(store, "ann", preferences={"principles": [{"text": "B."}]})
    assert texts(profiles.get("ann")) == ["B."]


def test_an_old_version_that_cannot_be_read_hides_no_other() -> None:
    store = InMemoryStore()
    profiles = open_profiles(store)
    for text in ("A.", "B.", "C."):
        profiles.put("ann", text)
    [item] = store.search(("linalign",))
    old = [dict(one) for one in item.value["history"]]
    old[0]["preferences"] = {"from_the_future": 1}
    damage(store, "ann", history=old)
    assert [one.version for one in profiles.history("ann")] == [3, 1]


# What to do where a profile cannot be read, or there is none.


def test_by_default_an_unread_profile_is_an_error() -> None:
    store = Broken()
    profiles = open_profiles(store)
    with pytest.raises(ProfileNotFound):
        resolve(config={"user_id": "eve"}, profiles=profiles)
    store.down = True
    with pytest.raises(ProfileStoreFailed):
        resolve(config={"user_id": "ann"}, profiles=profiles)


def test_an_unknown_user_is_answered_plainly_if_asked_for_with_one_warning() -> None:
    profiles = open_profiles(InMemoryStore())
    profiles.put("bob", "Bob's.")
    own = Preferences(principles=["own"], ratio=3.0)
    options: dict[str, Any] = {"profiles": profiles, "on_unknown_user": "plain"}
    levels: list[dict[str, Any]] = [
        {"config": {"user_id": "new here"}},
        {"config": {"user_id": "new here"}, "context": {"user_id": "bob"}},
        {"config": {"user_id": "new here"}, "user_id": "bob"},
        {"user_id": "new here"},
    ]
    with pytest.warns(UserWarning, match="'new here' has no profile") as caught:
        found = [resolve(**one, own=own, **options) for one in levels]
    assert [one.principles for one in found] == [()] * len(levels)
    assert len(caught) == 1
    assert str(caught[0].message).endswith("answered without principles")


def test_a_store_that_is_down_is_answered_plainly_if_asked_for() -> None:
    store = Broken()
    profiles = open_profiles(store, cache_seconds=0)
    profiles.put("ann", "Ann's.")
    profiles.put("bob", "Bob's.")
    store.down = True
    levels = {"context": {"user_id": "bob"}, "own": Preferences(principles=["own"])}
    with pytest.warns(UserWarning, match="away"):
        found = resolve(
            config={"user_id": "ann"}, profiles=profiles, on_profile_error="plain", **levels
        )
    assert found.principles == ()
    with pytest.raises(ProfileStoreFailed):
        resolve(config={"user_id": "ann"}, profiles=profiles, on_unknown_user="plain", **levels)
    with pytest.raises(InvalidArgument):
        resolve(config={"user_id": ""}, profiles=profiles, on_profile_error="plain", **levels)
    store.down = False
    damage(store, "ann", format=2)
    with pytest.warns(UserWarning, match="newer release"):
        found = resolve(
            config={"user_id": "ann"}, profiles=profiles, on_profile_error="plain", **levels
        )
    assert found.principles == ()


# URLs, extras, secrets.


@pytest.mark.parametrize(
    "url",
    [
        "profiles.db",
        "memory",
        "mysql://ann:hush@db/x",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "",
        "postgresql:ann:hush@db",
        "host=db password=hush",
    ],
)
def test_a_url_of_no_known_store_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ProfileStoreFailed, match="unknown profile store") as caught:
        open_profiles(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hu/sh@127.0.0.1:1/db",
        "postgresql://ann:hush@127.0.0.1:1/db?connect_timeout=1",
        "postgresql://ann:hush@localhost:port/db",
        "postgresql://127.0.0.1:1/db?user=ann&password=hush&connect_timeout=1",
        "postgresql://ann:hush@127.0.0.1:1/db?nonsense=hush",
        "redis://ann:hush@127.0.0.1:1",
        "redis://ann:hu/sh@127.0.0.1:1",
        "redis://:hush@localhost:port",
        "redis://:hush@localhost/name",
        "sqlite:///a\0b",
        "postgresql://127.0.0.1:1/db?user=ann&password=me@hush&connect_timeout=1",
        "postgresql://ann:me@hush@127.0.0.1:1/db",
        "redis://127.0.0.1:1?password=me@hush",
    ],
)
@pytest.mark.enable_socket
def test_passwords_appear_in_no_error(url: str) -> None:
    with pytest.raises(ProfileStoreFailed, match="cannot be opened") as caught:
        open_profiles(url)
    shown: BaseException | None = caught.value
    while shown is not None:
        assert "hu/sh" not in repr(shown)
        assert "hush" not in repr(shown)
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)


def test_a_password_that_a_driver_quotes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    def refuse(url: str, **_: object) -> None:
        raise psycopg.OperationalError(f"cannot use {url}, password h@sh")

    monkeypatch.setattr(psycopg.Connection, "connect", refuse)
    with pytest.raises(ProfileStoreFailed, match="password \\*\\*\\*") as caught:
        open_profiles("postgresql://ann:h%40sh@127.0.0.1/db")
    assert "h%40sh" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@every_database
def test_the_password_of_a_server_appears_nowhere(opened: Callable) -> None:
    profiles = opened()
    password = urlsplit(profiles._url).password
    if password is None:  # a file has none
        assert "sqlite:///" in repr(profiles)
        return
    assert password not in repr(profiles)
    with pytest.raises(ProfileStoreFailed) as caught:
        open_profiles(profiles._url.replace(password, "not-it"))
    assert "not-it" not in repr(caught.value) + repr(caught.value.__cause__)


def test_a_model_object_shows_no_store_and_no_password(folder: Path) -> None:
    from linalign_integrations.langchain import ChatLinAlign

    with pytest.raises(LinAlignError) as caught:
        ChatLinAlign(model=str(folder), profiles="mysql://ann:hush@db/x")
    assert "hush" not in str(caught.value)
    with pytest.raises(InvalidArgument) as wrong:
        ChatLinAlign(model=str(folder), profiles={"url": "postgresql://ann:hush@db"})
    assert "hush" not in str(wrong.value)


@pytest.mark.parametrize(
    ("url", "extra", "package"),
    [
        ("memory://never-opened", "profiles", "langgraph"),
        ("sqlite:///never-opened.db", "profiles", "langgraph"),
        ("postgresql://ann:hush@localhost/x", "postgres", "psycopg"),
        ("postgresql://ann:hush@localhost/y", "postgres", "langgraph"),
        ("redis://ann:hush@localhost", "redis", "redis"),
        ("redis://ann:hush@localhost/1", "redis", "llama_index.storage"),
    ],
)
def test_a_missing_extra_is_named(
    url: str, extra: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    importing = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(package):
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=rf"linalign-integrations\[{extra}\]") as caught:
        open_profiles(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache_seconds": -1}, "cache_seconds"),
        ({"cache_seconds": float("nan")}, "cache_seconds"),
        ({"cache_seconds": "5"}, "cache_seconds"),
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": ["acme"]}, "tenant"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        open_profiles("memory://options", **options)


def test_profiles_opened_by_url_can_be_pickled(tmp_path: Path) -> None:
    profiles = open_profiles(f"sqlite:///{tmp_path}/p.db", tenant="acme", cache_seconds=1, keep=2)
    assert pickle.loads(pickle.dumps(profiles)) is profiles
    with pytest.raises(TypeError, match="by URL"):
        pickle.dumps(open_profiles(InMemoryStore()))


def test_importing_preferences_loads_neither_torch_nor_a_store() -> None:
    code = (
        "import sys, linalign_integrations.preferences\n"
        "print([name for name in ('torch', 'langgraph', 'llama_index', 'psycopg', 'redis',"
        " 'langchain_core') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


# LangGraph's stores as an app has them already.


async def test_an_asynchronous_langgraph_store_is_used_as_one(tmp_path: Path) -> None:
    from langgraph.store.sqlite.aio import AsyncSqliteStore

    async with AsyncSqliteStore.from_conn_string(str(tmp_path / "a.db")) as store:
        await store.setup()
        profiles = open_profiles(store)
        await asyncio.gather(
            *(
                profiles.aupdate("ann", lambda now, n=n: [*now.principles, f"{n}."])
                for n in range(10)
            )
        )
        assert len(texts(await profiles.aget("ann"))) == 10
        assert await profiles.alist() == ["ann"]


async def test_a_call_that_would_block_the_loop_of_its_store_says_so_whatever_the_policy(
    tmp_path: Path,
) -> None:
    from langgraph.store.sqlite.aio import AsyncSqliteStore

    async with AsyncSqliteStore.from_conn_string(str(tmp_path / "a.db")) as store:
        await store.setup()
        profiles = open_profiles(store)
        await profiles.aput("ann", "A.")
        for blocks in (lambda: profiles.put("ann", "B."), lambda: profiles.read("ann")):
            with pytest.raises(InvalidArgument, match="asynchronous methods"):
                blocks()
        with pytest.raises(InvalidArgument, match="asynchronous methods"):
            resolve(
                config={"user_id": "ann"},
                profiles=open_profiles(store, cache_seconds=0),
                on_profile_error="plain",
            )
        assert texts(await asyncio.to_thread(profiles.get, "ann")) == ["A."]


async def test_a_langgraph_store_without_asynchronous_methods_works_in_a_thread(
    tmp_path: Path,
) -> None:
    connection = sqlite3.connect(tmp_path / "s.db", check_same_thread=False, isolation_level=None)
    store = SqliteStore(connection)
    store.setup()
    profiles = open_profiles(store)
    await profiles.aput("ann", "A.")
    assert texts((await profiles.aread("ann")).preferences) == ["A."]
    connection.close()
    with pytest.raises(ProfileStoreFailed, match="closed"):
        await profiles.aread("ann")
    with pytest.raises(ProfileStoreFailed, match="cannot be written"):
        profiles.put("ann", "B.")


async def test_a_slow_store_does_not_hold_up_the_event_loop() -> None:
    class Slow(InMemoryStore):
        async def abatch(self, ops: Any) -> Any:
            raise NotImplementedError

        def batch(self, ops: Any) -> Any:
            assert release.wait(10)
            return super().batch(ops)

    release = threading.Event()
    profiles = open_profiles(Slow())
    waiting = asyncio.create_task(profiles.aput("ann", "A."))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not waiting.done()
    release.set()
    assert (await waiting).version == 1


@pytest.mark.parametrize("options", [{"cache_seconds": [1]}, {"keep": [1]}, {"keep": 0}])
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        open_profiles("memory://", **options)


def test_what_is_neither_url_nor_store_is_refused() -> None:
    from langchain_core.runnables import RunnableLambda

    # A Runnable has the store interface's batch and abatch, and is none.
    for wrong in (7, None, {"url": "hush"}, object(), RunnableLambda(len)):
        with pytest.raises(InvalidArgument, match="profiles are kept in") as caught:
            open_profiles(wrong)  # type: ignore[arg-type]
        assert "hush" not in str(caught.value)


# The terminal.


@pytest.fixture
def linalign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs ``linalign profiles`` on a store of its own."""
    monkeypatch.setenv("LINALIGN_PROFILES", f"sqlite:///{tmp_path}/cli.db")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("VISUAL", raising=False)

    def run(*arguments: str, told: str | None = None) -> str:
        shown = CliRunner().invoke(app, ["profiles", *arguments], input=told)
        if shown.exception and not isinstance(shown.exception, SystemExit):
            raise shown.exception
        return shown.output

    return run


def test_profiles_are_set_shown_and_deleted_in_the_terminal(linalign: Callable[..., str]) -> None:
    assert "no profiles" in linalign("list")
    linalign("set", "ann", "-p", "I am vegan.", "-p", "[/bold] please", "--ratio", "3")
    shown = linalign("set", "ann", "--add", "Be brief.", "--kl-budget", "0.5")
    for words in ("ann, version 2", "I am vegan.", "[/bold] please", "Be brief.", "3.0", "0.5"):
        assert words in shown
    linalign("set", "eve", "-p", "Sing.", "--weight", "-2", "--align-tool-calls")
    assert json.loads(linalign("show", "eve", "--json")) == {
        "principles": [{"text": "Sing.", "weight": -2.0}],
        "align_tool_calls": True,
    }
    with pytest.raises(InvalidArgument, match="--weight"):
        linalign("set", "eve", "--weight", "2")
    linalign("set", "bob", "--none")
    assert json.loads(linalign("show", "bob", "--json")) == {"principles": []}
    listed = linalign("list")
    assert "I am vegan.; [/bold] please; Be brief." in listed
    assert "bob" in listed
    assert "version 1" in linalign("show", "ann", "--history")
    assert "Delete" in linalign("delete", "ann", told="n\n")
    assert "ann" in linalign("list")
    linalign("delete", "ann", "--yes")
    assert "ann" not in linalign("list")
    with pytest.raises(ProfileNotFound):
        linalign("delete", "ann", "--yes")
    with pytest.raises(InvalidArgument, match="nothing to set"):
        linalign("set", "ann")
    with pytest.raises(InvalidArgument, match="--none"):
        linalign("set", "ann", "--none", "-p", "A.")
    with pytest.raises(InvalidPreferences, match="ratio"):
        linalign("set", "ann", "--ratio", "-1")


def test_what_was_set_is_unset_in_the_terminal(linalign: Callable[..., str]) -> None:
    linalign("set", "ann", "-p", "Be brief.", "--ratio", "3", "--kl-budget", "0.5")
    linalign("set", "ann", "--unset", "ratio", "--unset", "kl-budget", "--plausibility", "0.9")
    assert json.loads(linalign("show", "ann", "--json")) == {
        "principles": [{"text": "Be brief.", "weight": 1.0}],
        "plausibility": 0.9,
    }
    linalign("set", "ann", "--unset", "principles", "--add", "Be kind.")
    assert "Be brief." not in linalign("show", "ann")
    with pytest.raises(InvalidArgument, match="'ration'"):
        linalign("set", "ann", "--unset", "ration")
    with pytest.raises(InvalidArgument, match="both set and unset"):
        linalign("set", "ann", "--unset", "ratio", "--ratio", "2")


def test_a_terminal_without_unicode_shows_and_exports_all_the_same(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/p.db"
    said = "Sei höflich. 你好 🦜"
    open_profiles(url).put("zoë", said)

    def run(*arguments: str, **more: Any) -> bytes:
        code = "from linalign_integrations.cli import main; main()"
        command = [sys.executable, "-c", code, "profiles", *arguments, "--store", url]
        environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        return subprocess.run(  # noqa: S603
            command, env=environment, check=True, capture_output=True, **more
        ).stdout

    assert "höflich. \\u4f60".encode("latin-1") in run("show", "zoë")
    exported = run("export")
    assert json.loads(exported)["preferences"]["principles"][0]["text"] == said
    run("import", "-", input=exported.replace("zoë".encode(), "bär".encode()))
    assert texts(open_profiles(url).get("bär")) == [said]


def test_a_profile_is_edited_in_the_editor(
    linalign: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    linalign("set", "ann", "-p", "Be brief.")
    monkeypatch.setenv("EDITOR", "sed -i s/brief/long/")
    assert "Be long." in linalign("edit", "ann")
    assert "nothing changed" in linalign("edit", "ann")
    monkeypatch.setenv("EDITOR", "sed -i s/weight/height/")
    assert "cannot be stored" in linalign("edit", "ann", told="n\n")
    monkeypatch.setenv("EDITOR", "sed -i s/}/,/")
    assert "cannot be stored" in linalign("edit", "ann", told="n\n")
    for editor in ("false", "no-such-editor-anywhere"):
        monkeypatch.setenv("EDITOR", editor)
        with pytest.raises(InvalidArgument, match="editor"):
            linalign("edit", "ann")
    assert "Be long." in linalign("show", "ann")
    assert "version 2" in linalign("show", "ann")


def test_what_was_edited_is_never_lost(
    linalign: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def editor(script: str) -> None:
        (tmp_path / "edit.sh").write_text(f"set -e\n{script}\n", encoding="utf-8")
        monkeypatch.setenv("EDITOR", f"sh {tmp_path}/edit.sh")

    linalign("set", "ann", "-p", "Be brief.")
    meanwhile = (
        f'{sys.executable} -c "from linalign_integrations import open_profiles; '
        f"open_profiles('sqlite:///{tmp_path}/cli.db').put('ann', 'Meanwhile.')\""
    )
    editor(
        f'[ -e {tmp_path}/once ] || {meanwhile}; touch {tmp_path}/once; sed -i s/brief/long/ "$1"'
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    shown = linalign("edit", "ann", told="n\n")
    assert "Meanwhile." in shown
    [kept] = tmp_path.glob("linalign-*.json")
    assert "Be long." in kept.read_text(encoding="utf-8")
    assert "Meanwhile." in linalign("show", "ann")
    (tmp_path / "once").unlink()
    editor(
        f'[ -e {tmp_path}/once ] || {meanwhile}; touch {tmp_path}/once; sed -i s/Mean/Long/ "$1"'
    )
    assert "Longwhile." in linalign("edit", "ann", told="y\n")
    anew = meanwhile.replace("; open", "; _ = open").replace(".put(", "; _.delete('ann'); _.put(")
    linalign("delete", "ann", "--yes")
    linalign("set", "ann", "-p", "Be brief.")
    editor(f'{anew}; sed -i s/brief/long/ "$1"')
    linalign("edit", "ann", told="n\n")
    assert "Meanwhile." in linalign("show", "ann"), "both are version 1"
    editor(': > "$1"')
    assert "nothing changed" in linalign("edit", "ann")
    editor('printf \'\\357\\273\\277["Be brief."]\' > "$1"')
    assert "Be brief." in linalign("edit", "ann")
    for script in ("printf '\\377' > \"$1\"", 'rm "$1"'):
        editor(script)
        with pytest.raises(InvalidArgument, match="cannot be read"):
            linalign("edit", "ann")
    editor(f'[ ! -e {tmp_path}/twice ]; touch {tmp_path}/twice; echo "[nonsense" > "$1"')
    for written in tmp_path.glob("linalign-*.json"):
        written.unlink()
    assert "did not work" in linalign("edit", "ann", told="y\n")
    [kept] = tmp_path.glob("linalign-*.json")
    assert kept.read_text(encoding="utf-8") == "[nonsense\n"


def test_what_a_change_raises_reaches_its_caller_however_many_others_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profiles = open_profiles(InMemoryStore())
    calls = 0

    def change(said: Preferences) -> Preferences:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise KeyError("mine")
        profiles.put("ann", f"Written meanwhile, {calls}.")
        return said

    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(KeyError, match="mine"):
        profiles.update("ann", change)
    calls = 0
    with pytest.raises(KeyError, match="mine"):
        asyncio.run(profiles.aupdate("ann", change))


@pytest.mark.parametrize("url", ["memory://turn", "sqlite:///{}/turn.db"])
def test_nobody_waits_without_end_for_others_who_write(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = open_profiles(url.format(tmp_path))
    profiles.put("ann", "A.")
    monkeypatch.setattr(stores, "TIMEOUT", 0.01)
    with profiles._home.lock, pytest.raises(ProfileStoreFailed, match="others have been writing"):
        profiles.put("ann", "B.")
    assert profiles.put("ann", "B.").version == 2


def test_what_is_added_anew_counts_once(linalign: Callable[..., str]) -> None:
    linalign("set", "ann", "-p", "Be brief.", "-p", "No nuts.")
    for _ in range(2):
        linalign("set", "ann", "--add", "Be brief.", "--weight", "2")
    said = json.loads(linalign("show", "ann", "--json"))["principles"]
    assert [(one["text"], one["weight"]) for one in said] == [("No nuts.", 1), ("Be brief.", 2)]


def test_the_end_of_the_input_loses_nothing_that_was_edited(
    linalign: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    linalign("set", "ann", "-p", "Be brief.")
    monkeypatch.setenv("EDITOR", "sed -i s/weight/height/")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert "is kept in" in linalign("edit", "ann", told="")
    [kept] = tmp_path.glob("linalign-*.json")
    assert "height" in kept.read_text(encoding="utf-8")


def test_null_in_the_editor_empties_no_profile(
    linalign: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    linalign("set", "ann", "-p", "Be brief.")
    monkeypatch.setenv("EDITOR", "sh -c 'echo null > $0'")
    assert "say {} to have none" in linalign("edit", "ann", told="n\n")
    assert "Be brief." in linalign("show", "ann")


def test_the_command_cuts_off_no_history(linalign: Callable[..., str], tmp_path: Path) -> None:
    linalign("set", "ann", "-p", "Be brief.")
    profiles = open_profiles(f"sqlite:///{tmp_path}/cli.db", keep=100)
    for number in range(30):
        profiles.update("ann", ratio=float(number))
    linalign("set", "ann", "--ratio", "1")
    assert len(profiles.history("ann")) == 32


def test_a_user_s_name_writes_nothing_but_text(linalign: Callable[..., str]) -> None:
    name = "eve\x1b[31m\x1b]0;title\x07"
    linalign("set", name, "-p", "A.")
    for shown in (linalign("list"), linalign("show", name)):
        assert "\x1b" not in shown
        assert "eve\\x1b[31m" in shown


def test_an_export_replaces_a_file_and_nothing_else(
    linalign: Callable[..., str], tmp_path: Path
) -> None:
    linalign("set", "ann", "-p", "A.")
    file, link, pipe = (tmp_path / name for name in ("all.jsonl", "link.jsonl", "pipe"))
    linalign("export", str(file))
    assert file.stat().st_mode & 0o777 == 0o600, "preferences are for their owner"
    file.chmod(0o640)
    link.symlink_to(file)
    (tmp_path / "all.jsonl.part").write_text("mine", encoding="utf-8")
    file.write_text("", encoding="utf-8")
    linalign("export", str(link))
    assert link.is_symlink()
    assert "ann" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "all.jsonl.part").read_text(encoding="utf-8") == "mine"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as threads:
        read = threads.submit(pipe.read_text, encoding="utf-8")
        linalign("export", str(pipe))
    assert "ann" in read.result()
    assert pipe.is_fifo()


def test_profiles_are_exported_to_a_file_and_imported(
    linalign: Callable[..., str], tmp_path: Path
) -> None:
    for user in ("ann", "zoë"):
        linalign("set", user, "-p", f"I am {user}.")
    file = tmp_path / "all.jsonl"
    linalign("export", str(file))
    assert sorted(json.loads(line)["user_id"] for line in file.open(encoding="utf-8")) == [
        "ann",
        "zoë",
    ]
    assert linalign("export") == file.read_text(encoding="utf-8")
    linalign("delete", "zoë", "-y")
    assert "imported 2 profiles" in linalign("import", str(file))
    assert "imported 2 profiles" in linalign("import", "-", told=file.read_text(encoding="utf-8"))
    assert "I am zoë." in linalign("show", "zoë")
    assert "version 3" in linalign("show", "ann")
    file.write_bytes(b'{"user_id": "bob", "preferences": "B."}\n\xff\xfe\n')
    with pytest.raises(InvalidPreferences, match="nothing was imported"):
        linalign("import", str(file))
    assert "bob" not in linalign("list")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(InvalidArgument, match="cannot be read"):
            linalign("import", str(missing))
    with pytest.raises(InvalidArgument, match="cannot be written"):
        linalign("export", str(tmp_path / "no" / "folder"))


def test_an_export_that_breaks_off_leaves_the_file_that_was_there(
    linalign: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linalign("set", "ann", "-p", "A.")
    file = tmp_path / "all.jsonl"
    file.write_text("precious\n", encoding="utf-8")

    def breaking(_: object) -> Iterator[str]:
        yield "{}"
        raise ProfileStoreFailed("away")

    monkeypatch.setattr(Profiles, "export_lines", breaking)
    with pytest.raises(ProfileStoreFailed, match="away"):
        linalign("export", str(file))
    assert file.read_text(encoding="utf-8") == "precious\n"
    assert [path.name for path in tmp_path.glob("all*")] == ["all.jsonl"]


def test_the_store_must_be_named(
    linalign: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINALIGN_PROFILES")
    with pytest.raises(InvalidArgument, match=r"--store .*LINALIGN_PROFILES"):
        linalign("list")


def test_the_benchmark_measures_and_leaves_nothing(linalign: Callable[..., str]) -> None:
    shown = linalign("bench", "--rounds", "3")
    assert "get, from the cache" in shown
    assert "resolve a call by user_id" in shown
    assert "no profiles" in linalign("list", "--tenant", "linalign-bench")


# Frameworks.


async def test_an_asynchronous_call_reads_its_profile_without_holding_up_the_loop(
    folder: Path,
) -> None:
    from linalign_integrations.langchain import ChatLinAlign, LinAlignLLM

    class Aside(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            asked_by.append(threading.current_thread())
            return super().batch(ops)

    asked_by: list[threading.Thread] = []
    profiles = open_profiles(Aside(), cache_seconds=0)
    profiles.put("ann", "A.")
    asked_by.clear()
    for kind in (ChatLinAlign, LinAlignLLM):
        model = kind(model=str(folder), dtype="float32", max_tokens=2, profiles=profiles)
        await model.ainvoke("Hi", {"configurable": {"user_id": "ann"}})
        await model.for_user("ann").ainvoke("Hi")
    assert len(asked_by) == 4
    assert threading.main_thread() not in asked_by


def test_a_model_object_says_what_becomes_of_calls_without_a_profile(folder: Path) -> None:
    from linalign_integrations.langchain import ChatLinAlign

    store = Broken()
    fields: dict[str, Any] = {"model": str(folder), "profiles": store, "principles": ["Own."]}
    strict = ChatLinAlign(**fields)
    lenient = ChatLinAlign(**fields, on_profile_error="plain", on_unknown_user="plain")
    assert strict.profiles is not store, "opened once, for its cache"
    with pytest.raises(ProfileNotFound):
        strict.for_user("eve")._take_preferences({})
    with pytest.warns(UserWarning, match="'eve' has no profile"):
        assert lenient.for_user("eve")._take_preferences({}).principles == ()
    store.down = True
    with pytest.raises(ProfileStoreFailed):
        strict.for_user("ann")._take_preferences({})
    with pytest.warns(UserWarning, match="away"):
        assert lenient.for_user("ann")._take_preferences({}).principles == ()
    assert texts(lenient._take_preferences({})) == ["Own."]
    with pytest.raises(LinAlignError, match="on_profile_error"):
        ChatLinAlign(**fields, on_profile_error="ignore")
