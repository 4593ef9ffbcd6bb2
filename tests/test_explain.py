"""What an answer's record says of its alignment, and how the record shows itself."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
import torch
from models import VOCAB, endless, engine, model, tokenizer
from pydantic import TypeAdapter
from rich.console import Console

from linalign_integrations import Engine, Preferences, Principle, SamplingParams
from linalign_integrations.engine import (
    AlignmentRecord,
    Alternative,
    Grammar,
    Strength,
    TokenRecord,
    sampling,
)
from linalign_integrations.errors import InvalidArgument

if TYPE_CHECKING:
    from linalign_integrations.engine import Result

BRIEF = Preferences(principles=["Be brief."])
WEIGHTED = (Principle("Be brief.", 2.0), Principle("Be kind.", 1.0), Principle("Be formal.", -0.5))
TWENTY = SamplingParams(seed=3, max_tokens=20)


def explained(preferences: Preferences = BRIEF, **fields: Any) -> Result:
    asked = {"sampling": TWENTY, "explain": True, **fields}
    return endless().generate("Tell me.", preferences=preferences, **asked)


def record_of(result: Result) -> AlignmentRecord:
    assert result.alignment is not None
    return result.alignment


def texts(record: AlignmentRecord) -> str:
    return "".join(token.text for token in record.tokens)


# --- The numbers ---


def spent(prior: torch.Tensor, push: torch.Tensor, eta: float) -> tuple[torch.Tensor, float]:
    """The distribution after a step, and its KL from the one before."""
    moved = (prior.log() + eta * push).softmax(-1)
    return moved, float((moved * (moved / prior).log()).sum())


def name_of(token_id: int) -> str:
    text = tokenizer().decode([token_id])
    whole = text and "\ufffd" not in text
    return text if whole else tokenizer().convert_ids_to_tokens(token_id) or f"<{token_id}>"


def steps_by_the_book(
    preferences: Preferences, heat: float, drawn: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Each step of an answer from the formulas: whole prompts, sorted, the budget by bisection."""

    def prompt(*principles: str) -> list[int]:
        alone = Preferences(principles=principles, ratio=0)
        return list(endless().branches("Tell me.", preferences=alone)[0].token_ids)

    def logits(start: list[int], place: int) -> torch.Tensor:
        ids = torch.tensor([[*start, *drawn[:place]]])
        with torch.no_grad():
            return model()(ids, use_cache=False).logits[0, -1].double()

    wanted = [one for one in preferences.principles if one.weight > 0]
    prompted, plain = prompt(*(one.text for one in wanted)), prompt()
    each = [(one.weight, prompt(one.text)) for one in preferences.principles]
    if len({one.weight for one in preferences.principles}) == 1:
        each = [(preferences.principles[0].weight, prompted)]
    steps = []
    for place in range(len(drawn)):
        z = logits(prompted, place)
        every = (z / heat).softmax(-1)
        mass, order = every.sort(descending=True, stable=True)
        bound = preferences.plausibility if preferences.principles else 1.0
        kept = order[mass.cumsum(-1) - mass < bound] if bound < 1 else torch.arange(VOCAB)
        prior = every[kept] / every[kept].sum()
        z_plain = logits(plain, place)
        push = sum(
            (weight * (logits(one, place) - z_plain)[kept] / heat for weight, one in each),
            torch.zeros(len(kept), dtype=torch.double),
        )
        ratio = preferences.ratio if preferences.principles else 0.0
        budget = math.inf if preferences.kl_budget is None else preferences.kl_budget
        if spent(prior, push, ratio)[1] > budget:
            low, high = 0.0, ratio
            for _ in range(80):
                middle = (low + high) / 2
                over = spent(prior, push, middle)[1] > budget
                low, high = (low, middle) if over else (middle, high)
            ratio = low
        aligned, kl = spent(prior, push, ratio)
        chances = {
            token: pair
            for token, *pair in zip(kept.tolist(), prior.tolist(), aligned.tolist(), strict=True)
        }
        steps.append({"ratio": ratio, "kl": kl, "chances": chances})
    return steps


