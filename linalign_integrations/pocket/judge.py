"""Reads an answer of the small world: which style it shows, and whether it is well formed.

The judge sees nothing but text. It knows the sentences of `world`, in every dialect, and the order
they come in; it knows nothing of how an answer was drawn.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from linalign_integrations.pocket import world
from linalign_integrations.pocket.world import NEUTRAL, speak

__all__ = ["Reading", "SentenceKind", "read"]

_LONGEST = 4
_DIALECTS = ("plain", "pirate", "shakespeare")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_NUMBERED = re.compile(r"(\d+)\. +")
_BULLET = re.compile(r"- +")

SentenceKind = Literal["opening", "item", "advice", "small_talk", "fact", "no tool", "remark"]
Values = tuple[tuple[str, str], ...]

# Places a sentence can take, the openings first; an answer never goes back to a lower one.
_CONTENT = len(world.OPENINGS)
_BUDGET, _TASTE, _EXPERTISE, _MORE = range(_CONTENT + 1, _CONTENT + 5)
# Kinds that can stand in one answer, besides openings.
_MIXES: tuple[set[SentenceKind], ...] = (
    {"item", "advice"},
    {"small_talk"},
    {"fact", "remark"},
    {"no tool", "remark"},
)


@dataclass(frozen=True)
class _Meaning:
    """What one sentence says about the answer it stands in."""

    place: int
    dialect: str
    kind: SentenceKind
    values: Values = ()
    topic: str | None = None


@dataclass
class Reading:
    """What an answer shows.

    Attributes:
        values: The value of each dimension; "neutral" where the answer shows none, "mixed" where
            it shows two.
        topics: The topics its sentences belong to.
        facts: The sentences it states of those it was allowed to, in order.
        kinds: What its sentences are, besides openings.
        unknown: Sentences that the world does not have.
        faults: Why it is not accepted.
    """

    values: dict[str, str]
    topics: set[str] = field(default_factory=set)
    facts: list[str] = field(default_factory=list)
    kinds: set[SentenceKind] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Whether the world's grammar has nothing against the answer."""
        return not self.faults

    @property
    def denied(self) -> bool:
        """Whether it says that no tool fits the question."""
        return "no tool" in self.kinds

    def shows(self, dimension: str, value: str) -> bool:
        """Whether the answer shows this value of a dimension."""
        return self.values.get(dimension) == value


def _entries() -> Iterable[tuple[str, int, SentenceKind, Values, str | None]]:
    """List every fixed sentence in plain English with its meaning."""
    for place, (dimension, openings) in enumerate(world.OPENINGS.items()):
        for value, sentences in openings.items():
            for text in sentences:
                yield text, place, "opening", ((dimension, value),), None
    for value, sentences in world.REMARKS.items():
        dimension = next(name for name, values in world.PRIOR.items() if value in values)
        for text in sentences:
            place = _BUDGET if dimension == "budget" else _TASTE
            yield text, place, "advice", ((dimension, value),), None
    for topic in world.TOPICS:
        for text in topic.tips:
            yield text, _MORE, "advice", (), topic.name
        for value, tips in (("beginner", topic.beginner), ("expert", topic.expert)):
            for lead in world.EXPERTISE_LEADS[value]:
                for tip in tips:
                    text = lead.format(tip=tip)
                    yield text, _EXPERTISE, "advice", (("expertise", value),), topic.name
    for text in (*world.GREETING_REPLIES, *world.REFUSALS):
        yield text, _CONTENT, "small_talk", (), None
    for text in world.OFFERS:
        yield text, _MORE, "small_talk", (), None
    for text in world.NO_TOOL:
        yield text, _CONTENT, "no tool", (), None
    for text in world.FACT_REMARKS:
        yield text, _MORE, "remark", (), None


