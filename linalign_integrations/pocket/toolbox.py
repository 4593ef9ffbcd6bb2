"""Invented tools, the questions that need them, the calls that answer these, and their results.

A tool is a verb, a noun and some parameters; its name, its description and the question are all
said in these words, and the values of the arguments are copied from the question. Held-out tools
always have an invented word in their noun, and parameters that a question asks for by their own
name have invented names; training never saw either.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llama_index.core.agent.workflow.prompts import (
    DEFAULT_HANDOFF_OUTPUT_PROMPT,
    DEFAULT_HANDOFF_PROMPT,
)

from linalign_integrations.pocket.draws import Draws

__all__ = [
    "NAMED",
    "Call",
    "Team",
    "Tool",
    "described",
    "handed_over",
    "handoff",
    "request",
    "team",
    "toolbox",
]

LOOKS = ("get", "find", "check", "fetch", "show", "read")
LOOKED_UP = (
    "weather", "price", "population", "distance", "rating", "address", "phone number", "score",
    "schedule", "menu", "temperature", "balance", "status", "forecast", "capacity", "height",
    "speed", "owner", "author", "salary", "discount", "stock", "traffic", "recipe", "definition",
    "date", "route", "fare", "delay", "size", "weight", "colour", "age", "level", "rank", "review",
    "news", "exchange rate", "opening time", "wind", "rainfall", "fuel cost", "battery level",
    "tax rate", "order status", "record", "profile", "title", "summary", "deadline",
)  # fmt: skip
DONE = {
    "book": ("table", "room", "flight", "taxi", "seat", "court", "massage", "train", "ferry"),
    "order": ("pizza", "coffee", "cake", "parcel", "book", "lamp", "soup", "bouquet"),
    "send": ("message", "email", "letter", "gift", "report", "invoice", "postcard"),
    "cancel": ("order", "booking", "meeting", "flight", "subscription", "lesson"),
    "start": ("timer", "engine", "song", "film", "game", "backup", "oven", "washer"),
    "set": ("alarm", "reminder", "goal", "budget", "thermostat", "limit"),
    "add": ("task", "event", "note", "contact", "stop", "guest", "photo"),
    "delete": ("file", "note", "photo", "account", "playlist", "draft"),
    "pay": ("bill", "fee", "rent", "fine", "ticket"),
    "rent": ("car", "bike", "boat", "tent", "hall", "piano"),
    "play": ("song", "film", "album", "playlist", "podcast"),
    "call": ("doctor", "friend", "plumber", "office", "driver"),
    "create": ("customer", "account", "folder", "list", "user"),
}
AGENTS = (
    "assistant", "helper", "planner", "researcher", "clerk", "first", "second", "expert", "office",
    "desk", "support", "sales", "operator", "secretary", "guide", "worker", "agent_a", "agent_b",
)  # fmt: skip
OUTCOMES = ("confirmed", "booked", "done", "ready", "accepted", "complete")


class Parameter(NamedTuple):
    """One parameter of a tool.

    Attributes:
        name: What it is called.
        type: Its JSON type.
        value: The kind of its values, as `Draws.value` takes it.
        clauses: How a question states it: {v} is the value, {n} the name.
    """

    name: str
    type: str
    value: str
    clauses: tuple[str, ...]


# (names, type, value, clauses): one of the names is chosen.
PARAMETERS: tuple[tuple[tuple[str, ...], str, str, tuple[str, ...]], ...] = (
    (("city", "town", "place", "location"), "string", "person", ("in {v}", "at {v}", "near {v}")),
    (
        ("person", "user", "customer", "name", "customer_name"),
        "string",
        "person",
        ("for {v}", "for {v}", "named '{v}'", "named {v}"),
    ),
    (("title", "topic", "query"), "string", "title", ('called "{v}"', "about {v}", 'on "{v}"')),
    (("origin", "source", "start"), "string", "name", ("from {v}",)),
    (("target", "destination", "end"), "string", "name", ("to {v}",)),
    (("days",), "integer", "small", ("for {v} days",)),
    (("nights",), "integer", "small", ("for {v} nights",)),
    (("minutes", "duration"), "integer", "small", ("for {v} minutes",)),
    (("people", "guests", "count"), "integer", "small", ("for {v} people", "with {v} guests")),
    (("number", "id", "code"), "integer", "number", ("number {v}", "with number {v}")),
    (("year",), "integer", "year", ("in {v}", "of the year {v}")),
    (("amount", "budget", "limit"), "number", "decimal", ("of {v} euros", "under {v} euros")),
    (("weight", "load"), "number", "decimal", ("of {v} kilos", "with {v} kilos")),
    (("day", "weekday", "date"), "string", "weekday", ("on {v}",)),
    (("time", "hour"), "string", "time", ("at {v}",)),
    (("color", "colour"), "string", "colour", ("in {v}",)),
    (("item", "product"), "string", "phrase", ("with {v}", "of {v}")),
)
# Parameters whose name the question says: {n} is the name.
SAID = (
    "key", "room", "team", "model", "version", "unit", "zone", "page", "speed", "mode", "label",
    "text", "depth", "floor", "street", "brand", "width", "seed", "rate", "scale", "a", "b", "x",
    "y", "input", "ticket", "level", "angle", "group", "owner", "channel", "language",
)  # fmt: skip
# How often a name that ASCII cannot write is explained in brackets, which no argument holds.
GLOSSED = 0.4
SAID_CLAUSES = ("with {n} {v}", "where {n} is {v}", "for {n} {v}", "and {n} {v}")
SAID_KINDS = (("integer", "small"), ("integer", "number"), ("number", "decimal"),
              ("string", "name"), ("string", "title"), ("string", "colour"))  # fmt: skip

LOOK_QUESTIONS = (
    "What is the {noun}{clauses}?", "What is the {noun}{clauses}?", "Show me the {noun}{clauses}.",
    "Tell me the {noun}{clauses}.", "I need the {noun}{clauses}.", "Find the {noun}{clauses}.",
    "Can you check the {noun}{clauses}?", "Please look up the {noun}{clauses}.",
    "Do you know the {noun}{clauses}?", "Give me the {noun}{clauses}.",
)  # fmt: skip
DO_QUESTIONS = (
    "{Verb} a {noun}{clauses}.", "Please {verb} a {noun}{clauses}.", "{Verb} the {noun}{clauses}.",
    "Can you {verb} a {noun}{clauses}?", "I want to {verb} a {noun}{clauses}.",
    "Could you {verb} the {noun}{clauses}, please?", "I need you to {verb} a {noun}{clauses}.",
)  # fmt: skip
USES = (
    "Use {tool}{clauses}.", "Call {tool}{clauses}.", "Use the tool {tool}{clauses}.",
    "What does {tool} give{clauses}?", "Run {tool}{clauses}, please.",
)  # fmt: skip
WRITTEN = (
    "What is the value of {tool}({values})?", "What is {tool}({values})? Use the tool.",
    "Call {tool}({values}).", "Run {tool}({values}) for me.",
)  # fmt: skip
# How often a question names a tool, and how many of such questions are USES, not WRITTEN.
NAMED, _BY_USE = 0.22, 12 / 22


@dataclass(frozen=True)
class Tool:
    """One tool and the words in which people ask for it.

    Attributes:
        name: What calls name.
        verb: What it does, in one word.
        noun: What it does that to.
        looks_up: Whether it finds something out, rather than do something.
        description: What the model is told of it; may be empty.
        parameters: What it takes.
        optional: The names of those parameters that may be left out.
    """

    name: str
    verb: str
    noun: str
    looks_up: bool
    description: str
    parameters: tuple[Parameter, ...]
    optional: frozenset[str]

    def schema(self) -> dict[str, Any]:
        """Return the definition in the form that chat templates take."""
        required = [one.name for one in self.parameters if one.name not in self.optional]
        kinds = {one.name: one.type for one in self.parameters}
        return _definition(self.name, self.description, kinds, required)


Team = Mapping[str, Sequence[Tool]]
"""Agents by their names, each with its tools."""


@dataclass(frozen=True)
class Call:
    """A request for one tool: the question, the arguments it states, and the result.

    Attributes:
        tool: The tool.
        question: What the user says.
        subject: What the question names: the tool, or what it is about.
        arguments: The arguments that the question states.
        result: What the tool returns.
        answer: The sentence that tells the user the result.
    """

    tool: Tool
    question: str
    subject: str
    arguments: dict[str, Any]
    result: str
    answer: str

    def message(self) -> dict[str, Any]:
        """Return the call in the form that chat templates take."""
        return _message(self.tool.name, self.arguments)


def toolbox(draws: Draws, count: int, *, alike: bool = False) -> list[Tool]:
    """Invent some tools with different nouns.

    Args:
        draws: Decides what is invented.
        count: The number of tools.
        alike: Whether all look something up and take nothing, so that only nouns tell them apart.
    """
    tools: list[Tool] = []
    while len(tools) < count:
        tool = _tool(draws, alike=alike)
        if tool.noun not in {one.noun for one in tools}:
            tools.append(tool)
    return tools


def described(tool: Tool) -> str:
    """Describe a tool in plain text, as LlamaIndex does for ReAct agents."""
    properties: dict[str, dict[str, Any]] = {}
    for one in tool.parameters:
        title = one.name.replace("_", " ").title()
        kind: dict[str, Any] = {"title": title, "type": one.type}
        if one.name in tool.optional:
            either = [{"type": one.type}, {"type": "null"}]
            kind = {"anyOf": either, "default": None, "title": title}
        properties[one.name] = kind
    required = tool.schema()["function"]["parameters"]["required"]
    told = {
        "properties": properties,
        **({"required": required} if required else {}),
        "type": "object",
    }
    return (
        f"> Tool Name: {tool.name}\nTool Description: {tool.description or tool.name}\n"
        f"Tool Args: {json.dumps(told, ensure_ascii=False)}\n"
    )


def team(draws: Draws, tools: Sequence[Tool], count: int) -> dict[str, list[Tool]]:
    """Share tools out among so many agents, of which some may have none."""
    rng = draws.rng
    agents: dict[str, list[Tool]] = {}
    shares: list[list[Tool]] = [[] for _ in range(count)]
    for tool in tools:
        rng.choice(shares).append(tool)
    for share in shares:
        name = ""
        while not name or name in agents:
            form = rng.random()
            if form < 0.3 and share:
                name = f"{rng.choice(share).noun.replace(' ', '_')}_agent"
            elif form < 0.6:
                name = f"{draws.word().lower()}{rng.choice(('', '_agent'))}"
            else:
                name = rng.choice(AGENTS)
        agents[name] = share
    return agents


def handoff(others: Team) -> dict[str, Any]:
    """Define the tool by which an agent of LlamaIndex's workflows hands a request on.

    Args:
        others: The other agents. Each is described by what its tools do.
    """
    about = {
        name: " ".join(tool.description or f"{tool.name.replace('_', ' ')}." for tool in tools)
        or "Talks."
        for name, tools in others.items()
    }
    description = DEFAULT_HANDOFF_PROMPT.format(agent_info=str(about))
    kinds = {"to_agent": "string", "reason": "string"}
    return _definition("handoff", description, kinds, list(kinds))


def handed_over(agent: str, wanted: Sequence[Call]) -> tuple[dict[str, Any], str]:
    """Hand what is wanted over to an agent.

    Returns:
        The call, in the form that chat templates take, and what LlamaIndex returns for it.
    """
    reason = " and ".join(f"the {noun}" for noun in dict.fromkeys(one.tool.noun for one in wanted))
    arguments = {"to_agent": agent, "reason": f"the user asks for {reason}"}
    return _message("handoff", arguments), DEFAULT_HANDOFF_OUTPUT_PROMPT.format(**arguments)


def _definition(
    name: str, description: str, kinds: Mapping[str, str], required: Sequence[str]
) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {parameter: {"type": kind} for parameter, kind in kinds.items()},
        "required": list(required),
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _message(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(draws: Draws, *, alike: bool) -> Tool:
    rng = draws.rng
    looks_up = alike or rng.random() < 0.6
    verb = rng.choice(LOOKS if looks_up else tuple(DONE))
    noun = rng.choice(LOOKED_UP if looks_up else DONE[verb])
    if _is_invented(draws):
        invented = draws.word().lower()
        noun = invented if rng.random() < 0.5 else f"{invented} {noun}"
    parameters = () if alike else _parameters(draws)
    last_may_go = len(parameters) > 1 and rng.random() < 0.2
    return Tool(
        name=_name(draws, verb, noun, looks_up),
        verb=verb,
        noun=noun,
        looks_up=looks_up,
        description=_description(draws, verb, noun, looks_up),
        parameters=parameters,
        optional=frozenset({parameters[-1].name} if last_may_go else ()),
    )


def _is_invented(draws: Draws) -> bool:
    """Whether a noun, or a parameter asked for by its own name, gets an invented word."""
    return draws.split == "held_out" or draws.rng.random() < 0.7


def _name(draws: Draws, verb: str, noun: str, looks_up: bool) -> str:
    rng = draws.rng
    word = noun.replace(" ", "_")
    form = rng.random()
    if form < 0.1:
        return verb + "".join(part.capitalize() for part in noun.split())
    if looks_up and form < 0.3:
        return rng.choice((word, f"{word}_tool", f"{word}_lookup", f"get_current_{word}"))
    if form < 0.38:
        return f"{verb}_{word}_{rng.choice(('tool', 'now', 'v2', 'function'))}"
    return f"{verb}_{word}"


def _description(draws: Draws, verb: str, noun: str, looks_up: bool) -> str:
    rng = draws.rng
    forms: tuple[str, ...]
    if looks_up:
        forms = ("{Verb} the {noun}.", "Gets the {noun}.", "Returns the {noun}.", "The {noun}.",
                 "Get the current {noun}.", "Look up the {noun}.", "")  # fmt: skip
    else:
        forms = ("{Verb} a {noun}.", "{Verb} the {noun}.", "Use this to {verb} a {noun}.",
                 "{Verb} one {noun} for the user.", "")  # fmt: skip
    text = rng.choice(forms).format(verb=verb, Verb=verb.capitalize(), noun=noun)
    if text and rng.random() < 0.1:
        text += f" Use it when the user asks for the {noun}."
    return text


def _parameters(draws: Draws) -> tuple[Parameter, ...]:
    rng = draws.rng
    chosen: dict[str, Parameter] = {}
    for _ in range(rng.choices((0, 1, 2, 3), (0.12, 0.45, 0.3, 0.13))[0]):
        if rng.random() < 0.3:
            name = draws.word().lower() if _is_invented(draws) else rng.choice(SAID)
            said = name
            kind, value = rng.choice(SAID_KINDS)
            clauses: tuple[str, ...] = SAID_CLAUSES
        else:
            names, kind, value, clauses = rng.choice(PARAMETERS)
            name, said = rng.choice(names), names[0]
        # Two parameters that a question states in the same words could not be told apart.
        if name not in {one.name for one in chosen.values()}:
            chosen.setdefault(said, Parameter(name, kind, value, clauses))
    return tuple(chosen.values())


def request(draws: Draws, tool: Tool, *, named: float = NAMED) -> Call:
    """Draw a question that needs a tool.

    Args:
        draws: Decides the wording and the values.
        tool: The tool.
        named: How often the question names the tool, instead of saying what it is about.
    """
    rng = draws.rng
    told = [one for one in tool.parameters if one.name not in tool.optional or rng.random() < 0.5]
    values = [draws.value(one.value) for one in told]
    arguments = {
        one.name: json.loads(value) if one.type in ("integer", "number") else value
        for one, value in zip(told, values, strict=True)
    }
    order = list(range(len(told)))
    rng.shuffle(order)
    clauses = "".join(
        " " + _glossed(draws, rng.choice(told[at].clauses), told[at].name, values[at])
        for at in order
    )
    if clauses.startswith(" and "):
        clauses = " with " + clauses.removeprefix(" and ")
    form, subject = rng.random(), tool.name
    if form < named * _BY_USE:
        question = rng.choice(USES).format(tool=tool.name, clauses=clauses)
    elif form < named and len(told) == len(tool.parameters):
        question = rng.choice(WRITTEN).format(tool=tool.name, values=", ".join(values))
    else:
        subject = f"the {tool.noun}"
        forms = LOOK_QUESTIONS if tool.looks_up else DO_QUESTIONS
        question = rng.choice(forms).format(
            verb=tool.verb, Verb=tool.verb.capitalize(), noun=tool.noun, clauses=clauses
        )
    value, result = _result(draws, tool)
    return Call(tool, question, subject, arguments, result, f"The {tool.noun} is {value}.")


def _glossed(draws: Draws, clause: str, name: str, value: str) -> str:
    """State a value, in training often with a name in plain letters in brackets after it.

    Only names that ASCII cannot write are explained like this; the argument is the name alone.
    """
    said = clause.format(n=name, v=value)
    rng = draws.rng
    if draws.split != "train" or value.isascii() or rng.random() > GLOSSED:
        return said
    gloss = " ".join(draws.word() for _ in range(rng.choice((1, 2))))
    return f"{said} ({gloss})"


def _result(draws: Draws, tool: Tool) -> tuple[str, str]:
    """Draw a value and the text in which the tool returns it."""
    rng = draws.rng
    if tool.looks_up:
        kind = rng.choice(("name", "number", "decimal", "small", "time", "price", "any", "weekday"))
        value = draws.value(kind)
    else:
        value = rng.choice(OUTCOMES)
    form = rng.random()
    if form < 0.4:
        return value, value
    key = rng.choice((tool.noun.replace(" ", "_"), "result", "value", "output"))
    number = value.replace(".", "", 1).isdigit() and (value[0] != "0" or "." in value[:2])
    shown = value if number else json.dumps(value, ensure_ascii=False)
    if form < 0.8:
        return value, f'{{"{key}": {shown}}}'
    return value, f"{key}: {value}"
