"""What a LlamaIndex LLM must do, as a suite that any LLM class can be run through.

Eight methods, three ways in which a user's wish reaches the LLM, ten features. In each cell the
feature must work *and* the answer must still be that user's: it equals what an object that was made
with the wish answers. A subclass says how its class is made and what a wish is to it::

    class TestMyLLM(LLMConformance):
        wish = {"system_prompt": "Answer like a pirate."}

        def make(self, **fields): return MyLLM(**{"temperature": 0, "max_tokens": 12, **fields})

`make` must give an object that answers the same every time, in about a dozen tokens; the cheaper
the model the better, random weights do.

Cells that can mean nothing are not collected, by three rules (`not_applicable`): LlamaIndex gives
tools to chat methods only; a call that blocks its caller cannot be cancelled; and a class that has
no ambient setting (`context`) cannot be told anything by one. What a class merely lacks, fails.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from llama_index.core.llms import LLM
    from torch.nn import Module

METHODS = (
    "complete",
    "chat",
    "stream_complete",
    "stream_chat",
    "acomplete",
    "achat",
    "astream_complete",
    "astream_chat",
)
WAYS = ("arguments", "copy", "context")
FEATURES = (
    "stop",
    "seed",
    "temperature",
    "max_tokens",
    "tools",
    "tool_required",
    "usage",
    "events",
    "cancellation",
    "serialisation",
)
WITH_TOOLS = {
    "chat": "chat_with_tools",
    "stream_chat": "stream_chat_with_tools",
    "achat": "achat_with_tools",
    "astream_chat": "astream_chat_with_tools",
}
QUESTION = "Hi"
LONG = 600  # tokens of an answer that nobody waits for


class Booking(BaseModel):
    """What a table is booked for."""

    people: int = Field(ge=1, le=9)
    day: Literal["Monday", "Friday"]


def book_table(people: int, day: str) -> str:
    """Book a table."""
    return f"{people} on {day}"


TOOLS = [FunctionTool.from_defaults(fn=book_table, fn_schema=Booking)]


class LLMConformance:
    """The suite: subclass it as `Test...` and say what follows."""

    wish: ClassVar[Mapping[str, Any]] = {}
    """Fields of the class that change what it answers, as one user might want it."""
    secret: ClassVar[str] = ""
    """Words of the wish that events must not quote unless a call's arguments say them."""
    has_context: ClassVar[bool] = False
    """Whether `context` says the wish; False where the class has no ambient setting."""

    def make(self, **fields: Any) -> LLM:
        """A new object with these fields."""
        raise NotImplementedError

    def module(self, llm: LLM) -> Module:
        """The model whose forward passes tell whether somebody still computes."""
        raise NotImplementedError

    def fields(self, **settings: Any) -> dict[str, Any]:
        """`stop`, `seed`, `temperature` and `max_tokens` by the names of the class's fields."""
        return settings

    def arguments(self, **settings: Any) -> dict[str, Any]:
        """The wish and the settings as a call's arguments."""
        return settings

    def copy(self, llm: LLM, **fields: Any) -> LLM:
        """A cheap copy for one user."""
        return llm.model_copy(update=fields)

    def reattach(self, llm: LLM) -> LLM:
        """Gives a copy that was read from a dict what dicts must not hold, such as passwords."""
        return llm

    def context(self) -> AbstractContextManager[object]:
        """A block inside of which the wish holds."""
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Gives each feature's test the cells that mean something for this class."""
        super().__init_subclass__(**kwargs)
        for feature in FEATURES:
            cells = [
                (method, way)
                for method in METHODS
                for way in WAYS
                if not_applicable(cls, feature, method, way) is None
            ]
            setattr(cls, f"test_{feature}", _test(feature, cells))

    def user(self, method: str, way: str, **fields: Any) -> User:
        """A caller whose wish reaches the LLM in this way."""
        return User(self, method, way, fields)

    def alone(self, method: str, **settings: Any) -> str:
        """What an object that was made with the wish answers; the reference of every cell."""
        return _alone(type(self), "chat" if "chat" in method else "complete", _frozen(settings))

    def unwished(self, method: str, **settings: Any) -> str:
        """The same without the wish."""
        family = "chat" if "chat" in method else "complete"
        return _alone(type(self), family, _frozen(settings), wished=False)

    def check_stop(self, method: str, way: str) -> None:
        """A stop text ends the answer and is not part of it."""
        full = self.alone(method)
        stop = full[3:5]
        assert stop, "the answer is too short to be stopped"
        assert self.user(method, way).text(stop=[stop]) == full[: full.index(stop)]

    def check_seed(self, method: str, way: str) -> None:
        """A seed decides what is drawn."""
        user = self.user(method, way)
        for seed in (5, 6):
            expected = self.alone(method, temperature=1.0, seed=seed)
            assert user.text(temperature=1.0, seed=seed) == expected
        assert expected != self.alone(method, temperature=1.0, seed=5)

    def check_temperature(self, method: str, way: str) -> None:
        """Zero is greedy, and a high one is not."""
        user = self.user(method, way)
        greedy = user.text(temperature=0.0)
        assert greedy == user.text(temperature=0.0) == self.alone(method, temperature=0.0)
        assert user.text(temperature=5.0) != greedy

    def check_max_tokens(self, method: str, way: str) -> None:
        """A shorter answer is the beginning of the longer one."""
        full = self.alone(method)
        short = self.user(method, way).text(max_tokens=4)
        assert short
        assert len(short) < len(full)
        # The last character may be the half of one.
        assert full.startswith(short.rstrip("\ufffd"))

    def check_tools(self, method: str, way: str) -> None:
        """Definitions, calls and results reach the model; without a call the answer is text."""
        user = self.user(method, way)
        bare = user.tokens(user.ask())
        told = user.ask(tools=TOOLS, tool_required=False)
        assert user.tokens(told) > bare
        assert isinstance(told, ChatResponse)
        call = ToolCallBlock(tool_call_id="c1", tool_name="book_table", tool_kwargs={"people": 2})
        history = [
            ChatMessage(role="user", content=QUESTION),
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", content="done", additional_kwargs={"tool_call_id": "c1"}),
        ]
        answered = user.ask(tools=TOOLS, tool_required=False, chat_history=history)
        assert user.tokens(answered) > user.tokens(told)
        # A conversation that ends with a result is answered as such, whoever holds the wish.
        expected = self.user("chat", "copy").ask(
            tools=TOOLS, tool_required=False, chat_history=history
        )
        assert answered.message.content == expected.message.content

    def check_tool_required(self, method: str, way: str) -> None:
        """There is a call, of a tool that there is, with arguments that it takes."""
        user = self.user(method, way)
        asked = {"tool_required": True, "allow_parallel_tool_calls": True, "max_tokens": 160}
        response = user.ask(tools=TOOLS, **asked)
        calls = user.llm.get_tool_calls_from_response(response)
        assert calls
        # Whichever way the wish came, the same is called.
        other = self.user("chat", "copy").ask(tools=TOOLS, **asked)
        assert [call.tool_kwargs for call in calls] == [
            call.tool_kwargs for call in user.llm.get_tool_calls_from_response(other)
        ]
        for call in calls:
            assert call.tool_name == "book_table"
            assert isinstance(call.tool_kwargs["people"], int)
            assert call.tool_kwargs["day"] in ("Monday", "Friday")
        ids = [call.tool_id for call in calls]
        assert len(set(ids)) == len(ids)
        blocks = [one for one in response.message.blocks if isinstance(one, ToolCallBlock)]
        assert [one.tool_call_id for one in blocks] == ids

    def check_usage(self, method: str, way: str) -> None:
        """The last response counts its tokens in JSON, and token counting need not guess."""
        counter = TokenCountingHandler(tokenizer=_no_guess)
        user = self.user(method, way, callback_manager=CallbackManager([counter]))
        response = user.ask()
        assert user.said(response) == self.alone(method)
        usage = json.loads(json.dumps(response.raw))["usage"]
        assert usage["prompt_tokens"] > 0
        assert usage["completion_tokens"] > 0
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert counter.total_llm_token_count == usage["total_tokens"]

    def check_events(self, method: str, way: str) -> None:
        """Instrumentation and callbacks see the start and the whole answer, and no secret."""
        seen = _Callbacks()
        user = self.user(method, way, callback_manager=CallbackManager([seen]))
        with _events() as events:
            text = user.text()
        assert text == self.alone(method)
        kind = "Chat" if "chat" in method else "Completion"
        names = [type(event).__name__ for event in events if kind in type(event).__name__]
        assert names[0] == f"LLM{kind}StartEvent"
        assert names[-1] == f"LLM{kind}EndEvent"
        assert ("stream" in method) == (f"LLM{kind}InProgressEvent" in names)
        assert user.said(events[-1].response) == text
        assert seen.kinds == [("start", CBEventType.LLM), ("end", CBEventType.LLM)]
        if way != "arguments" and self.secret:
            assert not any(self.secret in event.model_dump_json() for event in events)
            assert self.secret not in str(seen.payloads)

    def check_cancellation(self, method: str, way: str) -> None:
        """Whoever no longer waits is no longer computed for, and nobody else is disturbed."""
        user = self.user(method, way)
        with _passes(self.module(user.llm)) as passes:
            user.leave(passes)
            made = _settled(passes)
        assert 0 < made < LONG / 2
        assert user.text() == self.alone(method)

    def check_serialisation(self, method: str, way: str) -> None:
        """An object comes back from bytes and from a dict, small, and answers the same."""
        user = self.user(method, way)
        user.text()
        pickled = pickle.dumps(user.llm)
        assert len(pickled) < 10_000
        read = type(user.llm).from_dict(json.loads(json.dumps(user.llm.to_dict())))
        for llm in (pickle.loads(pickled), self.reattach(read)):
            assert user.again(llm).text() == self.alone(method)


