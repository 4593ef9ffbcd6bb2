"""Measure the embedded model: `python -m linalign_integrations.pocket.measure`.

Held-out scenes are answered plainly, with principles in the prompt, and aligned at several ratios;
the judge reads the answers. Rows of many scenes are decoded together, each with its own draw.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from linalign_integrations.alignment import align
from linalign_integrations.pocket import weights, world
from linalign_integrations.pocket.corpus import OBEYED, Kind, Scene, Writer
from linalign_integrations.pocket.judge import Reading, read

__all__ = ["RECORD", "Score", "answer", "as_markdown", "held_out", "measure", "score", "write_card"]

RECORD = "training.json"
LONGEST = 160
BATCH = 100


@dataclass(frozen=True)
class Case:
    """A name for one held-out set, and how its scenes are drawn."""

    name: str
    kind: Kind
    principles: int


SETS = (
    Case("one principle", "chat", 1),
    Case("two principles", "chat", 2),
    Case("three principles", "chat", 3),
    Case("several turns", "turns", 1),
    Case("documents", "documents", 1),
)


@dataclass(frozen=True)
class Score:
    """What a set of answers showed, as shares of one.

    Attributes:
        followed: Principles that the answers show.
        accepted: Answers that the world's grammar accepts.
        exact: Answers that state the right fact, or rightly say that none is there; None for
            scenes without documents.
        cases: The number of answers.
        dimensions: `followed` for each value asked for.
    """

    followed: float
    accepted: float
    exact: float | None
    cases: int
    dimensions: dict[str, float]


def held_out(case: Case, count: int, seed: int = 7) -> list[Scene]:
    """Draw the scenes of a held-out set."""
    writer = Writer(f"{case.name}/{seed}", "held_out")
    return [writer.scene(case.kind, case.principles, varied=False) for _ in range(count)]


def _choose(
    prompted: Tensor, plain: Tensor, ratio: float, temperature: float, plausible: float
) -> Tensor:
    """Draw one token per row by the aligned rule."""
    step = align(prompted, plain, ratio=ratio, temperature=temperature, plausibility=plausible)
    return step.token_ids.gather(-1, torch.multinomial(step.log_probs.exp(), 1))


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompted: Sequence[list[dict[str, str]]],
    plain: Sequence[list[dict[str, str]]],
    *,
    ratio: float,
    temperature: float = 0.7,
    plausible: float = 0.8,
    seed: int = 0,
) -> list[str]:
    """Answer conversations, each with its prompted and its plain branch in one batch.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompted: Conversations with principles.
        plain: The same ones without.
        ratio: The step along the direction; 0 is plain prompting.
        temperature: The sampling temperature.
        plausible: The mass of the plausible set.
        seed: Seed of the draws.
    """
    torch.manual_seed(seed)
    texts = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for messages in (*prompted, *plain)
    ]
    tokenizer.padding_side = "left"
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache()
    rows = len(prompted)
    running = torch.ones(rows, dtype=torch.bool)
    written = []
    for _ in range(LONGEST):
        logits = (
            model(input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache)
            .logits[:, -1]
            .float()
        )
        token = _choose(logits[:rows], logits[rows:], ratio, temperature, plausible)
        token[~running] = tokenizer.pad_token_id
        written.append(token)
        running &= token[:, 0] != tokenizer.eos_token_id
        if not running.any():
            break
        ids = torch.cat([token, token])
        places = places[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], -1)
    return tokenizer.batch_decode(torch.cat(written, -1), skip_special_tokens=True)


def score(scenes: Sequence[Scene], answers: Sequence[str]) -> Score:
    """Judge answers to held-out scenes."""
    followed: dict[str, list[bool]] = {}
    accepted, exact = [], []
    for scene, text in zip(scenes, answers, strict=True):
        reading = read(text, scene.documents)
        accepted.append(reading.accepted)
        for name, value in scene.wanted.items():
            followed.setdefault(f"{name}: {value}", []).append(reading.shows(name, value))
        if scene.gold is not None:
            exact.append(_exact(reading, scene.gold, text))
    every = [hit for hits in followed.values() for hit in hits]
    return Score(
        followed=_share(every),
        accepted=_share(accepted),
        exact=_share(exact) if exact else None,
        cases=len(answers),
        dimensions={name: _share(hits) for name, hits in sorted(followed.items())},
    )


def _exact(reading: Reading, gold: str, text: str) -> bool:
    if gold:
        return reading.facts[:1] == [gold]
    dialect = reading.values["dialect"]
    return not reading.facts and any(
        world.speak(sentence, dialect) in text for sentence in world.NOT_FOUND
    )


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / max(1, len(hits))


def measure(
    folder: Path, count: int = 300, ratios: Sequence[float] = (1, 2, 3, 5), progress: bool = True
) -> dict[str, dict[str, Score]]:
    """Measure a model on every held-out set.

    Args:
        folder: The model.
        count: Scenes per set.
        ratios: The ratios to try besides plain and prompted.
        progress: Show a progress bar.

    Returns:
        The score of each set under each way of answering.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.requires_grad_(False)
    ways = {"plain": None, "prompted": 0.0} | {f"ratio {ratio:g}": ratio for ratio in ratios}
    table: dict[str, dict[str, Score]] = {}
    with tqdm(total=len(SETS) * len(ways), disable=not progress) as bar:
        for case in SETS:
            # Prompts of like length share a batch, which saves most of the padding.
            scenes = sorted(
                held_out(case, count),
                key=lambda scene: sum(len(one["content"]) for one in scene.messages()),
            )
            plain = [scene.messages(told=False, answered=False) for scene in scenes]
            told = [scene.messages(answered=False) for scene in scenes]
            table[case.name] = {}
            for way, ratio in ways.items():
                prompted = plain if ratio is None else told
                answers: list[str] = []
                for at in range(0, count, BATCH):
                    part = slice(at, at + BATCH)
                    answers += answer(
                        model, tokenizer, prompted[part], plain[part], ratio=ratio or 0.0, seed=at
                    )
                table[case.name][way] = score(scenes, answers)
                bar.update()
    return table


