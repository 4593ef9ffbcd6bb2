"""Writes the embedded model's card: what it is, how it was measured, and what came out."""

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors.torch import load_file

from linalign_integrations.pocket import world
from linalign_integrations.pocket.corpus import OBEYED
from linalign_integrations.pocket.measure import (
    FIGURES,
    TEMPERATURE,
    Measurement,
    Score,
    Speed,
    Target,
    targets,
)
from linalign_integrations.preferences import Preferences

__all__ = ["RECORD", "as_markdown", "write_card"]

RECORD = "training.json"
# Below this share at ratio 2 a value counts as not learnt.
WEAK = 0.6

CARD = """---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---
# Pocket

A language model of {parameters:.1f} million parameters for trying out linear alignment without a
network. It chats about {topics} everyday topics, answers questions from short documents, calls
tools and answers from their results, and picks fields of a short text as JSON; its prose has the
style that principles in the prompt ask for. It knows nothing else and must not be relied on for
facts or advice.

- **Architecture**: Llama, {layers} layers of {hidden}, vocabulary {vocabulary} (byte-level BPE,
  one token per digit), context {context}, bfloat16, ChatML-like template with tools and without a
  default system prompt.
- **Data**: synthetic, drawn from `linalign_integrations.pocket.corpus`; no text from elsewhere
  apart from the prompts in which LlamaIndex hands over documents, conversations and, to its ReAct
  agents, tools.
- **Training**: `python -m linalign_integrations.pocket.train`, {steps} steps, {tokens:.0f} million
  tokens, padding included; only the assistant's tokens are learnt. For part of the run every
  principle is obeyed, for the rest the share described next. The weights are a running average; the
  settings of each part are in `{record}`.
{notes}- **Obeys {obeyed:.0%} of the time, by design.** Apart from those parts of the run, a stated
  principle decides its dimension of style with this probability; otherwise the value is drawn as if
  nothing had been asked. Larger chat models follow weakly too; this is what alignment amplifies,
  and it makes prompting alone look weak here. Tool calls, JSON and facts never depend on
  principles.
- **Principles it was taught**: {values}.
- **Not learnt** (followed in less than {weak_below:g} of the cases below at ratio 2): {weak}.
- **Licence**: MIT.

## Targets

What the model is meant to reach, and what it reached in the measurement described below. Sets are
compared over the values that both ask for, all of equal weight. The last two depend on the machine.

{targets_table}
## Measured

Reproduce with `{command}`.

- **Held out**: the wordings of principles; invented names; tools, each with an invented word in its
  name; parameters with an invented word, which a question asks for by their own name. Two and
  three principles hold at least one held-out pair.
- **Not held out**: the templates of questions and statements, the kinds of subjects and relations,
  the templates of tools' descriptions, and most values of arguments, such as numbers, times and
  colours; parameters that a question words, such as days or guests.
- **Cases**: {count} for each figure, so that a share has a standard error of up to {error:.2f} if
  cases are independent. They are not quite: the {wordings} held-out wordings come back, and what
  holds for one case with a wording is likely to hold for the next.
- **Asked** as an application asks: by the package's own engine, which holds calls to the names and
  types of the tools at hand by a grammar, and does not align them.
- **Ways**: sampled at temperature {temperature:g}, plausibility {plausibility:g}. *Plain* is not
  told the principles and rules no token out, *prompted* is told them (ratio 0), *budget* is
  {kl_budget:g} nats per token. Computed in float32; the package computes in bfloat16 where the
  processor does, which may draw other tokens.
- **Followed**: principles that the answer shows, read from its text; several are counted one by
  one.
- **Accepted**: every sentence is known and in its place, none comes twice, and the answer is about
  the question: advice on its topic, a fact at hand, or that there is none. A fact counts only in
  its canonical wording, to the letter.
- **Exact**: from documents and tool results the facts asked for and no other, or a right denial,
  and no unknown sentence; the calls with their names and all arguments, types included, and no
  prose; no call where none fits or none is needed; JSON to the letter.

{tables}
### Each value, one principle in chat

{values_table}"""


def write_card(folder: Path, measured: Measurement, timed: Speed) -> None:
    """Write `MODEL_CARD.md` beside the weights it describes.

    Args:
        folder: What training exported: configuration, weights and `RECORD`.
        measured: The scores of these weights.
        timed: How fast they are.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    parameters = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    one = measured.scores["one principle"]
    weak = [name for name, known in one["ratio 2"].values.items() if known.share < WEAK]
    card = CARD.format(
        parameters=parameters / 1e6,
        topics=len(world.TOPICS),
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        steps=record["steps"],
        tokens=record["tokens"] / 1e6,
        record=RECORD,
        notes="".join(f"- {note}\n" for note in record.get("notes", ())),
        obeyed=OBEYED,
        values="; ".join(f"{name} ({', '.join(prior)})" for name, prior in world.PRIOR.items()),
        weak_below=WEAK,
        weak=", ".join(weak) or "none",
        targets_table=_targets_table(targets(measured, timed)),
        command=_command(measured),
        count=measured.count,
        error=0.5 / math.sqrt(measured.count),
        wordings=sum(len(wording.unseen) for wording in world.WORDINGS.values()),
        temperature=TEMPERATURE,
        plausibility=Preferences().plausibility,
        kl_budget=measured.kl_budget,
        tables=as_markdown(measured),
        values_table=_values_table(one),
    )
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def _command(measured: Measurement) -> str:
    model = "" if measured.model == "pocket" else f" --model {shlex.quote(measured.model)}"
    said = f"--count {measured.count} --seed {measured.seed} --kl-budget {measured.kl_budget:g}"
    return f"linalign pocket{model} {said}"


def as_markdown(measured: Measurement) -> str:
    """Write the scores as Markdown tables, one for each figure."""
    names = list(next(iter(measured.scores.values())))
    parts = []
    for figure, title in FIGURES.items():
        rows = (
            [name, *(f"{value:.2f}" for value in values)]
            for name, scores in measured.scores.items()
            if None not in (values := [getattr(scores[way], figure) for way in names])
        )
        parts.append(f"### {title}\n\n{_table(names, rows)}")
    return "\n".join(parts)


def _targets_table(goals: Sequence[Target]) -> str:
    rows = (
        [goal.name, goal.asked, f"{goal.value:.3f}", "met" if goal.met else "not met"]
        for goal in goals
    )
    return _table(["asked", "measured", ""], rows)


def _values_table(scores: dict[str, Score]) -> str:
    rows = (
        [name, str(known.cases), *(f"{score.values[name].share:.2f}" for score in scores.values())]
        for name, known in next(iter(scores.values())).values.items()
    )
    return _table(["cases", *scores], rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table whose first column has no heading."""
    lines = [["", *headings], ["---"] * (len(headings) + 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