@pytest.mark.parametrize(
    "preferences",
    [
        BRIEF,
        Preferences(principles=["Be brief.", "Be kind."], ratio=3.0, plausibility=0.95),
        Preferences(principles=["Be brief."], ratio=3.0, kl_budget=0.05),
        Preferences(principles=WEIGHTED),
        Preferences(principles=WEIGHTED, ratio=4.0, kl_budget=0.02, plausibility=1.0),
        Preferences(principles=["Be brief."], ratio=0),
        Preferences(),
    ],
    ids=["two rows", "joint", "budget", "weighted", "weighted budget", "ratio 0", "plain"],
)
@pytest.mark.parametrize("fields", [{}, {"temperature": 0}, {"top_p": 0.6, "top_k": 4}])
def test_the_record_equals_the_formulas(preferences: Preferences, fields: dict[str, Any]) -> None:
    drawing = TWENTY.model_copy(update=fields)
    result = explained(preferences, sampling=drawing, explain=5)
    record = record_of(result)
    expected = steps_by_the_book(preferences, drawing.temperature or 1.0, result.token_ids)
    assert tuple(token.token_id for token in record.tokens) == result.token_ids
    for token, step in zip(record.tokens, expected, strict=True):
        chances = step["chances"]
        assert token.ratio == pytest.approx(step["ratio"], rel=2e-3, abs=1e-9)
        assert token.kl == pytest.approx(step["kl"], rel=5e-3, abs=1e-6)
        for one in (token, *token.alternatives):
            assert (one.prompted, one.aligned) == pytest.approx(
                tuple(chances[one.token_id]), rel=5e-3, abs=1e-6
            )
            assert one.token == name_of(one.token_id)
        assert len(token.alternatives) == min(5, len(chances) - 1)
        assert token.token_id not in [one.token_id for one in token.alternatives]
        favourite = max(chances, key=lambda one: chances[one][0])
        if favourite == token.token_id:
            assert token.displaced is None
        else:
            assert token.displaced is token.alternatives[0]
            assert token.displaced.token_id == favourite
        assert not token.forced
    if preferences.kl_budget is not None:
        assert min(token.ratio for token in record.tokens) < preferences.ratio, "the budget binds"
        assert max(token.kl for token in record.tokens) <= preferences.kl_budget


@pytest.mark.parametrize("preferences", [BRIEF, Preferences(principles=WEIGHTED, kl_budget=0.02)])
def test_what_the_tokens_spent_adds_up_to_what_the_answer_spent(preferences: Preferences) -> None:
    result = explained(preferences)
    record = record_of(result)
    assert result.kl > 0
    assert sum(token.kl for token in record.tokens) == pytest.approx(result.kl)
    assert record.strength == result.strength
    assert result.strength.mean_kl == pytest.approx(result.kl / 20)
    assert result.strength.mean_ratio == pytest.approx(
        sum(token.ratio for token in record.tokens) / 20
    )


@pytest.mark.parametrize("preferences", [Preferences(), Preferences(principles="x", ratio=0)])
def test_without_a_step_nothing_is_spent_and_nothing_is_moved(preferences: Preferences) -> None:
    result = explained(preferences)
    assert result.strength == Strength(mean_kl=0.0, mean_ratio=0.0)
    for token in record_of(result).tokens:
        assert (token.ratio, token.kl) == (0.0, 0.0)
        assert token.prompted == pytest.approx(token.aligned)


def test_the_answer_is_the_same_with_and_without_its_record() -> None:
    for preferences in (BRIEF, Preferences(), Preferences(principles=WEIGHTED, kl_budget=0.1)):
        with_record, without = explained(preferences), explained(preferences, explain=False)
        assert with_record.token_ids == without.token_ids
        assert with_record.strength == without.strength
        assert without.alignment is None


