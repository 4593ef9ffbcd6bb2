"""Structured output: answers that are JSON of a schema, and what they are read as."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableBinding, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel
from pydantic.v1 import BaseModel as BaseModelV1
from pydantic_core import from_json

from linalign_integrations.errors import InvalidArgument, InvalidGrammar
from linalign_integrations.langchain.errors import langchain_errors
from linalign_integrations.langchain.messages import FIRST_CALL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.language_models import LanguageModelInput

    from linalign_integrations.engine import Grammar

Method = Literal["json_schema", "function_calling", "json_mode"]
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def structured(
    model: Runnable[LanguageModelInput, AIMessage],
    schema: dict[str, Any] | type | None,
    *,
    method: Method,
    include_raw: bool,
    strict: bool | None,
    **unknown: Any,
) -> Runnable[LanguageModelInput, Any]:
    """What ``with_structured_output`` gives; see there."""
    if unknown:
        raise ValueError(f"with_structured_output does not know {', '.join(sorted(unknown))}")
    with langchain_errors():
        arguments, plain = _arguments(schema, method, strict)
    told = {"method": method} if strict is None else {"method": method, "strict": strict}
    shown = {"kwargs": told, "schema": _ANY_OBJECT if schema is None else schema}
    if isinstance(model, RunnableBinding) and model.kwargs.get("tools"):
        # An answer that has to be a value cannot call what was bound before.
        arguments = {"tools": None, "tool_choice": None, **arguments}
    asked = model.bind(**arguments, ls_structured_output_format=shown)
    kind = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    parser = ValueParser(kind=kind, json_schema=plain, of_call=method == "function_calling")
    if not include_raw:
        return asked | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    either = parsed.with_fallbacks([unparsed], exception_key="parsing_error")
    return RunnableMap(raw=asked) | either


def _arguments(
    schema: dict[str, Any] | type | None, method: Method, strict: bool | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to bind to the model, and the JSON schema of what comes back."""
    if method not in ("json_schema", "function_calling", "json_mode"):
        raise InvalidArgument(
            f"method={method!r} is none of 'json_schema', 'function_calling' and 'json_mode'"
        )
    if schema is None:
        if method != "json_mode":
            raise InvalidArgument(f"method={method!r} needs a schema")
        return {"response_format": {"type": "json_object"}}, _ANY_OBJECT
    plain = as_json_schema(schema)
    grammar_for(plain, strict=bool(strict))
    if method == "function_calling":
        if plain.get("type", "object") != "object":
            raise InvalidGrammar(
                f"a call's arguments are an object, and {plain.get('title', 'the schema')} is of "
                f"type {plain['type']!r}: use method='json_schema'"
            )
        tool = convert_to_openai_tool(_titled(schema), strict=strict)
        name = tool["function"]["name"]
        chosen = {"tools": [tool], "tool_choice": name, "parallel_tool_calls": False}
        return chosen, plain
    told: dict[str, Any] = {"name": str(plain.get("title", "answer")), "schema": plain}
    if strict is not None:
        told["strict"] = strict
    return {
        "response_format": {
            "type": "json_object" if method == "json_mode" else method,
            "json_schema": told,
        }
    }, plain


def _titled(schema: dict[str, Any] | type) -> dict[str, Any] | type:
    if isinstance(schema, Mapping) and not {"title", "name", "function"} & schema.keys():
        return {"title": "answer", **schema}
    return schema


def as_json_schema(schema: Mapping[str, Any] | type) -> dict[str, Any]:
    """The JSON schema of what users give as a schema.

    Raises:
        InvalidGrammar: it is nothing of that kind.
    """
    try:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            from linalign_integrations.prompts.schemas import WrittenSchema

            return schema.model_json_schema(schema_generator=WrittenSchema)
        if isinstance(schema, type) and issubclass(schema, BaseModelV1):
            return schema.schema()
        if isinstance(schema, Mapping) and not {"name", "function", "toolSpec"} & schema.keys():
            return dict(schema)
        return convert_to_json_schema(dict(schema) if isinstance(schema, Mapping) else schema)
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidGrammar(f"{schema!r:.80} is no schema of an answer: {error}") from error


