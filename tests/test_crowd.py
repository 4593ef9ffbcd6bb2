"""Many requests at once: each answers as if alone, waits its turn, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import mmap
import operator
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from models import VOCAB, model, same, tokenizer
from transformers import MambaConfig, MambaForCausalLM

from linalign_integrations import Engine, Preferences, Principle, SamplingParams
from linalign_integrations.engine import prefixes, reading, rows, scheduler
from linalign_integrations.engine.generation import AsyncGeneration
from linalign_integrations.engine.grammar import Grammar
from linalign_integrations.engine.prefixes import PrefixStore
from linalign_integrations.errors import (
    EngineClosed,
    GenerationFailed,
    GenerationTimeout,
    QueueFull,
    RequestTooLarge,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

    from linalign_integrations.engine import Result
    from linalign_integrations.engine.grammar import Constraint

# So long nothing here takes; whatever does would never end.
DEADLINE = 120.0
# How many rows a request has that wants these.
PRINCIPLES: dict[int, tuple[str | Principle, ...]] = {
    1: (),
    2: ("Be brief.", "Be kind."),
    3: (Principle("Be brief.", 2.0), Principle("Be formal.", -0.5)),
    5: (Principle("Be brief.", 2.0), Principle("Be kind.", 1.0), Principle("Be formal.", -0.5)),
}
WORDS = ("it", "was", "the", "other", "rain", "in", "north", "and", "then", "a", "long", "her")
NOTHING_SPECIAL = Preferences()
TWENTY = SamplingParams(seed=3, max_tokens=20)
# Of the tiny models: two layers, keys and values, two heads of eight numbers of four bytes.
POSITION_BYTES = 2 * 2 * 2 * 8 * 4


class Script:
    """A grammar that says for each place of an answer what may stand there.

    Args:
        places: for each the tokens that are allowed, or None for all.
        tells: whether it says so where only one is.
    """

    def __init__(self, places: Sequence[Sequence[int] | None], *, tells: bool = True) -> None:
        self.places = places
        self.tells = tells
        self.at = 0

    @property
    def finished(self) -> bool:
        return self.at == len(self.places)

    def mask(self) -> torch.Tensor:
        place = self.places[self.at]
        if place is None:
            return torch.ones(VOCAB, dtype=torch.bool)
        mask = torch.zeros(VOCAB, dtype=torch.bool)
        mask[list(place)] = True
        return mask

    def advance(self, token_id: int) -> None:
        place = self.places[self.at]
        assert place is None or token_id in place
        self.at += 1

    def forced(self) -> tuple[int, ...]:
        told: list[int] = []
        for place in self.places[self.at :] if self.tells else ():
            if place is None or len(place) != 1:
                break
            told += place
        return tuple(told)


def spelt(text: str) -> list[list[int]]:
    """Places where only this text may stand."""
    return [[int(token)] for token in tokenizer().encode(text, add_special_tokens=False)]


def among(letters: str) -> list[int]:
    """The tokens of single characters."""
    return [tokenizer().convert_tokens_to_ids(letter) for letter in letters]


LETTERS = among("abcdefghijklmnopqrstuvwxyz")
NUMBERS = among("0123456789")
PERSON = [*spelt('{"name": "'), *[LETTERS] * 5, *spelt('", "age": '), *[NUMBERS] * 2, *spelt("}")]
CODE = [*[LETTERS] * 3, *spelt("-"), *[NUMBERS] * 3, *spelt("-"), *[LETTERS] * 4]
SCHEMA = Grammar.json_schema(
    {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Bergen"]}, "wet": {"type": "boolean"}},
        "required": ["city", "wet"],
        "additionalProperties": False,
    }
)


def person(*, tells: bool = True) -> Script:
    return Script(PERSON, tells=tells)


def code() -> Script:
    return Script(CODE)


def schema() -> Grammar:
    return SCHEMA


def free() -> None:
    return None


@dataclass(frozen=True)
class Ask:
    """A request, and after how many pieces whoever asks goes away."""

    messages: str = "Hi"
    preferences: Preferences = NOTHING_SPECIAL
    sampling: SamplingParams = TWENTY
    grammar: Callable[[], Grammar | Constraint | None] = free
    user: str | None = None
    leaves_after: int | None = None

    def but(self, **fields: object) -> Ask:
        """The same with other sampling."""
        return replace(self, sampling=self.sampling.model_copy(update=fields))

    def terms(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "preferences": self.preferences,
            "sampling": self.sampling,
            "grammar": self.grammar(),
            "user": self.user,
            # So that a request which is forgotten fails the test instead of holding it up.
            "timeout": DEADLINE,
        }


# What an answer is made of, whatever rounding did to its numbers.
Said = list[tuple[str, tuple[int, ...], str | None]]


def said(engine: Engine, ask: Ask) -> Said:
    """The pieces of an answer as far as they are waited for."""
    stream = engine.stream(**ask.terms())
    pieces: Said = []
    for piece in stream:
        pieces.append((piece.text, piece.token_ids, piece.finish_reason))
        if len(pieces) == ask.leaves_after:
            stream.close()
    return pieces


async def said_later(engine: Engine, ask: Ask) -> Said:
    """``said`` for an event loop."""
    stream = engine.astream(**ask.terms())
    pieces: Said = []
    async for piece in stream:
        pieces.append((piece.text, piece.token_ids, piece.finish_reason))
        if len(pieces) == ask.leaves_after:
            await stream.aclose()
    return pieces


def tokens_of(pieces: Said) -> list[int]:
    return [token for _, token_ids, _ in pieces for token in token_ids]


def answers(engine: Engine, asks: Sequence[Ask], threads: int = 20) -> list[Said]:
    """What is said when all ask at once."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(functools.partial(said, engine), asks))


def until(happens: Callable[[], object]) -> None:
    """Waits for what happens in another thread."""
    deadline = time.monotonic() + DEADLINE
    while not happens():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


async def until_later(happens: Callable[[], object]) -> None:
    """``until`` for an event loop."""
    deadline = time.monotonic() + DEADLINE
    while not happens():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.001)


def left_behind(engine: Engine) -> bool:
    """Whether the engine still has rows, requests or a thread."""
    threads = [one for one in threading.enumerate() if one.name == "linalign"]
    return bool(threads) or not engine._scheduler.idle


def waiting(engine: Engine) -> int:
    return sum(map(len, engine._scheduler._lines.values()))


def arrived(engine: Engine) -> int:
    """How many requests the engine has, waiting or not."""
    return waiting(engine) + len(engine._scheduler._seated)


