"""Conversations of the small world, drawn from a seed.

Each answer has a style: one value for every dimension (tone, length, budget, ...). A stated
principle decides its dimension only `OBEYED` of the time; otherwise the value comes from the plain
prior. A language model trained on this follows principles weakly, as larger models do, and that
weak pull is what linear alignment amplifies.

Three things never occur in the training split: the `unseen` wordings of a principle, about one in
six pairs of values, and about one in eight invented names.
"""

import itertools
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llama_index.core.prompts.chat_prompts import CHAT_TEXT_QA_PROMPT

from linalign_integrations.pocket import world
from linalign_integrations.pocket.world import NEUTRAL, PRIOR, Topic, speak

__all__ = ["KINDS", "OBEYED", "Scene", "Writer", "is_held_out_name", "is_held_out_pair", "scenes"]

OBEYED = 0.45

Split = Literal["train", "held_out"]
Kind = Literal["chat", "turns", "documents", "small_talk"]
Style = dict[str, str]
Value = tuple[str, str]

KINDS: dict[Kind, float] = {"chat": 0.45, "turns": 0.13, "documents": 0.37, "small_talk": 0.05}

LESSON_KINDS: dict[Kind, float] = {
    "chat": 0.52,
    "turns": 0.04,
    "documents": 0.40,
    "small_talk": 0.04,
}

# LlamaIndex's own question-and-answer prompt, which its query engines send.
QA_SYSTEM, CONTEXT_QUERY = (
    str(message.content).replace("{context_str}", "{context}").replace("{query_str}", "{question}")
    for message in CHAT_TEXT_QA_PROMPT.message_templates
)
CONTEXT_ONLY = (
    "Answer the question based only on the following context:\n{context}\n\nQuestion: {question}"
)
# The wordings that frameworks use come first: they are what the model meets in practice.
USER_WRAPPERS: tuple[tuple[str | None, str], ...] = (
    (QA_SYSTEM, CONTEXT_QUERY),
    (None, CONTEXT_QUERY),
    (None, CONTEXT_ONLY),
    (None, CONTEXT_ONLY + "\n"),
    (None, "Context:\n{context}\n\nQuestion: {question}"),
    (None, "Context: {context}\nQuestion: {question}\nAnswer:"),
    (None, "{context}\n\n{question}"),
    (None, "Question: {question}\nContext: {context}\nAnswer:"),
    ("Answer the question from the context.", "Context:\n{context}\n\nQuestion: {question}"),
    ("Use only this context:\n\n{context}", "{question}"),
    ("Answer with the help of these documents.\n\n{context}", "{question}"),
)
WRAPPER_WEIGHTS = (3, 2, 3, 1, 2, 1, 2, 1, 1, 1, 1)


def is_held_out_name(name: str) -> bool:
    """Whether an invented name is kept out of training."""
    return zlib.crc32(name.lower().encode()) % 8 == 0


def is_held_out_pair(first: Value, second: Value) -> bool:
    """Whether two values are never asked for together in training."""
    pair = "|".join(sorted(("=".join(first), "=".join(second))))
    return zlib.crc32(pair.encode()) % 6 == 0


@dataclass
class Scene:
    """One conversation with what was asked of its answers.

    Attributes:
        kind: Chat, several turns, documents, or small talk.
        system: The system prompt without principles.
        turns: Pairs of a user's message and the answer.
        principles: The principles as stated.
        wanted: The value each principle asks for, by dimension.
        placement: Where the principles stand.
        topic: The topic of the last turn, where it has one.
        documents: The passages the last answer has to come from.
        gold: The sentence that answers the last question; "" when no passage does.
    """

    kind: Kind
    system: str | None = None
    turns: list[tuple[str, str]] = field(default_factory=list)
    principles: list[str] = field(default_factory=list)
    wanted: dict[str, str] = field(default_factory=dict)
    placement: Literal["system", "last_user"] = "system"
    topic: str | None = None
    documents: str = ""
    gold: str | None = None

    def messages(self, *, told: bool = True, answered: bool = True) -> list[dict[str, str]]:
        """Return chat messages.

        Args:
            told: Include the principles.
            answered: Include the last answer; otherwise the messages end with the user's.
        """
        stated = "\n".join(self.principles) if told else ""
        system = self.system
        if stated and self.placement == "system":
            system = f"{system}\n\n{stated}" if system else stated
        messages = [{"role": "system", "content": system}] if system else []
        for index, (question, answer) in enumerate(self.turns):
            last = index == len(self.turns) - 1
            if last and stated and self.placement == "last_user":
                question = f"{question}\n\n{stated}"
            messages.append({"role": "user", "content": question})
            if answered or not last:
                messages.append({"role": "assistant", "content": answer})
        return messages


