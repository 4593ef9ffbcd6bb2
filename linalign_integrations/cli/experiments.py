"""What ``linalign bench`` measures: experiments, in which peers take turns.

An experiment is a list of functions that are called round by round and return figures by name, and
a list of what is to be told of these figures.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import statistics
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from linalign_integrations.cli.peers import (
    GUIDANCE,
    OURS,
    OURS_PLAIN,
    PEERS,
    PLAIN,
    SEQUENTIAL,
    TEMPERATURE,
    Case,
    Timing,
    asking,
    make_case,
    mean_gap,
    ours_arguments,
)
from linalign_integrations.engine.sampling import choose
from linalign_integrations.errors import LinAlignError, MissingExtra
from linalign_integrations.langchain import ChatLinAlign
from linalign_integrations.langchain.scope import take_preferences
from linalign_integrations.preferences import (
    Preferences,
    Profiles,
    open_profiles,
    use_preferences,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Generator,
        Iterable,
        Mapping,
        Sequence,
    )

    from langchain_core.runnables import RunnableConfig
    from llama_index.core.llms import LLM

    from linalign_integrations.cli.bench import Scale, Target
    from linalign_integrations.engine import Engine, Piece, Result, Usage
    from linalign_integrations.llama_index import LinAlign

    Ask = Callable[[LLM, str], Awaitable[None]]
    Take = Callable[[int], Mapping["Figure", float]]
    Streaming = Callable[[Case, int], Iterable[object]]


class Figure(NamedTuple):
    """What a number is: a kind of quantity, who or what it was measured on, and at which size."""

    quantity: str
    name: str
    at: int | None = None


class Told(NamedTuple):
    """A line of the report: a figure, what it is divided by, and what that ratio should be."""

    figure: Figure
    against: Figure | None = None
    target: Target | None = None


@dataclass(frozen=True)
class Experiment:
    """What is measured together, in turns.

    Attributes:
        takes: each is told the round's number and returns figures.
        told: the lines of the report, in order.
        rounds: how often everybody has a turn.
    """

    takes: Sequence[Take]
    told: Sequence[Told]
    rounds: int


@dataclass(frozen=True)
class Row:
    """A line of the report, measured.

    Attributes:
        experiment: its name on the command line.
        quantity: what was measured.
        name: whose figure it is.
        at: the size it was measured at: users, tokens, principles or requests.
        figure: median over the rounds, in ``unit``.
        unit: such as ``"ms"``.
        samples: the figure of each round.
        against: whose figure of the same round each is divided by.
        ratio: median of these ratios.
        least: the smallest.
        most: the largest.
        target: what the ratio should be, in words.
        met: whether it is.
    """

    experiment: str
    quantity: str
    name: str
    at: int | None
    figure: float
    unit: str
    samples: list[float]
    against: str | None = None
    ratio: float | None = None
    least: float | None = None
    most: float | None = None
    target: str | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Lab:
    """What the experiments share.

    Attributes:
        model: for the peers.
        engine: ours, over the same model.
        scale: how much is measured.
        targets: what ratios should be, by name; empty where nothing is asked of this model.
    """

    model: Any
    engine: Engine
    scale: Scale
    targets: Mapping[str, Target] = field(default_factory=dict)

    def answer(self, peer: str, case: Case, steps: int | None = None) -> Timing:
        """How this peer answers the request."""
        return PEERS[peer](self.model, self.engine, case, steps or self.scale.steps)

    def room(self, tokens: int) -> int:
        """This many tokens of prompt, or what the model's context can hold of them."""
        return min(tokens, self.engine.context_length - 512)