class Watched:
    """A model of its own whose passes are told, held up or spoilt.

    Attributes:
        passes: for each pass the tokens that each row read.
        spoil: is called with all of these before each pass.
    """

    def __init__(self, watched: PreTrainedModel | None = None) -> None:
        self.model = copy.deepcopy(watched or model())
        self.passes: list[list[list[int]]] = []
        self.spoil: Callable[[torch.Tensor], object] = free_of_faults
        self._may_go = threading.Event()
        self._may_go.set()
        self._stands = threading.Event()
        forward = self.model.forward

        @functools.wraps(forward)
        def run(*args: torch.Tensor, **kwargs: Any) -> object:
            token_ids = args[0] if args else kwargs["input_ids"]
            if not self._may_go.is_set():
                self._stands.set()
                assert self._may_go.wait(DEADLINE)
            self.passes.append(by_row(token_ids, kwargs.get("cache")))
            self.spoil(token_ids)
            return forward(*args, **kwargs)

        self.model.forward = run

    def engine(self, **limits: Any) -> Engine:
        made = Engine(self.model, tokenizer(), model_id="tiny-watched", **limits)
        made._end_tokens = frozenset()
        self.passes.clear()
        return made

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, a pass that begins stands still."""
        self._stands.clear()
        self._may_go.clear()
        try:
            yield
        finally:
            self._may_go.set()

    @property
    def stands(self) -> bool:
        """Whether a pass is held up."""
        return self._stands.is_set()

    @property
    def read(self) -> int:
        """Tokens that were read since ``passes`` was last cleared."""
        return sum(len(row) for one in self.passes for row in one)


def by_row(token_ids: torch.Tensor, cache: object) -> list[list[int]]:
    """The tokens of a pass, in which those of all rows stand one behind the other."""
    if not isinstance(cache, rows.Rows) or cache._pass is None:
        return token_ids.tolist()
    last = cache._pass.last.tolist()
    begins = [0, *(end + 1 for end in last[:-1])]
    tokens = token_ids[0].tolist()
    return [tokens[begin : end + 1] for begin, end in zip(begins, last, strict=True)]


def widest(one: list[list[int]]) -> int:
    """The most tokens that a row read in a pass."""
    return max(map(len, one))


def free_of_faults(token_ids: torch.Tensor) -> None:
    del token_ids


def ask_for(number: int, random_: random.Random) -> Ask:
    """A request that has hardly anything in common with the others."""
    pick = random_.choice
    wanted = PRINCIPLES[pick([1, 1, 2, 2, 3, 5])]
    return Ask(
        messages=" ".join(random_.choices(WORDS, k=pick([1, 3, 10, 40]))),
        preferences=Preferences(
            principles=wanted,
            ratio=pick([0.5, 2.0, 4.0]),
            kl_budget=pick([None, None, 0.1, 1.0]),
            plausibility=pick([0.5, 0.8, 1.0]),
            placement=pick(["system", "last_user"]),
        ),
        sampling=SamplingParams(
            temperature=pick([0, 0.7, 1.3]),
            top_p=pick([1.0, 1.0, 0.9]),
            top_k=pick([None, None, 20]),
            seed=number,
            max_tokens=random_.randint(1, 40),
            stop=pick([(), (), ("e",), ("th", "<|im_start|>")]),
        ),
        grammar=pick([free, free, free, person, code, schema]),
        user=pick([None, "ann", "bob"]),
        leaves_after=pick([None, None, None, 1, 4]),
    )


@cache
def crowd(size: int, seed: int = 0) -> tuple[Ask, ...]:
    random_ = random.Random(seed)
    return tuple(ask_for(number, random_) for number in range(size))


@cache
def lonely(kind: str = "llama") -> Engine:
    """An engine that computes everything anew, for one request at a time."""
    return Engine(model(kind), tokenizer(), model_id=f"tiny-{kind}", reuse_bytes=0)


@cache
def lonely_endless() -> Engine:
    """The same as ``Watched.engine`` computes when nothing is watched."""
    made = Engine(model(), tokenizer(), model_id="tiny-alone", reuse_bytes=0)
    made._end_tokens = frozenset()
    return made


def alone(ask: Ask) -> Said:
    return said(lonely_endless(), ask)


# --- A crowd, each as if alone ---


@pytest.mark.parametrize(
    ("kind", "size"), [("llama", 64), ("mistral", 24), ("gemma3", 24), ("gpt2", 24)]
)
def test_every_request_of_a_mixed_crowd_equals_itself_alone(kind: str, size: int) -> None:
    asks = crowd(size)
    expected = [said(lonely(kind), ask) for ask in asks]
    together = Engine(model(kind), tokenizer(), model_id=f"tiny-{kind}", max_rows=24)
    assert answers(together, asks) == expected
    until(lambda: not left_behind(together))


def test_a_crowd_holds_what_it_is_meant_to_hold() -> None:
    asks = crowd(64)
    numbers = {len(lonely().branches(one.messages, preferences=one.preferences)) for one in asks}
    assert numbers >= {1, 2, 3, 5}
    pieces = [said(lonely(), ask) for ask in asks]
    reasons = {one[-1][2] for one in pieces}
    assert reasons == {"stop", "length", None}
    assert len({tuple(tokens_of(one)) for one in pieces}) > 50


def test_requests_of_all_numbers_of_rows_join_and_leave_in_any_order() -> None:
    random_ = random.Random(5)
    asks = [
        Ask(
            messages=" ".join(random_.choices(WORDS, k=random_.randint(1, 30))),
            preferences=Preferences(principles=PRINCIPLES[random_.choice([1, 2, 3, 5])]),
            sampling=SamplingParams(seed=number, max_tokens=random_.randint(1, 25)),
        )
        for number in range(40)
    ]
    expected = list(map(alone, asks))
    for max_rows in (5, 13):
        watched = Watched()
        engine = watched.engine(max_rows=max_rows, reuse_bytes=0)
        random_.shuffle(order := list(range(len(asks))))
        got = answers(engine, [asks[place] for place in order])
        assert got == [expected[place] for place in order]
        widths = {len(one) for one in watched.passes if widest(one) == 1}
        assert max(widths) <= max_rows
        assert len(widths) > min(3, max_rows - 1)
        until(lambda engine=engine: not left_behind(engine))


def test_twenty_threads_and_two_hundred_tasks_each_get_their_own_answer_at_once() -> None:
    asks = [
        Ask(f"Number {number % 10}", sampling=SamplingParams(seed=number % 10, max_tokens=6))
        for number in range(220)
    ]
    expected = {ask: alone(ask) for ask in set(asks)}
    engine = Watched().engine()

    async def tasks() -> list[Said]:
        before = asyncio.all_tasks()
        got = await asyncio.gather(*(said_later(engine, ask) for ask in asks[20:]))
        assert asyncio.all_tasks() == before
        return got

    with ThreadPoolExecutor(21) as pool:
        later = pool.submit(asyncio.run, tasks())
        got = list(pool.map(functools.partial(said, engine), asks[:20]))
        got += later.result(DEADLINE)
    assert got == [expected[ask] for ask in asks]
    until(lambda: not left_behind(engine))


def test_answers_share_their_passes() -> None:
    watched = Watched()
    engine = watched.engine()
    asks = [Ask(text, sampling=SamplingParams(seed=1, max_tokens=40)) for text in "abcdefgh"]
    answers(engine, asks)
    assert max(len(one) for one in watched.passes) == 8
    assert len(watched.passes) < 8 * 40 / 2


def test_what_alignment_spent_is_told_as_if_alone() -> None:
    asks = [
        Ask(text, Preferences(principles=PRINCIPLES[number]), SamplingParams(seed=1, max_tokens=9))
        for text in ("Hi", "It was the rain")
        for number in PRINCIPLES
    ]
    engine = Watched().engine()
    with ThreadPoolExecutor(len(asks)) as pool:
        together = list(pool.map(lambda ask: engine.generate(**ask.terms()), asks))
    for ask, result in zip(asks, together, strict=True):
        assert same(result, lonely_endless().generate(**ask.terms()))
    assert len({round(result.kl, 3) for result in together}) == 7, "the plain ones spend nothing"


def test_requests_that_come_just_as_the_thread_goes_are_answered() -> None:
    engine = Watched().engine()
    asks = [Ask(sampling=SamplingParams(seed=number, max_tokens=1)) for number in range(5)]
    expected = list(map(alone, asks))

    def often(number: int) -> bool:
        return all(said(engine, asks[number]) == expected[number] for _ in range(60))

    for threads in (1, 2, 5):
        with ThreadPoolExecutor(threads) as pool:
            assert all(pool.map(often, range(threads)))
    until(lambda: not left_behind(engine))


# --- Faults ---


NEIGHBOURS = [
    Ask(
        messages=" ".join(WORDS[: 2 + number]),
        preferences=Preferences(principles=PRINCIPLES[[1, 2, 3, 5][number % 4]]),
        sampling=SamplingParams(seed=number, max_tokens=8 + 3 * number),
        grammar=person if number == 6 else free,
    )
    for number in range(8)
]


@cache
def undisturbed() -> tuple[list[Said], int, int]:
    """What the neighbours say when all is well, and two tokens that none of them ever reads."""
    expected = answers(Watched().engine(), NEIGHBOURS)
    seen = {token for pieces in expected for token in tokens_of(pieces)}
    for ask in NEIGHBOURS:
        for branch in lonely().branches(ask.messages, preferences=ask.preferences):
            seen.update(branch.token_ids)
    # Loading reads the first few tokens.
    first, second, *_ = sorted(set(range(10, 256)) - seen)
    return expected, first, second


def drawing(token: int, place: int = 6) -> Callable[[], Script]:
    """A grammar under which the answer holds this token at a place, and goes on after it."""
    _, _, harmless = undisturbed()
    places: list[list[int] | None] = [[harmless, *LETTERS]] * 40
    places[place] = [token]
    return lambda: Script(places, tells=False)


def victim(grammar: Callable[[], Constraint | None], **fields: Any) -> Ask:
    wanted = Preferences(principles=PRINCIPLES[3])
    return Ask(
        **{
            "messages": "Poor me",
            "preferences": wanted,
            "sampling": SamplingParams(seed=9, max_tokens=30),
            "grammar": grammar,
            **fields,
        }
    )


def spoil_numbers(watched: Watched, token: int) -> None:
    """Makes all that the model computes of this token NaN, keys and values included."""

    def poison(module: object, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        return out.masked_fill((args[0] == token)[..., None], torch.nan)

    watched.model.get_input_embeddings().register_forward_hook(poison)


def raising(error: BaseException, token: int) -> Callable[[torch.Tensor], None]:
    def spoil(token_ids: torch.Tensor) -> None:
        if bool((token_ids == token).any()):
            raise error

    return spoil


def run_beside(watched: Watched, engine: Engine, act: Callable[[], object]) -> list[Said]:
    """What the neighbours say while something happens among them; all of it runs together."""
    with ThreadPoolExecutor(len(NEIGHBOURS) + 1) as pool:
        with watched.held():
            early = [pool.submit(said, engine, ask) for ask in NEIGHBOURS[:4]]
            until(lambda: watched.stands and arrived(engine) == 4)
            disturbing = pool.submit(act)
            until(lambda: arrived(engine) == 5 or disturbing.done())
            late = [pool.submit(said, engine, ask) for ask in NEIGHBOURS[4:]]
            until(lambda: arrived(engine) >= 8 + (not disturbing.done()))
        disturbing.result(DEADLINE)
        return [one.result(DEADLINE) for one in (*early, *late)]


def assert_untouched(watched: Watched, engine: Engine, act: Callable[[], object]) -> None:
    """Neighbours of a fault, and those who come after it, are not disturbed."""
    expected, _, _ = undisturbed()
    assert run_beside(watched, engine, act) == expected
    until(lambda: not left_behind(engine))
    assert answers(engine, NEIGHBOURS) == expected
    until(lambda: not left_behind(engine))


def failing(engine: Engine, ask: Ask, words: str | None) -> Callable[[], None]:
    """Somebody whose answer fails, for this reason."""

    def act() -> None:
        with pytest.raises(GenerationFailed, match=words):
            said(engine, ask)

    return act


@pytest.mark.parametrize("reuse_bytes", [0, 10**7])
def test_numbers_that_are_not_numbers_end_one_answer_only(reuse_bytes: int) -> None:
    _, token, _ = undisturbed()
    watched = Watched()
    spoil_numbers(watched, token)
    engine = watched.engine(reuse_bytes=reuse_bytes)
    act = failing(engine, victim(drawing(token)), "no usable logits")
    assert_untouched(watched, engine, act)


def test_a_prompt_that_the_model_cannot_take_ends_one_answer_only() -> None:
    _, token, _ = undisturbed()
    text = "for a long time " * 30 + tokenizer().decode([token])
    assert token in lonely().branches(text)[0].token_ids
    for spoilt in (True, False):
        watched = Watched()
        if spoilt:
            spoil_numbers(watched, token)
        else:
            watched.spoil = raising(RuntimeError("cannot read"), token)
        engine = watched.engine()
        words = "no usable logits" if spoilt else "cannot read"
        assert_untouched(watched, engine, failing(engine, victim(free, messages=text), words))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("the model fell over"), "the model failed.*fell over"),
        (torch.OutOfMemoryError("CUDA out of memory"), "no memory for the request to grow"),
        (MemoryError(), "no memory for the request to grow"),
        (KeyError("lost"), "lost"),
    ],
)
def test_an_error_in_the_model_ends_one_answer_only(error: Exception, words: str) -> None:
    _, token, _ = undisturbed()
    watched = Watched()
    watched.spoil = raising(error, token)
    engine = watched.engine()

    def act() -> None:
        with pytest.raises(GenerationFailed, match=words) as caught:
            said(engine, victim(drawing(token)))
        assert caught.value.__cause__ is error

    assert_untouched(watched, engine, act)


def test_no_memory_to_grow_ends_the_longest_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = rows._RowLayer.grown

    def bounded(layer: Any, room: tuple[int, int], *args: int) -> object:
        if room[1] > 128:
            raise MemoryError("no more")
        return grown(layer, room, *args)

    monkeypatch.setattr(rows._RowLayer, "grown", bounded)
    # Nothing in advance: it is to fail while the others are answered.
    monkeypatch.setattr(reading, "_ROOM", 0)
    watched = Watched()
    engine = watched.engine()
    [branch] = engine.branches("x")
    text = "x" * (125 - len(branch.token_ids))
    long = victim(free, messages=text, preferences=NOTHING_SPECIAL)
    heard: list[object] = []

    def act() -> None:
        with pytest.raises(GenerationFailed, match="no memory for the request to grow"):
            heard.extend(engine.stream(**long.terms()))

    assert_untouched(watched, engine, act)
    assert 1 < len(heard) < 10


@pytest.mark.parametrize("known", [False, True])
def test_no_memory_for_a_prompt_ends_one_answer_only(
    monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    watched = Watched()
    engine = watched.engine()
    long = victim(free, messages="and so on " * 100)
    if known:
        said(engine, long)
        until(lambda: not left_behind(engine))
        # Room that is there needs no memory.
        engine._scheduler._rows = engine._scheduler._new_rows()
    grown = rows._RowLayer.grown
    fit = rows._RowLayer.fit

    def bounded(layer: Any, room: tuple[int, int], *args: int) -> object:
        if room[1] > 256:
            raise MemoryError("no more")
        return grown(layer, room, *args)

    def fitting(layer: Any, *args: Any) -> None:
        if args[-1][1] > 256:
            raise MemoryError("no more")
        fit(layer, *args)

    monkeypatch.setattr(rows._RowLayer, "grown", bounded)
    monkeypatch.setattr(rows._RowLayer, "fit", fitting)
    failing(engine, long, "no memory for the request to grow")()
    assert_untouched(watched, engine, failing(engine, long, "no memory for the request to grow"))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), OSError(12, "Cannot allocate memory")]
)
def test_no_memory_to_keep_an_answer_for_later_ends_none(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: object) -> None:
        raise error

    expected, _, _ = undisturbed()
    monkeypatch.setattr(rows.Rows, "read", read)
    watched = Watched()
    engine = watched.engine()
    assert answers(engine, NEIGHBOURS) == expected
    until(lambda: not left_behind(engine))


def test_what_is_kept_gives_way_before_any_answer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    engine = watched.engine()
    first, second = NEIGHBOURS[:2]
    said(engine, first)
    until(lambda: not left_behind(engine))
    kept = engine._scheduler._prefixes
    assert kept.size
    long = replace(second, sampling=SamplingParams(seed=5, max_tokens=120))
    expected = alone(long)
    reserve = rows.Rows.reserve

    def bounded(held: Any, positions: int) -> None:
        if kept.size and positions > 64:
            raise MemoryError("no more")
        reserve(held, positions)

    monkeypatch.setattr(rows.Rows, "reserve", bounded)
    assert said(engine, long) == expected


def test_a_system_without_large_pages_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict(mmap.mmap):
        def madvise(self, *_: object) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(rows.mmap, "mmap", Strict)
    assert answers(Watched().engine(), NEIGHBOURS) == undisturbed()[0]


def test_rows_do_not_double_beyond_the_bytes_that_they_may_hold() -> None:
    with torch.inference_mode():
        held = rows.Rows(model("llama"), max_positions=1000, max_bytes=3 * 70 * POSITION_BYTES)
        held.add(3)
        held.forward([[1], [2], [3]])
        held.extend([[1], [2], [3]])
        for positions in (40, 65, 70):
            held.reserve(positions)
        kept = [one for layer in held._rows for one in (layer.keys, layer.values)]
        assert sum(one.nbytes for one in kept) <= 3 * 70 * POSITION_BYTES


class Faulty(Script):
    """A grammar that does wrong after a few tokens."""

    def __init__(self, part: str, value: Any) -> None:
        super().__init__([None] * 40)
        self.part = part
        self.value = value

    def wrong(self, part: str) -> bool:
        if part != self.part or self.at < 5:
            return False
        if isinstance(self.value, Exception):
            raise self.value
        return True

    @property
    def finished(self) -> bool:
        self.wrong("finished")
        return super().finished

    def mask(self) -> Any:
        return self.value if self.wrong("mask") else super().mask()

    def advance(self, token_id: int) -> None:
        self.wrong("advance")
        super().advance(token_id)

    def forced(self) -> tuple[int, ...]:
        return self.value if self.wrong("forced") else super().forced()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("mask", ValueError("at a loss")),
        ("mask", torch.zeros(VOCAB, dtype=torch.bool)),
        ("mask", torch.ones(VOCAB - 7, dtype=torch.bool)),
        ("mask", torch.ones(VOCAB)),
        ("mask", [True] * VOCAB),
        ("mask", None),
        ("advance", ValueError("at a loss")),
        ("forced", ValueError("at a loss")),
        ("forced", None),
        ("forced", (VOCAB + 5, 1)),
        ("finished", ValueError("at a loss")),
    ],
    ids=str,
)
@pytest.mark.parametrize("number", [1, 3])
def test_a_grammar_that_fails_ends_one_answer_only(part: str, value: Any, number: int) -> None:
    watched = Watched()
    engine = watched.engine()
    poor = victim(
        lambda: Faulty(part, value), preferences=Preferences(principles=PRINCIPLES[number])
    )
    words = "at a loss" if isinstance(value, Exception) else None
    assert_untouched(watched, engine, failing(engine, poor, words))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_is_forked_off_answers_for_itself() -> None:
    watched = Watched()
    engine = watched.engine()
    ask = NEIGHBOURS[1]
    expected = said(engine, ask)
    stream = engine.stream(**ask.terms())
    first = next(stream)
    with watched.held():
        until(lambda: watched.stands)
        if (child := os.fork()) == 0:
            wrong = 1
            try:
                signal.alarm(int(DEADLINE))
                watched._may_go.set()
                with pytest.raises(GenerationFailed, match="forked"):
                    list(stream)
                wrong = int(said(engine, ask) != expected or engine._scheduler._closed)
            finally:
                os._exit(wrong)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "".join(one.text for one in (first, *stream)) == "".join(one[0] for one in expected)


FORKING = """
import os, signal, torch
from linalign_integrations import Engine, SamplingParams
torch.set_num_threads(2)
engine = Engine.load("pocket")
if (child := os.fork()) == 0:
    signal.alarm(60)
    engine.generate("Hi", sampling=SamplingParams(max_tokens=2))
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_is_forked_off_right_after_loading_answers() -> None:
    # By itself: here one thread computes, and nobody has a team to wait for.
    done = subprocess.run([sys.executable, "-c", FORKING], timeout=DEADLINE, check=False)  # noqa: S603
    assert done.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_is_forked_off_writes_in_rows_of_its_own() -> None:
    with torch.inference_mode():
        held = rows.Rows(model("llama"), max_positions=64)
        held.add(1)
        held.forward([[1, 2, 3]])
        held.extend([[1, 2, 3]])
        before = held.read(0)
        if (child := os.fork()) == 0:
            held.drop(1)
            os._exit(0)
        os.waitpid(child, 0)
        after = held.read(0)
    for one, other in zip(chain(*before), chain(*after), strict=True):
        assert one.any()
        assert torch.equal(one, other)


