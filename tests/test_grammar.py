"""Grammars: what masks let through, what they keep out, and what is said of grammars that fail."""

from __future__ import annotations

import importlib.util
import json
import pickle
import random
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Literal

import pytest
from models import VOCAB, tokenizer
from pydantic import BaseModel, Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from linalign_integrations import pocket
from linalign_integrations.engine.grammar import Constraint, Grammar, GrammarCompiler
from linalign_integrations.errors import (
    GenerationFailed,
    InvalidGrammar,
    MissingExtra,
    UnsupportedModel,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

# In the padding of the logits, where the tiny tokenizer has no token.
PADDED_END = VOCAB - 1


class Pet(BaseModel):
    name: str = Field(max_length=6)
    age: int = Field(ge=0, le=30)
    kind: Literal["cat", "dog"]
    tags: list[Literal["shy", "big"]] = Field(max_length=2)
    owner: Person | None


class Person(BaseModel):
    email: str = Field(pattern="^[a-z]{1,5}@[a-z]{1,5}$")
    pet: Pet | None = None


@cache
def byte_fallback() -> PreTrainedTokenizerFast:
    """Words with a space mark, bytes for other characters; decoding drops a text's first space."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pairs = [("h", "i"), ("▁", "hi"), ("o", "k"), ("▁", "ok"), ("▁", "a"), ("▁", "{"), ('"', ":")]
    words += ["▁", *'abchiko{}":,1', *map("".join, pairs)]
    vocabulary = {word: place for place, word in enumerate(words)}
    core = Tokenizer(models.BPE(vocabulary, pairs, byte_fallback=True, unk_token="<unk>"))  # noqa: S106
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
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    made = {
        "byte-level": tokenizer,
        "byte-fallback": byte_fallback,
        "pocket": lambda: AutoTokenizer.from_pretrained(pocket.weights()),
    }
    return made[name]()


@cache
def compiler(name: str = "byte-level") -> GrammarCompiler:
    end = tokenizer_of(name).eos_token_id
    size = max(VOCAB, len(tokenizer_of(name)))
    ends = {end, PADDED_END} if name == "byte-level" else {end}
    return GrammarCompiler(tokenizer_of(name), size, frozenset(ends))


def allowed(constraint: Constraint) -> set[int]:
    return set(constraint.mask().nonzero()[:, 0].tolist())


def texts(constraint: Constraint) -> set[str]:
    """What may come next, as text; an end is the empty one."""
    ends = {tokenizer().eos_token_id, PADDED_END}
    return {"" if token in ends else tokenizer().decode([token]) for token in allowed(constraint)}


def read(constraint: Constraint, text: str) -> Constraint:
    for token in tokenizer().encode(text):
        constraint.advance(token)
    return constraint


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether a whole text satisfies the grammar, by the tiny tokenizer."""
    try:
        end = read(compiler().start(grammar), text).mask()[tokenizer().eos_token_id]
    except GenerationFailed:
        return False
    return bool(end)


def walk(constraint: Constraint, name: str, seed: int, most: int = 400) -> str | None:
    """A text drawn evenly from what the masks allow; None if it takes too long to end."""
    draw = random.Random(seed)
    form = tokenizer_of(name)
    drawn: list[int] = []
    while len(drawn) < most:
        for token in constraint.forced():
            assert allowed(constraint) == {token}
            constraint.advance(token)
            drawn.append(token)
        if constraint.finished:
            break
        choices = sorted(allowed(constraint))
        # Without this, an answer would almost never end in a vocabulary of thousands.
        token = form.eos_token_id if form.eos_token_id in choices else draw.choice(choices)
        if token == form.eos_token_id and len(choices) > 1 and draw.random() < 0.5:
            token = draw.choice(choices)
        constraint.advance(token)
        drawn.append(token)
    else:
        return None
    return str(form.decode(drawn, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def balanced(text: str) -> bool:
    depth = 0
    for mark in text:
        depth += 1 if mark == "(" else -1
        if depth < 0:
            return False
    return depth == 0 and text != ""


PATTERNS = [
    "(yes|no), (because|although) [a-e ]{1,4}[.]",
    "[0-9]{1,3}(,[0-9]{3}){0,2}",
    "ä?ö+|漢字",
]
NESTED = 'start: pair\npair: "(" (pair pair?)? ")"'


@pytest.mark.parametrize("name", ["byte-level", "byte-fallback", "pocket"])
@pytest.mark.parametrize(
    ("grammar", "fits"),
    [
        (Grammar.json_schema(Pet), lambda text: bool(Pet.model_validate_json(text))),
        (Grammar.lark(NESTED), balanced),
        *(
            (Grammar.regex(pattern), lambda text, pattern=pattern: re.fullmatch(pattern, text))
            for pattern in PATTERNS
        ),
    ],
    ids=["json", "lark", *PATTERNS],
)
def test_whatever_the_masks_allow_ends_in_a_text_that_fits(
    name: str, grammar: Grammar, fits: Callable[[str], object]
) -> None:
    found = [walk(compiler(name).start(grammar), name, seed) for seed in range(8)]
    whole = [text for text in found if text is not None]
    assert len(whole) >= 4
    for text in whole:
        assert fits(text), text


def test_a_mask_holds_exactly_the_tokens_that_some_answer_goes_on_with() -> None:
    constraint = compiler().start(Grammar.regex("hear|heat|hi|it"))
    assert texts(constraint) == {"h", "he", "i"}
    assert texts(read(constraint, "he")) == {"a"}
    assert texts(read(constraint, "a")) == {"r", "t"}
    assert not constraint.finished
    assert texts(read(constraint, "t")) == {""}
    assert constraint.finished


def test_an_answer_may_end_only_where_it_fits_and_with_any_of_the_end_tokens() -> None:
    ends = {tokenizer().eos_token_id, PADDED_END}
    for end in ends:
        constraint = compiler().start(Grammar.regex("a+(bc)?"))
        assert not allowed(constraint) & ends
        assert allowed(read(constraint, "a")) > ends
        assert not allowed(read(constraint, "b")) & ends
        assert allowed(read(constraint, "c")) == ends
        read(compiler().start(Grammar.regex("a+(bc)?")), "aa").advance(end)
        constraint.advance(end)
        assert constraint.finished
        assert allowed(constraint) == ends
        assert constraint.forced() == ()
        with pytest.raises(GenerationFailed, match=r"complete by its grammar; token 64 cannot"):
            constraint.advance(64)


def test_an_end_token_too_early_is_refused() -> None:
    for end in (tokenizer().eos_token_id, PADDED_END):
        constraint = read(compiler().start(Grammar.regex("ab")), "a")
        with pytest.raises(GenerationFailed, match=f"does not allow token {end} here"):
            constraint.advance(end)


def test_a_text_token_that_is_an_end_token_never_passes_as_text() -> None:
    comma = tokenizer().encode(",")[0]
    made = GrammarCompiler(tokenizer(), VOCAB, frozenset({comma}))
    constraint = made.start(Grammar.regex("a[,;]?b?"))
    assert comma not in allowed(constraint)
    assert allowed(read(constraint, "a")) == {comma, *tokenizer().encode(";b")}
    constraint.advance(comma)
    assert constraint.finished


def test_without_end_tokens_an_answer_ends_where_nothing_can_follow() -> None:
    made = GrammarCompiler(tokenizer(), VOCAB, frozenset())
    constraint = made.start(Grammar.regex("ab?"))
    assert texts(read(constraint, "a")) == {"b"}
    assert read(constraint, "b").finished
    assert not constraint.mask().any()


def test_a_grammar_can_name_the_control_token_that_ends_it() -> None:
    constraint = compiler().start(Grammar.lark('start: "a" <|im_end|> | "b" <|im_start|> "c"'))
    assert texts(constraint) == {"a", "b"}
    read(constraint, "a")
    assert allowed(constraint) == {tokenizer().eos_token_id}
    assert not constraint.finished
    constraint.advance(tokenizer().eos_token_id)
    assert constraint.finished
    start = tokenizer().convert_tokens_to_ids("<|im_start|>")
    other = read(compiler().start(Grammar.lark('start: "b" <|im_start|> "c"')), "b")
    assert allowed(other) == {start}
    other.advance(start)
    assert texts(other) == {"c"}


@pytest.mark.parametrize("size", [len(tokenizer()), 1000, 300, 100])
def test_masks_are_as_wide_as_the_logits_and_shut_on_their_padding(size: int) -> None:
    end = tokenizer().eos_token_id
    mask = GrammarCompiler(tokenizer(), size, frozenset({end})).start(Grammar.regex(".*")).mask()
    assert mask.shape == (size,)
    assert mask.dtype.is_floating_point is False
    assert mask[:90].any()
    assert not mask[len(tokenizer()) :].any()


def test_tokens_beyond_narrow_logits_are_never_forced() -> None:
    wide = compiler().start(Grammar.regex("hi there"))
    narrow = GrammarCompiler(tokenizer(), 256, frozenset()).start(Grammar.regex("hi there"))
    assert max(wide.forced()) >= 256
    assert narrow.forced() == tuple(tokenizer().encode("hi"))
    with pytest.raises(GenerationFailed, match="no token of this model can continue"):
        read(narrow, "hi").mask()


def test_forced_tokens_are_the_only_way_on_spelt_as_the_tokenizer_spells_it() -> None:
    constraint = compiler().start(Grammar.regex("(yes|no), in the interim"))
    assert constraint.forced() == ()
    forced = read(constraint, "y").forced()
    assert list(forced) == tokenizer().encode("es, in the interim")
    for token in forced:
        assert allowed(constraint) == {token}
        constraint.advance(token)
    assert constraint.finished
    assert constraint.forced() == ()


def test_nothing_is_forced_where_the_text_may_end() -> None:
    constraint = read(compiler().start(Grammar.regex("ab(cd)?")), "ab")
    assert constraint.forced() == ()
    assert not constraint.finished
    assert list(read(constraint, "c").forced()) == tokenizer().encode("d")


def test_a_json_answer_s_fixed_parts_are_forced() -> None:
    constraint = compiler().start(Grammar.json_schema(Person))
    assert tokenizer().decode(constraint.forced()) == '{"email":'


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "null"}}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text", ['{"a":1}', '{"a": 1}', '{"a": -20, "b": [null, null]}', '{"a":0,"b":[]}']
)
def test_json_may_have_a_space_after_its_separators(text: str) -> None:
    assert accepts(Grammar.json_schema(SCHEMA), text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":  1}',
        '{ "a": 1}',
        '{"a": 1 }',
        '{"a" : 1}',
        '{\n"a": 1}',
        ' {"a": 1}',
        '{"a": 1}\n',
        '{"a": 1, "b": [ ]}',
        "{}",
        '{"a": 1.5}',
        '{"a": "1"}',
        '{"a": 01}',
        '{"a": 1, "c": 2}',
        '{"b": [], "a": 1}',
        '{"a": 1, "a": 1}',
        '{"a": 1,}',
    ],
)
def test_json_that_breaks_its_schema_or_wanders_into_whitespace_is_kept_out(text: str) -> None:
    assert not accepts(Grammar.json_schema(SCHEMA), text)


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("a|bc", "bc", True),
        ("a|bc", "ac", False),
        ("^a$", "a", True),
        ("a.b", "a\nb", False),
        (r"\d", "٣", True),
        ("(?i)ab", "aB", True),
        (r"[^\n]*", "", True),
    ],
)
def test_a_regex_matches_the_whole_answer(pattern: str, text: str, fits: bool) -> None:
    assert accepts(Grammar.regex(pattern), text) is fits is bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize(
    ("pattern", "begin", "text"),
    [
        ("hi( ok)?", "▁hi", "hi"),
        ("hi( ok)?", "hi", "hi"),
        ("(hi|ok)", "▁ok", "ok"),
        (" hi", "▁", ""),
    ],
)
def test_a_space_that_decoding_drops_may_begin_an_answer(
    pattern: str, begin: str, text: str
) -> None:
    form = byte_fallback()
    constraint = compiler("byte-fallback").start(Grammar.regex(pattern))
    token = form.convert_tokens_to_ids(begin)
    assert token in allowed(constraint)
    constraint.advance(token)
    assert form.decode([token]) == text
    rest = walk(constraint, "byte-fallback", 0)
    assert rest is not None


