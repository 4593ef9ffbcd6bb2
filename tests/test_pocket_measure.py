"""How the embedded model is measured: asking, judging, scoring, the command and its files."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from models import as_answer
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from linalign_integrations import Engine, Preferences, SamplingParams
from linalign_integrations.cli import app, pocket
from linalign_integrations.errors import (
    InvalidArgument,
    InvalidPreferences,
    MissingExtra,
    ModelNotFound,
    UnsupportedModel,
)
from linalign_integrations.pocket import card, measure, weights, world
from linalign_integrations.pocket.corpus import Scene, Writer
from linalign_integrations.pocket.tokenizer import CONTEXT, END, START, render, train_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    writer = Writer("words")
    scenes = (writer.scene() for _ in range(300))
    return train_tokenizer((render(one.messages(), one.tools) for one in scenes), 1000)


@pytest.fixture(scope="module")
def untrained(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
    )
    return LlamaForCausalLM(config).eval()


def scenes(name: str, count: int = 60) -> list[Scene]:
    [chosen] = [one for one in measure.SETS if one.name == name]
    return measure.held_out(chosen, count, seed=1)


def golden(scene: Scene) -> str:
    """The scene's own last answer, as the model would write it."""
    return render(scene.dialogue[-1:]).removeprefix(f"{START}assistant\n").removesuffix("\n")


def judged(tokenizer: PreTrainedTokenizerFast, scene: Scene, text: str) -> measure.Verdict:
    return measure.verdict(scene, as_answer(tokenizer, text))


def test_the_engine_is_asked_in_the_words_that_training_used(
    tokenizer: PreTrainedTokenizerFast, untrained: LlamaForCausalLM
) -> None:
    engine = Engine(untrained, tokenizer, model_id="untrained")
    placements = set()
    for chosen in measure.SETS:
        for scene in measure.held_out(chosen, 30, seed=1):
            placements.add(scene.placement)
            branches = engine.branches(
                scene.messages(told=False, answered=False),
                preferences=Preferences(principles=scene.principles, placement=scene.placement),
                tools=scene.tools,
            )
            assert [one.text for one in branches] == [
                tokenizer.apply_chat_template(
                    scene.messages(told=told, answered=False),
                    tools=scene.tools or None,
                    tokenize=False,
                    add_generation_prompt=True,
                )
                for told in (True, False)
            ]
    assert placements == {"system", "last_user"}


def test_surprise_is_that_of_the_plain_branch(
    tokenizer: PreTrainedTokenizerFast, untrained: LlamaForCausalLM
) -> None:
    engine = Engine(untrained, tokenizer, model_id="untrained")
    [scene] = scenes("tool results", 1)
    asked = scene.messages(told=False, answered=False)
    results = [
        engine.generate(asked, sampling=SamplingParams(seed=1, max_tokens=most), tools=scene.tools)
        for most in (9, 4)
    ]
    found = measure._read(untrained, engine, scene, results)
    [plain] = engine.branches(asked, tools=scene.tools)
    for result, known in zip(results, found, strict=True):
        ids = torch.tensor([[*plain.token_ids, *result.token_ids]])
        with torch.inference_mode():
            ahead = untrained(ids).logits[0, -len(result.token_ids) - 1 : -1].log_softmax(-1)
        drawn = torch.tensor(result.token_ids)[:, None]
        assert known.surprise == pytest.approx(-float(ahead.gather(-1, drawn).sum()), rel=1e-5)
        assert known.tokens == len(result.token_ids)


