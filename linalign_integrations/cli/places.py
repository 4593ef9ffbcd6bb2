"""``linalign places``: whether places in the frameworks follow principles as the engine does."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from linalign_integrations.cli.report import answers_bar, check_files, plain_table, verdict
from linalign_integrations.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.runnables import RunnableConfig
    from rich.console import Console
    from rich.table import Table

    from linalign_integrations.langchain import ChatLinAlign
    from linalign_integrations.llama_index import LinAlign
    from linalign_integrations.pocket.corpus import Kind, Scene

# What a place may differ by from the engine, as a share of one.
TOLERANCE = 0.05
_SETTINGS: dict[str, Any] = {"temperature": 0.7, "max_tokens": 160}
# In which an answer is the same alone and in any crowd.
_DTYPE = "float32"
# The engine answers those together that ask at the same time.
_AT_ONCE = 16


@dataclass(frozen=True)
class Place:
    """Somewhere in a framework where a model stands.

    Attributes:
        name: what to call it.
        kind: of the held-out scenes that are asked there.
        ask: the answer to a scene. It is given the model's name, the scene and its seed.
        fits: whether the place can put this scene to the model in the scene's own words.
    """

    name: str
    kind: Kind
    ask: Callable[[str, Scene, int], str]
    fits: Callable[[Scene], bool] = lambda _: True


@dataclass(frozen=True)
class Rate:
    """How a place compares with the engine on the same scenes, as shares of one.

    Attributes:
        place: its name.
        cases: how many scenes there were.
        bare: principles that the engine's own answers follow.
        followed: principles that the place's answers follow.
        same: answers that are the engine's to the letter.
    """

    place: str
    cases: int
    bare: float
    followed: float
    same: float

    @property
    def met(self) -> bool:
        """Whether the place is as good as the engine, within the tolerance."""
        return abs(self.followed - self.bare) <= TOLERANCE


def _chat(model: str, seed: int) -> ChatLinAlign:
    from linalign_integrations.langchain import ChatLinAlign

    return ChatLinAlign(model=model, dtype=_DTYPE, seed=seed, **_SETTINGS)


def _config(scene: Scene) -> RunnableConfig:
    return {"configurable": {"principles": scene.principles}}


def _chain(model: str, scene: Scene, seed: int) -> str:
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history"), ("user", "{question}")]
    )
    *history, last = scene.messages(told=False, answered=False)
    given = {"history": history, "question": last["content"]}
    chain = prompt | _chat(model, seed) | StrOutputParser()
    return chain.invoke(given, _config(scene))


_CONTEXT, _QUESTION = "Base your answer on this context alone:\n", "\n\nQuestion: "


def _is_rag(scene: Scene) -> bool:
    asked = scene.dialogue[-2]["content"]
    return asked.startswith(_CONTEXT) and _QUESTION in asked


def _rag(model: str, scene: Scene, seed: int) -> str:
    from langchain_core.documents import Document
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
    from langchain_core.runnables import RunnableLambda

    *history, last = scene.messages(told=False, answered=False)
    context, _, question = last["content"].removeprefix(_CONTEXT).rpartition(_QUESTION)

    def search(_: str) -> list[Document]:
        return [Document(part) for part in context.split("\n\n")]

    def as_text(found: Sequence[Document]) -> str:
        return "\n\n".join(one.page_content for one in found)

    steps: dict[str, Any] = {
        "history": lambda _: history,
        "context": RunnableLambda(search) | as_text,
        "question": lambda asked: asked,
    }
    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history"), ("user", f"{_CONTEXT}{{context}}{_QUESTION}{{question}}")]
    )
    rag = RunnableLambda(lambda asked: asked) | steps | prompt | _chat(model, seed)
    return (rag | StrOutputParser()).invoke(question, _config(scene))


def _agent(model: str, scene: Scene, seed: int) -> str:
    try:
        from langchain.agents import create_agent
    except ImportError as error:
        raise MissingExtra(
            "an agent needs a package that is not installed: "
            "pip install 'linalign-integrations[agents]'"
        ) from error
    from linalign_integrations.langchain import PreferencesMiddleware

    messages = with_ids(scene.messages(told=False, answered=False))
    agent: Any = create_agent(_chat(model, seed), scene.tools, middleware=[PreferencesMiddleware()])
    state = agent.invoke({"messages": messages}, _config(scene))
    return str(state["messages"][len(messages)].text)


def with_ids(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as frameworks want them: calls with ids and arguments as JSON, results with ids."""
    made, ids = [], [f"call_{number}" for number in range(len(messages) * 4)]
    calls, results = iter(ids), iter(ids)
    for message in messages:
        one = dict(message)
        if one["role"] == "tool":
            one["tool_call_id"] = next(results)
        if "tool_calls" in one:
            one["tool_calls"] = [
                {
                    "id": next(calls),
                    "type": "function",
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": json.dumps(call["function"]["arguments"]),
                    },
                }
                for call in one["tool_calls"]
            ]
        made.append(one)
    return made