PER_TOKEN, FIRST = "time per token, one user", "time to first token, one user"
RATE = "tokens per second, all users together"
BY_LENGTH = "time per token, by length of the prompt"
BY_PRINCIPLES = "time per token, by number of principles"
TURN = "time to first token in a conversation"
DOCUMENT = "time to first token over one document"
REUSED = "prompt tokens that need not be read again"
GAP = "steps of a stream while a long prompt arrives"
SHARE = "parts of a step"
RESOLVING = "finding the preferences of a call"
THROUGH = "time per token of a stream, one user"
WORK = "processor time per token of a stream, one user"
BLOCKED = "longest wait of an event loop in which 32 users ask"
MEMORY = "memory after many requests"
UNITS = {
    PER_TOKEN: "ms",
    FIRST: "ms",
    RATE: "tokens/s",
    BY_LENGTH: "ms",
    BY_PRINCIPLES: "ms",
    TURN: "ms",
    DOCUMENT: "ms",
    REUSED: "tokens",
    GAP: "ms",
    SHARE: "ms",
    RESOLVING: "µs",
    THROUGH: "ms",
    WORK: "ms",
    BLOCKED: "ms",
    MEMORY: "MiB",
}
# Curves show growth, which takes fewer rounds than a ratio that is held against a target.
_CURVE_ROUNDS = 3
# Peers answer one request after the other, so two are as good as thirty-two.
_ONE_BY_ONE = 2
_SHARE_USERS = 8
_LOOP_USERS = 32
_BEAT = 0.005  # seconds
# Tokens that the first of several users may draw while the prompts of the others are read.
_HEAD_START = 48
_TURNS = 9
_FEW_TOKENS = 4
# More tokens than are drawn while the prompt is read that arrives beside them.
_LONG_ANSWER = 1000
_CALLS = 500
_MEMORY_PARTS = 4
_MEMORY_PROMPT = 30
_MEMORY_TOKENS = 8
_MEMORY_AT_ONCE = 8
_STATM = Path("/proc/self/statm")


def latency(lab: Lab) -> Experiment:
    """One user: time per token and time to the first."""

    def take(peer: str) -> Take:
        def measured(number: int) -> dict[Figure, float]:
            # The engine remembers prompts: without a name of its own this one would be half known.
            name = f"alone {number}" if peer == OURS_PLAIN else f"one {number}"
            timed = lab.answer(peer, make_case(lab.engine, name, lab.scale.prompt))
            return {Figure(PER_TOKEN, peer): timed.step, Figure(FIRST, peer): timed.first}

        return measured

    told = []
    for quantity in (PER_TOKEN, FIRST):
        plain = Figure(quantity, PLAIN)
        told += [Told(plain)]
        told += [
            Told(
                Figure(quantity, peer),
                plain,
                lab.targets.get("plain") if (quantity, peer) == (PER_TOKEN, OURS) else None,
            )
            for peer in PEERS
            if peer != PLAIN
        ]
        told += [
            Told(
                Figure(quantity, OURS),
                Figure(quantity, peer),
                lab.targets.get(peer) if quantity == PER_TOKEN else None,
            )
            for peer in (GUIDANCE, SEQUENTIAL)
        ]
    return Experiment([take(peer) for peer in PEERS], told, lab.scale.rounds)


def users(lab: Lab) -> Experiment:
    """Many users at once, each with a principle and a question of their own, prompts included."""

    def one_by_one(peer: str) -> Take:
        def measured(number: int) -> dict[Figure, float]:
            cases = [
                make_case(lab.engine, f"turn {number}.{user}", lab.scale.prompt)
                for user in range(_ONE_BY_ONE)
            ]
            begun = time.perf_counter()
            for case in cases:
                lab.answer(peer, case)
            took = time.perf_counter() - begun
            return {Figure(RATE, peer): len(cases) * lab.scale.steps / took}

        return measured

    def together(count: int) -> Take:
        def measured(number: int) -> dict[Figure, float]:
            cases = [
                make_case(lab.engine, f"of {count} {number}.{user}", lab.scale.prompt)
                for user in range(count)
            ]
            begun = time.perf_counter()
            results = asyncio.run(_all_at_once(lab, cases))
            took = time.perf_counter() - begun
            drawn = sum(len(result.token_ids) for result in results)
            return {Figure(RATE, OURS, count): drawn / took}

        return measured

    peers = (GUIDANCE, PLAIN, SEQUENTIAL)
    slow = Figure(RATE, GUIDANCE)
    return Experiment(
        [*map(one_by_one, peers), *map(together, lab.scale.users)],
        [
            Told(slow),
            *(Told(Figure(RATE, peer), slow) for peer in peers[1:]),
            *(
                Told(Figure(RATE, OURS, count), slow, lab.targets.get(f"{count} users"))
                for count in lab.scale.users
            ),
        ],
        lab.scale.rounds,
    )