@pytest.mark.parametrize("chosen", measure.SETS, ids=lambda chosen: chosen.name)
def test_the_answers_that_scenes_come_with_are_accepted_and_exact(
    chosen: measure.SceneSet, tokenizer: PreTrainedTokenizerFast
) -> None:
    drawn = measure.held_out(chosen, 60, seed=1)
    for scene in drawn:
        found = judged(tokenizer, scene, golden(scene))
        assert found.accepted is not False, golden(scene)
        assert found.exact is not False, golden(scene)
    answers = [
        dataclasses.replace(as_answer(tokenizer, golden(scene)), tokens=20, kl=1.0, surprise=2.0)
        for scene in drawn
    ]
    score = measure.score(drawn, answers)
    data = chosen.name in ("tool calls", "JSON")
    assert score.cases == 60
    assert score.accepted == (None if data else 1.0)
    assert score.exact == (None if chosen.kind in ("chat", "turns") else 1.0)
    assert score.kl * score.tokens == pytest.approx(1.0)
    assert math.log(score.perplexity) * score.tokens == pytest.approx(2.0)
    for shares in (score.values, score.dimensions):
        cases = sum(one.cases for one in shares.values())
        hits = sum(one.share * one.cases for one in shares.values())
        assert cases == (0 if data else 60 * chosen.principles)
        assert score.followed == (None if data else pytest.approx(hits / cases))
    assert score.dimensions.keys() <= world.PRIOR.keys()


def test_a_set_is_the_same_every_time_and_another_for_another_seed() -> None:
    for chosen in measure.SETS:
        first, again, other = (measure.held_out(chosen, 5, seed) for seed in (1, 1, 2))
        assert first == again != other
        assert all(len(scene.principles) == chosen.principles for scene in first)
        assert {scene.placement for scene in first} == {chosen.placement}
    assert len({chosen.name for chosen in measure.SETS}) == len(measure.SETS)


def test_sets_about_tools_and_documents_hold_what_they_say() -> None:
    assert all(scene.calls for scene in scenes("tool calls"))
    for name, topics in (("no tool fits", False), ("no tool needed", True)):
        for scene in scenes(name):
            assert scene.tools
            assert not scene.calls
            assert (scene.topic is not None) == topics
    for name, turns in (("documents", 1), ("documents, several turns", 3)):
        for scene in scenes(name, 20):
            assert [one["role"] for one in scene.dialogue].count("user") == turns


