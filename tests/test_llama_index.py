"""LlamaIndex: a drop-in LLM whose preferences are those of the moment of the call."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core import Document, SimpleKeywordTableIndex
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.prompts import PromptTemplate
from models import ADAPTER, bare_answer

from linalign_integrations import (
    Preferences,
    open_profiles,
    use_preferences,
)
from linalign_integrations.errors import (
    InvalidArgument,
    InvalidMessages,
    InvalidPreferences,
    ProfileNotFound,
)
from linalign_integrations.llama_index import LinAlign

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


def test_usage_is_where_token_counting_looks_for_it(make: Callable) -> None:
    counter = TokenCountingHandler(tokenizer=lambda text: pytest.fail("should not need to guess"))
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
    assert make().complete("Hi", tools=[], tool_choice=None).text


def test_bad_input_raises_this_package_s_errors(make: Callable) -> None:
    with pytest.raises(InvalidPreferences, match="ratio"):
        make(ratio=-1)
    with pytest.raises(InvalidPreferences, match="ratio"):
        make().complete("Hi", ratio=-1)
    with pytest.raises(ProfileNotFound, match="profiles="):
        make().for_user("ann")
    with pytest.raises(InvalidMessages, match="ImageBlock"):
        make().chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"x")])])
    with pytest.raises(InvalidMessages, match="no messages"):
        make().chat([])
