"""The comparison of places in a framework with the engine: that it can tell them apart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from typer.testing import CliRunner

from linalign_integrations.cli import app, places
from linalign_integrations.errors import InvalidArgument, LinAlignError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("place", places.PLACES, ids=lambda place: place.name)
def test_a_place_gives_the_engine_s_own_answers(place: places.Place) -> None:
    told: list[int] = []
    found = places.rate(place, "pocket", 2, 1, told.append)
    assert (found.place, found.cases, found.same) == (place.name, 2, 1.0)
    assert found.followed == found.bare
    assert found.met
    assert sum(told) == 4


def test_a_place_that_loses_principles_is_found_out() -> None:
    def deaf(model: str, scene: places.Scene, seed: int) -> str:
        return places.bare(model, replace(scene, principles=[]), seed)

    found = places.rate(replace(places.PLACES[0], ask=deaf), "pocket", 12, 1, lambda _: None)
    assert found.same < 0.5
    assert found.followed < found.bare - places.TOLERANCE
    assert not found.met


def test_scenes_are_held_out_and_as_a_place_wants_them() -> None:
    for place in places.PLACES:
        drawn = places.scenes(place, 8, 1)
        assert [len(scene.principles) for scene in drawn] == [1] * 8
        assert all(map(place.fits, drawn))
        assert drawn != places.scenes(place, 8, 2)


def test_calls_and_results_get_ids_that_match() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    _, asked, first, second = places.with_ids(messages)
    ids = [one["id"] for one in asked["tool_calls"]]
    assert ids == [first["tool_call_id"], second["tool_call_id"]]
    assert len(set(ids)) == 2
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"x": 1}


def test_the_command_prints_a_line_for_each_place_and_writes_the_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(places, "PLACES", places.PLACES[:1])
    file = tmp_path / "places.json"
    shown = CliRunner().invoke(app, ["places", "--count", "2", "--json", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "LangChain: chain" in shown.output
    (written,) = json.loads(file.read_text())["rates"]
    assert written["cases"] == 2


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="count=0"):
        places.run(Console(), model="pocket", count=0, seed=1, json_file=None)
    with pytest.raises(LinAlignError, match="is a folder"):
        places.run(Console(), model="pocket", count=1, seed=1, json_file=str(tmp_path))