class User:
    """A caller of one method whose wish reaches the LLM in one way."""

    def __init__(self, suite: LLMConformance, method: str, way: str, fields: dict) -> None:
        self.suite, self.method, self.way = suite, method, way
        self.llm = suite.make(**fields)
        if way == "copy":
            self.llm = suite.copy(self.llm, **suite.wish)

    def again(self, llm: LLM) -> User:
        """The same caller with another object."""
        other = object.__new__(User)
        other.__dict__ = {**self.__dict__, "llm": llm}
        return other

    def ask(self, tools: list | None = None, **settings: Any) -> Any:
        """The last response of a call."""
        if inspect.iscoroutinefunction(getattr(type(self.llm), self.method)):
            return asyncio.run(self._alast(tools, settings))
        with self._told():
            given = self._call(tools, settings)
        # Consumed outside the block: whose answer it is was settled by the call.
        return self._end(list(given)) if "stream" in self.method else given

    def text(self, **settings: Any) -> str:
        """The answer; that a stream's pieces add up to it is checked on the way."""
        return self.said(self.ask(**settings))

    @staticmethod
    def said(response: Any) -> str:
        """The text of a response."""
        return response.message.content if isinstance(response, ChatResponse) else response.text

    @staticmethod
    def tokens(response: Any) -> int:
        """Tokens of the prompt, as the response counts them."""
        return response.raw["usage"]["prompt_tokens"]

    def leave(self, passes: list[int]) -> None:
        """Ask for a very long answer and go away after its beginning."""
        if self.method.startswith("a"):
            asyncio.run(self._aleave(passes))
            return
        with self._told():
            stream = self._call(None, {"max_tokens": LONG})
        next(stream)
        stream.close()

    async def _aleave(self, passes: list[int]) -> None:
        async def consume() -> None:
            with self._told():
                given = await self._call(None, {"max_tokens": LONG})
            if "stream" in self.method:
                async for _ in given:
                    pass

        task = asyncio.create_task(consume())
        while not (passes or task.done()):  # noqa: ASYNC110 - the model's thread has no events
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def _alast(self, tools: list | None, settings: dict) -> Any:
        with self._told():
            given = await self._call(tools, settings)
        return self._end([one async for one in given]) if "stream" in self.method else given

    def _end(self, responses: list[Any]) -> Any:
        assert "".join(one.delta or "" for one in responses) == (self.said(responses[-1]) or "")
        return responses[-1]

    def _told(self) -> AbstractContextManager[object]:
        return self.suite.context() if self.way == "context" else nullcontext()

    def _call(self, tools: list | None, settings: dict) -> Any:
        suite, llm = self.suite, self.llm
        framework = {
            name: settings.pop(name)
            for name in ("tool_required", "allow_parallel_tool_calls", "chat_history")
            if name in settings
        }
        said = dict(settings)
        if self.way == "copy":
            llm, said = llm.model_copy(update=suite.fields(**settings)), {}
        if self.way == "arguments":
            said |= suite.wish
        said = suite.arguments(**said)
        if tools is not None:
            question = {} if "chat_history" in framework else {"user_msg": QUESTION}
            method: Callable[..., Any] = getattr(llm, WITH_TOOLS[self.method])
            return method(tools=tools, **question, **framework, **said)
        asked: Any = QUESTION
        if "chat" in self.method:
            asked = [ChatMessage(role="user", content=QUESTION)]
        return getattr(llm, self.method)(asked, **said)