def test_whoever_forgets_or_closes_an_answer_disturbs_nobody() -> None:
    watched = Watched()
    engine = watched.engine()
    long = victim(free, sampling=SamplingParams(seed=2, max_tokens=900))

    def forget() -> None:
        stream = engine.stream(**long.terms())
        next(stream)
        del stream
        gc.collect()

    def close() -> None:
        stream = engine.stream(**long.terms())
        next(stream)
        stream.close()
        assert list(stream) == []

    def cancel() -> None:
        async def listen() -> None:
            async for _ in engine.astream(**long.terms()):
                begun.set()

        async def main() -> None:
            task = asyncio.create_task(listen())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        begun = asyncio.Event()
        asyncio.run(main())

    def lose_the_loop() -> None:
        async def main() -> None:
            await anext(stream)

        stream = engine.astream(**long.terms())
        asyncio.run(main())
        # The stream is still held, but its loop is closed: nobody can ever read on.
        until(lambda: stream._request.cancelled)

    for act in (forget, close, cancel, lose_the_loop):
        watched.passes.clear()
        assert_untouched(watched, engine, act)
        assert len(watched.passes) < 800, "it was answered to its end"


def test_whoever_reads_slowly_disturbs_nobody_and_loses_nothing() -> None:
    watched = Watched()
    engine = watched.engine()
    slow = victim(free)
    expected, _, _ = undisturbed()
    got: Said = []
    stream = engine.stream(**slow.terms())

    def begin() -> None:
        piece = next(stream)
        got.append((piece.text, piece.token_ids, piece.finish_reason))

    assert run_beside(watched, engine, begin) == expected
    until(lambda: not left_behind(engine))
    got += [(piece.text, piece.token_ids, piece.finish_reason) for piece in stream]
    assert got == alone(slow)


