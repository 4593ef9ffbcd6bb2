"""``linalign agents``: LlamaIndex's agents and structured output on tasks nobody trained for.

The tasks are held-out scenes of the embedded model's world: a question, the tools at hand, the
calls that it takes, and the sentence that tells the user the result. Each task states one
principle. An agent's run counts as done if it made exactly those calls and its answer says what
they gave; otherwise it is counted under the first thing that went wrong.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, cast

from linalign_integrations.cli.report import answers_bar, check_files, plain_table
from linalign_integrations.errors import InvalidArgument, LinAlignError
from linalign_integrations.preferences import Preferences

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llama_index.core.tools import FunctionTool
    from pydantic import BaseModel
    from rich.console import Console
    from rich.table import Table

    from linalign_integrations.llama_index import LinAlign
    from linalign_integrations.pocket.corpus import Scene

__all__ = ["AGENTS", "FAULTS", "Outcome", "Report", "fault_of", "run"]

AGENTS = ("FunctionAgent", "ReActAgent", "AgentWorkflow")
FAULTS = ("no call", "wrong tool", "wrong argument", "too many calls", "loop", "result ignored")
ITERATIONS = 6
LONGEST = 160
AT_ONCE = 8
_TYPES = {"string": str, "integer": int, "number": float}


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        fault: One of ``FAULTS``, or the sentence of an error; None if the task was done.
        question: What the user asked.
        calls: The calls that the agent made, in order.
        wanted: The calls that the question takes.
        answer: What the agent said in the end.
        followed: Whether the answer shows what the principle asks for; None without an answer.
    """

    fault: str | None
    question: str
    calls: list[dict[str, Any]]
    wanted: list[dict[str, Any]]
    answer: str
    followed: bool | None


@dataclass
class Report:
    """What became of all runs.

    Attributes:
        model: The model's name or folder.
        seed: Decides tasks and draws.
        agents: The outcomes of each kind of agent.
        objects: Of each structured extraction, "valid" with whether it is exact, or an error.
    """

    model: str
    seed: int
    agents: dict[str, list[Outcome]] = field(default_factory=dict)
    objects: list[tuple[str, bool]] = field(default_factory=list)


def run(
    console: Console,
    *,
    model: str,
    count: int,
    seed: int,
    ratio: float,
    temperature: float,
    only_answers: bool,
    only: str | None,
    json_file: str | None,
) -> None:
    """Runs every kind of agent on the same tasks, then extracts objects, and prints the shares.

    Raises:
        InvalidArgument: ``only`` names something else, or the file cannot be written.
        LinAlignError: the model cannot be loaded, or a value lies outside its range.
    """
    check_files(json_file, None)
    parts = (*AGENTS, "extraction")
    chosen = only.split(",") if only else list(parts)
    if unknown := set(chosen) - set(parts):
        raise InvalidArgument(
            f"{', '.join(sorted(unknown))} cannot be measured: choose of {', '.join(parts)}"
        )
    from linalign_integrations.llama_index import LinAlign, answers_only

    llm = LinAlign(model=model, ratio=ratio, temperature=temperature, seed=seed, max_tokens=LONGEST)
    if only_answers:
        llm = answers_only(llm)
    report = Report(model, seed)
    with answers_bar(console, count * len(chosen)) as advance:
        for kind in AGENTS:
            if kind in chosen:
                tasks = _scenes("results", count, seed)
                report.agents[kind] = asyncio.run(
                    _all(partial(_attempt, kind), llm, tasks, advance)
                )
        if "extraction" in chosen:
            tasks = _scenes("json", count, seed)
            report.objects = asyncio.run(_all(_extract, llm, tasks, advance))
    console.print(_table(report, count))
    if json_file:
        written = json.dumps(asdict(report), indent=2, ensure_ascii=False)
        Path(json_file).write_text(written + "\n", encoding="utf-8")


def _scenes(kind: Literal["results", "json"], count: int, seed: int) -> list[Scene]:
    from linalign_integrations.pocket.corpus import Writer

    writer = Writer(f"agents/{kind}/{seed}", "held_out")
    drawn = (writer.scene(kind, 1, placement="system", turns=1) for _ in itertools.count())
    return list(itertools.islice(filter(_is_kept, drawn), count))


def _is_kept(scene: Scene) -> bool:
    """Whether any class of LlamaIndex's tells a model the names of a scene's tools as they are.

    Most replace what is not ASCII by underscores, as OpenAI's interface asks, so that no
    application names its tools so.
    """
    return all(one["function"]["name"].isascii() for one in scene.tools)


async def _all(
    one: Callable[[LinAlign, Scene], Any],
    llm: LinAlign,
    scenes: Sequence[Scene],
    advance: Callable[[int], None],
) -> list[Any]:
    places = asyncio.Semaphore(AT_ONCE)

    async def limited(scene: Scene) -> Any:
        async with places:
            stated = Preferences(principles=scene.principles).principles
            result = await one(llm.model_copy(update={"principles": stated}), scene)
            advance(1)
            return result

    return await asyncio.gather(*map(limited, scenes))


