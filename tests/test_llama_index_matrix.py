"""Every place in LlamaIndex that asks an LLM, with each of the two ways to say who the user is.

The engine is watched: in each place, every request that reaches it must carry the principles of
exactly that user. Where LlamaIndex itself loses the ambient way, the loss is stated, with the
remedy beside it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core import Document, Settings, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.async_utils import asyncio_run, run_async_tasks
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.memory.memory_blocks import FactExtractionMemoryBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

from linalign_integrations import Engine, Preferences, open_profiles, use_preferences
from linalign_integrations.llama_index import LinAlign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ANN, BOB = "Answer like a pirate.", "Be formal."
USER = [ChatMessage(role="user", content="Hi")]
PROMPT = PromptTemplate("{q}")
WAYS = ("copy", "context")
# Two passages make refine refine, accumulate accumulate, and a tree branch.
NODES = [
    NodeWithScore(node=TextNode(text=text), score=1.0)
    for text in ("The bakery sells bread.", "The bakery opens at 7:30.")
]

Seen = list[tuple[str, ...]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The principles of every request that reaches an engine."""
    found: Seen = []

    def watched(ask: Callable[..., Any]) -> Callable[..., Any]:
        def watch(self: Engine, messages: Any, *, preferences: Any = None, **request: Any) -> Any:
            said = preferences.principles if preferences else ()
            found.append(tuple(one.text for one in said))
            return ask(self, messages, preferences=preferences, **request)

        return watch

    for name in ("generate", "agenerate", "stream", "astream"):
        monkeypatch.setattr(Engine, name, watched(getattr(Engine, name)))
    return found


@pytest.fixture
def llm(folder: Path) -> LinAlign:
    """A model that knows ann and bob and answers for nobody."""
    profiles = open_profiles("memory://")
    profiles.put("ann", Preferences(principles=[ANN]))
    profiles.put("bob", Preferences(principles=[BOB]))
    return LinAlign(model=str(folder), dtype="float32", seed=3, max_tokens=4, profiles=profiles)


class Dish(BaseModel):
    """A dish."""

    minutes: int = Field(ge=0, le=9)


def as_user(llm: LinAlign, way: str, user: str) -> tuple[LinAlign, Any]:
    """The object to give to LlamaIndex, and the block to be in."""
    if way == "copy":
        return llm.for_user(user), nullcontext()
    return llm, use_preferences({"ann": ANN, "bob": BOB}[user])


def check(place: Callable[[LinAlign], Any], way: str, llm: LinAlign, seen: Seen) -> None:
    """Two users after one another: each of their requests says theirs, and nothing else."""
    for user, principle in (("ann", ANN), ("bob", BOB)):
        seen.clear()
        own, block = as_user(llm, way, user)
        with block:
            later = place(own)
        # What a place hands back is consumed outside the block.
        if callable(later):
            later()
        assert seen, "nothing was asked"
        assert set(seen) == {(principle,)}


def acheck(ask: Callable[[LinAlign, Any], Any], way: str, llm: LinAlign, seen: Seen) -> None:
    """``check`` for a coroutine that enters the block itself and reads outside of it."""
    for user, principle in (("ann", ANN), ("bob", BOB)):
        seen.clear()
        asyncio.run(ask(*as_user(llm, way, user)))
        assert set(seen) == {(principle,)}


def drained(stream: Any) -> list[Any]:
    return list(stream)


async def adrained(stream: Any) -> list[Any]:
    return [one async for one in stream]


# Methods of the LLM itself.

