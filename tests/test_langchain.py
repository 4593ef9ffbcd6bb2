"""LangChain: a drop-in model whose preferences are run-time parameters."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
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
    InvalidSampling,
    ModelNotFound,
    ProfileNotFound,
)
from linalign_integrations.langchain import ChatLinAlign, LinAlignLLM

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