@cache
def _fixed() -> dict[str, list[_Meaning]]:
    """Index the fixed sentences by what they sound like in each dialect."""
    index: dict[str, list[_Meaning]] = {}
    for text, place, kind, values, topic in _entries():
        told = dict(values).get("dialect")
        for dialect in _DIALECTS:
            if told in (None, dialect):
                meaning = _Meaning(place, dialect, kind, values, topic)
                index.setdefault(speak(text, dialect), []).append(meaning)
    return index


@cache
def _items() -> dict[str, dict[str, list[tuple[str, Values]]]]:
    """Index items by dialect and wording: their topics and what they show of a taste."""
    index: dict[str, dict[str, list[tuple[str, Values]]]] = {}
    for dialect in _DIALECTS:
        known = index.setdefault(dialect, {})
        for topic in world.TOPICS:
            for value, items in topic.items.items():
                shown = ((topic.taste, value),) if topic.taste else ()
                for item in items:
                    known.setdefault(speak(item, dialect), []).append((topic.name, shown))
    return index


@cache
def _occasions() -> dict[str, dict[str, set[str]]]:
    """Index what may follow an item, by dialect and topic."""
    index: dict[str, dict[str, set[str]]] = {}
    for dialect in _DIALECTS:
        for topic in world.TOPICS:
            told = [text.replace(" my ", " your ") for text in topic.occasions]
            if topic.name == "pets":
                told += [f"for your {pet}" for pet in world.PETS]
            index.setdefault(dialect, {})[topic.name] = {speak(text, dialect) for text in told}
    return index


@cache
def _leads() -> list[tuple[int, str, str, str, Values]]:
    """List what stands around an item: place, dialect, text before, text after, values."""
    leads: list[tuple[int, str, str, str, Values]] = []
    first = [(_CONTENT, value, templates) for value, templates in world.LEADS.items()]
    for place, value, templates in (*first, (_MORE, NEUTRAL, world.MORE_ITEMS)):
        for template in templates:
            for dialect in _DIALECTS:
                if value in ("pirate", "shakespeare") and value != dialect:
                    continue
                shown = (("tone", value),) if value in ("formal", "friendly") else ()
                before, after = speak(template, dialect).split("{item}")
                leads.append((place, dialect, before, after, shown))
    return leads


_ADJECTIVES = {word: value for value, words in world.BUDGET_WORDS.items() for word in words}


def _offers(sentence: str) -> Iterable[_Meaning]:
    """Read a sentence that names an item; an item shows its budget and taste even if neutral."""
    for place, dialect, before, after, shown in _leads():
        if not (sentence.startswith(before) and sentence.endswith(after)):
            continue
        inner = sentence[len(before) : len(sentence) - len(after)]
        words = inner.split(" ")
        budget = NEUTRAL
        candidates = [inner]
        if len(words) > 2 and words[0] == "a" and words[1] in _ADJECTIVES:
            budget = _ADJECTIVES[words[1]]
            nouns = " ".join(words[2:])
            candidates = [f"a {nouns}", f"an {nouns}"]
        for candidate in candidates:
            for item, meanings in _items()[dialect].items():
                if not candidate.startswith(item):
                    continue
                rest = candidate[len(item) :]
                for topic, taste in meanings:
                    known = _occasions()[dialect][topic]
                    # Only the first item is named with its occasion.
                    named = place == _CONTENT and rest[:1] == " " and rest[1:] in known
                    if rest == "" or named:
                        values = (*shown, ("budget", budget), *taste)
                        yield _Meaning(place, dialect, "item", values, topic)


def _lines(text: str) -> tuple[list[str], str, list[str]]:
    """Split an answer into lines and read its format and what is wrong with that."""
    faults: list[str] = []
    lines = [line for line in text.split("\n") if line]
    numbers = [int(match.group(1)) for line in lines if (match := _NUMBERED.match(line))]
    bullets = sum(1 for line in lines if _BULLET.match(line))
    if numbers and bullets:
        faults.append("numbers and bullets in one answer")
    if numbers and numbers != list(range(1, len(numbers) + 1)):
        faults.append("steps out of order")
    marked = [bool(_NUMBERED.match(line) or _BULLET.match(line)) for line in lines]
    first = marked.index(True) if True in marked else 0
    if True in marked and not all(marked[first : first + sum(marked)]):
        faults.append("a list with a gap")
    if True not in marked and len(lines) > 1:
        faults.append("lines without a list")
    return lines, "steps" if numbers else "bullets" if bullets else "prose", faults