def test_a_model_that_runs_row_by_row_is_shared_in_the_same_way() -> None:
    torch.manual_seed(5)
    config = MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4)
    watched = Watched(MambaForCausalLM(config).eval())
    with torch.no_grad():
        watched.model.get_output_embeddings().weight.mul_(40)
    with pytest.warns(UserWarning, match="row by row"):
        engine = watched.engine(max_rows=9)
    expected = [said(engine, ask) for ask in NEIGHBOURS]
    _, token, _ = undisturbed()
    error = RuntimeError("fell over")
    watched.spoil = raising(error, token)

    def act() -> None:
        with pytest.raises(GenerationFailed, match="fell over") as caught:
            said(engine, victim(drawing(token)))
        assert caught.value.__cause__ is error

    assert not any(token in tokens_of(pieces) for pieces in expected)
    assert run_beside(watched, engine, act) == expected
    until(lambda: not left_behind(engine))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (scheduler.Scheduler, "_next_request"),
        (scheduler.Scheduler, "_has_room"),
        (scheduler.Scheduler, "_known"),
        (scheduler.Scheduler, "_next_pieces"),
        (scheduler.Scheduler, "_step"),
        (scheduler.Scheduler, "_leave"),
        (scheduler.Scheduler, "_take"),
        (scheduler, "choose"),
        (PrefixStore, "find"),
        (PrefixStore, "told"),
        (PrefixStore, "holds"),
        (PrefixStore, "add"),
        (rows.Rows, "add"),
        (rows.Rows, "extend"),
        (rows.Rows, "drop"),
        (rows.Rows, "move"),
        (rows.Rows, "copy"),
        (rows.Rows, "put"),
    ],
)
def test_after_a_fault_of_the_loop_itself_everybody_is_told_and_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    expected, _, _ = undisturbed()
    watched = Watched()
    engine = watched.engine()
    real = getattr(place, name)
    fault = ArithmeticError("a fault of the loop")
    # Few of the neighbours begin as another does.
    left = [1 if name == "put" else 3]

    def once(*args: Any, **kwargs: Any) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise fault
        return real(*args, **kwargs)

    said(engine, NEIGHBOURS[0])
    monkeypatch.setattr(place, name, once)

    def attempt(ask: Ask) -> Said | GenerationFailed:
        try:
            return said(engine, ask)
        except GenerationFailed as error:
            return error

    with ThreadPoolExecutor(len(NEIGHBOURS)) as pool:
        got = list(pool.map(attempt, NEIGHBOURS))
    assert left[0] <= 0, "it was never called"
    # Whoever is not told of the fault is not touched by it.
    for answer, whole in zip(got, expected, strict=True):
        assert answer == whole or answer.__cause__ is fault  # type: ignore[union-attr]
    until(lambda: not left_behind(engine))
    assert answers(engine, NEIGHBOURS) == expected
    until(lambda: not left_behind(engine))


def test_a_row_that_held_no_numbers_serves_whoever_has_it_next() -> None:
    """One leaves in the very step that spoils another, so that what is spoilt is moved."""
    _, token, _ = undisturbed()
    watched = Watched()
    spoil_numbers(watched, token)
    engine = watched.engine(reuse_bytes=0)
    long = Ask("and so on " * 12, sampling=SamplingParams(seed=1, max_tokens=30))
    short = Ask("x", sampling=SamplingParams(seed=2, max_tokens=5))
    for leaves_at in range(8, 14):
        leaving = Ask("Hi", sampling=SamplingParams(seed=4, max_tokens=leaves_at))
        poor = failing(engine, victim(drawing(token), messages="so long " * 6), "no usable logits")
        for crowd_ in ([leaving], [leaving, long]):
            with ThreadPoolExecutor(3) as pool:
                with watched.held():
                    told = [pool.submit(said, engine, ask) for ask in crowd_]
                    until(lambda: watched.stands)
                    failed = pool.submit(poor)
                    until(lambda others=crowd_: arrived(engine) == 1 + len(others))
                failed.result(DEADLINE)
                assert [one.result(DEADLINE) for one in told] == list(map(alone, crowd_))
        after = [long, *[short] * 6]
        assert answers(engine, after) == list(map(alone, after))


