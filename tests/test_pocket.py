"""The embedded model through the whole package: principles change what it answers."""

from __future__ import annotations

import asyncio
import io
import json
import re
from typing import TYPE_CHECKING

import pytest
import torch
from langchain_core.output_parsers import StrOutputParser
from models import as_answer
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from linalign_integrations import Engine, Preferences, Principle, SamplingParams, use_preferences
from linalign_integrations.cli import demo
from linalign_integrations.langchain import ChatLinAlign
from linalign_integrations.llama_index import LinAlign
from linalign_integrations.pocket import measure, weights
from linalign_integrations.pocket.card import RECORD
from linalign_integrations.pocket.judge import read

if TYPE_CHECKING:
    from linalign_integrations.engine import Result
    from linalign_integrations.pocket.corpus import Scene

# Bounds below lie some three standard errors under what the model's card says that it reaches.
CASES = 60
PIRATE = "Answer like a pirate."
QUESTION = "What should I cook for dinner tonight?"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("pocket")


def scenes(name: str, count: int = CASES) -> list[Scene]:
    """Scenes of a held-out set, others than those that the card's figures come from."""
    [chosen] = [one for one in measure.SETS if one.name == name]
    return measure.held_out(chosen, count, seed=1)


def verdicts(engine: Engine, drawn: list[Scene], **fields: object) -> list[measure.Verdict]:
    """What is right with the engine's answers, under the scenes' principles unless told else."""
    stated = [Preferences(**{"principles": scene.principles, **fields}) for scene in drawn]
    asked = zip(drawn, stated, range(len(drawn)), strict=True)
    answers = map(
        measure.Answer.of, asyncio.run(measure.answer_all(engine, asked, lambda done: None))
    )
    return list(map(measure.verdict, drawn, answers))


def followed(found: list[measure.Verdict]) -> float:
    """The share of principles that answers show."""
    hits = [hit for one in found for hit in one.shown.values()]
    return sum(hits) / len(hits)


def test_alignment_makes_the_model_follow_what_prompting_only_suggests(engine: Engine) -> None:
    drawn = scenes("one principle")
    plain = followed(verdicts(engine, drawn, principles=()))
    prompted = followed(verdicts(engine, drawn, ratio=0.0))
    found = verdicts(engine, drawn)
    aligned = followed(found)
    assert plain < 0.4
    assert plain + 0.15 < prompted < 0.8
    assert aligned > max(0.88, prompted + 0.15)
    assert sum(bool(one.accepted) for one in found) > 0.94 * len(found)


@pytest.mark.parametrize(("name", "least"), [("two principles", 0.82), ("several turns", 0.85)])
def test_alignment_serves_several_principles_and_later_turns(
    engine: Engine, name: str, least: float
) -> None:
    assert followed(verdicts(engine, scenes(name))) > least


@pytest.mark.parametrize(("name", "least"), [("documents", 0.85), ("JSON", 0.83)])
def test_aligned_answers_are_exact_on_what_the_model_never_saw(
    engine: Engine, name: str, least: float
) -> None:
    found = verdicts(engine, scenes(name))
    assert sum(bool(one.exact) for one in found) > least * len(found)


def test_a_bold_step_within_a_budget_keeps_the_grammar(engine: Engine) -> None:
    found = verdicts(engine, scenes("one principle"), ratio=5.0, kl_budget=measure.KL_BUDGET)
    assert sum(bool(one.accepted) for one in found) > 0.94 * len(found)


