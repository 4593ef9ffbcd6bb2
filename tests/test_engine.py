"""The engine: loading, streaming, stopping, sharing, failing."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from models import CHATML, VOCAB, endless, engine, model, same, tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    Gemma3Config,
    GPTNeoConfig,
    Lfm2Config,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RecurrentGemmaConfig,
)

from linalign_integrations import Engine, Preferences, Principle, SamplingParams
from linalign_integrations.alignment import align
from linalign_integrations.engine.grammar import Grammar
from linalign_integrations.engine.sampling import choose, uniform
from linalign_integrations.engine.scheduler import Scheduler
from linalign_integrations.engine.text import Stops, TextAssembler
from linalign_integrations.errors import (
    EngineClosed,
    GenerationFailed,
    GenerationTimeout,
    InvalidArgument,
    InvalidMessages,
    InvalidPreferences,
    InvalidSampling,
    ModelNotFound,
    PromptTooLong,
    UnsupportedModel,
)
from linalign_integrations.prompts import PromptFormat

if TYPE_CHECKING:
    from collections.abc import Callable

BRIEF = Preferences(principles=["Be brief."])


def sampling(**fields: object) -> SamplingParams:
    return SamplingParams(**{"seed": 3, "max_tokens": 20, **fields})


def test_a_stream_s_pieces_are_the_answer_that_generate_gives() -> None:
    result = engine().generate("Hi", preferences=BRIEF, sampling=sampling())
    pieces = list(engine().stream("Hi", preferences=BRIEF, sampling=sampling()))
    assert "".join(piece.text for piece in pieces) == result.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == result.token_ids
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == result.finish_reason
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.total_tokens == result.usage.total_tokens
    assert result.kl == pytest.approx(sum(piece.kl for piece in pieces))
    assert result.kl > 0


async def test_the_async_forms_give_the_same_answer() -> None:
    expected = engine().generate("Hi", preferences=BRIEF, sampling=sampling())
    answer = await engine().agenerate("Hi", preferences=BRIEF, sampling=sampling())
    assert same(answer, expected)
    streamed = engine().astream("Hi", preferences=BRIEF, sampling=sampling())
    assert "".join([piece.text async for piece in streamed]) == expected.text


def test_usage_counts_the_prompted_branch_once_and_all_branches_together() -> None:
    branches = engine().branches("Hi", preferences=BRIEF)
    usage = engine().generate("Hi", preferences=BRIEF, sampling=sampling()).usage
    assert usage.prompt_tokens == len(branches[0].token_ids)
    assert usage.branch_tokens == sum(len(branch.token_ids) for branch in branches)
    assert usage.completion_tokens == 20
    assert usage.total_tokens == usage.prompt_tokens + 20


def test_the_same_seed_gives_the_same_answer_and_another_seed_another() -> None:
    answers = {
        seed: engine().generate("Hi", preferences=BRIEF, sampling=sampling(seed=seed)).token_ids
        for seed in (1, 2)
    }
    assert answers[1] != answers[2]
    again = engine().generate("Hi", preferences=BRIEF, sampling=sampling(seed=1))
    assert again.token_ids == answers[1]


def test_without_a_seed_answers_differ() -> None:
    answers = {engine().generate("Hi", sampling=sampling(seed=None)).token_ids for _ in range(3)}
    assert len(answers) == 3


def test_drawn_tokens_follow_the_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    plan = SimpleNamespace(guided=False)
    requests = [
        SimpleNamespace(
            plan=plan,
            rows=1,
            sampling=SamplingParams(temperature=1.0),
            constraint=None,
            seed=seed,
            drawn=[0] * position,
            alternatives=0,
        )
        for seed in range(40)
        for position in range(100)
    ]
    tokens = [choice.token for choice in choose(logits.expand(4000, -1), requests)]  # type: ignore[arg-type,union-attr]
    counts = torch.bincount(torch.tensor(tokens), minlength=4)
    torch.testing.assert_close(counts / 4000, logits[0].softmax(-1), atol=0.02, rtol=0)


@pytest.mark.parametrize("vocab", [3, 512, 1500])
def test_without_principles_tokens_are_drawn_by_inverting_the_whole_distribution(
    vocab: int,
) -> None:
    plan = SimpleNamespace(guided=False)
    logits = 3 * torch.randn(64, vocab, generator=torch.Generator().manual_seed(vocab))
    # What cannot be drawn stands where a number near 0 or 1 would find it.
    logits[:, [0, -1]] = -torch.inf
    requests = [
        SimpleNamespace(
            plan=plan,
            rows=1,
            sampling=SamplingParams(temperature=0.5 + seed / 32),
            constraint=None,
            seed=seed,
            drawn=[],
            alternatives=0,
        )
        for seed in range(64)
    ]
    tokens = [choice.token for choice in choose(logits, requests)]  # type: ignore[arg-type,union-attr]
    for one, request, token in zip(logits, requests, tokens, strict=True):
        mass = (one.double() / request.sampling.temperature).softmax(-1).cumsum(-1)
        assert token == int((mass <= uniform(request.seed, 0)).sum())
        assert [choice.token for choice in choose(one[None], [request])] == [token]  # type: ignore[list-item,union-attr]


def test_the_random_numbers_are_uniform_and_depend_on_seed_and_position_only() -> None:
    numbers = torch.tensor([uniform(seed, n) for seed in range(40) for n in range(40)])
    assert abs(numbers.mean() - 0.5) < 0.02
    assert abs(numbers.var() - 1 / 12) < 0.01
    assert len(numbers.unique()) == len(numbers)
    assert uniform(5, 6) == uniform(5, 6) != uniform(6, 5)


@pytest.mark.parametrize("fields", [{"top_k": 3}, {"top_p": 0.3}, {"top_k": 5, "top_p": 0.5}])
@pytest.mark.parametrize("preferences", [Preferences(), BRIEF])
def test_top_k_and_top_p_bound_what_may_be_drawn(fields: dict, preferences: Preferences) -> None:
    """Each drawn token is among those that the same distribution, sorted, allows."""
    prompts = {
        branch.name: list(branch.token_ids)
        for branch in engine().branches("Hi", preferences=preferences)
    }
    result = engine().generate(
        "Hi", preferences=preferences, sampling=sampling(temperature=1.0, **fields)
    )
    for token in result.token_ids:
        with torch.no_grad():
            z = {name: model()(torch.tensor([ids])).logits[:, -1] for name, ids in prompts.items()}
        if preferences.principles:
            step = align(z["prompted"], z["plain"], ratio=2.0)
            probs = torch.zeros(VOCAB, dtype=torch.double)
            probs[step.token_ids[0]] = step.log_probs[0].exp()
        else:
            probs = z["plain"][0].double().softmax(-1)
        ranked, order = probs.sort(descending=True)
        ranked, order = ranked[: fields.get("top_k")], order[: fields.get("top_k")]
        ranked = ranked / ranked.sum()
        allowed = order[ranked.cumsum(-1) - ranked < fields.get("top_p", 1.0) + 1e-6]
        assert token in allowed
        for ids in prompts.values():
            ids.append(token)


def test_any_end_of_sequence_token_ends_the_answer() -> None:
    free = engine().generate("Hi", sampling=sampling()).token_ids
    ending = copy.deepcopy(model())
    ending.generation_config.eos_token_id = [VOCAB - 1, free[7]]
    ended = Engine(ending, tokenizer(), model_id="tiny").generate("Hi", sampling=sampling())
    assert ended.finish_reason == "stop"
    assert ended.token_ids == free[: free.index(free[7]) + 1]
    assert ended.usage.completion_tokens == len(ended.token_ids)
    assert ended.text == tokenizer().decode(ended.token_ids[:-1], skip_special_tokens=True)


class Scripted:
    """A format whose tokens are the given texts, so that text handling is tested by itself."""

    def __init__(self, *tokens: bytes) -> None:
        self.tokens = tokens

    byte_tokens: frozenset[int] = frozenset()

    def decode(self, token_ids: list[int]) -> str:
        return b"".join(self.tokens[token] for token in token_ids).decode(errors="replace")


def assemble(stop: tuple[str, ...], *tokens: bytes) -> tuple[list[str], bool]:
    text = TextAssembler(Scripted(*tokens))  # type: ignore[arg-type]
    stops = Stops(stop)
    pieces = [stops.push(text.push(token)) for token in range(len(tokens))]
    pieces.append(stops.push(text.finish(), last=True))
    return pieces, stops.stopped


def test_a_stop_string_may_span_tokens_and_no_part_of_it_is_emitted() -> None:
    pieces, stopped = assemble(("\n\nUser:",), b"Hello", b"\n", b"\nUs", b"er", b": more")
    assert stopped
    assert pieces == ["Hello", "", "", "", "", ""]


def test_what_only_looked_like_a_stop_string_is_emitted_after_all() -> None:
    pieces, stopped = assemble(("\n\nUser:",), b"a\n", b"\nUsual", b" text")
    assert not stopped
    assert pieces == ["a", "\n\nUsual", " text", ""]


def test_held_back_text_comes_out_at_the_end() -> None:
    pieces, stopped = assemble(("END",), b"the E", b"N")
    assert (pieces, stopped) == (["the ", "", "EN"], False)


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert assemble(("world", "lo w"), b"hello world") == (["hel", ""], True)


def test_a_character_is_never_cut() -> None:
    boat = "⛵é🏴‍☠️".encode()
    pieces, _ = assemble((), *[boat[i : i + 1] for i in range(len(boat))])
    assert "".join(pieces) == boat.decode()
    assert all("\ufffd" not in piece for piece in pieces)


def test_bytes_that_never_become_a_character_are_shown_as_such() -> None:
    pieces, _ = assemble((), b"a", b"\xff", b"b", b"\xe2\x82")
    assert "".join(pieces) == "a\ufffdb\ufffd"


def test_streamed_text_equals_the_decoded_tokens_for_random_bytes() -> None:
    form = PromptFormat(tokenizer())
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ids = torch.randint(0, 262, (40,), generator=generator).tolist()
        text = TextAssembler(form)
        streamed = "".join([text.push(token) for token in ids]) + text.finish()
        assert streamed == tokenizer().decode(ids)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Words with a space mark, and bytes for what they cannot spell, as in SentencePiece models."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abhiko", "▁ok", "▁hi"]
    core = Tokenizer(
        models.BPE(
            {word: place for place, word in enumerate(words)},
            [],
            byte_fallback=True,
            unk_token="<unk>",  # noqa: S106
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", ["hi 😀😀 ok", "漢字漢字漢字 ok", "é", "hi 🏴‍☠️", "ok ok hi"])
def test_characters_spelt_in_byte_tokens_come_out_whole(text: str) -> None:
    made = byte_fallback()
    made.chat_template = CHATML
    assembler = TextAssembler(PromptFormat(made))
    ids = made.encode(text, add_special_tokens=False)
    pieces = [assembler.push(token) for token in ids] + [assembler.finish()]
    assert "".join(pieces) == made.decode(ids) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_a_stop_string_ends_a_real_answer_before_it() -> None:
    free = engine().generate("Hi", sampling=sampling(max_tokens=40))
    stop = free.text[10:13]
    result = engine().generate("Hi", sampling=sampling(max_tokens=40, stop=stop))
    assert result.finish_reason == "stop"
    assert result.text == free.text[: free.text.index(stop)]
    assert result.token_ids == free.token_ids[: len(result.token_ids)]
    assert len(result.token_ids) < len(free.token_ids)


def test_a_control_token_may_be_given_as_a_stop_text() -> None:
    free = endless().generate("Hi", sampling=sampling(max_tokens=200))
    start = tokenizer().convert_tokens_to_ids("<|im_start|>")
    assert start in free.token_ids, "the seed must draw it"
    ended = endless().generate("Hi", sampling=sampling(max_tokens=200, stop="<|im_start|>"))
    assert ended.finish_reason == "stop"
    assert ended.token_ids == free.token_ids[: free.token_ids.index(start) + 1]


def test_an_answer_ends_where_the_context_does() -> None:
    small = copy.deepcopy(model())
    small.config.max_position_embeddings = 40
    short = Engine(small, tokenizer(), model_id="tiny")
    result = short.generate("Hi", sampling=sampling(max_tokens=500))
    assert result.finish_reason == "length"
    assert result.usage.total_tokens == 40
    with pytest.raises(PromptTooLong, match=r"is \d+ tokens long.* takes at most 39") as caught:
        short.generate("Hello there, this is far too long for it.")
    assert caught.value.context_length == 40
    assert caught.value.prompt_tokens > 39


def test_a_principle_longer_than_the_context_is_refused_with_its_share() -> None:
    with pytest.raises(PromptTooLong, match=r"\d{4} of them principles"):
        engine().generate("Hi", preferences=Preferences(principles=["x " * 1200]))


def test_rows_grow_beyond_their_first_capacity() -> None:
    long = endless().generate("Hi", preferences=BRIEF, sampling=sampling(max_tokens=300))
    short = endless().generate("Hi", preferences=BRIEF, sampling=sampling(max_tokens=30))
    assert len(long.token_ids) == 300
    assert long.token_ids[:30] == short.token_ids


def test_requests_from_many_threads_each_get_their_own_answer() -> None:
    users = [f"Principle number {n}." for n in range(12)]

    def ask(principle: str) -> tuple[int, ...]:
        preferences = Preferences(principles=[principle])
        return engine().generate("Hi", preferences=preferences, sampling=sampling()).token_ids

    alone = [ask(user) for user in users]
    assert len(set(alone)) > 6
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, users)) == alone


def test_streams_may_be_read_in_turns_by_one_thread() -> None:
    expected = [engine().generate(text, sampling=sampling()).text for text in ("a", "b")]
    streams = [engine().stream(text, sampling=sampling()) for text in ("a", "b")]
    pairs = list(zip(*streams, strict=True))
    assert ["".join(piece.text for piece in side) for side in zip(*pairs, strict=True)] == expected


async def test_many_tasks_each_get_their_own_answer() -> None:
    users = [Preferences(principles=[f"Principle {n}."]) for n in range(10)]
    alone = [engine().generate("Hi", preferences=u, sampling=sampling()) for u in users]
    together = await asyncio.gather(
        *(engine().agenerate("Hi", preferences=u, sampling=sampling()) for u in users)
    )
    assert all(map(same, together, alone))


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In which threads prompts are encoded; each one waits until it may go on."""
    seen = SimpleNamespace(threads=[], begun=threading.Event(), may_go_on=threading.Event())
    seen.may_go_on.set()
    encode = PromptFormat.encode

    def watched(*args: object, **kwargs: object) -> list[int]:
        seen.threads.append(threading.current_thread())
        seen.begun.set()
        assert seen.may_go_on.wait(60)
        return encode(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptFormat, "encode", watched)
    return seen