def _stream(model: str, scene: Scene, seed: int) -> str:
    messages = scene.messages(told=False, answered=False)
    return "".join(piece.text for piece in _chat(model, seed).stream(messages, _config(scene)))


def _lin_align(model: str, scene: Scene, seed: int) -> LinAlign:
    from linalign_integrations.llama_index import LinAlign

    return LinAlign(model=model, dtype=_DTYPE, seed=seed, principles=scene.principles, **_SETTINGS)


def _parts(scene: Scene, wording: int) -> tuple[str, str] | None:
    """Context and question of a scene in one of LlamaIndex's wordings; None if it is in another."""
    from linalign_integrations.pocket.corpus import USER_WRAPPERS

    system, user = USER_WRAPPERS[wording]
    shape = re.escape(f"{system}\0{user}")
    for name in ("context", "question"):
        shape = shape.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>.*)")
    written = f"{scene.system}\0{scene.dialogue[0]['content']}"
    found = re.fullmatch(shape, written, re.DOTALL)
    return (found["context"], found["question"]) if found else None


def _query_engine(model: str, scene: Scene, seed: int) -> str:
    context, question = _parts(scene, 0) or ("", "")
    return str(_index(context).as_query_engine(llm=_lin_align(model, scene, seed)).query(question))


def _chat_engine(model: str, scene: Scene, seed: int) -> str:
    context, question = _parts(scene, 1) or ("", "")
    llm = _lin_align(model, scene, seed)
    return str(_index(context).as_chat_engine(chat_mode="context", llm=llm).chat(question))


def _index(context: str) -> Any:
    from llama_index.core import SummaryIndex
    from llama_index.core.schema import TextNode

    return SummaryIndex([TextNode(text=context)])


def _function_agent(model: str, scene: Scene, seed: int) -> str:
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
    from llama_index.core.memory import ChatMemoryBuffer
    from llama_index.core.tools import FunctionTool, ToolMetadata

    class Schema(ToolMetadata):
        """A tool's definition as the scene writes it, word by word."""

        def get_parameters_dict(self) -> dict[str, Any]:
            written: dict[str, Any] = next(
                one["function"]["parameters"]
                for one in scene.tools
                if one["function"]["name"] == self.name
            )
            return written

    def message(one: dict[str, Any]) -> ChatMessage:
        if one["role"] == "tool":
            more = {"tool_call_id": one["tool_call_id"]}
            return ChatMessage(role="tool", content=one["content"], additional_kwargs=more)
        calls = [
            ToolCallBlock(
                tool_call_id=call["id"],
                tool_name=call["function"]["name"],
                tool_kwargs=json.loads(call["function"]["arguments"]),
            )
            for call in one.get("tool_calls", ())
        ]
        if calls:
            return ChatMessage(role="assistant", blocks=calls)
        return ChatMessage(role=one["role"], content=one["content"])

    tools = [
        FunctionTool(
            lambda **_: "", Schema(one["function"]["description"], one["function"]["name"])
        )
        for one in scene.tools
    ]
    history = with_ids(scene.messages(told=False, answered=False))

    async def answer() -> str:
        agent = FunctionAgent(llm=_lin_align(model, scene, seed), tools=tools)
        # The default memory is a database whose threads outlive this event loop.
        memory = ChatMemoryBuffer.from_defaults()
        return str(await agent.run(chat_history=[*map(message, history)], memory=memory))

    return asyncio.run(answer())