def test_a_space_that_a_grammar_wants_is_not_the_one_that_decoding_drops() -> None:
    for seed in range(5):
        text = walk(compiler("byte-fallback").start(Grammar.regex(" hi ok")), "byte-fallback", seed)
        assert text == " hi ok"


def test_a_grammar_that_is_followed_twice_is_followed_apart() -> None:
    grammar = Grammar.regex("a[bc]|d")
    first, second = compiler().start(grammar), compiler().start(grammar)
    read(first, "a")
    assert (texts(first), texts(second)) == ({"b", "c"}, {"a", "d"})
    read(second, "d")
    assert texts(read(first, "b")) == {""}
    assert texts(compiler().start(grammar)) == {"a", "d"}


def test_any_number_of_grammars_may_take_turns() -> None:
    made = GrammarCompiler(tokenizer(), VOCAB, frozenset({PADDED_END}))
    for _ in range(2):
        for number in range(40):
            assert made.start(Grammar.regex(f"{number}!")).forced() == tuple(
                tokenizer().encode(f"{number}!")
            )


def test_grammars_start_and_run_in_many_threads_at_once() -> None:
    made = GrammarCompiler(tokenizer(), VOCAB, frozenset({tokenizer().eos_token_id}))

    def work(seed: int) -> bool:
        pattern = f"({seed % 3}[a-f]{{2,9}})+;"
        text = walk(made.start(Grammar.regex(pattern)), "byte-level", seed)
        return text is None or re.fullmatch(pattern, text) is not None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(48)))


