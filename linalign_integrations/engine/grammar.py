"""Grammars: which tokens may come next, so that an answer is one that a program can read."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import takewhile
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import torch
from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from linalign_integrations.errors import (
    GenerationFailed,
    InvalidGrammar,
    MissingExtra,
    UnsupportedModel,
)
from linalign_integrations.prompts.schemas import (
    WrittenSchema,
    close_objects,
    loosen,
    narrow,
    parts,
    without_notes,
)

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

GrammarKind = Literal["json_schema", "regex", "lark"]

_NAMES = {"json_schema": "JSON schema", "regex": "regex", "lark": "Lark grammar"}
_ADVICE = {
    "json_schema": "leave that part out, or say it in another way",
    "regex": "write it as Rust's regex crate reads it, without look-around or back-references",
    "lark": "write it in llguidance's dialect of Lark",
}
# Whitespace as models write JSON on one line. More of it would let a model write nothing else.
_JSON: Any = {
    "item_separator": ", ?",
    "key_separator": ": ?",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
}
# Compiled grammars to keep; a large schema takes tens of milliseconds, and a service has a handful.
_KEPT = 32
_LONGEST_REASON = 200
_IMPASSE = "no token of this model can continue the text as its grammar wants"
# What may stand between reasoning and what follows it.
_AFTER_BREAK = {"lark_grammar": "start: BREAK? @text\nBREAK: /\\n{1,2}/"}
# Endings that take more tokens than this are not looked for: when a grammar is compiled, and while
# an answer is written, when all others wait for it.
_LONGEST_ENDING = 256
_LONGEST_ENDING_NOW = 1024
# What brings JSON to its end soonest, the most wanted first: as much as can be closed at once, then
# the shortest values, then what fills numbers and strings that cannot end yet, then openings.
_CLOSE_STRING = ('"}]', '"}}', '"]}', '"}', '"]', '"')
_CLOSE = ("}]", "]}", "}}", "]]", "}", "]", "[]", "{}", "null", "true", "false", '""')
# The comma fills first: a number that is being written could go on for ever.
_FILL = tuple(",01a@.:/-x23456789bc")
_OPEN = tuple('"ntf[{')
# Where a terminal swallows what should follow it, as in / +/ " x", forcing would never end.
_UNFORCED = '\n%llguidance {"no_forcing": true}'


class Constraint(Protocol):
    """Says which token may come next; used by one request, from one thread at a time."""

    @property
    def finished(self) -> bool:
        """Whether nothing but an end-of-sequence token may follow."""
        ...

    def mask(self) -> Tensor:
        """``[vocab]`` bool on the CPU: what may come next; not to be changed by the caller.

        An end-of-sequence token is allowed exactly where the text may end.

        Raises:
            GenerationFailed: nothing may come next, or it cannot be found out.
        """
        ...

    def advance(self, token_id: int) -> None:
        """Takes note of the token that was drawn, which may be an end-of-sequence token.

        Raises:
            GenerationFailed: it was not allowed.
        """
        ...

    def forced(self) -> tuple[int, ...]:
        """Tokens that must follow now, whatever the model says; may be none.

        They are for the caller to pass to ``advance``, and may be more than the answer has room
        for. An end-of-sequence token is never among them.

        Raises:
            GenerationFailed: they cannot be found out.
        """
        ...


@dataclass(frozen=True, repr=False)
class Grammar:
    """What an answer must look like, from its first to its last character.

    Frozen, hashable, compared by value. Whether it can be enforced shows when it is first used.

    Attributes:
        kind: how ``text`` is to be read.
        text: the grammar.

    Raises:
        InvalidGrammar: there is no such kind, or the text is not a string.
    """

    kind: GrammarKind
    text: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(GrammarKind):
            raise InvalidGrammar(
                f"unknown kind of grammar {self.kind!r}: use {', '.join(get_args(GrammarKind))}"
            )
        if not isinstance(self.text, str):
            raise InvalidGrammar(
                f"a {_NAMES[self.kind]} is a string, not {type(self.text).__name__}"
            )

    def __repr__(self) -> str:
        shown = shortened(self.text)
        # Caches compare what objects look like: unequal ones must not look alike.
        if shown != repr(self.text):
            text = self.text.encode(errors="surrogatepass")
            shown += f", digest={blake2b(text, digest_size=8).hexdigest()!r}"
        return f"Grammar(kind={self.kind!r}, text={shown})"

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str | type[BaseModel]) -> Grammar:
        """JSON that a schema (draft 2020-12 or earlier) accepts.

        Properties come in the schema's order, and the JSON is on one line, with at most one space
        after each ``:`` and ``,``.

        Args:
            schema: as a mapping, as JSON, or the pydantic model to be read from the answer.

        Raises:
            InvalidGrammar: it is not a schema. What cannot be enforced in it shows on first use.
        """
        return cls("json_schema", _as_json(schema))

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Text that a regular expression matches as a whole.

        Args:
            pattern: in the syntax of Rust's regex crate, which is Python's without look-around
                and back-references. Its dot matches no newline.

        Raises:
            InvalidGrammar: it is not a string.
        """
        return cls("regex", pattern)

    @classmethod
    def lark(cls, grammar: str) -> Grammar:
        """Text that follows a context-free grammar.

        Args:
            grammar: in llguidance's dialect of Lark; the rule to follow is named ``start``. It can
                name control tokens, as ``<|python_tag|>``, and hold schemas, as ``%json {...}``,
                whose whitespace is bounded only where the grammar bounds it.

        Raises:
            InvalidGrammar: it is not a string.
        """
        return cls("lark", grammar)