async def _attempt(kind: str, llm: LinAlign, scene: Scene) -> Outcome:
    """Lets an agent answer the question of a scene with the tools of the scene."""
    from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent

    from linalign_integrations.pocket.judge import read

    question, asked, *_ = scene.dialogue
    wanted = [call["function"] for call in asked["tool_calls"]]
    results = {
        _key(call): message["content"]
        for call, message in zip(wanted, scene.dialogue[2:], strict=False)
    }
    calls: list[dict[str, Any]] = []
    made: dict[str, Any] = {
        "llm": llm,
        "tools": [_tool(one["function"], results, calls) for one in scene.tools],
        "system_prompt": scene.system,
    }
    agent: AgentWorkflow | FunctionAgent | ReActAgent
    match kind:
        case "FunctionAgent":
            agent = FunctionAgent(**made)
        case "ReActAgent":
            agent = ReActAgent(**made)
        case _:
            agent = AgentWorkflow(agents=[FunctionAgent(**made, name="one", description="one")])
    fault, answer = None, ""
    try:
        answer = str(await agent.run(question["content"], max_iterations=ITERATIONS))
    except LinAlignError:
        raise
    except Exception as error:  # noqa: BLE001 - a run that fails is what is counted here
        fault = "loop" if "iterations" in str(error) else f"{type(error).__name__}: {error}"
    fault = fault_of(calls, wanted) or fault
    reading = read(answer, scene.facts)
    if fault is None and " ".join(reading.facts) != scene.gold:
        fault = "result ignored"
    shown = all(reading.shows(name, value) for name, value in scene.wanted.items())
    return Outcome(fault, question["content"], calls, wanted, answer, shown if answer else None)


def fault_of(calls: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> str | None:
    """What is wrong with the calls of a run: the first of ``FAULTS`` that fits, or None."""
    if not calls:
        return "no call"
    made, needed = [_key(call) for call in calls], [_key(call) for call in wanted]
    if not {call["name"] for call in calls} <= {call["name"] for call in wanted}:
        return "wrong tool"
    if not set(made) <= set(needed):
        return "wrong argument"
    if set(made) < set(needed):
        return "no call"
    return "too many calls" if len(made) > len(needed) else None


def _key(call: dict[str, Any]) -> str:
    # Written as JSON, 21.0 is not 21; a schema that asks for a number takes both.
    arguments = {
        name: float(value) if isinstance(value, int | float) else value
        for name, value in call["arguments"].items()
    }
    return json.dumps({**call, "arguments": arguments}, sort_keys=True)


def _tool(
    schema: dict[str, Any], results: dict[str, str], calls: list[dict[str, Any]]
) -> FunctionTool:
    """A tool as an application would write it, with a class for its arguments."""
    from llama_index.core.tools import FunctionTool

    name = schema["name"]

    def use(**arguments: Any) -> str:
        given = {key: value for key, value in arguments.items() if value is not None}
        call = {"name": name, "arguments": given}
        calls.append(call)
        return results.get(_key(call), "error: nothing found for these arguments")

    return FunctionTool.from_defaults(
        fn=use,
        name=name,
        description=schema["description"] or name,
        fn_schema=_class(name, schema["parameters"]),
    )


def _class(name: str, parameters: dict[str, Any]) -> type[BaseModel]:
    from pydantic import create_model

    fields: dict[str, Any] = {}
    for key, about in parameters["properties"].items():
        kind = _TYPES[about["type"]]
        fields[key] = (kind, ...) if key in parameters["required"] else (kind | None, None)
    return cast("type[BaseModel]", create_model(name, **fields))


async def _extract(llm: LinAlign, scene: Scene) -> tuple[str, bool]:
    """Asks for the fields of a text as an object; whether it is valid, and whether exact."""
    from llama_index.core.prompts import PromptTemplate

    gold: dict[str, Any] = json.loads(scene.gold or "")
    properties = {
        key: {"type": "integer" if isinstance(value, int) else "string"}
        for key, value in gold.items()
    }
    wanted = _class("Record", {"properties": properties, "required": list(gold)})
    try:
        found = await llm.astructured_predict(
            wanted, PromptTemplate("{text}"), text=scene.dialogue[0]["content"]
        )
    except ValueError as error:
        return str(error), False
    return "valid", found.model_dump() == gold


def _table(report: Report, count: int) -> Table:
    made = plain_table(f"{report.model}, {count} held-out tasks each")
    for heading in ("", *report.agents):
        made.add_column(heading, justify="right" if heading else "left")
    columns = []
    for outcomes in report.agents.values():
        faults = Counter(one.fault if one.fault in (None, *FAULTS) else "error" for one in outcomes)
        told = [one.followed for one in outcomes if one.followed is not None]
        shares = [f"{faults[name] / len(outcomes):.2f}" for name in (None, *FAULTS, "error")]
        columns.append([*shares, f"{fmean(told):.2f}" if told else ""])
    names = ("done", *FAULTS, "error", "principle followed")
    for name, *cells in zip(names, *columns, strict=True):
        made.add_row(name, *cells)
    if report.objects:
        valid = sum(one == "valid" for one, _ in report.objects) / len(report.objects)
        exact = sum(exact for _, exact in report.objects) / len(report.objects)
        made.caption = f"structured extraction: {valid:.2f} valid, {exact:.2f} exact"
        made.caption_justify = "left"
    return made