@pytest.mark.parametrize("seed", range(4))
def test_faults_and_departures_in_any_order_spoil_nobody_else(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    _, token, _ = undisturbed()
    # So small that prompts are read while others come and go.
    monkeypatch.setattr(scheduler, "_LARGEST_PIECE", 16)
    mark = tokenizer().decode([token])
    random_ = random.Random(seed)
    watched = Watched()
    spoil_numbers(watched, token)
    engine = watched.engine(max_rows=12, reuse_bytes=random_.choice([0, 10**6]))
    asks, poor = [], set()
    for number in range(48):
        wanted = Preferences(principles=PRINCIPLES[random_.choice([1, 1, 2, 3, 5])])
        text = " ".join(random_.choices(WORDS, k=random_.choice([1, 2, 30])))
        sampling = SamplingParams(seed=number, max_tokens=random_.randint(2, 30))
        grammar: Callable[[], Constraint | None] = free
        kind = random_.random()
        if kind < 0.2:
            text, sampling = f"{mark} {text}", sampling.model_copy(update={"max_tokens": 40})
            poor.add(number)
        elif kind < 0.4:
            grammar = drawing(token, random_.randint(1, 12))
            sampling = sampling.model_copy(update={"max_tokens": 30})
            poor.add(number)
        leaves = None if number in poor else random_.choice([None, None, 1, 5])
        ask = Ask(text, wanted, sampling, grammar, leaves_after=leaves)
        while number not in poor and token in tokens_of(alone(ask)):
            ask = ask.but(seed=random_.randrange(1000))
        asks.append(ask)

    def attempt(ask: Ask) -> Said | None:
        try:
            return said(engine, ask)
        except GenerationFailed:
            return None

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(attempt, asks))
    expected = [None if number in poor else alone(ask) for number, ask in enumerate(asks)]
    assert got == expected
    until(lambda: not left_behind(engine))


# --- The queue ---


def noting(name: object, order: list[object]) -> Callable[[], Script]:
    """A grammar that allows everything and notes when its answer begins."""

    class Noting(Script):
        def mask(self) -> torch.Tensor:
            if self.at == 0:
                order.append(name)
            return super().mask()

    return lambda: Noting([None] * 2)


async def order_of(engine: Engine, watched: Watched, users: Sequence[str | None]) -> list[object]:
    """In which order requests of these users begin that come in this order."""
    order: list[object] = []
    with watched.held():
        tasks = [asyncio.create_task(said_later(engine, Ask(user="first")))]
        await until_later(lambda: watched.stands)
        for number, user in enumerate(users):
            ask = Ask(grammar=noting((user, number), order), user=user)
            tasks.append(asyncio.create_task(said_later(engine, ask)))
        await until_later(lambda: waiting(engine) == len(users))
    await asyncio.gather(*tasks)
    return order


async def test_whoever_comes_first_is_served_first() -> None:
    watched = Watched()
    engine = watched.engine(max_rows=1)
    order = await order_of(engine, watched, [None] * 9)
    assert order == [(None, number) for number in range(9)]


async def test_users_take_turns_so_that_none_starves_the_rest() -> None:
    watched = Watched()
    engine = watched.engine(max_rows=1)
    order = await order_of(engine, watched, ["ann"] * 5 + ["bob", None, "bob"])
    assert order == [
        ("ann", 0),
        ("bob", 5),
        (None, 6),
        ("ann", 1),
        ("bob", 7),
        ("ann", 2),
        ("ann", 3),
        ("ann", 4),
    ]


async def test_a_large_request_is_not_overtaken_for_ever_by_small_ones() -> None:
    watched = Watched()
    engine = watched.engine(max_rows=5)
    order: list[object] = []
    small = [Ask(str(n), grammar=noting(n, order), user="ann") for n in range(9)]
    large = Ask(
        preferences=Preferences(principles=PRINCIPLES[5]), grammar=noting("large", order), user="b"
    )
    with watched.held():
        tasks = [asyncio.create_task(said_later(engine, ask)) for ask in small]
        await until_later(lambda: watched.stands and arrived(engine) == 9)
        tasks.append(asyncio.create_task(said_later(engine, large)))
        await until_later(lambda: arrived(engine) == 10)
    await asyncio.gather(*tasks)
    assert order.index("large") <= 6, "more went first than had rows, and one from the same queue"


async def one_running_and_three_waiting(
    watched: Watched, engine: Engine
) -> list[asyncio.Task[Result]]:
    """Requests of an engine that is held."""
    tasks = [asyncio.create_task(engine.agenerate("Hi", sampling=Ask().sampling))]
    await until_later(lambda: watched.stands)
    tasks += [
        asyncio.create_task(engine.agenerate("Hi", sampling=Ask().sampling)) for _ in range(3)
    ]
    await until_later(lambda: waiting(engine) == 3)
    return tasks


