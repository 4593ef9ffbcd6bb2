"""Reads an answer of the small world: which style it shows, and whether it is well formed.

The judge sees nothing but text. It knows the sentences of `world` and the order they come in; it
knows nothing of how an answer was drawn.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from linalign_integrations.pocket import world
from linalign_integrations.pocket.world import NEUTRAL, speak

__all__ = ["Reading", "read"]

_DIALECTS = ("plain", "pirate", "shakespeare")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_NUMBERED = re.compile(r"(\d+)\. +")
_BULLET = re.compile(r"[-*] +")


@dataclass(frozen=True)
class _Meaning:
    """What one sentence says about the answer it stands in."""

    place: int
    dialect: str
    values: tuple[tuple[str, str], ...] = ()
    topic: str | None = None
    kind: str = "advice"


@dataclass
class Reading:
    """What an answer shows.

    Attributes:
        values: The value of each dimension; "neutral" where the answer shows none, "mixed" where
            it shows two.
        accepted: Whether the world's grammar accepts the answer.
        topics: The topics its sentences belong to.
        facts: The sentences taken from the documents.
        faults: Why it was not accepted.
    """

    values: dict[str, str]
    topics: set[str] = field(default_factory=set)
    facts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Whether nothing is wrong with the answer."""
        return not self.faults

    def shows(self, dimension: str, value: str) -> bool:
        """Whether the answer shows this value of a dimension."""
        return self.values.get(dimension) == value


# Places a sentence can take; an answer never goes back to a lower one.
_DIALECT_OPENING, _TONE_OPENING, _POINT, _MOOD, _DIALECT_CLOSING, _SIGN_OFF = range(6)


def _entries() -> Iterable[tuple[str, int, tuple[tuple[str, str], ...], str | None, str]]:
    """List every fixed sentence in plain English with its meaning."""
    for value, sentences in world.OPENINGS.items():
        own = value in ("pirate", "shakespeare")
        dimension, place = ("dialect", _DIALECT_OPENING) if own else ("tone", _TONE_OPENING)
        for text in sentences:
            yield text, place, ((dimension, value),), None, "frame"
    for value, sentences in world.CLOSINGS.items():
        dimension, place = {
            "cheerful": ("mood", _MOOD),
            "calm": ("mood", _MOOD),
            "pirate": ("dialect", _DIALECT_CLOSING),
            "shakespeare": ("dialect", _DIALECT_CLOSING),
        }.get(value, ("tone", _SIGN_OFF))
        for text in sentences:
            yield text, place, ((dimension, value),), None, "frame"
    for value, sentences in world.REMARKS.items():
        dimension = next(name for name, values in world.PRIOR.items() if value in values)
        for text in sentences:
            yield text, _POINT, ((dimension, value),), None, "advice"
    for topic in world.TOPICS:
        for text in topic.tips:
            yield text, _POINT, (), topic.name, "advice"
        for value, tips in (("beginner", topic.beginner), ("expert", topic.expert)):
            for lead in world.EXPERTISE_LEADS[value]:
                for tip in tips:
                    text = lead.format(tip=tip)
                    yield text, _POINT, (("expertise", value),), topic.name, "advice"
    for text in (*world.GREETING_REPLIES, *world.REFUSALS, *world.OFFERS):
        yield text, _POINT, (), None, "small_talk"
    for text in (*world.NOT_FOUND, *world.FACT_REMARKS):
        yield text, _POINT, (), None, "documents"


@cache
def _fixed() -> dict[str, list[_Meaning]]:
    """Index the fixed sentences by what they sound like in each dialect."""
    index: dict[str, list[_Meaning]] = {}
    for text, place, values, topic, kind in _entries():
        told = dict(values).get("dialect")
        for dialect in _DIALECTS:
            if told in (None, dialect):
                meaning = _Meaning(place, dialect, values, topic, kind)
                index.setdefault(speak(text, dialect), []).append(meaning)
    return index


@cache
def _items() -> dict[str, dict[str, list[tuple[str, tuple[tuple[str, str], ...]]]]]:
    """Index items by dialect and wording: their topics and what they show of a taste."""
    index: dict[str, dict[str, list[tuple[str, tuple[tuple[str, str], ...]]]]] = {}
    for dialect in _DIALECTS:
        known = index.setdefault(dialect, {})
        for topic in world.TOPICS:
            for value, items in topic.items.items():
                taste = topic.taste if value != NEUTRAL else None
                shown = ((taste, value),) if taste else ()
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
def _leads() -> list[tuple[str, str, str, tuple[tuple[str, str], ...]]]:
    """List what stands around an item: dialect, text before, text after, values."""
    leads: list[tuple[str, str, str, tuple[tuple[str, str], ...]]] = []
    for value, templates in (*world.LEADS.items(), (NEUTRAL, world.MORE_ITEMS)):
        for template in templates:
            for dialect in _DIALECTS:
                if value in ("pirate", "shakespeare") and value != dialect:
                    continue
                shown = (("tone", value),) if value in ("formal", "friendly") else ()
                before, after = speak(template, dialect).split("{item}")
                leads.append((dialect, before, after, shown))
    return leads