def read(answer: str, facts: Sequence[str] = ()) -> Reading:
    """Read an answer.

    Args:
        answer: The text of the answer.
        facts: Sentences that documents or the results of tools allow it to state; with them those
            that say, as they should, that the documents do not mention something.
    """
    lines, shown_format, faults = _lines(answer.strip())
    shown: dict[str, set[str]] = {name: set() for name in world.PRIOR}
    topics: set[str] = set()
    stated: list[str] = []
    unknown: list[str] = []
    said: list[str] = []
    kinds: set[SentenceKind] = set()
    dialects = set(_DIALECTS)
    place = -1
    points = 0
    for line in lines:
        marker = _NUMBERED.match(line) or _BULLET.match(line)
        sentences = _SENTENCE_END.split(line[marker.end() :] if marker else line)
        if marker and len(sentences) != 1:
            faults.append("more than one sentence in a list entry")
        said += sentences
        for sentence in sentences:
            if sentence in facts:
                stated.append(sentence)
                meanings = [_Meaning(_CONTENT, name, "fact") for name in _DIALECTS]
            else:
                meanings = [*_fixed().get(sentence, ()), *_offers(sentence)]
            meanings = [one for one in meanings if one.dialect in dialects] or meanings
            if not meanings:
                unknown.append(sentence)
                points += 1
                continue
            # A sentence several topics share counts for the topic the answer is on already.
            meaning = next((one for one in meanings if one.topic in topics), meanings[0])
            if shown_format != "prose" and bool(marker) == (meaning.kind == "opening"):
                faults.append(f"out of its list: {sentence}")
            if meaning.place < place:
                faults.append(f"out of order: {sentence}")
            if meaning.place == place and not (meaning.place == _MORE or meaning.kind == "fact"):
                faults.append(f"said twice: {sentence}")
            place = max(place, meaning.place)
            points += meaning.kind != "opening"
            dialects &= {one.dialect for one in meanings}
            kinds.add(meaning.kind)
            if meaning.topic:
                topics.add(meaning.topic)
            for dimension, value in meaning.values:
                shown[dimension].add(value)
    faults += [f"unknown sentence: {sentence}" for sentence in unknown]
    content = kinds - {"opening"}
    if not dialects:
        faults.append("two dialects")
    if "plain" not in dialects:
        shown["dialect"] |= dialects
    if len(topics) > 1:
        faults.append("two topics: " + ", ".join(sorted(topics)))
    if not content:
        faults.append("no content")
    elif not any(content <= mix for mix in _MIXES):
        faults.append("two kinds of answer")
    elif content == {"remark"}:
        faults.append("a remark on nothing")
    if (shown["budget"] | shown["diet"] | shown["place"]) - {NEUTRAL} and "item" not in content:
        faults.append("a remark on nothing")
    if points > _LONGEST:
        faults.append(f"{points} points")
    if len(set(said)) != len(said):
        faults.append("a sentence twice")
    # A length is what was said, not what was announced; the two must agree.
    announced = shown.pop("length")
    length = "brief" if points == 1 else "detailed" if points >= _LONGEST else NEUTRAL
    if announced and announced != {length}:
        faults.append(f"announced {', '.join(sorted(announced))}, said {points} points")
    values = {
        name: "mixed" if len(found) > 1 else next(iter(found), NEUTRAL)
        for name, found in shown.items()
    }
    faults += [f"mixed {name}" for name, value in values.items() if value == "mixed"]
    # Where nothing was understood, there is nothing that has a length or a form.
    values["length"] = length if content else NEUTRAL
    values["format"] = shown_format if content else NEUTRAL
    return Reading(values, topics, stated, content, unknown, faults)