async def test_a_full_queue_says_how_long_it_is_and_takes_requests_again_when_it_is_not() -> None:
    watched = Watched()
    engine = watched.engine(max_rows=1, max_waiting=3)
    with watched.held():
        tasks = await one_running_and_three_waiting(watched, engine)
        with pytest.raises(QueueFull, match="3 requests wait already") as caught:
            await engine.agenerate("Hi")
        assert caught.value.waiting == 3
        with pytest.raises(QueueFull):
            engine.generate("Hi")
        # One that is given up makes room for another at once.
        tasks.pop().cancel()
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(engine.agenerate("Hi", sampling=Ask().sampling)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await engine.agenerate("Hi")
    results = await asyncio.gather(*tasks)
    assert len({result.token_ids for result in results}) == 1
    await until_later(lambda: not left_behind(engine))


async def test_requests_that_come_at_once_do_not_wait_while_there_are_rows() -> None:
    watched = Watched()
    engine = watched.engine(max_rows=4, max_waiting=1)
    with watched.held():
        tasks = await one_running_and_three_waiting(watched, engine)
        with pytest.raises(QueueFull):
            await engine.agenerate("Hi")
    results = await asyncio.gather(*tasks)
    assert len({result.token_ids for result in results}) == 1
    await until_later(lambda: not left_behind(engine))


async def test_whoever_fills_the_queue_alone_shuts_nobody_out() -> None:
    watched = Watched()
    engine = watched.engine(max_rows=1, max_waiting=3)

    def ask(user: str | None) -> asyncio.Task[Result]:
        return asyncio.create_task(engine.agenerate("Hi", sampling=Ask().sampling, user=user))

    with watched.held():
        tasks = {"first": ask(None)}
        await until_later(lambda: watched.stands)
        tasks |= {name: ask("ann") for name in ("ann 1", "ann 2", "ann 3")}
        await until_later(lambda: waiting(engine) == 3)
        tasks["bob"] = ask("bob")
        with pytest.raises(QueueFull, match="3 requests wait already"):
            await asyncio.wait_for(tasks.pop("ann 3"), DEADLINE)
        # Where all lines are as long, and for ann herself, the queue is as full as before.
        tasks["eve"] = ask("eve")
        with pytest.raises(QueueFull):
            await asyncio.wait_for(tasks.pop("ann 2"), DEADLINE)
        for user in ("ann", "bob", "carl"):
            with pytest.raises(QueueFull):
                await asyncio.wait_for(ask(user), DEADLINE)
        assert waiting(engine) == 3
    results = await asyncio.gather(*tasks.values())
    assert len({result.token_ids for result in results}) == 1
    await until_later(lambda: not left_behind(engine))


def test_a_request_that_never_fits_is_refused_and_one_that_just_fits_is_not() -> None:
    three = Preferences(principles=PRINCIPLES[3])
    with pytest.raises(RequestTooLarge, match="needs 3 rows, the engine has 2"):
        Watched().engine(max_rows=2).generate("Hi", preferences=three)
    longest = max(len(one.token_ids) for one in lonely().branches("Hi", preferences=three))
    exact = 3 * (longest + 20) * POSITION_BYTES
    ask = Ask(preferences=three)
    with pytest.raises(RequestTooLarge, match="lower max_tokens"):
        said(Watched().engine(max_bytes=exact - 1), ask)
    engine = Watched().engine(max_bytes=exact)
    assert said(engine, ask) == alone(ask)
    until(lambda: not left_behind(engine))


@pytest.mark.parametrize("limit", ["rows", "bytes"])
def test_no_more_runs_together_than_the_engine_has_room_for(limit: str) -> None:
    ask = Ask(sampling=SamplingParams(seed=1, max_tokens=12))
    positions = len(lonely().branches("Hi")[0].token_ids) + 12
    room = {"rows": {"max_rows": 3}, "bytes": {"max_bytes": 3 * positions * POSITION_BYTES}}
    watched = Watched()
    engine = watched.engine(**room[limit])
    assert answers(engine, [ask] * 12) == [alone(ask)] * 12
    assert max(len(one) for one in watched.passes) == 3


# --- What was read before ---


def in_common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return len(list(takewhile(bool, map(operator.eq, first, second))))


def test_what_is_reused_changes_no_answer() -> None:
    random_ = random.Random(2)
    plain, reusing = lonely_endless(), Watched().engine(reuse_bytes=10**7)
    for number in range(12):
        wanted = Preferences(
            principles=PRINCIPLES[random_.choice([1, 2, 3, 5])], placement="last_user"
        )
        messages = [{"role": "user", "content": "It was " + "a long " * random_.randint(0, 9)}]
        for turn in range(3):
            sampling = SamplingParams(seed=number, max_tokens=random_.randint(1, 20))
            terms: dict[str, Any] = {"preferences": wanted, "sampling": sampling}
            first = plain.generate(messages, **terms)
            second = reusing.generate(messages, **terms, user=random_.choice(["ann", "bob"]))
            assert (first.token_ids, first.text) == (second.token_ids, second.text)
            assert first.usage.reused_tokens == 0
            messages += [
                {"role": "assistant", "content": first.text},
                {"role": "user", "content": f"And {turn}?"},
            ]


def test_a_next_turn_reads_only_what_is_new() -> None:
    watched = Watched()
    engine = watched.engine()
    first = [{"role": "user", "content": "and so on " * 20}]
    # Digits are never merged with others, so that the answer comes back in the tokens drawn.
    told = engine.generate(first, grammar=Script([NUMBERS] * 8), user="ann")
    again = [
        *first,
        {"role": "assistant", "content": told.text},
        {"role": "user", "content": "And?"},
    ]
    watched.passes.clear()
    sampling = SamplingParams(seed=1, max_tokens=9)
    result = engine.generate(again, sampling=sampling, user="ann")
    # The last token of an answer is drawn and never read.
    assert result.usage.reused_tokens == told.usage.prompt_tokens + 7
    assert watched.read == result.usage.prompt_tokens - result.usage.reused_tokens + 8
    assert result.token_ids == lonely_endless().generate(again, sampling=sampling).token_ids


def test_what_the_branches_have_in_common_is_read_once() -> None:
    watched = Watched()
    engine = watched.engine(reuse_bytes=0)
    wanted = Preferences(principles=PRINCIPLES[5], placement="last_user")
    ask = Ask("and so on " * 30, wanted, SamplingParams(seed=1, max_tokens=1))
    assert said(engine, ask) == alone(ask)
    longest = max(len(b.token_ids) for b in engine.branches(ask.messages, preferences=wanted))
    assert watched.read < 1.5 * longest


def test_what_another_user_sent_saves_time_and_is_not_told() -> None:
    watched = Watched()
    engine = watched.engine()
    text = "and so on " * 30
    sampling = SamplingParams(seed=1, max_tokens=3)

    def ask(user: str | None, messages: str = text) -> Result:
        watched.passes.clear()
        return engine.generate(messages, sampling=sampling, user=user)

    first = ask("ann")
    assert first.usage.reused_tokens == 0
    prompt = first.usage.prompt_tokens
    assert watched.read > prompt
    for stranger in ("bob", None):
        result = ask(stranger)
        assert watched.read < prompt / 2, "it was read again"
        assert result.usage.reused_tokens == 0
        assert (result.token_ids, result.text) == (first.token_ids, first.text)
    for known in ("ann", "bob", None):
        assert ask(known).usage.reused_tokens == prompt - 1


@pytest.mark.parametrize("start", ["It was", "It was the rain in the north"])
@pytest.mark.parametrize("others", [False, True])
def test_who_sent_a_start_only_is_told_of_no_more(start: str, *, others: bool) -> None:
    """Whatever strangers sent, the number is the same as without them."""
    engine = Watched().engine()
    sampling = SamplingParams(seed=1, max_tokens=1)
    whole = f"{start} and so on for a long time"
    engine.generate(start, sampling=sampling, user="bob")
    if others:
        engine.generate(whole, sampling=sampling, user="ann")
    told = engine.generate(whole, sampling=sampling, user="bob").usage.reused_tokens
    [first], [second] = (engine.branches(text) for text in (start, whole))
    shared = in_common(first.token_ids, second.token_ids)
    assert told == (shared if shared >= prefixes.WORTHWHILE else 0)


@pytest.mark.parametrize("others", [False, True])
def test_what_strangers_kept_from_being_forgotten_is_not_told(*, others: bool) -> None:
    """Whoever fills the store can tell from it that somebody sent the same as before."""
    beginning = "It was the rain, and "
    texts = {name: beginning + f"{name} " * 40 for name in "ABC"}
    size = len(lonely().branches(texts["A"])[0].token_ids) * POSITION_BYTES
    engine = Watched().engine(reuse_bytes=int(2.5 * size))
    sampling = SamplingParams(seed=1, max_tokens=1)

    def told(name: str, user: str) -> int:
        return engine.generate(texts[name], sampling=sampling, user=user).usage.reused_tokens

    told("A", "eve")
    told("B", "eve")
    if others:
        told("A", "bob")
    told("C", "eve")
    whole = len(lonely().branches(texts["A"])[0].token_ids)
    assert told("A", "eve") < whole / 2


def test_what_others_go_on_with_makes_no_user_forget() -> None:
    """Each turn of a conversation takes the place of the one before."""
    beginning = "It was the rain, and "
    size = len(lonely().branches(beginning + "A " * 40)[0].token_ids) * POSITION_BYTES
    engine = Watched().engine(reuse_bytes=6 * size)
    sampling = SamplingParams(seed=1, max_tokens=1)
    engine.generate(beginning + "A " * 40, sampling=sampling, user="ann")
    talk = [{"role": "user", "content": "so on " * 40}]
    for _ in range(12):
        engine.generate(talk, sampling=sampling, user="bob")
        talk += [{"role": "assistant", "content": "and"}, {"role": "user", "content": "on"}]
    told = engine.generate(beginning + "A " * 40, sampling=sampling, user="ann").usage
    assert told.reused_tokens == told.prompt_tokens - 1


def test_the_least_recently_used_gives_way_within_the_limit() -> None:
    # All begin alike, which must not count as use of them all.
    beginning = "It was the rain, and "
    texts = {name: beginning + f"{name} " * 40 for name in "ABC"}
    size = len(lonely().branches(texts["A"])[0].token_ids) * POSITION_BYTES
    engine = Watched().engine(reuse_bytes=int(2.5 * size))
    store = engine._scheduler._prefixes
    sampling = SamplingParams(seed=1, max_tokens=1)

    def reused(name: str) -> bool:
        usage = engine.generate(texts[name], sampling=sampling, user="ann").usage
        assert store.size <= 2.5 * size
        return usage.reused_tokens > len(beginning) + 40

    assert [reused(name) for name in "ABACAB"] == [False, False, True, False, True, False]
    assert sum(entry.size for entry in store._entries.values()) == store.size
    nothing = Watched().engine(reuse_bytes=0)
    assert [nothing.generate("Hi", user="ann").usage.reused_tokens for _ in range(2)] == [0, 0]
    assert nothing._scheduler._prefixes.size == 0


def test_the_store_finds_and_tells_what_a_plain_search_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefixes, "WORTHWHILE", 1)
    random_ = random.Random(3)
    store = PrefixStore(10**9)
    sent: dict[str, list[list[int]]] = {"ann": [], "bob": []}
    for _ in range(300):
        ids = random_.choices([1, 2], k=random_.randint(1, 8))
        user = random_.choice(list(sent))
        shared = {
            name: max((in_common(ids, one) for one in known), default=0)
            for name, known in sent.items()
        }
        length, layers = store.find(ids)
        assert length == max(shared.values())
        assert not length or layers[0][0].tolist()[:length] == ids[:length]
        assert store.told(ids, user) == shared[user]
        assert store.told(ids, "eve") == 0
        if not store.holds(ids, user):
            store.add(ids, [(torch.tensor(ids), torch.tensor(ids))], user)
        sent[user].append(ids)


def test_a_prompt_that_is_being_answered_is_not_read_again() -> None:
    watched = Watched()
    engine = watched.engine(reuse_bytes=0)
    ask = Ask("and so on " * 30, sampling=SamplingParams(seed=1, max_tokens=30))
    later = ask.but(seed=2)
    with ThreadPoolExecutor(2) as pool:
        with watched.held():
            first = pool.submit(said, engine, ask)
            until(lambda: watched.stands)
            second = pool.submit(said, engine, later)
            until(lambda: waiting(engine) == 1)
        assert first.result(DEADLINE) == alone(ask)
        assert second.result(DEADLINE) == alone(later)
    read = sum(widest(one) for one in watched.passes if widest(one) > 1)
    assert read < 1.5 * len(engine.branches(ask.messages)[0].token_ids)


