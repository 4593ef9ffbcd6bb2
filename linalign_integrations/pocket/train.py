"""Train the embedded model: `python -m linalign_integrations.pocket.train`.

Conversations are drawn as training goes on, so no example comes twice. A step reads many, one
after the other in one row; attention does not cross their borders. Only the assistant's tokens are
learnt.
"""

import argparse
import copy
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from linalign_integrations.engine.grammar import require_llguidance
from linalign_integrations.engine.loading import pick_dtype
from linalign_integrations.errors import InvalidArgument, LinAlignError, describe
from linalign_integrations.pocket.card import RECORD, write_card
from linalign_integrations.pocket.corpus import Scene, scenes
from linalign_integrations.pocket.measure import SETS, measure, speed, ways
from linalign_integrations.pocket.tokenizer import CONTEXT, encode, render, train_tokenizer

# Conversations that wait for a batch with room for them.
WAITING = 16
NAME = "linalign_pocket_training"

Item = tuple[NDArray[np.int16], NDArray[np.float32]]


class Plan(BaseModel):
    """Everything that decides what comes out of a training run.

    Raises:
        InvalidArgument: A value lies outside its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(1, description="decides the scenes and the first weights")
    steps: int = Field(30_000, ge=1, description="optimiser steps")
    batch_tokens: int = Field(4096, ge=512, description="tokens in a step, padding included")
    rate: float = Field(2e-3, gt=0, description="highest learning rate")
    warmup: int = Field(100, ge=1, description="steps in which the rate rises")
    decay: float = Field(0.125, ge=0, le=1, description="share of the steps in which it falls")
    average: float = Field(
        0.995, ge=0, lt=1, description="how much of the weights' running average a step keeps"
    )
    lesson: float = Field(
        0.8, ge=0, le=1, description="first share of the steps, where every principle is obeyed"
    )
    hidden: int = Field(256, ge=32, multiple_of=32, description="width of the model")
    layers: int = Field(6, ge=1, description="depth of the model")
    inner: int = Field(704, ge=1, description="width inside its feed-forward parts")
    vocabulary: int = Field(3072, ge=512, le=32_767, description="tokens of the tokenizer")
    # Whether it is a call, and in what style it answers, is decided there.
    first: float = Field(
        5.0, gt=0, description="how much an answer's first token counts; most others count 1"
    )
    # The rest of a tool's name is copied.
    called: float = Field(
        10.0, gt=0, description="how much the first token of the name of a called tool counts"
    )
    # Style is drawn, so that most of what its tokens cost cannot be learnt.
    copied: float = Field(
        5.0, gt=0, description="how much each token counts of facts, JSON and repetitions"
    )
    words: int = Field(20_000, ge=1, description="scenes from which the tokenizer is learnt")
    chunk: int = Field(
        2000, ge=1, description="scenes drawn at a time; a checkpoint goes on with the next ones"
    )

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InvalidArgument(describe(error, type(self).model_fields)) from error

    def rate_at(self, step: int, begun: int = 0) -> float:
        """Return the learning rate: a short rise after `begun`, a plateau, a fall to zero."""
        rise = min(1.0, (step + 1 - begun) / self.warmup)
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.rate * rise * fall

    def is_lesson(self, step: int) -> bool:
        """Whether this step belongs to the first part, in which every principle is obeyed."""
        return step < self.lesson * self.steps


@dataclass(frozen=True)
class Batch:
    """Conversations one after the other, filled up with padding.

    Attributes:
        ids: Token ids, shape [1, tokens].
        weights: How much each of them counts, 0 for what the assistant did not write, shape
            [1, tokens].
        borders: Where each conversation begins, then where the last one and where the padding
            ends, shape [conversations + 2].
    """

    ids: Tensor
    weights: Tensor
    borders: Tensor

    def positions(self) -> Tensor:
        """Return each token's place in its own conversation, shape [1, tokens]."""
        lengths = self.borders.diff()
        return torch.arange(self.ids.shape[1])[None] - self.borders[:-1].repeat_interleave(lengths)


def attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **_others: object,
) -> tuple[Tensor, None]:
    """Attend within each conversation, which costs less than a mask over the whole row.

    The arguments and what is returned are those of transformers' attention functions.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    if query.device.type == "cpu":
        # In float32 the way back takes 0.6 times as long there for a few hundred tokens, and about
        # as long for a thousand.
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast(query.device.type, enabled=False):
        parts = (torch.split(states, lengths, dim=2) for states in (query, key, value))
        attended = [
            scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
            for q, k, v in zip(*parts, strict=True)
        ]
        return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _no_mask(**_sizes: object) -> None:
    """Tell transformers that `attend` needs no mask."""


# Compiled, it would be compiled anew for every way to fill a row.
AttentionInterface.register(NAME, torch.compiler.disable(attend))  # type: ignore[no-untyped-call]
AttentionMaskInterface.register(NAME, _no_mask)


def written(scene: Scene) -> str:
    """Write a whole scene as the model sees it."""
    return render(scene.messages(), scene.tools)


class Packer:
    """Packs an endless stream of conversations into batches of one size."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, plan: Plan, chunk: int = 0) -> None:
        """Start at a chunk of the stream."""
        self.tokenizer = tokenizer
        self.plan = plan
        self.chunk = chunk
        self.lesson = False

    def batches(self) -> Iterator[Batch]:
        """Yield batches of `plan.batch_tokens` tokens, as full as what waits allows.

        Conversations that are longer than the model's context or a batch are left out.
        """
        waiting: list[Item] = []
        taken: list[Item] = []
        size = self.plan.batch_tokens
        room = size
        for item in self._conversations():
            if len(item[0]) > min(CONTEXT, size):
                continue
            waiting.append(item)
            if len(waiting) < WAITING:
                continue
            at = next((at for at, (ids, _) in enumerate(waiting) if len(ids) <= room), None)
            if at is None:
                yield self._batch(taken)
                at, taken, room = 0, [], size
            taken.append(waiting.pop(at))
            room -= len(taken[-1][0])

    def _conversations(self) -> Iterator[Item]:
        while True:
            seed = f"{self.plan.seed}/{self.chunk}"
            drawn = list(scenes(seed, self.plan.chunk, lesson=self.lesson))
            self.chunk += 1
            texts = [written(scene) for scene in drawn]
            sentences = [[*scene.facts, *filter(None, [scene.gold])] for scene in drawn]
            encoded = encode(self.tokenizer, texts, sentences)
            for scene, (ids, own, called, copied) in zip(drawn, encoded, strict=True):
                begins = np.flatnonzero(np.diff(own, prepend=False) & own)
                weights = own.astype(np.float32)
                weights[copied] = self.plan.copied
                weights[called] = self.plan.called
                weights[begins] = self.plan.first
                if scene.given:
                    weights[: begins[scene.given]] = 0
                yield ids, weights

    def _batch(self, taken: list[Item]) -> Batch:
        size = self.plan.batch_tokens
        ids = torch.full((1, size), int(self.tokenizer.pad_token_id))
        weights = torch.zeros((1, size))
        ends = list(itertools.accumulate(len(tokens) for tokens, _ in taken))
        ids[0, : ends[-1]] = torch.from_numpy(np.concatenate([tokens for tokens, _ in taken]))
        weights[0, : ends[-1]] = torch.from_numpy(np.concatenate([each for _, each in taken]))
        return Batch(ids, weights, torch.tensor([0, *ends, size], dtype=torch.int32))


