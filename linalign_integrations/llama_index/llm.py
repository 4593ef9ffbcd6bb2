"""LinAlign: a local model for LlamaIndex that follows each user's preferences."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import isfunction, ismethod
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import uuid4

from llama_index.core.base.llms.generic_utils import messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.tools import FunctionTool, ToolMetadata
from pydantic import (
    Field,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from linalign_integrations.adapter import Adapter, fingerprint
from linalign_integrations.errors import LinAlignError
from linalign_integrations.llama_index.messages import (
    Answer,
    agrowing,
    as_dicts,
    awhole,
    growing,
    selections,
    whole,
)
from linalign_integrations.llama_index.parts import Align, Plumbing, adecide, decide, is_answer
from linalign_integrations.llama_index.structured import Extraction, Structured
from linalign_integrations.preferences import Preferences

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llama_index.core.llms.llm import ToolSelection
    from llama_index.core.prompts import BasePromptTemplate
    from llama_index.core.tools.types import BaseTool


# Says that something is dumped by itself: LlamaIndex's events do so at each call.
_ALONE = {"alone": True}
# Seconds for a second answer where the first took all the time: it fails by the engine's own error.
_LEAST_TIME = 1e-3


class LinAlign(Adapter, Structured, FunctionCallingLLM):
    """A local Hugging Face model as a LlamaIndex LLM with per-user preferences.

    LlamaIndex's engines and agents pass no arguments on to their LLM, so give them a copy per user:
    ``index.as_query_engine(llm=llm.for_user("ann"))``, or run them inside ``use_preferences``.
    Direct calls take ``principles=``, ``ratio=``, ``kl_budget=``, sampling arguments, ``tools=``,
    ``tool_choice=``, ``grammar=`` and ``timeout=`` as well. Preferences are settled when a method
    is called, also for streams that are consumed later.
    """

    _ignored = ("class_name", "preferences_digest")

    align: Align = Field(
        default="everything",
        description='What principles apply to; "answers" leaves out what LlamaIndex works with.',
    )
    # Preferences that hold already, for parts of LlamaIndex that ask later.
    _settled: Preferences | None = PrivateAttr(default=None)

    @model_serializer(mode="wrap")
    def custom_model_dump(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """The fields; as a part of something else, with what tells preferences of now apart.

        LlamaIndex caches what parts of an ingestion pipeline give under what they are dumped as.
        """
        made: dict[str, Any] = super().custom_model_dump(handler, info)
        if self.align != "nothing" and info.context is not _ALONE:
            made["preferences_digest"] = self._digest()
        return made

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The fields, for ``from_dict``."""
        return super().to_dict(**{"context": _ALONE, **kwargs})

    def _digest(self) -> str | None:
        try:
            return fingerprint(self._take_preferences({}))
        except LinAlignError:
            # What cannot be read is equal to nothing.
            return uuid4().hex

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises this class."""
        return "LinAlign"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex needs to know of the model.

        Reads its config, and weights only where that does not name a context length.
        """
        window = self._context_length()
        return LLMMetadata(
            context_window=window,
            # LlamaIndex gives prompts what is left of the window; answers end where it does.
            num_output=min(self._sampling({}).max_tokens, window // 2),
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events tell of this object.

        No window: LlamaIndex asks in the event loop, and the model's config may have to be fetched.
        """
        return {
            "class_name": self.class_name(),
            "model_name": self.model,
            "is_chat_model": True,
            "is_function_calling_model": True,
        }

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text; ``Settings.tokenizer = llm.tokenize`` makes LlamaIndex count in them.

        Loads the model on first use.
        """
        return self._engine().tokenize(text)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answers a conversation."""
        pieces, answer = self._ask("stream", self._turns, messages, kwargs)
        return whole(pieces, answer, answer.chat)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answers a conversation piece by piece."""
        pieces, answer = self._ask("stream", self._turns, messages, kwargs)
        return growing(pieces, answer, answer.chat)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """``chat`` without blocking the event loop."""
        pieces, answer = await self._aask(self._turns, messages, kwargs)
        return await awhole(pieces, answer, answer.chat)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """``stream_chat`` for ``async for``."""
        pieces, answer = await self._aask(self._turns, messages, kwargs)
        return agrowing(pieces, answer, answer.chat)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answers one prompt, which is one user turn."""
        pieces, answer = self._ask("stream", self._turn, _Completion(prompt, formatted), kwargs)
        return whole(pieces, answer, answer.completion)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answers one prompt piece by piece."""
        pieces, answer = self._ask("stream", self._turn, _Completion(prompt, formatted), kwargs)
        return growing(pieces, answer, answer.completion)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """``complete`` without blocking the event loop."""
        pieces, answer = await self._aask(self._turn, _Completion(prompt, formatted), kwargs)
        return await awhole(pieces, answer, answer.completion)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """``stream_complete`` for ``async for``."""
        pieces, answer = await self._aask(self._turn, _Completion(prompt, formatted), kwargs)
        return agrowing(pieces, answer, answer.completion)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,  # noqa: ARG002 - LlamaIndex's; it prints what tools give
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or ())
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        if user_msg is not None:
            messages.append(user_msg)
        choice = kwargs.pop("tool_choice", None)
        if choice is None and tool_required:
            choice = "required"
        return {
            "messages": messages,
            "tools": _schemas(tools or ()),
            "tool_choice": choice,
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,
        **kwargs: Any,  # noqa: ARG002 - LlamaIndex's
    ) -> list[ToolSelection]:
        """The calls that a response makes.

        Args:
            response: an answer to ``chat_with_tools`` or its twins.
            error_on_no_tool_call: whether there has to be a call. Where not, a call of a tool that
                there is not is given as well: LlamaIndex's agents answer it with an error, and the
                model goes on.
            **kwargs: none that matter here.

        Raises:
            ValueError: there is no call although there has to be one, or the model wrote none but
                invalid ones, such as one that ``max_tokens`` cut off.
        """
        return selections(response, required=error_on_no_tool_call)

    def _ask(
        self,
        way: Literal["stream", "astream"],
        tell: Callable[[Any], list[dict[str, Any]]],
        given: Any,
        call: dict[str, Any],
    ) -> tuple[Any, Answer]:
        """Settles all that one call needs: its pieces to come, and the answer to gather them in."""
        from linalign_integrations.prompts.schemas import tell_schema

        names = _read_tools(call)
        given_whole = call.get("preferences")
        named = call.get("principles") is not None or (
            isinstance(given_whole, Preferences) and "principles" in given_whole.model_fields_set
        )
        for_work = isinstance(given, (Plumbing, _Completion)) or call.get("grammar") is not None
        if not named and (self.align == "nothing" or (self.align == "answers" and for_work)):
            call["principles"] = ()
        engine, request = self._request(call)
        answer = Answer(engine.model_id, names)
        ask, told = getattr(engine, way), tell(given)
        if isinstance(given, Extraction):
            told = tell_schema(told, given.schema)
        choice, preferences = request.get("tool_choice", "auto"), request["preferences"]
        whole = self.align == "everything" or named or not names or choice == "none"
        if whole or not preferences.principles:
            return ask(told, **request), answer
        plain = preferences.model_copy(update={"principles": ()})
        first = ask(told, **{**request, "preferences": plain})
        if choice != "auto":
            return first, answer

        def then(spent: float) -> Any:
            left = request["timeout"]
            if left is not None:
                left = max(left - spent, _LEAST_TIME)
            return ask(told, **{**request, "tool_choice": "none", "timeout": left})

        return (decide if way == "stream" else adecide)(first, then), answer

    async def _aask(
        self, tell: Callable[[Any], list[dict[str, Any]]], given: Any, call: dict[str, Any]
    ) -> tuple[Any, Answer]:
        # Whatever else starts in this turn of the loop starts first; the model's work would only
        # slow that down. Weights, profiles, prompts and grammars are read in another thread.
        await asyncio.sleep(0)
        return await asyncio.to_thread(self._ask, "astream", tell, given, call)

    def _take_preferences(self, call: dict[str, Any], **levels: Any) -> Preferences:
        given = call.get("preferences")
        if self._settled is not None and (given is None or isinstance(given, Preferences)):
            said = {} if given is None else given._said()
            call["preferences"] = self._settled.model_copy(update=said)
        return super()._take_preferences(call, **levels)

    def _settle(self, *, for_work: bool = False) -> Self:
        """A copy whose preferences are those of now, whenever it is asked."""
        copy = self._copy(align="nothing") if for_work and self.align == "answers" else self._copy()
        if copy.align != "nothing":
            copy._settled = self._take_preferences({})
        return copy

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        messages = super()._get_messages(prompt, **prompt_args)
        return messages if is_answer(prompt) else Plumbing(messages)

    def _turns(self, messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
        to_prompt = self.messages_to_prompt
        if to_prompt in (None, messages_to_prompt):
            return as_dicts(messages)
        return [{"role": "user", "content": to_prompt(messages)}]

    def _turn(self, given: _Completion) -> list[dict[str, Any]]:
        to_prompt = self.completion_to_prompt
        text = given.prompt if given.formatted or to_prompt is None else to_prompt(given.prompt)
        return [{"role": "user", "content": text}]


@dataclass
class _Completion:
    """What ``complete`` and its twins are asked."""

    prompt: str
    formatted: bool


def _read_tools(call: dict[str, Any]) -> frozenset[str]:
    """The names of a call's tools, which are function schemas from then on.

    Raises:
        InvalidTools: something else is among them, or the choice names none.
    """
    from linalign_integrations.prompts import read_choice, read_tools

    choice = call["tool_choice"] = read_choice(call.get("tool_choice"))
    if call.get("tools") is not None:
        call["tools"] = _schemas(call["tools"])
    read = read_tools(call.get("tools"), choice)
    return frozenset(read.schemas if read else ())


def _schemas(tools: Any) -> Any:
    """Function schemas for tools; what is no list of any is for the engine to refuse."""
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Iterable):
        return tools
    return [_schema(tool) for tool in tools]


def _schema(tool: Any) -> Any:
    """A tool of LlamaIndex's, or a function, as a function schema; else for others to judge."""
    from linalign_integrations.prompts.tools import TOOL_NAME

    if isfunction(tool) or ismethod(tool):
        tool = FunctionTool.from_defaults(tool)
    about = getattr(tool, "metadata", None)
    if not isinstance(about, ToolMetadata):
        return tool
    schema = about.to_openai_tool(skip_length_check=True)
    if TOOL_NAME.fullmatch(about.name or ""):
        # LlamaIndex writes it as OpenAI allows, and then finds no tool of that name to run.
        schema["function"]["name"] = about.name
    return schema
