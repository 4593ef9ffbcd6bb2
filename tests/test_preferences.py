"""Principles, preferences, where they come from, and where they are kept."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

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


NUMBERS = st.one_of(st.integers(0, 5), st.floats(0, 5), st.just(-0.0))
TEXTS = st.text("ab \n\tü", min_size=1).filter(str.strip)


@given(
    TEXTS,
    st.one_of(NUMBERS, st.floats(-5, -0.5)),
    NUMBERS,
    st.one_of(st.none(), st.integers(1, 3), st.floats(0.1, 3)),
)
def test_equal_preferences_have_one_repr_and_hash_however_they_were_made(
    text: str, weight: float, ratio: float, budget: float | None
) -> None:
    made = Preferences(principles=[Principle(text, weight)], ratio=ratio, kl_budget=budget)
    others = [
        Preferences(
            principles=({"text": f" {text}", "weight": float(weight)},),
            ratio=ratio + 0.0,
            kl_budget=budget and float(budget),
            placement="system",
        ),
        Preferences.model_validate(made.model_dump()),
        Preferences.model_validate_json(made.model_dump_json(exclude_unset=True)),
        Preferences(ratio=4).model_copy(update=made.model_dump()),
        made.model_copy(deep=True),
        Preferences(ratio=5.0).merge(made),
        pickle.loads(pickle.dumps(made)),
    ]
    for other in others:
        assert (other, repr(other), hash(other)) == (made, repr(made), hash(made))
        assert "-0.0" not in repr(other)
    assert Preferences(**eval(f"dict{repr(made).removeprefix('Preferences')}")) == made  # noqa: S307


class Holder(BaseModel):
    said: Preferences


def test_a_copy_is_checked_like_any_other_value() -> None:
    assert Preferences(ratio=1.0).model_copy(update={"principles": "A."}) == Preferences(
        principles=["A."], ratio=1.0
    )
    for value, change in (
        (Preferences(), {"ratio": float("nan")}),
        (Preferences(), {"strength": 2}),
        (Principle("A."), {"weight": "3"}),
    ):
        with pytest.raises(InvalidPreferences, match=next(iter(change))):
            value.model_copy(update=change)


def test_line_breaks_of_forms_are_line_breaks() -> None:
    assert Principle("one\r\ntwo\rthree") == Principle("one\ntwo\nthree")
    assert Principle("one\u2028two\u2029three") == Principle("one\ntwo\nthree")


def test_what_is_left_unsaid_stays_unsaid_when_it_is_written_and_read_back() -> None:
    own = Preferences(principles=["Be brief."], ratio=1.0)
    for call in (Preferences(), Preferences(ratio=3), Preferences(principles=()), own):
        for back in (
            Preferences.model_validate_json(call.model_dump_json()),
            Preferences.model_validate(call.model_dump()),
            Preferences(**call.model_dump(mode="json")),
            Holder.model_validate_json(Holder(said=call).model_dump_json()).said,
        ):
            assert back == call
            assert back.model_fields_set == call.model_fields_set
            assert resolve(call=back, own=own) == resolve(call=call, own=own)
    assert json.loads(Preferences(ratio=3).model_dump_json()) == {"ratio": 3.0}
    schema = Preferences.model_json_schema(mode="serialization")
    assert schema["properties"].keys() == Preferences.model_fields.keys()


def test_the_schema_is_enough_for_a_form() -> None:
    schema = Preferences.model_json_schema()
    principle = schema["$defs"]["Principle"]
    for form in (schema, principle):
        assert form["additionalProperties"] is False
        assert "InvalidPreferences" not in form["description"]
        for name, field in form["properties"].items():
            assert field["title"][0].isupper(), name
            assert field["description"].endswith("."), name
            assert field.get("examples") or field.get("type") == "boolean", name
            assert "default" in field or name in form["required"]
    fields = schema["properties"]
    assert fields["ratio"].items() >= {"minimum": 0, "maximum": 1000, "default": 2.0}.items()
    budget, nothing = fields["kl_budget"]["anyOf"]
    assert budget == {"exclusiveMinimum": 0, "type": "number"}
    assert nothing == {"type": "null"}
    assert fields["plausibility"].items() >= {"exclusiveMinimum": 0, "maximum": 1}.items()
    assert fields["placement"]["enum"] == ["system", "last_user"]
    assert fields["principles"]["maxItems"] == 100
    assert principle["properties"]["text"].items() >= {"minLength": 1, "maxLength": 10_000}.items()
    assert principle["properties"]["weight"].items() >= {"minimum": -1000, "maximum": 1000}.items()
    for example in schema["examples"]:
        assert Preferences(**example)
    for name, field in fields.items():
        for example in field.get("examples", ()):
            assert name in Preferences(**{name: example}).model_fields_set
    json.dumps(schema, allow_nan=False)


HOUSE = Preferences(principles=["Be polite.", "Name your sources."], ratio=1.0, kl_budget=0.5)


def test_merging_adds_principles_and_takes_other_fields_from_the_uppermost_layer() -> None:
    ann = Preferences(principles=["I am vegan."], ratio=3.0)
    call = Preferences(principles="Be brief.", plausibility=0.9)
    merged = HOUSE.merge(ann, call)
    assert merged == Preferences(
        principles=["Be polite.", "Name your sources.", "I am vegan.", "Be brief."],
        ratio=3.0,
        kl_budget=0.5,
        plausibility=0.9,
    )
    assert Preferences.merge(HOUSE, ann, call) == HOUSE.merge(ann).merge(call) == merged
    assert HOUSE.merge() == HOUSE.merge(Preferences()) == Preferences().merge(HOUSE) == HOUSE


def test_a_layer_that_repeats_a_principle_decides_its_weight() -> None:
    ann = Preferences(principles=["I am vegan.", Principle("Be polite.", 3.0)])
    assert HOUSE.merge(ann).principles == (Principle("Name your sources."), *ann.principles)
    twice = Preferences(principles=[Principle("A.", 0.5), Principle("A.", 0.5)])
    assert HOUSE.merge(twice).principles == HOUSE.principles + twice.principles


def test_an_explicit_empty_tuple_drops_the_principles_of_the_layers_below() -> None:
    off = Preferences(principles=())
    assert HOUSE.merge(off) == Preferences(ratio=1.0, kl_budget=0.5)
    assert "principles" in HOUSE.merge(off).model_fields_set
    assert HOUSE.merge(off, Preferences(principles="A.")).principles == (Principle("A."),)


def test_what_no_layer_says_stays_unsaid() -> None:
    merged = HOUSE.merge(Preferences(principles="A."))
    assert merged.model_fields_set == {"principles", "ratio", "kl_budget"}
    lifted = HOUSE.merge(Preferences(kl_budget=None))
    assert lifted.kl_budget is None


def test_only_preferences_are_merged_and_not_without_end() -> None:
    with pytest.raises(InvalidPreferences, match="merge takes Preferences, not str"):
        HOUSE.merge("Be brief.")  # type: ignore[arg-type]
    many = Preferences(principles=[f"p{number}" for number in range(99)])
    with pytest.raises(InvalidPreferences, match="at most 100 items"):
        HOUSE.merge(many)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"principles": ["x" * 100_000]}, r"principles\.0: text: .*at most 10000 characters"),
        ({"principles": [f"p{n}" for n in range(1000)]}, "principles: .*at most 100 items"),
        ({"principles": [b"bytes"]}, r"principles\.0: a principle is a string or a Principle"),
        ({"principles": ["a", None]}, r"principles\.1: a principle is a string or a Principle"),
        ({"principles": {"a", "b"}}, "a list or tuple of them"),
        ({"principles": Preferences()}, "whole ones go into preferences="),
        ({"principles": ["a\x00b"]}, r"principles\.0: text: U\+0000 at position 1"),
        ({"principles": ["\x1b[31mred"]}, r"U\+001B at position 0 is a control character"),
        ({"principles": [{"text": "a", "weight": float("nan")}]}, r"principles\.0: weight"),
        ({"principles": [{"text": "a", "weight": "2"}]}, "weight"),
        ({"principles": [{"text": "a", "wieght": 2}]}, "wieght"),
        ({"ratio": "much"}, "ratio"),
        ({"ratio": 1001}, "ratio.*less than or equal to 1000"),
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


def test_what_was_written_instead_of_a_field_is_named() -> None:
    with pytest.raises(InvalidPreferences, match=r"principles=\['Be brief.'\]"):
        Preferences("Be brief.")  # type: ignore[arg-type]
    with pytest.raises(InvalidPreferences, match=r"ratoi: there is no such field, only .*ratio"):
        Preferences(ratoi=2)
    with pytest.raises(InvalidPreferences, match="neither"):
        use_preferences({1: 2})  # type: ignore[arg-type]


def test_an_error_is_short_whatever_was_given() -> None:
    for principles in (["x" * 100_000], [""] * 100, ["p" * 100] * 1000, "\x00" * 9000):
        with pytest.raises(InvalidPreferences) as caught:
            Preferences(principles=principles)
        assert len(str(caught.value)) < 1000
    with pytest.raises(InvalidPreferences, match="and 95 more"):
        Preferences(principles=[""] * 100)


def test_bad_preferences_change_nothing_where_they_were_to_be_used() -> None:
    profiles = open_profiles("memory://bad-input")
    profiles.put("ann", "Be brief.")
    bad = ["x" * 100_000, [f"p{number}" for number in range(1000)], ["a\x00b"], [7]]
    with use_preferences("outer"):
        for principles in bad:
            with pytest.raises(InvalidPreferences):
                profiles.put("ann", principles)
            with pytest.raises(InvalidPreferences):
                use_preferences(principles)
            with pytest.raises(InvalidPreferences):
                resolve(config={"principles": principles})
        assert said() == ["outer"]
    assert profiles.get("ann") == Preferences(principles="Be brief.")


def test_blocks_that_generators_leave_in_another_order_close_none_but_their_own() -> None:
    outer, inner = use_preferences("outer", ratio=3.0), use_preferences("inner")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert resolve() == Preferences(principles=["inner"])
    outer.__exit__(None, None, None)
    assert said() == ["inner"]
    inner.__exit__(None, None, None)
    assert said() == []


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


@pytest.mark.parametrize("kind", [Principle, Preferences])
def test_no_name_of_a_field_is_worse_than_unknown(kind: type[Principle | Preferences]) -> None:
    # What is read from a file may have any names.
    with pytest.raises(InvalidPreferences, match="self: there is no such field"):
        kind(self=1)
