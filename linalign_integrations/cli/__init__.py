"""The ``linalign`` command."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from linalign_integrations.cli import (
    agents,
    bench,
    chat,
    demo,
    places,
    pocket,
    profiles,
    weights,
)
from linalign_integrations.errors import LinAlignError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Local language models that follow each user's own preferences.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(profiles.app, name="profiles")

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="LINALIGN_MODEL",
        help='A Hugging Face id, a folder, or "pocket", the embedded model.',
    ),
]
Ratio = Annotated[float, typer.Option(help="Largest step along the user's direction.")]
Seed = Annotated[int, typer.Option(help="Same seed, same answers.")]


@app.command("demo")
def run_demo(
    model: Model = "pocket",
    ratio: Ratio = 2.0,
    seed: Seed = 1,
    question: Annotated[str, typer.Option(help="What both users ask.")] = demo.QUESTION,
) -> None:
    """Two users, one question: plain, prompted and aligned answers side by side."""
    demo.run(Console(), model=model, ratio=ratio, seed=seed, question=question)


@app.command("chat")
def run_chat(
    model: Model = "pocket",
    principle: Annotated[
        list[str] | None, typer.Option("--principle", "-p", help="May be given several times.")
    ] = None,
    ratio: Ratio = 2.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 256,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what alignment did to each token.")
    ] = False,
) -> None:
    """A conversation whose principles and ratio change as you go; /help lists the commands."""
    chat.run(
        Console(),
        model=model,
        principles=principle or [],
        ratio=ratio,
        seed=seed,
        max_tokens=max_tokens,
        explain=explain,
    )


@app.command("bench")
def run_bench(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Measure this model instead of a shape.")
    ] = None,
    shape: Annotated[
        bench.Shape, typer.Option(help="A Llama shape with random weights.")
    ] = bench.Shape.M135,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="Given several times, the one in which plain generate is fastest."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help='Such as "cpu"; by default the fastest one here.')
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help=f"Some of {','.join(bench.EXPERIMENTS)}; by default all of them."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rounds, tokens and sizes; no memory.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=4, help="Tokens per answer.", show_default="64; 16 if quick")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Turns of everybody.", show_default="5; 2 if quick")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the figures here.")] = None,
    plots: Annotated[str | None, typer.Option(help="Draw SVGs into this folder.")] = None,
) -> None:
    """What alignment costs, against plain generate, guidance and the released rule, in one run."""
    bench.run(
        Console(),
        model=model,
        shape=shape,
        dtypes=dtype or [],
        device=device,
        only=only,
        quick=quick,
        steps=steps,
        rounds=rounds,
        json_file=json_file,
        plots=plots,
    )


@app.command("pocket")
def run_pocket(
    model: Annotated[
        str, typer.Option("--model", "-m", help='"pocket", or the folder of one trained like it.')
    ] = "pocket",
    weighing: Annotated[
        bool, typer.Option("--weights", help="What principles of different weights do, instead.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Held-out cases per set.", show_default="300; 100 with --weights"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same figures.")] = 7,
    kl_budget: Annotated[
        float | None,
        typer.Option(
            help="Nats per token, where there is a budget.",
            show_default="1; none with --weights",
        ),
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the figures here.")] = None,
    plot_file: Annotated[str | None, typer.Option("--plot", help="Draw an SVG here.")] = None,
) -> None:
    """How well the embedded model follows principles, calls tools and reads documents."""
    if weighing:
        weights.run(
            Console(),
            model=model,
            count=count or 100,
            seed=seed,
            kl_budget=kl_budget,
            json_file=json_file,
            plot_file=plot_file,
        )
        return
    pocket.run(
        Console(),
        model=model,
        count=count or 300,
        seed=seed,
        kl_budget=1.0 if kl_budget is None else kl_budget,
        json_file=json_file,
        plot_file=plot_file,
    )


@app.command("agents")
def run_agents(
    model: Annotated[
        str, typer.Option("--model", "-m", help='"pocket", or the folder of one trained like it.')
    ] = "pocket",
    count: Annotated[int, typer.Option(min=1, help="Held-out tasks for each.")] = 100,
    seed: Annotated[int, typer.Option(help="Same seed, same tasks.")] = 7,
    ratio: Ratio = 2.0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    answers_only: Annotated[
        bool, typer.Option("--answers-only", help="Decide on tools without principles.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(help=f"Some of {','.join(agents.AGENTS)},extraction; by default all."),
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="Write every run here.")] = None,
) -> None:
    """How often LlamaIndex's agents finish tool tasks and structured output is valid."""
    agents.run(
        Console(),
        model=model,
        count=count,
        seed=seed,
        ratio=ratio,
        temperature=temperature,
        only_answers=answers_only,
        only=only,
        json_file=json_file,
    )


@app.command("places")
def run_places(
    model: Annotated[
        str, typer.Option("--model", "-m", help='"pocket", or the folder of one trained like it.')
    ] = "pocket",
    count: Annotated[int, typer.Option(min=1, help="Held-out cases per place.")] = 100,
    seed: Annotated[int, typer.Option(help="Same seed, same cases and draws.")] = 7,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Whether chains, RAG, agents and streams follow principles as the bare engine does."""
    places.run(Console(), model=model, count=count, seed=seed, json_file=json_file)


def main() -> None:
    """Runs the command; errors a user can mend are one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A letter that the terminal cannot show is no reason to end.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except LinAlignError as error:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(1)
