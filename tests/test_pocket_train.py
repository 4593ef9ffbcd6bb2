"""The training of the embedded model, on a plan small enough for a test."""

from __future__ import annotations

import itertools
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from linalign_integrations.errors import InvalidArgument
from linalign_integrations.pocket.train import Packer, Plan, Trainer, main, train

if TYPE_CHECKING:
    from pathlib import Path

PLAN = Plan(
    steps=4, batch_tokens=1024, hidden=32, layers=1, inner=48, vocabulary=700, words=200, chunk=80
)


def changed(**fields: Any) -> Plan:
    return Plan(**{**PLAN.model_dump(), **fields})


def run(plan: Plan, folder: Path) -> dict[str, torch.Tensor]:
    train(plan, folder / "model", folder / "work", device="cpu", compiled=False, save_every=1e9)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(PLAN, folder)
    return folder


def test_a_trained_model_loads_by_the_auto_classes_and_knows_its_formats(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    model = AutoModelForCausalLM.from_pretrained(trained / "model")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt"
    )
    written = model.generate(**ids, max_new_tokens=3)
    assert written.shape[1] > ids["input_ids"].shape[1]
    assert tokenizer.response_template["version"] == 1
    record = json.loads((trained / "model" / "training.json").read_text())
    assert record["steps"] == PLAN.steps
    assert [plan["from_step"] for plan in record["plans"]] == [0]


def test_equal_seeds_give_equal_weights_and_others_do_not(trained: Path, tmp_path: Path) -> None:
    first = AutoModelForCausalLM.from_pretrained(trained / "model", dtype=torch.float32)
    again = run(PLAN, tmp_path / "again")
    other = run(changed(seed=2), tmp_path / "other")
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.state_dict().items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_a_run_goes_on_from_its_checkpoint_and_records_a_change_of_plan(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "work", tmp_path / "work")
    run(changed(steps=6), tmp_path)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert record["steps"] == 6
    assert [(plan["from_step"], plan["steps"]) for plan in record["plans"]] == [(0, 4), (4, 6)]


def test_a_run_begins_from_a_finished_model_and_counts_its_steps(
    trained: Path, tmp_path: Path
) -> None:
    start = trained / "model"
    plan = changed(steps=6, seed=2, warmup=2)
    folders = tmp_path / "model", tmp_path / "work"
    train(plan, *folders, device="cpu", compiled=False, save_every=1e9, start=start)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert [(plan["from_step"], plan["seed"]) for plan in record["plans"]] == [(0, 1), (4, 2)]
    assert (record["steps"], record["tokens"]) == (6, 6 * PLAN.batch_tokens)
    tokenizer = (start / "tokenizer.json").read_text()
    assert (tmp_path / "model" / "tokenizer.json").read_text() == tokenizer
    # The rate rises anew, for optimisers that have seen nothing yet.
    assert plan.rate_at(4, begun=4) == plan.rate_at(4) / 2

    trainer = Trainer(plan, AutoTokenizer.from_pretrained(start), "cpu", compiled=False)
    trainer.begin(start)
    given = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict()
    for model in (trainer.model, trainer.average):
        assert all(torch.equal(given[name], one) for name, one in model.state_dict().items())
    with pytest.raises(InvalidArgument, match="step 4, beyond --steps 3"):
        Trainer(changed(steps=3), AutoTokenizer.from_pretrained(start), "cpu", False).begin(start)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": 64}, "another hidden"),
        ({"words": 100}, "another words"),
        ({"steps": 3}, "beyond"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    trained: Path, tmp_path: Path, change: dict[str, int], words: str
) -> None:
    shutil.copytree(trained / "work", tmp_path / "work")
    with pytest.raises(InvalidArgument, match=words):
        run(changed(**change), tmp_path)
    assert not (tmp_path / "model").exists()