@dataclass(frozen=True, repr=False)
class CallGrammar(Grammar):
    """A Lark grammar of this package's own, in which tokens may be forced.

    Attributes:
        answer: what its rule ``@answer`` stands for.
    """

    answer: Grammar | None = None


def _as_json(schema: object) -> str:
    try:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_json_schema(schema_generator=WrittenSchema)
        read = json.loads(schema) if isinstance(schema, str) else schema
        if isinstance(read, Mapping):
            # Written anew, so that schemas which differ in whitespace only are equal.
            return json.dumps(
                dict(read), allow_nan=False, ensure_ascii=False, separators=(",", ":")
            )
    except (
        TypeError,
        ValueError,
        RecursionError,
        PydanticUserError,
        PydanticUndefinedAnnotation,
    ) as error:
        raise InvalidGrammar(f"the JSON schema cannot be read: {_first_line(error)}") from error
    raise InvalidGrammar(
        "a JSON schema is a mapping, the JSON of one, or a pydantic model class, "
        f"not {shortened(schema)}"
    )


class GrammarCompiler:
    """Starts grammars for the requests of one engine; may be used from any thread.

    What llguidance needs to know of the tokenizer is read when the first grammar starts, which
    takes about a second for a large vocabulary. Recent grammars are kept compiled.

    Args:
        tokenizer: the model's.
        vocab_size: width of the model's logits.
        end_tokens: all tokens that end an answer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, end_tokens: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_tokens = end_tokens
        self._lock = threading.Lock()
        self._vocabulary: _Vocabulary | None = None
        # The least recently used first.
        self._compiled: dict[tuple[Grammar, bool], Matching] = {}

    def start(self, grammar: Grammar, *, within: bool = False) -> Matching:
        """A constraint for one answer, which is at its beginning.

        Args:
            grammar: what to follow.
            within: whether something comes before it in the same answer, such as reasoning; there
                may be a line break or two between them.

        Raises:
            InvalidGrammar: the grammar cannot be read or enforced, or nothing satisfies it.
            MissingExtra: llguidance is not installed.
            UnsupportedModel: llguidance cannot read the tokenizer.
        """
        with self._lock:
            compiled = self._compiled.pop((grammar, within), None)
            if compiled is None:
                compiled = _compile(self._read(), grammar, within=within)
            self._compiled[grammar, within] = compiled
            if len(self._compiled) > _KEPT:
                del self._compiled[next(iter(self._compiled))]
            return compiled.copy()

    def special_tokens(self) -> dict[str, int]:
        """Tokens that a grammar must name by their ids, since no text of it spells them.

        Raises:
            MissingExtra: llguidance is not installed.
            UnsupportedModel: llguidance cannot read the tokenizer.
        """
        with self._lock:
            tokens = self._read().tokens
        added = self._tokenizer.added_tokens_decoder.items()
        return {token.content: place for place, token in added if tokens.is_special_token(place)}

    def _read(self) -> _Vocabulary:
        require_llguidance()
        if self._vocabulary is None:
            self._vocabulary = _read_vocabulary(self._tokenizer, self._vocab_size, self._end_tokens)
        return self._vocabulary


def require_llguidance() -> None:
    """Refuses to go on without what enforces grammars.

    Raises:
        MissingExtra: llguidance is not installed.
    """
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "a grammar needs a package that is not installed: "
            "pip install 'linalign-integrations[grammar]'"
        ) from error


@dataclass(frozen=True)
class _Vocabulary:
    """The tokens of one engine, as llguidance and as the model's logits number them.

    Attributes:
        tokens: llguidance's view of the tokenizer.
        size: width of the logits.
        ends: the end-of-sequence tokens within that width.
        special: those of them that a grammar can name.
        textless: tokens that llguidance's masks may hold but that are never part of a text.
        of_strings: tokens that only the strings of JSON hold.
        close_string: tokens to try, in turn, where an ending is looked for inside of a string.
        close: the same elsewhere.
        fill: what to try next, the one that was tried least first.
        open: what to try last.
        spaced: ``[size]`` tokens that begin with a space, for a tokenizer whose decoding drops the
            first space of a text. None for others.
    """

    tokens: LLTokenizer
    size: int
    ends: frozenset[int]
    special: frozenset[int]
    textless: frozenset[int]
    of_strings: NDArray[np.int64]
    close_string: NDArray[np.int64]
    close: NDArray[np.int64]
    fill: NDArray[np.int64]
    open: NDArray[np.int64]
    spaced: NDArray[np.bool_] | None = None

    def allowed(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        """``[size]`` what llguidance lets follow.

        Raises:
            GenerationFailed: the grammar is at an impasse, or went beyond a limit.
        """
        packed = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error():
            raise _failed(matcher)
        width = min(self.size, self.tokens.vocab_size)
        allowed = np.zeros(self.size, np.bool_)
        allowed[:width] = np.unpackbits(packed, count=width, bitorder="little")
        return allowed


def _read_vocabulary(
    tokenizer: PreTrainedTokenizerBase, size: int, end_tokens: frozenset[int]
) -> _Vocabulary:
    from llguidance import LLMatcher
    from llguidance.hf import from_tokenizer
    from transformers import PreTrainedTokenizerFast

    refusal = "no grammar can be enforced with this model: its tokenizer is "
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModel(
            f"{refusal}not a fast one: save it as tokenizer.json, or choose a model that has that"
        )
    # An end token may lie in the padding of the logits, where llguidance knows of no token.
    known = set(tokenizer.get_vocab().values())
    try:
        tokens = from_tokenizer(tokenizer, eos_token=sorted(end_tokens & known) or None)
    except ValueError as error:
        raise UnsupportedModel(
            f"{refusal}of a kind that llguidance cannot read ({_first_line(error)}): choose a "
            "model with a byte-level or byte-fallback BPE tokenizer"
        ) from error
    ends = frozenset(end for end in end_tokens if end < size)
    vocabulary = _Vocabulary(
        tokens=tokens,
        size=size,
        ends=ends,
        special=frozenset(end for end in ends & known if tokens.is_special_token(end)),
        textless=frozenset(token for token in {*tokens.eos_tokens, *ends} if token < size),
        of_strings=_single(tokens, size, *"@(xQ"),
        close_string=_single(tokens, size, *_CLOSE_STRING),
        close=_single(tokens, size, *_CLOSE),
        fill=_single(tokens, size, *_FILL),
        open=_single(tokens, size, *_OPEN),
    )
    begun = tokens.greedy_tokenize(" a")
    decoded = str(tokenizer.decode(begun, clean_up_tokenization_spaces=False))
    if decoded.startswith(" ") or not tokens.decode_str(begun).startswith(" "):
        return vocabulary
    beginning = LLMatcher(tokens, LLMatcher.grammar_from_regex(" (?s:.*)"), log_level=0)
    return replace(vocabulary, spaced=vocabulary.allowed(beginning))


def _single(tokens: LLTokenizer, size: int, *texts: str) -> NDArray[np.int64]:
    """The tokens of these texts, of those that are one token."""
    each = (tokens.tokenize_str(text) for text in texts)
    return np.array([ids[0] for ids in each if len(ids) == 1 and ids[0] < size], np.int64)


def _compile(vocabulary: _Vocabulary, grammar: Grammar, *, within: bool) -> Matching:
    source, more = _source(grammar), []
    if isinstance(grammar, CallGrammar) and grammar.answer is not None:
        more = [{**_source(grammar.answer), "name": "answer"}]
    named = [{**source, "name": "text"}, *more]
    own = _matcher(vocabulary, grammar, [_AFTER_BREAK, *named] if within else [source, *more])
    led = None
    if vocabulary.spaced is not None and not within:
        after_space = {"lark_grammar": 'start: " " @text'}
        led = _matcher(vocabulary, grammar, [after_space, *named])
    is_data = grammar.kind == "json_schema" or isinstance(grammar, CallGrammar)
    made = Matching(vocabulary, own, led, is_data=is_data)
    try:
        made.mask()
    except GenerationFailed as error:
        raise InvalidGrammar(f"no text can satisfy the {_NAMES[grammar.kind]}: {error}") from error
    ending = made.shortest_ending(_LONGEST_ENDING)
    made.shortest = None if ending is None else len(ending)
    return made


def _source(grammar: Grammar) -> dict[str, Any]:
    """The grammar as one of the grammars that llguidance's JSON is made of."""
    from llguidance import LLMatcher

    if isinstance(grammar, CallGrammar):
        return {"lark_grammar": grammar.text}
    if grammar.kind == "lark":
        return {"lark_grammar": grammar.text + _UNFORCED}
    try:
        if grammar.kind == "regex":
            made = LLMatcher.grammar_from_regex(grammar.text)
        else:
            schema = json.loads(grammar.text)
            check_schema(schema)
            made = LLMatcher.grammar_from_json_schema(narrow(schema), overrides=_JSON)
        source: dict[str, Any] = json.loads(made)["grammars"][0]
    except InvalidGrammar:
        raise
    except (ValueError, RecursionError) as error:
        raise _invalid(grammar, _first_line(error)) from error
    return source