async def test_what_takes_long_to_read_is_not_read_in_the_event_loop(
    encoding: SimpleNamespace,
) -> None:
    grammar = Grammar.regex("(yes|no)")
    engine().generate("Hi", sampling=sampling())
    expected = engine().generate("Hi", grammar=grammar, sampling=sampling())
    encoding.threads.clear()
    answer = await engine().agenerate("Hi", grammar=grammar, sampling=sampling())
    many = Preferences(principles=[Principle(str(n), weight=n) for n in range(1, 41)])
    repeated = engine().astream("Hi " * 50, preferences=many)
    await repeated.aclose()
    long = engine().astream("Hi " * 1000)
    with pytest.raises(PromptTooLong):
        await anext(long)
    assert [piece async for piece in long] == []
    assert encoding.threads
    assert threading.current_thread() not in encoding.threads
    assert answer == expected


async def test_a_short_conversation_is_read_and_refused_when_the_stream_is_asked_for(
    encoding: SimpleNamespace,
) -> None:
    stream = engine().astream("Hi", sampling=sampling())
    assert set(encoding.threads) == {threading.current_thread()}
    assert [piece async for piece in stream]
    with pytest.raises(InvalidMessages):
        engine().astream([])
    with pytest.raises(InvalidMessages):
        engine().astream([{"role": "user", "content": "Hi " * 1000}, {"role": "nobody"}])