def test_a_small_choice_of_alternatives_still_holds_what_was_displaced() -> None:
    few, many = (record_of(explained(explain=count)) for count in (1, 20))
    assert any(token.displaced for token in few.tokens)
    for small, large in zip(few.tokens, many.tokens, strict=True):
        assert (small.displaced is None) == (large.displaced is None)
        assert len(small.alternatives) <= 1
        if small.displaced and large.displaced:
            assert small.displaced.token_id == large.displaced.token_id


def test_records_in_a_crowd_are_those_of_each_alone() -> None:
    wanted = [
        Preferences(),
        BRIEF,
        Preferences(principles=WEIGHTED),
        Preferences(principles=["Be formal."], ratio=1.0, kl_budget=0.05),
        Preferences(principles=["Be formal."], plausibility=1.0),
    ]
    asks = [
        {
            "messages": text,
            "preferences": preferences,
            "sampling": SamplingParams(seed=number, max_tokens=9, temperature=number % 3 / 2),
            "explain": number % 4,
            "grammar": Grammar.regex("[a-e]{3}it was[0-9]{9}") if number % 5 == 0 else None,
        }
        for number, (text, preferences) in enumerate(
            (text, one) for text in ("Hi", "It was the rain", "Who?") for one in wanted
        )
    ]
    lonely = [endless().generate(**ask) for ask in asks]
    crowded = Engine(model(), tokenizer(), model_id="tiny-crowd", reuse_bytes=0)
    crowded._end_tokens = frozenset()
    with ThreadPoolExecutor(len(asks)) as pool:
        together = list(pool.map(lambda ask: crowded.generate(**ask), asks))
    for ask, one, other in zip(asks, lonely, together, strict=True):
        if not ask["explain"]:
            assert one.alignment is other.alignment is None
            continue
        first, second = record_of(one), record_of(other)
        assert len(first.tokens) == 9
        for mine, theirs in zip(first.tokens, second.tokens, strict=True):
            assert numbers(mine) == pytest.approx(numbers(theirs), rel=1e-2, abs=1e-5)
            assert (mine.text, mine.forced) == (theirs.text, theirs.forced)


def numbers(token: TokenRecord) -> list[float]:
    return [
        token.token_id,
        token.ratio,
        token.kl,
        *(
            value or 0.0
            for one in (token, *token.alternatives)
            for value in (one.token_id, one.prompted, one.aligned)
        ),
    ]


# --- The texts ---


@pytest.mark.parametrize("stop", [(), ("e",), ("he", "t\u00e9")])
@pytest.mark.parametrize("seed", range(6))
def test_the_tokens_texts_are_the_answers_text(seed: int, stop: tuple[str, ...]) -> None:
    drawing = SamplingParams(seed=seed, max_tokens=60, temperature=1.5, stop=stop)
    for one in (endless(), engine()):
        result = one.generate("Hi", preferences=BRIEF, sampling=drawing, explain=True)
        assert texts(record_of(result)) == result.text
        assert len(record_of(result).tokens) == len(result.token_ids)


def spelling(text: str) -> Grammar:
    return Grammar.regex(f"{text}[0-9]{{30}}")


def test_a_character_comes_with_the_last_of_its_tokens_and_its_parts_are_named() -> None:
    record = record_of(explained(grammar=spelling("né€")))
    assert [token.text for token in record.tokens[:6]] == ["n", "", "é", "", "", "€"]
    assert all(token.token for token in record.tokens)
    assert "\ufffd" not in "".join(token.token for token in record.tokens)


def test_a_token_keeps_its_text_where_a_possible_stop_holds_it_back() -> None:
    drawing = TWENTY.model_copy(update={"stop": ("xyz!", "5")})
    result = explained(grammar=spelling("wxy"), sampling=drawing)
    record = record_of(result)
    assert [token.text for token in record.tokens[:3]] == ["w", "x", "y"]
    assert result.finish_reason == "stop"
    assert [(token.token, token.text) for token in record.tokens[-1:]] == [("5", "")]
    assert texts(record) == result.text