def check_schema(schema: object) -> None:
    """Refuses what llguidance would take but not enforce as JSON Schema means it.

    Raises:
        InvalidGrammar: there is such a thing.
    """
    if not isinstance(schema, dict):
        raise InvalidGrammar(f"a JSON schema is an object, not {shortened(schema)}")
    if "x-guidance" in schema:
        raise InvalidGrammar(
            "the JSON schema has options for llguidance (x-guidance), which this package sets "
            "itself: leave them out"
        )
    for part in parts(schema):
        least, required = part.get("minProperties", 0), part.get("required")
        # Earlier drafts say true or false there, of the property that it stands in.
        named = len(required) if isinstance(required, list | tuple) else 0
        # llguidance counts a key that is written twice as two.
        if isinstance(least, int) and least > max(1, named):
            raise InvalidGrammar(
                f"the JSON schema cannot be enforced: minProperties {least} is more than the "
                "properties that are required; name more in required, or leave it out"
            )


def find_unenforceable(schema: Mapping[str, Any]) -> str | None:
    """What of a JSON schema cannot be enforced while an answer is written; None if nothing.

    Raises:
        MissingExtra: the extra ``grammar`` is not installed.
    """
    require_llguidance()
    from llguidance import LLMatcher

    grammar = Grammar.json_schema(schema)
    try:
        error = LLMatcher.validate_grammar(json.dumps({"grammars": [_source(grammar)]}))
    except InvalidGrammar as refused:
        return str(refused)
    return str(_invalid(grammar, error)) if error else None


