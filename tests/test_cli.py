"""The terminal commands, on a tiny model."""

from __future__ import annotations

import io
import os
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest
from models import endless
from rich.console import Console
from typer.testing import CliRunner

from linalign_integrations import Preferences, SamplingParams
from linalign_integrations.cli import app, main
from linalign_integrations.cli.chat import Session
from linalign_integrations.cli.report import check_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def session() -> Session:
    console = Console(file=io.StringIO(), width=200)
    return Session(
        console,
        endless(),
        Preferences(principles=["Be brief."]),
        SamplingParams(seed=3, max_tokens=8),
    )


def output(session: Session) -> str:
    shown = session.console.file.getvalue()  # type: ignore[attr-defined]
    session.console.file = io.StringIO()
    return shown


def test_the_help_names_the_commands() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for command in ("demo", "chat", "bench"):
        assert command in shown.output


def test_a_message_is_answered_and_remembered(session: Session) -> None:
    assert session.handle("Hello there")
    expected = endless().generate(
        "Hello there", preferences=session.preferences, sampling=session.sampling
    )
    assert session.messages == [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": expected.text},
    ]
    session.handle("And again")
    assert len(session.messages) == 4
    session.handle("/reset")
    assert session.messages == []


def test_slash_commands_change_the_preferences(session: Session) -> None:
    session.handle("/principle I am vegan.")
    session.handle("/ratio 3.5")
    session.handle("/budget 0.2")
    assert session.preferences == Preferences(
        principles=["Be brief.", "I am vegan."], ratio=3.5, kl_budget=0.2
    )
    assert "0.2 nats" in output(session)
    session.handle("/budget off")
    session.handle("/clear")
    assert session.preferences == Preferences(principles=(), ratio=3.5)
    assert "principles: none" in output(session)


def test_compare_shows_the_three_columns(session: Session) -> None:
    session.handle("/compare What now?")
    shown = output(session)
    for column in ("plain", "prompted", "aligned (ratio 2)", "Be brief."):
        assert column in shown
    assert session.messages == [], "comparing is not part of the conversation"


def test_markup_in_what_a_user_types_is_plain_text(session: Session) -> None:
    for line in ("/compare what is [/x]?", "what is [/b]?", "/principle [/bold] please"):
        assert session.handle(line)
    assert "[/x]" in output(session)


def test_branches_shows_what_the_model_sees(session: Session) -> None:
    session.handle("/branches")
    assert "<|im_start|>system\nBe brief.<|im_end|>" in output(session)
    session.handle("Hello there")
    output(session)
    session.handle("/branches")
    shown = output(session)
    assert shown.count("Hello there<|im_end|>") == 2, "in both branches"
    assert session.messages[-1]["content"] not in shown, "it was not in its own prompt"


def test_answers_are_explained_from_when_that_is_asked_for(session: Session) -> None:
    session.handle("/explain")
    assert "explain: on" in output(session)
    session.handle("Hello there")
    shown = output(session)
    assert "8 tokens · mean KL" in shown
    assert "Where most was spent" in shown
    expected = endless().generate(
        "Hello there", preferences=session.preferences, sampling=session.sampling
    )
    assert session.messages[-1]["content"] == expected.text
    session.handle("/explain")
    session.handle("And again")
    assert "mean KL" not in output(session)


def test_a_chat_may_explain_from_its_start(folder: Path) -> None:
    arguments = ["chat", "-m", str(folder), "-p", "Be brief.", "--max-tokens", "5", "--explain"]
    shown = CliRunner().invoke(app, arguments, input="Hi\n")
    assert shown.exit_code == 0, shown.output
    assert "tokens · mean KL" in shown.output


@pytest.mark.parametrize("line", ["/ratio much", "/ratio -1", "/budget 0", "/principle ", "/sing"])
def test_a_wrong_command_is_explained_and_changes_nothing(session: Session, line: str) -> None:
    before = session.preferences
    assert session.handle(line)
    assert session.preferences == before
    assert output(session).strip()


def test_quit_ends_the_session(session: Session) -> None:
    assert session.handle("")
    assert not session.handle("/quit")


def test_chat_reads_lines_until_the_input_ends(folder: Path) -> None:
    arguments = ["chat", "--model", str(folder), "--seed", "1", "--max-tokens", "5"]
    shown = CliRunner().invoke(app, arguments, input="Hi\n/help\n")
    assert shown.exit_code == 0, shown.output
    assert "/compare" in shown.output


def test_an_error_is_one_line_and_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["linalign", "demo", "--model", "./no-such-[/folder]"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "there is no folder './no-such-[/folder]'" in capsys.readouterr().err


def test_the_installed_command_is_the_one_that_explains_errors() -> None:
    [entry] = entry_points(group="console_scripts", name="linalign")
    assert entry.load() is main


def test_a_pipe_to_write_into_is_not_opened_before_there_is_something_to_write(
    tmp_path: Path,
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Nobody reads it, so that opening it would wait.
    checking = threading.Thread(target=check_files, args=(str(pipe), None), daemon=True)
    checking.start()
    checking.join(5)
    assert not checking.is_alive()
    assert pipe.is_fifo()