async def _all_at_once(lab: Lab, cases: Sequence[Case]) -> list[Result]:
    answers = (
        lab.engine.agenerate(case.messages, **ours_arguments(case, lab.scale.steps))
        for case in cases
    )
    return await asyncio.gather(*answers)


def context(lab: Lab) -> Experiment:
    """One user: time per token against the length of the prompt."""
    peers = (PLAIN, GUIDANCE, OURS)
    # What does not fit is left out.
    lengths = [length for length in lab.scale.lengths if length <= lab.room(length)]

    def take(peer: str, length: int) -> Take:
        def measured(number: int) -> dict[Figure, float]:
            case = make_case(lab.engine, f"long {length} {number}", length)
            return {Figure(BY_LENGTH, peer, length): lab.answer(peer, case).step}

        return measured

    return Experiment(
        [take(peer, length) for length in lengths for peer in peers],
        [
            Told(
                Figure(BY_LENGTH, peer, length),
                None if peer == PLAIN else Figure(BY_LENGTH, PLAIN, length),
            )
            for length in lengths
            for peer in peers
        ],
        min(lab.scale.rounds, _CURVE_ROUNDS),
    )


def by_principles(lab: Lab) -> Experiment:
    """One user: time per token against the number of principles."""
    plain = Figure(BY_PRINCIPLES, PLAIN)
    kinds = {"equal weights": False, "different weights": True}

    def without(number: int) -> dict[Figure, float]:
        case = make_case(lab.engine, f"none {number}", lab.scale.prompt)
        return {plain: lab.answer(PLAIN, case).step}

    def take(kind: str, count: int) -> Take:
        def measured(number: int) -> dict[Figure, float]:
            name = f"{kind.split()[0]} {count} {number}"
            case = make_case(lab.engine, name, lab.scale.prompt, count=count, weighted=kinds[kind])
            return {Figure(BY_PRINCIPLES, kind, count): lab.answer(OURS, case).step}

        return measured

    counts = [(kind, count) for kind in kinds for count in lab.scale.principles]
    return Experiment(
        [without, *(take(kind, count) for kind, count in counts)],
        [
            Told(plain),
            *(Told(Figure(BY_PRINCIPLES, kind, count), plain) for kind, count in counts),
        ],
        min(lab.scale.rounds, _CURVE_ROUNDS),
    )


def prefix(lab: Lab) -> Experiment:
    """Time to the first token of a prompt whose beginning the engine has read before."""
    history = lab.room(lab.scale.history)
    cold, turn = Figure(TURN, "cold start", history), Figure(TURN, "next turn", history)
    first, second = (
        Figure(DOCUMENT, "first user", history),
        Figure(DOCUMENT, "second user", history),
    )
    reused, prompt = Figure(REUSED, "next turn"), Figure(REUSED, "its prompt")

    def conversation(number: int) -> dict[Figure, float]:
        case = make_case(lab.engine, f"talk {number}", history, turns=_TURNS)
        before = _answer(lab, case)
        said = [
            *case.messages,
            {"role": "assistant", "content": before.text},
            {"role": "user", "content": "And in summer?"},
        ]
        after = _answer(lab, asking(lab.engine, said, case.preferences, case.user))
        return {
            cold: before.first,
            turn: after.first,
            reused: after.usage.reused_tokens,
            prompt: after.usage.prompt_tokens,
        }

    def document(number: int) -> dict[Figure, float]:
        name = f"document {number}"
        cases = [
            make_case(lab.engine, name, history, placement="last_user", asked_by=f"{name}.{user}")
            for user in range(2)
        ]
        return {
            figure: _answer(lab, case).first
            for figure, case in zip((first, second), cases, strict=True)
        }

    return Experiment(
        [conversation, document],
        [
            Told(cold),
            Told(turn, cold, lab.targets.get("turn")),
            Told(first),
            Told(second, first, lab.targets.get("document")),
            Told(reused, prompt),
        ],
        lab.scale.rounds,
    )


class _Answer(NamedTuple):
    text: str
    first: float
    usage: Usage