def grammar_for(schema: Mapping[str, Any], *, strict: bool = False) -> tuple[Grammar, bool]:
    """The grammar for an answer of a schema, and whether answers have to be checked as well.

    Raises:
        InvalidGrammar: the schema cannot be enforced; with ``strict``, not even in part.
    """
    grammar, fault = _enforceable(json.dumps(schema))
    if fault is not None and strict:
        raise InvalidGrammar(f"strict=True, and {fault}")
    if fault is not None:
        name = schema.get("title", "the answer")
        warnings.warn(f"{name} is checked only after it was written: {fault}", stacklevel=4)
    return grammar, fault is not None


@lru_cache(maxsize=256)
def _enforceable(schema: str) -> tuple[Grammar, str | None]:
    from linalign_integrations.engine.grammar import enforceable

    return enforceable(json.loads(schema))


@dataclass(frozen=True)
class Format:
    """What a call's ``response_format`` asks for.

    Attributes:
        grammar: what keeps the answer to it.
        told: the schema that the model is to be told; None where the prompt says what is wanted.
        checked: the schema to check the answer against, where the grammar leaves something out.
    """

    grammar: Grammar
    told: Mapping[str, Any] | None = None
    checked: Mapping[str, Any] | None = None

    def check(self, text: str) -> None:
        """Warns of an answer that the schema does not accept."""
        if self.checked is not None and (fault := _fault(text, self.checked)) is not None:
            warnings.warn(f"the answer is not what its schema asks for: {fault}", stacklevel=3)


def spelled_out(response_format: Any) -> dict[str, Any]:
    """A call's ``response_format`` in OpenAI's shape, with a JSON schema for each class.

    Args:
        response_format: that shape, or a class or JSON schema alone.

    Raises:
        InvalidArgument: it is of no such shape.
        InvalidGrammar: its schema is none.
    """
    if not isinstance(response_format, Mapping) or (
        "json_schema" not in response_format
        and response_format.get("type") not in ("text", "json_object", "json_schema")
    ):
        if not isinstance(response_format, (type, Mapping)):
            raise InvalidArgument(
                "response_format= takes {'type': 'json_schema', 'json_schema': {'schema': ...}} or "
                f"{{'type': 'json_object'}}, not {response_format!r:.80}"
            )
        return {"json_schema": {"schema": as_json_schema(response_format)}}
    described = response_format.get("json_schema")
    if response_format.get("type") == "text" or described is None:
        return dict(response_format)
    if not isinstance(described, Mapping) or "schema" not in described:
        raise InvalidArgument("response_format= has no {'json_schema': {'schema': ...}}")
    plain = {**described, "schema": as_json_schema(described["schema"])}
    return {**response_format, "json_schema": plain}


def read_format(response_format: Any) -> Format | None:
    """A call's ``response_format``; None for text.

    Raises:
        InvalidArgument: it is of no shape that ``spelled_out`` takes.
        InvalidGrammar: its schema is none, or cannot be enforced.
    """
    response_format = spelled_out(response_format)
    if response_format.get("type") == "text":
        return None
    described = response_format.get("json_schema")
    free = response_format.get("type") == "json_object"
    if described is None and free:
        return Format(grammar_for(_ANY_OBJECT)[0])
    if described is None:
        raise InvalidArgument("response_format= has no {'json_schema': {'schema': ...}}")
    schema = described["schema"]
    grammar, checked = grammar_for(schema, strict=bool(described.get("strict")))
    return Format(grammar, None if free else schema, schema if checked else None)


def _fault(text: str, schema: Mapping[str, Any]) -> str | None:
    from linalign_integrations.prompts.schemas import find_fault

    try:
        value = json.loads(text)
    except ValueError as error:
        return f"it is not JSON ({error})"
    return find_fault(value, schema)