def not_applicable(suite: type[LLMConformance], feature: str, method: str, way: str) -> str | None:
    """Why a cell can mean nothing; None where it can."""
    if feature in ("tools", "tool_required") and method not in WITH_TOOLS:
        return "LlamaIndex gives tools to chat methods only"
    if feature == "cancellation" and method in ("complete", "chat"):
        return "a call that blocks its caller cannot be cancelled"
    if way == "context" and not suite.has_context:
        return "the class has no ambient setting"
    return None


def _test(feature: str, cells: list[tuple[str, str]]) -> Callable[..., None]:
    @pytest.mark.parametrize(("method", "way"), cells)
    def test(self: LLMConformance, method: str, way: str) -> None:
        # A wish that changed nothing would make every cell pass for everybody.
        assert self.alone(method) != self.unwished(method)
        getattr(self, f"check_{feature}")(method, way)

    return test


_ANSWERS: dict[Any, str] = {}


def _alone(suite: type[LLMConformance], family: str, settings: Any, *, wished: bool = True) -> str:
    key = (suite, family, settings, wished)
    if key not in _ANSWERS:
        made = suite()
        fields = made.fields(**dict(settings)) | (dict(made.wish) if wished else {})
        _ANSWERS[key] = User.said(_ask_once(made.make(**fields), family))
    return _ANSWERS[key]


