"""Objects from a model: JSON that a grammar keeps valid, read as the caller's pydantic class."""

from __future__ import annotations

import asyncio
import json
import warnings
from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from llama_index.core.base.llms.generic_utils import (
    astream_chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
)
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from linalign_integrations.errors import InvalidArgument, describe
from linalign_integrations.llama_index.parts import Plumbing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Sequence

    from llama_index.core.prompts import BasePromptTemplate

_Object = TypeVar("_Object", bound=BaseModel)
# What LlamaIndex's own programs leave out as well: whether to call, and what, is settled here.
_SETTLED = {"tool_choice", "tool_required", "allow_parallel_tool_calls"}
_dispatcher = get_dispatcher(__name__)


class Structured(LLM):
    """``structured_predict`` and its twins by grammar.

    They follow ``pydantic_program_mode``: ``DEFAULT`` is what is described here, other modes are
    LlamaIndex's own programs.
    """

    def structured_predict(
        self,
        output_cls: type[_Object],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> _Object:
        """An object of a class, written by the model as JSON that cannot be anything else.

        Args:
            output_cls: the class.
            prompt: asks for it.
            llm_kwargs: what ``chat`` takes, such as ``principles`` and ``max_tokens``.
            **prompt_args: fill the prompt.

        Raises:
            InvalidArgument: ``output_cls`` is no pydantic class.
            InvalidGrammar: no JSON can satisfy the schema of the class.
            MissingExtra: the extra ``grammar`` is not installed.
            ValueError: the JSON was cut off by ``max_tokens``, or the class refuses it for a reason
                that no grammar can express.
        """
        kwargs = dict(llm_kwargs or {})
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            settled = self._settle(for_work=True)
            made: _Object = LLM.structured_predict(
                settled, output_cls, prompt, kwargs, **prompt_args
            )
            return made
        asked = _Asked(output_cls, prompt, prompt_args)
        messages, call = asked.prepare(self, kwargs)
        response = self.chat(messages, **call)
        return asked.end(response)

    async def astructured_predict(
        self,
        output_cls: type[_Object],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> _Object:
        """``structured_predict`` without blocking the event loop."""
        kwargs = dict(llm_kwargs or {})
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            settled = await asyncio.to_thread(self._settle, for_work=True)
            made: _Object = await LLM.astructured_predict(
                settled, output_cls, prompt, kwargs, **prompt_args
            )
            return made
        asked = _Asked(output_cls, prompt, prompt_args)
        messages, call = await asyncio.to_thread(asked.prepare, self, kwargs)
        response = await self.achat(messages, **call)
        return asked.end(response)

    def stream_structured_predict(
        self,
        output_cls: type[_Object],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """The object as it grows; the last one is whole and of the class.

        Those before may lack fields that have no default; then they are of a class with the same
        fields, all of them optional.
        """
        kwargs = dict(llm_kwargs or {})
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            settled = self._settle(for_work=True)
            return LLM.stream_structured_predict(settled, output_cls, prompt, kwargs, **prompt_args)
        asked = _Asked(output_cls, prompt, prompt_args)
        messages, call = asked.prepare(self, kwargs)
        responses = self.stream_chat(messages, **call)

        def objects() -> Generator[Any, None, None]:
            for response in responses:
                if (grown := asked.grown(response)) is not None:
                    yield grown
            yield asked.end(response)

        return objects()

    async def astream_structured_predict(
        self,
        output_cls: type[_Object],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """``stream_structured_predict`` for ``async for``."""
        kwargs = dict(llm_kwargs or {})
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            settled = await asyncio.to_thread(self._settle, for_work=True)
            return await LLM.astream_structured_predict(
                settled, output_cls, prompt, kwargs, **prompt_args
            )
        asked = _Asked(output_cls, prompt, prompt_args)
        messages, call = await asyncio.to_thread(asked.prepare, self, kwargs)
        responses = await self.astream_chat(messages, **call)

        async def objects() -> AsyncGenerator[Any, None]:
            async for response in responses:
                if (grown := asked.grown(response)) is not None:
                    yield grown
            yield asked.end(response)

        return objects()

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredLinAlign:
        """An LLM whose every answer is an object of a class, in ``raw``, and its JSON."""
        return StructuredLinAlign(llm=self, output_cls=output_cls, **kwargs)

    @abstractmethod
    def _settle(self, *, for_work: bool = False) -> Self:
        """A copy whose preferences are those of now: LlamaIndex's programs ask later."""


class StructuredLinAlign(StructuredLLM):
    """LlamaIndex's structured LLM, whose streams keep the preferences of when they were asked for.

    Completions can be streamed as well.
    """

    def to_payload(self) -> dict[str, Any]:
        """What events tell of this object, read from no config: LlamaIndex asks in the loop."""
        return {**self.llm.to_payload(), "class_name": self.class_name()}

    def for_user(self, user_id: str) -> Self:
        """A cheap copy that answers for one user, as ``LinAlign.for_user``."""
        asked: Any = self.llm
        return self.model_copy(update={"llm": asked.for_user(user_id)})

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """The object as it grows, in ``raw``."""
        prompt = ChatPromptTemplate(message_templates=list(messages))
        objects = self.llm.stream_structured_predict(self.output_cls, prompt, kwargs)
        return (_told(grown) for grown in objects)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """``stream_chat`` for ``async for``."""
        prompt = ChatPromptTemplate(message_templates=list(messages))
        objects = await self.llm.astream_structured_predict(self.output_cls, prompt, kwargs)
        return (_told(grown) async for grown in objects)

    @llm_completion_callback()
    def stream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: ARG002 - LlamaIndex's
        **kwargs: Any,
    ) -> CompletionResponseGen:
        """The object as it grows, in ``raw``."""
        return stream_chat_to_completion_decorator(self.stream_chat)(prompt, **kwargs)

    @llm_completion_callback()
    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: ARG002 - LlamaIndex's
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """``stream_complete`` for ``async for``."""
        return await astream_chat_to_completion_decorator(self.astream_chat)(prompt, **kwargs)


def _told(grown: BaseModel) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=grown.model_dump_json())
    return ChatResponse(message=message, raw=grown)


class Extraction(Plumbing):
    """Messages whose answer is JSON of a schema, which the model is told."""

    def __init__(self, messages: Iterable[ChatMessage], schema: dict[str, Any]) -> None:
        super().__init__(messages)
        self.schema = schema


class _Asked(Generic[_Object]):
    """One object that was asked for."""

    def __init__(
        self, kind: type[_Object], prompt: BasePromptTemplate, prompt_args: dict[str, Any]
    ) -> None:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise InvalidArgument(
                f"output_cls= takes a pydantic class, not {kind!r:.80}; a list can be a field of "
                "one, or a RootModel"
            )
        self.kind = kind
        self._prompt, self._prompt_args = prompt, prompt_args
        # The class with optional fields knows no aliases.
        self._names = {
            key: name
            for name, field in kind.model_fields.items()
            for key in (field.alias, field.validation_alias)
            if isinstance(key, str)
        }
        self._last: BaseModel | None = None
        self._schema: dict[str, Any] = {}
        _dispatcher.event(
            LLMStructuredPredictStartEvent(
                output_cls=kind, template=prompt, template_args=prompt_args
            )
        )

    @cached_property
    def _partial(self) -> type[BaseModel]:
        """The class with all fields optional, which only streams need."""
        return create_flexible_model(self.kind)

    def prepare(self, llm: LLM, kwargs: dict[str, Any]) -> tuple[Extraction, dict[str, Any]]:
        """What to ask, LlamaIndex's system prompt included, and how."""
        from linalign_integrations.engine import Grammar
        from linalign_integrations.engine.grammar import enforceable

        self._schema = json.loads(Grammar.json_schema(self.kind).text)
        grammar, fault = enforceable(self._schema)
        if fault is not None:
            warnings.warn(
                f"{self.kind.__name__} is checked only after it was written: {fault}",
                stacklevel=4,
            )
        asked = self._prompt.format_messages(llm=llm, **self._prompt_args)
        messages = Extraction(llm._extend_messages(asked), self._schema)
        call = {name: value for name, value in kwargs.items() if name not in _SETTLED}
        return messages, {**call, "grammar": grammar}

    def grown(self, response: ChatResponse) -> BaseModel | None:
        """The object so far; None where it is as it was."""
        try:
            read = from_json(response.message.content or "", allow_partial="trailing-strings")
        except ValueError:
            return None
        made: BaseModel
        try:
            made = self.kind.model_validate(read)
        except Exception:  # noqa: BLE001 - a class's own validator may stumble over half a value
            if not isinstance(read, dict):
                return None
            named = {self._names.get(key, key): value for key, value in read.items()}
            made = self._partial.model_validate(named)
        if made == self._last:
            return None
        self._last = made
        _dispatcher.event(LLMStructuredPredictInProgressEvent(output=made))
        return made

    def end(self, response: ChatResponse) -> _Object:
        """The whole object."""
        from linalign_integrations.prompts.schemas import find_fault

        text = response.message.content or ""
        refusal = f"no {self.kind.__name__} could be read from the answer {text!r:.200}: "
        try:
            made = self.kind.model_validate_json(text)
        except ValidationError as error:
            why = describe(error)
            if (response.raw or {}).get("finish_reason") == "length":
                why = f"max_tokens cut it off; allow more ({why})"
            raise ValueError(refusal + why) from error
        if (fault := find_fault(json.loads(text), self._schema)) is not None:
            raise ValueError(refusal + fault)
        _dispatcher.event(LLMStructuredPredictEndEvent(output=made))
        return made
