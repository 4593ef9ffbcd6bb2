"""The measurement of agents: that it can tell what goes wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from linalign_integrations.cli import agents, app
from linalign_integrations.errors import InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

ROME = {"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}
OSLO = {"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}
FLOAT = {"name": "get_weather", "arguments": {"days": 2.0, "city": "Rome"}}
OTHER = {"name": "get_price", "arguments": {"city": "Rome"}}


@pytest.mark.parametrize(
    ("calls", "wanted", "fault"),
    [
        ([ROME], [ROME], None),
        ([FLOAT], [ROME], None),
        ([OSLO, ROME], [ROME, OSLO], None),
        ([], [ROME], "no call"),
        ([ROME], [ROME, OSLO], "no call"),
        ([OTHER], [ROME], "wrong tool"),
        ([ROME, OTHER], [ROME], "wrong tool"),
        ([OSLO], [ROME], "wrong argument"),
        ([ROME, ROME], [ROME], "too many calls"),
    ],
)
def test_the_first_thing_that_went_wrong_is_named(
    calls: list[dict[str, Any]], wanted: list[dict[str, Any]], fault: str | None
) -> None:
    assert agents.fault_of(calls, wanted) == fault


def test_the_command_counts_every_run_and_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "agents.json"
    shown = CliRunner().invoke(app, ["agents", "--count", "3", "--json", str(file)])
    assert shown.exit_code == 0, shown.output
    written = json.loads(file.read_text())
    assert list(written["agents"]) == list(agents.AGENTS)
    for outcomes in written["agents"].values():
        assert len(outcomes) == 3
        for one in outcomes:
            assert one["wanted"]
            # What counts as done called what it should, and was asked the same as the others.
            if one["fault"] is None:
                assert agents.fault_of(one["calls"], one["wanted"]) is None
    questions = [[one["question"] for one in runs] for runs in written["agents"].values()]
    assert questions[0] == questions[1] == questions[2]
    assert [valid for valid, _ in written["objects"]] == ["valid"] * 3


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="choose of FunctionAgent"):
        agents.run(
            Console(),
            model="pocket",
            count=1,
            seed=1,
            ratio=2.0,
            temperature=0.0,
            only="CodeActAgent",
            json_file=None,
        )