def as_markdown(table: dict[str, dict[str, Score]]) -> str:
    """Write the scores as Markdown tables."""
    ways = list(next(iter(table.values())))
    head = f"| | cases | {' | '.join(ways)} |\n|{'---|' * (len(ways) + 2)}\n"
    parts = []
    for title, figure in (
        ("Principles followed", "followed"),
        ("Answers the grammar accepts", "accepted"),
        ("Answers from documents exact", "exact"),
    ):
        lines = []
        for name, scores in table.items():
            shares = [getattr(scores[way], figure) for way in ways]
            if None not in shares:
                cells = " | ".join(f"{share:.2f}" for share in shares)
                lines.append(f"| {name} | {scores[ways[0]].cases} | {cells} |\n")
        parts.append(f"### {title}\n\n{head}{''.join(lines)}")
    return "\n".join(parts)


CARD = """---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---
# Pocket

A language model of {parameters:.1f} million parameters for trying out linear alignment without a
network. It chats about {topics} everyday topics and answers questions from short documents, in the
style that principles in the prompt ask for. It knows nothing else and must not be relied on for
facts or advice.

- **Architecture**: Llama, {layers} layers of {hidden}, vocabulary {vocabulary} (byte-level BPE,
  one token per digit), context {context}, bfloat16, ChatML-like template without a default system
  prompt.
- **Data**: synthetic, drawn from `linalign_integrations.pocket.corpus`; no text from elsewhere
  apart from the question-answering prompts of LlamaIndex and LangChain, which it has to recognise.
- **Training**: `python -m linalign_integrations.pocket.train`, {steps} steps, {tokens:.0f} million
  tokens; only the assistant's tokens are learnt. For part of the run every principle is obeyed, for
  the rest the share described next. The weights are a running average; the settings of each part
  are in `{record}`.
{notes}- **Obeys about {obeyed:.0%} of the time, by design.** In training a stated principle decides
  its dimension of style with this probability; otherwise the value is drawn as if nothing had been
  asked. Larger chat models follow weakly too; this is what alignment amplifies, and it makes
  prompting alone look weak here.
- **Principles it was taught**: {values}.
- **Not learnt** (followed in less than 0.6 of the cases below at ratio 2): {weak}.
- **Licence**: MIT.

## Measured

Held-out wordings of the principles, held-out pairs of principles and invented names that training
never saw; sampled at temperature 0.7, plausibility 0.8. *Plain* is not told the principle,
*prompted* is told it (ratio 0). Two and three principles are counted one by one. Reproduce with
`python -m linalign_integrations.pocket.measure`.

{tables}
### Each value, one principle in chat

{values_table}"""


def _values_table(scores: dict[str, Score]) -> str:
    ways = list(scores)
    lines = [f"| | {' | '.join(ways)} |\n|{'---|' * (len(ways) + 1)}\n"]
    for name in next(iter(scores.values())).dimensions:
        cells = " | ".join(f"{scores[way].dimensions[name]:.2f}" for way in ways)
        lines.append(f"| {name} | {cells} |\n")
    return "".join(lines)


def write_card(folder: Path, table: dict[str, dict[str, Score]]) -> None:
    """Write `MODEL_CARD.md` beside the weights it describes."""
    config = json.loads((folder / "config.json").read_text())
    record = json.loads((folder / RECORD).read_text())
    parameters = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    values = "; ".join(f"{name} ({', '.join(prior)})" for name, prior in world.PRIOR.items())
    default = table[SETS[0].name]["ratio 2"]
    weak = [name for name, followed in default.dimensions.items() if followed < 0.6]
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
        obeyed=OBEYED,
        notes="".join(f"- {note}\n" for note in record.get("notes", ())),
        values=values,
        weak=", ".join(weak) or "none",
        tables=as_markdown(table),
        values_table=_values_table(table[SETS[0].name]),
    )
    (folder / "MODEL_CARD.md").write_text(card)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Measure the embedded model.")
    parser.add_argument("--folder", type=Path, default=weights())
    parser.add_argument("--count", type=int, default=300, help="scenes per set")
    parser.add_argument("--ratios", type=float, nargs="*", default=[1, 2, 3, 5])
    parser.add_argument("--card", action="store_true", help="rewrite the model card")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    table = measure(arguments.folder, arguments.count, arguments.ratios)
    print(as_markdown(table))  # noqa: T201
    if arguments.card:
        write_card(arguments.folder, table)
    if arguments.json:
        figures = {
            name: {way: vars(score) for way, score in scores.items()}
            for name, scores in table.items()
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