def test_without_a_checkpoint_the_tokenizer_of_another_plan_is_not_taken(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "work", tmp_path / "work")
    (tmp_path / "work" / "checkpoint.pt").unlink()
    run(changed(vocabulary=600), tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == 600


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["--steps", "0"], "steps"),
        (["--batch-tokens", "10"], "batch_tokens"),
        (["--hidden", "30"], "hidden"),
        (["--warmup", "0"], "warmup"),
        (["--cases", "0"], "--cases"),
        (["--device", "nonsense"], "--device"),
        (["--folder", "file"], "--folder"),
        (["--start", "file"], "--start"),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_begins(
    said: list[str], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["train", *said])
    with pytest.raises(SystemExit, match=f"error: .*{words}"):
        main()
    assert not (tmp_path / "pocket-training").exists()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_help_explains_every_option_with_its_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["train", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.count("(default: ") == len(Plan.model_fields) + 8


def test_what_is_copied_counts_more_and_what_an_answer_or_a_called_tool_begins_with(
    trained: Path,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    plan = changed(batch_tokens=4096, first=3.0, called=2.0, copied=4.0)
    prompt = tokenizer("<|im_start|>assistant\n").input_ids
    named, closed = set(), set()
    for batch in itertools.islice(Packer(tokenizer, plan).batches(), 20):
        ids, weights = batch.ids[0].tolist(), batch.weights[0]
        assert set(weights.tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
        for at in (weights == 3).nonzero().flatten().tolist():
            assert ids[at - len(prompt) : at] == prompt
        for at in (weights == 2).nonzero().flatten().tolist():
            named.add(tokenizer.decode(ids[at - 4 : at]).split()[-1])
        copied = [*(weights == 4).tolist(), False]
        closed |= {
            tokenizer.decode(ids[at]).strip()
            for at in range(len(ids))
            if copied[at : at + 2] == [True, False]
        }
    assert named == {'"', "Action:"}
    # Facts and JSON; the answer's end is none of them.
    assert {".", '"}'} <= closed
    assert "<|im_end|>" not in closed


def test_what_another_agent_said_is_not_learnt(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    answered = tokenizer("<|im_start|>tool\nAgent").input_ids
    found = 0
    for batch in itertools.islice(Packer(tokenizer, changed(batch_tokens=4096)).batches(), 80):
        *begins, end, _ = batch.borders.tolist()
        for begin, stop in itertools.pairwise([*begins, end]):
            ids = batch.ids[0, begin:stop].tolist()
            learnt = batch.weights[0, begin:stop] > 0
            for at in range(len(ids)):
                if ids[at : at + len(answered)] == answered:
                    found += 1
                    assert not learnt[:at].any()
                    assert learnt[at:].any()
    assert found > 3


def test_batches_are_nearly_full_of_whole_conversations(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    closing = tokenizer("<|im_end|>\n").input_ids
    batches = Packer(tokenizer, changed(batch_tokens=4096, chunk=500)).batches()
    filled = []
    for batch in itertools.islice(batches, 20):
        filled.append(float((batch.ids != tokenizer.pad_token_id).float().mean()))
        *begins, end, size = batch.borders.tolist()
        assert size == batch.ids.shape[1] == 4096
        assert (batch.ids[0, end:] == tokenizer.pad_token_id).all()
        assert batch.positions()[0, begins].tolist() == [0] * len(begins)
        for begin, stop in itertools.pairwise([*begins, end]):
            assert batch.ids[0, begin] == start
            assert batch.ids[0, stop - 2 : stop].tolist() == closing
            assert batch.weights[0, begin:stop].any()
    assert sum(filled) / len(filled) > 0.95


def test_conversations_of_a_batch_do_not_see_each_other(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    batch = next(Packer(tokenizer, PLAN).batches())
    trainer = Trainer(PLAN, tokenizer, "cpu", compiled=False)
    with torch.no_grad():
        together = trainer.body(
            input_ids=batch.ids, position_ids=batch.positions(), cu_seq_lens_q=batch.borders
        ).last_hidden_state
        plain = AutoModelForCausalLM.from_config(trainer.model.config, attn_implementation="eager")
        plain.load_state_dict(trainer.model.state_dict())
        for begin, end in itertools.pairwise(batch.borders.tolist()[:-1]):
            alone = plain.model(input_ids=batch.ids[:, begin:end]).last_hidden_state
            assert torch.allclose(together[:, begin:end], alone, atol=1e-5)