def _answer(lab: Lab, case: Case) -> _Answer:
    """A few tokens of an answer, and how many milliseconds the first one took."""
    begun = time.perf_counter()
    pieces = lab.engine.stream(case.messages, **ours_arguments(case, _FEW_TOKENS))
    held = [next(pieces)]
    first = 1e3 * (time.perf_counter() - begun)
    held += pieces
    return _Answer("".join(piece.text for piece in held), first, cast("Usage", held[-1].usage))


def gap(lab: Lab) -> Experiment:
    """A running stream's longest gap while a long prompt arrives."""
    length = lab.room(lab.scale.history)
    usual, longest = Figure(GAP, "usual"), Figure(GAP, "longest", length)

    def take(number: int) -> dict[Figure, float]:
        running = make_case(lab.engine, f"running {number}", lab.scale.prompt)
        arriving = make_case(lab.engine, f"arriving {number}", length)
        most = lab.engine.context_length - len(running.prompted)
        arguments = ours_arguments(running, min(most, lab.scale.steps + _LONG_ANSWER))
        pieces = cast("Generator[Piece]", lab.engine.stream(running.messages, **arguments))
        with closing(pieces), ThreadPoolExecutor(1) as pool:
            stamps = [time.perf_counter() for _ in itertools.islice(pieces, lab.scale.steps)]
            before = len(stamps)
            reading = pool.submit(_answer, lab, arriving)
            for _ in pieces:
                stamps.append(time.perf_counter())
                # Asked after the token has come: the gap in which the reading ends counts too.
                if reading.done():
                    break
            reading.result()
        gaps = [1e3 * (after - one) for one, after in itertools.pairwise(stamps)]
        return {
            usual: statistics.median(gaps[: before - 1]),
            longest: max(gaps[before - 1 :] or gaps),
        }

    return Experiment(
        [take], [Told(usual), Told(longest, usual, lab.targets.get("gap"))], lab.scale.rounds
    )


def share(lab: Lab) -> Experiment:
    """Alignment and sampling as a part of a step of several users."""
    step = Figure(SHARE, "step", _SHARE_USERS)
    sampling = Figure(SHARE, "align and sample", _SHARE_USERS)
    vocabulary = lab.model.get_output_embeddings().weight.shape[0]
    # As spread as a trained model's; what random weights give is repetition, which is too easy.
    generator = torch.Generator().manual_seed(0)
    prompted = 4 * torch.randn(_SHARE_USERS, vocabulary, generator=generator)
    plain = prompted + torch.randn(_SHARE_USERS, vocabulary, generator=generator)
    logits = torch.stack([prompted, plain], dim=1).flatten(0, 1).to(lab.model.device)
    asked = [
        make_case(lab.engine, f"choose {user}", lab.scale.prompt) for user in range(_SHARE_USERS)
    ]
    requests = [
        lab.engine._request(
            lab.engine._checked(
                case.messages, **ours_arguments(case, lab.scale.steps), grammar=None
            )
        )
        for case in asked
    ]

    def stepping(number: int) -> dict[Figure, float]:
        cases = [
            make_case(lab.engine, f"share {number}.{user}", lab.scale.prompt)
            for user in range(_SHARE_USERS)
        ]
        return {step: asyncio.run(_step_together(lab, cases))}

    def choosing(number: int) -> dict[Figure, float]:
        del number
        times = []
        for _ in range(lab.scale.steps):
            begun = time.perf_counter()
            with torch.inference_mode():
                choose(logits, requests)
            times.append(1e3 * (time.perf_counter() - begun))
        return {sampling: statistics.median(times)}

    return Experiment(
        [stepping, choosing],
        [Told(step), Told(sampling, step, lab.targets.get("share"))],
        lab.scale.rounds,
    )


async def _step_together(lab: Lab, cases: Sequence[Case]) -> float:
    """Milliseconds from one token to the next while all of these are being answered."""

    async def stamps(case: Case) -> list[float]:
        arguments = ours_arguments(case, lab.scale.steps + _HEAD_START)
        return [time.perf_counter() async for _ in lab.engine.astream(case.messages, **arguments)]

    everybody = await asyncio.gather(*map(stamps, cases))
    last = max(everybody, key=lambda one: one[0])
    ended = min(one[-1] for one in everybody)
    together = [stamp for stamp in last if stamp <= ended]
    return mean_gap(together if len(together) > 1 else last)


