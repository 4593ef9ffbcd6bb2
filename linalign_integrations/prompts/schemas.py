"""JSON schemas of answers and arguments: told to the model, narrowed, and checked afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jsonschema import Draft201909Validator, Draft202012Validator
from jsonschema.exceptions import UnknownType, best_match
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from linalign_integrations.prompts.messages import add_to

if TYPE_CHECKING:
    from linalign_integrations.prompts.messages import Message

Schema = Mapping[str, Any] | bool

# Keywords that no grammar engine here enforces, but a finished answer can be checked for.
_CHECKED_ONLY = frozenset(
    {
        "contains",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "minContains",
        "minProperties",
        "not",
        "propertyNames",
        "then",
        "uniqueItems",
    }
)
# Schemas with one of these say themselves what else there may be.
_OPEN = {"additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"}
_NAMED_PARTS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_VALUES = {"const", "enum", "default", "examples"}


def tell_schema(
    messages: list[Message], schema: Mapping[str, Any], *, after_tools: bool = False
) -> list[Message]:
    """The conversation with the schema of the answer told in its system message.

    A grammar keeps an answer valid; what the fields mean only their descriptions say.

    Args:
        messages: the conversation.
        schema: what the answer has to be.
        after_tools: whether the model may call tools before it answers.
    """
    told = (
        ("Call tools first where you need them. " if after_tools else "")
        + "Answer with JSON that this JSON schema accepts, and nothing else:\n"
        f"{json.dumps(dict(schema), ensure_ascii=False)}"
    )
    if messages and messages[0].get("role") == "system":
        return [add_to(messages[0], told), *messages[1:]]
    return [{"role": "system", "content": told}, *messages]


def close_objects(schema: Any) -> Any:
    """The schema with objects that have no properties but those it names.

    Only where it does not say itself what else there may be.
    """

    def close(part: dict[str, Any]) -> dict[str, Any]:
        if "properties" in part and not _OPEN & part.keys():
            return {**part, "additionalProperties": False}
        return part

    return _rewritten(schema, close)


def loosen(schema: Any) -> Any:
    """The schema without the keywords that cannot be enforced while an answer is written."""
    return _rewritten(
        schema, lambda part: {key: one for key, one in part.items() if key not in _CHECKED_ONLY}
    )


def parts(schema: Any) -> list[dict[str, Any]]:
    """A schema and the schemas in it."""
    found: list[dict[str, Any]] = []

    def keep(part: dict[str, Any]) -> dict[str, Any]:
        found.append(part)
        return part

    _rewritten(schema, keep)
    return found


def _rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with each schema in it changed."""
    if isinstance(schema, list):
        return [_rewritten(one, change) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for key, value in change(dict(schema)).items():
        if key in _VALUES:
            made[key] = value
        elif key in _NAMED_PARTS and isinstance(value, Mapping):
            made[key] = {name: _rewritten(one, change) for name, one in value.items()}
        else:
            made[key] = _rewritten(value, change)
    return made


def find_fault(value: Any, schema: Schema) -> str | None:
    """Why a JSON schema does not accept a value; None where it does.

    Nothing is fetched: a reference that leads out of the schema is a fault.
    """
    if schema is True:
        return None
    draft = validator_for(schema, default=Draft202012Validator)
    listed = (isinstance(part.get("items"), list) for part in parts(schema))
    # Earlier drafts list the items of a tuple there, and so do pydantic 1 and LangChain still.
    if draft is Draft202012Validator and any(listed):
        draft = Draft201909Validator
    try:
        error = best_match(draft(schema, registry=Registry()).iter_errors(value))
    except RecursionError:
        return "it is nested too deeply to be checked"
    except (Unresolvable, UnknownType, re.error) as wrong:
        return f"its schema cannot be read: {str(wrong).splitlines()[0]}"
    if error is None:
        return None
    place = "".join(f"[{step!r}]" for step in error.absolute_path)
    return f"{place}: {error.message}" if place else error.message
