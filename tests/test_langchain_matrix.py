"""LangChain: every way to say preferences, in every place where a model can stand."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.tools import tool
from models import ADAPTER
from pydantic import BaseModel

from linalign_integrations import Engine, Preferences, open_profiles, use_preferences
from linalign_integrations.langchain import ChatLinAlign, PreferencesMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ANN, BOB = "Answer like a pirate.", "Be formal."
USERS = {"ann": ANN, "bob": BOB}
PROMPT = ChatPromptTemplate.from_messages([("system", "Be kind."), ("user", "{question}")])
RAG_PROMPT = ChatPromptTemplate.from_messages([("user", "Context: {context}\n\n{question}")])


class Dish(BaseModel, extra="forbid"):
    """A dish."""

    kind: Literal["soup", "stew", "salad"]


@tool
def weather(city: str) -> str:
    """Get the weather."""
    return f"Sun in {city}."


# What the model wrote, whatever the place hands out, and the engine's own answer to what it saw.


@dataclass
class Seen:
    """One request as the engine saw it."""

    messages: Any
    arguments: dict[str, Any]

    def text(self, engine: Engine, principle: str | None) -> str:
        """What the bare engine answers under one principle."""
        wanted = Preferences(principles=[principle] if principle else [])
        kept = {k: v for k, v in self.arguments.items() if k not in ("preferences", "user")}
        key = repr((self.messages, sorted(kept.items(), key=str), principle))
        if key not in _answers:
            _answers[key] = _generate(engine, self.messages, preferences=wanted, **kept).text
        return _answers[key]


_answers: dict[str, str] = {}
_generate = Engine.generate


@dataclass
class Spy:
    """Records what reaches the engine, and fails as often as it is told to."""

    seen: list[Seen] = field(default_factory=list)
    faults: int = 0

    def watch(self, name: str, patch: pytest.MonkeyPatch) -> None:
        original = getattr(Engine, name)

        def watched(engine: Engine, messages: Any, **arguments: Any) -> Any:
            if self.faults:
                self.faults -= 1
                raise ConnectionError("the line was cut")
            self.seen.append(Seen(messages, arguments))
            return original(engine, messages, **arguments)

        patch.setattr(Engine, name, watched)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy()
    # The other two are built on these.
    for name in ("stream", "astream"):
        made.watch(name, monkeypatch)
    return made


# Ways to say preferences.


@dataclass
class Way:
    """How a model is told what its user wants.

    ``subject`` is what stands in a place; ``inner`` stands behind another step, to which LangChain
    hands the arguments of the call instead.
    """

    subject: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext
    per_item: Callable[[str], dict[str, Any]] | None = None
    inner: Any = None
    agent: Callable[..., Runnable[Any, Any]] | None = None
    tools: bool = False

    def __post_init__(self) -> None:
        self.inner = self.inner or self.subject

    def make_agent(self, **options: Any) -> Runnable[Any, Any]:
        given = {"model": self.subject, "tools": [weather], **options}
        return (self.agent or create_agent)(**given)


def call_argument(chat: ChatLinAlign) -> Way:
    said = {"principles": [ANN]}

    @wrap_model_call
    def settings(request: Any, handler: Any) -> Any:
        return handler(request.override(model_settings=said))

    @wrap_model_call
    async def asettings(request: Any, handler: Any) -> Any:
        return await handler(request.override(model_settings=said))

    def agent(**options: Any) -> Any:
        made = {
            kind: create_agent(middleware=[one], **options)
            for kind, one in (("sync", settings), ("async", asettings))
        }
        return RunnableLambda(made["sync"].invoke, made["async"].ainvoke)

    return Way(
        chat,
        arguments=said,
        inner=RunnableLambda(
            lambda x: chat.invoke(x, **said), afunc=lambda x: chat.ainvoke(x, **said)
        ),
        agent=agent,
    )


def bind(chat: ChatLinAlign) -> Way:
    return Way(chat.bind(principles=[ANN]))


def bind_then_bind_tools(chat: ChatLinAlign) -> Way:
    return Way(chat.bind(principles=[ANN]).bind_tools([weather]), tools=True)


def config_principles(chat: ChatLinAlign) -> Way:
    def config(user: str) -> dict[str, Any]:
        return {"configurable": {"principles": [USERS[user]]}}

    return Way(chat, config=config("ann"), per_item=config)


def _for_user_id(user: str) -> dict[str, Any]:
    return {"configurable": {"user_id": user}}


def config_user_id(chat: ChatLinAlign) -> Way:
    return Way(chat, config=_for_user_id("ann"), per_item=_for_user_id)


def ambient(chat: ChatLinAlign) -> Way:
    return Way(chat, scope=lambda: use_preferences(ANN))


def middleware(chat: ChatLinAlign) -> Way:
    made = PreferencesMiddleware(_profiles())
    alone = chat.model_copy(update={"profiles": None})
    agent = create_agent(alone, [], middleware=[made])

    def state(given: Any) -> dict[str, Any]:
        return {"messages": alone._convert_input(given).to_messages()}

    async def answer(given: Any) -> Any:
        return (await agent.ainvoke(state(given)))["messages"][-1]

    as_model = RunnableLambda(lambda x: agent.invoke(state(x))["messages"][-1], answer)

    def agent_of(**options: Any) -> Any:
        return create_agent(middleware=[made], **{**options, "model": alone})

    return Way(as_model, config=_for_user_id("ann"), per_item=_for_user_id, agent=agent_of)


def for_user(chat: ChatLinAlign) -> Way:
    return Way(chat.for_user("ann"))


WAYS = (
    call_argument,
    bind,
    bind_then_bind_tools,
    config_principles,
    config_user_id,
    ambient,
    middleware,
    for_user,
)


@cache
def _profiles() -> Any:
    made = open_profiles("memory://matrix")
    for user, principle in USERS.items():
        made.put(user, principle)
    return made


# Places: each gives the texts that came out, and whose they should be.


def run(one: Any, given: Any, way: Way, *, wait: bool, **arguments: Any) -> Any:
    """Invokes without blocking the event loop, or blocking it."""
    with way.scope():
        if wait:
            return asyncio.run(one.ainvoke(given, way.config, **arguments))
        return one.invoke(given, way.config, **arguments)


def said(answer: Any) -> str:
    return answer.text if isinstance(answer, AIMessage) else str(answer)


def direct(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    return [said(run(way.subject, "Hi", way, wait=wait, **way.arguments))]


def chain(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    return [run(PROMPT | way.inner | StrOutputParser(), {"question": "Hi"}, way, wait=wait)]


def rag(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    retriever = RunnableLambda(lambda question: [Document(f"{question}: it costs 3 euros.")])
    steps = {
        "context": retriever | (lambda found: found[0].page_content),
        "question": RunnablePassthrough(),
    }
    whole = steps | RAG_PROMPT | way.inner | StrOutputParser()
    return [run(whole, "Hi", way, wait=wait)]


def batch(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    users = ("ann", "bob") if way.per_item else ("ann", "ann")
    configs = [way.per_item(user) if way.per_item else {} for user in users]
    whole = PROMPT | way.inner | StrOutputParser()
    items = [{"question": f"Hi from {number}"} for number in range(2)]
    with way.scope():
        if wait:
            return asyncio.run(whole.abatch(items, configs))
        return whole.batch(items, configs)


def stream(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    async def collect(pieces: Any) -> str:
        return "".join([said(piece) async for piece in pieces])

    with way.scope():
        one = way.subject
        if way.agent and not way.arguments:
            one, mode = way.make_agent(), {"stream_mode": "messages"}
            given = {"messages": [HumanMessage("Hi")]}

            async def parts() -> Any:
                async for piece, _ in one.astream(given, way.config, **mode):
                    yield piece

            if wait:
                return [asyncio.run(collect(parts()))]
            return ["".join(said(piece) for piece, _ in one.stream(given, way.config, **mode))]
        if wait:
            return [asyncio.run(collect(one.astream("Hi", way.config, **way.arguments)))]
        return ["".join(map(said, one.stream("Hi", way.config, **way.arguments)))]


def events(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    async def collect() -> str:
        found = [
            event["data"]["chunk"]
            async for event in way.subject.astream_events("Hi", way.config, **way.arguments)
            if event["event"] == "on_chat_model_stream"
        ]
        return "".join(map(said, found))

    with way.scope():
        return [asyncio.run(collect())]


def typed_events(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    async def whole() -> str:
        stream = await way.subject.astream_events("Hi", way.config, version="v3", **way.arguments)
        return str(await stream.text)

    with way.scope():
        if wait:
            return [asyncio.run(whole())]
        return [
            str(way.subject.stream_events("Hi", way.config, version="v3", **way.arguments).text)
        ]


def agent(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    state = run(way.make_agent(), {"messages": [HumanMessage("Hi")]}, way, wait=wait)
    return [said(state["messages"][1])]


def structured_output(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    if way.agent is not None and not way.arguments:
        made = way.make_agent(tools=[], response_format=ProviderStrategy(Dish))
        state = run(made, {"messages": [HumanMessage("Hi")]}, way, wait=wait)
        return [state["structured_response"].model_dump_json()]
    made = way.subject.with_structured_output(Dish)
    return [run(made, "Hi", way, wait=wait, **way.arguments).model_dump_json()]


def retry(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    spy.faults = 1
    again = way.subject.with_retry(
        retry_if_exception_type=(ConnectionError,), wait_exponential_jitter=False
    )
    answers = [said(run(again, "Hi", way, wait=wait, **way.arguments))]
    assert spy.faults == 0 or not spy.seen, "it was tried again, unless a cache had the answer"
    return answers


def fallbacks(way: Way, spy: Spy, *, wait: bool) -> list[str]:
    def broken(_: Any, **arguments: Any) -> Any:
        raise ConnectionError("the line was cut")

    either = RunnableLambda(broken).with_fallbacks([way.subject])
    return [said(run(either, "Hi", way, wait=wait, **way.arguments))]


PLACES = (
    direct,
    chain,
    rag,
    batch,
    stream,
    events,
    typed_events,
    agent,
    structured_output,
    retry,
    fallbacks,
)
CELLS = [
    pytest.param(
        way,
        place,
        wait,
        cached,
        id="-".join(
            (
                way.__name__,
                place.__name__,
                "async" if wait else "sync",
                *(["cache"] if cached else []),
            )
        ),
    )
    for way, place, wait, cached in itertools.product(WAYS, PLACES, (False, True), (False, True))
    if not (place is events and not wait)
    # The middleware's place is taken by a function, which has no such events.
    if not (place is typed_events and way is middleware)
]


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder, dtype=ADAPTER["dtype"])


@pytest.mark.parametrize(("way", "place", "wait", "cached"), CELLS)
def test_what_a_user_prefers_holds(
    way: Callable[[ChatLinAlign], Way],
    place: Callable[..., list[str]],
    wait: bool,
    cached: bool,
    spy: Spy,
    folder: Path,
    engine: Engine,
) -> None:
    shared = InMemoryCache() if cached else None
    settings = {**ADAPTER, "max_tokens": 24 if place is structured_output else 6}
    chat = ChatLinAlign(model=str(folder), profiles=_profiles(), cache=shared, **settings)
    if cached:
        # What a cache holds of somebody else, in the same place, must not come back.
        place(Way(chat), spy, wait=wait)
        spy.seen.clear()
        spy.faults = 0
    made = way(chat)
    answers = place(made, spy, wait=wait)
    wanted = ["ann", "bob"] if place is batch and made.per_item else ["ann"] * len(answers)
    requests = list(spy.seen)
    assert len(requests) >= len(answers)
    if place is batch:
        requests.sort(key=lambda request: str(request.messages))
    for request, answer, user in zip(requests, answers, wanted, strict=False):
        same, plain = (request.text(engine, one) for one in (USERS[user], None))
        if place is structured_output:
            same, plain, answer = (json.loads(text) for text in (same, plain, answer))
            assert request.arguments["preferences"].principles[0].text == USERS[user]
        else:
            assert answer != plain
        assert answer == same
    if cached and place not in (stream, events, typed_events):
        spy.seen.clear()
        spy.faults = 0
        assert place(way(chat), spy, wait=wait) == answers
        assert not spy.seen, "the same user's answer is taken from the cache"