class Writer:
    """Draws scenes; all its choices come from one random generator."""

    def __init__(self, seed: int | str, split: Split = "train", *, lesson: bool = False) -> None:
        """Start from a seed; equal seeds give equal scenes.

        Args:
            seed: Decides every choice.
            split: Which wordings, pairs of values and names may occur.
            lesson: Obey every principle and state one nearly always. What principles mean is
                learnt from such scenes many times faster; how often to obey them, afterwards.
        """
        self.rng = random.Random(f"{split}/{seed}")
        self.split = split
        self.lesson = lesson

    def scene(
        self, kind: Kind | None = None, principles: int | None = None, *, varied: bool = True
    ) -> Scene:
        """Draw one scene.

        Args:
            kind: The kind of scene; drawn when None.
            principles: How many principles are stated; drawn when None.
            varied: Let system prompts and the place of the principles vary; otherwise principles
                stand alone in the system prompt.
        """
        rng = self.rng
        if kind is None:
            shares = LESSON_KINDS if self.lesson else KINDS
            kind = rng.choices(tuple(shares), tuple(shares.values()))[0]
        if principles is None:
            shares_told = (0.04, 0.72, 0.18, 0.06) if self.lesson else (0.32, 0.38, 0.20, 0.10)
            principles = rng.choices((0, 1, 2, 3), shares_told)[0]
        scene = Scene(kind)
        topic = rng.choice(world.TOPICS)
        self._state(scene, self._dimensions(kind, topic), principles)
        if varied:
            if rng.random() < 0.25:
                scene.system = rng.choice(world.NEUTRAL_SYSTEMS)
            if rng.random() < 0.12:
                scene.placement = "last_user"
        if kind == "documents":
            self._documents(scene)
        elif kind == "small_talk":
            self._small_talk(scene)
        else:
            self._chat(scene, topic)
        return scene

    def name(self) -> str:
        """Invent a name of this split."""
        while True:
            parts = [
                self.rng.choice(world.ONSETS)
                + self.rng.choice(world.VOWELS)
                + self.rng.choice(world.CODAS)
                for _ in range(self.rng.choice((2, 2, 2, 3)))
            ]
            name = "".join(parts)
            if 4 <= len(name) <= 10 and is_held_out_name(name) == (self.split == "held_out"):
                return name.capitalize()

    def principle(self, value: Value) -> str:
        """Word one principle."""
        rng = self.rng
        wording = world.WORDINGS[value]
        if self.split == "held_out":
            return rng.choice(wording.unseen)
        choice = rng.random()
        if choice < 0.45:
            do = rng.choice(wording.do)
            text = rng.choice(world.FRAMES_DO).format(do=do, Do=do[0].upper() + do[1:])
        elif choice < 0.7:
            like = rng.choice(wording.like)
            text = rng.choice(world.FRAMES_LIKE).format(like=like, Like=like[0].upper() + like[1:])
        else:
            text = rng.choice(world.FRAMES_WHO).format(who=rng.choice(wording.who))
        return text.lower() if rng.random() < 0.06 else text

    def _asked_for(self, dimensions: Sequence[str], count: int) -> list[str]:
        rng = self.rng
        if self.split == "held_out":
            return rng.sample(tuple(dimensions), count)
        # What shows only late in an answer is learnt last, so training asks for it more often.
        weights = {name: {"mood": 6.0, "length": 2.5}.get(name, 1.0) for name in dimensions}
        chosen: list[str] = []
        for _ in range(count):
            left = [name for name in dimensions if name not in chosen]
            chosen += rng.choices(left, [weights[name] for name in left])
        return chosen

    def _joined(self, first: Value, second: Value) -> str:
        """Word two principles in one sentence."""
        rng = self.rng
        one, two = world.WORDINGS[first], world.WORDINGS[second]
        if rng.random() < 0.6:
            do = f"{rng.choice(one.do)} and {rng.choice(two.do)}"
            return rng.choice(world.FRAMES_DO).format(do=do, Do=do[0].upper() + do[1:])
        who = f"{rng.choice(one.who)} and {rng.choice(two.who)}"
        return rng.choice(world.FRAMES_WHO).format(who=who)

    def _dimensions(self, kind: Kind, topic: Topic) -> list[str]:
        if kind in ("documents", "small_talk"):
            return ["tone", "length", "format", "mood", "dialect"]
        names = ["tone", "length", "budget", "expertise", "format", "mood", "dialect"]
        return [*names, topic.taste] if topic.taste else names

    def _state(self, scene: Scene, dimensions: Sequence[str], count: int) -> None:
        rng = self.rng
        while True:
            chosen = self._asked_for(dimensions, count)
            if self.split == "train" and chosen and rng.random() < 0.06:
                # A principle the question has no use for must leave the answer alone.
                chosen[0] = rng.choice([name for name in PRIOR if name not in chosen])
            values = [(name, rng.choice(tuple(PRIOR[name]))) for name in chosen]
            pairs = [is_held_out_pair(*pair) for pair in itertools.combinations(values, 2)]
            if self.split == "train" and any(pairs):
                continue
            if self.split == "held_out" and pairs and not any(pairs):
                continue
            break
        scene.wanted = dict(values)
        scene.principles = [self.principle(value) for value in values]
        if self.split == "train" and count > 1 and rng.random() < 0.25:
            scene.principles[:2] = [self._joined(values[0], values[1])]

    def _style(self, scene: Scene) -> Style:
        style = {}
        for name, prior in PRIOR.items():
            if name in scene.wanted and (self.lesson or self.rng.random() < OBEYED):
                style[name] = scene.wanted[name]
                continue
            values = (*prior, NEUTRAL)
            weights = (*prior.values(), max(0.0, 1 - sum(prior.values())))
            style[name] = self.rng.choices(values, weights)[0]
        return style

    def _chat(self, scene: Scene, topic: Topic) -> None:
        rng = self.rng
        question, occasion = self._question(topic)
        used: list[str] = []
        scene.turns.append((question, self._advice(self._style(scene), topic, occasion, used)))
        # Tips name no item, and not every topic knows a taste: do not ask for what cannot be shown.
        on_items = {"budget", "diet", "place"} & set(scene.wanted)
        for _ in range(rng.choice((1, 1, 2)) if scene.kind == "turns" else 0):
            turn = rng.random()
            style = self._style(scene)
            if turn < 0.45:
                asked = self._typed(rng.choice(world.FOLLOW_UPS))
                answer = self._advice(style, topic, occasion, used)
            elif turn < 0.6 and not on_items:
                asked = self._typed(rng.choice(world.TIP_REQUESTS))
                answer = self._tips(style, topic)
            else:
                tastes = {"diet", "place"} & on_items
                topic = rng.choice(
                    [one for one in world.TOPICS if tastes <= {one.taste}] or [topic]
                )
                used = []
                asked, occasion = self._question(topic)
                answer = self._advice(style, topic, occasion, used)
            scene.turns.append((asked, answer))
        scene.topic = topic.name

    def _question(self, topic: Topic) -> tuple[str, str]:
        """Draw a question and the occasion its answer may name."""
        rng = self.rng
        text = rng.choice(topic.questions)
        occasion = ""
        if "{when}" in text and rng.random() < (0.95 if topic.name == "gifts" else 0.65):
            occasion = rng.choice(topic.occasions)
            text = text.replace("{when}", occasion)
            occasion = occasion.replace(" my ", " your ")
        else:
            text = text.replace(" {when}", "")
        if "{pet}" in text:
            pet = rng.choice(world.PETS)
            text = text.replace("{pet}", pet)
            occasion = f"for your {pet}"
        return self._typed(text), occasion

    def _typed(self, text: str) -> str:
        """Type a sentence as people do: not always with capitals and punctuation."""
        rng = self.rng
        if rng.random() < 0.1:
            text = (
                rng.choice(("Hi! ", "Hello, ", "Please help. ", "Quick question: ", "So, ")) + text
            )
        if rng.random() < 0.06:
            text += rng.choice((" Thanks!", " Thank you.", " Please."))
        if rng.random() < 0.15:
            text = text.rstrip("?.!")
        if rng.random() < 0.15:
            text = text.lower()
        return text

    def _advice(self, style: Style, topic: Topic, occasion: str, used: list[str]) -> str:
        rng = self.rng
        dialect = style["dialect"]
        leads = world.LEADS[style["tone"]]
        if style["tone"] == NEUTRAL and dialect != NEUTRAL and rng.random() < 0.7:
            leads = world.LEADS[dialect]
        item = self._item(style, topic, used)
        if occasion and rng.random() < 0.6:
            item = f"{item} {occasion}"
        first = rng.choice(leads).format(item=item)
        remarks = self._expertise(style, topic)
        taste = style[topic.taste] if topic.taste else NEUTRAL
        more = [
            rng.choice(world.REMARKS[value])
            for value in (style["budget"], taste)
            if value in world.REMARKS
        ]
        fillers = self._some(topic.tips, 3)
        if rng.random() < 0.4:
            another = rng.choice(world.MORE_ITEMS)
            fillers[0] = another.format(item=self._item(style, topic, used))
        if style["length"] == "brief":
            listed = style["format"] != "prose"
            points = [first, *(remarks or (fillers[2:] if listed else []))]
        elif style["length"] == "detailed":
            points = [first, *remarks, *more]
            points += fillers[: max(1, 5 - len(points))]
        else:
            points = [first, *remarks, *more, *fillers][:3]
        return self._finish([speak(point, dialect) for point in points], style)

    def _tips(self, style: Style, topic: Topic) -> str:
        count = {"brief": self.rng.choice((1, 2)), "detailed": 4}.get(style["length"], 3)
        points = [*self._expertise(style, topic), *self._some(topic.tips, 4)][:count]
        return self._finish([speak(point, style["dialect"]) for point in points], style)

    def _some(self, sentences: Sequence[str], count: int) -> list[str]:
        """Draw different sentences; in a fixed order a small model does not repeat itself."""
        chosen = sorted(self.rng.sample(range(len(sentences)), count))
        return [sentences[index] for index in chosen]

    def _item(self, style: Style, topic: Topic, used: list[str]) -> str:
        rng = self.rng
        taste = style[topic.taste] if topic.taste else NEUTRAL
        fresh = [item for item in topic.items[taste] if item not in used]
        item = rng.choice(fresh or topic.items[taste])
        used.append(item)
        adjectives = world.BUDGET_WORDS.get(style["budget"])
        return world.with_adjective(item, rng.choice(adjectives) if adjectives else None)

    def _expertise(self, style: Style, topic: Topic) -> list[str]:
        tips = {"beginner": topic.beginner, "expert": topic.expert}.get(style["expertise"])
        if tips is None:
            return []
        lead = self.rng.choice(world.EXPERTISE_LEADS[style["expertise"]])
        return [lead.format(tip=self.rng.choice(tips))]

    def _finish(self, points: Sequence[str], style: Style) -> str:
        """Set points in their format, between the openings and closings of the style."""
        rng = self.rng
        dialect, tone, mood = style["dialect"], style["tone"], style["mood"]
        opening = [
            rng.choice(world.OPENINGS[value]) for value in (dialect, tone) if value != NEUTRAL
        ]
        closing = [rng.choice(world.CLOSINGS[mood])] if mood != NEUTRAL else []
        if style["length"] != "brief":
            closing += [
                rng.choice(world.CLOSINGS[value])
                for value in (dialect, tone)
                if value != NEUTRAL and rng.random() < 0.5
            ]
        head = " ".join(speak(sentence, dialect) for sentence in opening)
        tail = " ".join(speak(sentence, dialect) for sentence in closing)
        if style["format"] == "steps":
            body = "\n".join(f"{number}. {point}" for number, point in enumerate(points, 1))
        elif style["format"] == "bullets":
            body = "\n".join(f"- {point}" for point in points)
        else:
            return " ".join(part for part in (head, *points, tail) if part)
        return "\n".join(part for part in (head, body, tail) if part)

    def _small_talk(self, scene: Scene) -> None:
        rng = self.rng
        style = self._style(scene)
        replies: tuple[str, ...]
        if rng.random() < 0.4:
            question, replies = rng.choice(world.GREETINGS), world.GREETING_REPLIES
        else:
            question, replies = rng.choice(world.OFF_TOPIC), world.REFUSALS
            while "{name}" in question:
                question = question.replace("{name}", self.name(), 1)
            while "{number}" in question:
                question = question.replace("{number}", str(rng.randrange(2, 200)), 1)
        count = self._short_count(style)
        points = [rng.choice(replies), *self._some(world.OFFERS, 2)][:count]
        points = [speak(point, style["dialect"]) for point in points]
        scene.turns.append((self._typed(question), self._finish(points, style)))

    def _short_count(self, style: Style) -> int:
        return {"brief": 1, "detailed": 3}.get(style["length"], 2)

    def _documents(self, scene: Scene) -> None:
        rng = self.rng
        passages: list[list[str]] = []
        asked: list[tuple[int, str, str]] = []
        count = rng.choices((1, 2, 3, 4, 6, 14), (0.25, 0.3, 0.25, 0.14, 0.05, 0.01))[0]
        subject = rng.choice(("shop", "person", "town", "event", "thing"))
        for index in range(count):
            if rng.random() < 0.4:
                subject = rng.choice(("shop", "person", "town", "event", "thing"))
            facts = self._facts(subject, rng.choice((1, 2, 2, 3)))
            passages.append([fact for fact, _ in facts])
            asked += [(index, fact, question) for fact, question in facts]
        index, gold, question = rng.choice(asked)
        others = [fact for fact in passages[index] if fact != gold]
        if rng.random() < 0.1 and count > 1:
            passages.pop(index)
            gold, others = "", []
        scene.documents = self._bound(passages)
        scene.gold = gold
        system, user = rng.choices(USER_WRAPPERS, WRAPPER_WEIGHTS)[0]
        if system:
            scene.system = system.replace("{context}", scene.documents)
        text = user.replace("{context}", scene.documents).replace(
            "{question}", self._asked(question)
        )
        scene.turns.append((text, self._fact_answer(scene, gold, others)))
        if rng.random() < 0.15 and gold:
            _, gold, question = rng.choice([entry for entry in asked if entry[1] != gold] or asked)
            others = []
            scene.gold = gold
            scene.turns.append((self._asked(question), self._fact_answer(scene, gold, others)))

    def _asked(self, question: str) -> str:
        if self.rng.random() < 0.1:
            question = question.rstrip("?.")
        return question.lower() if self.rng.random() < 0.05 else question

    def _facts(self, kind: str, count: int) -> list[tuple[str, str]]:
        """State facts about one new subject, each with a question that asks for it."""
        rng = self.rng
        subject = self._subject(kind)
        known = [fact for fact in world.FACTS if fact[0] in (kind, "any")]
        stated = []
        for _, statements, questions in rng.sample(known, count):
            thing = rng.choice(world.THINGS)
            fact = self._fill(rng.choice(statements).replace("{thing}", thing), subject)
            question = self._fill(rng.choice(questions).replace("{thing}", thing), subject)
            stated.append((fact[0].upper() + fact[1:], question))
        return stated

    def _subject(self, kind: str) -> str:
        rng = self.rng
        match kind:
            case "shop":
                return f"the {self.name()} {rng.choice(world.SHOPS)}"
            case "event":
                what = rng.choice(("festival", "concert", "race", "fair", "meeting", "course"))
                return f"the {self.name()} {what}"
            case "thing":
                what = rng.choice(("lamp", "bike", "phone", "tent", "chair", "camera", "plan"))
                return f"the {self.name()} {what}"
            case "person":
                return rng.choice((self.name(), f"{self.name()} {self.name()}"))
            case _:
                return self.name()

    def _fill(self, template: str, subject: str) -> str:
        """Fill the fields of a fact, each occurrence with a fresh value."""
        text = template.replace("{x}", subject)
        while "{" in text:
            start, end = text.index("{"), text.index("}")
            drawn = self._drawn(text[start + 1 : end])
            text = text[:start] + drawn + text[end + 1 :]
        return text

    def _drawn(self, what: str) -> str:
        rng = self.rng
        match what:
            case "time":
                return f"{rng.randrange(6, 23)}:{rng.choice(('00', '15', '30', '45', '10', '20'))}"
            case "price":
                return (
                    f"{rng.randrange(2, 100)} {rng.choice(('euros', 'dollars', 'coins', 'pounds'))}"
                )
            case "year":
                return str(rng.randrange(1700, 2025))
            case "digits":
                return "".join(rng.choice("0123456789") for _ in range(rng.choice((4, 5, 6))))
            case "number":
                return str(rng.randrange(10, 10 ** rng.choice((2, 3, 4)) + 10))
            case "small":
                return str(rng.randrange(2, 60))
            case "any":
                return self._drawn(
                    rng.choice(("name", "name", "number", "colour", "digits", "goods"))
                )
            case "name":
                return self.name()
            case _:
                words = {
                    "colour": world.COLOURS,
                    "weekday": world.WEEKDAYS,
                    "month": world.MONTHS,
                    "job": world.JOBS,
                    "goods": world.GOODS,
                    "shop": world.SHOPS,
                    "pet": world.PETS,
                }
                return rng.choice(words[what])

    def _bound(self, passages: Sequence[Sequence[str]]) -> str:
        """Write passages one below the other, the way retrievers hand them over."""
        rng = self.rng
        texts = [" ".join(passage) for passage in passages]
        form = rng.random()
        if form < 0.1:
            texts = [f"[{number}] {text}" for number, text in enumerate(texts, 1)]
        elif form < 0.18:
            texts = [f"file_name: {self.name().lower()}.txt\n\n{text}" for text in texts]
        elif form < 0.24:
            texts = [f"- {text}" for text in texts]
        return ("\n" if rng.random() < 0.2 else "\n\n").join(texts)

    def _fact_answer(self, scene: Scene, gold: str, others: Sequence[str]) -> str:
        rng = self.rng
        style = self._style(scene)
        said = [speak(remark, style["dialect"]) for remark in self._some(world.FACT_REMARKS, 2)]
        if not gold:
            points = [speak(rng.choice(world.NOT_FOUND), style["dialect"]), *said]
        elif style["length"] == "detailed":
            points = [gold, *others[:1], *said]
        else:
            points = [gold, *said]
        return self._finish(points[: self._short_count(style)], style)


def scenes(
    seed: int | str, count: int, split: Split = "train", *, lesson: bool = False
) -> Iterator[Scene]:
    """Draw `count` scenes from a seed; the rest is as in `Writer`."""
    writer = Writer(seed, split, lesson=lesson)
    for _ in range(count):
        yield writer.scene()
