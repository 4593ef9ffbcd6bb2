"""The tools of a request: checked, and written into a prompt whose template knows none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from linalign_integrations.errors import InvalidTools
from linalign_integrations.prompts.messages import add_to, is_deep

if TYPE_CHECKING:
    from linalign_integrations.prompts.messages import Message

MODES = ("auto", "none", "required")
TOOL_NAME = re.compile(r"[\w./:-]{1,128}")
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
_INSTRUCTIONS = (
    "You may call these tools. Each line is the JSON of one:\n{definitions}\n\n"
    "To call tools, write for each call, and nothing after the last one:\n"
    '<tool_call>\n{{"name": "<name>", "arguments": {{<arguments>}}}}\n</tool_call>'
)


@dataclass(frozen=True)
class Tools:
    """The tools of one request. Made by ``read_tools``.

    Attributes:
        definitions: function schemas in the OpenAI style, each with a name and parameters.
        choice: ``"auto"``, ``"none"``, ``"required"``, or the name of the tool to call.
        parallel: whether there may be several calls in one answer.
    """

    definitions: tuple[dict[str, Any], ...]
    choice: str = "auto"
    parallel: bool = True

    @cached_property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """The JSON schema of each tool's arguments, by name."""
        functions = [one["function"] for one in self.definitions]
        return {one["name"]: one["parameters"] for one in functions}

    @property
    def forced(self) -> bool:
        """Whether the answer has to be a call."""
        return self.choice not in ("auto", "none")

    @property
    def callable_names(self) -> tuple[str, ...]:
        """The tools that the answer may call."""
        if self.choice == "none":
            return ()
        return tuple(self.schemas) if self.choice in MODES else (self.choice,)


def read_tools(
    tools: Iterable[Mapping[str, Any]] | None,
    choice: str | None = None,
    *,
    parallel: bool = True,
) -> Tools | None:
    """Checked tools; None where there are none.

    Args:
        tools: function schemas: ``{"type": "function", "function": {"name": ..., "description":
            ..., "parameters": <JSON schema of an object>}}``.
        choice: ``"auto"``, ``"none"``, ``"required"`` or a tool's name; None means ``"auto"``.
        parallel: whether there may be several calls in one answer; a tool that is chosen by its
            name is called once.

    Raises:
        InvalidTools: a schema is malformed, two have the same name, or ``choice`` names none.
    """
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Iterable | None):
        raise InvalidTools(f"tools= takes a list of function schemas, not {type(tools).__name__}")
    if not isinstance(parallel, bool):
        raise InvalidTools(f"parallel_tool_calls={parallel!r} is neither True nor False")
    definitions = tuple(_definition(one, place) for place, one in enumerate(tools or ()))
    names = [one["function"]["name"] for one in definitions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidTools(f"two tools are called {twice[0]!r}: rename one of them")
    choice = "auto" if choice is None else choice
    if choice not in (*MODES, *names):
        known = ", ".join(names) or "none"
        raise InvalidTools(
            f"tool_choice={choice!r} is neither {', '.join(MODES)} nor a tool given (these are: "
            f"{known})"
        )
    if not definitions:
        if choice == "required":
            raise InvalidTools('tool_choice="required" needs tools=: there is nothing to call')
        return None
    return Tools(definitions, choice, parallel and choice in MODES)


def read_choice(choice: object) -> str | None:
    """``tool_choice`` of the engine for what callers of the frameworks write.

    Args:
        choice: one of the engine's own; ``"any"`` or True, which mean ``"required"``; False, which
            means ``"none"``; or OpenAI's mapping that names a function.

    Raises:
        InvalidTools: it is none of these.
    """
    read = choice
    if isinstance(choice, Mapping) and isinstance(function := choice.get("function"), Mapping):
        read = function.get("name") or choice
    if isinstance(read, bool):
        return "required" if read else "none"
    if read is None or isinstance(read, str):
        return "required" if read == "any" else read
    raise InvalidTools(
        f"tool_choice={choice!r} is neither {', '.join(MODES)}, any, the name of a tool, nor "
        '{"type": "function", "function": {"name": ...}}'
    )


def _definition(tool: object, place: int) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or not isinstance(function, Mapping):
        raise InvalidTools(
            f"tool {place} is not a function schema: give "
            '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
        )
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise InvalidTools(
            f"tool {place} has the name {name!r}: use 1 to 128 letters, digits, and _ . / : -"
        )
    parameters = function.get("parameters") or _NO_PARAMETERS
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InvalidTools(f"tool {name!r}: parameters is not the JSON schema of an object")
    if not isinstance(function.get("description") or "", str):
        raise InvalidTools(f"tool {name!r}: description is not text")
    whole = {
        "name": name,
        "description": function.get("description") or "",
        "parameters": {**parameters, "type": "object"},
    }
    try:
        # A copy that nobody changes while the request runs, and that templates can write.
        copied = json.loads(json.dumps(whole, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTools(f"tool {name!r} cannot be written as JSON: {error}") from error
    if is_deep(copied):
        raise InvalidTools(f"tool {name!r}: its parameters are nested too deeply")
    return {"type": "function", "function": copied}


def instructions(tools: Tools) -> str:
    """What a system message says of tools where the chat template does not."""
    lines = [json.dumps(one["function"], ensure_ascii=False) for one in tools.definitions]
    return _INSTRUCTIONS.format(definitions="\n".join(lines))


def spell_out(messages: list[Message]) -> list[Message]:
    """Calls and their results as text, for templates that know neither.

    A result becomes part of a user turn, together with its neighbours, so that roles alternate.
    """
    spelt: list[Message] = []
    in_results = False
    for message in messages:
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            message = {"role": "user", "content": text}
            if in_results:
                spelt[-1] = add_to(spelt[-1], text)
                continue
            in_results = True
        elif message["role"] == "user" and in_results:
            spelt[-1] = add_to(spelt[-1], message["content"])
            continue
        else:
            in_results = False
        calls = message.get("tool_calls")
        if calls:
            written = "\n".join(map(_written, calls))
            text = "\n".join(filter(None, [message["content"], written]))
            message = {"role": "assistant", "content": text}
        spelt.append(message)
    return spelt


def _written(call: Mapping[str, Any]) -> str:
    function = call["function"]
    text = json.dumps(
        {"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False
    )
    return f"<tool_call>\n{text}\n</tool_call>"
