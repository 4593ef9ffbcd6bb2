"""JSON schemas of answers and arguments: told to the model, narrowed, and checked afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

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
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
}


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
    """Why a JSON schema (draft 2020-12 or earlier) does not accept a value; None where it does.

    References outside of the schema, ``format`` and ``unevaluated...`` are not looked at, and
    neither are patterns that Python's ``re`` cannot read.
    """
    try:
        return next(_faults(value, schema, schema, "it"), None)
    except RecursionError:
        return "it is nested too deeply to be checked"


def _faults(value: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    if schema is False:
        yield f"{place} is not allowed"
    if not isinstance(schema, Mapping):
        return

    def accepted(part: Any, one: Any = value) -> bool:
        return next(_faults(one, part, root, place), None) is None

    if isinstance(reference := schema.get("$ref"), str):
        yield from _faults(value, _referred(reference, root), root, place)
    kinds = schema.get("type")
    wanted = [kinds] if isinstance(kinds, str) else kinds
    if wanted and not any(_is_a(value, kind) for kind in wanted):
        yield f"{place} is not of type {' or '.join(wanted)}"
        return
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{place} is not {schema['const']!r}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        yield f"{place} is none of {schema['enum']!r}"
    for part in schema.get("allOf", ()):
        yield from _faults(value, part, root, place)
    if "anyOf" in schema and not any(map(accepted, schema["anyOf"])):
        yield f"{place} matches nothing of anyOf"
    if "oneOf" in schema and sum(map(accepted, schema["oneOf"])) != 1:
        yield f"{place} does not match exactly one of oneOf"
    if "not" in schema and accepted(schema["not"]):
        yield f"{place} matches what stands under not"
    if "if" in schema:
        then = schema.get("then" if accepted(schema["if"]) else "else", True)
        yield from _faults(value, then, root, place)
    if isinstance(value, dict):
        yield from _object_faults(value, schema, root, place)
    elif isinstance(value, list):
        yield from _array_faults(value, schema, root, place)
    elif isinstance(value, str):
        yield from _bounds(len(value), schema, "Length", f"the length of {place}")
        if "pattern" in schema and not _matches(schema["pattern"], value):
            yield f"{place} does not match the pattern {schema['pattern']!r}"
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number_faults(value, schema, place)


def _object_faults(
    value: dict[str, Any], schema: Mapping[str, Any], root: Any, place: str
) -> Iterator[str]:
    yield from _bounds(len(value), schema, "Properties", f"the number of properties of {place}")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{place} lacks {name!r}"
    needed: Mapping[str, Any] = schema.get("dependentRequired", {})
    for name, others in needed.items():
        if name in value and (missing := set(others) - value.keys()):
            yield f"{place} has {name!r} but lacks {min(missing)!r}"
    for name, part in schema.get("dependentSchemas", {}).items():
        if name in value:
            yield from _faults(value, part, root, place)
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    for name, one in value.items():
        inside = f"{name!r}" if place == "it" else f"{place}.{name}"
        if "propertyNames" in schema:
            yield from _faults(name, schema["propertyNames"], root, f"the name {name!r}")
        parts = [part for pattern, part in patterns.items() if _matches(pattern, name)]
        if name in properties:
            parts.append(properties[name])
        for part in parts or [schema.get("additionalProperties", True)]:
            yield from _faults(one, part, root, inside)


def _array_faults(
    value: list[Any], schema: Mapping[str, Any], root: Any, place: str
) -> Iterator[str]:
    yield from _bounds(len(value), schema, "Items", f"the number of items of {place}")
    items, first = schema.get("items", True), schema.get("prefixItems", [])
    if isinstance(items, list):  # as drafts before 2020-12 say it
        first, items = items, schema.get("additionalItems", True)
    for number, one in enumerate(value):
        part = first[number] if number < len(first) else items
        yield from _faults(one, part, root, f"{place}[{number}]")
    if schema.get("uniqueItems") is True and any(
        _same(one, other) for number, one in enumerate(value) for other in value[:number]
    ):
        yield f"{place} has an item twice"
    if "contains" in schema:
        found = sum(next(_faults(one, schema["contains"], root, ""), None) is None for one in value)
        least, most = schema.get("minContains", 1), schema.get("maxContains", len(value))
        if not least <= found <= most:
            yield f"{place} has {found} items of the kind that it is to contain"


def _number_faults(value: float, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    for name, wrong in (
        ("minimum", lambda bound: value < bound),
        ("maximum", lambda bound: value > bound),
        ("exclusiveMinimum", lambda bound: value <= bound),
        ("exclusiveMaximum", lambda bound: value >= bound),
        ("multipleOf", lambda bound: Decimal(str(value)) % Decimal(str(bound)) != 0),
    ):
        bound = schema.get(name)
        if isinstance(bound, (int, float)) and not isinstance(bound, bool) and wrong(bound):
            yield f"{place} is {value!r}, which is against {name} {bound!r}"


def _bounds(size: int, schema: Mapping[str, Any], what: str, place: str) -> Iterator[str]:
    if size < schema.get(f"min{what}", 0):
        yield f"{place} is {size}, below {schema[f'min{what}']}"
    if size > schema.get(f"max{what}", size):
        yield f"{place} is {size}, above {schema[f'max{what}']}"


def _is_a(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (kind == "number" or value == int(value))
    return isinstance(value, _TYPES.get(kind, (object,)))


def _same(one: Any, other: Any) -> bool:
    # In Python, and not in JSON, true is 1.
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return True


def _referred(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        return True
    found = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            return True
    return found
