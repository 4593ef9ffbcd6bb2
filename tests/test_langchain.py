"""LangChain: a drop-in model whose preferences are run-time parameters."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import threading
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import make_dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelTimeoutError,
    OutputParserException,
)
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from models import ADAPTER, bare_answer
from pydantic import BaseModel, RootModel, create_model, field_validator
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from linalign_integrations import (
    Engine,
    Preferences,
    Principle,
    open_profiles,
    use_preferences,
)
from linalign_integrations.engine import (
    Grammar,
    InvalidToolCall,
    Piece,
    Strength,
    ToolCallDelta,
    Usage,
)
from linalign_integrations.engine.answer import gather
from linalign_integrations.errors import (
    GenerationTimeout,
    InvalidArgument,
    InvalidGrammar,
    InvalidMessages,
    InvalidPreferences,
    InvalidSampling,
    InvalidTools,
    ModelNotFound,
    ProfileNotFound,
    PromptTooLong,
)
from linalign_integrations.langchain import ChatLinAlign, LinAlignLLM
from linalign_integrations.langchain.bindings import unbound
from linalign_integrations.langchain.llm import BoundLLM
from linalign_integrations.langchain.messages import Answer, as_dicts
from linalign_integrations.langchain.tools import BoundLinAlign
from linalign_integrations.preferences import Profiles, resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ANN, BOB = "Answer like a pirate.", "Be formal."


@pytest.fixture(params=[ChatLinAlign, LinAlignLLM], ids=["chat", "llm"])
def make(request: pytest.FixtureRequest, folder: Path) -> Callable[..., Any]:
    def build(**fields: object) -> Any:
        settings = {"model": str(folder), **ADAPTER}
        return request.param(**{**settings, **fields})

    return build


def text(answer: object) -> str:
    return answer.content if isinstance(answer, AIMessage) else str(answer)


async def collect(stream: Any) -> str:
    return "".join([text(piece) async for piece in stream])


def test_every_form_of_call_gives_the_engine_s_answer(make: Callable, folder: Path) -> None:
    model = make(principles=[ANN])
    answer = bare_answer(folder, [ANN])
    assert len({answer, bare_answer(folder, [BOB]), bare_answer(folder, [])}) == 3
    assert text(model.invoke("Hi")) == answer
    assert "".join(map(text, model.stream("Hi"))) == answer
    assert [text(a) for a in model.batch(["Hi", "Hi"])] == [answer, answer]
    assert text(asyncio.run(model.ainvoke("Hi"))) == answer
    assert asyncio.run(collect(model.astream("Hi"))) == answer
    assert [text(a) for a in asyncio.run(model.abatch(["Hi", "Hi"]))] == [answer, answer]
    assert model.generate_prompt([model._convert_input("Hi")]).generations[0][0].text == answer


def test_call_arguments_win_over_the_object_s_own_fields(make: Callable, folder: Path) -> None:
    model = make(principles=[ANN], ratio=1.0)
    assert text(model.invoke("Hi", principles=[BOB])) == bare_answer(folder, [BOB], ratio=1.0)
    assert text(model.invoke("Hi", ratio=4.0)) == bare_answer(folder, [ANN], ratio=4.0)
    assert text(model.invoke("Hi", kl_budget=0.1)) == bare_answer(
        folder, [ANN], ratio=1.0, kl_budget=0.1
    )
    assert text(model.invoke("Hi", principles=())) == bare_answer(folder, [])
    assert text(model.invoke("Hi", preferences=Preferences(principles=[BOB], ratio=3.0))) == (
        bare_answer(folder, [BOB], ratio=3.0)
    )
    assert "".join(map(text, model.stream("Hi", principles=BOB, ratio=2.0))) == bare_answer(
        folder, [BOB]
    )


def test_a_config_reaches_the_model_directly_and_through_a_chain(
    make: Callable, folder: Path
) -> None:
    model = make(principles=[ANN])
    chain = RunnableLambda(lambda x: x) | model | StrOutputParser()
    config = {"configurable": {"principles": [BOB]}}
    answer = bare_answer(folder, [BOB])
    assert text(model.invoke("Hi", config)) == answer
    assert chain.invoke("Hi", config) == answer
    assert "".join(chain.stream("Hi", config)) == answer
    assert asyncio.run(chain.ainvoke("Hi", config)) == answer


def test_a_batch_takes_each_item_s_own_config(make: Callable, folder: Path) -> None:
    model = make()
    configs = [{"configurable": {"principles": [p] if p else []}} for p in (ANN, "", BOB)]
    answers = [bare_answer(folder, [p] if p else []) for p in (ANN, "", BOB)]
    assert [text(a) for a in model.batch(["Hi"] * 3, configs)] == answers
    assert [text(a) for a in asyncio.run(model.abatch(["Hi"] * 3, configs))] == answers


def test_a_user_s_profile_is_found_by_config_and_by_copy(make: Callable, folder: Path) -> None:
    profiles = open_profiles("memory://")
    profiles.put("ann", Preferences(principles=[ANN]))
    profiles.put("bob", Preferences(principles=[BOB], ratio=3.0))
    model = make(profiles=profiles)
    assert text(model.invoke("Hi", {"configurable": {"user_id": "ann"}})) == bare_answer(
        folder, [ANN]
    )
    bobs = model.for_user("bob")
    assert text(bobs.invoke("Hi")) == bare_answer(folder, [BOB], ratio=3.0)
    assert text(model.invoke("Hi")) == bare_answer(folder, [])
    profiles.put("bob", Preferences(principles=[ANN]))
    assert text(bobs.invoke("Hi")) == bare_answer(folder, [ANN])
    with pytest.raises(ProfileNotFound, match="'eve' has no profile"):
        model.invoke("Hi", {"configurable": {"user_id": "eve"}})


def test_profiles_may_be_given_as_a_url(make: Callable, folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/p.db"
    open_profiles(url).put("ann", Preferences(principles=[ANN]))
    assert text(make(profiles=url).for_user("ann").invoke("Hi")) == bare_answer(folder, [ANN])


def test_for_user_without_a_store_says_what_is_missing(make: Callable) -> None:
    with pytest.raises(ProfileNotFound, match="profiles="):
        make().for_user("ann")


def test_use_preferences_reaches_calls_inside_the_block(make: Callable, folder: Path) -> None:
    model = make(principles=[ANN])
    with use_preferences(BOB):
        assert text(model.invoke("Hi")) == bare_answer(folder, [BOB])
        stream = model.stream("Hi")
    assert "".join(map(text, stream)) == bare_answer(folder, [BOB]), "settled when it was asked for"
    assert text(model.invoke("Hi")) == bare_answer(folder, [ANN])


def test_a_cache_never_hands_one_user_s_answer_to_another(make: Callable, folder: Path) -> None:
    profiles = open_profiles("memory://")
    profiles.put("ann", Preferences(principles=[ANN]))
    profiles.put("bob", Preferences(principles=[BOB]))
    model = make(cache=InMemoryCache(), profiles=profiles)
    ways: list[Callable[[str, str], object]] = [
        lambda _, principle: model.invoke("Hi", principles=[principle]),
        lambda _, principle: model.invoke("Hi", {"configurable": {"principles": [principle]}}),
        lambda user, _: model.invoke("Hi", {"configurable": {"user_id": user}}),
        lambda user, _: model.for_user(user).invoke("Hi"),
        lambda _, principle: model.model_copy(
            update={"principles": Preferences(principles=[principle]).principles}
        ).invoke("Hi"),
        lambda _, principle: within(principle),
    ]

    def within(principle: str) -> object:
        with use_preferences(principle):
            return model.invoke("Hi")

    for way in ways:
        for _ in range(2):
            for user, principle in (("ann", ANN), ("bob", BOB)):
                assert text(way(user, principle)) == bare_answer(folder, [principle])
    assert text(model.invoke("Hi")) == bare_answer(folder, [])
    hot = model.invoke("Hi", temperature=2.0, principles=[ANN])
    assert text(hot) != text(model.invoke("Hi", principles=[ANN]))


def test_sampling_arguments_and_stop_hold_for_one_call(make: Callable, folder: Path) -> None:
    model = make()
    full = text(model.invoke("Hi"))
    assert text(model.invoke("Hi", max_tokens=3)) != full
    assert text(model.invoke("Hi", seed=4)) != full
    stop = full[4:6]
    assert text(model.invoke("Hi", stop=[stop])) == full[: full.index(stop)]
    assert text(make(stop=[stop]).invoke("Hi")) == full[: full.index(stop)]
    assert text(model.invoke("Hi")) == full


def test_roles_reach_the_model_as_they_are(folder: Path) -> None:
    model = ChatLinAlign(model=str(folder), dtype="float32", seed=3, max_tokens=12)
    messages = [SystemMessage("S"), HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
    dicts = [
        {"role": role, "content": message.content}
        for role, message in zip(("system", "user", "assistant", "user"), messages, strict=True)
    ]
    assert model.invoke(messages).content == bare_answer(folder, [], dicts)
    template = ChatPromptTemplate.from_messages([("system", "S"), ("user", "{q}")])
    ends = [dicts[0], dicts[3]]
    assert (template | model).invoke({"q": "c"}).content == bare_answer(folder, [], ends)


def test_answers_carry_usage_and_what_ended_them(folder: Path) -> None:
    model = ChatLinAlign(
        model=str(folder), dtype="float32", seed=3, max_tokens=12, principles=[ANN]
    )
    answer = model.invoke("Hi")
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + 12
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.response_metadata["model_name"] == str(folder)
    whole = None
    for chunk in model.stream("Hi"):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == answer.content
    assert whole.usage_metadata == answer.usage_metadata
    assert whole.response_metadata == answer.response_metadata


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[object] = []
        self.tokens: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.seen.append((serialized, kwargs))

    def on_llm_start(self, serialized: Any, prompts: Any, **kwargs: Any) -> None:
        self.seen.append((serialized, kwargs))

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)


def test_traces_show_that_preferences_differ_and_not_what_they_say(make: Callable) -> None:
    recorder = Recorder()
    secret = "I have a rare illness."  # noqa: S105 - what a user would not want in a trace
    model = make(principles=[secret])
    model.invoke("Hi", {"callbacks": [recorder]})
    model.invoke("Hi", {"callbacks": [recorder]}, principles=[secret])
    list(model.stream("Hi", {"callbacks": [recorder]}, principles=[secret]))
    assert len(recorder.seen) == 3
    assert "illness" not in json.dumps(recorder.seen, default=repr)


def test_streamed_tokens_reach_callbacks(make: Callable, folder: Path) -> None:
    recorder = Recorder()
    list(make().stream("Hi", {"callbacks": [recorder]}))
    assert "".join(recorder.tokens) == bare_answer(folder, [])


def test_tokens_are_counted_by_the_model_s_own_tokenizer(make: Callable) -> None:
    assert make().get_num_tokens("the the") == len(make().get_token_ids("the the")) == 3


def test_construction_is_cheap_and_reads_no_weights() -> None:
    assert ChatLinAlign(model="no/such-model").model == "no/such-model"


def test_bad_fields_raise_this_package_s_errors(make: Callable, folder: Path) -> None:
    for fields, error in (
        ({"ratio": -1}, InvalidPreferences),
        ({"principles": [""]}, InvalidPreferences),
        ({"kl_budget": 0}, InvalidPreferences),
        ({"temperature": -1}, InvalidSampling),
        ({"max_tokens": 0}, InvalidSampling),
    ):
        with pytest.raises(error):
            make(**fields)
        with pytest.raises(error):
            make().invoke("Hi", **fields)
    with pytest.raises(InvalidPreferences, match="takes Preferences"):
        make().invoke("Hi", preferences="Be brief.")


def test_bad_principles_are_refused_from_wherever_they_come(make: Callable, folder: Path) -> None:
    model = make()
    for principles in (
        ["x" * 100_000],
        [f"p{number}" for number in range(1000)],
        ["a\x00b"],
        [{"text": "a", "weight": float("nan")}],
        [b"bytes"],
    ):
        for refused in (
            lambda given: make(principles=given),
            lambda given: model.invoke("Hi", principles=given),
            lambda given: model.invoke("Hi", {"configurable": {"principles": given}}),
            lambda given: list(model.stream("Hi", principles=given)),
        ):
            with pytest.raises(InvalidPreferences, match="principles") as caught:
                refused(principles)
            assert len(str(caught.value)) < 1000
    assert text(model.invoke("Hi")) == bare_answer(folder, []), "nobody else is disturbed"


def test_every_field_of_preferences_is_one_of_the_adapter_s(make: Callable) -> None:
    assert set(Preferences.model_fields) <= set(type(make()).model_fields)


def test_fields_of_the_wrong_type_raise_this_package_s_errors(make: Callable) -> None:
    for fields, error in (
        ({"ratio": "much"}, InvalidPreferences),
        ({"placement": "footer"}, InvalidPreferences),
        ({"temperature": "hot"}, InvalidSampling),
        ({"stop": [1]}, InvalidSampling),
        ({"user_id": 3}, InvalidArgument),
        ({"model": 3}, InvalidArgument),
        ({"profiles": 7}, InvalidArgument),
        ({"preferences": "Be brief."}, InvalidPreferences),
    ):
        with pytest.raises(error):
            make(**fields)


def test_what_would_be_ignored_is_refused(make: Callable) -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'principles'"):
        make(principle=["Be brief."])
    for call in ({"principle": ["Be brief."]}, {"logit_bias": {1: 2.0}}, {"best_of": 3}):
        with pytest.raises(InvalidArgument, match="does not understand"):
            make().invoke("Hi", **call)
    assert make(timeout=60, max_retries=2, api_key="x").invoke("Hi", tools=[], tool_choice=None)


def test_whole_preferences_may_be_given_at_construction(make: Callable, folder: Path) -> None:
    model = make(preferences=Preferences(principles=[ANN], ratio=3.0))
    assert text(model.invoke("Hi")) == bare_answer(folder, [ANN], ratio=3.0)


def test_a_model_may_be_named_by_a_path(make: Callable, folder: Path) -> None:
    assert make(model=folder).model == str(folder)


def test_an_argument_of_none_leaves_the_object_s_own_value(make: Callable, folder: Path) -> None:
    model = make(temperature=0.0)
    assert text(model.invoke("Hi", temperature=None)) == text(model.invoke("Hi"))
    assert text(model.invoke("Hi", seed=9)) == text(model.invoke("Hi")), "greedy: seeds are idle"


def test_another_store_in_a_copy_is_the_one_that_is_read(make: Callable, folder: Path) -> None:
    one, two = open_profiles("memory://tenant-one"), open_profiles("memory://tenant-two")
    one.put("ann", ANN)
    two.put("ann", BOB)
    model = make(profiles="memory://tenant-one")
    assert text(model.for_user("ann").invoke("Hi")) == bare_answer(folder, [ANN])
    moved = model.model_copy(update={"profiles": two})
    assert text(moved.for_user("ann").invoke("Hi")) == bare_answer(folder, [BOB])


def test_copies_and_pickles_find_their_profiles_again(make: Callable, folder: Path) -> None:
    open_profiles("memory://kept").put("ann", ANN)
    for given in ("memory://kept", open_profiles("memory://kept")):
        model = make(profiles=given).for_user("ann")
        for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert text(again.invoke("Hi")) == bare_answer(folder, [ANN])


def test_what_a_cache_keeps_does_not_quote_principles(make: Callable) -> None:
    cache = InMemoryCache()
    make(cache=cache, principles=["I have a rare illness."]).invoke("Hi")
    make(cache=cache).invoke("Hi", principles=["I have a rare illness."])
    assert len(cache._cache) == 2
    assert "illness" not in str(list(cache._cache))


def test_langgraph_s_runtime_context_is_read(make: Callable, folder: Path) -> None:
    profiles = open_profiles("memory://graph")
    profiles.put("ann", ANN)
    model = make(profiles=profiles)
    for context, principles in (
        (SimpleNamespace(user_id="ann"), [ANN]),
        ({"principles": [BOB]}, [BOB]),
        (None, []),
    ):
        config = {"configurable": {"__pregel_runtime": SimpleNamespace(context=context)}}
        assert text(model.invoke("Hi", config)) == bare_answer(folder, principles)


def test_events_follow_the_config(make: Callable, folder: Path) -> None:
    config = {"configurable": {"principles": [BOB]}}

    async def events() -> list[Any]:
        return [event async for event in make().astream_events("Hi", config, version="v2")]

    seen = asyncio.run(events())
    streamed = [e["data"]["chunk"] for e in seen if e["event"].endswith("model_stream")]
    streamed += [e["data"]["chunk"] for e in seen if e["event"] == "on_llm_stream"]
    assert "".join(map(text, streamed)) == bare_answer(folder, [BOB])


def test_retries_and_fallbacks_keep_the_preferences(make: Callable, folder: Path) -> None:
    broken = make(model="./no-such-folder")
    config = {"configurable": {"principles": [BOB]}}
    for wrapped in (make().with_retry(), broken.with_fallbacks([make()])):
        assert text(wrapped.invoke("Hi", config)) == bare_answer(folder, [BOB])
    bound = make().bind(principles=[BOB])
    assert text(bound.invoke("Hi")) == bare_answer(folder, [BOB])


def test_fallbacks_hand_on_tools_and_users(make: Callable, folder: Path) -> None:
    store = open_profiles("memory://fallbacks")
    store.put("bob", [BOB])
    broken, whole = make(model="./no-such-folder", profiles=store), make(profiles=store)
    for first in (broken, broken.bind(top_k=None)):
        assert text(first.with_fallbacks([whole]).for_user("bob").invoke("Hi")) == bare_answer(
            folder, [BOB]
        )
    if isinstance(whole, ChatLinAlign):
        model = broken.with_fallbacks([whole]).bind_tools(
            [weather], tool_choice="any", max_tokens=99
        )
        answer = model.invoke("Hi")
        assert answer.tool_calls or answer.invalid_tool_calls


@pytest.mark.parametrize("model", [ChatLinAlign, LinAlignLLM, BoundLinAlign, BoundLLM])
def test_the_types_of_public_methods_can_be_read(model: type) -> None:
    methods = [getattr(one, "__func__", one) for _, one in inspect.getmembers(model, callable)]
    own = [
        one
        for one in methods
        if inspect.isfunction(one)
        and one.__module__.startswith("linalign_integrations")
        and not one.__name__.startswith("_")
    ]
    assert len(own) > 3
    for one in own:
        get_type_hints(one)


def test_a_model_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINALIGN_MODEL", raising=False)
    with pytest.raises(ModelNotFound, match="model= or set LINALIGN_MODEL"):
        ChatLinAlign()
    monkeypatch.setenv("LINALIGN_MODEL", "pocket")
    assert ChatLinAlign().model == "pocket"


def test_images_are_refused_by_a_text_model(folder: Path) -> None:
    model = ChatLinAlign(model=str(folder), dtype="float32")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(InvalidMessages, match="not text"):
        model.invoke([HumanMessage([picture])])


# What the chat class can do beyond text.


@tool
def weather(city: str, days: int = 1) -> str:
    """Get the weather."""
    return f"Sun in {city}."


class Dish(BaseModel, extra="forbid"):
    """A dish."""

    kind: Literal["soup", "stew", "salad"]
    hot: bool


UNIQUE = {
    "title": "Tags",
    "type": "object",
    "properties": {
        "tags": {
            "type": "array",
            "items": {"enum": ["a"]},
            "minItems": 2,
            "maxItems": 2,
            "uniqueItems": True,
        }
    },
    "required": ["tags"],
}


@pytest.fixture
def chat(folder: Path) -> ChatLinAlign:
    return ChatLinAlign(model=str(folder), **{**ADAPTER, "max_tokens": 80})


def whole(stream: Any) -> Any:
    made = None
    for chunk in stream:
        made = chunk if made is None else made + chunk
    return made


class WeatherDict(TypedDict):
    """Get the weather."""

    city: Annotated[str, ..., "where"]


class WeatherV1(BaseModelV1):
    """Get the weather."""

    city: str


ANTHROPIC = {
    "name": "weather",
    "description": "Get the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.mark.parametrize(
    "given",
    [weather, weather.func, WeatherDict, WeatherV1, ANTHROPIC, WeatherV1.schema()],
    ids=["BaseTool", "function", "TypedDict", "pydantic v1", "Anthropic", "JSON schema"],
)
def test_tools_of_every_kind_are_called_as_they_are_chosen(chat: ChatLinAlign, given: Any) -> None:
    name = getattr(given, "name", None) or getattr(given, "__name__", None) or "weather"
    name = "WeatherV1" if isinstance(given, dict) and "title" in given else name
    for choice in (
        "any",
        "required",
        True,
        name,
        {"type": "function", "function": {"name": name}},
        {"type": "any"},
        {"type": "tool", "name": name},
    ):
        model = chat.bind_tools([given], tool_choice=choice, parallel_tool_calls=False)
        answer = model.invoke("Hi")
        (call,) = answer.tool_calls
        assert (call["name"], type(call["args"]["city"])) == (name, str)
        assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert chat.bind_tools([given], tool_choice="none").invoke("Hi").tool_calls == []


def test_a_call_is_the_same_streamed_and_whole(chat: ChatLinAlign) -> None:
    model = chat.bind_tools([weather], tool_choice="any")
    answer, streamed = model.invoke("Hi"), list(model.stream("Hi"))
    joined = whole(streamed)
    assert joined.tool_calls == answer.tool_calls != []
    assert joined.response_metadata == answer.response_metadata
    assert joined.content_blocks == answer.content_blocks
    parts = [part for chunk in streamed for part in chunk.tool_call_chunks]
    assert len(parts) > 2, "arguments come in pieces"
    assert [part["name"] for part in parts if part["name"]] == [
        call["name"] for call in answer.tool_calls
    ]


def test_a_call_that_is_cut_off_is_no_call_streamed_or_whole(folder: Path) -> None:
    pieces = [
        Piece(
            "", (1,), None, None, 0.0, tool_calls=(ToolCallDelta(0, "id0000000", "weather", ""),)
        ),
        Piece("", (1,), None, None, 0.0, tool_calls=(ToolCallDelta(0, None, None, '{"city": "R'),)),
        Piece(
            "",
            (1,),
            "length",
            Usage(1, 3, 1),
            0.0,
            invalid_tool_calls=(
                InvalidToolCall('{"city": "R', "cut off", 0, "weather", "id0000000"),
                InvalidToolCall('{"name": "x"', "there is no tool 'x'", None, "x"),
            ),
            strength=Strength(0.0, 0.0),
        ),
    ]
    answer = Answer("tiny", {})
    joined = whole(one.message for piece in pieces for one in answer.chunks(piece))
    assert joined.tool_calls == []
    assert [one["name"] for one in joined.invalid_tool_calls] == ["weather", "x"]
    message = Answer("tiny", {}).generation(gather(pieces)).message
    assert message.tool_calls == []
    assert [one["error"] for one in message.invalid_tool_calls] == [
        "cut off",
        "there is no tool 'x'",
    ]
    assert message.response_metadata["finish_reason"] == "length"


def test_arguments_that_no_grammar_could_check_are_checked_afterwards() -> None:
    schemas = {"tag": UNIQUE}
    piece = Piece(
        "",
        (1,),
        "stop",
        Usage(1, 1, 1),
        0.0,
        tool_calls=(ToolCallDelta(0, "id0000000", "tag", '{"tags": ["a", "a"]}'),),
        strength=Strength(0.0, 0.0),
    )
    streamed = whole(one.message for one in Answer("tiny", schemas).chunks(piece))
    message = Answer("tiny", schemas).generation(gather([piece])).message
    for one in (streamed, message):
        assert one.tool_calls == []
        assert [call["name"] for call in one.invalid_tool_calls] == ["tag"]
        assert one.response_metadata["finish_reason"] == "stop"


def test_bad_tools_and_choices_are_refused_when_they_are_bound(chat: ChatLinAlign) -> None:
    for tools, choice in (
        ([weather], "nobody"),
        ([], "any"),
        ([3], None),
        ([{"type": "web_search"}], None),
    ):
        with pytest.raises(InvalidTools) as caught:
            chat.bind_tools(tools, tool_choice=choice)
        assert isinstance(caught.value, ModelInvalidRequestError)


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("strict", [None, True, False])
def test_structured_output_is_a_value_of_its_schema(
    chat: ChatLinAlign, method: Any, strict: bool | None
) -> None:
    model = chat.with_structured_output(Dish, method=method, strict=strict)
    value = model.invoke("Hi")
    assert isinstance(value, Dish)
    assert list(model.stream("Hi"))[-1] == value
    assert asyncio.run(model.ainvoke("Hi")) == value
    plain = chat.with_structured_output(Dish.model_json_schema(), method=method)
    partial = list(plain.stream("Hi"))
    assert partial[-1] == value.model_dump()
    assert len(partial) > 1, "it grows"
    raw = chat.with_structured_output(Dish, method=method, include_raw=True).invoke("Hi")
    assert (raw["parsed"], raw["parsing_error"]) == (value, None)
    assert isinstance(raw["raw"], AIMessage)


def test_what_a_grammar_cannot_enforce_is_checked_afterwards(chat: ChatLinAlign) -> None:
    with pytest.warns(UserWarning, match="checked only after"):
        model = chat.with_structured_output(UNIQUE)
    for ask in (model.invoke, lambda question: list(model.stream(question))):
        with (
            pytest.warns(UserWarning, match="checked only|not what its schema"),
            pytest.raises(OutputParserException, match="Tags"),
        ):
            ask("Hi")
    with pytest.raises(InvalidGrammar, match="strict=True"):
        chat.with_structured_output(UNIQUE, strict=True)


def test_json_that_is_cut_off_is_an_error_that_says_so(chat: ChatLinAlign) -> None:
    model = chat.model_copy(update={"max_tokens": 2}).with_structured_output(Dish, include_raw=True)
    answer = model.invoke("Hi")
    assert answer["parsed"] is None
    assert "max_tokens" in str(answer["parsing_error"])


def test_bad_requests_for_structure_are_refused(chat: ChatLinAlign) -> None:
    with pytest.raises(ValueError, match="does not know nonsense"):
        chat.with_structured_output(Dish, nonsense=1)
    for refused in (
        lambda: chat.with_structured_output(Dish, method="telepathy"),
        lambda: chat.with_structured_output(None),
        lambda: chat.invoke("Hi", response_format={"type": "json_schema"}),
        lambda: chat.invoke("Hi", response_format=3),
    ):
        with pytest.raises(InvalidArgument):
            refused()


class PairV1(BaseModelV1):
    """A pair."""

    pair: tuple[int, str]


class PairDict(TypedDict):
    """A pair."""

    pair: Annotated[tuple[int, str], ..., "both"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [PairV1, PairDict])
def test_the_items_of_a_tuple_may_be_listed_as_in_earlier_drafts(
    chat: ChatLinAlign, schema: type, method: Any
) -> None:
    model = chat.with_structured_output(schema, method=method, strict=True)
    answer = model.invoke("Hi", max_tokens=99)
    number, word = answer["pair"] if isinstance(answer, dict) else answer.pair
    assert (type(number), type(word)) == (int, str)


def test_a_response_format_holds_beside_tools(chat: ChatLinAlign) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "Dish", "schema": Dish}}
    model = chat.bind_tools([weather], response_format=wanted)
    answer = model.invoke("Hi")
    assert answer.tool_calls or Dish.model_validate_json(answer.content)
    free = chat.invoke("Hi", response_format={"type": "json_object"}, max_tokens=200)
    assert isinstance(json.loads(free.content), dict)


def test_what_was_bound_or_configured_is_kept(chat: ChatLinAlign, folder: Path) -> None:
    def seen(model: Any, config: Any = None) -> object:
        answer = model.invoke("Hi", config)
        return answer.tool_calls if isinstance(answer, AIMessage) else answer

    def asked(**arguments: Any) -> object:
        return chat.bind_tools([weather], tool_choice="any", **arguments).invoke("Hi").tool_calls

    sure = {"align_tool_calls": True, "ratio": 8.0}
    wanted = asked(principles=[ANN], **sure)
    assert wanted != asked()
    by_config = {"configurable": {"principles": [ANN], **sure}}
    field = ConfigurableField(id="mine")
    for model, config in (
        (chat.bind(principles=[ANN], **sure), None),
        (chat.bind(principles=[ANN]).bind(**sure), None),
        (chat.with_config(configurable=by_config["configurable"]), None),
        (
            chat.bind(**sure).bound.model_copy(update=sure).configurable_fields(principles=field),
            {"configurable": {"mine": [ANN]}},
        ),
    ):
        assert seen(model.bind_tools([weather], tool_choice="any"), config) == wanted
    structure = chat.bind(principles=[ANN], **sure).with_structured_output(Dish)
    assert structure.invoke("Hi") == chat.with_structured_output(Dish).invoke(
        "Hi", principles=[ANN], **sure
    )


def test_several_answers_are_drawn_for_n(chat: ChatLinAlign) -> None:
    (answers,) = chat.generate([[HumanMessage("Hi")]], n=3).generations
    assert len({one.text for one in answers}) == 3
    assert answers[0].text == chat.invoke("Hi").content
    result = asyncio.run(chat.agenerate([[HumanMessage("Hi")]], n=3))
    assert [one.text for one in result.generations[0]] == [one.text for one in answers]
    with pytest.raises(InvalidArgument, match="cannot be streamed"):
        list(chat.stream("Hi", n=2))
    with pytest.raises(InvalidArgument, match="n"):
        chat.invoke("Hi", n=0)


def test_log_probabilities_have_openai_s_shape(chat: ChatLinAlign) -> None:
    answer = chat.invoke("Hi", logprobs=True, top_logprobs=2, max_tokens=5)
    streamed = whole(chat.stream("Hi", logprobs=True, top_logprobs=2, max_tokens=5))
    told = answer.response_metadata["logprobs"]
    assert streamed.response_metadata["logprobs"] == told
    assert len(told["content"]) == 5
    for token in told["content"]:
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= 0
        ranked = [one["logprob"] for one in token["top_logprobs"]]
        assert ranked == sorted(ranked, reverse=True)
        assert len(ranked) == 2
    bare = chat.invoke("Hi", logprobs=True, max_tokens=5).response_metadata["logprobs"]
    assert [one["top_logprobs"] for one in bare["content"]] == [[]] * 5
    assert "logprobs" not in chat.invoke("Hi", max_tokens=5).response_metadata


def test_metadata_say_what_was_reused_and_how_strongly_it_was_aligned(
    chat: ChatLinAlign,
) -> None:
    config = {"configurable": {"user_id": "cacher", "principles": [ANN]}}
    question = "a question that nobody has asked here before " * 3
    first, second = (chat.invoke(question, config) for _ in range(2))
    assert first.usage_metadata["input_token_details"]["cache_read"] == 0
    assert second.usage_metadata["input_token_details"]["cache_read"] > 0
    assert second.response_metadata["model_provider"] == "linalign"
    alignment = second.response_metadata["alignment"]
    assert alignment["mean_ratio"] > 0
    assert alignment["mean_kl"] > 0


def test_reasoning_is_kept_out_of_the_text_and_goes_back_in() -> None:
    usage, strength = Usage(1, 3, 1, 0, 2), Strength(0.0, 0.0)
    pieces = [
        Piece("", (1,), None, None, 0.0, reasoning="Let me "),
        Piece("", (1,), None, None, 0.0, reasoning="think."),
        Piece("Yes.", (1,), "stop", usage, 0.0, strength=strength),
    ]
    made = Answer("tiny", {})
    joined = whole(one.message for piece in pieces for one in made.chunks(piece))
    message = Answer("tiny", {}).generation(gather(pieces)).message
    for one in (joined, message):
        assert one.content == "Yes."
        assert one.additional_kwargs["reasoning_content"] == "Let me think."
        assert [block["type"] for block in one.content_blocks] == ["reasoning", "text"]
        assert one.usage_metadata["output_token_details"]["reasoning"] == 2
    (again,) = as_dicts([message])
    assert (again["content"], again["reasoning_content"]) == ("Yes.", "Let me think.")


def test_messages_are_read_in_every_block_format() -> None:
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "c1"}
    plain = as_dicts(
        [
            HumanMessage("Hi"),
            AIMessage("Well.", tool_calls=[call]),
            ToolMessage("Sun", tool_call_id="c1"),
        ]
    )
    anthropic = [
        HumanMessage([{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]),
        AIMessage(
            [
                {"type": "text", "text": "Well."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
            ]
        ),
        HumanMessage(
            [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "Sun"}],
                }
            ]
        ),
    ]
    standard = [
        HumanMessage(content_blocks=[{"type": "text", "text": "Hi"}]),
        AIMessage(
            content_blocks=[
                {"type": "text", "text": "Well."},
                {"type": "tool_call", **call},
            ]
        ),
        ToolMessage(content_blocks=[{"type": "text", "text": "Sun"}], tool_call_id="c1"),
    ]
    assert as_dicts(anthropic) == plain
    assert as_dicts(standard) == plain
    for block in (
        {"type": "image", "url": "https://example.org/a.png"},
        {"type": "file", "base64": "AA", "mime_type": "application/pdf"},
        {"type": "audio", "base64": "AA"},
    ):
        with pytest.raises(InvalidMessages, match="not text"):
            as_dicts([HumanMessage([block])])


def test_errors_are_langchain_s_as_well(make: Callable, folder: Path) -> None:
    model = make()
    for call, own, theirs in (
        (lambda: model.invoke("word " * 4000), PromptTooLong, ContextOverflowError),
        (lambda: model.invoke("Hi", timeout=1e-9), GenerationTimeout, ModelTimeoutError),
        (lambda: make(model="./nowhere").invoke("Hi"), ModelNotFound, ModelNotFoundError),
        (lambda: model.invoke("Hi", top_p=7), InvalidSampling, ModelInvalidRequestError),
        (lambda: model.invoke("Hi", principles=[""]), InvalidPreferences, ModelInvalidRequestError),
        (lambda: list(model.stream("word " * 4000)), PromptTooLong, ContextOverflowError),
        (
            lambda: asyncio.run(model.ainvoke("word " * 4000)),
            PromptTooLong,
            ContextOverflowError,
        ),
        (
            lambda: asyncio.run(collect(model.astream("Hi", timeout=1e-9))),
            GenerationTimeout,
            ModelTimeoutError,
        ),
    ):
        with pytest.raises(own) as caught:
            call()
        assert isinstance(caught.value, theirs)
    with pytest.raises(PromptTooLong) as caught:
        model.invoke("word " * 4000)
    assert caught.value.prompt_tokens > caught.value.context_length


def test_the_profile_says_what_the_model_can_do_without_reading_weights(folder: Path) -> None:
    profile = ChatLinAlign(model=str(folder)).profile
    assert profile["max_input_tokens"] == 2048
    assert profile["tool_calling"]
    assert profile["structured_output"]
    assert not profile["image_inputs"]
    assert "max_input_tokens" not in ChatLinAlign(model="no/such-model").profile


def test_conversations_are_counted_by_the_model_s_own_template(chat: ChatLinAlign) -> None:
    messages = [SystemMessage("S"), HumanMessage("a")]
    answer = chat.invoke(messages)
    assert chat.get_num_tokens_from_messages(messages) == answer.usage_metadata["input_tokens"]
    with_tools = chat.bind_tools([weather]).invoke(messages).usage_metadata["input_tokens"]
    assert chat.get_num_tokens_from_messages(messages, tools=[weather]) == with_tools
    alone = ToolMessage("the the", tool_call_id="x")
    assert chat.get_num_tokens_from_messages([alone]) == chat.get_num_tokens("the the")


def test_serialised_models_come_back_with_their_principles(folder: Path) -> None:
    model = ChatLinAlign(model=str(folder), principles=[ANN], ratio=3.0, stop=["x"], n=2)
    written = dumps(model)
    again = loads(
        written, allowed_objects=[ChatLinAlign], valid_namespaces=["linalign_integrations"]
    )
    assert again == model
    assert len(written) < 2000, "and without weights"


def test_traces_quote_principles_only_where_that_is_asked_for(folder: Path) -> None:
    for shown in (False, True):
        recorder = Recorder()
        model = ChatLinAlign(
            model=str(folder), principles=["My illness."], trace_principles=shown, **ADAPTER
        )
        model.invoke("Hi", {"callbacks": [recorder]})
        assert ("illness" in json.dumps(recorder.seen, default=repr)) == shown


def test_an_event_loop_goes_on_while_a_profile_is_read(make: Callable, folder: Path) -> None:
    store = open_profiles("memory://slow")
    store.put("ann", ANN)
    reading, go_on = threading.Event(), threading.Event()

    class Slow(Profiles):
        def __init__(self) -> None:
            pass

        def get(self, user_id: str) -> Preferences:
            reading.set()
            assert go_on.wait(20), "the event loop is blocked"
            return store.get(user_id)

    model = make(profiles=Slow())
    config = {"configurable": {"user_id": "ann"}}

    async def run() -> list[str]:
        streams = [
            asyncio.create_task(collect(model.astream("Hi", config))),
            asyncio.create_task(events(model.astream_events("Hi", config, version="v2"))),
        ]
        while not reading.is_set():  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.001)
        go_on.set()
        return await asyncio.gather(*streams)

    async def events(stream: Any) -> str:
        seen = [event["data"].get("chunk") async for event in stream]
        return "".join(text(one) for one in seen if one is not None)

    assert asyncio.run(run()) == [bare_answer(folder, [ANN])] * 2


def test_events_of_both_versions_hold_the_answer(chat: ChatLinAlign) -> None:
    wanted = chat.invoke("Hi").content
    assert str(chat.stream_events("Hi", version="v3").text) == wanted
    model = chat.bind_tools([weather], tool_choice="any")
    calls = model.invoke("Hi").tool_calls
    assert model.stream_events("Hi", version="v3").output.tool_calls == calls

    async def run() -> str:
        return await (await chat.astream_events("Hi", version="v3")).text

    assert asyncio.run(run()) == wanted


def test_the_engine_deals_with_each_user_by_name(
    chat: ChatLinAlign, monkeypatch: pytest.MonkeyPatch
) -> None:
    users: list[object] = []
    original = Engine.stream

    def watched(engine: Engine, messages: Any, **arguments: Any) -> Any:
        users.append(arguments.get("user"))
        return original(engine, messages, **arguments)

    monkeypatch.setattr(Engine, "stream", watched)
    short = chat.model_copy(update={"max_tokens": 2})
    short.invoke("Hi", {"configurable": {"user_id": "ann"}})
    short.invoke("Hi", user="bob")
    list(short.stream("Hi"))
    assert users == ["ann", "bob", None]


def test_text_and_calls_of_a_stream_stay_apart_in_content_blocks() -> None:
    def end(text: str, *calls: ToolCallDelta) -> Piece:
        last = {"strength": Strength(0.0, 0.0), "reasoning": "", "tool_calls": calls}
        return Piece(text, (1,), "stop", Usage(1, 1, 1), 0.0, **last)

    class Scripted(ChatLinAlign):
        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            answer = Answer("tiny", {}, as_blocks=self.output_version == "v1")
            for piece in pieces:
                yield from answer.chunks(piece)

    pieces = [
        Piece("", (1,), None, None, 0.0, reasoning="Hm."),
        Piece("Let me see.", (1,), None, None, 0.0),
        Piece("", (1,), None, None, 0.0, tool_calls=(ToolCallDelta(0, "a", "weather", '{"ci'),)),
        Piece("", (1,), None, None, 0.0, tool_calls=(ToolCallDelta(0, None, None, 'ty": "R"}'),)),
        end("", ToolCallDelta(1, "b", "weather", '{"city": "P"}')),
    ]
    for version in ("v0", "v1"):
        message = whole(Scripted(model="tiny", output_version=version).stream("Hi"))
        assert [call["args"]["city"] for call in message.tool_calls] == ["R", "P"]
        blocks = message.content_blocks
        kinds = [block["type"] for block in blocks]
        assert kinds == ["reasoning", "text", "tool_call", "tool_call"]
        assert (blocks[0]["reasoning"], blocks[1]["text"]) == ("Hm.", "Let me see.")
        assert [block["args"]["city"] for block in blocks[2:]] == ["R", "P"]


def test_what_a_class_checks_and_pydantic_s_schema_does_not_say_holds_too(folder: Path) -> None:
    kind = create_model(
        "Kind",
        amount=(Decimal, ...),
        days=(dict[int, date], ...),
        keys=(dict[Literal["a", "b"], int], ...),
        names=(set[str], ...),
        path=(PurePath, ...),
        span=(timedelta, ...),
    )
    model = ChatLinAlign(model=str(folder), **{**ADAPTER, "max_tokens": 200})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for seed in range(3):
            asked = model.bind(seed=seed).with_structured_output(kind)
            assert isinstance(asked.invoke("Hi"), kind)


def test_a_structured_stream_is_the_same_in_content_blocks(folder: Path) -> None:
    for version in ("v0", "v1"):
        model = ChatLinAlign(
            model=str(folder), output_version=version, **{**ADAPTER, "max_tokens": 80}
        )
        for method in ("json_schema", "function_calling"):
            asked = model.with_structured_output(Dish, method=method)
            assert list(asked.stream("Hi"))[-1] == asked.invoke("Hi")


class Country(BaseModel):
    code: Literal["greece", "norway"]

    @field_validator("code", mode="before")
    @classmethod
    def _known(cls, code: str) -> str:
        return {"greece": "greece", "norway": "norway"}[code]


def test_a_class_that_stumbles_over_half_a_value_is_streamed_all_the_same(
    chat: ChatLinAlign,
) -> None:
    streamed = list(chat.bind(max_tokens=60).with_structured_output(Country).stream("Hi"))
    assert [type(one) for one in streamed] == [Country]


def test_a_copy_for_a_user_keeps_what_was_bound(chat: ChatLinAlign, folder: Path) -> None:
    profiles = open_profiles("memory://kept-for-user")
    profiles.put("ann", ANN)
    model = chat.model_copy(update={"profiles": profiles})
    short = model.configurable_fields(top_k=ConfigurableField(id="k")).bind(max_tokens=12)
    for bound in (model.bind(max_tokens=12), short):
        assert bound.for_user("ann").invoke("Hi").content == bare_answer(folder, [ANN])


def test_a_copy_is_never_traced_with_the_principles_of_another() -> None:
    anns = ChatLinAlign(model="tiny", principles=[ANN], trace_principles=True)
    assert ANN in json.dumps(anns._serialized)
    bobs = anns.model_copy(update={"principles": Preferences(principles=[BOB]).principles})
    assert ANN not in json.dumps(bobs._serialized)
    assert BOB in json.dumps(bobs._serialized)


LONG = 600  # tokens of an answer that nobody waits for


async def leave_task(ask: Callable[[], Any], begun: list[int]) -> None:
    async def all_of() -> None:
        given = ask()
        if isinstance(given, AsyncIterator):
            async for _ in given:
                pass
        else:
            await given

    task = asyncio.create_task(all_of())
    while not begun:  # noqa: ASYNC110 - the model's thread has no events
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_stream(stream: Any) -> None:
    await anext(stream)
    await stream.aclose()


def close_stream(model: Any) -> None:
    stream = model.stream("Hi")
    next(stream)
    stream.close()


LEAVE: dict[str, Callable[[Any, list[int]], object]] = {
    "stream closed": lambda model, _: close_stream(model),
    "astream closed": lambda model, _: asyncio.run(leave_stream(model.astream("Hi"))),
    "ainvoke cancelled": lambda model, begun: asyncio.run(
        leave_task(lambda: model.ainvoke("Hi"), begun)
    ),
    "astream cancelled": lambda model, begun: asyncio.run(
        leave_task(lambda: model.astream("Hi"), begun)
    ),
    "abatch cancelled": lambda model, begun: asyncio.run(
        leave_task(lambda: model.abatch(["Hi", "Hello", "Hey"]), begun)
    ),
}


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
def test_nothing_is_computed_for_somebody_who_has_left(
    leave: Callable[[Any, list[int]], object], make: Callable, folder: Path
) -> None:
    engine = Engine.load(folder, dtype=ADAPTER["dtype"])
    alone = text(make().invoke("Hi"))
    begun: list[int] = []
    hook = engine._model.register_forward_pre_hook(lambda *_: begun.append(1))
    try:
        endless = make(max_tokens=LONG).bind(grammar=Grammar.regex("[a-z]{600,}"))
        leave(endless, begun)
        while not engine._scheduler.idle:
            time.sleep(0.001)
    finally:
        hook.remove()
    assert 0 < len(begun) < LONG / 2
    assert text(make().invoke("Hi")) == alone


def test_a_cache_tells_schemas_of_one_name_apart(folder: Path) -> None:
    chat = ChatLinAlign(model=str(folder), cache=InMemoryCache(), **{**ADAPTER, "max_tokens": 60})
    kinds = [
        create_model("Dish", **{name: (Literal["a", "b"], ...)})  # type: ignore[call-overload]
        for name in ("starter", "dessert")
    ]
    tools = [{**convert_to_openai_tool(kind)} for kind in kinds]
    for _ in range(2):
        for kind in kinds:
            for wanted in (kind, {"type": "json_schema", "json_schema": {"schema": kind}}):
                answer = chat.invoke("Hi", response_format=wanted)
                assert kind.model_validate_json(answer.content)
            (call,) = chat.invoke("Hi", tools=[kind], tool_choice="Dish").tool_calls
            assert kind.model_validate(call["args"])
    by_class = chat.invoke("Hi", tools=[kinds[0]], tool_choice="Dish")
    assert by_class.id == chat.invoke("Hi", tools=[tools[0]], tool_choice="Dish").id, "cached"


def test_calls_are_kept_to_what_a_grammar_holds_and_checked_for_the_rest(
    chat: ChatLinAlign,
) -> None:
    tool = {"type": "function", "function": {"name": "tag", "parameters": UNIQUE}}
    with pytest.warns(UserWarning, match=r"calls of 'tag' are enforced in part.*uniqueItems"):
        answer = chat.bind_tools([tool], tool_choice="tag").invoke("Hi")
    assert answer.tool_calls == []
    (call,) = answer.invalid_tool_calls
    assert json.loads(call["args"]) == {"tags": ["a", "a"]}
    assert "unique" in call["error"]
    with pytest.warns(UserWarning, match="checked only after"):
        model = chat.with_structured_output(UNIQUE, method="function_calling")
    with (
        pytest.warns(UserWarning, match="enforced in part"),
        pytest.raises(OutputParserException, match="unique"),
    ):
        model.invoke("Hi")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat.bind_tools([tool], tool_choice="none").invoke("Hi")


def test_a_call_cannot_have_a_list_as_its_arguments(chat: ChatLinAlign) -> None:
    several = RootModel[list[int]]
    with pytest.raises(InvalidGrammar, match="use method='json_schema'"):
        chat.with_structured_output(several, method="function_calling")


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.starts = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.starts += 1

    def on_llm_start(self, *_: Any, **__: Any) -> None:
        self.starts += 1


def generations(model: Any, **call: Any) -> set[str]:
    """What every way to generate answers."""
    bare, _, _ = unbound(model)
    given: Any = [HumanMessage("Hi")] if isinstance(bare, ChatLinAlign) else "Hi"
    prompt = bare._convert_input("Hi")
    results = [
        model.generate([given], **call),
        model.generate_prompt([prompt], **call),
        asyncio.run(model.agenerate([given], **call)),
        asyncio.run(model.agenerate_prompt([prompt], **call)),
    ]
    return {result.generations[0][0].text for result in results}


def test_every_way_to_ask_a_bound_model_asks_with_what_was_bound(
    make: Callable, folder: Path
) -> None:
    profiles = open_profiles("memory://bound")
    profiles.put("ann", ANN)
    model = make(profiles=profiles)
    heard = Heard()
    for bound in (
        model.bind(principles=[ANN]),
        model.with_config(configurable={"user_id": "ann"}, callbacks=[heard]),
        model.with_config(configurable={"user_id": "ann"}).bind(stop=["never"]),
    ):
        assert generations(bound) == {bare_answer(folder, [ANN])}
        assert generations(bound, principles=[BOB]) == {bare_answer(folder, [BOB])}
    assert heard.starts == 8
    assert generations(model.bind(stop=["never"]), stop=["A"]) != {bare_answer(folder, [])}
    with pytest.raises(InvalidArgument, match="use batch"):
        model.bind(principles=[ANN]).with_retry().generate([])


def test_fields_that_a_configuration_sets_are_generated_with_as_well(folder: Path) -> None:
    profiles = open_profiles("memory://fields")
    profiles.put("ann", ANN)
    field = ConfigurableField(id="boldness")
    model = ChatLinAlign(model=str(folder), profiles=profiles, **ADAPTER).configurable_fields(
        ratio=field
    )
    config = {"boldness": 4.0, "user_id": "ann"}
    wanted = {bare_answer(folder, [ANN], ratio=4.0)}
    assert generations(model.with_config(configurable=config)) == wanted
    assert generations(model.bind().with_config(configurable=config)) == wanted


def test_what_is_bound_is_above_the_run_around_it(make: Callable, folder: Path) -> None:
    bob = make().with_config(configurable={"principles": [BOB]})
    both = RunnableLambda(lambda _: [text(bob.invoke("Hi")), *generations(bob)])
    answers = both.invoke("Hi", {"configurable": {"principles": [ANN]}})
    assert set(answers) == {bare_answer(folder, [BOB])}


def test_a_bound_stream_is_of_whoever_asked_for_it(make: Callable, folder: Path) -> None:
    bound = make().bind(stop=["never"])
    with use_preferences(ANN):
        stream, astream = bound.stream("Hi"), bound.astream("Hi")
    with use_preferences(BOB):
        assert "".join(map(text, stream)) == bare_answer(folder, [ANN])
        assert asyncio.run(collect(astream)) == bare_answer(folder, [ANN])


def test_listeners_and_types_do_not_lose_what_is_bound_next(chat: ChatLinAlign) -> None:
    heard: list[str] = []

    async def told(run: Any) -> None:
        heard.append(run.name)

    sure = {"principles": [ANN], "align_tool_calls": True, "ratio": 8.0}
    wanted = chat.bind_tools([weather], tool_choice="any").invoke("Hi", **sure).tool_calls
    for made in (
        chat.with_listeners(on_end=lambda run: heard.append(run.name)),
        chat.with_alisteners(on_end=told),
        chat.bind(seed=3).with_alisteners(on_end=told),
        chat.with_types(output_type=AIMessage),
    ):
        model = made.bind(**sure).bind_tools([weather], tool_choice="any")
        assert asyncio.run(model.ainvoke("Hi")).tool_calls == wanted
    assert heard == ["ChatLinAlign"] * 3


def test_a_bound_model_comes_back_with_what_was_bound(folder: Path) -> None:
    chat = ChatLinAlign(model=str(folder), **ADAPTER)
    for said in (
        {"principles": [ANN]},
        {"principles": [Principle(ANN)]},
        {"principles": Principle(ANN)},
        {"preferences": Preferences(principles=[ANN])},
    ):
        bound = chat.bind(**said)
        again = loads(
            dumps(bound),
            allowed_objects=[ChatLinAlign, type(bound)],
            valid_namespaces=["linalign_integrations"],
        )
        assert type(again) is type(bound)
        assert text(again.invoke("Hi")) == bare_answer(folder, [ANN])
        assert generations(again) == {bare_answer(folder, [ANN])}


@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        ({"timeout": "soon"}, InvalidArgument, "number of seconds"),
        ({"grammar": "x"}, InvalidGrammar, "takes a Grammar"),
        ({"stop": 5}, InvalidSampling, "stop"),
        ({"colour": "red"}, InvalidArgument, "it takes .*grammar"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(
    make: Callable, said: dict[str, Any], error: type, told: str
) -> None:
    with pytest.raises(error, match=told):
        make().invoke("Hi", **said)


def test_a_class_tells_its_own_arguments_and_fields(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="response_format"):
        ChatLinAlign(model=str(folder)).invoke("Hi", colour="red")
    with pytest.raises(InvalidArgument) as told:
        LinAlignLLM(model=str(folder)).invoke("Hi", colour="red")
    assert "tools" not in str(told.value)
    with pytest.raises(InvalidArgument, match=r"^n: "):
        ChatLinAlign(model=str(folder), n=0)
    with pytest.raises(InvalidArgument, match="did you mean 'max_tokens'"):
        ChatLinAlign(model=str(folder), max_completion_tokens=5)
    with pytest.raises(InvalidTools, match="list of tools"):
        ChatLinAlign(model=str(folder)).invoke("Hi", tools=5)


def test_a_misspelt_key_of_a_configuration_is_refused(make: Callable) -> None:
    model = make(profiles=open_profiles("memory://slips"))
    for key, meant in (
        ("principle", "principles"),
        ("Principles", "principles"),
        ("princples", "principles"),
        ("principels", "principles"),
        ("user_ID", "user_id"),
        ("preference", "preferences"),
        ("userId", "user_id"),
        ("user-id", "user_id"),
    ):
        with pytest.raises(InvalidPreferences, match=f"did you mean '{meant}'"):
            model.invoke("Hi", {"configurable": {key: "ann"}})
    slotted = make_dataclass("Slotted", [("princples", list)], slots=True)(["x"])
    with pytest.raises(InvalidPreferences, match="did you mean 'principles'"):
        resolve(context=slotted)
    for key in ("thread_id", "principal", "principals", "references", "user", "preferences_v2"):
        model.invoke("Hi", {"configurable": {key: "ann", "principle": None}})
    # Without profiles a user is whatever the app makes of one.
    make().invoke("Hi", {"configurable": {"userId": "ann"}})


def test_a_configuration_s_fields_stand_on_top_of_the_profile_it_names(
    make: Callable, folder: Path
) -> None:
    profiles = open_profiles("memory://fields")
    profiles.put("ann", Preferences(principles=[ANN], ratio=1.0))
    model = make(profiles=profiles)
    strong = model.invoke("Hi", {"configurable": {"user_id": "ann", "ratio": 8.0}})
    assert text(strong) == text(model.invoke("Hi", principles=[ANN], ratio=8.0))
    assert text(strong) != text(model.invoke("Hi", {"configurable": {"user_id": "ann"}}))
    with pytest.raises(InvalidPreferences, match="ratio"):
        model.invoke("Hi", {"configurable": {"user_id": "ann", "ratio": "junk"}})
    # An app's own words.
    model.invoke("Hi", {"configurable": {"user_id": "ann", "placement": "sidebar"}})
    model.invoke("Hi", {"configurable": {"ratio": "16:9"}})
    mixed = resolve(
        config={"user_id": "ann"}, context={"user_id": "bob", "ratio": 9.0}, profiles=profiles
    )
    assert mixed.ratio == 1.0, "two users' wishes never mix"


def test_revision_and_trust_are_of_one_model(
    make: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[object, object, object]] = []
    original = Engine.load

    def load(model: object, **how: Any) -> Engine:
        loaded.append((model, how["revision"], how["trust_remote_code"]))
        return original(folder, dtype=ADAPTER["dtype"])

    monkeypatch.setattr(Engine, "load", load)
    pinned = make(model="some/one", revision="v1", trust_remote_code=True)
    for named in ("other/one", "some/one", ""):
        pinned.invoke("Hi", model=named)
    assert loaded == [
        ("other/one", None, False),
        ("some/one", "v1", True),
        ("some/one", "v1", True),
    ]


def test_log_probabilities_may_be_switched_on_and_off_for_one_call(folder: Path) -> None:
    def has_them(fields: dict[str, Any], call: dict[str, Any]) -> bool:
        answer = ChatLinAlign(model=str(folder), **ADAPTER, **fields).invoke("Hi", **call)
        return "logprobs" in answer.response_metadata

    assert has_them({"top_logprobs": 2}, {})
    assert not has_them({"top_logprobs": 2}, {"logprobs": False})
    assert has_them({"logprobs": False}, {"top_logprobs": 2})
    assert not has_them({"logprobs": False}, {})


def test_a_tool_s_result_without_its_call_is_refused(chat: ChatLinAlign) -> None:
    with pytest.raises(InvalidMessages) as caught:
        chat.invoke([HumanMessage("Hi"), ToolMessage("sunny", tool_call_id="1")])
    assert isinstance(caught.value, ModelInvalidRequestError)


def test_a_constraint_is_good_for_one_answer_only(make: Callable) -> None:
    class Free:
        may_end, forced = True, staticmethod(tuple)

        def mask(self) -> None: ...

        def advance(self, token: int) -> None: ...

    asked = ["Hi", "Ho"] if make().__class__ is LinAlignLLM else [[HumanMessage("Hi")]]
    several = {} if len(asked) == 2 else {"n": 2}
    with pytest.raises(ModelInvalidRequestError, match="Free, which is good for one answer"):
        make().generate(asked, grammar=Free(), **several)
    with pytest.raises(ModelInvalidRequestError, match="Free, which is good for one answer"):
        asyncio.run(make().agenerate(asked, grammar=Free(), **several))


def test_no_prompts_have_no_answers(make: Callable) -> None:
    assert make().generate([]).generations == []
    assert asyncio.run(make().agenerate([])).generations == []


def test_errors_of_every_way_in_are_langchain_s_too(make: Callable) -> None:
    model = make()
    with pytest.raises(ModelInvalidRequestError):
        model.invoke("Hi", tools=[{"name": 3}])
    picture = [HumanMessage([{"type": "image", "url": "https://example.com/a.png"}])]
    if isinstance(model, ChatLinAlign):
        with pytest.raises(ModelInvalidRequestError, match="image"):
            model.get_num_tokens_from_messages(picture)


def test_a_result_may_be_a_list_of_texts() -> None:
    block = {
        "type": "tool_result",
        "tool_use_id": "a",
        "content": ["r", {"type": "text", "text": "s"}],
    }
    assert as_dicts([HumanMessage([block])])[0]["content"] == "rs"
    with pytest.raises(InvalidMessages, match="cannot read 3 blocks"):
        as_dicts([HumanMessage([{**block, "content": [3]}])])