def test_grammars_are_values() -> None:
    mapping = {"type": "object", "properties": {"a": {}, "b": {"enum": ["ä"]}}}
    same = [Grammar.json_schema(mapping), Grammar.json_schema(json.dumps(mapping, indent=4))]
    assert len({*same, *map(pickle.loads, map(pickle.dumps, same))}) == 1
    assert Grammar.json_schema(Pet) == Grammar.json_schema(Pet.model_json_schema())
    assert Grammar.json_schema(Pet) != Grammar.json_schema(Person)
    assert Grammar.regex("a") != Grammar.lark("a")
    assert Grammar.regex("a") == Grammar("regex", "a")
    with pytest.raises(AttributeError):
        same[0].text = "other"  # type: ignore[misc]
    assert repr(Grammar.regex("a")) == "Grammar(kind='regex', text='a')"
    assert len(repr(Grammar.regex("a" * 10_000))) < 100


def test_properties_come_in_the_schema_s_order() -> None:
    parts = {"b": {"const": 1}, "a": {"const": 2}}
    schema = {"type": "object", "required": ["a", "b"], "additionalProperties": False}
    assert accepts(Grammar.json_schema({"properties": parts, **schema}), '{"b":1,"a":2}')
    assert not accepts(Grammar.json_schema({"properties": parts, **schema}), '{"a":2,"b":1}')