def memory(lab: Lab) -> Experiment:
    """The process's memory after many requests, most of which were cancelled half-way."""
    few, many = lab.scale.requests
    part = few // _MEMORY_PARTS
    # The engine may remember conversations up to some limit. Requests that come round again, and
    # that are answered to their ends at first, fill that memory early, so that whatever still grows
    # later is lost.
    cases = [make_case(lab.engine, f"memory {number}", _MEMORY_PROMPT) for number in range(part)]
    chance = random.Random(0)  # noqa: S311 - when users lose patience is no secret

    def take(after: int) -> Take:
        def measured(number: int) -> dict[Figure, float]:
            del number
            least = _MEMORY_TOKENS if after == part else 1
            asyncio.run(_impatient(lab, cases, chance, least))
            gc.collect()
            name = "early" if after <= few else "late"
            return {Figure(MEMORY, name, after): used_memory(lab.model.device) / 2**20}

        return measured

    early, late = Figure(MEMORY, "early", few), Figure(MEMORY, "late", many)
    return Experiment(
        [take(after) for after in range(part, many + 1, part)],
        [Told(early), Told(late, early, lab.targets.get("memory"))],
        rounds=1,
    )


async def _impatient(lab: Lab, cases: Sequence[Case], chance: random.Random, least: int) -> None:
    """Asks all of it, several at a time, and lets go of each answer after at least some tokens."""

    async def ask(case: Case) -> None:
        pieces = cast(
            "AsyncGenerator[Piece]",
            lab.engine.astream(case.messages, **ours_arguments(case, _MEMORY_TOKENS)),
        )
        patience = chance.randint(least, _MEMORY_TOKENS)
        async for _ in pieces:
            patience -= 1
            if not patience:
                break
        await pieces.aclose()

    for begin in range(0, len(cases), _MEMORY_AT_ONCE):
        await asyncio.gather(*map(ask, cases[begin : begin + _MEMORY_AT_ONCE]))


def used_memory(device: torch.device) -> int:
    """Bytes that the process holds: on the accelerator if the model is there, else in RAM."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return _peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak_memory() -> int:
    """The most that the process held so far, where the present figure is not to be had."""
    try:
        import resource
    except ImportError as error:
        raise LinAlignError(
            "this system does not tell a process's memory: leave out memory with --only"
        ) from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resolving(lab: Lab) -> Experiment:
    """What finding its preferences adds to a call of LangChain's, which looks for them twice."""
    profiles: Profiles | None = None
    with suppress(MissingExtra):
        profiles = open_profiles("memory://bench")
        profiles.put("ann", Preferences(principles=["I am vegan.", "Be brief."], kl_budget=0.5))
    chat = ChatLinAlign(
        model=lab.engine.model_id, principles=["Be kind."], ratio=1.0, profiles=profiles
    )
    said = {"principles": ["Be formal.", "Name your sources."], "ratio": 3.0}
    ann: RunnableConfig = {"configurable": {"user_id": "ann"}}
    ways: dict[str, tuple[dict[str, Any], RunnableConfig | None]] = {
        "own fields": ({}, None),
        "call arguments": (said, None),
        "configuration": ({}, {"configurable": said}),
        "profile": ({}, ann),
        "all levels": ({"ratio": 3.0}, ann),
    }
    if profiles is None:
        del ways["profile"]
    limit = Figure(RESOLVING, "100 µs")

    def take(name: str) -> Take:
        call, config = ways[name]

        def measured(number: int) -> dict[Figure, float]:
            del number
            begun = time.perf_counter()
            for _ in range(_CALLS):
                found = take_preferences(chat, config, dict(call))
                chat._take_preferences({"preferences": found})
            took = time.perf_counter() - begun
            return {Figure(RESOLVING, name): took / _CALLS * 1e6}

        return measured

    def everywhere(number: int) -> dict[Figure, float]:
        with use_preferences(plausibility=0.9), use_preferences("Be calm."):
            return {**take("all levels")(number), limit: 100.0}

    takes = [take(name) for name in ways if name != "all levels"]
    return Experiment(
        [*takes, everywhere],
        [
            Told(
                Figure(RESOLVING, name),
                limit,
                lab.targets.get("resolve") if name == "all levels" else None,
            )
            for name in ways
        ],
        lab.scale.rounds,
    )