_ADJECTIVES = {
    word: (("budget", value),) for value, words in world.BUDGET_WORDS.items() for word in words
}


def _offers(sentence: str) -> Iterable[_Meaning]:
    """Read a sentence that names an item."""
    for dialect, before, after, shown in _leads():
        if not (sentence.startswith(before) and sentence.endswith(after)):
            continue
        inner = sentence[len(before) : len(sentence) - len(after)]
        words = inner.split(" ")
        budget = _ADJECTIVES.get(words[1], ()) if len(words) > 2 and words[0] == "a" else ()
        if budget:
            nouns = " ".join(words[2:])
            candidates = [f"a {nouns}", f"an {nouns}"]
        else:
            candidates = [inner]
        for candidate in candidates:
            for item, meanings in _items()[dialect].items():
                if not candidate.startswith(item):
                    continue
                rest = candidate[len(item) :]
                for topic, taste in meanings:
                    known = _occasions()[dialect][topic]
                    if rest == "" or (rest[0] == " " and rest[1:] in known):
                        yield _Meaning(_POINT, dialect, (*shown, *budget, *taste), topic)


def _facts(text: str, documents: str) -> list[str]:
    """Return the sentences of some documents that stand in a text, longest first."""
    found = {
        part
        for line in documents.split("\n")
        for sentence in _SENTENCE_END.split(line)
        for part in (sentence, re.sub(r"^(- |\[\d+\] )", "", sentence))
        if part.endswith((".", "!", "?")) and part in text
    }
    return sorted(found, key=len, reverse=True)


def _segments(text: str) -> tuple[list[str], str, list[str]]:
    """Split an answer into lines of sentences and read its format."""
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
    shown = "steps" if numbers else "bullets" if bullets else "prose"
    return lines, shown, faults


def read(answer: str, documents: str = "") -> Reading:
    """Read an answer.

    Args:
        answer: The text of the answer.
        documents: The passages it may quote; a sentence of theirs counts as well formed.
    """
    lines, shown_format, faults = _segments(answer.strip())
    shown: dict[str, set[str]] = {name: set() for name in world.PRIOR}
    topics: set[str] = set()
    facts: list[str] = []
    kinds: set[str] = set()
    dialects = set(_DIALECTS)
    place = points = 0
    for line in lines:
        marker = _NUMBERED.match(line) or _BULLET.match(line)
        sentences = _SENTENCE_END.split(line[marker.end() :] if marker else line)
        if marker and len(sentences) != 1:
            faults.append("more than one sentence in a list entry")
        for sentence in sentences:
            if sentence in _facts(sentence, documents):
                facts.append(sentence)
                meanings = [_Meaning(_POINT, name, kind="documents") for name in _DIALECTS]
            else:
                meanings = [*_fixed().get(sentence, ()), *_offers(sentence)]
            meanings = [one for one in meanings if one.dialect in dialects] or meanings
            if not meanings:
                faults.append(f"unknown sentence: {sentence}")
                points += place <= _POINT
                continue
            # A sentence several topics share counts for the topic the answer is on already.
            meaning = next((one for one in meanings if one.topic in topics), meanings[0])
            if shown_format != "prose" and bool(marker) != (meaning.place == _POINT):
                faults.append(f"out of its list: {sentence}")
            if meaning.place < place:
                faults.append(f"out of order: {sentence}")
            if place == meaning.place != _POINT and meaning.place != _DIALECT_OPENING:
                faults.append(f"said twice: {sentence}")
            place = max(place, meaning.place)
            points += meaning.place == _POINT
            dialects &= {one.dialect for one in meanings}
            kinds.add(meaning.kind)
            if meaning.topic:
                topics.add(meaning.topic)
            for dimension, value in meaning.values:
                shown[dimension].add(value)
    if not dialects:
        faults.append("two dialects")
    if "plain" not in dialects:
        shown["dialect"] |= dialects
    if len(topics) > 1:
        faults.append("two topics: " + ", ".join(sorted(topics)))
    if not points:
        faults.append("no content")
    if len(kinds - {"frame"}) > 1:
        faults.append("two kinds of answer")
    repeated = [line for line in re.split(r"\n|(?<=[.!?])\s+", answer) if line]
    contents = [_NUMBERED.sub("", _BULLET.sub("", line, count=1), count=1) for line in repeated]
    if len(set(contents)) != len(contents):
        faults.append("a sentence twice")
    values = {
        name: "mixed" if len(found) > 1 else next(iter(found), NEUTRAL)
        for name, found in shown.items()
    }
    faults += [f"mixed {name}" for name, value in values.items() if value == "mixed"]
    values["format"] = shown_format
    short, long = (2, 4) if "advice" in kinds else (1, 3)
    values["length"] = "brief" if points <= short else "detailed" if points >= long else NEUTRAL
    return Reading(values, topics, facts, faults)