class Odd(BaseModel):
    call: Unknown  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Grammar("xml", "a"), r"unknown kind of grammar 'xml': use json_schema, regex, la"),
        (lambda: Grammar.regex(re.compile("a")), r"a regex is a string, not Pattern"),
        (lambda: Grammar.lark(None), r"a Lark grammar is a string, not NoneType"),
        (lambda: Grammar.json_schema("{"), r"the JSON schema cannot be read: Expecting property"),
        (lambda: Grammar.json_schema("[1]"), r"a JSON schema is a mapping.* not '\[1\]'"),
        (lambda: Grammar.json_schema(Pet(name="a", age=1, kind="cat", tags=[], owner=None)), "not"),
        (lambda: Grammar.json_schema({"const": {1}}), r"cannot be read: .*set is not JSON"),
        (lambda: Grammar.json_schema({"const": float("nan")}), r"cannot be read: Out of range"),
        (lambda: Grammar.json_schema(Odd), r"cannot be read: `Odd` is not fully defined"),
    ],
)
def test_what_is_no_grammar_is_refused_at_once(make: Callable[[], Grammar], said: str) -> None:
    with pytest.raises(InvalidGrammar, match=said):
        make()


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        (
            Grammar.json_schema({"type": "array", "uniqueItems": True}),
            r"keys: \[\"uniqueItems\"\];",
        ),
        (Grammar.json_schema({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}), r"\[\"not\"\]"),
        (
            Grammar.json_schema({"type": "string", "format": "phone"}),
            r"Unknown format: phone; leav",
        ),
        (Grammar.json_schema({"type": "strin"}), r"schema cannot be enforced: Invalid type: strin"),
        (Grammar.json_schema({"$ref": "https://a.example/b.json"}), r"https://a.example/b.json"),
        (
            Grammar.json_schema({"type": "string", "pattern": "(?=a)b"}),
            r"look-around.* is not supp",
        ),
        (
            Grammar.json_schema({"minimum": 2, "maximum": 1, "type": "number"}),
            r"Unsatisfiable schem",
        ),
        (Grammar.json_schema({"$ref": "#"}), r"no text can satisfy the JSON schema: no token of"),
        (
            Grammar.json_schema({"oneOf": [{"type": "string"}, {"minLength": 3}]}),
            r"oneOf constraints are not supported; leave that part out, or say it in another way$",
        ),
        (Grammar.json_schema({"items": {"minProperties": 2}}), r"minProperties 2 is more than the"),
        (Grammar.json_schema({"x-guidance": {"lenient": True}}), r"x-guidance.*: leave them out$"),
        (Grammar("json_schema", "[]"), r"a JSON schema is an object, not \[\]"),
        (Grammar("json_schema", "{"), r"cannot be enforced: Expecting property name"),
        (
            Grammar.regex("a(?=b)"),
            r"the regex cannot be enforced: look-around.*; write it as Rust's",
        ),
        (Grammar.regex(r"(a)\1"), r"enforced: backreferences are not supported; write"),
        (Grammar.regex("a["), r"the regex cannot be enforced: unclosed character class; write"),
        (Grammar.regex(r"a\bc"), r"enforced: invalid regex .*lookarounds not supported"),
        (Grammar.regex(r"a[^\s\S]"), r"no text can satisfy the regex: no token of this model can"),
        (Grammar.regex("\ud800"), r"the regex cannot be enforced: 'utf-8' codec can't encode"),
        (
            Grammar.lark('begin: "a"'),
            r"the Lark grammar cannot be enforced: no start rule found; wr",
        ),
        (
            Grammar.lark('start: "a" | b\nb: c'),
            r"enforced: line 2, column \d+: unknown name: \"c\"; wri",
        ),
        (Grammar.lark("start: <|nope|>"), r"unknown special token: \"<\|nope\|>\""),
        (Grammar.lark("start: " + 1000 * "("), r"too deeply nested"),
    ],
)
def test_a_grammar_that_cannot_be_enforced_is_refused_in_one_line(
    grammar: Grammar, said: str
) -> None:
    for name in ("byte-level", "byte-fallback"):
        if name == "byte-fallback" and "<|" in grammar.text:
            continue
        with pytest.raises(InvalidGrammar, match=said) as caught:
            compiler(name).start(grammar)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_keys_that_are_only_notes_are_no_reason_to_refuse_a_schema() -> None:
    notes = {
        "title": "A",
        "description": "b",
        "default": {"not": 1},
        "examples": [{"minProperties": 9}],
    }
    schema = {"type": "string", "enum": ["x"], "$comment": "c", "deprecated": True, **notes}
    assert accepts(Grammar.json_schema(schema), '"x"')


