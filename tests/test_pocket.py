"""The embedded model through the whole package: principles change what it answers."""

from __future__ import annotations

import io
import itertools

import pytest
from langchain_core.output_parsers import StrOutputParser
from rich.console import Console

from linalign_integrations import Engine, Preferences, Principle, SamplingParams, use_preferences
from linalign_integrations.cli import demo
from linalign_integrations.langchain import ChatLinAlign
from linalign_integrations.llama_index import LinAlign
from linalign_integrations.pocket import weights
from linalign_integrations.pocket.corpus import Scene, Writer
from linalign_integrations.pocket.judge import read

CASES = 40
# What the model has learnt to show; its card tells how well it knows each value.
LEARNT = {"budget", "dialect", "expertise", "format", "tone"}
PIRATE = "Answer like a pirate."
QUESTION = "What should I cook for dinner tonight?"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("pocket")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Questions with one principle each, worded as no training example was."""
    writer = Writer("tests", "held_out")
    drawn = (writer.scene("chat", 1, varied=False) for _ in itertools.count())
    return list(itertools.islice((one for one in drawn if one.wanted.keys() <= LEARNT), CASES))


def followed(engine: Engine, scenes: list[Scene], **fields: object) -> tuple[float, float]:
    """Shares of answers that show what was wanted, and that are well formed."""
    shown = accepted = 0
    for seed, scene in enumerate(scenes):
        answer = engine.generate(
            scene.messages(told=False, answered=False),
            preferences=Preferences(**{"principles": scene.principles, **fields}),
            sampling=SamplingParams(seed=seed, max_tokens=120),
        )
        reading = read(answer.text)
        [(dimension, value)] = scene.wanted.items()
        shown += reading.shows(dimension, value)
        accepted += reading.accepted
    return shown / len(scenes), accepted / len(scenes)


def test_alignment_makes_the_model_follow_what_prompting_only_suggests(
    engine: Engine, scenes: list[Scene]
) -> None:
    plain, _ = followed(engine, scenes, principles=())
    prompted, _ = followed(engine, scenes, ratio=0.0)
    aligned, accepted = followed(engine, scenes)
    assert plain < 0.45
    assert plain + 0.2 < prompted < 0.85
    assert aligned > max(0.88, prompted + 0.1)
    assert accepted > 0.9


def test_a_negative_weight_steers_away(engine: Engine) -> None:
    def pirates(weight: float) -> int:
        preferences = Preferences(principles=[Principle(PIRATE, weight)])
        answers = [
            engine.generate(
                QUESTION,
                preferences=preferences,
                sampling=SamplingParams(seed=seed, max_tokens=80),
            ).text
            for seed in range(30)
        ]
        return sum(read(answer).shows("dialect", "pirate") for answer in answers)

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
        assert read(answer, "\n".join(demo.DOCUMENTS)).shows("dialect", value), answer


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


def test_the_weights_are_small_and_are_safetensors() -> None:
    files = {path.name: path.stat().st_size for path in weights().iterdir()}
    assert files["model.safetensors"] <= 16 * 2**20
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    assert "MODEL_CARD.md" in files
