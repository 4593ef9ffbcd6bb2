"""``linalign bench``: what alignment costs, against its peers in one process and one run."""

from __future__ import annotations

import copy
import itertools
import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from linalign_integrations.cli.report import (
    check_files,
    plain_table,
    require_parent,
    require_plots,
    verdict,
)
from linalign_integrations.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table
    from transformers import PreTrainedTokenizerBase

    from linalign_integrations.cli.experiments import Lab, Row
    from linalign_integrations.engine import Engine


class Shape(StrEnum):
    """Llama shapes with random weights."""

    TINY = "tiny"
    M135 = "135m"
    M360 = "360m"
    M500 = "0.5b"
    B1 = "1b"
    B3 = "3b"


# Sizes of published models: SmolLM2, Qwen2.5 and Llama 3.2; the tiny one is for tests.
_SHAPES: dict[Shape, dict[str, Any]] = {
    Shape.TINY: {
        "vocab_size": 4096,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    Shape.M135: {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    Shape.M360: {
        "vocab_size": 49152,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
    Shape.M500: {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    Shape.B1: {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    Shape.B3: {
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
    },
}

# What there is to measure, in the order of the report.
EXPERIMENTS = (
    "memory",
    "latency",
    "users",
    "context",
    "principles",
    "prefix",
    "gap",
    "share",
    "resolve",
    "adapter",
    "loop",
)

_LEAST_CONTEXT = 1024


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: how often everybody has a turn.
        steps: tokens of an answer.
        prompt: tokens of a prompt, principles not counted.
        users: how many there are at once.
        lengths: of prompts, in tokens.
        principles: how many of them.
        history: tokens of a conversation, of a document, and of a prompt that arrives.
        requests: after how many the memory is read, first and last.
    """

    rounds: int = 5
    steps: int = 64
    prompt: int = 90
    users: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    lengths: tuple[int, ...] = (128, 512, 1024, 2048, 4096)
    principles: tuple[int, ...] = (1, 2, 4, 8)
    history: int = 2000
    requests: tuple[int, int] = (200, 2000)


FULL = Scale()
QUICK = Scale(
    rounds=2,
    steps=16,
    users=(1, 8, 32),
    lengths=(128, 512, 1024),
    principles=(1, 8),
    requests=(20, 200),
)


@dataclass(frozen=True)
class Target:
    """What a ratio should be."""

    sign: Literal["≤", "≥"]
    bound: float

    def met(self, ratio: float) -> bool:
        """Whether this ratio is as it should be."""
        return ratio <= self.bound if self.sign == "≤" else ratio >= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


def targets(shape: Shape | None, dtype: torch.dtype, device: torch.device) -> dict[str, Target]:
    """What is asked of the engine where it was asked: two shapes, in bfloat16 on a processor."""
    asked = shape in (Shape.M135, Shape.M500) and device.type == "cpu"
    if not asked or str(dtype) != "torch.bfloat16":
        return {}
    made = {
        "plain": Target("≤", 1.05 if shape is Shape.M135 else 1.0),
        "guidance": Target("≤", 0.45),
        "8 users": Target("≥", 9),
        "32 users": Target("≥", 12),
        "turn": Target("≤", 0.1),
        "document": Target("≤", 0.15),
        "gap": Target("≤", 4),
        "memory": Target("≤", 1.02),
        "resolve": Target("≤", 1),
        "adapter": Target("≤", 1.05),
    }
    # A share of the step is asked for at a large vocabulary only.
    return made | ({"share": Target("≤", 0.05)} if shape is Shape.M500 else {})


def random_weights(
    shape: Shape, dtype: torch.dtype, device: torch.device
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model of that shape with random weights, and the embedded model's tokenizer.

    Untrained logits are nearly equal, so that most of the vocabulary would count as plausible; they
    are spread to a standard deviation of 4, at which the plausible set is as small as a trained
    model's.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from linalign_integrations import pocket

    config = LlamaConfig(
        **_SHAPES[shape], max_position_embeddings=8192, tie_word_embeddings=True, eos_token_id=None
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=dtype
    )
    with torch.inference_mode():
        spread = model(torch.arange(100, 200)[None]).logits.float().std()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4 / spread)
    tokenizer = AutoTokenizer.from_pretrained(
        pocket.weights(), model_max_length=config.max_position_embeddings
    )
    return model.to(device).eval(), tokenizer


def endless_engine(model: Any, tokenizer: PreTrainedTokenizerBase, model_id: str) -> Engine:
    """An engine whose answers, like those of the peers, end by their length only."""
    from transformers import GenerationConfig

    from linalign_integrations.engine import Engine
    from linalign_integrations.engine.packing import pack

    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    # Packed as on loading; peers keep weights in the order in which transformers leaves them.
    own = pack(copy.deepcopy(model)) if model.device.type == "cpu" else model
    engine = Engine(own, tokenizer, model_id=model_id)
    # The tokenizer must keep its own: templates write it between turns.
    engine._end_tokens = frozenset()
    return engine


def open_lab(
    model: str | None, shape: Shape, dtype: str | None, device: str | None, scale: Scale
) -> Lab:
    """Loads a model for everybody to run on.

    Raises:
        LinAlignError: there is no such model, dtype or device.
    """
    from linalign_integrations.cli.experiments import Lab
    from linalign_integrations.engine.loading import load_weights, pick_device, pick_dtype

    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    if model is None:
        weights, tokenizer = random_weights(shape, kind, where)
    else:
        weights, tokenizer = load_weights(
            model,
            revision=None,
            device=where,
            dtype=kind,
            trust_remote_code=False,
            packed=False,
        )
    name = model or f"Llama {shape.value}, random weights"
    engine = endless_engine(weights, tokenizer, name)
    if engine.context_length < _LEAST_CONTEXT:
        raise InvalidArgument(
            f"{name} holds {engine.context_length} tokens: measure a model with a context of at "
            f"least {_LEAST_CONTEXT:,}"
        )
    wanted = targets(None if model else shape, kind, where)
    if scale.requests != FULL.requests:
        wanted.pop("memory", None)
    return Lab(weights, engine, scale, wanted)


def fastest_dtype(
    console: Console, load: Callable[[str | None], Lab], dtypes: Sequence[str]
) -> str | None:
    """The dtype in which plain ``generate`` is fastest; None, the usual one, if none is named.

    Args:
        console: is told how fast each was.
        load: loads the model in a dtype.
        dtypes: which to try.
    """
    if len(dtypes) < 2:
        return next(iter(dtypes), None)
    from linalign_integrations.cli import peers

    steps = {}
    for dtype in dtypes:
        lab = load(dtype)
        with closing(lab.engine):
            case = peers.make_case(lab.engine, "dtype", lab.scale.prompt)
            lab.answer(peers.PLAIN, case)
            steps[dtype] = min(lab.answer(peers.PLAIN, case).step for _ in range(lab.scale.rounds))
        console.print(f"{dtype}: {steps[dtype]:.2f} ms per token of plain generate")
    return min(steps, key=lambda dtype: steps[dtype])


def run(
    console: Console,
    *,
    model: str | None,
    shape: Shape,
    dtypes: Sequence[str],
    device: str | None,
    only: str | None,
    quick: bool,
    steps: int | None,
    rounds: int | None,
    json_file: str | None,
    plots: str | None,
) -> None:
    """Measures, prints every figure and every target, and writes the files asked for.

    Raises:
        InvalidArgument: there is no such experiment, or a file cannot be written where it is to be.
        MissingExtra: plots are asked for and cannot be drawn.
        LinAlignError: the model cannot be loaded.
    """
    wanted = chosen(only, quick=quick)
    # What would fail at the end fails now, before minutes of measuring.
    _check_files(json_file, plots)
    if plots and not PLOTS.keys() & set(wanted):
        raise InvalidArgument(
            f"there is nothing to plot: --plots draws {', '.join(PLOTS)}; name one with --only"
        )
    scale = QUICK if quick else FULL
    scale = replace(scale, rounds=rounds or scale.rounds, steps=steps or scale.steps)

    def load(dtype: str | None) -> Lab:
        return open_lab(model, shape, dtype, device, scale)

    lab = load(fastest_dtype(console, load, dtypes))
    begun = time.perf_counter()
    with closing(lab.engine):
        rows = _measure(console, lab, wanted)
    report = {
        **about(lab),
        "seconds": time.perf_counter() - begun,
        "scale": asdict(scale),
        "rows": [asdict(row) for row in rows],
    }
    console.print(
        f"\n{report['model']}: {report['parameters'] / 1e6:,.1f} M parameters, "
        f"{report['vocabulary']:,} tokens, {report['dtype']} on {report['device']}, "
        f"{report['threads']} threads",
        highlight=False,
    )
    for table in figures_tables(rows):
        console.print(table)
    if any(row.target for row in rows):
        console.print(targets_table(rows))
    if json_file:
        Path(json_file).write_text(
            json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if plots:
        draw(rows, Path(plots), report["model"])


def _measure(console: Console, lab: Lab, wanted: Sequence[str]) -> list[Row]:
    from linalign_integrations.cli import experiments as known

    experiments = {name: known.EXPERIMENTS[name](lab) for name in wanted}
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        total = sum(one.rounds * len(one.takes) for one in experiments.values())
        task = bar.add_task("warming up", total=total)
        return known.measure(
            lab, experiments, lambda name, done: bar.update(task, description=name, advance=done)
        )


def chosen(only: str | None, *, quick: bool) -> tuple[str, ...]:
    """The experiments to run, in the report's order.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if only is None:
        # Thousands of requests are never quick.
        return tuple(name for name in EXPERIMENTS if not (quick and name == "memory"))
    names = {name.strip() for name in only.split(",")}
    if not names <= set(EXPERIMENTS):
        unknown = ", ".join(sorted(names - set(EXPERIMENTS)))
        raise InvalidArgument(
            f"--only knows no {unknown!r}: choose from {','.join(EXPERIMENTS)}, several with commas"
        )
    return tuple(name for name in EXPERIMENTS if name in names)


def _check_files(json_file: str | None, plots: str | None) -> None:
    check_files(json_file, None)
    if plots:
        require_parent(plots)
        if Path(plots).exists() and not Path(plots).is_dir():
            raise InvalidArgument(f"{plots!r} is a file: name a folder for the plots")
        require_plots()


def about(lab: Lab) -> dict[str, Any]:
    """What was measured on what, for whoever reads the figures later."""
    import platform

    import torch
    import transformers

    from linalign_integrations import __version__

    parameter = next(lab.model.parameters())
    return {
        "model": lab.engine.model_id,
        "parameters": sum(one.numel() for one in lab.model.parameters()),
        "vocabulary": lab.model.get_output_embeddings().weight.shape[0],
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {
            "linalign-integrations": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


_SIZES = {
    "memory": "requests",
    "users": "users",
    "context": "tokens",
    "principles": "principles",
    "prefix": "tokens",
    "gap": "tokens",
    "share": "users",
}


def _size(row: Row) -> str:
    return "" if row.at is None else f"{row.at:,}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def _spread(row: Row) -> str:
    return "" if row.least is None else f"{_ratio(row.least)}-{_ratio(row.most)}"


def figures_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Every figure, with its ratio to another of the same round and how far that varies."""
    for quantity, group in itertools.groupby(rows, key=lambda row: row.quantity):
        mine = list(group)
        made = plain_table(f"\n{quantity}", title_style="bold")
        size = _SIZES.get(mine[0].experiment) if any(row.at for row in mine) else None
        made.add_column(min_width=17)
        # A column without a heading would take its place all the same.
        if size:
            made.add_column(size, justify="right", min_width=8)
        for heading, width in ((mine[0].unit, 7), ("ratio", 5), ("min-max", 11)):
            made.add_column(heading, justify="right", min_width=width)
        made.add_column("against", min_width=14)
        for row in mine:
            made.add_row(
                row.name,
                *([_size(row)] if size else []),
                f"{row.figure:,.0f}" if row.figure >= 1000 else f"{row.figure:.4g}",
                _ratio(row.ratio),
                _spread(row),
                row.against,
            )
        yield made


def targets_table(rows: Sequence[Row]) -> Table:
    """What was asked for, what came out, and whether the one is the other."""
    made = plain_table("\ntargets", title_style="bold")
    for heading in ("", "", "asked", "ratio", "min-max", ""):
        made.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        if row.target:
            size = "" if row.at is None else f", {_size(row)} {_SIZES[row.experiment]}"
            what = f"{row.name}{size} / {row.against}"
            figures = (row.target, _ratio(row.ratio), _spread(row), verdict(met=row.met))
            made.add_row(row.experiment, what, *figures)
    return made


# Colours that colour-blind readers can tell apart (Okabe and Ito).
_COLOURS = {
    "ours": "#0072B2",
    "ours, no principles": "#56B4E9",
    "plain generate": "#4D4D4D",
    "guidance": "#D55E00",
    "two passes": "#CC79A7",
    "equal weights": "#0072B2",
    "different weights": "#E69F00",
}
# Lines may lie on each other.
_DASHES = {"plain generate": "--", "guidance": "-.", "two passes": ":"}
_STYLE: Any = {
    "svg.hashsalt": "linalign",
    "font.size": 10,
    "axes.axisbelow": True,
    "axes.edgecolor": "0.6",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "0.9",
    "legend.frameon": False,
    "xtick.color": "0.3",
    "ytick.color": "0.3",
}


def draw(rows: Sequence[Row], folder: Path, model: str) -> list[Path]:
    """Draws an SVG for each experiment that has a plot; equal figures give equal bytes.

    Args:
        rows: the report.
        folder: where to write; it is made if need be.
        model: named in the titles.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require_plots()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    folder.mkdir(exist_ok=True)
    files = []
    for name, plot in PLOTS.items():
        mine = [row for row in rows if row.experiment == name]
        if not mine:
            continue
        with rc_context(_STYLE):
            drawn = Figure(figsize=(7, 4.2), layout="constrained")
            plot(drawn, mine)
            drawn.suptitle(f"{_TITLES[name]}\n{model}", fontsize=11, ha="left", x=0.01)
            file = folder / f"{name}.svg"
            drawn.savefig(file, format="svg", metadata={"Date": None})
            files.append(file)
    return files


def _curve(axes: Axes, rows: Sequence[Row]) -> None:
    """A line per name over the size, in a band from the least to the most of all rounds."""
    for name in dict.fromkeys(row.name for row in rows):
        mine = [row for row in rows if row.name == name]
        sizes = [row.at for row in mine if row.at is not None]
        colour = _COLOURS[name]
        axes.plot(sizes, [row.figure for row in mine], "o-", ms=4, color=colour, label=name)
        least, most = ([pick(row.samples) for row in mine] for pick in (min, max))
        axes.fill_between(sizes, least, most, color=colour, alpha=0.15, lw=0)
    axes.set_ylim(bottom=0)


def _level(axes: Axes, row: Row) -> None:
    """A line for what has no size."""
    axes.axhline(row.figure, label=row.name, color=_COLOURS[row.name], ls=_DASHES[row.name], lw=1.4)


def _doubling(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
    axes.minorticks_off()


def _plot_users(drawn: Figure, rows: Sequence[Row]) -> None:
    axes = drawn.subplots()
    curve = [row for row in rows if row.at is not None]
    _curve(axes, curve)
    peers = [row for row in rows if row.at is None]
    for row in peers:
        _level(axes, row)
    slow = next(row.figure for row in peers if row.name == "guidance")
    _doubling(axes, [row.at for row in curve if row.at is not None])
    axes.set_xlabel("users at once, each with a principle of their own")
    axes.set_ylabel("tokens per second, all together")

    def as_ratio(rates: Any) -> Any:
        return rates / slow

    def as_rate(ratios: Any) -> Any:
        return ratios * slow

    times = axes.secondary_yaxis("right", functions=(as_ratio, as_rate))
    times.set_ylabel("times guidance, one after the other")
    handles, labels = axes.get_legend_handles_labels()
    labels = [f"{label}, one after the other" if label != "ours" else label for label in labels]
    axes.legend(handles, labels, loc="upper left")


def _plot_context(drawn: Figure, rows: Sequence[Row]) -> None:
    axes = drawn.subplots()
    _curve(axes, rows)
    _doubling(axes, sorted({row.at for row in rows if row.at is not None}))
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel("ms per token")
    axes.legend(loc="upper left")


def _plot_principles(drawn: Figure, rows: Sequence[Row]) -> None:
    axes = drawn.subplots()
    curve = [row for row in rows if row.at is not None]
    _curve(axes, curve)
    for row in rows:
        if row.at is None:
            _level(axes, row)
    axes.set_xticks(sorted({row.at for row in curve if row.at is not None}))
    axes.set_xlabel("principles")
    axes.set_ylabel("ms per token")
    axes.legend(loc="lower right")


def _plot_latency(drawn: Figure, rows: Sequence[Row]) -> None:
    kinds = dict.fromkeys(row.quantity for row in rows)
    panels = drawn.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, quantity in zip(panels, kinds, strict=True):
        bars = [
            row
            for row in rows
            if row.quantity == quantity and row.against in (None, "plain generate")
        ]
        ratios = [row.ratio or 1.0 for row in bars]
        spread = [
            [ratio - (row.least or 1.0) for ratio, row in zip(ratios, bars, strict=True)],
            [(row.most or 1.0) - ratio for ratio, row in zip(ratios, bars, strict=True)],
        ]
        names = [row.name for row in bars]
        axes.barh(
            names,
            ratios,
            height=0.6,
            color=[_COLOURS[name] for name in names],
            xerr=spread,
            error_kw={"ecolor": "0.2", "elinewidth": 1, "capsize": 2},
        )
        widest = max(row.most or 1.0 for row in bars)
        for place, row in enumerate(bars):
            end = (row.most or 1.0) + 0.02 * widest
            digits = 1 if row.figure < 100 else 0
            text = f"{ratios[place]:.2f}  ({row.figure:,.{digits}f} ms)"
            axes.text(end, place, text, va="center", fontsize=9, color="0.2")
        axes.axvline(1, lw=1, color="0.4")
        axes.set_xlim(0, 1.6 * widest)
        axes.grid(visible=False, axis="y")
        axes.set_title(quantity.partition(",")[0], loc="left", fontsize=10)
        axes.set_xlabel("times plain generate")
    panels[0].invert_yaxis()


PLOTS: dict[str, Callable[[Figure, Sequence[Row]], None]] = {
    "latency": _plot_latency,
    "users": _plot_users,
    "context": _plot_context,
    "principles": _plot_principles,
}
_TITLES = {
    "latency": "One user",
    "users": "Many users at once",
    "context": "One user, prompts of growing length",
    "principles": "One user, more and more principles",
}