@pytest.mark.parametrize("end", ["aclose", "cancel", "timeout"])
async def test_an_answer_that_ends_while_its_prompt_is_read_is_never_begun(
    encoding: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    submitted = []
    monkeypatch.setattr(Scheduler, "submit", lambda _, request: submitted.append(request))
    encoding.may_go_on.clear()
    stream = engine().astream(
        "Hi", grammar=Grammar.regex("(yes|no)"), timeout=0.05 if end == "timeout" else None
    )
    first, second = (asyncio.create_task(anext(stream, None)) for _ in range(2))
    assert await asyncio.to_thread(encoding.begun.wait, 60)
    if end == "aclose":
        await stream.aclose()
    elif end == "cancel":
        first.cancel()
    elif end == "timeout":
        await asyncio.wait({first})
    encoding.may_go_on.set()
    ended = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), 60)
    kinds = {"aclose": None, "cancel": asyncio.CancelledError, "timeout": GenerationTimeout}
    assert ended[0] is None if end == "aclose" else isinstance(ended[0], kinds[end])
    assert [piece async for piece in stream] == submitted == []


async def test_a_cancelled_answer_leaves_the_engine_usable() -> None:
    async def listen() -> None:
        async for _ in endless().astream("Hi", sampling=sampling(max_tokens=400)):
            started.set()

    started = asyncio.Event()
    task = asyncio.create_task(listen())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endless().generate("Hi", sampling=sampling()).finish_reason == "length"