# --- Grammars ---


@pytest.mark.parametrize("number", PRINCIPLES)
@pytest.mark.parametrize("placement", ["system", "last_user"])
def test_what_a_grammar_forces_is_read_and_not_drawn_and_the_answer_is_the_same(
    number: int, placement: Any
) -> None:
    wanted = Preferences(principles=PRINCIPLES[number], placement=placement)
    watched = Watched()
    engine = watched.engine(reuse_bytes=0)
    ask = Ask("Who?", wanted, SamplingParams(seed=6, max_tokens=60))
    told = said(engine, replace(ask, grammar=person))
    passes = len(watched.passes)
    watched.passes.clear()
    assert said(engine, replace(ask, grammar=lambda: person(tells=False))) == told
    assert len(tokens_of(told)) == len(PERSON)
    assert passes < len(watched.passes) * 2 / 3
    text = "".join(piece for piece, _, _ in told)
    assert text.startswith('{"name": "')
    assert text.endswith("}")


@pytest.mark.parametrize("fields", [{"max_tokens": 4}, {"max_tokens": 18}, {"stop": "age"}])
def test_an_answer_may_end_within_what_a_grammar_forces(fields: dict[str, Any]) -> None:
    wanted = Preferences(principles=PRINCIPLES[2])
    ask = Ask("Who?", wanted, SamplingParams(**{"seed": 6, "max_tokens": 60, **fields}))
    watched = Watched()
    engine = watched.engine()
    told = said(engine, replace(ask, grammar=person))
    until(lambda: not left_behind(engine))
    assert len(watched.passes) <= len(tokens_of(told))
    assert told == said(engine, replace(ask, grammar=lambda: person(tells=False)))
    assert told[-1][2] == ("stop" if "stop" in fields else "length")
    result = engine.generate(**replace(ask, grammar=person).terms())
    assert result.usage.completion_tokens == len(tokens_of(told))
    assert "age" not in result.text
    until(lambda: not left_behind(engine))


def test_an_answer_may_be_forced_from_its_beginning_to_its_end() -> None:
    ask = Ask(grammar=lambda: Script(spelt("Yes, it is.")))
    engine = Watched().engine()
    neighbours = answers(engine, [ask, NEIGHBOURS[1], ask, NEIGHBOURS[3]])
    expected, _, _ = undisturbed()
    assert neighbours[1::2] == [expected[1], expected[3]]
    for told in neighbours[::2]:
        assert "".join(text for text, _, _ in told) == "Yes, it is."
        assert told[-1][2] == "stop"


@pytest.mark.parametrize("number", PRINCIPLES)
@pytest.mark.parametrize(
    "fields", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0.01}, {"temperature": 2.0}]
)
def test_what_is_plausible_never_makes_a_grammar_unsatisfiable(
    number: int, fields: dict[str, Any]
) -> None:
    random_ = random.Random(4)
    # One token in twenty: as a rule none that the model would say.
    places = [random_.sample(range(256), 13) for _ in range(20)]
    wanted = Preferences(principles=PRINCIPLES[number], plausibility=1e-6)
    ask = Ask(
        preferences=wanted,
        sampling=SamplingParams(seed=3, max_tokens=20, **fields),
        grammar=lambda: Script(places),
    )
    told = said(Watched().engine(), ask)
    assert all(token in place for token, place in zip(tokens_of(told), places, strict=True))


# --- Prompts that are read while others run ---


def clocked(
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    *,
    per_token: float,
    per_row: float = 0.0,
) -> Engine:
    """An engine that keeps nothing, and whose passes take a unit of time and so much more each."""
    now = [0.0]
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    engine = watched.engine(reuse_bytes=0)

    def take_time(token_ids: torch.Tensor) -> None:
        now[0] += 1 + len(watched.passes[-1]) * per_row + token_ids.shape[1] * per_token

    watched.spoil = take_time
    return engine


def test_a_long_prompt_does_not_hold_up_those_who_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched()
    engine = clocked(watched, monkeypatch, per_token=1 / 50)
    running = Ask("Hi", sampling=SamplingParams(seed=1, max_tokens=400))
    long = Ask("for a " * 400, sampling=SamplingParams(seed=2, max_tokens=2))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(said, engine, running)
        until(lambda: len(watched.passes) > 20)
        with watched.held():
            until(lambda: watched.stands)
            second = pool.submit(said, engine, long)
            until(lambda: waiting(engine) == 1)
        assert second.result(DEADLINE) == alone(long)
        assert first.result(DEADLINE) == alone(running)
    shapes = [(len(one), widest(one)) for one in watched.passes]
    pieces = [place for place, (_, width) in enumerate(shapes) if width > 1]
    begun, read = pieces[1], pieces[-1]
    assert read - begun > 10
    steps = [[len(tokens) for tokens in one] for one in watched.passes[begun:read]]
    assert all(one[0] == 1 for one in steps), "somebody's next token was not in every pass"
    # As long as about two steps take, but so much at a time that it goes on.
    assert max(width for _, width in shapes[begun:]) <= 110
    assert max(width for _, width in shapes[begun:]) > 16