def _ask_once(llm: LLM, family: str) -> Any:
    if family == "complete":
        return llm.complete(QUESTION)
    return llm.chat([ChatMessage(role="user", content=QUESTION)])


def _frozen(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


def _no_guess(text: str) -> list[int]:
    raise AssertionError("tokens were guessed: the response does not say how many there were")


@contextmanager
def _events() -> Iterator[list[Any]]:
    seen: list[Any] = []

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            seen.append(event)

    handler, dispatcher = Handler(), get_dispatcher()
    dispatcher.add_event_handler(handler)
    try:
        yield seen
    finally:
        dispatcher.event_handlers.remove(handler)


class _Callbacks(BaseCallbackHandler):
    def __init__(self) -> None:
        super().__init__([], [])
        self.kinds: list[tuple[str, CBEventType]] = []
        self.payloads: list[Any] = []

    def on_event_start(self, event_type: Any, payload: Any = None, **kwargs: Any) -> str:
        self.kinds.append(("start", event_type))
        self.payloads.append(payload)
        return ""

    def on_event_end(self, event_type: Any, payload: Any = None, **kwargs: Any) -> None:
        self.kinds.append(("end", event_type))
        self.payloads.append(payload)

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...


@contextmanager
def _passes(module: Module) -> Iterator[list[int]]:
    """Counts the forward passes of a model."""
    made: list[int] = []
    hook = module.register_forward_pre_hook(lambda *_: made.append(1))
    try:
        yield made
    finally:
        hook.remove()


def _settled(passes: list[int]) -> int:
    """How many passes there were when none had been made for a while."""
    made = -1
    while made != len(passes):
        made = len(passes)
        time.sleep(0.05)
    return made