PLACES = (
    Place("LangChain: chain", "chat", _chain),
    Place("LangChain: RAG", "documents", _rag, _is_rag),
    Place("LangChain: agent's answer", "results", _agent),
    Place("LangChain: streamed answer", "turns", _stream),
    Place("LlamaIndex: query engine", "documents", _query_engine, lambda it: bool(_parts(it, 0))),
    Place("LlamaIndex: chat engine", "documents", _chat_engine, lambda it: bool(_parts(it, 1))),
    Place("LlamaIndex: agent's answer", "results", _function_agent),
)


def bare(model: str, scene: Scene, seed: int) -> str:
    """The engine's own answer to a scene."""
    from linalign_integrations.engine import Engine, SamplingParams
    from linalign_integrations.preferences import Preferences

    return (
        Engine.load(model, dtype=_DTYPE)
        .generate(
            scene.messages(told=False, answered=False),
            preferences=Preferences(principles=scene.principles),
            sampling=SamplingParams(seed=seed, **_SETTINGS),
            tools=scene.tools,
        )
        .text
    )


def scenes(place: Place, count: int, seed: int) -> list[Scene]:
    """Held-out scenes of one principle that can be asked in a place."""
    from linalign_integrations.pocket.corpus import Writer

    writer = Writer(f"{place.name}/{seed}", "held_out")
    turns = 1 if place.kind == "documents" else None
    drawn = (
        writer.scene(place.kind, 1, placement="system", turns=turns) for _ in itertools.count()
    )
    return list(itertools.islice(filter(place.fits, drawn), count))


def rate(place: Place, model: str, count: int, seed: int, advance: Callable[[int], object]) -> Rate:
    """Compares a place with the engine, scene by scene, with the same seeds.

    Args:
        place: which.
        model: ``"pocket"``, or a model trained on the same world.
        count: how many scenes.
        seed: decides scenes and draws.
        advance: told the number of answers that were added.

    Raises:
        LinAlignError: the model cannot be loaded, or cannot answer.
    """
    from linalign_integrations.pocket.judge import read

    chosen = scenes(place, count, seed)

    def answers(ask: Callable[[str, Scene, int], str]) -> list[str]:
        def one(numbered: tuple[int, Scene]) -> str:
            text = ask(model, numbered[1], numbered[0])
            advance(1)
            return text

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(one, enumerate(chosen)))

    def followed(texts: Sequence[str]) -> float:
        return fmean(
            read(text, scene.facts).shows(name, value)
            for text, scene in zip(texts, chosen, strict=True)
            for name, value in scene.wanted.items()
        )

    own, theirs = answers(bare), answers(place.ask)
    same = fmean(one == other for one, other in zip(own, theirs, strict=True))
    return Rate(place.name, count, followed(own), followed(theirs), same)


def run(console: Console, *, model: str, count: int, seed: int, json_file: str | None) -> None:
    """Measures every place, prints a line for each, and writes the file asked for.

    Raises:
        InvalidArgument: there is nothing to measure, or the file cannot be written.
        LinAlignError: as for ``rate``.
    """
    if count < 1:
        raise InvalidArgument(f"count={count}: measuring takes at least one scene per place")
    check_files(json_file, None)
    with answers_bar(console, 2 * count * len(PLACES)) as advance:
        rates = [rate(place, model, count, seed, advance) for place in PLACES]
    console.print(rates_table(rates))
    if json_file:
        report = {"model": model, "seed": seed, "rates": [asdict(one) for one in rates]}
        Path(json_file).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def rates_table(rates: Sequence[Rate]) -> Table:
    """A line for each place: what is followed there and by the engine itself."""
    made = plain_table("principles followed", title_style="bold")
    for heading in ("", "cases", "engine", "here", "asked", "same answers", ""):
        made.add_column(heading, justify="right" if heading else "left")
    for one in rates:
        made.add_row(
            one.place,
            str(one.cases),
            f"{one.bare:.3f}",
            f"{one.followed:.3f}",
            f"± {TOLERANCE:g}",
            f"{one.same:.2f}",
            verdict(met=one.met),
        )
    return made