def test_the_model_calls_tools_it_never_saw_and_only_where_one_fits() -> None:
    model = AutoModelForCausalLM.from_pretrained(weights(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(weights())
    for name, least in (("tool calls", 0.8), ("no tool fits", 0.85), ("no tool needed", 0.9)):
        right = []
        for scene in scenes(name, CASES // 2):
            prompt = tokenizer.apply_chat_template(
                scene.messages(answered=False),
                tools=scene.tools,
                add_generation_prompt=True,
                return_tensors="pt",
            )
            ids = model.generate(**prompt, max_new_tokens=measure.LONGEST, do_sample=False)[0]
            written = tokenizer.decode(ids[prompt["input_ids"].shape[1] :])
            right.append(bool(measure.verdict(scene, as_answer(tokenizer, written)).exact))
        assert sum(right) > least * len(right), name


def test_a_negative_weight_steers_away(engine: Engine) -> None:
    async def ask(weight: float) -> list[Result]:
        preferences = Preferences(principles=[Principle(PIRATE, weight)])
        sampled = [SamplingParams(seed=seed, max_tokens=80) for seed in range(30)]
        return await asyncio.gather(
            *(engine.agenerate(QUESTION, preferences=preferences, sampling=one) for one in sampled)
        )

    def pirates(weight: float) -> int:
        answers = asyncio.run(ask(weight))
        return sum(read(answer.text).shows("dialect", "pirate") for answer in answers)

    assert pirates(1.0) > 24
    assert pirates(-1.0) <= 1


def test_two_users_of_one_chain_get_what_each_prefers() -> None:
    chain = (
        ChatLinAlign(model="pocket", dtype="float32", seed=1, max_tokens=100) | StrOutputParser()
    )
    wanted = {PIRATE: ("dialect", "pirate"), "Be very formal.": ("tone", "formal")}
    configs = [{"configurable": {"principles": [principle]}} for principle in wanted]
    answers = chain.batch([QUESTION] * 2, configs)
    for answer, (dimension, value) in zip(answers, wanted.values(), strict=True):
        assert read(answer).shows(dimension, value), answer


def test_two_users_of_one_index_get_what_each_prefers() -> None:
    from llama_index.core import Document, SimpleKeywordTableIndex

    llm = LinAlign(model="pocket", dtype="float32", seed=1, max_tokens=100)
    documents = [Document(text=text) for text in demo.DOCUMENTS]
    index = SimpleKeywordTableIndex.from_documents(documents, llm=llm)
    for principle, value in ((PIRATE, "pirate"), ("Talk like Shakespeare.", "shakespeare")):
        with use_preferences(principle):
            answer = str(index.as_query_engine(llm=llm).query(demo.DOCUMENT_QUESTION))
        reading = read(answer, ["The Heron museum costs 12 euros."])
        assert reading.shows("dialect", value), answer
        assert reading.facts, answer


def test_the_demo_shows_both_frameworks_and_three_columns() -> None:
    console = Console(record=True, width=160, file=io.StringIO())
    demo.run(console, model="pocket", ratio=2.0, seed=1, question=demo.QUESTION)
    shown = console.export_text()
    for words in ("LangChain", "LlamaIndex", "plain", "prompted", "aligned (ratio 2)"):
        assert words in shown


def test_the_demo_s_users_get_what_they_asked_for() -> None:
    rows = dict(demo.through_langchain("pocket", 2.0, 1, demo.QUESTION))
    answers = {label.partition(":")[0]: columns[-1] for label, columns in rows.items()}
    for user, (dimension, value) in {
        "ann": ("dialect", "pirate"),
        "bob": ("budget", "cheap"),
    }.items():
        assert read(answers[user]).shows(dimension, value), answers[user]


def test_the_weights_are_small_and_are_what_their_card_says() -> None:
    files = {path.name: path.stat().st_size for path in weights().iterdir()}
    assert sum(files.values()) <= 16e6
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    model = AutoModelForCausalLM.from_pretrained(weights())
    parameters = model.num_parameters()
    assert parameters <= 8e6
    assert model.config.max_position_embeddings >= 1024
    card = (weights() / "MODEL_CARD.md").read_text()
    record = json.loads((weights() / RECORD).read_text())
    said = {
        word: float(number)
        for number, word in re.findall(r"([\d.]+) (million\s+parameters|steps|layers)", card)
    }
    assert said == {
        "million parameters": round(parameters / 1e6, 1),
        "steps": record["steps"],
        "layers": model.config.num_hidden_layers,
    }
    assert f"context {model.config.max_position_embeddings}" in card