class Script:
    """A constraint that leaves one token at each place, and lets the engine draw it."""

    finished = False

    def __init__(self, text: str, *, without_the_last: int = 0) -> None:
        self.left = tokenizer().encode(text)
        self.left = self.left[: len(self.left) - without_the_last]
        self.left.append(tokenizer().convert_tokens_to_ids("<|im_end|>"))

    def mask(self) -> torch.Tensor:
        return torch.arange(VOCAB) == self.left[0]

    def advance(self, token_id: int) -> None:
        assert self.left.pop(0) == token_id

    def forced(self) -> tuple[int, ...]:
        return ()


def test_what_ends_an_answer_has_a_name_and_no_text() -> None:
    result = engine().generate("Hi", preferences=BRIEF, grammar=Script("no"), explain=True)
    assert result.text == "no"
    named = [(token.token, token.text) for token in record_of(result).tokens]
    assert named == [("n", "n"), ("o", "o"), ("<|im_end|>", "")]


def test_an_unfinished_character_before_the_end_belongs_to_its_own_token() -> None:
    half = Script("né", without_the_last=1)
    result = engine().generate("Hi", preferences=BRIEF, grammar=half, explain=True)
    assert result.text == "n\ufffd"
    assert [token.text for token in record_of(result).tokens] == ["n", "\ufffd", ""]


# --- Grammars ---


def test_what_a_grammar_forced_is_said() -> None:
    result = explained(grammar=Grammar.regex("[ab]{2}-done-[xy]{20}"))
    record = record_of(result)
    assert texts(record) == result.text
    forced = "".join(token.text for token in record.tokens if token.forced)
    assert forced == "-done-"
    for token in record.tokens:
        if token.forced:
            assert (token.prompted, token.aligned, token.alternatives) == (None, None, ())
            assert (token.ratio, token.kl) == (0.0, 0.0)
        else:
            assert token.prompted is not None
            assert {one.token for one in token.alternatives} <= set("abxy")
    drawn = [token for token in record.tokens if not token.forced]
    assert result.strength.mean_ratio == pytest.approx(2.0), "of those that were drawn"
    assert result.strength.mean_kl == pytest.approx(result.kl / len(drawn))


@pytest.mark.parametrize("preferences", [Preferences(), BRIEF])
def test_a_draw_from_one_token_is_forced_too_and_says_how_likely_it_was(
    preferences: Preferences,
) -> None:
    result = engine().generate("Hi", preferences=preferences, grammar=Script("no"), explain=True)
    for token in record_of(result).tokens:
        assert token.forced
        assert token.prompted is not None
        assert token.alternatives == ()


@pytest.mark.parametrize("preferences", [Preferences(), BRIEF])
def test_where_nothing_plausible_is_allowed_the_record_is_of_what_is(
    preferences: Preferences,
) -> None:
    few = preferences.model_copy(update={"plausibility": 1e-6})
    for token in record_of(explained(few, grammar=Grammar.regex("[01]{30}"))).tokens:
        assert token.token in ("0", "1")
        assert token.prompted is not None
        assert 0 < token.prompted <= 1
        assert {one.token for one in token.alternatives} <= {"0", "1"}


# --- Off, bounded, and asked for in the right way ---


@pytest.mark.parametrize("explain", [False, 0])
def test_nothing_is_looked_at_or_kept_where_nobody_asks(
    explain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **fields: object) -> None:
        raise AssertionError

    monkeypatch.setattr(sampling, "look", never)
    assert explained(explain=explain).alignment is None
    assert explained(Preferences(), explain=explain).alignment is None


@cache
def long_answer() -> Result:
    drawing = SamplingParams(seed=3, max_tokens=1100)
    return endless().generate("Hi", preferences=BRIEF, sampling=drawing, explain=2)