def test_properties_may_have_the_names_of_keywords() -> None:
    properties = {"minProperties": {"const": 5}, "not": {"const": 1}}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    assert accepts(Grammar.json_schema(schema), '{"minProperties": 5, "not": 1}')


def test_a_token_that_is_not_allowed_is_refused() -> None:
    constraint = compiler().start(Grammar.regex("ab"))
    with pytest.raises(GenerationFailed, match=r"^the grammar does not allow token 65 here$"):
        read(constraint, "b")


def test_a_grammar_that_goes_beyond_the_limits_fails_its_request_alone() -> None:
    grammar = Grammar.regex("(.{0,300}a){50}")
    constraint = compiler("pocket").start(grammar)
    form = tokenizer_of("pocket")

    def follow() -> None:
        for token in form.encode("a house of cards and a tree were at a sea" * 5):
            constraint.advance(token)
            constraint.mask()

    with pytest.raises(GenerationFailed, match=r"cannot be followed further \(.*\): make it simpl"):
        follow()
    assert compiler("pocket").start(grammar).mask().any()


def test_no_ending_is_looked_for_that_would_hold_up_all_others() -> None:
    far, near = (compiler("pocket").start(Grammar.regex(f"a{{{n}}}b")) for n in (9000, 90))
    assert far.shortest_ending(20_000) is None
    assert near.shortest_ending(20_000)


