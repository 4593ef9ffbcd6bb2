"""JSON schemas of answers and arguments: told to the model, narrowed, and checked afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jsonschema import Draft201909Validator, Draft202012Validator
from jsonschema.exceptions import UnknownType, best_match
from jsonschema.validators import validator_for
from pydantic.json_schema import GenerateJsonSchema
from referencing import Registry
from referencing.exceptions import Unresolvable

from linalign_integrations.prompts.messages import add_to

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

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
# Dates that there are, RFC 3339's times, and its durations with numbers that end.
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_FOURTH = "(?:0[48]|[2468][048]|[13579][26])"
_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"(?:{_YEAR}-{_DAY}|(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29)"
_HOUR = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR})"
_COUNT = "[0-9]{1,4}"
_HOURS = f"T(?:{_COUNT}H(?:{_COUNT}M(?:{_COUNT}S)?)?|{_COUNT}M(?:{_COUNT}S)?|{_COUNT}S)"
_DAYS = f"(?:{_COUNT}Y(?:{_COUNT}M(?:{_COUNT}D)?)?|{_COUNT}M(?:{_COUNT}D)?|{_COUNT}D)"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:{_COUNT}W|{_DAYS}(?:{_HOURS})?|{_HOURS})",
    **{
        f"uuid{version}": f"[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}"
        "-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        for version in range(1, 9)
    },
}
# Formats that llguidance has, and others that one of them is an example of.
_ENFORCED = ("email", "hostname", "ipv4", "ipv6", "uri", "uuid")
_EXAMPLES = {
    "idn-email": "email",
    "idn-hostname": "hostname",
    "ipv4interface": "ipv4",
    "ipv4network": "ipv4",
    "ipv6interface": "ipv6",
    "ipv6network": "ipv6",
    "ipvanyaddress": "ipv4",
    "ipvanyinterface": "ipv4",
    "ipvanynetwork": "ipv4",
    "iri": "uri",
    "iri-reference": "uri",
    "uri-reference": "uri",
}
_KEYS = {
    "int": "^-?(?:0|[1-9][0-9]{0,17})$",
    "float": r"^-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?$",
}
# A number without bounds may end in an exponent that no Decimal has.
_LARGEST = 10**15
_LEAST, _MOST = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
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


def narrow(schema: Any) -> Any:
    """The schema in keywords that are enforced while an answer is written, where there are such.

    Dates exist, their fractions end, and keys follow ``propertyNames``.
    """

    def rewrite(part: dict[str, Any]) -> dict[str, Any]:
        return _spelt(_keyed(part, schema))

    return _rewritten(schema, rewrite)


def _spelt(part: dict[str, Any]) -> dict[str, Any]:
    """The part with a pattern or a format that is enforced in the place of its format."""
    known = str(part.get("format"))
    if known in _FORMATS:
        rest = {key: one for key, one in part.items() if key != "format"}
        return {"pattern": f"^{_FORMATS[known]}$", **rest}
    return {**part, "format": _EXAMPLES[known]} if known in _EXAMPLES else part


def _keyed(part: dict[str, Any], root: Any) -> dict[str, Any]:
    """The part with its keys named, or their pattern, in the place of ``propertyNames``."""
    names, others = part.get("propertyNames"), part.get("additionalProperties", True)
    if not isinstance(names, Mapping) or {"properties", "patternProperties"} & part.keys():
        return part
    path = str(names.get("$ref", "")).split("/")
    if path[0] == "#":
        for step in path[1:]:
            root = root.get(step) if isinstance(root, Mapping) else None
        names = root if isinstance(root, Mapping) else {}
    rest = {key: one for key, one in part.items() if key != "propertyNames"}
    listed = names.get("enum", [names["const"]] if "const" in names else None)
    if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
        named = dict.fromkeys(listed, others)
        return {**rest, "properties": named, "additionalProperties": False}
    pattern = _spelt(dict(names)).get("pattern")
    if isinstance(pattern, str) and not names.keys() - {"format", "pattern", "type", "title"}:
        return {**rest, "patternProperties": {pattern: others}, "additionalProperties": False}
    return part


class WrittenSchema(GenerateJsonSchema):
    """The JSON schema of a pydantic class as an answer has to be for the class to accept it.

    pydantic's own says less than its classes check: that any text may be a ``Decimal``, and nothing
    of the keys of a ``dict[int, ...]``. It says that items of a set differ, which need not be.
    """

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """A number, of a size that is finite whatever its digits."""
        made = super().decimal_schema(schema)
        number = next((one for one in made.get("anyOf", ()) if one.get("type") == "number"), made)
        least, most = number.keys() & _LEAST, number.keys() & _MOST
        bounds = {
            **({} if least else {"minimum": -_LARGEST}),
            **({} if most else {"maximum": _LARGEST}),
        }
        return {**number, **bounds}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """An object, keys that are numbers by their pattern."""
        made = super().dict_schema(schema)
        kind = str(schema.get("keys_schema", {}).get("type"))
        return {**made, "propertyNames": {"pattern": _KEYS[kind]}} if kind in _KEYS else made

    def set_schema(self, schema: core_schema.SetSchema) -> JsonSchemaValue:
        """A list, from which the class drops what comes twice."""
        return _repeatable(super().set_schema(schema))

    def frozenset_schema(self, schema: core_schema.FrozenSetSchema) -> JsonSchemaValue:
        """A list, from which the class drops what comes twice."""
        return _repeatable(super().frozenset_schema(schema))


def _repeatable(made: JsonSchemaValue) -> JsonSchemaValue:
    return {key: one for key, one in made.items() if key != "uniqueItems"}


def without_notes(schema: Any) -> Any:
    """The schema without formats that no grammar here knows: to JSON Schema they are notes."""

    def drop(part: dict[str, Any]) -> dict[str, Any]:
        if part.get("format") in (None, *_ENFORCED):
            return part
        return {key: one for key, one in part.items() if key != "format"}

    return _rewritten(schema, drop)


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
    except (Unresolvable, UnknownType, re.error, TypeError, AttributeError) as wrong:
        return f"its schema cannot be read: {str(wrong).splitlines()[0]}"
    if error is None:
        return None
    place = "".join(f"[{step!r}]" for step in error.absolute_path)
    return f"{place}: {error.message}" if place else error.message
