"""Principles, preferences, where they come from, and where they are kept."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from linalign_integrations import Preferences, Principle, open_profiles, use_preferences
from linalign_integrations.errors import (
    InvalidPreferences,
    ProfileStoreFailed,
)
from linalign_integrations.preferences import resolve

if TYPE_CHECKING:
    from pathlib import Path


def said(**levels: object) -> list[str]:
    return [principle.text for principle in resolve(**levels).principles]


def test_principles_may_be_strings_one_string_mappings_or_principles() -> None:
    expected = (Principle("Be brief."), Principle("I am vegan.", 2.0))
    mixed = Preferences(principles=["Be brief.", {"text": "I am vegan.", "weight": 2.0}])
    assert mixed.principles == expected
    assert Preferences(principles="Be brief.").principles == expected[:1]
    assert Preferences(principles=expected[1]).principles == expected[1:]
    assert Preferences.model_validate_json(mixed.model_dump_json()) == mixed


def test_preferences_are_values() -> None:
    one, two = (Preferences(principles=["A."], ratio=3.0) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert repr(one) == repr(two)
    assert one != Preferences(principles=["B."], ratio=3.0)
    with pytest.raises(ValueError, match="frozen"):
        one.ratio = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"principles": [""]}, "text"),
        ({"principles": ["a\ud800"]}, "unable to parse raw data as a unicode"),
        ({"principles": [{"text": "a", "weight": 1e6}]}, "weight"),
        ({"principles": ["   "]}, "text"),
        ({"principles": [7]}, "principles"),
        ({"principles": 7}, "principles"),
        ({"principles": [{"text": 7}]}, "text"),
        ({"principles": [{"weight": 1}]}, "text"),
        ({"ratio": -1}, "ratio.*greater than or equal to 0"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": float("inf")}, "ratio"),
        ({"kl_budget": 0}, "kl_budget.*greater than 0"),
        ({"kl_budget": -1}, "kl_budget"),
        ({"kl_budget": float("nan")}, "kl_budget"),
        ({"plausibility": 0}, "plausibility"),
        ({"plausibility": 1.5}, "plausibility"),
        ({"placement": "footer"}, "placement"),
        ({"strength": 2}, "strength"),
    ],
)
def test_preferences_out_of_range_are_refused_by_name(fields: dict, words: str) -> None:
    with pytest.raises(InvalidPreferences, match=words):
        Preferences(**fields)


@pytest.mark.parametrize("arguments", [("",), (3,), ("A.", float("nan")), ("A.", float("inf"))])
def test_a_principle_that_cannot_be_meant_is_refused(arguments: tuple) -> None:
    with pytest.raises(InvalidPreferences):
        Principle(*arguments)


def test_the_levels_are_asked_in_the_documented_order() -> None:
    profiles = open_profiles("memory://")
    profiles.put("ann", Preferences(principles=["profile"]))
    profiles.put("bob", Preferences(principles=["made for"]))
    levels = {
        "call": Preferences(principles=["call"]),
        "config": {"principles": ["config"], "user_id": "ann"},
        "context": SimpleNamespace(principles=["context"], user_id=None),
        "user_id": "bob",
        "own": Preferences(principles=["own"]),
    }
    with use_preferences("ambient"):
        assert said(**levels, profiles=profiles) == ["call"]
        levels["call"] = None
        assert said(**levels, profiles=profiles) == ["config"]
        levels["config"] = {"user_id": "ann"}
        assert said(**levels, profiles=profiles) == ["profile"]
        levels["config"] = {}
        assert said(**levels, profiles=profiles) == ["context"]
        levels["context"] = {"user_id": "ann"}
        assert said(**levels, profiles=profiles) == ["profile"]
        levels["context"] = None
        assert said(**levels, profiles=profiles) == ["ambient"]
    assert said(**levels, profiles=profiles) == ["made for"]
    levels["user_id"] = None
    assert said(**levels, profiles=profiles) == ["own"]
    assert said() == []


def test_an_explicit_empty_tuple_means_no_alignment_and_never_falls_through() -> None:
    own = Preferences(principles=["own"])
    assert said(call=Preferences(principles=()), own=own) == []
    assert said(config={"principles": ()}, own=own) == []
    with use_preferences(()):
        assert said(own=own) == []


def test_two_users_profiles_never_mix() -> None:
    profiles = open_profiles("memory://mix")
    profiles.put("ann", Preferences(ratio=1.0))
    profiles.put("bob", Preferences(principles=["B's secret"], ratio=4.0, kl_budget=0.1))
    levels = {"user_id": "bob", "profiles": profiles}
    assert resolve(config={"user_id": "ann"}, **levels) == Preferences(ratio=1.0)
    both = resolve(config={"user_id": "ann"}, context={"user_id": "bob"}, profiles=profiles)
    assert both == Preferences(ratio=1.0)


def test_a_profile_is_not_read_where_a_higher_level_says_principles() -> None:
    class Unreadable:
        def get(self, user_id: str) -> Preferences:
            raise AssertionError(user_id)

    for levels in (
        {"call": Preferences(principles=["call"])},
        {"call": Preferences(principles=())},
        {"config": {"principles": ["config"], "user_id": "ann"}},
    ):
        resolve(**levels, context={"user_id": "ann"}, user_id="bob", profiles=Unreadable())
    with use_preferences("ambient"):
        assert said(user_id="bob", profiles=Unreadable()) == ["ambient"]


def test_keys_that_an_app_uses_for_itself_are_not_taken_for_ours() -> None:
    own = Preferences(principles=["own"])
    assert said(config={"placement": "sidebar", "ratio": "16:9"}, own=own) == ["own"]
    whole = resolve(config={"preferences": {"ratio": 3.0}}, own=own)
    assert whole == Preferences(principles=["own"], ratio=3.0)


def test_one_use_preferences_object_may_serve_many_tasks() -> None:
    shared = use_preferences("shared")

    async def work(delay: float) -> list[str]:
        with shared:
            await asyncio.sleep(delay)
            return said()

    async def main() -> list[list[str]]:
        return await asyncio.gather(*(work(delay) for delay in (0.02, 0.0, 0.01)))

    assert asyncio.run(main()) == [["shared"]] * 3
    with shared, shared:
        assert said() == ["shared"]
    assert said() == []


def test_each_field_comes_from_the_first_level_that_says_it() -> None:
    found = resolve(
        call=Preferences(ratio=4.0),
        config={"principles": ["config"], "kl_budget": 0.5},
        own=Preferences(principles=["own"], ratio=1.0, plausibility=0.9),
    )
    assert found == Preferences(principles=["config"], ratio=4.0, kl_budget=0.5, plausibility=0.9)


def test_a_user_id_without_a_store_is_left_to_the_app_it_belongs_to() -> None:
    assert said(config={"user_id": "ann"}, own=Preferences(principles=["own"])) == ["own"]


def test_use_preferences_nests_and_restores() -> None:
    with use_preferences("outer", ratio=3.0):
        with use_preferences("inner"):
            assert resolve() == Preferences(principles=["inner"], ratio=3.0)
        with use_preferences(ratio=1.0):
            assert resolve() == Preferences(principles=["outer"], ratio=1.0)
        assert resolve() == Preferences(principles=["outer"], ratio=3.0)
    assert resolve() == Preferences()


def test_use_preferences_restores_after_an_error() -> None:
    with pytest.raises(RuntimeError), use_preferences("A."):
        raise RuntimeError
    assert resolve() == Preferences()


async def test_tasks_keep_the_preferences_of_where_they_started() -> None:
    async def later() -> list[str]:
        await asyncio.sleep(0.01)
        return said()

    tasks = []
    for user in ("a", "b", "c"):
        async with use_preferences(user):
            tasks.append(asyncio.create_task(later()))
    assert await asyncio.gather(*tasks) == [["a"], ["b"], ["c"]]
    assert said() == []


def test_one_thread_s_preferences_are_not_another_s() -> None:
    def work(user: int) -> bool:
        with use_preferences(f"user {user}"):
            return all(said() == [f"user {user}"] for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))


def test_what_a_profile_leaves_unsaid_stays_unsaid() -> None:
    profiles = open_profiles("memory://")
    profiles.put("ann", Preferences(principles=["A."]))
    found = resolve(user_id="ann", profiles=profiles, own=Preferences(ratio=5.0))
    assert found == Preferences(principles=["A."], ratio=5.0)


def test_the_same_url_is_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_profiles("memory://one") is open_profiles("memory://one")
    assert open_profiles("memory://one") is not open_profiles("memory://two")
    monkeypatch.chdir(tmp_path)
    here = open_profiles("sqlite:///p.db")
    assert open_profiles(f"sqlite:///{tmp_path}/p.db") is here
    assert pickle.loads(pickle.dumps(here)) is here
    assert copy.deepcopy(here) is here


def test_a_profile_may_be_given_as_principles_and_nothing_else() -> None:
    profiles = open_profiles("memory://given")
    profiles.put("ann", "Be brief.")
    profiles.put("bob", ["A.", Principle("B.", 2)])
    assert profiles.get("ann") == Preferences(principles=["Be brief."])
    assert profiles.get("bob") == Preferences(principles=["A.", Principle("B.", 2)])
    with pytest.raises(InvalidPreferences, match="neither"):
        profiles.put("ann", 7)  # type: ignore[arg-type]
    assert profiles.get("ann") == Preferences(principles=["Be brief."])


def test_sqlite_profiles_outlive_the_process_that_wrote_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/profiles.db"
    code = f"from linalign_integrations import open_profiles; open_profiles({url!r})"
    subprocess.run([sys.executable, "-c", f"{code}.put('ann', 'A.')"], check=True)  # noqa: S603
    assert open_profiles(url).get("ann") == Preferences(principles=["A."])


def test_a_store_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ProfileStoreFailed, match="cannot be opened") as caught:
        open_profiles(f"sqlite:///{tmp_path}/no/such/folder/p.db")
    assert isinstance(caught.value.__cause__, sqlite3.Error)