def test_a_long_answers_record_is_bounded_and_says_what_it_omits() -> None:
    result = long_answer()
    record = record_of(result)
    assert (len(record.tokens), record.omitted) == (1024, 76)
    assert result.text.startswith(texts(record))
    assert max(len(token.alternatives) for token in record.tokens) == 2
    assert record.strength.mean_kl == pytest.approx(result.kl / 1100), "of the whole answer"
    assert "the last 76 not recorded" in record._repr_html_()


def test_no_more_is_looked_at_than_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = sampling.look

    def counting(*args: Any, **fields: Any) -> Any:
        looked.append(1)
        return real(*args, **fields)

    monkeypatch.setattr(sampling, "look", counting)
    long_answer.cache_clear()
    long_answer()
    assert len(looked) == 1024


@pytest.mark.parametrize("explain", [-1, 21, 1.5, "yes", None])
def test_a_wrong_number_of_alternatives_is_refused(explain: Any) -> None:
    with pytest.raises(InvalidArgument, match="from 0 \\(off\\) to 20"):
        endless().stream("Hi", explain=explain)


async def test_all_four_calls_give_the_record_streams_on_their_last_piece() -> None:
    asked: dict[str, Any] = {
        "messages": "Hi",
        "preferences": BRIEF,
        "sampling": TWENTY,
        "explain": 2,
    }
    expected = record_of(endless().generate(**asked))
    assert (await endless().agenerate(**asked)).alignment == expected
    pieces = list(endless().stream(**asked))
    awaited = [piece async for piece in endless().astream(**asked)]
    for some in (pieces, awaited):
        assert some[-1].alignment == expected
        assert some[-1].strength == expected.strength
        assert {(piece.alignment, piece.strength) for piece in some[:-1]} == {(None, None)}


# --- As data ---