def test_a_call_is_exact_in_its_name_its_arguments_and_their_types(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    function = {"name": "set_timer", "arguments": {"minutes": 21, "loud": 1}}
    call = {"type": "function", "function": function}
    scene = Scene("calls")
    scene.ask("Set a timer.")
    scene.dialogue.append({"role": "assistant", "content": "", "tool_calls": [call]})

    def exact(text: str) -> bool | None:
        return judged(tokenizer, scene, text + END).exact

    def written(arguments: str, name: str = "set_timer") -> str:
        inner = f'{{"name": "{name}", "arguments": {arguments}}}'
        return f"<tool_call>\n{inner}\n</tool_call>"

    right = written('{"minutes": 21, "loud": 1}')
    assert right + END == golden(scene)
    assert exact(right)
    assert exact(written('{"loud": 1, "minutes": 21}'))
    for arguments in (
        '{"minutes": 21.0, "loud": 1}',
        '{"minutes": "21", "loud": 1}',
        '{"minutes": 21, "loud": true}',
        '{"minutes": 21}',
        '{"minutes": 21, "loud": 1, "day": 1}',
        '"no"',
    ):
        assert not exact(written(arguments)), arguments
    assert not exact(written('{"minutes": 21, "loud": 1}', name="start_timer"))
    assert not exact(f"Sure.\n{right}")
    assert not exact(f"{right}\nDone.")
    assert not exact(f"{right}\n{right}")
    assert not exact(right.replace("}\n</tool_call>", "\n</tool_call>"))
    assert not exact("There is no tool for that.")


def test_no_call_is_exact_with_the_right_words_instead(tokenizer: PreTrainedTokenizerFast) -> None:
    called = golden(scenes("tool calls")[0])
    advice = {scene.topic: golden(scene) for scene in scenes("no tool needed")}
    no_tool = f"{world.NO_TOOL[0]}{END}"
    not_found = f"The price of Tovin is one the documents do not mention.{END}"
    for name in ("no tool fits", "no tool needed"):
        for scene in scenes(name):
            assert not judged(tokenizer, scene, called).exact
            assert not judged(tokenizer, scene, f"<tool_call>\nno\n</tool_call>{END}").exact
            assert not judged(tokenizer, scene, not_found).exact
            assert judged(tokenizer, scene, no_tool).exact == (scene.topic is None)
            for topic, text in advice.items():
                assert judged(tokenizer, scene, text).exact == (topic == scene.topic)


def test_wrong_facts_and_denials_are_not_exact(tokenizer: PreTrainedTokenizerFast) -> None:
    invented = "The Nowhere cafe opens at 9:00."
    denial = "The Nowhere cafe opens at a time the documents do not mention."
    for name in ("documents", "documents, several turns", "tool results"):
        for scene in scenes(name):
            others = [fact for fact in scene.facts if fact not in (scene.gold or "")]
            no_tool = judged(tokenizer, scene, f"{world.NO_TOOL[0]}{END}")
            assert not no_tool.exact
            assert not no_tool.accepted
            for wrong in (
                invented,
                denial,
                f"{scene.gold} {invented}",
                f"{scene.gold} {denial}",
                *others[:1],
                *(f"{scene.gold} {other}" for other in others[:1]),
            ):
                assert not judged(tokenizer, scene, f"{wrong}{END}").exact, wrong


def test_advice_on_something_else_is_not_accepted(tokenizer: PreTrainedTokenizerFast) -> None:
    answers = {scene.topic: golden(scene) for scene in scenes("one principle")}
    assert len(answers) > 8
    for name in ("one principle", "several turns", "no tool needed"):
        for scene in scenes(name, 20):
            for topic, text in answers.items():
                assert judged(tokenizer, scene, text).accepted == (topic == scene.topic)
    for scene in scenes("documents", 20):
        assert not any(judged(tokenizer, scene, text).accepted for text in answers.values())


def test_an_answer_that_says_something_else_as_well_is_not_exact(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    more = ("The price is 12 euros.", "Try a tomato soup.", "I have no tool for that.")
    for name in ("documents", "tool results", "no tool needed", "no tool fits"):
        for scene in scenes(name, 20):
            said = golden(scene).removesuffix(END)
            assert judged(tokenizer, scene, f"{said}{END}").exact
            for one in more:
                if scene.topic and one == "Try a tomato soup.":
                    continue
                if name == "no tool fits" and one == "I have no tool for that.":
                    continue
                wrong = f"{said} {one}{END}"
                assert not judged(tokenizer, scene, wrong).exact, wrong


def test_json_is_exact_to_the_letter(tokenizer: PreTrainedTokenizerFast) -> None:
    for scene in scenes("JSON"):
        assert judged(tokenizer, scene, golden(scene)).exact
        assert not judged(tokenizer, scene, golden(scene).replace("}", "")).exact
        assert not judged(tokenizer, scene, f"Here you are: {golden(scene)}").exact


def test_a_target_is_met_within_its_bounds() -> None:
    assert not measure.Target("", 0.94, least=0.95).met
    assert measure.Target("", 0.95, least=0.95).met
    assert not measure.Target("", 0.71, 0.45, 0.7).met
    assert not measure.Target("", math.nan, -0.05).met
    assert [
        measure.Target("", 0, *bounds).asked for bounds in ((0.9,), (-math.inf, 1), (0.45, 0.7))
    ] == ["≥ 0.9", "≤ 1", "0.45 to 0.7"]


NAMES = [chosen.name for chosen in measure.SETS]
WAY_NAMES = [way.name for way in measure.ways()]


def made_up(name: str, way: str) -> float:
    """A figure that no other set and way has."""
    return (10 * NAMES.index(name) + WAY_NAMES.index(way)) / 1000


@pytest.fixture(scope="module")
def measured() -> measure.Measurement:
    """Made-up figures, all different."""

    def score(name: str, way: str) -> measure.Score:
        at = made_up(name, way)
        values = {
            "tone: formal": measure.Share(at, 3),
            "tone: friendly": measure.Share(at + 0.4, 1),
            "length: brief": measure.Share(0.3, 2),
        }
        return measure.Score(at, at + 0.2, at + 0.4, 1 + at, at / 2, 20.0, 5, values)

    scores = {name: {way: score(name, way) for way in WAY_NAMES} for name in NAMES}
    return measure.Measurement("pocket", 5, 7, 0.25, scores)


TIMED = measure.Speed(0.25, 200.0)


def test_each_target_reads_its_own_figure(measured: measure.Measurement) -> None:
    found = {goal.name: goal.value for goal in measure.targets(measured, TIMED)}
    assert found["plain: followed"] == made_up("one principle", "plain")
    assert found["prompted: followed"] == made_up("one principle", "prompted")
    for name in ("one principle", "two principles", "three principles"):
        assert found[f"ratio 2: followed, {name}"] == made_up(name, "ratio 2")
    for name, exact in (
        ("tool calls", "tool calls exact"),
        ("no tool fits", "no call when no tool fits"),
        ("no tool needed", "no call when none is needed"),
        ("documents", "documents exact"),
    ):
        assert found[f"ratio 2: {exact}"] == made_up(name, "ratio 2") + 0.4
    # The figures rise with the sets, so that the first one has the lowest.
    for way in ("ratio 2", "ratio 5, budget"):
        lowest = found[f"{way}: accepted, lowest (one principle)"]
        assert lowest == made_up("one principle", way) + 0.2
    assert found["seconds to load"] == 0.25
    assert found["tokens per second, aligned"] == 200


def test_sets_are_compared_over_the_values_that_both_ask_for(
    measured: measure.Measurement,
) -> None:
    def gap(**values: tuple[float, int]) -> float:
        shares = {name: measure.Share(*value) for name, value in values.items()}
        scores = {name: dict(ways) for name, ways in measured.scores.items()}
        for name, known in (
            ("one principle", {"a": measure.Share(1.0, 5), "b": measure.Share(0.7, 50)}),
            ("documents", shares),
        ):
            was = scores[name]["ratio 2"]
            scores[name]["ratio 2"] = dataclasses.replace(was, values=known)
        goals = measure.targets(dataclasses.replace(measured, scores=scores), TIMED)
        [found] = [goal.value for goal in goals if goal.name == "ratio 2: documents against chat"]
        return found

    assert gap(a=(0.9, 40), b=(0.5, 1), c=(0.0, 9)) == pytest.approx(-0.15)
    assert math.isnan(gap(c=(1.0, 9)))


def shown(table: object) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_a_target_just_missed_does_not_look_met() -> None:
    goals = [measure.Target("high", 0.949, least=0.95), measure.Target("low", 0.951, least=0.95)]
    high, low = shown(pocket.targets_table(goals))[-2:]
    assert high.split() == ["high", "≥", "0.95", "0.949", "not", "met"]
    assert low.split() == ["low", "≥", "0.95", "0.951", "met"]


def test_the_scores_fit_into_80_columns(measured: measure.Measurement) -> None:
    rows = [line.split() for line in shown(pocket.scores_table(measured))]
    assert ["three", "principles"] + [f"{0.02 + way / 1000:.2f}" for way in range(10)] in rows
    # Three cases of one value and one of the other, which is followed 0.4 more often.
    assert ["tone"] + [f"{0.1 + way / 1000:.2f}" for way in range(10)] in rows


def test_the_card_leaves_out_figures_without_a_meaning(measured: measure.Measurement) -> None:
    chat = {
        way: dataclasses.replace(score, exact=None)
        for way, score in measured.scores["one principle"].items()
    }
    scores = {"one principle": chat, "JSON": measured.scores["JSON"]}
    followed, _, exact, *_ = card.as_markdown(dataclasses.replace(measured, scores=scores)).split(
        "### "
    )[1:]
    assert "| one principle | 0.00 | 0.00 |" in followed
    assert "one principle" not in exact
    assert "| JSON | 0.51 | 0.51 |" in exact


def test_the_card_says_what_was_measured_and_how_training_went(
    measured: measure.Measurement, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors", card.RECORD):
        shutil.copy(weights() / name, tmp_path)
    record = json.loads((tmp_path / card.RECORD).read_text()) | {"notes": ["**Odd.** Very."]}
    (tmp_path / card.RECORD).write_text(json.dumps(record))
    card.write_card(tmp_path, measured, TIMED)
    written = (tmp_path / "MODEL_CARD.md").read_text()
    assert card.as_markdown(measured) in written
    for words in (
        "- **Odd.** Very.\n",
        "MIT",
        "ratio 2): tone: formal",
        "0.25 nats",
        "--count 5",
        "| ratio 2: followed, two principles | ≥ 0.88 | 0.013 | not met |",
        "| tokens per second, aligned | ≥ 150 | 200.000 | met |",
    ):
        assert words in written
    assert "{" not in written


def test_a_plot_of_equal_figures_is_equal_to_the_byte(
    measured: measure.Measurement, tmp_path: Path
) -> None:
    for name in ("first.svg", "second.svg"):
        pocket.plot(measured, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("first.svg", "second.svg"))
    assert first == second
    assert b"<svg" in first
    assert b"KL budget of 0.25 (nats per token)" in first


def test_a_missing_plot_library_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(measure, "measure", None)
    shown = CliRunner().invoke(app, ["pocket", "--plot", str(tmp_path / "plot.svg")])
    assert isinstance(shown.exception, MissingExtra)
    assert "linalign-integrations[plots]" in str(shown.exception)


def test_nothing_is_measured_without_what_holds_calls_to_their_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    shown = CliRunner().invoke(app, ["pocket", "--count", "1"])
    assert isinstance(shown.exception, MissingExtra)
    assert "linalign-integrations[grammar]" in str(shown.exception)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--kl-budget", "0"], InvalidPreferences),
        (["--json", "no/such/folder/file.json"], InvalidArgument),
        (["--json", "."], InvalidArgument),
        (["--plot", "."], InvalidArgument),
        (["--model", "./no-such-folder"], ModelNotFound),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    arguments: list[str], error: type[Exception]
) -> None:
    assert isinstance(CliRunner().invoke(app, ["pocket", *arguments]).exception, error)


def test_only_models_of_this_world_are_measured(folder: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r'trained by .* like "pocket"'):
        measure.measure(str(folder), 1, advance=print)


def test_nothing_is_measured_on_no_scene() -> None:
    with pytest.raises(InvalidArgument, match="at least one"):
        measure.measure("pocket", 0, advance=print)


def test_the_command_prints_its_tables_and_writes_its_files(
    tokenizer: PreTrainedTokenizerFast,
    untrained: LlamaForCausalLM,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(measure, "LONGEST", 16)
    untrained.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    report, drawn = tmp_path / "report.json", tmp_path / "plot.svg"
    told = ["--count", "3", "--model", str(tmp_path), "--json", str(report), "--plot", str(drawn)]
    result = CliRunner().invoke(app, ["pocket", *told])
    assert result.exit_code == 0, result.exception
    figures = json.loads(report.read_text())
    assert figures["count"] == 3
    assert list(figures["scores"]) == NAMES
    for scores in figures["scores"].values():
        assert list(scores) == WAY_NAMES
        assert all(score["cases"] == 3 and score["tokens"] <= 16 for score in scores.values())
    assert figures["speed"]["tokens"] > 0
    # A model that was never trained misses whatever has a lower bound of its own.
    met = {goal["name"]: goal["met"] for goal in figures["targets"]}
    assert met["plain: followed"]
    assert not met["prompted: followed"]
    assert not met["ratio 2: tool calls exact"]
    _, _, table = result.output.partition("Targets")
    verdicts = re.findall(r"(not met|met) *$", table, re.MULTILINE)
    assert [one == "met" for one in verdicts] == list(met.values())
    assert drawn.read_text().startswith("<?xml")


def test_the_help_says_what_the_budget_is_by_default() -> None:
    shown = CliRunner().invoke(app, ["pocket", "--help"]).output
    assert f"default: ({measure.KL_BUDGET:g};" in shown
