"""PreferencesMiddleware: agents that answer each user as that user prefers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    SummarizationMiddleware,
    wrap_model_call,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from models import ADAPTER, bare_answer
from pydantic import BaseModel

from linalign_integrations import Engine, Preferences, Principle, open_profiles
from linalign_integrations.errors import (
    InvalidArgument,
    InvalidPreferences,
    ProfileNotFound,
    ProfileStoreFailed,
)
from linalign_integrations.langchain import ChatLinAlign, PreferencesMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ANN, BOB, HOUSE = "Answer like a pirate.", "Be formal.", "Never mention prices."


@dataclass
class AsDataclass:
    user_id: str | None = None
    principles: tuple[str, ...] | None = None


class AsDict(TypedDict, total=False):
    user_id: str
    principles: list[str]


class AsModel(BaseModel):
    user_id: str | None = None
    principles: list[str] | None = None


@pytest.fixture
def profiles() -> Any:
    made = open_profiles(InMemoryStore())
    made.put("ann", ANN)
    made.put("bob", BOB)
    return made


@pytest.fixture
def make(folder: Path) -> Callable[..., Any]:
    def build(*middleware: Any, model: dict[str, Any] | None = None, **options: Any) -> Any:
        chat = ChatLinAlign(**{"model": str(folder), **ADAPTER, **(model or {})})
        return create_agent(chat, middleware=middleware, **{"context_schema": AsModel, **options})

    return build


def ask(agent: Any, text: str = "Hi", *arguments: Any, **options: Any) -> str:
    return _last(agent.invoke({"messages": [HumanMessage(text)]}, *arguments, **options))


async def aask(agent: Any, text: str = "Hi", *arguments: Any, **options: Any) -> str:
    return _last(await agent.ainvoke({"messages": [HumanMessage(text)]}, *arguments, **options))


def _last(state: dict[str, Any]) -> str:
    return str(state["messages"][-1].text)


@pytest.mark.parametrize("schema", [AsDataclass, AsDict, AsModel])
@pytest.mark.parametrize(
    "said", [{"user_id": "ann"}, {"principles": [ANN]}], ids=["user", "principles"]
)
def test_the_run_s_context_says_who_asks_or_what_they_prefer(
    schema: Any, said: dict[str, Any], make: Callable, profiles: Any, folder: Path
) -> None:
    agent = make(PreferencesMiddleware(profiles), context_schema=schema)
    answer = bare_answer(folder, [ANN])
    assert answer != bare_answer(folder, [])
    assert ask(agent, context=schema(**said)) == answer
    assert asyncio.run(aask(agent, context=schema(**said))) == answer
    assert ask(agent) == bare_answer(folder, []), "nobody is named"


def test_the_configuration_wins_over_the_context(
    make: Callable, profiles: Any, folder: Path
) -> None:
    agent = make(PreferencesMiddleware(profiles))
    for config in ({"user_id": "ann"}, {"principles": [ANN]}):
        answer = ask(agent, "Hi", {"configurable": config}, context=AsModel(user_id="bob"))
        assert answer == bare_answer(folder, [ANN])


def test_profiles_are_looked_up_in_the_middleware_then_the_model_then_the_agent_s_store(
    make: Callable, folder: Path
) -> None:
    one, two, three = InMemoryStore(), InMemoryStore(), InMemoryStore()
    for store, principle in ((one, "First."), (two, "Second."), (three, "Third.")):
        open_profiles(store).put("ann", principle)
    context = AsModel(user_id="ann")
    all_of_them = make(PreferencesMiddleware(one), model={"profiles": two}, store=three)
    assert ask(all_of_them, context=context) == bare_answer(folder, ["First."])
    the_model_s = make(PreferencesMiddleware(), model={"profiles": two}, store=three)
    assert ask(the_model_s, context=context) == bare_answer(folder, ["Second."])
    the_agent_s = make(PreferencesMiddleware(), store=three)
    assert ask(the_agent_s, context=context) == bare_answer(folder, ["Third."])
    assert asyncio.run(aask(the_agent_s, context=context)) == bare_answer(folder, ["Third."])


def test_a_profile_that_changes_holds_for_the_next_call(
    make: Callable, profiles: Any, folder: Path
) -> None:
    agent = make(PreferencesMiddleware(profiles))
    assert ask(agent, context=AsModel(user_id="ann")) == bare_answer(folder, [ANN])
    profiles.put("ann", BOB)
    assert ask(agent, context=AsModel(user_id="ann")) == bare_answer(folder, [BOB])


def test_house_rules_stand_below_what_the_user_prefers(
    make: Callable, profiles: Any, folder: Path
) -> None:
    house = Preferences(principles=[HOUSE, Principle(ANN, weight=0.5)], ratio=3.0, kl_budget=0.5)
    profiles.put("eve", Preferences(principles=["Be brief."], ratio=1.0))
    profiles.put("none", Preferences(principles=()))
    agent = make(PreferencesMiddleware(profiles, house_rules=house))
    own = {"principles": [HOUSE, Principle(ANN, weight=0.5), "Be brief."]}
    assert ask(agent, context=AsModel(user_id="eve")) == bare_answer(
        folder, own["principles"], ratio=1.0, kl_budget=0.5
    )
    assert ask(agent, context=AsModel(user_id="ann")) == bare_answer(
        folder, [HOUSE, ANN], ratio=3.0, kl_budget=0.5
    ), "a user who repeats a house rule decides its weight"
    assert ask(agent) == bare_answer(folder, house.principles, ratio=3.0, kl_budget=0.5)
    assert ask(agent, context=AsModel(user_id="none")) == bare_answer(folder, [])


def test_a_user_without_a_profile_gets_the_house_rules_where_the_model_says_plain(
    make: Callable, profiles: Any, folder: Path
) -> None:
    rules = PreferencesMiddleware(profiles, house_rules=HOUSE)
    lenient = {"on_unknown_user": "plain", "principles": [BOB]}
    with pytest.warns(UserWarning, match="'new' has no profile"):
        answer = ask(make(rules, model=lenient), context=AsModel(user_id="new"))
    assert answer == bare_answer(folder, [HOUSE]), "not what the model object says for others"
    with pytest.raises(ProfileNotFound, match="'new' has no profile"):
        ask(make(rules), context=AsModel(user_id="new"))


def test_model_settings_of_another_middleware_win(
    make: Callable, profiles: Any, folder: Path
) -> None:
    @wrap_model_call
    def bolder(request: Any, handler: Any) -> Any:
        return handler(request.override(model_settings={"ratio": 4.0, "max_tokens": 5}))

    agent = make(bolder, PreferencesMiddleware(profiles))
    answer = ask(agent, context=AsModel(user_id="ann"))
    whole = bare_answer(folder, [ANN], ratio=4.0)
    assert whole.startswith(answer)
    assert len(answer) < len(whole)


def test_a_model_that_cannot_be_aligned_is_refused() -> None:
    agent = create_agent(FakeListChatModel(responses=["no"]), middleware=[PreferencesMiddleware()])
    with pytest.raises(InvalidArgument, match="is FakeListChatModel: pass create_agent"):
        ask(agent)


def test_a_user_who_cannot_be_looked_up_is_an_error(make: Callable, profiles: Any) -> None:
    nowhere = make(PreferencesMiddleware())
    with pytest.raises(ProfileNotFound, match=r"user 'ann', and there is no store.* store="):
        ask(nowhere, context=AsModel(user_id="ann"))
    agent = make(PreferencesMiddleware(profiles), context_schema=AsDict)
    with pytest.raises(InvalidArgument, match="user_id"):
        ask(agent, context={"user_id": 7})
    with pytest.raises(InvalidPreferences, match="principles"):
        ask(agent, context={"principles": [""]})
    assert ask(nowhere, context=AsModel(user_id="ann", principles=[])) == ask(nowhere)


def test_what_cannot_be_meant_is_refused_at_construction() -> None:
    with pytest.raises(InvalidPreferences):
        PreferencesMiddleware(house_rules=[""])
    with pytest.raises(InvalidArgument, match="not in int"):
        PreferencesMiddleware(7)  # type: ignore[arg-type]
    with pytest.raises(ProfileStoreFailed, match="unknown profile store"):
        PreferencesMiddleware("mysql://")


def test_without_langchain_the_extra_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['langchain'] = None\n"
        "from linalign_integrations.langchain import ChatLinAlign\n"
        "try:\n"
        "    from linalign_integrations.langchain import PreferencesMiddleware\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("MissingExtra")
    assert "linalign-integrations[agents]" in done.stdout


def test_a_thread_that_goes_on_answers_whoever_asks_now(
    make: Callable, profiles: Any, folder: Path
) -> None:
    agent = make(PreferencesMiddleware(profiles), checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "shared"}}
    first = ask(agent, "Hi", config, context=AsModel(user_id="ann"))
    second = ask(agent, "And?", config, context=AsModel(user_id="bob"))
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And?"},
    ]
    assert first == bare_answer(folder, [ANN])
    assert second == bare_answer(folder, [BOB], turns)


def test_a_run_that_was_interrupted_goes_on_under_the_context_it_is_resumed_with(
    make: Callable, profiles: Any, folder: Path
) -> None:
    agent = make(
        PreferencesMiddleware(profiles),
        checkpointer=InMemorySaver(),
        interrupt_before=["model"],
    )
    config = {"configurable": {"thread_id": "1"}}
    stopped = agent.invoke({"messages": [HumanMessage("Hi")]}, config)
    assert len(stopped["messages"]) == 1
    resumed = agent.invoke(None, config, context=AsModel(user_id="ann"))
    assert _last(resumed) == bare_answer(folder, [ANN])


@tool
def weather(city: Literal["Oslo", "Rome"]) -> str:
    """Weather in a city."""
    return f"Sunny in {city}."


@wrap_model_call
def call_first(request: Any, handler: Any) -> Any:
    """Lets the model call a tool, and then answer."""
    answered = isinstance(request.messages[-1], ToolMessage)
    return handler(request.override(tool_choice="none" if answered else "any"))


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_call_that_somebody_decides_upon_is_answered_for_the_same_user(
    decision: str, make: Callable, profiles: Any, folder: Path
) -> None:
    settings = {**ADAPTER, "model": str(folder), "max_tokens": 60, "temperature": 2.0}
    agent = make(
        HumanInTheLoopMiddleware(interrupt_on={"weather": True}),
        call_first,
        PreferencesMiddleware(profiles),
        tools=[weather],
        checkpointer=InMemorySaver(),
        model=settings,
    )
    said = {"context": AsModel(user_id="ann"), "config": {"configurable": {"thread_id": "1"}}}
    stopped = agent.invoke({"messages": [HumanMessage("Hi")]}, **said)
    (interrupt,) = stopped["__interrupt__"]
    (asked,) = interrupt.value["action_requests"]
    assert asked["name"] == "weather"
    state = agent.invoke(Command(resume={"decisions": [{"type": decision}]}), **said)
    *before, answer = state["messages"]
    assert isinstance(before[-1], ToolMessage)
    assert (before[-1].text == f"Sunny in {asked['args']['city']}.") == (decision == "approve")
    alone = ChatLinAlign(**settings).bind_tools([weather], tool_choice="none")
    assert answer.text == alone.invoke(before, principles=[ANN]).text
    assert answer.text != alone.invoke(before).text


def test_a_conversation_that_has_grown_too_long_is_summarised_and_answered(
    make: Callable, profiles: Any, folder: Path
) -> None:
    chat = ChatLinAlign(model=str(folder), **ADAPTER)
    overflows: list[Exception] = []

    class Recorder(BaseCallbackHandler):
        def on_llm_error(self, error: BaseException, **_: Any) -> None:
            overflows.append(error)  # type: ignore[arg-type]

    summary = SummarizationMiddleware(
        chat.model_copy(update={"callbacks": [Recorder()]}),
        trigger=("messages", 3),
        keep=("messages", 1),
        trim_tokens_to_summarize=None,
        token_counter=chat.get_num_tokens_from_messages,
        summary_prompt="Sum up: {messages}",
    )
    agent = make(summary, PreferencesMiddleware(profiles))
    long = [HumanMessage("word " * 2000), AIMessage("word " * 2000), HumanMessage("Hi")]
    with pytest.raises(ContextOverflowError):
        chat.invoke(long)
    state = agent.invoke({"messages": long}, context=AsModel(user_id="ann"))
    assert overflows, "the first summary was too long as well"
    assert all(isinstance(one, ContextOverflowError) for one in overflows)
    *kept, answer = state["messages"]
    turns = [{"role": "user", "content": message.text} for message in kept]
    assert answer.text == bare_answer(folder, [ANN], turns)


def test_models_with_arguments_or_fields_to_be_set_are_aligned_as_well(
    make: Callable, profiles: Any, folder: Path
) -> None:
    chat = ChatLinAlign(model=str(folder), **ADAPTER)
    rules = PreferencesMiddleware(profiles, house_rules=HOUSE)
    field = ConfigurableField(id="boldness")
    for model, config, wanted in (
        (chat.bind(ratio=4.0), {}, {"principles": [HOUSE, ANN], "ratio": 4.0}),
        (chat.bind(principles=[BOB]), {}, {"principles": [HOUSE, BOB]}),
        (
            chat.configurable_fields(ratio=field),
            {"configurable": {"boldness": 4.0}},
            {"principles": [HOUSE, ANN], "ratio": 4.0},
        ),
        (
            chat.configurable_fields(ratio=field).bind(kl_budget=0.5),
            {"configurable": {"boldness": 4.0}},
            {"principles": [HOUSE, ANN], "ratio": 4.0, "kl_budget": 0.5},
        ),
    ):
        agent = create_agent(model, middleware=[rules], context_schema=AsModel)
        answer = ask(agent, "Hi", config, context=AsModel(user_id="ann"))
        assert answer == bare_answer(folder, **wanted)


def test_whose_preferences_hold_is_who_asks_the_engine(
    profiles: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    original = Engine.stream

    def watched(engine: Engine, messages: Any, **call: Any) -> Any:
        asked.append((call["user"], call["preferences"].principles[0].text))
        return original(engine, messages, **call)

    monkeypatch.setattr(Engine, "stream", watched)
    chat = ChatLinAlign(model=str(folder), **ADAPTER)
    run = {"configurable": {"user_id": "ann"}}
    for model in (chat, chat.with_config(configurable={"user_id": "bob"})):
        ask(create_agent(model, middleware=[PreferencesMiddleware(profiles)]), "Hi", run)
    assert asked == [("ann", ANN), ("bob", BOB)]


def test_a_summarised_conversation_is_answered_under_the_same_preferences(
    make: Callable, profiles: Any, folder: Path
) -> None:
    chat = ChatLinAlign(model=str(folder), **ADAPTER)
    agent = make(
        SummarizationMiddleware(
            chat, trigger=("messages", 3), keep=("messages", 1), summary_prompt="Sum up: {messages}"
        ),
        PreferencesMiddleware(profiles),
    )
    history = [HumanMessage("Hello"), AIMessage("Hello!"), HumanMessage("Hi")]
    state = agent.invoke({"messages": history}, context=AsModel(user_id="ann"))
    *kept, answer = state["messages"]
    assert len(kept) == 2
    assert "summary" in kept[0].text
    turns = [{"role": "user", "content": message.text} for message in kept]
    assert answer.text == bare_answer(folder, [ANN], turns)


class Dish(BaseModel, extra="forbid"):
    """A dish."""

    kind: Literal["soup", "stew", "salad"]


@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy])
def test_response_formats_hold_under_the_user_s_preferences(
    strategy: Any, make: Callable, profiles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for name in ("stream", "astream"):
        original = getattr(Engine, name)

        def watched(engine: Engine, *given: Any, original: Any = original, **kwargs: Any) -> Any:
            seen.append(kwargs["preferences"])
            return original(engine, *given, **kwargs)

        monkeypatch.setattr(Engine, name, watched)
    agent = make(
        PreferencesMiddleware(profiles, house_rules=HOUSE),
        model={"max_tokens": 120},
        response_format=strategy(Dish),
    )
    given, context = {"messages": [HumanMessage("Hi")]}, AsModel(user_id="ann")
    answers = [
        agent.invoke(given, context=context),
        asyncio.run(agent.ainvoke(given, context=context)),
    ]
    assert all(isinstance(answer["structured_response"], Dish) for answer in answers)
    wanted = Preferences(principles=[HOUSE, ANN])
    assert [one.principles for one in seen] == [wanted.principles] * 2


def test_sub_agents_answer_the_same_user(make: Callable, profiles: Any, folder: Path) -> None:
    inner = make(PreferencesMiddleware(profiles))

    def call(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": inner.invoke({"messages": [HumanMessage("Hi")]})["messages"][-1:]}

    for node in (inner, call):
        graph = StateGraph(_State, context_schema=AsModel)
        graph.add_node("inner", node)
        graph.add_edge(START, "inner")
        whole = graph.compile()
        assert ask(whole, context=AsModel(user_id="ann")) == bare_answer(folder, [ANN])
        config = {"configurable": {"user_id": "bob"}}
        assert ask(whole, "Hi", config) == bare_answer(folder, [BOB])


class _State(TypedDict):
    messages: list[Any]


def test_many_users_of_one_agent_never_share_an_answer(make: Callable, folder: Path) -> None:
    profiles = open_profiles(InMemoryStore())
    wishes = {f"user{number}": f"Mention the number {number}." for number in range(16)}
    for user, wish in wishes.items():
        profiles.put(user, wish)
    agent = make(PreferencesMiddleware(profiles))
    alone = {user: bare_answer(folder, [wish]) for user, wish in wishes.items()}
    assert len(set(alone.values())) > 8

    async def together() -> list[str]:
        return await asyncio.gather(
            *(aask(agent, context=AsModel(user_id=user)) for user in wishes)
        )

    assert dict(zip(wishes, asyncio.run(together()), strict=True)) == alone
    with ThreadPoolExecutor(16) as threads:
        answers = threads.map(lambda user: ask(agent, context=AsModel(user_id=user)), wishes)
    assert dict(zip(wishes, answers, strict=True)) == alone


@pytest.mark.parametrize("with_middleware", [False, True])
def test_users_whom_a_context_names_are_not_told_what_others_sent(
    make: Callable[..., Any], with_middleware: bool
) -> None:
    profiles = open_profiles(InMemoryStore())
    profiles.put("cleo", ANN)
    profiles.put("dora", ANN)
    middleware = [PreferencesMiddleware(profiles=profiles)] if with_middleware else []
    text = "Tell me at length what this very long question of mine is all about, please. " * 3

    def reused(user: str) -> int:
        agent = make(*middleware)
        told = agent.invoke({"messages": [HumanMessage(text)]}, context=AsModel(user_id=user))
        return int(told["messages"][-1].usage_metadata["input_token_details"]["cache_read"])

    told = [reused(user) for user in ("cleo", "dora", "cleo")]
    assert told[0] == told[1] < told[2]