def test_the_record_is_a_value_that_survives_json_copies_and_pickles() -> None:
    record = record_of(explained())
    data = json.loads(json.dumps(record.to_dict()))
    assert TypeAdapter(AlignmentRecord).validate_python(data) == record
    assert pickle.loads(pickle.dumps(record)) == record == copy.deepcopy(record)
    assert len({record, copy.deepcopy(record)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.omitted = 3  # type: ignore[misc]
    assert data["tokens"][0].keys() == {field.name for field in dataclasses.fields(TokenRecord)}


def test_reprs_stay_short() -> None:
    result = explained()
    assert repr(result.alignment).startswith("<AlignmentRecord of 20 tokens, mean KL ")
    assert "AlignmentRecord" not in repr(result)


# --- As HTML ---

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=y>',
    "a&amp;b",
    "\x1b[31m",
    "\u202eab",
    "\u3164",
]


def made_of(tokens: list[str]) -> AlignmentRecord:
    """A record whose every text is hostile."""
    records = tuple(
        TokenRecord(
            token_id=number,
            token=text,
            text=text,
            prompted=0.25,
            aligned=0.5,
            ratio=2.0,
            kl=number / 10,
            forced=False,
            displaced=Alternative(1, text, 0.5, 0.25),
            alternatives=(Alternative(1, text, 0.5, 0.25),),
        )
        for number, text in enumerate(tokens)
    )
    return AlignmentRecord(records, 0, Strength(0.1, 2.0))


class Page(HTMLParser):
    """The answer's text on a page, its tags and its tips."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.answer = ""
        self.tips: list[str] = []
        self.shades: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "br":
            self.open.append({"tag": tag, **dict(attrs)})
        kinds = (dict(attrs).get("class") or "").split()
        if "linalign-tip" in kinds:
            self.tips.append("")
        if "linalign-token" in kinds:
            self.shades.append(dict(attrs).get("style") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag, "tags are closed in order"

    def handle_data(self, data: str) -> None:
        inside = " ".join(one.get("class") or "" for one in self.open).split()
        if "linalign-tip" in inside:
            self.tips[-1] += f" {data}"
        elif "linalign-text" in inside and "linalign-mark" not in inside:
            self.answer += data


def test_the_page_holds_the_answer_and_a_tip_for_each_token() -> None:
    result = explained(grammar=Grammar.regex("[a-e \\n]{40}"))
    record = record_of(result)
    page = Page(record._repr_html_())
    assert page.open == [], "every tag is closed"
    assert page.answer == result.text
    assert len(page.tips) == len(page.shades) == len(record.tokens)
    for token, tip, shade in zip(record.tokens, page.tips, page.shades, strict=True):
        assert f"KL {token.kl:.3f} nats" in tip
        assert tip.count("%") >= 2 * (1 + len(token.alternatives))
        assert bool(shade) == (token.kl >= 0.02 * max(0.1, *(one.kl for one in record.tokens)))
    deepest = max(range(len(page.shades)), key=lambda place: record.tokens[place].kl)
    assert "0.55" in page.shades[deepest]


def test_hostile_tokens_stay_text() -> None:
    html = made_of(NASTY)._repr_html_()
    page = Page(html)
    assert set(page.tags) == {"div", "style", "span", "br"}
    assert page.attributes <= {"class", "style", "tabindex", "role", "hidden"}
    for text in NASTY[:3]:
        assert text in page.answer
    assert "\x1b" not in html
    assert not {"\u202e", "\u3164"} & set(html)
    assert "\\x1b[31m" in page.answer


def test_letters_and_pictures_that_are_joined_stay_joined() -> None:
    texts_ = ["\u0645\u06cc\u200c\u0634\u0648\u062f", "\U0001f469\u200d\U0001f373", "1\xa0000"]
    record = made_of(texts_)
    assert Page(record._repr_html_()).answer == "".join(texts_)
    assert shown(record).startswith("".join(texts_))


def test_the_page_needs_nothing_from_elsewhere() -> None:
    html = record_of(explained())._repr_html_()
    for reference in ("http", "url(", "src=", "href=", "@import", "<script"):
        assert reference not in html


def test_a_page_says_what_was_forced_and_bounds_what_it_shows() -> None:
    html = record_of(explained(grammar=Grammar.regex("[ab]-done-[xy]{20}")))._repr_html_()
    assert "forced by the grammar, not drawn" in html
    assert html.count("linalign-forced") == 1 + len("-done-")
    assert len(Page(made_of(["x" * 500])._repr_html_()).tips[0]) < 200


# --- In a terminal ---


def shown(record: AlignmentRecord, **fields: Any) -> str:
    console = Console(file=io.StringIO(), width=100, **fields)
    console.print(record)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_terminal_shows_the_answer_and_where_most_was_spent() -> None:
    record = made_of(["Ahoy", "!\n", " mate"])
    plain = shown(record)
    assert plain.startswith("Ahoy!\n mate\n")
    assert "3 tokens · mean KL 0.1 nats · mean ratio 2" in plain
    assert [line for line in plain.splitlines() if "·mate" in line and "0.200" in line]
    coloured = shown(record, force_terminal=True, color_system="truecolor")
    assert "\x1b[" in coloured
    assert coloured.index("48;2") > coloured.index("Ahoy"), "nothing was spent on the first token"


def test_a_terminal_is_steered_by_no_token() -> None:
    told = shown(made_of([*NASTY, "[bold]x[/]", "[/nonsense]"]))
    assert "\x1b" not in told
    assert "\u202e" not in told.replace("\\u202e", "")
    assert "[bold]x[/]" in told


def test_an_empty_record_can_be_shown() -> None:
    empty = AlignmentRecord((), 0, Strength(0.0, 0.0))
    assert "0 tokens" in shown(empty)
    assert Page(empty._repr_html_()).answer == ""


def test_importing_the_engine_loads_nothing_that_renders() -> None:
    code = (
        "import sys, linalign_integrations.engine;"
        "print('linalign_integrations.engine.rendering' in sys.modules, 'rich' in sys.modules)"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False False"
