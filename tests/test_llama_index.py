"""LlamaIndex: a drop-in LLM whose preferences are those of the moment of the call."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import ipaddress
import json
import math
import pathlib
import pickle
import shutil
import sqlite3
import threading
import uuid
import warnings
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from llama_index.core import Document, SimpleKeywordTableIndex, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import CondensePlusContextChatEngine, CondenseQuestionChatEngine
from llama_index.core.extractors import DocumentContextExtractor, SummaryExtractor
from llama_index.core.indices.query.query_transform.prompts import (
    DEFAULT_STEP_DECOMPOSE_QUERY_TRANSFORM_PROMPT,
)
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.memory import FactExtractionMemoryBlock
from llama_index.core.postprocessor.node import (
    DEFAULT_INFER_PREV_NEXT_TMPL,
    DEFAULT_REFINE_INFER_PREV_NEXT_TMPL,
)
from llama_index.core.postprocessor.pii import DEFAULT_PII_TMPL
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.query_engine.flare.base import DEFAULT_INSTRUCT_PROMPT
from llama_index.core.query_engine.sql_join_query_engine import DEFAULT_SQL_JOIN_SYNTHESIS_PROMPT
from llama_index.core.query_engine.sql_vector_query_engine import (
    DEFAULT_SQL_VECTOR_SYNTHESIS_PROMPT,
)
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeRelationship, TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from models import ADAPTER, bare_answer
from pydantic import (
    UUID4,
    AfterValidator,
    BaseModel,
    Field,
    IPvAnyAddress,
    RootModel,
    SecretStr,
    field_validator,
)

from linalign_integrations import (
    Engine,
    Preferences,
    SamplingParams,
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
from linalign_integrations.errors import (
    InvalidArgument,
    InvalidGrammar,
    InvalidMessages,
    InvalidPreferences,
    InvalidTools,
    ProfileNotFound,
    ProfileUnreadable,
    PromptTooLong,
)
from linalign_integrations.llama_index import LinAlign, answers_only, unaligned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llama_index.core.prompts import BasePromptTemplate

ANN, BOB = "Answer like a pirate.", "Be formal."
USER = [ChatMessage(role="user", content="Hi")]


@pytest.fixture
def make(folder: Path) -> Callable[..., LinAlign]:
    def build(**fields: object) -> LinAlign:
        settings = {"model": str(folder), **ADAPTER}
        return LinAlign(**{**settings, **fields})

    return build


async def last(stream: Any) -> Any:
    return [response async for response in await stream][-1]


METHODS: dict[str, Callable[..., Any]] = {
    "complete": lambda llm, **k: llm.complete("Hi", **k).text,
    "chat": lambda llm, **k: llm.chat(USER, **k).message.content,
    "stream_complete": lambda llm, **k: list(llm.stream_complete("Hi", **k))[-1].text,
    "stream_chat": lambda llm, **k: list(llm.stream_chat(USER, **k))[-1].message.content,
    "acomplete": lambda llm, **k: asyncio.run(llm.acomplete("Hi", **k)).text,
    "achat": lambda llm, **k: asyncio.run(llm.achat(USER, **k)).message.content,
    "astream_complete": lambda llm, **k: asyncio.run(last(llm.astream_complete("Hi", **k))).text,
    "astream_chat": lambda llm, **k: asyncio.run(last(llm.astream_chat(USER, **k))).message.content,
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_follows_fields_arguments_copy_and_context(
    method: str, make: Callable, folder: Path
) -> None:
    call = METHODS[method]
    profiles = open_profiles("memory://")
    profiles.put("bob", Preferences(principles=[BOB], ratio=3.0))
    llm = make(principles=[ANN], profiles=profiles)
    assert call(llm) == bare_answer(folder, [ANN])
    assert call(llm, principles=[BOB], ratio=1.0) == bare_answer(folder, [BOB], ratio=1.0)
    assert call(llm, principles=()) == bare_answer(folder, [])
    assert call(llm, kl_budget=0.05) == bare_answer(folder, [ANN], kl_budget=0.05)
    assert call(llm.for_user("bob")) == bare_answer(folder, [BOB], ratio=3.0)
    with use_preferences(BOB):
        assert call(llm) == bare_answer(folder, [BOB])
    assert call(llm) == bare_answer(folder, [ANN])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_sampling_arguments(method: str, make: Callable, folder: Path) -> None:
    call, llm = METHODS[method], make()
    full = call(llm)
    stop = full[4:6]
    assert call(llm, stop=[stop]) == full[: full.index(stop)]
    assert call(llm, max_tokens=2) != full
    assert call(llm, seed=5) != full


def test_a_stream_keeps_the_preferences_of_the_moment_it_was_asked_for(
    make: Callable, folder: Path
) -> None:
    llm = make(principles=[ANN])
    with use_preferences(BOB):
        chat, completion = llm.stream_chat(USER), llm.stream_complete("Hi")
    assert list(chat)[-1].message.content == bare_answer(folder, [BOB])
    assert list(completion)[-1].text == bare_answer(folder, [BOB])


def test_deltas_add_up_to_the_text(make: Callable, folder: Path) -> None:
    deltas = [response.delta for response in make().stream_complete("Hi")]
    assert "".join(deltas) == bare_answer(folder, [])


def test_predict_and_query_engines_follow_the_copy_and_the_context(
    make: Callable, folder: Path
) -> None:
    profiles = open_profiles("memory://")
    profiles.put("ann", Preferences(principles=[ANN]))
    profiles.put("bob", Preferences(principles=[BOB]))
    llm = make(profiles=profiles)
    prompt = PromptTemplate("{q}")
    assert llm.for_user("ann").predict(prompt, q="Hi") == bare_answer(folder, [ANN])
    with use_preferences(BOB):
        assert llm.predict(prompt, q="Hi") == bare_answer(folder, [BOB])
    documents = [Document(text="The bakery sells bread.")]
    index = SimpleKeywordTableIndex.from_documents(documents, llm=llm)
    answers = {
        user: str(index.as_query_engine(llm=llm.for_user(user)).query("What does the bakery sell?"))
        for user in ("ann", "bob")
    }
    assert answers["ann"] != answers["bob"]
    with use_preferences(ANN):
        ambient = index.as_query_engine(llm=llm).query("What does the bakery sell?")
    assert str(ambient) == answers["ann"]


def test_roles_reach_the_model_under_their_usual_names(make: Callable, folder: Path) -> None:
    messages = [
        ChatMessage(role=MessageRole.DEVELOPER, content="S"),
        ChatMessage(role=MessageRole.USER, content="a"),
        ChatMessage(role=MessageRole.MODEL, content="b"),
        ChatMessage(role=MessageRole.USER, content="c"),
    ]
    dicts = [
        {"role": role, "content": message.content}
        for role, message in zip(("system", "user", "assistant", "user"), messages, strict=True)
    ]
    assert make().chat(messages).message.content == bare_answer(folder, [], dicts)


def test_metadata_is_true_to_the_model(make: Callable, folder: Path) -> None:
    metadata = make().metadata
    assert metadata.context_window == 2048
    assert metadata.num_output == 12
    assert metadata.is_chat_model
    assert metadata.model_name == str(folder)


def test_an_answer_of_any_length_leaves_room_for_what_is_asked(make: Callable) -> None:
    llm = make(max_tokens=4000)
    assert llm.metadata.num_output == 1024
    index = SummaryIndex.from_documents([Document(text="The bakery sells bread.")])
    assert str(index.as_query_engine(llm=llm.model_copy(update={"stop": ("e",)})).query("What?"))


def test_usage_is_where_token_counting_looks_for_it(make: Callable) -> None:
    counter = TokenCountingHandler(tokenizer=lambda text: pytest.fail("should not need to guess"))
    make().chat(USER)  # from now on its prompt is reused
    llm = make(callback_manager=CallbackManager([counter]))
    response = llm.chat(USER)
    assert counter.completion_llm_token_count == 12
    assert response.raw["usage"]["total_tokens"] == counter.total_llm_token_count
    assert list(llm.stream_chat(USER))[-1].raw == response.raw


def test_events_do_not_quote_an_object_s_principles(make: Callable) -> None:
    events: list[Any] = []

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            events.append(event)

    handler = Handler()
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(handler)
    try:
        make(principles=["I have a rare illness."]).chat(USER)
    finally:
        dispatcher.event_handlers.remove(handler)
    assert [type(event).__name__ for event in events] == ["LLMChatStartEvent", "LLMChatEndEvent"]
    assert not any("illness" in event.model_dump_json() for event in events)


def test_copies_are_cheap_and_serialisation_never_holds_weights(
    make: Callable, folder: Path
) -> None:
    llm = make(principles=[ANN])
    llm.complete("Hi")
    assert len(pickle.dumps(llm)) < 10_000
    for copy in (pickle.loads(pickle.dumps(llm)), LinAlign.from_dict(llm.to_dict())):
        assert copy.complete("Hi").text == bare_answer(folder, [ANN])
    assert llm._engine() is make()._engine()


def test_a_pickled_copy_finds_its_profiles_again(make: Callable, folder: Path) -> None:
    open_profiles("memory://llama").put("ann", ANN)
    for given in ("memory://llama", open_profiles("memory://llama")):
        again = pickle.loads(pickle.dumps(make(profiles=given).for_user("ann")))
        assert again.complete("Hi").text == bare_answer(folder, [ANN])


def test_what_would_be_ignored_is_refused(make: Callable) -> None:
    with pytest.raises(InvalidArgument, match="does not understand principle"):
        make().complete("Hi", principle=["Be brief."])
    for slip in ({"temperatur": 0}, {"principels": []}, {"max_new_token": 0}):
        with pytest.raises(InvalidArgument, match=next(iter(slip))):
            make().complete("Hi", **slip)
    assert make().complete("Hi", tools=[], tool_choice=None, temperatur=None, cache=False).text


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("model_name", "model"),
        ("model_id", "model"),
        ("device_map", "device"),
        ("max_new_token", "max_tokens"),
        ("user", "user_id"),
    ],
)
def test_a_field_of_another_class_names_the_one_that_is_meant(
    field: str, meant: str, make: Callable
) -> None:
    with pytest.raises(InvalidArgument, match=f"{field!r}: did you mean {meant!r}"):
        make(**{field: "x"})


@pytest.mark.parametrize("name", ["generate_kwargs", "context_window", "additional_kwargs"])
def test_a_field_that_would_be_ignored_is_refused(name: str, make: Callable) -> None:
    with pytest.raises(InvalidArgument, match=rf"no field '{name}'; it has model, .*max_tokens"):
        make(**{name: 7})


def test_an_ingestion_cache_tells_apart_whose_preferences_hold(make: Callable) -> None:
    profiles = open_profiles("memory://")
    profiles.put("ann", ANN)
    llm = make(profiles=profiles)

    def key(llm: LinAlign) -> str:
        return get_transformation_hash([TextNode(text="Hi")], SummaryExtractor(llm=llm))

    with use_preferences(ANN):
        inside, again, plain = key(llm), key(llm), key(unaligned(llm))
    with use_preferences(BOB):
        other = key(llm)
    ann = key(llm.for_user("ann"))
    profiles.put("ann", BOB)
    assert inside == again
    assert plain == key(unaligned(llm))
    assert len({inside, other, key(llm), ann, key(llm.for_user("ann"))}) == 5
    # A profile that cannot be read is equal to none.
    assert key(llm.for_user("nobody")) != key(llm.for_user("nobody"))
    assert LinAlign.from_dict(llm.model_dump()).model == llm.model
    assert "digest" not in str(llm.to_dict())


def test_bad_input_raises_this_package_s_errors(make: Callable) -> None:
    with pytest.raises(InvalidPreferences, match="ratio"):
        make(ratio=-1)
    with pytest.raises(InvalidPreferences, match="ratio"):
        make().complete("Hi", ratio=-1)
    with pytest.raises(ProfileNotFound, match="profiles="):
        make().for_user("ann")
    ann = make(profiles="memory://").for_user("ann")
    for nobody in (None, "", " ", 3):
        with pytest.raises(InvalidArgument, match="user_id"):
            ann.for_user(nobody)
    make().chat(USER)  # so that both find its prompt read
    assert make().chat([{"role": "user", "content": "Hi"}]) == make().chat(USER)
    with pytest.raises(InvalidArgument, match="a name or a folder"):
        make().complete("Hi", model=3)
    wrong = {"device": "toaster", "dtype": "int8", "timeout": math.inf, "user_id": ""}
    for name, value in wrong.items():
        with pytest.raises(InvalidArgument, match=name):
            make(**{name: value})
    for other in (MockLLM(), make().as_structured_llm(Person)):
        with pytest.raises(InvalidArgument, match="only a LinAlign"):
            answers_only(other)
    with pytest.raises(InvalidMessages, match="ImageBlock"):
        make().chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"x")])])
    with pytest.raises(InvalidMessages, match="no messages"):
        make().chat([])


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
def test_no_synthesizer_hides_what_keeps_a_user_from_an_answer(
    mode: str, make: Callable, tmp_path: Path
) -> None:
    # LlamaIndex's refine drops a passage, or says "Empty Response", where a model has a ValueError.
    file = tmp_path / "profiles.db"
    profiles = open_profiles(f"sqlite:///{file}", cache_seconds=0)
    profiles.put("ann", "Be brief.")
    profiles.put("bob", ["x " * 4900])
    with contextlib.closing(sqlite3.connect(file)) as store, store:
        store.execute("UPDATE store SET value = '{\"format\": 9}' WHERE key = 'ann'")
    index = SummaryIndex.from_documents([Document(text="The bakery opens at 7:30.")])
    llm = make(profiles=profiles)
    for user, error in (("ann", ProfileUnreadable), ("bob", PromptTooLong)):
        engine = index.as_query_engine(llm=llm.for_user(user), response_mode=mode)
        with pytest.raises(error):
            engine.query("When?")
        with pytest.raises(error):
            asyncio.run(engine.aquery("When?"))


# Tools


class Where(BaseModel):
    city: Literal["Oslo", "Rome"]


class Die(BaseModel):
    sides: Annotated[int, Field(ge=1, le=6)]


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"sunny in {city}"


def roll(sides: int) -> int:
    """Roll a die."""
    return sides


TOOLS = [
    FunctionTool.from_defaults(get_weather, fn_schema=Where),
    FunctionTool.from_defaults(roll, fn_schema=Die),
]


def test_tools_are_called_by_their_own_names(make: Callable) -> None:
    # LlamaIndex writes names as OpenAI allows, and does not find their tools again.
    llm = make(max_tokens=80)
    tool = FunctionTool.from_defaults(get_weather, name="météo/du.jour", fn_schema=Where)
    for choice in ("required", "météo/du.jour"):
        told = llm.predict_and_call([tool], user_msg="Is it sunny?", tool_choice=choice)
        assert [one.tool_name for one in told.sources] == ["météo/du.jour"]
        assert told.response.startswith("sunny in")
    named = FunctionTool.from_defaults(get_weather, name="What [it] does", fn_schema=Where)
    response = llm.chat_with_tools([named], "Is it sunny?", tool_required=True)
    [call] = llm.get_tool_calls_from_response(response)
    assert call.tool_name == "What__it__does"


TOOL_METHODS: dict[str, Callable[..., Any]] = {
    "chat": lambda llm, *a, **k: llm.chat_with_tools(*a, **k),
    "stream": lambda llm, *a, **k: list(llm.stream_chat_with_tools(*a, **k))[-1],
    "achat": lambda llm, *a, **k: asyncio.run(llm.achat_with_tools(*a, **k)),
    "astream": lambda llm, *a, **k: asyncio.run(last(llm.astream_chat_with_tools(*a, **k))),
}


@pytest.mark.parametrize("method", TOOL_METHODS)
def test_calls_come_as_blocks_with_ids_whichever_way_they_are_asked_for(
    method: str, make: Callable
) -> None:
    llm = make(max_tokens=80)
    response = TOOL_METHODS[method](llm, TOOLS, "Hi", tool_required=True)
    selected = llm.get_tool_calls_from_response(response)
    blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    assert blocks
    assert [one.tool_kwargs for one in selected] == [block.tool_kwargs for block in blocks]
    assert {one.tool_name for one in selected} <= {"get_weather", "roll"}
    ids = [one.tool_id for one in selected]
    assert all(ids)
    assert len({*ids}) == len(ids)
    assert response.raw["finish_reason"] in ("tool_calls", "length")
    assert json.loads(json.dumps(response.raw)) == response.raw


def test_a_tool_can_be_named_in_every_usual_way(make: Callable) -> None:
    llm = make(max_tokens=80)
    by_openai = {"type": "function", "function": {"name": "roll"}}
    for choice in ("roll", by_openai):
        response = llm.chat_with_tools(TOOLS, "Hi", tool_choice=choice)
        (selected,) = llm.get_tool_calls_from_response(response)
        assert selected.tool_name == "roll"
        assert 1 <= selected.tool_kwargs["sides"] <= 6
    for choice in ("any", "required", True):
        response = llm.chat_with_tools(TOOLS, "Hi", tool_choice=choice)
        assert llm.get_tool_calls_from_response(response)
    for choice in ("none", False):
        response = llm.chat_with_tools(TOOLS, "Hi", tool_choice=choice)
        assert not llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    with pytest.raises(InvalidTools, match="nosuch"):
        llm.chat_with_tools(TOOLS, "Hi", tool_choice="nosuch")
    with pytest.raises(InvalidTools, match="tool_choice=7"):
        llm.chat_with_tools(TOOLS, "Hi", tool_choice=7)
    with pytest.raises(InvalidTools, match="nothing to call"):
        llm.chat_with_tools([], "Hi", tool_required=True)


def test_the_question_may_be_text_a_message_or_history_which_stays_as_it_was(
    make: Callable,
) -> None:
    llm, history = make(), [ChatMessage(role="user", content="Hi")]
    answers = {
        llm.chat_with_tools(TOOLS, "Hi").message.content,
        llm.chat_with_tools(TOOLS, history[0]).message.content,
        llm.chat_with_tools(TOOLS, chat_history=history, tool_choice=None).message.content,
    }
    assert len(answers) == 1
    llm.chat_with_tools(TOOLS, "And?", chat_history=history)
    assert history == [ChatMessage(role="user", content="Hi")]
    assert llm.chat_with_tools([], "Hi").message.content == llm.chat(USER).message.content


def test_calls_thoughts_and_results_go_back_to_the_model(make: Callable, folder: Path) -> None:
    call = ToolCallBlock(tool_call_id="abcdefghi", tool_name="roll", tool_kwargs={"sides": 4})
    thought = ThinkingBlock(content="Roll it.")
    result = ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "abcdefghi"})
    asked = ChatMessage(role="assistant", blocks=[thought, TextBlock(text="I roll."), call])
    function = {"name": "roll", "arguments": '{"sides": 4}'}
    wire = [{"id": "abcdefghi", "type": "function", "function": function}]
    legacy = ChatMessage(
        role="assistant", content="I roll.", additional_kwargs={"tool_calls": wire}
    )
    dicts = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "I roll.", "tool_calls": wire},
        {"role": "tool", "content": "3", "tool_call_id": "abcdefghi"},
    ]
    expected = bare_answer(folder, [], dicts)
    for message in (asked, legacy):
        assert make().chat([*USER, message, result]).message.content == expected
    with pytest.raises(InvalidMessages, match="not made"):
        make().chat([*USER, result])


def test_predict_and_call_calls_the_tool(make: Callable) -> None:
    llm = make(max_tokens=80)
    rolled = llm.predict_and_call(TOOLS, "Hi", tool_choice="roll")
    assert rolled.sources[0].tool_name == "roll"
    weather = asyncio.run(llm.apredict_and_call(TOOLS, "Hi", tool_choice="get_weather"))
    assert str(weather).startswith("sunny in ")


class Script:
    """An engine that answers what it is told to."""

    model_id = "script"

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers, self.asked = list(answers), []

    def stream(self, messages: list[dict[str, Any]], **request: Any) -> Iterator[Piece]:
        self.asked.append((messages, request))
        pieces = self.answers.pop(0)

        def written() -> Iterator[Piece]:
            for place, piece in enumerate(pieces):
                at_end = place == len(pieces) - 1
                end = {"finish_reason": "stop", "usage": Usage(10, 7, 20, 4, 3)} if at_end else {}
                strength = Strength(0.25, 2.0) if at_end else None
                base = {
                    "text": "",
                    "token_ids": (),
                    "finish_reason": None,
                    "usage": None,
                    "kl": 0.0,
                }
                yield Piece(**{**base, **end, "strength": strength, **piece})

        return written()

    def astream(self, messages: list[dict[str, Any]], **request: Any) -> Any:
        pieces = self.stream(messages, **request)

        async def written() -> Any:
            for piece in pieces:
                yield piece

        return written()


@pytest.fixture
def script(make: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[LinAlign, Any]]:
    def build(*answers: list[dict[str, Any]], **fields: Any) -> tuple[LinAlign, Script]:
        written = Script(*answers)
        monkeypatch.setattr(LinAlign, "_engine", lambda self, model=None: written)
        return make(**fields), written

    return build


THINKING = [
    {"reasoning": "Let me "},
    {"reasoning": "look."},
    {"text": "I look."},
    {"tool_calls": (ToolCallDelta(0, "aaaaaaaaa", "get_weather", ""),)},
    {"tool_calls": (ToolCallDelta(0, None, None, '{"city": "O'),)},
    {"tool_calls": (ToolCallDelta(0, None, None, 'slo"}'),)},
    {"tool_calls": (ToolCallDelta(1, "bbbbbbbbb", "roll", '{"sides": 2}'),)},
    {},
]


def test_a_stream_shows_thoughts_text_and_calls_as_they_grow(script: Callable) -> None:
    llm, _ = script(THINKING)
    responses = list(llm.stream_chat_with_tools(TOOLS, "Hi", allow_parallel_tool_calls=True))
    thoughts = [one.additional_kwargs.get("thinking_delta") for one in responses]
    assert thoughts[:3] == ["Let me ", "look.", None]
    assert [one.delta for one in responses][:4] == ["", "", "I look.", ""]
    partial = [llm.get_tool_calls_from_response(one, False) for one in responses]
    assert [[call.tool_kwargs for call in calls] for calls in partial[2:]] == [
        [],
        [{}],
        [{"city": "O"}],
        [{"city": "Oslo"}],
        [{"city": "Oslo"}, {"sides": 2}],
        [{"city": "Oslo"}, {"sides": 2}],
    ]
    end = responses[-1]
    thought, text, *calls = end.message.blocks
    assert (thought.content, thought.num_tokens) == ("Let me look.", 3)
    assert text.text == "I look."
    assert [call.tool_call_id for call in calls] == ["aaaaaaaaa", "bbbbbbbbb"]
    assert end.raw == {
        "model": "script",
        "finish_reason": "tool_calls",
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 7,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        "branch_tokens": 20,
        "alignment": {"mean_kl": 0.25, "mean_ratio": 2.0},
    }


def test_completions_keep_calls_and_thoughts_beside_their_text(script: Callable) -> None:
    llm, _ = script(THINKING)
    completion = llm.complete("Hi", tools=TOOLS)
    assert completion.text == "I look."
    assert completion.additional_kwargs["reasoning_content"] == "Let me look."
    assert [one["id"] for one in completion.additional_kwargs["tool_calls"]] == [
        "aaaaaaaaa",
        "bbbbbbbbb",
    ]


def test_a_call_that_showed_to_be_invalid_is_taken_back_and_told(script: Callable) -> None:
    void = InvalidToolCall('{"sides": 9', "cut off", 0, "roll", "aaaaaaaaa")
    answer = [
        {"tool_calls": (ToolCallDelta(0, "aaaaaaaaa", "roll", '{"sides": 9'),)},
        {"invalid_tool_calls": (void,)},
    ]
    llm, _ = script(answer)
    response = llm.chat_with_tools(TOOLS, "Hi")
    assert not any(isinstance(block, ToolCallBlock) for block in response.message.blocks)
    assert response.message.additional_kwargs["invalid_tool_calls"][0]["reason"] == "cut off"
    for required in (True, False):
        with pytest.raises(ValueError, match=r"roll.*cut off"):
            llm.get_tool_calls_from_response(response, required)


VOID = {"invalid_tool_calls": (InvalidToolCall("{", "cut off", name="roll"),)}
ROLL = {"tool_calls": (ToolCallDelta(1, "bbbbbbbbb", "roll", '{"sides": 2}'),)}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([[VOID, ROLL, {}], [{"text": "A two."}]], "A two."),
        ([[{"text": "I think it is 3."}, VOID, {}]], "I think it is 3."),
    ],
    ids=["beside a call", "beside text"],
)
def test_a_call_that_is_none_does_not_end_an_agent_that_has_something_to_go_on_with(
    answers: list, said: str, streaming: bool, script: Callable
) -> None:
    llm, _ = script(*answers)
    agent = FunctionAgent(tools=TOOLS, llm=llm, streaming=streaming)

    async def run() -> str:
        return str(await agent.run("Hi"))

    assert asyncio.run(run()) == said


def test_an_agent_tells_the_model_of_a_tool_that_there_is_not(script: Callable) -> None:
    unknown = InvalidToolCall('{"name": "fly"}', "no such tool", name="fly")
    llm, written = script([{"invalid_tool_calls": (unknown,)}], [{"text": "Sorry."}])
    agent = FunctionAgent(tools=TOOLS, llm=llm)

    async def run() -> str:
        return str(await agent.run("Hi"))

    assert asyncio.run(run()) == "Sorry."
    told = written.asked[1][0]
    assert told[-2]["tool_calls"][0]["function"]["name"] == "fly"
    assert "fly" in told[-1]["content"]
    llm, _ = script([{"invalid_tool_calls": (unknown,)}])
    with pytest.raises(ValueError, match=r"fly.*no such tool"):
        llm.predict_and_call(TOOLS, "Hi")


@pytest.mark.parametrize(
    "tools",
    ["abc", 3, [None], [{"name": "x"}], [{"type": "function", "function": {}}], {"type": "x"}],
)
def test_what_is_no_tool_is_refused(tools: Any, make: Callable) -> None:
    with pytest.raises(InvalidTools):
        make().chat(USER, tools=tools)
    with pytest.raises(InvalidTools):
        asyncio.run(make().achat(USER, tools=tools))


def test_parallel_calls_are_allowed_or_not(make: Callable) -> None:
    with pytest.raises(InvalidTools, match="parallel_tool_calls='no'"):
        make().chat(USER, tools=TOOLS, parallel_tool_calls="no")


def test_functions_are_tools(script: Callable) -> None:
    llm, written = script([{"text": "I see."}])
    llm.chat_with_tools([roll], "Hi")
    [tool] = written.asked[0][1]["tools"]
    assert tool["function"]["name"] == "roll"
    assert tool["function"]["parameters"]["required"] == ["sides"]


def test_an_agent_hands_over_to_another_which_keeps_its_user(script: Callable) -> None:
    arguments = '{"to_agent": "second", "reason": "It knows."}'
    call = ToolCallDelta(0, "aaaaaaaaa", "handoff", arguments)
    llm, written = script([{"tool_calls": (call,)}], [{"text": "Aye."}])
    first, second = (
        FunctionAgent(name=name, description=name, tools=[], llm=llm, system_prompt=f"I am {name}.")
        for name in ("first", "second")
    )
    workflow = AgentWorkflow(agents=[first, second], root_agent="first")

    async def run() -> str:
        with use_preferences(ANN):
            handler = workflow.run("Hi")
        return str(await handler)

    assert asyncio.run(run()) == "Aye."
    for (messages, request), name in zip(written.asked, ("first", "second"), strict=True):
        assert messages[0]["content"] == f"I am {name}."
        assert request["preferences"].principles[0].text == ANN


def test_where_there_has_to_be_a_call_its_absence_is_an_error(make: Callable) -> None:
    llm = make()
    response = llm.chat(USER)
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="at least one tool call"):
        llm.get_tool_calls_from_response(response)
    cut = llm.chat_with_tools(TOOLS, "Hi", tool_required=True, max_tokens=2)
    with pytest.raises(ValueError, match="max_tokens cut the answer off"):
        llm.get_tool_calls_from_response(cut)


def test_tool_streams_keep_the_preferences_of_the_moment_they_were_asked_for(
    make: Callable,
) -> None:
    llm = make(principles=[ANN])
    with use_preferences(BOB):
        inside = list(llm.stream_chat_with_tools(TOOLS, "Hi"))[-1].message.content
        stream = llm.stream_chat_with_tools(TOOLS, "Hi")
        later = asyncio.run(last(llm.astream_chat_with_tools(TOOLS, "Hi"))).message.content
    assert list(stream)[-1].message.content == inside == later
    assert inside != llm.chat_with_tools(TOOLS, "Hi").message.content


# Structured output


class Person(BaseModel):
    """Somebody."""

    name: Annotated[str, Field(max_length=12)]
    age: Annotated[int, Field(ge=0, le=150)]
    home: Literal["Oslo", "Rome"]


ASK = PromptTemplate("Who is {who}?")

STRUCTURED: dict[str, Callable[..., Any]] = {
    "predict": lambda llm, **k: llm.structured_predict(Person, ASK, who="Ann", **k),
    "stream": lambda llm, **k: list(llm.stream_structured_predict(Person, ASK, who="Ann", **k))[-1],
    "apredict": lambda llm, **k: asyncio.run(llm.astructured_predict(Person, ASK, who="Ann", **k)),
    "astream": lambda llm, **k: asyncio.run(
        last(llm.astream_structured_predict(Person, ASK, who="Ann", **k))
    ),
}


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        *((method, PydanticProgramMode.DEFAULT) for method in STRUCTURED),
        # LlamaIndex's own program does not tell a model that streams that it has to call.
        *((method, PydanticProgramMode.FUNCTION) for method in ("predict", "apredict")),
    ],
)
def test_structured_prediction_gives_an_object_in_every_way(
    method: str, mode: PydanticProgramMode, make: Callable
) -> None:
    llm = make(max_tokens=200, pydantic_program_mode=mode)
    # LlamaIndex's programs settle themselves whether to call.
    kwargs = {"seed": 5, "tool_choice": "required", "allow_parallel_tool_calls": False}
    made = STRUCTURED[method](llm, llm_kwargs=kwargs)
    assert type(made) is Person
    assert len(kwargs) == 3
    assert made == STRUCTURED["predict"](llm, llm_kwargs={"seed": 5})


def test_every_seed_gives_a_valid_object(make: Callable) -> None:
    llm = make(max_tokens=60)
    made = [STRUCTURED["predict"](llm, llm_kwargs={"seed": seed}) for seed in range(10)]
    assert len({one.model_dump_json() for one in made}) > 5


def test_the_system_prompt_and_the_preferences_count_for_objects(make: Callable) -> None:
    asked: list[Any] = []
    llm = make(max_tokens=60, system_prompt="Be exact.")

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            if type(event).__name__ == "LLMChatEndEvent":
                asked.append(event)

    with listening(Handler()):
        for method in STRUCTURED.values():
            method(llm)
            method(llm, llm_kwargs={"principles": [ANN]})
    assert len(asked) == 8
    assert all(event.messages[0].content == "Be exact." for event in asked)
    branches = [(one.response.raw["branch_tokens"], one.response.raw) for one in asked]
    assert all(tokens == raw["usage"]["prompt_tokens"] for tokens, raw in branches[::2])
    assert all(tokens > raw["usage"]["prompt_tokens"] for tokens, raw in branches[1::2])


@contextlib.contextmanager
def listening(handler: BaseEventHandler) -> Iterator[None]:
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(handler)
    try:
        yield
    finally:
        dispatcher.event_handlers.remove(handler)


def test_a_structured_stream_grows_and_ends_with_the_whole_object(script: Callable) -> None:
    texts = ['{"name": "A', 'nn", "age": 3', '1, "home": "Ro', 'me"}']
    llm, _ = script([*({"text": text} for text in texts), {}])
    grown = list(llm.stream_structured_predict(Person, ASK, who="Ann"))
    assert [one.name for one in grown] == ["A", "Ann", "Ann", "Ann", "Ann"]
    assert [one.age for one in grown[:3]] == [None, 3, 31]
    assert all(type(one) is not Person for one in grown[:3])
    assert grown[-1] == Person(name="Ann", age=31, home="Rome")


def test_structured_streams_keep_the_preferences_of_the_moment_they_were_asked_for(
    make: Callable,
) -> None:
    llm = make(max_tokens=60, align_tool_calls=True)
    expected = STRUCTURED["predict"](llm, llm_kwargs={"principles": [BOB]})
    assert expected != STRUCTURED["predict"](llm)
    sllm = llm.as_structured_llm(Person)
    question = [ChatMessage(role="user", content="Who is Ann?")]

    async def ask() -> list[Any]:
        with use_preferences(BOB):
            streams = [
                await llm.astream_structured_predict(Person, ASK, who="Ann"),
                await sllm.astream_chat(question),
                await sllm.astream_complete("Who is Ann?"),
            ]
        return [[one async for one in stream][-1] for stream in streams]

    with use_preferences(BOB):
        streams = [
            llm.stream_structured_predict(Person, ASK, who="Ann"),
            sllm.stream_chat(question),
            sllm.stream_complete("Who is Ann?"),
        ]
    first, *told = [list(stream)[-1] for stream in streams]
    assert first == expected
    assert [one.raw for one in told] == [expected, expected]
    first, *told = asyncio.run(ask())
    assert first == expected
    assert [one.raw for one in told] == [expected, expected]


def test_streams_of_llamaindex_s_own_programs_keep_their_preferences_too(
    make: Callable, heard: list
) -> None:
    llm = make(pydantic_program_mode=PydanticProgramMode.FUNCTION)

    async def ask() -> list[Any]:
        with use_preferences(BOB):
            stream = await llm.astream_structured_predict(Person, ASK, who="Ann")
        return [one async for one in stream]

    said = {"preferences": Preferences(ratio=1.0)}
    with use_preferences(BOB):
        stream = llm.stream_structured_predict(Person, ASK, who="Ann")
        ratio = llm.stream_structured_predict(Person, ASK, llm_kwargs=said, who="Ann")
    list(stream)
    list(ratio)
    asyncio.run(ask())
    assert [aligned for _, aligned in heard] == [True, True, True]


class Rolls(RootModel[list[Die]]):
    pass


class Coded(BaseModel):
    name: str = Field(alias="full name")
    country: str

    @field_validator("country")
    @classmethod
    def _spelt_out(cls, code: str) -> str:
        return {"gr": "Greece"}[code]


def test_streams_of_lists_aliases_and_wilful_classes_grow_too(script: Callable) -> None:
    rolls = [{"text": '[{"sides": 2}'}, {"text": ', {"sides": 3}]'}]
    person = [{"text": '{"full name": "An'}, {"text": 'n", "country": "g'}, {"text": 'r"}'}]
    llm, _ = script(rolls, person)
    *_, dice = llm.stream_structured_predict(Rolls, PromptTemplate("Roll."))
    assert [die.sides for die in dice.root] == [2, 3]
    grown = list(llm.stream_structured_predict(Coded, PromptTemplate("Who?")))
    assert [one.name for one in grown] == ["An", "Ann", "Ann", "Ann"]
    assert (type(grown[-1]), grown[-1].country) == (Coded, "Greece")


def test_a_structured_llm_has_copies_for_users(make: Callable) -> None:
    profiles = open_profiles("memory://")
    profiles.put("ann", Preferences(principles=[ANN], align_tool_calls=True))
    llm = make(max_tokens=60, profiles=profiles)
    anns = llm.as_structured_llm(Person).for_user("ann").chat(USER).raw
    assert anns == llm.for_user("ann").as_structured_llm(Person).chat(USER).raw
    assert anns != llm.as_structured_llm(Person).chat(USER).raw


def test_a_structured_llm_answers_with_objects(make: Callable) -> None:
    sllm = make(max_tokens=60).as_structured_llm(Person)
    text = 'Who is Ann? {"like": "this {who}"}'
    response = sllm.chat([ChatMessage(role="user", content=text)])
    assert Person.model_validate_json(response.message.content) == response.raw
    assert asyncio.run(sllm.acomplete(text)).raw == response.raw


def even(number: int) -> int:
    if number % 2:
        raise ValueError("it is odd")
    return number


class Odd(BaseModel):
    number: Annotated[Literal[1, 3], AfterValidator(even)]


class Impossible(BaseModel):
    word: Annotated[str, Field(min_length=5, max_length=2)]


def test_an_object_that_cannot_be_had_is_a_clear_error(make: Callable) -> None:
    llm = make(max_tokens=60)
    with pytest.raises(ValueError, match=r"no Odd.*number: it is odd"):
        llm.structured_predict(Odd, ASK, who="Ann")
    with pytest.raises(InvalidGrammar):
        llm.structured_predict(Impossible, ASK, who="Ann")
    with pytest.raises(ValueError, match=r"no Person.*max_tokens"):
        llm.structured_predict(Person, ASK, who="Ann", llm_kwargs={"max_tokens": 2})


@pytest.mark.parametrize("strange", [dict, list[int], 3, Person(name="Ann", age=3, home="Oslo")])
def test_objects_are_of_pydantic_classes(strange: Any, make: Callable) -> None:
    with pytest.raises(InvalidArgument, match="takes a pydantic class"):
        make().structured_predict(strange, ASK, who="Ann")


class Kind(enum.StrEnum):
    SWEET = "sweet"
    SOUR = "sour"


class Paid(BaseModel):
    amount: Decimal
    left: Decimal | None


class Keyed(BaseModel):
    by_number: dict[int, str]
    by_kind: dict[Kind, int]
    by_letter: dict[Literal["a", "b"], bool]
    by_day: dict[dt.date, int]


class Different(BaseModel):
    texts: set[str]
    numbers: frozenset[int]


class Times(BaseModel):
    day: dt.date
    moment: dt.datetime
    clock: dt.time
    span: dt.timedelta
    key: uuid.UUID
    other: UUID4


class Places(BaseModel):
    path: pathlib.Path
    secret: SecretStr
    address: IPvAnyAddress
    network: ipaddress.IPv4Network


@pytest.mark.parametrize("kind", [Paid, Keyed, Different, Times, Places])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_class_checks_and_pydantic_s_schema_does_not_say_holds_too(
    kind: type[BaseModel], seed: int, make: Callable
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = make(max_tokens=250).structured_predict(kind, ASK, {"seed": seed}, who="Ann")
    assert type(made) is kind


class Basket(BaseModel):
    fruit: Annotated[
        list[Literal["fig", "plum"]],
        Field(min_length=2, max_length=2, json_schema_extra={"uniqueItems": True}),
    ]


def test_what_no_grammar_enforces_is_checked_afterwards(make: Callable) -> None:
    llm, refused = make(max_tokens=60), 0
    for seed in range(12):
        try:
            with pytest.warns(UserWarning, match=r"Basket is checked only after.*uniqueItems"):
                made = llm.structured_predict(Basket, ASK, {"seed": seed}, who="Ann")
            assert len({*made.fruit}) == 2
        except ValueError as error:
            refused += "non-unique" in str(error)
    assert 0 < refused < 12


def test_the_model_is_told_the_schema_and_adds_nothing_to_it(script: Callable) -> None:
    text = '{"name": "Ann", "age": 31, "home": "Rome"}'
    llm, written = script([{"text": text}], system_prompt="Be exact.")
    llm.structured_predict(Person, ASK, who="Ann")
    ((messages, request),) = written.asked
    assert messages[0]["content"].startswith("Be exact.\n\nAnswer with JSON")
    assert '"maximum": 150' in messages[0]["content"]
    assert json.loads(request["grammar"].text)["additionalProperties"] is False


def test_llamaindex_s_own_programs_work(make: Callable) -> None:
    llm = make(max_tokens=200)
    program = FunctionCallingProgram.from_defaults(Person, "Who is {who}?", llm=llm)
    assert isinstance(program(who="Ann"), Person)
    assert isinstance(asyncio.run(program.acall(who="Ann")), Person)


# Answers and what LlamaIndex works with


@pytest.fixture
def heard() -> Iterator[list[tuple[str, bool]]]:
    """The beginning of what was asked, and whether it was aligned."""
    asked: list[tuple[str, bool]] = []

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            if type(event).__name__ not in ("LLMChatEndEvent", "LLMCompletionEndEvent"):
                return
            told = getattr(event, "prompt", None) or event.messages[-1].content
            raw = event.response.raw
            asked.append((told, raw["branch_tokens"] > raw["usage"]["prompt_tokens"]))

    with listening(Handler()):
        yield asked


@pytest.fixture
def index(make: Callable) -> SummaryIndex:
    return SummaryIndex.from_documents([Document(text="The bakery sells bread.")])


@pytest.mark.parametrize(
    "mode", ["compact", "refine", "tree_summarize", "simple_summarize", "accumulate", "generation"]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_query_engine_answers_aligned(
    mode: str, streaming: bool, make: Callable, index: SummaryIndex, heard: list
) -> None:
    if mode == "accumulate" and streaming:
        streaming = False
    llm = answers_only(make(principles=[ANN]))
    engine = index.as_query_engine(llm=llm, response_mode=mode, streaming=streaming)
    str(engine.query("What does it sell?"))
    assert heard
    assert all(aligned for _, aligned in heard)


def test_a_filter_in_a_synthesizer_is_not_aligned(
    make: Callable, index: SummaryIndex, heard: list
) -> None:
    llm = answers_only(make(principles=[ANN], max_tokens=200))
    filtering = get_response_synthesizer(llm=llm, structured_answer_filtering=True)
    str(index.as_query_engine(llm=llm, response_synthesizer=filtering).query("What is sold?"))
    assert [aligned for _, aligned in heard] == [False]


def test_condensing_a_question_is_not_aligned_and_its_answer_is(
    make: Callable, index: SummaryIndex, heard: list
) -> None:
    llm = answers_only(make(principles=[ANN]))
    history = [
        ChatMessage(role="user", content="Is there a bakery?"),
        ChatMessage(role="assistant", content="Yes."),
    ]
    engines = [
        CondenseQuestionChatEngine.from_defaults(
            query_engine=index.as_query_engine(llm=llm), llm=llm, chat_history=history
        ),
        CondensePlusContextChatEngine.from_defaults(
            retriever=index.as_retriever(), llm=llm, chat_history=history
        ),
    ]
    for engine in engines:
        heard.clear()
        str(engine.chat("What does it sell?"))
        assert [aligned for _, aligned in heard] == [False, True]
        heard.clear()
        str(asyncio.run(engine.achat("And what else?")))
        assert [aligned for _, aligned in heard] == [False, True]


def test_a_selector_is_not_aligned(make: Callable, heard: list) -> None:
    llm = answers_only(make(principles=[ANN]))
    with contextlib.suppress(ValueError):  # a random model selects nothing that can be read
        LLMSingleSelector.from_defaults(llm=llm).select(["bread", "cake"], "What is it?")
    STRUCTURED["predict"](llm, llm_kwargs={"max_tokens": 60})
    assert [aligned for _, aligned in heard] == [False, False]


def test_facts_are_extracted_unaligned_by_a_copy_that_never_is_aligned(
    make: Callable, heard: list
) -> None:
    llm = make(principles=[ANN])
    block = FactExtractionMemoryBlock(llm=unaligned(llm))
    with use_preferences(BOB):
        asyncio.run(block.aput(USER))
    llm.chat(USER)
    assert [aligned for _, aligned in heard] == [False, True]


def test_whether_to_call_a_tool_is_decided_unaligned(
    make: Callable, folder: Path, heard: list
) -> None:
    llm = answers_only(make(principles=[ANN]))
    schemas = [tool.metadata.to_openai_tool() for tool in TOOLS]
    expected = Engine.load(folder, dtype="float32").generate(
        "Hi",
        tools=schemas,
        tool_choice="none",
        preferences=Preferences(principles=[ANN]),
        sampling=SamplingParams(seed=3, max_tokens=12),
    )
    alone = make(principles=[ANN]).chat_with_tools(TOOLS, "Hi", tool_choice="none")
    for method in TOOL_METHODS.values():
        response = method(llm, TOOLS, "Hi")
        assert response.message.content == expected.text
        told = response.raw["usage"]["completion_tokens"]
        assert told > alone.raw["usage"]["completion_tokens"]
    heard.clear()
    llm.chat_with_tools(TOOLS, "Hi", tool_required=True, max_tokens=80)
    llm.chat_with_tools(TOOLS, "Hi", tool_choice="none")
    assert [aligned for _, aligned in heard] == [False, True]


def test_a_call_decided_unaligned_is_streamed_as_it_comes(script: Callable) -> None:
    for way in ("stream", "astream"):
        llm, written = script(THINKING, [{"text": "Aye."}], principles=[ANN], align="answers")
        response = TOOL_METHODS[way](llm, TOOLS, "Hi")
        assert len(llm.get_tool_calls_from_response(response)) == 2
        [decision] = written.asked
        assert decision[1]["preferences"].principles == ()


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize(
    ("second", "said"),
    [
        ([VOID, {}], "I look."),
        ([{"text": "Aye."}, VOID, {}], "Aye."),
        ([{"token_ids": (5,)}, {}], ""),
        ([{"reasoning": "Roll."}, {}, VOID, {}], "I look."),
        ([{"reasoning": "Say."}, {}, {"text": "Aye."}, {}], "Aye."),
    ],
    ids=["nothing but a call", "a call after text", "nothing", "thoughts", "thoughts and text"],
)
def test_an_answer_that_is_only_a_call_of_tools_not_given_leaves_the_first_one(
    second: list, said: str, way: str, script: Callable
) -> None:
    first = [{"text": "I "}, {"text": "look."}]
    llm, _ = script(first, second, principles=[ANN], align="answers")
    response = TOOL_METHODS[way](llm, TOOLS, "Hi")
    assert response.message.content == said
    assert response.raw["usage"]["completion_tokens"] == 14


def test_an_answer_beside_tools_has_the_time_that_the_decision_left(script: Callable) -> None:
    for way in ("stream", "astream"):
        answers = [{"text": "I look."}], [{"text": "Aye."}]
        llm, written = script(*answers, principles=[ANN], align="answers", timeout=60)
        assert TOOL_METHODS[way](llm, TOOLS, "Hi").message.content == "Aye."
        decision, answer = written.asked
        assert decision[1]["preferences"].principles == ()
        assert answer[1]["tool_choice"] == "none"
        assert answer[1]["preferences"].principles[0].text == ANN
        assert 59 < answer[1]["timeout"] < decision[1]["timeout"] == 60


def test_a_call_s_own_principles_are_obeyed_whatever_else_is_said(
    make: Callable, folder: Path
) -> None:
    for llm in (answers_only(make()), unaligned(make())):
        assert llm.complete("Hi", principles=[BOB]).text == bare_answer(folder, [BOB])
    weaker = Preferences(ratio=1.0)
    unsaid = unaligned(make(principles=[ANN])).complete("Hi", preferences=weaker)
    assert unsaid.text == bare_answer(folder, [])
    profiles = open_profiles("memory://")
    profiles.put("ann", ANN)
    for_ann = unaligned(make(profiles=profiles)).for_user("ann")
    assert for_ann.complete("Hi").text == bare_answer(folder, [])
    with use_preferences(BOB):
        assert unaligned(make()).chat(USER).message.content == bare_answer(folder, [])


def test_templates_of_one_s_own_count_as_answers_where_they_hold_text_and_question(
    make: Callable, heard: list
) -> None:
    llm = answers_only(make(principles=[ANN]))
    own = ChatPromptTemplate.from_messages(
        [ChatMessage(role="system", content="{context_str}"), ChatMessage(content="{query_str}")]
    )
    mapped = PromptTemplate("{c} {q}", template_var_mappings={"context_str": "c", "query_str": "q"})
    llm.predict(own, context_str="Bread.", query_str="What?")
    llm.predict(mapped, context_str="Bread.", query_str="What?")
    llm.predict(PromptTemplate("Translate {text}"), text="Bread.")
    assert [aligned for _, aligned in heard] == [True, True, False]


@pytest.mark.parametrize(
    ("template", "aligned"),
    [
        (DEFAULT_SQL_JOIN_SYNTHESIS_PROMPT, True),
        (DEFAULT_SQL_VECTOR_SYNTHESIS_PROMPT, True),
        (DEFAULT_INSTRUCT_PROMPT, True),
        (DEFAULT_STEP_DECOMPOSE_QUERY_TRANSFORM_PROMPT, False),
        (PromptTemplate(DEFAULT_PII_TMPL), False),
        (PromptTemplate(DEFAULT_INFER_PREV_NEXT_TMPL), False),
        (PromptTemplate(DEFAULT_REFINE_INFER_PREV_NEXT_TMPL), False),
    ],
)
def test_llamaindex_s_own_templates_count_as_what_they_are(
    template: BasePromptTemplate, aligned: bool, make: Callable, heard: list
) -> None:
    llm = answers_only(make(principles=[ANN]))
    llm.predict(template, **dict.fromkeys(template.template_vars, "Bread."))
    assert [was for _, was in heard] == [aligned]


def test_an_extractor_that_speaks_to_a_server_as_well_gets_its_answer(make: Callable) -> None:
    docstore = SimpleDocumentStore()
    document = Document(text="The Lantern bakery opens at 7:30.", doc_id="d")
    docstore.add_documents([document])
    node = TextNode(text="It opens at 7:30.")
    node.relationships[NodeRelationship.SOURCE] = document.as_related_node_info()
    extractor = DocumentContextExtractor(
        docstore, make(), max_context_length=500, max_output_tokens=4
    )
    [found] = asyncio.run(extractor.aextract([node]))
    assert found.keys() == {"context"}


def test_a_sequence_of_messages_of_any_type_is_an_answer(make: Callable, folder: Path) -> None:
    llm = answers_only(make(principles=[ANN]))
    for messages in (USER, tuple(USER)):
        assert llm.chat(messages).message.content == bare_answer(folder, [ANN])


# What a first-class model does


def test_what_events_tell_of_a_model_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LinAlign(model="far/away")

    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError("the config of a model was read")

    monkeypatch.setattr("linalign_integrations.engine.loading.read_config", read)
    with pytest.raises(AssertionError):
        _ = llm.metadata
    assert llm.to_payload()["model_name"] == "far/away"


def test_metadata_reads_no_weights(make: Callable, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    llm = make(model=str(tmp_path))
    assert llm.metadata.context_window == 2048
    assert llm.metadata.is_function_calling_model
    assert llm.to_payload()["model_name"] == str(tmp_path)


def test_async_calls_load_and_resolve_outside_of_the_event_loop(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    load, json_schema = Engine.load, Grammar.json_schema

    def noted_load(*args: Any, **kwargs: Any) -> Engine:
        threads.append(threading.get_ident())
        return load(*args, **kwargs)

    def noted_schema(*args: Any) -> Grammar:
        threads.append(threading.get_ident())
        return json_schema(*args)

    monkeypatch.setattr(Engine, "load", noted_load)
    monkeypatch.setattr(Grammar, "json_schema", noted_schema)
    llm = make(max_tokens=60)

    async def ask() -> None:
        await llm.achat(USER)
        await llm.acomplete("Hi")
        await last(llm.astream_chat(USER))
        await last(llm.astream_complete("Hi"))
        await llm.achat_with_tools(TOOLS, "Hi")
        await llm.astructured_predict(Person, ASK, who="Ann")
        await last(llm.astream_structured_predict(Person, ASK, who="Ann"))

    asyncio.run(ask())
    assert len(threads) >= 9
    assert threading.get_ident() not in threads


def test_prompts_are_told_as_the_user_of_the_class_wants(make: Callable, folder: Path) -> None:
    llm = make(
        messages_to_prompt=lambda messages: "|".join(one.content for one in messages),
        completion_to_prompt=lambda prompt: f"Q: {prompt}",
    )
    told = llm.chat([*USER, ChatMessage(role="assistant", content="Ho")])
    assert told.message.content == bare_answer(folder, [], "Hi|Ho")
    assert llm.complete("Hi").text == bare_answer(folder, [], "Q: Hi")
    assert llm.complete("Hi", formatted=True).text == bare_answer(folder, [], "Hi")


def test_a_rate_limiter_is_asked_before_each_request(make: Callable) -> None:
    class Limiter:
        asked = 0

        def acquire(self) -> None:
            self.asked += 1

        async def async_acquire(self) -> None:
            self.asked += 1

    limiter = Limiter()
    llm = make(rate_limiter=limiter, max_tokens=60)
    for method in METHODS.values():
        method(llm)
    STRUCTURED["predict"](llm)
    llm.chat_with_tools(TOOLS, "Hi")
    assert limiter.asked == 10


def test_llamaindex_can_count_in_the_model_s_tokens(make: Callable) -> None:
    # The tokenizer of these tests has tokens for "he", "in" and "er", else one per byte.
    assert len(make().tokenize("hein er!")) == 5


def test_an_answer_that_is_given_up_ends_its_request(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []
    open_request = Engine._request

    def noted(*args: Any) -> Any:
        requests.append(open_request(*args))
        return requests[-1]

    monkeypatch.setattr(Engine, "_request", noted)
    endless = {"grammar": Grammar.regex("[a-z]{1500}"), "max_tokens": 1600}
    llm = make()
    stream = llm.stream_chat(USER, **endless)
    next(stream)
    stream.close()

    async def give_up() -> None:
        task = asyncio.create_task(llm.achat(USER, **endless))
        responses = await llm.astream_chat(USER, **endless)
        await anext(responses)
        await responses.aclose()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert [request.cancelled for request in requests] == [True, True, True]
