"""Tools and schemas bound to a model, with all that was bound to it before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from linalign_integrations.errors import InvalidTools
from linalign_integrations.langchain.bindings import Bound, Generates
from linalign_integrations.langchain.errors import langchain_errors
from linalign_integrations.langchain.structured import structured

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool
Chosen = str | bool | dict[str, Any]


class Askable(Runnable[LanguageModelInput, AIMessage]):
    """What can be given tools: a model, and what ``bind`` and its kin make of it.

    LangChain's own bindings hand ``bind_tools`` on to the model alone, and so lose what was bound.
    """

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: Chosen | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The same model, which may call tools.

        Args:
            tools: LangChain's tools, functions, pydantic classes, TypedDicts, runnables as tools,
                or their schemas in OpenAI's or Anthropic's style.
            tool_choice: ``"auto"`` (by default), ``"none"``, ``"any"``, ``"required"`` or True, or
                the tool to call: its name, or OpenAI's or Anthropic's mapping with it.
            strict: as in ``convert_to_openai_tool``: whether objects have no properties but those
                that their schemas name. Calls are kept valid by grammar either way; what a grammar
                cannot hold of a schema is checked afterwards, which a warning says.
            **kwargs: call arguments to bind as well, such as ``parallel_tool_calls``,
                ``response_format`` or ``principles``.

        Raises:
            InvalidTools: a tool cannot be read, or the one to call is none of them.
        """
        from linalign_integrations.prompts import read_tools

        with langchain_errors():
            schemas = as_schemas(tools, strict=strict)
            choice = read_tool_choice(tool_choice)
            # Of those with one name the engine complains, if they are ever used.
            named = {str(one.get("function", {}).get("name")): one for one in schemas}
            read_tools(named.values(), choice)
        if choice is not None:
            kwargs["tool_choice"] = choice
        return self.bind(tools=schemas, **kwargs)

    def with_alisteners(self, **listeners: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """The same model, whose runs are told to asynchronous listeners."""
        made: Any = super().with_alisteners(**listeners)
        return BoundLinAlign(
            bound=self, config_factories=made.config_factories, kwargs={}, config={}
        )

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The same model, whose answers are values of a schema.

        Args:
            schema: a pydantic class, a TypedDict, a JSON schema or an OpenAI function schema. It
                may be left out in JSON mode only, where the answer is then any JSON object.
            method: ``"json_schema"``: the model is told the schema, and a grammar keeps the answer
                to it. ``"function_calling"``: the same as the arguments of a call.
                ``"json_mode"``: the prompt itself says what is wanted; the grammar keeps to it.
            include_raw: whether to give ``{"raw": message, "parsed": value, "parsing_error":
                error}`` instead of the value, and raise no error that parsing finds.
            strict: whether to refuse a schema that the grammar cannot enforce in whole. Otherwise
                what it leaves out is checked afterwards, which a warning says.
            **kwargs: none.

        Raises:
            InvalidArgument: the method is unknown, or the schema is missing.
            InvalidGrammar: it is no schema, ``strict`` asks for too much, or a call's arguments
                cannot be of its type. That no JSON satisfies a schema shows at the first call.
            ValueError: there are other arguments.
        """
        return structured(
            self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs
        )


class Bindable(Askable):
    """A model to which arguments, listeners and types are bound so that later steps keep them."""

    def bind(self, **kwargs: Any) -> BoundLinAlign:
        """The model with call arguments, which it keeps when it is given tools or a schema."""
        return BoundLinAlign(bound=self, kwargs=kwargs, config={})

    def with_listeners(self, **listeners: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """The model whose runs are told to listeners."""
        return self.bind().with_listeners(**listeners)

    def with_types(self, **types: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with other types of input and output."""
        return self.bind().with_types(**types)


class BoundLinAlign(Askable, Bound[LanguageModelInput, AIMessage]):  # type: ignore[no-redef]
    """A model with arguments, which it keeps when it is given tools or a schema."""


class ConfigurableLinAlign(Generates, Bindable, RunnableConfigurableFields):  # type: ignore[type-arg]
    """A model whose fields a configuration sets, also when it was given tools or a schema."""

    def for_user(self, user_id: str) -> ConfigurableLinAlign:
        """A cheap copy that answers for one user, with the same fields to be set."""
        default: Any = self.default
        return self.model_copy(update={"default": default.for_user(user_id)})


def as_schemas(tools: Sequence[Tool], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Function schemas in the OpenAI style.

    Raises:
        InvalidTools: one is nothing that can be read as a tool.
    """
    if not isinstance(tools, Iterable):
        raise InvalidTools(f"tools= takes a list of tools, not {type(tools).__name__}")
    schemas = []
    for tool in tools:
        try:
            schemas.append(convert_to_openai_tool(tool, strict=strict))
        except (TypeError, ValueError, KeyError) as error:
            name = getattr(tool, "name", None) or getattr(tool, "__name__", None) or repr(tool)
            raise InvalidTools(f"{name!s:.80} cannot be used as a tool: {error}") from error
    return schemas


def read_tool_choice(choice: Chosen | None) -> str | None:
    """The engine's ``tool_choice`` for what LangChain's users write; Anthropic's way too."""
    from linalign_integrations.prompts import read_choice

    if isinstance(choice, Mapping) and "function" not in choice:
        choice = choice.get("name") or choice.get("type") or choice
    return read_choice(choice)