@pytest.mark.parametrize("short", ["It was so", "for a " * 30])
def test_a_long_prompt_does_not_keep_a_short_one_from_its_first_token(
    monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    watched = Watched()
    engine = clocked(watched, monkeypatch, per_token=1 / 50)
    running = Ask("Hi", sampling=SamplingParams(seed=1, max_tokens=400))
    few = SamplingParams(seed=2, max_tokens=2)
    asks = {"long": Ask("for a " * 400, sampling=few), "short": Ask(short, sampling=few)}
    ended: list[str] = []

    def answered(name: str) -> Said:
        told = said(engine, asks[name])
        ended.append(name)
        return told

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(said, engine, running)
        until(lambda: len(watched.passes) > 20)
        with watched.held():
            until(lambda: watched.stands)
            told = [pool.submit(answered, "long")]
            until(lambda: waiting(engine) == 1)
            told.append(pool.submit(answered, "short"))
            until(lambda: waiting(engine) == 2)
        assert [one.result(DEADLINE) for one in told] == [alone(one) for one in asks.values()]
        assert first.result(DEADLINE) == alone(running)
    assert ended == ["short", "long"]


def test_the_prompts_of_a_crowd_are_read_in_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    engine = clocked(watched, monkeypatch, per_token=1 / 100, per_row=1 / 8)
    many, drawn = 24, 60
    greedy = SamplingParams(temperature=0, max_tokens=drawn)
    asks = [Ask(f"{number} times: " + "for a " * 40, sampling=greedy) for number in range(many)]
    with ThreadPoolExecutor(many) as pool:
        with watched.held():
            told = [pool.submit(said, engine, ask) for ask in asks]
            until(lambda: arrived(engine) == many)
        assert [one.result(DEADLINE) for one in told] == [alone(ask) for ask in asks]
    # If all began at once there would be one pass for each token that is drawn.
    assert len(watched.passes) < drawn + many


def test_a_prompt_alone_is_read_in_pieces_so_that_it_can_be_given_up() -> None:
    watched = Watched()
    engine = watched.engine()
    long = "for a " * 300
    stream = engine.stream(long, timeout=DEADLINE)
    with ThreadPoolExecutor(1) as pool:
        with watched.held():
            pieces = pool.submit(list, stream)
            until(lambda: watched.stands)
            stream.close()
        assert pieces.result(DEADLINE) == []
    until(lambda: not left_behind(engine))
    assert watched.read == 1024
    assert len(engine.branches(long)[0].token_ids) > 1024


# --- Going away ---


def test_rows_of_whoever_goes_away_are_free_at_the_next_step() -> None:
    watched = Watched()
    engine = watched.engine()
    wanted = Preferences(principles=PRINCIPLES[3])
    long = SamplingParams(seed=2, max_tokens=900)
    stays = engine.stream("Hi", sampling=long)
    goes = engine.stream("Ho", preferences=wanted, sampling=long)
    next(stays)
    next(goes)
    with watched.held():
        until(lambda: watched.stands)
        watched.passes.clear()
        goes.close()
    until(lambda: len(watched.passes) > 3)
    # The one that stood still was begun before.
    assert [len(one) for one in watched.passes[:4]] == [4, 1, 1, 1]
    stays.close()
    until(lambda: not left_behind(engine))


async def test_whoever_waits_for_a_piece_hears_that_another_closed_the_answer() -> None:
    watched = Watched()
    engine = watched.engine()
    with watched.held(), ThreadPoolExecutor(1) as pool:
        stream, later = engine.stream("Hi"), engine.astream("Hi")
        told = pool.submit(list, stream)
        until(lambda: watched.stands)
        task = asyncio.create_task(anext(later, None))
        await until_later(lambda: waiting(engine) == 1)
        stream.close()
        await later.aclose()
        assert await asyncio.to_thread(told.result, DEADLINE) == []
        assert await asyncio.wait_for(task, DEADLINE) is None
        assert [piece async for piece in later] == []
    await until_later(lambda: not left_behind(engine))


def test_a_timeout_ends_an_answer_and_frees_its_rows() -> None:
    watched = Watched()
    engine = watched.engine()
    long = SamplingParams(seed=2, max_tokens=900)
    stream = engine.stream("Hi", sampling=long, timeout=DEADLINE)
    next(stream)
    stream._deadline = time.monotonic()
    with watched.held():
        until(lambda: watched.stands)
        with pytest.raises(GenerationTimeout, match=f"not finished within {DEADLINE} seconds"):
            list(stream)
        assert list(stream) == []
    until(lambda: not left_behind(engine))
    with watched.held():
        with pytest.raises(TimeoutError):
            engine.generate("Hi", sampling=long, timeout=0.01)
        # This one waits in the queue until its time is up.
        with pytest.raises(GenerationTimeout):
            engine.generate("Hi", sampling=long, timeout=0.01)
    until(lambda: not left_behind(engine))
    assert said(engine, Ask()) == alone(Ask())


async def test_a_timeout_ends_an_awaited_answer_and_frees_its_rows() -> None:
    watched = Watched()
    engine = watched.engine()
    long = SamplingParams(seed=2, max_tokens=900)
    with watched.held():
        with pytest.raises(GenerationTimeout, match=r"within 0\.01 seconds"):
            await engine.agenerate("Hi", sampling=long, timeout=0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await engine.agenerate("Hi", sampling=long)
    await until_later(lambda: not left_behind(engine))
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("limit", [None, DEADLINE])
@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_is_never_lost(limit: float | None, turns: int) -> None:
    """However close to the arrival of a piece a task is cancelled."""
    piece = SimpleNamespace(finish_reason=None)
    request = SimpleNamespace(cancelled=False, deliver=None)
    idle = SimpleNamespace(submit=lambda _: None)

    async def listen() -> None:
        async for _ in AsyncGeneration(idle, request, limit):  # type: ignore[arg-type]
            pass

    task = asyncio.create_task(listen())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    request.deliver(piece)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done, "the task goes on"
    assert task.cancelled()
    assert request.cancelled


async def test_cancelled_tasks_leave_nothing_behind() -> None:
    engine = Watched().engine(max_rows=4)
    long = SamplingParams(seed=2, max_tokens=900)
    begun = [0]

    async def listen(number: int) -> None:
        wanted = Preferences(principles=PRINCIPLES[[1, 2, 3][number % 3]])
        timeout = DEADLINE if number % 2 else None
        terms: dict[str, Any] = {"preferences": wanted, "sampling": long, "timeout": timeout}
        async for _ in engine.astream("Hi", **terms):
            begun[0] += 1

    tasks = [asyncio.create_task(listen(number)) for number in range(20)]
    await until_later(lambda: begun[0] > 10)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    await until_later(lambda: not left_behind(engine))
    assert len(asyncio.all_tasks()) == 1


# --- The end ---


def test_closing_while_many_run_ends_them_all() -> None:
    watched = Watched()
    engine = watched.engine(max_rows=4)
    long = SamplingParams(seed=2, max_tokens=1500)

    def listen(number: int) -> tuple[int, EngineClosed]:
        read: list[object] = []
        with pytest.raises(EngineClosed, match=r"Engine\.load again") as caught:
            read.extend(engine.stream(f"{number}", sampling=long, timeout=DEADLINE))
        return len(read), caught.value

    async def listen_later() -> None:
        with pytest.raises(EngineClosed):
            async for _ in engine.astream("Hi", sampling=long, timeout=DEADLINE):
                pass

    unread = engine.stream("Hi", sampling=long)
    half_read = engine.stream("Hi", sampling=long)
    next(half_read)
    with ThreadPoolExecutor(12) as pool:
        later = pool.submit(asyncio.run, listen_later())
        heard = [pool.submit(listen, number) for number in range(9)]
        until(lambda: waiting(engine) == 7 and len(engine._scheduler._running) == 4)
        closing = [pool.submit(engine.close) for _ in range(2)]
        lengths, errors = zip(*(one.result(DEADLINE) for one in heard), strict=True)
        assert sum(lengths) > 0
        # Tracebacks of one user are no business of another's.
        assert len(set(map(id, errors))) == len(errors)
        later.result(DEADLINE)
        for one in closing:
            one.result(DEADLINE)
    for stream in (unread, half_read):
        with pytest.raises(EngineClosed):
            list(stream)
    assert engine.closed
    assert not left_behind(engine)
    assert engine._scheduler._prefixes.size == 0
    engine.close()


EXITS = {
    "a thread reads on": """
        next(stream)
        threading.Thread(target=lambda: print(len(list(stream)))).start()
    """,
    "a stream, a task and a daemon read no further": """
        def read_on():
            with contextlib.suppress(EngineClosed):
                list(other)

        async def main():
            later = engine.astream("Hi", sampling=long)
            await anext(later)
            kept.append(asyncio.create_task(anext(later)))

        next(stream)
        other = engine.stream("Ho", sampling=long)
        threading.Thread(target=read_on, daemon=True).start()
        kept = []
        asyncio.run(main())
        raise SystemExit(0)
    """,
}


def test_an_interpreter_that_ends_waits_for_nobody_and_says_nothing() -> None:
    head = """
        import asyncio, contextlib, sys, threading
        sys.path.insert(0, sys.argv[1])
        import torch
        torch.set_num_threads(1)
        from models import model, tokenizer
        from linalign_integrations import Engine, SamplingParams
        from linalign_integrations.errors import EngineClosed
        engine = Engine(model(), tokenizer(), model_id="tiny")
        engine._end_tokens = frozenset()
        long = SamplingParams(seed=1, max_tokens=400)
        stream = engine.stream("Hi", sampling=long)
    """
    folder = str(Path(__file__).parent)
    begun = [
        subprocess.Popen(  # noqa: S603 - it runs what is written above
            [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body), folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for body in EXITS.values()
    ]
    try:
        for name, process in zip(EXITS, begun, strict=True):
            out, err = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, (name, err)
            assert "Traceback" not in err, (name, err)
            assert "Fatal" not in err, (name, err)
            assert out.strip() == ("399" if "thread" in name else ""), name
    finally:
        for process in begun:
            process.kill()


def test_inference_mode_reaches_neither_callers_nor_the_model() -> None:
    watched = Watched()
    engine = watched.engine(reuse_bytes=0)
    seen: list[bool] = []
    watched.spoil = lambda token_ids: seen.append(torch.is_inference_mode_enabled())

    async def listen() -> None:
        async for _ in engine.astream("Hi", sampling=Ask().sampling):
            assert not torch.is_inference_mode_enabled()

    for _ in engine.stream("Hi", sampling=Ask().sampling):
        assert not torch.is_inference_mode_enabled()
    asyncio.run(listen())
    watched.spoil = raising(RuntimeError("no"), tokenizer().encode("H")[0])
    with pytest.raises(GenerationFailed):
        engine.generate("Hi")
    assert not torch.is_inference_mode_enabled()
    assert seen
    assert all(seen)
    watched.spoil = free_of_faults
    loss = watched.model(torch.tensor([[1, 2, 3]])).logits.sum()
    loss.backward()
    assert all(one.grad is not None for one in watched.model.parameters())


def test_an_engine_that_has_nothing_to_do_has_no_thread() -> None:
    engine = Watched().engine()
    for _ in range(3):
        said(engine, Ask())
        until(lambda: not left_behind(engine))
    assert engine._scheduler.idle


def test_a_thread_that_cannot_be_had_is_told_and_the_next_request_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = Watched().engine()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="start new thread"):
            engine.generate("Hi")
    assert engine._scheduler.idle
    assert said(engine, Ask()) == alone(Ask())