class Trainer:
    """A model in training: parameters, their running average, optimisers and step count."""

    def __init__(
        self, plan: Plan, tokenizer: PreTrainedTokenizerBase, device: str, compiled: bool
    ) -> None:
        """Build a fresh model."""
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.device = device
        # A processor that only imitates bfloat16 takes forty times as long.
        self.kind = torch.device(device).type
        self.in_bfloat16 = pick_dtype(None, torch.device(device)) is torch.bfloat16
        self.step = self.begun = 0
        self.tokens = 0
        self.plans: list[dict[str, Any]] = [{"from_step": 0, **plan.model_dump()}]
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=plan.hidden,
                intermediate_size=plan.inner,
                num_hidden_layers=plan.layers,
                num_attention_heads=plan.hidden // 32,
                num_key_value_heads=plan.hidden // 32,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.model.set_attn_implementation(NAME)
        nn.Module.to(self.model, device)
        self.average = copy.deepcopy(self.model)
        body: nn.Module = self.model.model
        self.body = torch.compile(body) if compiled else body
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim != 2 or "embed" in n]
        # Muon reaches a given loss in clearly fewer tokens than AdamW on matrices of this size.
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, plan.rate, adjust_lr_fn="match_rms_adamw", weight_decay=0.05
            ),
            torch.optim.AdamW(others, plan.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]

    def learn(self, batch: Batch) -> float:
        """Take one step and return the loss per learnt token."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.plan.rate_at(self.step, self.begun)
        ids, weights = batch.ids.to(self.device), batch.weights[:, 1:].to(self.device)
        learnt = weights > 0
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.in_bfloat16):
            hidden = self.body(
                input_ids=ids,
                position_ids=batch.positions().to(self.device),
                cu_seq_lens_q=batch.borders,
                use_cache=False,
            ).last_hidden_state
            logits = self.model.lm_head(hidden[:, :-1][learnt])
        surprise = cross_entropy(logits.float(), ids[:, 1:][learnt], reduction="none")
        weight = weights[learnt]
        torch.autograd.backward((surprise * weight).sum() / weight.sum())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        self.tokens += ids.numel()
        self._follow()
        return float(surprise.detach().mean())

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.plan.average, self.step / (self.step + 10))
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {
            "step": self.step,
            "begun": self.begun,
            "tokens": self.tokens,
            "plans": self.plans,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def begin(self, folder: Path) -> None:
        """Begin from a finished model, whose steps count, with new optimisers."""
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        _require_fit(self.plan, record["plans"][-1], record["steps"], folder)
        weights = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        for model in (self.model, self.average):
            model.load_state_dict(weights)
        self.step = self.begun = record["steps"]
        self.tokens = record["tokens"]
        self.plans = [*record["plans"], {"from_step": self.step, **self.plan.model_dump()}]

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, perhaps with another plan."""
        self.step, self.begun, self.tokens = state["step"], state["begun"], state["tokens"]
        changed = {"from_step": self.step, **self.plan.model_dump()}
        same = {**state["plans"][-1], "from_step": self.step} == changed
        self.plans = state["plans"] if same else [*state["plans"], changed]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def export(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the averaged model in bfloat16 with its tokenizer and plans, ready to load."""
    folder.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(trainer.average)
    nn.Module.to(model, "cpu", torch.bfloat16)
    model.generation_config = GenerationConfig.from_dict(
        {
            "eos_token_id": [tokenizer.eos_token_id],
            "pad_token_id": tokenizer.pad_token_id,
            "do_sample": True,
            "temperature": 0.7,
        }
    )
    model.save_pretrained(folder)
    # safetensors makes its file readable by its owner only, which a package cannot use.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    record = {"steps": trainer.step, "tokens": trainer.tokens, "plans": trainer.plans}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def train(
    plan: Plan,
    folder: Path,
    work: Path,
    *,
    device: str,
    compiled: bool,
    save_every: float,
    start: Path | None = None,
) -> None:
    """Train to the end of the plan, going on from a checkpoint in `work` where there is one.

    Args:
        plan: The run.
        folder: Where the finished model goes.
        work: Where the tokenizer and the checkpoint live, and with each checkpoint, in `weights`,
            the model as it is then.
        device: A torch device.
        compiled: Whether to compile the model.
        save_every: Seconds between checkpoints.
        start: A finished model to begin from where there is no checkpoint.

    Raises:
        InvalidArgument: The checkpoint or the model to begin from is of another shape or has gone
            beyond the plan.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.pt"
    if not checkpoint.exists():
        # One that lies there may be that of another plan.
        if start:
            tokenizer = AutoTokenizer.from_pretrained(start)
        else:
            texts = (written(scene) for scene in scenes(f"{plan.seed}/words", plan.words))
            tokenizer = train_tokenizer(texts, plan.vocabulary)
        tokenizer.save_pretrained(work)
    tokenizer = AutoTokenizer.from_pretrained(work)
    trainer = Trainer(plan, tokenizer, device, compiled)
    packer = Packer(tokenizer, plan)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        _require_fit(plan, state["plans"][-1], state["step"], checkpoint)
        trainer.restore(state)
        packer.chunk = state["chunk"]
    elif start:
        trainer.begin(start)
    saved = time.monotonic()
    bar = tqdm(total=plan.steps, initial=trainer.step, unit="step", mininterval=5)
    mean = 0.0
    packer.lesson = plan.is_lesson(trainer.step)
    for batch in itertools.islice(packer.batches(), plan.steps - trainer.step):
        loss = trainer.learn(batch)
        packer.lesson = plan.is_lesson(trainer.step)
        mean = loss if mean == 0 else mean + 0.02 * (loss - mean)
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        bar.update()
        if time.monotonic() - saved > save_every or trainer.step == plan.steps:
            partial = checkpoint.with_suffix(".part")
            torch.save({**trainer.state(), "chunk": packer.chunk}, partial)
            partial.replace(checkpoint)
            export(trainer, tokenizer, work / "weights")
            saved = time.monotonic()
    bar.close()
    export(trainer, tokenizer, folder)


def _require_fit(plan: Plan, before: dict[str, Any], steps: int, path: Path) -> None:
    """Refuse to go on from what another plan made."""
    fixed = ("hidden", "layers", "inner", "vocabulary", "words")
    changed = [name for name in fixed if before[name] != getattr(plan, name)]
    if changed:
        raise InvalidArgument(
            f"{str(path)!r} has another {' and '.join(changed)} than the plan: to begin from "
            "nothing, name an empty folder by --work and no --start"
        )
    if steps > plan.steps:
        raise InvalidArgument(f"{str(path)!r} is at step {steps}, beyond --steps {plan.steps}")


def main() -> None:
    """Run the command."""
    defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        description="Train a model like the embedded one, measure it and write its card. Stopped, "
        "it goes on from its last checkpoint when it is run again.",
        formatter_class=defaults,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, kind, value, told in (
        ("--folder", Path, Path("pocket-model"), "where the finished model goes"),
        ("--work", Path, Path("pocket-training"), "where checkpoints are kept"),
        ("--start", Path, None, "a model of this command to begin from; give another --seed"),
        ("--device", str, device, "a torch device"),
        ("--threads", int, 0, "processor threads; 0 lets torch decide"),
        ("--save-every", float, 240.0, "seconds between checkpoints"),
        ("--cases", int, 300, "held-out scenes per set in the final measurement"),
    ):
        parser.add_argument(name, type=kind, default=value, help=told)
    parser.add_argument(
        "--no-compile", dest="compiled", action="store_false", help="run the model as it is"
    )
    for name, field in Plan.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            help=field.description,
        )
    try:
        _run(**vars(parser.parse_args()))
    except LinAlignError as error:
        sys.exit(f"error: {error}")


def _run(
    folder: Path,
    work: Path,
    start: Path | None,
    *,
    device: str,
    threads: int,
    save_every: float,
    cases: int,
    compiled: bool,
    **planned: Any,
) -> None:
    plan = Plan(**planned)
    # What would fail in the end is tried before hours have gone into it.
    require_llguidance()
    if cases < 1:
        raise InvalidArgument(f"--cases {cases}: measuring takes at least one scene per set")
    try:
        torch.empty(0, device=device)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except RuntimeError as error:
        raise InvalidArgument(f"--device {device} is not to be had: {error}") from error
    except OSError as error:
        raise InvalidArgument(f"--folder {folder} cannot be written: {error.strerror}") from error
    if start and not (start / RECORD).is_file():
        raise InvalidArgument(f"--start {start} is no model of this command: it has no {RECORD}")
    if threads > 0:
        torch.set_num_threads(threads)
    train(
        plan,
        folder,
        work,
        device=device,
        compiled=compiled,
        save_every=save_every,
        start=start,
    )
    with tqdm(total=cases * len(SETS) * len(ways()), unit="answer") as bar:
        measured = measure(str(folder), cases, advance=bar.update)
    write_card(folder, measured, speed(str(folder)))


if __name__ == "__main__":
    main()
