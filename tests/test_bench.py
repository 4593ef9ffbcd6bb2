"""The benchmark: that its report is whole and its peers are what they are called, not its times."""

from __future__ import annotations

import copy
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from linalign_integrations import SamplingParams
from linalign_integrations.alignment import align
from linalign_integrations.cli import app, bench, experiments, peers
from linalign_integrations.errors import InvalidArgument, LinAlignError, MissingExtra

SMALL = bench.Scale(
    rounds=2,
    steps=4,
    prompt=40,
    users=(1, 3),
    lengths=(64, 128, 100_000),
    principles=(1, 3),
    history=200,
    requests=(8, 16),
)


def invoke(*arguments: object) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "QUICK", SMALL)
        words = ["bench", "--quick", "--dtype", "float32", *map(str, arguments)]
        return CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def lab() -> experiments.Lab:
    return bench.open_lab(None, bench.Shape.TINY, "float32", "cpu", SMALL)


@pytest.fixture(scope="module")
def folder_of_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of everything wrote."""
    path = tmp_path_factory.mktemp("bench")
    shown = invoke(
        *("--shape", "tiny", "--device", "cpu", "--only", ",".join(bench.EXPERIMENTS)),
        *("--json", path / "bench.json", "--plots", path / "plots"),
    )
    assert shown.exit_code == 0, shown.output
    (path / "shown.txt").write_text(shown.output)
    return path


@pytest.fixture(scope="module")
def report(folder_of_results: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder_of_results / "bench.json").read_text())
    return read


@pytest.fixture(scope="module")
def rows(report: dict[str, Any]) -> list[experiments.Row]:
    return [experiments.Row(**row) for row in report["rows"]]


def test_every_experiment_is_reported_in_order(rows: list[experiments.Row]) -> None:
    assert tuple(name for name, _ in itertools.groupby(rows, lambda row: row.experiment)) == (
        bench.EXPERIMENTS
    )
    assert tuple(experiments.EXPERIMENTS) == bench.EXPERIMENTS


def test_figures_and_ratios_are_positive_and_inside_their_spread(
    rows: list[experiments.Row],
) -> None:
    for row in rows:
        if row.quantity == experiments.REUSED:
            continue
        assert row.figure > 0
        assert row.figure == statistics.median(row.samples)
        assert len(row.samples) == (1 if row.experiment == "memory" else SMALL.rounds)
        if row.ratio is not None:
            assert row.against
            assert 0 < row.least <= row.ratio <= row.most


def test_a_ratio_is_taken_round_by_round(rows: list[experiments.Row]) -> None:
    by_name = {row.name: row for row in rows if row.quantity == experiments.PER_TOKEN}
    ours = next(row for row in rows if row.name == "ours" and row.against == "plain generate")
    plain = by_name["plain generate"].samples
    ratios = [mine / theirs for mine, theirs in zip(ours.samples, plain, strict=True)]
    assert ours.ratio == pytest.approx(statistics.median(ratios))


def test_all_peers_and_all_sizes_are_there(rows: list[experiments.Row]) -> None:
    def sizes(experiment: str) -> list[int]:
        return sorted({row.at for row in rows if row.experiment == experiment and row.at})

    latency = {row.name for row in rows if row.experiment == "latency"}
    assert latency == set(peers.PEERS)
    assert sizes("users") == [1, 3]
    assert sizes("context") == [64, 128], "a prompt that does not fit is left out"
    assert sizes("principles") == [1, 3]
    assert sizes("memory") == [8, 16]


def test_the_report_says_what_was_measured(report: dict[str, Any]) -> None:
    assert report["dtype"] == "float32"
    assert report["device"] == "cpu"
    assert report["vocabulary"] == 4096
    assert report["scale"]["rounds"] == SMALL.rounds
    assert report["versions"]["torch"] == torch.__version__


def test_the_tables_show_every_quantity(
    folder_of_results: Path, rows: list[experiments.Row]
) -> None:
    shown = (folder_of_results / "shown.txt").read_text()
    assert "targets" not in shown, "nothing is asked of this shape"
    for quantity in {row.quantity for row in rows}:
        assert quantity in shown


def test_plots_are_written_and_equal_figures_give_equal_bytes(
    folder_of_results: Path, rows: list[experiments.Row], report: dict[str, Any], tmp_path: Path
) -> None:
    again = bench.draw(rows, tmp_path / "again", report["model"])
    assert {file.stem for file in again} == set(bench.PLOTS)
    for file in again:
        drawn = (folder_of_results / "plots" / file.name).read_bytes()
        assert b"<svg" in drawn
        assert drawn == file.read_bytes()


def test_only_what_is_asked_for_runs_and_is_drawn(tmp_path: Path) -> None:
    shown = invoke("--shape", "tiny", "--only", "context, gap", "--rounds", 1, "--plots", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert [file.name for file in tmp_path.iterdir()] == ["context.svg"]
    assert experiments.GAP in shown.output
    assert experiments.PER_TOKEN not in shown.output


def test_a_model_in_a_folder_is_measured_in_the_faster_dtype(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    shown = invoke(
        *("--dtype", "float64", "--model", folder, "--only", "latency"),
        *("--rounds", 1, "--json", file),
    )
    assert shown.exit_code == 0, shown.output
    assert "float32:" in shown.output
    assert "float64:" in shown.output
    assert json.loads(file.read_text())["model"] == str(folder)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--only", "speed"), "knows no 'speed': choose from memory,"),
        (("--json", "no/such/file.json"), "no folder to write"),
        (("--json", "."), "is a folder: name a file"),
        (("--json", "/proc/figures.json"), "cannot be written"),
        (("--plots", "no/such/folder"), "no folder to write"),
        (("--plots", __file__), "is a file: name a folder"),
        (("--plots", "plots", "--only", "memory,gap"), "nothing to plot"),
        (("--shape", "tiny", "--dtype", "int3"), "unknown dtype"),
        (("--shape", "tiny", "--device", "abacus"), "unknown device"),
        (("--model", "./no-such-folder"), "no folder"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_measured(
    arguments: tuple[str, ...], reason: str
) -> None:
    failed = invoke(*arguments).exception
    assert isinstance(failed, LinAlignError)
    assert reason in str(failed)


def test_plots_without_matplotlib_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    failed = invoke("--plots", tmp_path).exception
    assert isinstance(failed, MissingExtra)
    assert "linalign-integrations[plots]" in str(failed)


def test_a_short_context_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_LEAST_CONTEXT", 10_000)
    with pytest.raises(InvalidArgument, match="context of at least 10,000"):
        bench.open_lab(None, bench.Shape.TINY, "float32", "cpu", SMALL)


def test_a_quick_run_leaves_the_memory_out() -> None:
    assert bench.chosen(None, quick=False) == bench.EXPERIMENTS
    assert bench.chosen(None, quick=True) == bench.EXPERIMENTS[1:]
    assert bench.chosen("memory", quick=True) == ("memory",)


def test_targets_hold_for_the_shapes_and_the_dtype_they_were_set_for() -> None:
    cpu, bfloat16 = torch.device("cpu"), torch.bfloat16
    small = bench.targets(bench.Shape.M135, bfloat16, cpu)
    large = bench.targets(bench.Shape.M500, bfloat16, cpu)
    assert (str(small["plain"]), str(large["plain"])) == ("≤ 1.05", "≤ 1")
    assert small.keys() | {"share"} == large.keys()
    assert small["32 users"].met(12)
    assert not small["32 users"].met(11.9)
    assert not bench.targets(None, bfloat16, cpu)
    assert not bench.targets(bench.Shape.M135, torch.float32, cpu)
    assert not bench.targets(bench.Shape.M135, bfloat16, torch.device("cuda"))


def test_every_target_is_asked_of_a_figure(lab: experiments.Lab) -> None:
    wanted = bench.targets(bench.Shape.M500, torch.bfloat16, torch.device("cpu"))
    scale = bench.Scale(history=200)
    full = experiments.Lab(lab.model, lab.engine, scale, wanted)
    told = [
        told.target
        for make in experiments.EXPERIMENTS.values()
        for told in make(full).told
        if told.target
    ]
    # One target may be asked of several: each framework's class is held against the engine.
    assert {id(one) for one in told} == {id(one) for one in wanted.values()}


def test_the_targets_table_tells_what_was_met(capsys: pytest.CaptureFixture[str]) -> None:
    row = experiments.Row("users", experiments.RATE, "ours", 8, 90.0, "tokens/s", [90.0])
    table = bench.targets_table(
        [
            experiments.replace(
                row, against="guidance", ratio=r, least=r, most=r, target="≥ 9", met=r > 9
            )
            for r in (8.5, 9.5)
        ]
    )
    Console(width=100).print(table)
    missed, met = capsys.readouterr().out.splitlines()[-2:]
    assert "ours, 8 users / guidance" in missed
    assert "≥ 9   8.500" in missed
    assert "not met" in missed
    assert "not" not in met


def test_the_two_passes_follow_the_released_rule() -> None:
    torch.manual_seed(0)
    prompted, plain = 3 * torch.randn(2, 500)
    step = align(
        prompted[None],
        plain[None],
        ratio=peers.RATIO,
        temperature=peers.TEMPERATURE,
        plausibility=peers.TOP_P,
    )
    expected = torch.zeros(500, dtype=torch.double)
    expected[step.token_ids[0]] = step.log_probs[0].exp()
    assert torch.allclose(peers.released_rule(prompted, plain).double(), expected, atol=1e-5)


def test_the_peers_read_the_same_prompts_and_answer_at_full_length(lab: experiments.Lab) -> None:
    case = peers.make_case(lab.engine, "all", SMALL.prompt)
    forwards: list[object] = []
    hook = lab.model.register_forward_pre_hook(lambda *_: forwards.append(None))
    passes = {}
    for peer in (peers.PLAIN, peers.GUIDANCE, peers.SEQUENTIAL):
        lab.answer(peer, case)
        passes[peer] = len(forwards)
        forwards.clear()
    hook.remove()
    assert passes == {
        peers.PLAIN: SMALL.steps,
        peers.GUIDANCE: 2 * SMALL.steps,
        peers.SEQUENTIAL: 2 * SMALL.steps,
    }
    branches = lab.engine.branches(case.messages, preferences=case.preferences)
    assert {branch.token_ids for branch in branches} == {case.prompted, case.plain}


def test_answers_end_by_their_length_alone(lab: experiments.Lab) -> None:
    sampling = SamplingParams(max_tokens=8, seed=0)
    drawn = lab.engine.generate("Hello", sampling=sampling).token_ids
    ending = copy.deepcopy(lab.engine.tokenizer)
    ending.eos_token = ending.convert_ids_to_tokens(drawn[0]) or ending.eos_token
    ending.eos_token_id = drawn[0]
    engine = bench.endless_engine(lab.model, ending, "tiny")
    assert engine.generate("Hello", sampling=sampling).token_ids == drawn


def test_random_weights_are_as_sure_as_trained_ones() -> None:
    model, _ = bench.random_weights(bench.Shape.TINY, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        spread = model(torch.arange(100, 200)[None]).logits.std()
    assert 2 < float(spread) < 8


@pytest.mark.parametrize("tokens", [40, 500])
def test_a_prompt_is_as_long_as_asked_for(lab: experiments.Lab, tokens: int) -> None:
    for turns in (1, 5):
        case = peers.make_case(lab.engine, "long", tokens, turns=turns)
        assert abs(len(case.plain) - tokens) <= 12
        assert len(case.prompted) > len(case.plain)
        assert len(case.messages) == turns


def test_requests_share_no_beginning_unless_they_are_meant_to(lab: experiments.Lab) -> None:
    def shared(one: peers.Case, other: peers.Case) -> int:
        pairs = zip(one.prompted, other.prompted, strict=False)
        return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

    names = ("of 8 0.1", "of 8 0.2", "of 8 1.1", "of 16 0.1")
    cases = [peers.make_case(lab.engine, name, 100) for name in names]
    assert max(shared(one, other) for one, other in itertools.combinations(cases, 2)) < 16
    over_one = [
        peers.make_case(lab.engine, "d", 100, placement="last_user", asked_by=user)
        for user in ("ann", "bob")
    ]
    assert shared(*over_one) > 90


def test_an_answer_without_steps_is_not_measured() -> None:
    with pytest.raises(LinAlignError, match="no step to measure"):
        peers.timing([0.0, 1.0])
    assert peers.timing([0.0, 1.0, 3.0, 7.0]) == peers.Timing(first=1000.0, step=3000.0)


def test_memory_is_told_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    here = experiments.used_memory(torch.device("cpu"))
    assert 2**26 < here < 2**40
    monkeypatch.setattr(experiments, "_STATM", Path("/no/such/file"))
    assert here / 4 < experiments.used_memory(torch.device("cpu")) < 2**40


def test_a_framework_s_class_streams_what_the_engine_would(lab: experiments.Lab) -> None:
    case = peers.make_case(lab.engine, "framework", SMALL.prompt)
    arguments = peers.ours_arguments(case, SMALL.steps)
    answer = lab.engine.generate(case.messages, **arguments).text
    for make in experiments.FRAMEWORKS.values():
        pieces: Any = make(lab.engine)(case, SMALL.steps)
        told = (getattr(piece, "delta", None) or getattr(piece, "text", "") for piece in pieces)
        assert "".join(told) == answer