def _through_langchain(engine: Engine) -> Streaming:
    class Chat(ChatLinAlign):
        # A model with random weights has no name to be loaded by.
        def _engine(self, model: str | None = None) -> Engine:
            del model
            return engine

    chat = Chat(model=engine.model_id)

    def stream(case: Case, steps: int) -> Iterable[object]:
        asked: dict[str, Any] = {"temperature": TEMPERATURE, "seed": 0, "max_tokens": steps}
        return chat.stream(case.messages, preferences=case.preferences, **asked)

    return stream


def _lin_align(engine: Engine) -> LinAlign:
    from linalign_integrations.llama_index import LinAlign

    class Model(LinAlign):
        def _engine(self, model: str | None = None) -> Engine:
            del model
            return engine

        def _context_length(self) -> int:
            return engine.context_length

    return Model(model=engine.model_id)


def _through_llama_index(engine: Engine) -> Streaming:
    from llama_index.core.llms import ChatMessage

    llm = _lin_align(engine)

    def stream(case: Case, steps: int) -> Iterable[object]:
        asked: dict[str, Any] = {"temperature": TEMPERATURE, "seed": 0, "max_tokens": steps}
        messages = [ChatMessage(**message) for message in case.messages]
        pieces: Iterable[object] = llm.stream_chat(messages, preferences=case.preferences, **asked)
        return pieces

    return stream


# Frameworks' classes whose streams are held against the engine's own.
FRAMEWORKS: dict[str, Callable[[Engine], Streaming]] = {
    "ChatLinAlign": _through_langchain,
    "LinAlign": _through_llama_index,
}


def adapters(lab: Lab) -> Experiment:
    """What a framework's class adds to each token of a stream."""

    def bare(case: Case, steps: int) -> Iterable[object]:
        return lab.engine.stream(case.messages, **ours_arguments(case, steps))

    ways = {OURS: bare, **{name: make(lab.engine) for name, make in FRAMEWORKS.items()}}

    def take(name: str) -> Take:
        def measured(number: int) -> dict[Figure, float]:
            case = make_case(lab.engine, f"{name} {number}", lab.scale.prompt)
            pieces = iter(ways[name](case, lab.scale.steps))
            next(pieces)
            # Other processes disturb the one clock and hardly the other.
            first, worked = time.perf_counter(), time.process_time()
            # Whoever wraps a stream may add pieces to it: tokens are counted, not pieces.
            deque(pieces, maxlen=0)
            took = {THROUGH: time.perf_counter() - first, WORK: time.process_time() - worked}
            steps = lab.scale.steps - 1
            return {Figure(kind, name): 1e3 * spent / steps for kind, spent in took.items()}

        return measured

    told = []
    for quantity in (THROUGH, WORK):
        own = Figure(quantity, OURS)
        target = lab.targets.get("adapter") if quantity == THROUGH else None
        told += [Told(own), *(Told(Figure(quantity, name), own, target) for name in FRAMEWORKS)]
    return Experiment([take(name) for name in ways], told, lab.scale.rounds)


def loop(lab: Lab) -> Experiment:
    """How long an event loop stands still while 32 users ask, themselves or by query engines.

    A task of the loop sleeps for a few milliseconds again and again. What it sleeps longer, the
    loop was kept from it: by code that blocks it, by threads that hold the interpreter, or by other
    processes, which the idle loop feels as well. LlamaIndex prepares each query on the loop; that
    adds up where all start in one turn of the loop, with a chat model that does nothing just the
    same. A full garbage collection would take longer than all of it, so what was there before is
    frozen meanwhile, as servers do for good.
    """
    from llama_index.core import SummaryIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.schema import TextNode

    ours = _lin_align(lab.engine)
    index = SummaryIndex([TextNode(text="The bakery opens at 7:30.")])

    async def itself(llm: LLM, question: str) -> None:
        await llm.acomplete(question)

    async def query(llm: LLM, question: str) -> None:
        await index.as_query_engine(llm=llm).aquery(question)

    async def in_turn(llm: LLM, question: str) -> None:
        for _ in range(int(question.rpartition(".")[2])):
            await asyncio.sleep(0)
        await query(llm, question)

    def take(name: str, llm: LLM, users: int, ask: Ask) -> Take:
        def measured(number: int) -> dict[Figure, float]:
            asked = [f"loop {number}.{user}" for user in range(users)]
            return {Figure(BLOCKED, name): asyncio.run(_blocked(llm, lab, asked, ask))}

        return measured

    ways: dict[str, tuple[LLM, int, Ask]] = {
        "nobody asks": (ours, 0, itself),
        "LinAlign itself": (ours, _LOOP_USERS, itself),
        "query engines, a turn each": (ours, _LOOP_USERS, in_turn),
        "query engines, all in one": (ours, _LOOP_USERS, query),
        "the same, MockLLM": (MockLLM(is_chat_model=True), _LOOP_USERS, query),
    }
    return Experiment(
        [take(name, *way) for name, way in ways.items()],
        [Told(Figure(BLOCKED, name)) for name in ways],
        lab.scale.rounds,
    )