DIRECT: dict[str, Callable[[LinAlign], Any]] = {
    "complete": lambda llm: llm.complete("Hi"),
    "chat": lambda llm: llm.chat(USER),
    "stream_complete, outside": lambda llm: (lambda s: lambda: drained(s))(
        llm.stream_complete("Hi")
    ),
    "stream_chat, outside": lambda llm: (lambda s: lambda: drained(s))(llm.stream_chat(USER)),
    "acomplete": lambda llm: asyncio.run(llm.acomplete("Hi")),
    "achat": lambda llm: asyncio.run(llm.achat(USER)),
    "predict": lambda llm: llm.predict(PROMPT, q="Hi"),
    "apredict": lambda llm: asyncio.run(llm.apredict(PROMPT, q="Hi")),
    "stream": lambda llm: drained(llm.stream(PROMPT, q="Hi")),
    "stream, outside": lambda llm: (lambda s: lambda: drained(s))(llm.stream(PROMPT, q="Hi")),
    "structured_predict": lambda llm: llm.structured_predict(
        Dish, PROMPT, llm_kwargs={"max_tokens": 40}, q="Hi"
    ),
    "astructured_predict": lambda llm: asyncio.run(
        llm.astructured_predict(Dish, PROMPT, llm_kwargs={"max_tokens": 40}, q="Hi")
    ),
    "stream_structured_predict": lambda llm: drained(
        llm.stream_structured_predict(Dish, PROMPT, llm_kwargs={"max_tokens": 40}, q="Hi")
    ),
    "as_structured_llm": lambda llm: llm.as_structured_llm(Dish).chat(USER),
    "as_structured_llm, streamed, outside": lambda llm: (lambda s: lambda: drained(s))(
        llm.as_structured_llm(Dish).stream_chat(USER)
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", DIRECT)
def test_the_llm_itself(place: str, way: str, llm: LinAlign, seen: Seen) -> None:
    if "structured" in place:
        llm = llm.model_copy(update={"max_tokens": 40})
    check(DIRECT[place], way, llm, seen)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["astream_chat", "astream_complete", "astream"])
def test_asynchronous_streams_read_outside(
    method: str, way: str, llm: LinAlign, seen: Seen
) -> None:
    async def ask(own: LinAlign, block: Any) -> None:
        with block:
            match method:
                case "astream_chat":
                    stream = await own.astream_chat(USER)
                case "astream_complete":
                    stream = await own.astream_complete("Hi")
                case _:
                    stream = await own.astream(PROMPT, q="Hi")
        await adrained(stream)

    acheck(ask, way, llm, seen)


# Response synthesizers and query engines.

MODES = (
    ResponseMode.COMPACT,
    ResponseMode.REFINE,
    ResponseMode.TREE_SUMMARIZE,
    ResponseMode.SIMPLE_SUMMARIZE,
    ResponseMode.ACCUMULATE,
    ResponseMode.COMPACT_ACCUMULATE,
    ResponseMode.GENERATION,
)
CALLS: dict[str, Callable[[Any], Any]] = {
    "sync": lambda synthesizer: synthesizer.synthesize("Hi", NODES),
    "async": lambda synthesizer: asyncio.run(synthesizer.asynthesize("Hi", NODES)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("use_async", [False, True], ids=["", "use_async"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_response_synthesizers(
    mode: ResponseMode, call: str, use_async: bool, way: str, llm: LinAlign, seen: Seen
) -> None:
    def place(own: LinAlign) -> None:
        CALLS[call](get_response_synthesizer(llm=own, response_mode=mode, use_async=use_async))

    check(place, way, llm, seen)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", ["query", "aquery", "streamed"])
def test_query_engines(call: str, way: str, llm: LinAlign, seen: Seen) -> None:
    index = SummaryIndex([node.node for node in NODES])

    def place(own: LinAlign) -> Any:
        if call == "streamed":
            return drained(index.as_query_engine(llm=own, streaming=True).query("Hi").response_gen)
        query_engine = index.as_query_engine(llm=own)
        return (
            asyncio.run(query_engine.aquery("Hi")) and None
            if call == "aquery"
            else str(query_engine.query("Hi"))
        )

    check(place, way, llm, seen)


STREAMING = (*MODES[:4], ResponseMode.GENERATION)
# Their streams call the model only when they are read: after a block has ended, nobody is known.
LAZY = {ResponseMode.COMPACT, ResponseMode.REFINE}


def streamed(own: LinAlign, mode: ResponseMode) -> Any:
    synthesizer = get_response_synthesizer(llm=own, response_mode=mode, streaming=True)
    return synthesizer.synthesize("Hi", NODES).response_gen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", STREAMING, ids=lambda mode: mode.value)
def test_streams_of_synthesizers_read_inside(
    mode: ResponseMode, way: str, llm: LinAlign, seen: Seen
) -> None:
    check(lambda own: drained(streamed(own, mode)), way, llm, seen)


@pytest.mark.parametrize(
    ("mode", "way"),
    [(mode, way) for mode in STREAMING for way in WAYS if way == "copy" or mode not in LAZY],
)
def test_streams_of_synthesizers_read_outside(
    mode: ResponseMode, way: str, llm: LinAlign, seen: Seen
) -> None:
    def place(own: LinAlign) -> Callable[[], list[Any]]:
        stream = streamed(own, mode)
        return lambda: drained(stream)

    check(place, way, llm, seen)


@pytest.mark.parametrize("use_async", [False, True], ids=["", "use_async"])
@pytest.mark.parametrize(
    ("mode", "way"),
    [(mode, way) for mode in STREAMING for way in WAYS if way == "copy" or mode not in LAZY],
)
def test_asynchronous_streams_of_synthesizers_read_outside(
    mode: ResponseMode, way: str, use_async: bool, llm: LinAlign, seen: Seen
) -> None:
    async def ask(own: LinAlign, block: Any) -> None:
        synthesizer = get_response_synthesizer(
            llm=own, response_mode=mode, streaming=True, use_async=use_async
        )
        with block:
            response = await synthesizer.asynthesize("Hi", NODES)
        await adrained(response.async_response_gen())

    acheck(ask, way, llm, seen)


@pytest.mark.parametrize("mode", sorted(LAZY))
def test_upstream_loses_the_block_for_lazy_streams_and_a_copy_mends_it(
    mode: ResponseMode, llm: LinAlign, seen: Seen
) -> None:
    with use_preferences(ANN):
        lost = streamed(llm, mode)
        kept = streamed(llm.for_user("ann"), mode)
    seen.clear()
    drained(lost)
    assert seen[-1] == ()
    seen.clear()
    drained(kept)
    assert set(seen) == {(ANN,)}


# Chat engines.

CHAT_MODES = ("simple", "context", "condense_question", "condense_plus_context", "best")


def chat_engine(own: LinAlign, mode: str) -> Any:
    memory = ChatMemoryBuffer.from_defaults(
        chat_history=[
            ChatMessage(role="user", content="Hi"),
            ChatMessage(role="assistant", content="Yes?"),
        ],
        token_limit=1500,
        tokenizer_fn=list,
    )
    index = SummaryIndex([node.node for node in NODES])
    return index.as_chat_engine(chat_mode=mode, llm=own, memory=memory)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", ["chat", "stream_chat", "achat", "astream_chat"])
@pytest.mark.parametrize("mode", CHAT_MODES)
def test_chat_engines(mode: str, call: str, way: str, llm: LinAlign, seen: Seen) -> None:
    async def stream(engine: Any) -> None:
        await adrained((await engine.astream_chat("Who?")).async_response_gen())

    def place(own: LinAlign) -> Any:
        engine = chat_engine(own, mode)
        match call:
            case "chat":
                return engine.chat("Who?") and None
            case "achat":
                return asyncio.run(engine.achat("Who?")) and None
            case "stream_chat":
                return drained(engine.stream_chat("Who?").response_gen)
            case _:
                return asyncio.run(stream(engine))

    check(place, way, llm, seen)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", CHAT_MODES)
def test_asynchronous_streams_of_chat_engines_read_outside(
    mode: str, way: str, llm: LinAlign, seen: Seen
) -> None:
    async def ask(own: LinAlign, block: Any) -> None:
        with block:
            response = await chat_engine(own, mode).astream_chat("Who?")
        await adrained(response.async_response_gen())

    acheck(ask, way, llm, seen)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", CHAT_MODES)
def test_streams_of_chat_engines_read_outside(
    mode: str, way: str, llm: LinAlign, seen: Seen
) -> None:
    def place(own: LinAlign) -> Callable[[], list[Any]]:
        response = chat_engine(own, mode).stream_chat("Who?")
        return lambda: drained(response.response_gen)

    check(place, way, llm, seen)


# Agents.


def agent(own: LinAlign, kind: str, tool: Callable[..., Any], **fields: Any) -> Any:
    made: dict[str, Any] = {"llm": own, "tools": [FunctionTool.from_defaults(fn=tool)], **fields}
    if kind == "ReActAgent":
        return ReActAgent(**made)
    function = FunctionAgent(**made, name="one", description="the only one")
    return function if kind == "FunctionAgent" else AgentWorkflow(agents=[function])


def look_up(place: str) -> str:
    """Look a place up."""
    return "sunny"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("awaited", ["inside", "outside"])
@pytest.mark.parametrize("kind", ["FunctionAgent", "ReActAgent", "AgentWorkflow"])
def test_agents(kind: str, awaited: str, way: str, llm: LinAlign, seen: Seen) -> None:
    async def run(own: LinAlign, block: Any) -> None:
        with block:
            handler = agent(own, kind, look_up).run("Hi", max_iterations=2)
            if awaited == "inside":
                await finished(handler)
                return
        await finished(handler)

    for user, principle in (("ann", ANN), ("bob", BOB)):
        seen.clear()
        asyncio.run(run(*as_user(llm, way, user)))
        assert seen
        assert set(seen) == {(principle,)}


async def finished(handler: Any) -> None:
    """Waits for an agent; one whose model is random may run out of turns."""
    try:
        await handler
    except Exception as error:
        if "iterations" not in str(error):
            raise


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("awaited", ["inside", "outside"])
def test_synchronous_tools_of_agents(awaited: str, way: str, llm: LinAlign, seen: Seen) -> None:
    asked: Seen = []

    async def run(own: LinAlign, block: Any) -> None:
        def ask_again(minutes: int) -> str:
            """Ask the model again."""
            before = len(seen)
            own.complete("Hi")
            asked.extend(seen[before:])
            return "done"

        made = agent(
            own.model_copy(update={"max_tokens": 60}),
            "FunctionAgent",
            ask_again,
            initial_tool_choice="ask_again",
        )
        with block:
            handler = made.run("Hi", max_iterations=2)
            if awaited == "inside":
                await finished(handler)
                return
        await finished(handler)

    for user, principle in (("ann", ANN), ("bob", BOB)):
        seen.clear()
        asked.clear()
        asyncio.run(run(*as_user(llm, way, user)))
        assert asked
        assert set(seen) == {(principle,)}


# Threads, the global object, and memory.

THREADS: dict[str, Callable[[LinAlign], Any]] = {
    "asyncio_run": lambda llm: asyncio_run(llm.acomplete("Hi")) and None,
    "asyncio_run inside a loop": lambda llm: asyncio.run(_nested(llm)),
    "run_async_tasks": lambda llm: run_async_tasks([llm.acomplete("Hi"), llm.achat(USER)]) and None,
    "asyncio.to_thread": lambda llm: asyncio.run(_to_thread(llm)),
}


async def _nested(llm: LinAlign) -> None:
    asyncio_run(llm.acomplete("Hi"))


async def _to_thread(llm: LinAlign) -> None:
    await asyncio.to_thread(llm.complete, "Hi")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", THREADS)
def test_worker_threads(place: str, way: str, llm: LinAlign, seen: Seen) -> None:
    check(THREADS[place], way, llm, seen)


def in_executor(llm: LinAlign) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(llm.complete, "Hi").result()


def in_loop_executor(llm: LinAlign) -> None:
    async def run() -> None:
        await asyncio.get_running_loop().run_in_executor(None, llm.complete, "Hi")

    asyncio.run(run())


@pytest.mark.parametrize("place", [in_executor, in_loop_executor])
def test_python_loses_the_block_in_plain_executors_and_a_copy_mends_it(
    place: Callable[[LinAlign], None], llm: LinAlign, seen: Seen
) -> None:
    with use_preferences(ANN):
        place(llm)
        place(llm.for_user("ann"))
    assert list(dict.fromkeys(seen)) == [(), (ANN,)]


@pytest.fixture
def settings(llm: LinAlign) -> Iterator[LinAlign]:
    """One object for the whole application, as web apps have it."""
    Settings.llm = llm
    yield llm
    Settings._llm = None


def test_the_global_object_follows_the_block(settings: LinAlign, seen: Seen) -> None:
    def place(_: LinAlign) -> None:
        SummaryIndex.from_documents([Document(text="Bread.")]).as_query_engine().query("Hi")
        get_response_synthesizer().synthesize("Hi", NODES)

    check(place, "context", settings, seen)
    place(settings)
    assert seen[-1] == ()


@pytest.mark.parametrize("way", WAYS)
def test_memory_that_extracts_facts(way: str, llm: LinAlign, seen: Seen) -> None:
    def place(own: LinAlign) -> None:
        block = FactExtractionMemoryBlock(llm=own)
        asyncio.run(block._aput(USER))

    check(place, way, llm, seen)