def test_inference_mode_does_not_leak_out_of_a_stream() -> None:
    for _ in engine().stream("Hi", preferences=BRIEF, sampling=sampling(max_tokens=3)):
        assert not torch.is_inference_mode_enabled()


def test_input_is_checked_when_a_stream_is_asked_for_not_when_it_is_read() -> None:
    with pytest.raises(PromptTooLong):
        engine().stream("x" * 2100)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e39}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_sampling_out_of_range_is_refused_by_name(fields: dict, words: str) -> None:
    with pytest.raises(InvalidSampling, match=words):
        SamplingParams(**fields)


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan")])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    for ask in (engine().generate, engine().stream, engine().astream):
        with pytest.raises(InvalidArgument, match="timeout= is a number of seconds above 0"):
            ask("Hi", timeout=timeout)


def test_a_time_longer_than_a_thread_can_wait_is_as_good_as_none() -> None:
    assert engine().generate("Hi", sampling=sampling(), timeout=1e12).token_ids


def test_who_asks_has_a_name() -> None:
    with pytest.raises(InvalidArgument, match="user= is the name of whoever asks"):
        engine().generate("Hi", user=["ann"])


def test_limits_are_numbers() -> None:
    with pytest.raises(InvalidArgument, match="max_rows is a number of at least 1, not '8'"):
        Engine(model(), tokenizer(), model_id="tiny", max_rows="8")