async def _blocked(llm: LLM, lab: Lab, questions: Sequence[str], ask: Ask) -> float:
    """The longest wait in ms of a heartbeat while the questions are answered, or for a second."""
    beats = [time.perf_counter()]

    async def beat() -> None:
        while True:
            await asyncio.sleep(_BEAT)
            beats.append(time.perf_counter())

    async def asked(question: str) -> None:
        principles = Preferences(principles=[question]).principles
        said = {"principles": principles, "max_tokens": lab.scale.steps}
        await ask(llm.model_copy(update=said), question)

    gc.freeze()
    try:
        heart = asyncio.create_task(beat())
        await asyncio.sleep(2 * _BEAT)
        await asyncio.gather(*map(asked, questions))
        await asyncio.sleep(2 * _BEAT if questions else 1)
        heart.cancel()
    finally:
        gc.unfreeze()
    return 1e3 * (max(later - one for one, later in itertools.pairwise(beats)) - _BEAT)


# Memory comes first: what the other experiments allocate would hide what grows.
EXPERIMENTS: dict[str, Callable[[Lab], Experiment]] = {
    "memory": memory,
    "latency": latency,
    "users": users,
    "context": context,
    "principles": by_principles,
    "prefix": prefix,
    "gap": gap,
    "share": share,
    "resolve": resolving,
    "adapter": adapters,
    "loop": loop,
}


def warm_up(lab: Lab) -> None:
    """Lets everybody answer once, so that no round pays for what is only done the first time."""
    for peer in PEERS:
        lab.answer(peer, make_case(lab.engine, f"first {peer}", lab.scale.prompt), _FEW_TOKENS)


def measure(
    lab: Lab, experiments: Mapping[str, Experiment], advance: Callable[[str, int], object]
) -> list[Row]:
    """Runs the experiments and tells their figures.

    Args:
        lab: what they share.
        experiments: by name.
        advance: told which experiment is on, and how many takes were done since it was last told.
    """
    warm_up(lab)
    rows = []
    for name, experiment in experiments.items():
        samples: dict[Figure, list[float]] = {}
        for number in range(experiment.rounds):
            # Nobody always comes first, when the processor is cool, or last.
            turn = number % len(experiment.takes)
            for take in (*experiment.takes[turn:], *experiment.takes[:turn]):
                advance(name, 0)
                for figure, value in take(number).items():
                    samples.setdefault(figure, []).append(value)
                advance(name, 1)
        rows += [_row(name, told, samples) for told in experiment.told]
    return rows


def _row(experiment: str, told: Told, samples: Mapping[Figure, list[float]]) -> Row:
    figure, against, target = told
    taken = samples[figure]
    row = Row(
        experiment=experiment,
        quantity=figure.quantity,
        name=figure.name,
        at=figure.at,
        figure=statistics.median(taken),
        unit=UNITS[figure.quantity],
        samples=taken,
    )
    if against is None:
        return row
    ratios = [one / other for one, other in zip(taken, samples[against], strict=True)]
    ratio = statistics.median(ratios)
    return replace(
        row,
        against=against.name,
        ratio=ratio,
        least=min(ratios),
        most=max(ratios),
        target=str(target) if target else None,
        met=target.met(ratio) if target else None,
    )