def enforceable(schema: Mapping[str, Any]) -> tuple[Grammar, str | None]:
    """The grammar for a JSON schema, as much of it as can be enforced while an answer is written.

    Objects have no properties but those that the schema names, unless it says itself what else
    there may be.

    Returns:
        The grammar, and what it leaves out, which is to be checked afterwards; None if nothing. A
        schema that cannot be enforced at all is left as it is, so that its use says why.

    Raises:
        InvalidGrammar: it is not a schema.
        MissingExtra: the extra ``grammar`` is not installed.
    """
    part, fault = enforceable_part(close_objects(schema))
    return Grammar.json_schema(part), fault


def enforceable_part(schema: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """As much of a JSON schema as can be enforced, and what it leaves out; None if nothing.

    One that cannot be enforced at all is left as it is, so that its use says why.
    """
    schema = without_notes(narrow(schema))
    if (fault := find_unenforceable(schema)) is None:
        return schema, None
    looser = loosen(schema)
    if find_unenforceable(looser) is not None:
        return schema, None
    return looser, fault


def _matcher(vocabulary: _Vocabulary, grammar: Grammar, sources: list[dict[str, Any]]) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    text = json.dumps({"grammars": sources})
    limits = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(vocabulary.tokens, text, log_level=0, limits=limits)
    if matcher.is_error():
        raise _invalid(grammar, matcher.get_error())
    return matcher


class Matching:
    """A constraint as llguidance's matchers see it.

    Args:
        vocabulary: the engine's.
        own: follows the grammar.
        led: follows a space and then the grammar, where decoding drops the first space of a text;
            which of the two an answer is shows with its first token.
        is_data: whether a text that fits is whole, even where more of it would fit as well.
    """

    def __init__(
        self, vocabulary: _Vocabulary, own: LLMatcher, led: LLMatcher | None, *, is_data: bool
    ) -> None:
        self._is_data = is_data
        self._vocabulary = vocabulary
        self._own = own
        self._led = led
        self._ended = False
        # Of the current place, None where it is not known yet; and how many tokens it allows, end
        # tokens apart.
        self._mask: Tensor | None = None
        self._choices = 0
        # How many tokens the shortest ending from the beginning takes, where one was found.
        self.shortest: int | None = None

    @property
    def may_end(self) -> bool:
        """Whether the text may end here."""
        return self._complete() or self._own.is_accepting()

    @property
    def whole(self) -> bool:
        """Whether the text is one that its reader can use, should it end here."""
        return self._is_data and self.may_end

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return tuple(sorted(self._vocabulary.ends))

    def shortest_ending(self, most: int) -> tuple[int, ...] | None:
        """Tokens that bring the text to an end soon; None where none are found within ``most``.

        The way is looked for step by step, without going back: what is found ends the text, but
        there may be a shorter ending, or one where none is found. None is found that would take
        more than a thousand tokens.
        """
        if self._complete():
            return ()
        walk = self.copy()
        found: list[int] = []
        uses: Counter[int] = Counter()
        most = min(most, _LONGEST_ENDING_NOW)
        try:
            while not walk.may_end:
                step = walk.forced() or (walk._towards_end(uses),)
                uses.update(step)
                found += step
                if len(found) > most:
                    return None
                for token in step:
                    walk.advance(token)
        except GenerationFailed:
            return None
        return tuple(found)

    def _towards_end(self, uses: Counter[int]) -> int:
        """The token that most likely leads to an end.

        Args:
            uses: how often each was taken already; the same one for ever may lead nowhere.
        """
        vocabulary = self._vocabulary
        allowed = self.mask().numpy()
        in_string = bool(allowed[vocabulary.of_strings].any())
        close = vocabulary.close_string if in_string else vocabulary.close
        for wanted in (close, vocabulary.fill, vocabulary.open):
            hits = wanted[allowed[wanted]].tolist()
            if hits:
                return int(
                    min(hits, key=uses.__getitem__) if wanted is vocabulary.fill else hits[0]
                )
        return int(allowed.argmax())

    def copy(self) -> Matching:
        """Another one at the same place."""
        led = None if self._led is None else self._led.deep_copy()
        made = Matching(self._vocabulary, self._own.deep_copy(), led, is_data=self._is_data)
        made._ended = self._ended
        made._mask, made._choices = self._mask, self._choices
        made.shortest = self.shortest
        return made

    @property
    def finished(self) -> bool:
        """Whether nothing but an end-of-sequence token may follow."""
        if self._complete():
            return True
        if not self._own.is_accepting():
            return False
        self.mask()
        return not self._choices

    def _complete(self) -> bool:
        # An error stops a matcher too.
        return self._ended or (self._own.is_stopped() and not self._own.is_error())

    def mask(self) -> Tensor:
        """What may come next; see ``Constraint.mask``."""
        if self._mask is None:
            self._mask = self._find_mask()
        return self._mask

    def _find_mask(self) -> Tensor:
        vocabulary = self._vocabulary
        complete = self._complete()
        if complete:
            allowed = np.zeros(vocabulary.size, np.bool_)
        else:
            allowed = vocabulary.allowed(self._own)
            if self._led is not None:
                allowed &= ~self._spaced()
                allowed |= vocabulary.allowed(self._led)
        may_end = complete or self._own.is_accepting()
        named = [end for end in vocabulary.special if allowed[end]]
        allowed[list(vocabulary.textless)] = False
        self._choices = int(np.count_nonzero(allowed))
        if may_end:
            allowed[list(vocabulary.ends)] = True
        else:
            allowed[named] = True
            if not (self._choices or named):
                raise GenerationFailed(_IMPASSE)
        return torch.from_numpy(allowed)

    def _spaced(self) -> NDArray[np.bool_]:
        spaced = self._vocabulary.spaced
        assert spaced is not None  # noqa: S101 - there is a led matcher only where there are these
        return spaced

    def advance(self, token_id: int) -> None:
        """Takes note of a token; see ``Constraint.advance``."""
        is_end = token_id in self._vocabulary.ends
        if is_end and (self._complete() or self._own.is_accepting()):
            self._ended = True
        elif self._complete():
            raise GenerationFailed(
                f"the answer is complete by its grammar; token {token_id} cannot follow"
            )
        else:
            self._consume(token_id)
            self._ended = is_end
        self._mask = None

    def _consume(self, token_id: int) -> None:
        vocabulary = self._vocabulary
        if self._led is not None:
            if token_id < vocabulary.size and self._spaced()[token_id]:
                self._own = self._led
            self._led = None
        is_text = token_id not in vocabulary.textless or token_id in vocabulary.special
        if not (is_text and self._own.consume_token(token_id)):
            raise GenerationFailed(f"the grammar does not allow token {token_id} here")

    def forced(self) -> tuple[int, ...]:
        """Tokens that must follow; see ``Constraint.forced``."""
        if self._complete():
            return ()
        if self._led is None:
            tokens = self._own.compute_ff_tokens()
            if self._own.is_error():
                raise _failed(self._own)
            size, textless = self._vocabulary.size, self._vocabulary.textless
            forced = tuple(takewhile(lambda one: one < size and one not in textless, tokens))
            if forced:
                return forced
        allowed = self.mask()
        if self._choices == 1 and int(allowed.count_nonzero()) == 1:
            return (int(allowed.nonzero()[0, 0]),)
        return ()


def _failed(matcher: LLMatcher) -> GenerationFailed:
    """What became of a matcher that is in error while it generates."""
    reason, _ = _reason(matcher.get_error())
    if reason == "NoExtensionBias":
        return GenerationFailed(_IMPASSE)
    return GenerationFailed(
        f"the grammar cannot be followed further ({reason}): make it simpler, with smaller "
        "bounds of repetition"
    )


def _invalid(grammar: Grammar, error: str) -> InvalidGrammar:
    """A grammar that llguidance refuses, in one line."""
    reason, place = _reason(error)
    if isinstance(grammar, CallGrammar):
        return InvalidGrammar(
            f"the tools' JSON schemas cannot be enforced: {reason}; {_ADVICE['json_schema']}"
        )
    where = f"{place}: " if place and grammar.kind == "lark" else ""
    return InvalidGrammar(
        f"the {_NAMES[grammar.kind]} cannot be enforced: {where}{reason}; {_ADVICE[grammar.kind]}"
    )


def _reason(error: str) -> tuple[str, str]:
    """The telling line of llguidance's message, and where in the grammar it belongs."""
    lines = [line.strip() for line in error.splitlines()] or [""]
    placed = re.match(r"(?:at )?(\d+)\((\d+)\): (.*)", lines[0])
    place = f"line {placed[1]}, column {placed[2]}" if placed else ""
    first = placed[3] if placed else lines[0]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    # Options of llguidance are not the caller's to set.
    reason = (told or [first])[0].partition(". Enable 'coerce_one_of'")[0]
    return reason[:_LONGEST_REASON], place


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST_REASON]