def test_a_folder_is_the_same_however_its_path_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert Engine.load(f"~/{folder.name}", dtype="float32") is Engine.load(folder, dtype="float32")


def test_a_closed_engine_stays_in_no_memory(folder: Path) -> None:
    closed = Engine.load(folder, dtype="float64", revision="of-its-own")
    gone = weakref.ref(closed)
    closed.close()
    del closed
    gc.collect()
    assert gone() is None


def test_a_model_that_gives_nan_fails_with_a_clear_error_and_the_next_request_works() -> None:
    broken = copy.deepcopy(model())
    sick = Engine(broken, tokenizer(), model_id="tiny")
    weight = broken.get_output_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(GenerationFailed, match="no usable logits"):
        sick.generate("Hi")
    with torch.no_grad():
        weight.copy_(kept)
    assert same(
        sick.generate("Hi", sampling=sampling()), engine().generate("Hi", sampling=sampling())
    )


@pytest.mark.parametrize(
    "preferences", [None, BRIEF, Preferences(principles=["x"], plausibility=1)]
)
def test_a_model_that_rules_out_all_that_a_grammar_allows_fails_with_a_clear_error(
    preferences: Preferences | None,
) -> None:
    choosy = copy.deepcopy(model())
    allowed = tokenizer().convert_tokens_to_ids(["a", "c"])

    def rule_out(_module: object, _states: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor(allowed), -torch.inf)

    choosy.get_output_embeddings().register_forward_hook(rule_out)
    asked = Engine(choosy, tokenizer(), model_id="tiny")
    with pytest.raises(GenerationFailed, match="no probability to any token that the grammar"):
        asked.generate("Hi", preferences=preferences, grammar=Grammar.regex("[ac]"))
    assert asked.generate("Hi", grammar=Grammar.regex("[ab]")).text == "b"


