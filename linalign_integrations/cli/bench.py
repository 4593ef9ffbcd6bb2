"""``linalign bench``: the cost of an aligned step against a plain one, in the same process."""

from __future__ import annotations

import json
import statistics
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track
from rich.table import Table

from linalign_integrations.errors import LinAlignError
from linalign_integrations.preferences import Preferences

if TYPE_CHECKING:
    from rich.console import Console

    from linalign_integrations.engine import Engine

QUESTION = "Tell me about the sea and the people who live by it, please. " * 5
PRINCIPLE = "Answer like a pirate who has seen a good deal of the world and likes to tell of it."


class Shape(StrEnum):
    """Llama shapes with random weights."""

    M135 = "135m"
    M500 = "0.5b"


_SHAPES: dict[Shape, dict[str, Any]] = {
    Shape.M135: {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    Shape.M500: {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
}


def random_engine(shape: Shape, dtype: str) -> Engine:
    """An engine of that shape with random weights and the embedded model's tokenizer.

    Untrained logits are nearly equal, so that most of the vocabulary would count as plausible; they
    are spread to a standard deviation of 4, at which the plausible set is as small as a trained
    model's.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from linalign_integrations import pocket
    from linalign_integrations.engine import Engine
    from linalign_integrations.engine.loading import pick_dtype

    config = LlamaConfig(
        **_SHAPES[shape], max_position_embeddings=8192, tie_word_embeddings=True, eos_token_id=None
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=pick_dtype(dtype, torch.device("cpu"))
    )
    with torch.inference_mode():
        spread = model(torch.arange(100, 200)[None]).logits.float().std()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4 / spread)
    tokenizer = AutoTokenizer.from_pretrained(pocket.weights())
    return Engine(model.eval(), tokenizer, model_id=f"llama-{shape.value}-random")


def step_times(engine: Engine, preferences: Preferences, steps: int) -> list[float]:
    """Seconds of each decoding step of one answer; the prompt's own step is not counted."""
    from linalign_integrations.engine import SamplingParams

    pieces = engine.stream(
        QUESTION, preferences=preferences, sampling=SamplingParams(seed=0, max_tokens=steps + 1)
    )
    next(pieces)
    times = []
    before = time.perf_counter()
    for _ in pieces:
        now = time.perf_counter()
        times.append(now - before)
        before = now
    if not times:
        raise LinAlignError("the model ended its answer at once: there is no step to measure")
    return times


def measure(engine: Engine, steps: int, rounds: int, label: str) -> dict[str, Any]:
    """Median step times and their ratio, round by round; plain and aligned take turns."""
    aligned = Preferences(principles=[PRINCIPLE])
    step_times(engine, aligned, 4)
    medians: dict[str, list[float]] = {"plain": [], "aligned": []}
    for _ in track(range(rounds), description=label):
        for name, preferences in (("plain", Preferences()), ("aligned", aligned)):
            medians[name].append(statistics.median(step_times(engine, preferences, steps)))
    ratios = [a / p for a, p in zip(medians["aligned"], medians["plain"], strict=True)]
    return {
        "plain_ms": 1e3 * statistics.median(medians["plain"]),
        "aligned_ms": 1e3 * statistics.median(medians["aligned"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def run(
    console: Console,
    *,
    model: str | None,
    shape: Shape,
    dtypes: list[str],
    steps: int,
    rounds: int,
    json_file: str | None,
) -> None:
    """Measures and prints; the dtype in which a plain step is fastest is marked.

    Raises:
        LinAlignError: the model cannot be loaded.
    """
    from linalign_integrations.engine import Engine

    figures: dict[str, dict[str, Any]] = {}
    name = model or f"Llama {shape.value}, random weights"
    for dtype in dtypes:
        engine = Engine.load(model, dtype=dtype) if model else random_engine(shape, dtype)
        figures[dtype] = measure(engine, steps, rounds, dtype)
        engine.close()
    fastest = min(figures, key=lambda dtype: float(figures[dtype]["plain_ms"]))
    table = Table(title=f"One decoding step, {name}", title_justify="left")
    for heading in ("dtype", "plain, ms", "aligned, ms", "aligned / plain", "min - max"):
        table.add_column(heading, justify="left" if heading == "dtype" else "right")
    for dtype, figure in figures.items():
        table.add_row(
            f"{dtype} (fastest)" if dtype == fastest else dtype,
            f"{figure['plain_ms']:.2f}",
            f"{figure['aligned_ms']:.2f}",
            f"{figure['ratio']:.3f}",
            f"{figure['ratio_min']:.3f} - {figure['ratio_max']:.3f}",
        )
    console.print(table)
    if json_file:
        report = {"model": name, "steps": steps, "rounds": rounds, "dtypes": figures}
        Path(json_file).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