def test_a_text_that_no_token_continues_fails() -> None:
    alphabet = [mark for mark in sorted(pre_tokenizers.ByteLevel.alphabet()) if mark != "b"]
    core = Tokenizer(models.BPE({mark: place for place, mark in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    poor = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")  # noqa: S106
    constraint = GrammarCompiler(poor, 300, frozenset({255})).start(Grammar.regex("c?ab"))
    constraint.advance(poor.encode("a")[0])
    with pytest.raises(GenerationFailed, match="no token of this model can continue the text"):
        constraint.mask()


def test_a_grammar_whose_terminal_swallows_all_that_follows_does_not_hang() -> None:
    constraint = compiler().start(Grammar.lark('start: / +/ " x"'))
    assert texts(constraint) == {" "}
    assert texts(read(constraint, "   ")) == {" "}


def test_a_tokenizer_that_cannot_be_read_is_an_unsupported_model() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))  # noqa: S106
    odd = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")  # noqa: S106
    with pytest.raises(UnsupportedModel, match=r"of a kind that llguidance cannot read .*BPE tok"):
        GrammarCompiler(odd, 10, frozenset({2})).start(Grammar.regex("a"))
    with pytest.raises(UnsupportedModel, match=r"its tokenizer is not a fast one: save it as"):
        GrammarCompiler(ByT5Tokenizer(), 400, frozenset({1})).start(Grammar.regex("a"))


def test_llguidance_is_needed_only_to_start_a_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    found = importlib.util.find_spec("linalign_integrations.engine.grammar")
    assert found is not None
    assert found.loader is not None
    fresh = importlib.util.module_from_spec(found)
    found.loader.exec_module(fresh)
    made = fresh.GrammarCompiler(tokenizer(), VOCAB, frozenset({PADDED_END}))
    with pytest.raises(MissingExtra, match=r"pip install 'linalign-integrations\[grammar\]'"):
        made.start(fresh.Grammar.json_schema(Pet))