def test_a_folder_is_loaded_once_however_often_it_is_asked_for(folder: Path) -> None:
    found: list[Engine] = []
    threads = [
        threading.Thread(target=lambda: found.append(Engine.load(folder, dtype="float32")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert Engine.load(str(folder), dtype="bfloat16") is not found[0]
    expected = engine().generate("Hi", preferences=BRIEF, sampling=sampling())
    assert same(found[0].generate("Hi", preferences=BRIEF, sampling=sampling()), expected)


def test_a_closed_engine_says_so_and_loading_again_gives_a_new_one(folder: Path) -> None:
    first = Engine.load(folder, dtype="float64")
    running = first.stream("Hi", sampling=sampling(max_tokens=900))
    next(running)
    first.close()
    for use in (lambda: list(running), lambda: first.generate("Hi"), lambda: first.stream("Hi")):
        with pytest.raises(EngineClosed, match=r"Engine\.load again"):
            use()
    assert Engine.load(folder, dtype="float64") is not first


def test_the_model_may_be_named_by_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINALIGN_MODEL", raising=False)
    with pytest.raises(ModelNotFound, match="model= or set LINALIGN_MODEL"):
        Engine.load()
    monkeypatch.setenv("LINALIGN_MODEL", str(folder))
    assert Engine.load(dtype="float32") is Engine.load(folder, dtype="float32")


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "a/b/c"])
def test_an_unknown_folder_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound, match="there is no folder"):
        Engine.load(name)


def test_an_unknown_hub_model_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match=r"'nobody/nothing'.*not a folder"):
        Engine.load("nobody/nothing")


def test_a_folder_without_a_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        Engine.load(tmp_path)


def test_a_folder_with_a_broken_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        Engine.load(tmp_path)


def test_a_model_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="not a causal language model"):
        Engine.load(tmp_path)


def mamba() -> PreTrainedModel:
    torch.manual_seed(5)
    config = MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4)
    made = MambaForCausalLM(config).eval()
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(40)
    return made


def mixed() -> PreTrainedModel:
    """Convolutions and attention."""
    torch.manual_seed(5)
    config = Lfm2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    made = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(40)
    return made


def local() -> PreTrainedModel:
    """Windows that are cut by the cache's length, which rows do not share."""
    torch.manual_seed(5)
    config = GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
    )
    made = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(40)
    return made


@pytest.mark.parametrize("make", [mamba, mixed, local])
def test_a_model_that_rows_cannot_express_runs_row_by_row_and_says_so(
    make: Callable[[], PreTrainedModel],
) -> None:
    made = make()
    with pytest.warns(UserWarning, match="runs row by row"):
        slow = Engine(made, tokenizer(), model_id="tiny-slow")
    prompts = {one.name: list(one.token_ids) for one in slow.branches("Hi", preferences=BRIEF)}
    cold = sampling(temperature=0, max_tokens=8)
    result = slow.generate("Hi", preferences=BRIEF, sampling=cold)
    for token in result.token_ids:
        with torch.no_grad():
            z = {name: made(torch.tensor([ids])).logits[:, -1] for name, ids in prompts.items()}
        step = align(z["prompted"], z["plain"], ratio=2.0)
        assert token == step.token_ids[0, step.log_probs[0].argmax()]
        for ids in prompts.values():
            ids.append(token)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(
            lambda text: slow.generate(text, preferences=BRIEF, sampling=cold), ["Hi", "Ho"] * 3
        )
        assert all(same(answer, result) for answer in list(answers)[::2])


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model().config.save_pretrained(tmp_path)
    torch.save(model().state_dict(), tmp_path / "pytorch_model.bin")
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="safetensors"):
        Engine.load(tmp_path)


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held.pop("model.layers.1.mlp.up_proj.weight")
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"incomplete.*up_proj"):
        Engine.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"dtype": "float8_e4m3fn"}, "unknown dtype"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"model": 7}, "not 7"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(
    folder: Path, options: dict, words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Engine.load(**{"model": folder, **options})


def test_a_device_that_is_not_here_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidArgument, match="this machine has none"):
        Engine.load(folder, device="cuda")


