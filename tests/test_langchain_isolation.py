"""LangChain: no cache, copy, batch, thread or task hands one user's answer to another."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from models import ADAPTER, bare_answer

from linalign_integrations import Engine, Preferences, open_profiles, use_preferences
from linalign_integrations.engine import Grammar
from linalign_integrations.errors import InvalidArgument, ProfileNotFound
from linalign_integrations.langchain import ChatLinAlign, LinAlignLLM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ANN, BOB = "Answer like a pirate.", "Be formal."
USERS = {f"user{number}": f"Mention the number {number}." for number in range(32)}


class SqliteCache(BaseCache):
    """As LangChain's own, which is in another package: text in, text out, equal keys are equal."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.connection.execute("CREATE TABLE kept (prompt, llm, value, UNIQUE (prompt, llm))")

    def lookup(self, prompt: str, llm_string: str) -> Any:
        found = self.connection.execute(
            "SELECT value FROM kept WHERE prompt = ? AND llm = ?", (prompt, llm_string)
        ).fetchone()
        known = [Generation, ChatGeneration, AIMessage]
        return found and [loads(one, allowed_objects=known) for one in json.loads(found[0])]

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        value = json.dumps([dumps(one) for one in return_val])
        self.connection.execute(
            "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (prompt, llm_string, value)
        )

    def clear(self, **kwargs: Any) -> None:
        self.connection.execute("DELETE FROM kept")

    def __len__(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM kept").fetchone()[0])

    def text(self) -> str:
        return str(self.connection.execute("SELECT llm, value FROM kept").fetchall())


@pytest.fixture(params=["memory", "sqlite"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseCache]:
    """The cache of the whole process, as applications set it."""
    made = InMemoryCache() if request.param == "memory" else SqliteCache(tmp_path / "cache.db")
    set_llm_cache(made)
    yield made
    set_llm_cache(None)


@pytest.fixture
def profiles() -> Any:
    made = open_profiles("memory://isolation")
    for user, wish in (USERS | {"ann": ANN, "bob": BOB}).items():
        made.put(user, wish)
    return made


@pytest.fixture(params=[ChatLinAlign, LinAlignLLM], ids=["chat", "llm"])
def make(request: pytest.FixtureRequest, folder: Path, profiles: Any) -> Callable[..., Any]:
    def build(**fields: object) -> Any:
        settings = {"model": str(folder), "profiles": profiles, **ADAPTER}
        return request.param(**{**settings, **fields})

    return build


@pytest.fixture
def llm(folder: Path) -> LinAlignLLM:
    return LinAlignLLM(model=str(folder), **ADAPTER)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that reached an engine."""
    seen: list[Any] = []
    for name in ("stream", "astream"):
        original = getattr(Engine, name)

        def watched(engine: Engine, *given: Any, original: Any = original, **kwargs: Any) -> Any:
            seen.append(kwargs)
            return original(engine, *given, **kwargs)

        monkeypatch.setattr(Engine, name, watched)
    return seen


def text(answer: object) -> str:
    return answer.text if isinstance(answer, AIMessage) else str(answer)


def configs(users: Any) -> list[Any]:
    return [{"configurable": {"user_id": user}} for user in users]


def ask_within(model: Any, principle: str) -> Any:
    with use_preferences(principle):
        return model.invoke("Hi")


WAYS: dict[str, Callable[[Any, str, str], Any]] = {
    "config user_id": lambda model, user, _: model.invoke("Hi", configs([user])[0]),
    "config principles": lambda model, _, wish: model.invoke(
        "Hi", {"configurable": {"principles": [wish]}}
    ),
    "context": lambda model, _, wish: ask_within(model, wish),
    "call": lambda model, _, wish: model.invoke("Hi", principles=[wish]),
    "copy": lambda model, _, wish: model.model_copy(
        update={"principles": Preferences(principles=[wish]).principles}
    ).invoke("Hi"),
    "for_user": lambda model, user, _: model.for_user(user).invoke("Hi"),
    "generate": lambda model, _, wish: (
        model.generate_prompt([model._convert_input("Hi")], principles=[wish])
        .generations[0][0]
        .text
    ),
    "async": lambda model, user, _: asyncio.run(model.ainvoke("Hi", configs([user])[0])),
    "batch": lambda model, user, _: model.batch(["Hi"], configs([user]))[0],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_cache_keeps_users_apart_and_gives_each_their_own_back(
    way: Callable[[Any, str, str], Any],
    make: Callable,
    shared: BaseCache,
    folder: Path,
    counted: list[Any],
) -> None:
    # The model as it is serialised is part of some keys, and is worked out once.
    model = make()
    assert text(model.invoke("Hi")) == bare_answer(folder, [])
    first = {}
    for user, wish in (("ann", ANN), ("bob", BOB)):
        first[user] = text(way(model, user, wish))
        assert first[user] == bare_answer(folder, [wish])
    counted.clear()
    for user, wish in (("bob", BOB), ("ann", ANN)):
        assert text(way(model, user, wish)) == first[user]
    assert not counted, "the cache answered"
    assert text(model.invoke("Hi")) == bare_answer(folder, [])


def test_a_cache_does_not_hold_what_users_prefer(make: Callable, shared: BaseCache) -> None:
    wish = "I have a rare illness."
    make(principles=[wish]).invoke("Hi")
    make().invoke("Hi", principles=[wish])
    make().invoke("Hi", {"configurable": {"principles": [wish]}})
    kept = shared.text() if isinstance(shared, SqliteCache) else str(shared._cache)  # type: ignore[attr-defined]
    assert "Hi" in kept or "linalign" in kept
    assert "illness" not in kept


def test_a_cache_tells_every_argument_of_a_call_apart(
    make: Callable, shared: BaseCache, counted: list[Any]
) -> None:
    long = "z" * 300
    alike = [Grammar.regex(f"({long}|{word}|{long})") for word in ("yes", "no!")]
    assert repr(alike[0])[:40] == repr(alike[1])[:40], "long ones are shown in short"
    calls: list[dict[str, Any]] = [
        {},
        {"principles": [ANN]},
        {"principles": [ANN], "ratio": 4.0},
        {"seed": 4},
        {"max_tokens": 3},
        {"stop": ["+"]},
        *({"grammar": grammar} for grammar in alike),
    ]
    alone = [text(make(cache=False).invoke("Hi", **call)) for call in calls]
    counted.clear()
    for call, answer in [*zip(calls, alone, strict=True)] * 2:
        assert text(make().invoke("Hi", **call)) == answer
    assert len(counted) == len(calls), "asked once each"


def test_thirty_two_users_at_once_get_what_each_would_get_alone(
    make: Callable, folder: Path, shared: BaseCache
) -> None:
    alone = [bare_answer(folder, [wish]) for wish in USERS.values()]
    assert len(set(alone)) > 16
    model = make()
    for _ in range(2):  # the second time from the cache
        assert [text(a) for a in asyncio.run(model.abatch(["Hi"] * 32, configs(USERS)))] == alone
    with ThreadPoolExecutor(32) as threads:
        answers = threads.map(lambda config: make(cache=False).invoke("Hi", config), configs(USERS))
        assert list(map(text, answers)) == alone
    with ThreadPoolExecutor(32) as threads:
        answers = threads.map(lambda user: text(make().for_user(user).invoke("Hi")), USERS)
        assert list(answers) == alone
    assert [text(answer) for answer in make(cache=False).batch(["Hi"] * 32, configs(USERS))] == (
        alone
    )


def test_streams_of_many_users_do_not_mix(make: Callable, folder: Path) -> None:
    model = make()

    async def whole(config: Any) -> str:
        return "".join([text(piece) async for piece in model.astream("Hi", config)])

    async def together() -> list[str]:
        return await asyncio.gather(*map(whole, configs(USERS)))

    assert asyncio.run(together()) == [bare_answer(folder, [wish]) for wish in USERS.values()]


# LinAlignLLM in particular.


def test_a_batch_asks_the_engine_for_all_at_once(llm: LinAlignLLM, counted: list[Any]) -> None:
    running, most = 0, 0
    original = Engine.generate

    def watched(engine: Engine, *given: Any, **kwargs: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return original(engine, *given, **kwargs)
        finally:
            running -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "generate", watched)
        llm.batch([f"Hi {number}" for number in range(24)])
        batched, most = most, 0
        llm.generate([f"Hi {number}" for number in range(24)])
        generated, most = most, 0
        llm.batch([f"Hi {number}" for number in range(8)], {"max_concurrency": 2})
    assert batched > 8
    assert generated > 8
    assert most <= 2


def test_a_batch_may_be_larger_than_the_engine_s_line(llm: LinAlignLLM) -> None:
    prompts = [f"Hi {number}" for number in range(400)]
    assert len(asyncio.run(llm.abatch(prompts, max_tokens=1))) == 400
    assert len(llm.generate(prompts, max_tokens=1).generations) == 400


def test_one_item_that_fails_leaves_the_others_alone(
    llm: LinAlignLLM, profiles: Any, folder: Path
) -> None:
    known = llm.model_copy(update={"profiles": profiles})
    users = configs(["ann", "nobody", "bob"])
    for answers in (
        known.batch(["Hi"] * 3, users, return_exceptions=True),
        asyncio.run(known.abatch(["Hi"] * 3, users, return_exceptions=True)),
    ):
        assert answers[0] == bare_answer(folder, [ANN])
        assert isinstance(answers[1], ProfileNotFound)
        assert answers[2] == bare_answer(folder, [BOB])


def test_generations_say_what_they_cost_and_how_far_they_were_pulled(
    llm: LinAlignLLM, folder: Path
) -> None:
    result = llm.generate(["Hi", "Hello"], principles=[ANN])
    info = result.generations[0][0].generation_info
    assert info["finish_reason"] == "length"
    assert info["model_name"] == str(folder)
    assert info["token_usage"]["completion_tokens"] == ADAPTER["max_tokens"]
    assert info["token_usage"]["branch_tokens"] > info["token_usage"]["prompt_tokens"]
    assert info["alignment"]["mean_ratio"] == pytest.approx(2.0)
    assert info["alignment"]["mean_kl"] > 0
    assert result.llm_output["token_usage"]["completion_tokens"] == 2 * ADAPTER["max_tokens"]
    again = asyncio.run(llm.agenerate(["Hi", "Hello"], principles=[ANN]))
    assert [one[0].text for one in again.generations] == [one[0].text for one in result.generations]
    streamed = None
    for chunk in llm._stream("Hi", principles=[ANN]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.text == result.generations[0][0].text
    assert streamed.generation_info["token_usage"]["completion_tokens"] == ADAPTER["max_tokens"]
    assert streamed.generation_info["alignment"] == pytest.approx(info["alignment"])


def test_the_engine_is_told_which_user_asks(make: Callable, counted: list[Any]) -> None:
    make().for_user("ann").invoke("Hi")
    assert [kwargs["user"] for kwargs in counted] == ["ann"]


def test_what_is_reused_of_others_is_not_told(llm: LinAlignLLM) -> None:
    prompts = [" ".join(["A long text that many send."] * 8)]

    def reused(user: str) -> int:
        seen: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            original = Engine.generate

            def watched(engine: Engine, *given: Any, **kwargs: Any) -> Any:
                seen.append(original(engine, *given, **kwargs))
                return seen[-1]

            patch.setattr(Engine, "generate", watched)
            llm.invoke(prompts[0], {"configurable": {"user_id": user}})
        return int(seen[0].usage.reused_tokens)

    reused("ann")
    assert reused("ann") > 0
    assert reused("bob") == 0


def test_tools_are_refused_by_a_model_that_writes_text(llm: LinAlignLLM) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    for call in ({"tools": tools}, {"tool_choice": "weather"}):
        for attempt in (
            lambda call=call: llm.invoke("Hi", **call),
            lambda call=call: llm.stream("Hi", **call),
            lambda call=call: asyncio.run(llm.ainvoke("Hi", **call)),
            lambda call=call: llm.generate(["Hi"], **call),
        ):
            with pytest.raises(InvalidArgument, match="use ChatLinAlign"):
                attempt()
    assert llm.invoke("Hi", tools=[], tool_choice=None)