class ValueParser(BaseTransformOutputParser[Any]):
    """Reads the JSON of an answer, or of the arguments of its first call.

    A stream gives the value as it grows, as soon as its class accepts it, and last the whole value.

    Attributes:
        kind: the pydantic class, of either version; None for plain dictionaries.
        json_schema: what the value has to be.
        of_call: whether it is the arguments of a call, and not the answer's text.
    """

    kind: Any = None
    json_schema: dict[str, Any]
    of_call: bool = False

    @property
    def _type(self) -> str:
        return "linalign_value"

    def parse(self, text: str) -> Any:
        """Reads a text.

        Raises:
            OutputParserException: it is no JSON, or the schema does not accept it.
        """
        return self._whole(text)

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Reads an answer.

        Raises:
            OutputParserException: there is no value that the schema accepts.
        """
        first = result[0]
        if not isinstance(first, ChatGeneration) or not isinstance(first.message, AIMessage):
            return self._partial(first.text) if partial else self._whole(first.text)
        answer = first.message
        text = self._written(answer)
        return self._partial(text) if partial else self._whole(text, _why(answer))

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        growing = _Growing(self)
        for piece in input:
            yield from growing.add(piece)
        yield from growing.end()

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        growing = _Growing(self)
        async for piece in input:
            for value in growing.add(piece):
                yield value
        for value in growing.end():
            yield value

    def _written(self, answer: BaseMessage) -> str:
        """The JSON in an answer, or in a piece of one."""
        if not self.of_call:
            return answer.text
        if isinstance(answer, AIMessageChunk):
            chunks = answer.tool_call_chunks
            return "".join(one["args"] or "" for one in chunks if one["index"] in FIRST_CALL)
        if isinstance(answer, AIMessage) and answer.tool_calls:
            return json.dumps(answer.tool_calls[0]["args"], ensure_ascii=False)
        invalid = getattr(answer, "invalid_tool_calls", None)
        return (invalid[0]["args"] or "") if invalid else ""

    def _partial(self, text: str) -> Any:
        """What is there of a value; None where it is nothing yet."""
        try:
            return self._as_kind(from_json(text, allow_partial="trailing-strings"))
        except Exception:  # noqa: BLE001 - a class's own validator may stumble over half a value
            return None

    def _as_kind(self, value: Any) -> Any:
        if self.kind is None:
            return value
        if issubclass(self.kind, BaseModel):
            return self.kind.model_validate(value)
        return self.kind.parse_obj(value)

    def _whole(self, text: str, why: str | None = None) -> Any:
        fault = _fault(text, self.json_schema)
        made = None
        if fault is None:
            try:
                made = self._as_kind(json.loads(text))
            except ValueError as error:
                fault = str(error)
        if fault is not None:
            name = self.json_schema.get("title", "value")
            raise OutputParserException(
                f"no {name} could be read from the answer {text!r:.200}: {fault}"
                + (f"; {why}" if why else ""),
                llm_output=text,
            )
        return made


class _Growing:
    """A value whose JSON comes in pieces."""

    def __init__(self, parser: ValueParser) -> None:
        self._parser = parser
        self._text = ""
        self._last: Any = None
        self._why: str | None = None

    def add(self, piece: str | BaseMessage) -> Iterator[Any]:
        """The value so far, where the piece changed it."""
        self._text += piece if isinstance(piece, str) else self._parser._written(piece)
        if isinstance(piece, AIMessage):
            self._why = _why(piece) or self._why
        made = self._parser._partial(self._text)
        if made is not None and made != self._last:
            self._last = made
            yield made

    def end(self) -> Iterator[Any]:
        """The whole value, where it is not there yet."""
        made = self._parser._whole(self._text, self._why)
        if made != self._last:
            yield made


def _why(answer: AIMessage) -> str | None:
    """Why an answer may hold no value, where it says so itself."""
    if answer.response_metadata.get("finish_reason") == "length":
        return "max_tokens cut it off; allow more"
    if answer.invalid_tool_calls and not answer.tool_calls:
        return answer.invalid_tool_calls[0]["error"]
    return None