def test_the_device_s_usual_number_names_the_same_engine(folder: Path) -> None:
    assert Engine.load(folder, device="cpu:0") is Engine.load(folder, device="cpu")


def test_the_default_dtype_is_one_the_processor_computes_in(folder: Path) -> None:
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    default = Engine.load(folder, device="cpu")
    assert default is Engine.load(folder, device="cpu", dtype="bfloat16" if fast else "float32")


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def test_weights_that_are_no_safetensors_inside_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = copied(folder, tmp_path)
    (broken / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UnsupportedModel, match="cannot load"):
        Engine.load(broken)


def test_weights_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = copied(folder, tmp_path)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(UnsupportedModel, match="cannot load"):
        Engine.load(broken)


def test_a_missing_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    broken = copied(folder, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    with pytest.raises(UnsupportedModel, match="no usable tokenizer"):
        Engine.load(broken)


def test_a_file_or_an_adapter_is_not_a_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="is a file"):
        Engine.load(folder / "config.json")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match="holds an adapter"):
        Engine.load(tmp_path)


def test_a_model_whose_language_part_is_nested_is_run() -> None:
    config = Gemma3Config(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": 12,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=1,
        image_token_id=VOCAB - 2,
        boi_token_index=VOCAB - 3,
        eoi_token_index=VOCAB - 4,
    )
    nested = AutoModelForCausalLM.from_config(config).eval()
    made = Engine(nested, tokenizer(), model_id="tiny-gemma3")
    assert made.generate("Hi", preferences=BRIEF, sampling=sampling()).usage.completion_tokens > 0


def test_a_model_that_keeps_no_state_is_refused() -> None:
    config = RecurrentGemmaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        lru_width=32,
        head_dim=8,
        attention_window_size=16,
    )
    forgetful = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnsupportedModel, match="no state to go on from"):
        Engine(forgetful, tokenizer(), model_id="tiny-forgetful")


def test_a_model_whose_rows_differ_from_its_own_answers_is_refused() -> None:
    """A model that looks ahead where nothing stops it, as an encoder would."""
    looking = copy.deepcopy(model())
    forward = looking.forward

    def peek(*args: object, **kwargs: object) -> object:
        out = forward(*args, **kwargs)
        if kwargs.get("cache") is None:
            out.logits = out.logits.flip(-1)
        return out

    looking.forward = peek
    with pytest.raises(UnsupportedModel, match="gives other answers"):
        Engine(looking, tokenizer(), model_id="tiny-peeking")


def test_an_empty_prompt_is_refused_where_nothing_stands_around_it() -> None:
    with pytest.warns(UserWarning, match="no chat template"):
        bare = Engine(model(), tokenizer("none"), model_id="tiny")
    with pytest.raises(InvalidMessages, match="no messages"):
        bare.generate("", preferences=BRIEF)


def test_principles_whose_weights_cancel_leave_the_plain_answer() -> None:
    plain = engine().generate("Hi", sampling=sampling(temperature=1.0))
    for principles in ([Principle("A.", 1), Principle("A.", -1)], [Principle("A.", 0)]):
        preferences = Preferences(principles=principles)
        answer = engine().generate(
            "Hi", preferences=preferences, sampling=sampling(temperature=1.0)
        )
        assert answer == plain


def test_values_of_the_wrong_kind_are_refused_by_name() -> None:
    with pytest.raises(InvalidPreferences, match="wrap principles as"):
        engine().generate("Hi", preferences=["Be brief."])  # type: ignore[arg-type]
    with pytest.raises(InvalidSampling, match="not dict"):
        engine().generate("Hi", sampling={"seed": 1})  # type: ignore[arg-type]


def test_a_closed_stream_gives_nothing_more() -> None:
    stream = engine().stream("Hi", sampling=sampling())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_any_top_k_is_allowed_and_a_large_one_changes_nothing() -> None:
    free = engine().generate("Hi", sampling=sampling(top_p=0.9))
    assert engine().generate("Hi", sampling=sampling(top_p=0.9, top_k=10**9)) == free
