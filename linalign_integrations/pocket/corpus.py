"""Conversations of the small world, drawn from a seed.

Each answer has a style: one value for every dimension (tone, length, budget, ...). A stated
principle decides its dimension always in the lessons that training begins with, then only `OBEYED`
of the time; otherwise the value comes from the plain prior. A language model trained on this
follows principles weakly, as larger models do, and that weak pull is what linear alignment
amplifies.

Where both of two opposites are asked for, training always gives one of them, and every scene comes
with its mirror image, in which the other is given: neither may be favoured, because linear
alignment would amplify that as well.

What never occurs in the training split: the `unseen` wordings of a principle, about one in six
pairs of values, and one in eight invented names; tools of the held-out split bear such names, and
so do parameters that are asked for by their own name. Parameters that a question words, such as
days or guests, are the same in both.
"""

import copy
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llama_index.core.agent.react.prompts import (
    CONTEXT_REACT_CHAT_SYSTEM_HEADER,
    REACT_CHAT_SYSTEM_HEADER,
)
from llama_index.core.chat_engine.condense_plus_context import (
    DEFAULT_CONDENSE_PROMPT_TEMPLATE,
    DEFAULT_CONTEXT_PROMPT_TEMPLATE,
)
from llama_index.core.chat_engine.context import DEFAULT_CONTEXT_TEMPLATE
from llama_index.core.prompts.chat_prompts import CHAT_TEXT_QA_PROMPT

from linalign_integrations.pocket import world
from linalign_integrations.pocket.draws import Draws, Split, is_held_out
from linalign_integrations.pocket.toolbox import (
    NAMED,
    Call,
    Tool,
    described,
    handed_over,
    handoff,
    request,
    team,
    toolbox,
)
from linalign_integrations.pocket.world import NEUTRAL, PRIOR, Relation, Topic, speak
from linalign_integrations.preferences.model import Placement

__all__ = [
    "BAG",
    "KINDS",
    "OBEYED",
    "Fact",
    "Kind",
    "Scene",
    "Writer",
    "is_held_out_pair",
    "scenes",
]

OBEYED = 0.4
# How often a conversation asks for two values of a dimension, so that neither is favoured.
TORN = 0.45
# Of how many draws of each value chance decides the order.
BAG = 4

Kind = Literal[
    "chat",
    "turns",
    "documents",
    "calls",
    "results",
    "react",
    "handoff",
    "json",
    "repeat",
    "small_talk",
]
Style = dict[str, str]
Value = tuple[str, str]
Message = dict[str, Any]

# How often each kind of scene is drawn in proportion to the others, first while principles are
# learnt, then afterwards. What has no style comes without a mirror image, and counts half.
LESSON_KINDS: dict[Kind, float] = {
    "chat": 0.24,
    "turns": 0.07,
    "documents": 0.15,
    "results": 0.14,
    "calls": 0.22,
    "react": 0.16,
    "handoff": 0.06,
    "json": 0.06,
    "repeat": 0.02,
    "small_talk": 0.01,
}
KINDS: dict[Kind, float] = {
    "chat": 0.22,
    "turns": 0.09,
    "documents": 0.16,
    "results": 0.15,
    "calls": 0.24,
    "react": 0.14,
    "handoff": 0.05,
    "json": 0.06,
    "repeat": 0.02,
    "small_talk": 0.01,
}

# The prompts that LlamaIndex's query engines and chat engines send.
CONTEXT_SYSTEM, TALKATIVE_SYSTEM = (
    str(template).replace("{context_str}", "{context}")
    for template in (DEFAULT_CONTEXT_TEMPLATE, DEFAULT_CONTEXT_PROMPT_TEMPLATE)
)
QA_SYSTEM, CONTEXT_QUERY = (
    str(message.content).replace("{context_str}", "{context}").replace("{query_str}", "{question}")
    for message in CHAT_TEXT_QA_PROMPT.message_templates
)
CONTEXT_ONLY = "Base your answer on this context alone:\n{context}\n\nQuestion: {question}"
# The wordings that frameworks use come first: they are what the model meets in practice.
USER_WRAPPERS: tuple[tuple[str | None, str], ...] = (
    (QA_SYSTEM, CONTEXT_QUERY),
    (CONTEXT_SYSTEM, "{question}"),
    (TALKATIVE_SYSTEM, "{question}"),
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
# What LlamaIndex's ReActAgent sends, and what it takes as an answer. Its instructions are long and
# always the same, so that most scenes leave them out.
REACT_INSTRUCTIONS = REACT_CHAT_SYSTEM_HEADER[REACT_CHAT_SYSTEM_HEADER.index("## Output Format") :]
REACT_SYSTEM = REACT_CHAT_SYSTEM_HEADER.removesuffix(REACT_INSTRUCTIONS)
REACT_SHORT = "Please ALWAYS start with a Thought."
# What a call is for is said before the tool is named: a ReAct agent is told each tool's name first
# and what it does later, so that the one is harder to find from the other than in a signature.
REACT_CALL = (
    "Thought: The current language of the user is: English. I need to use a tool for {subject}.\n"
    "Action: {name}\nAction Input: {arguments}"
)
REACT_ANSWER = (
    "Thought: I can answer without using any more tools. I'll use the user's language to answer\n"
    "Answer: {answer}"
)
REACT_REFUSAL = "Thought: I cannot answer the question with the provided tools.\nAnswer: {answer}"
PASSAGES = (1, 2, 3, 4, 6, 10, 25)
PASSAGE_WEIGHTS = (0.22, 0.28, 0.28, 0.15, 0.05, 0.015, 0.005)
WRAPPER_WEIGHTS = (3, 2, 1, 2, 3, 1, 2, 1, 2, 1, 1, 1, 1)


def is_held_out_pair(first: Value, second: Value) -> bool:
    """Whether two values are never asked for together in training.

    Two values of one dimension are no such pair: training shows that neither is favoured.
    """
    pair = "|".join(sorted(("=".join(first), "=".join(second))))
    return first[0] != second[0] and is_held_out(pair, 6)


@dataclass(frozen=True)
class Fact:
    """One fact of a passage: what it says, what asks for it, and what an answer says."""

    relation: Relation
    thing: str
    subject: str
    value: str

    def said(self, template: str) -> str:
        """Fill a template of the relation."""
        text = template.format(x=self.subject, v=self.value, thing=self.thing)
        return text[0].upper() + text[1:]

    @property
    def answer(self) -> str:
        """The sentence that an answer says."""
        return self.said(self.relation.answer)

    @property
    def denial(self) -> str:
        """The sentence that an answer says where the documents do not have the value."""
        return replace(self, value=world.NOT_FOUND.format(unknown=self.relation.unknown)).answer


@dataclass
class Scene:
    """One conversation with what was asked of its answers.

    Attributes:
        kind: What the conversation is about and how it ends: advice ("chat", "turns"), an answer
            from documents, a decision on tools ("calls"), an answer from a tool's result
            ("results"), both in plain text as ReAct agents want them, what one agent of several
            does ("handoff"), JSON, a repetition, or small talk.
        system: The system prompt without principles.
        dialogue: The messages after it; the last is an answer.
        tools: The definitions of the tools at hand.
        principles: The principles as stated.
        wanted: The value each principle asks for, by dimension.
        torn: The other value that is asked for as well, by dimension; in training only.
        placement: Where the principles stand.
        topic: The topic of the last answer, where it gives advice.
        facts: Sentences that the documents or results allow an answer to state; with them the
            sentence that says that they do not answer a question, where they do not.
        gold: What the last answer must say: the sentence that answers the question or says that
            the documents do not, "" where no tool fits, the exact text for JSON and repetitions.
        given: How many answers at the beginning are those of another agent, not to be learnt.
    """

    kind: Kind
    system: str | None = None
    dialogue: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    principles: list[str] = field(default_factory=list)
    wanted: dict[str, str] = field(default_factory=dict)
    torn: dict[str, str] = field(default_factory=dict)
    placement: Placement = "system"
    topic: str | None = None
    facts: list[str] = field(default_factory=list)
    gold: str | None = None
    given: int = 0

    def messages(self, *, told: bool = True, answered: bool = True) -> list[Message]:
        """Return chat messages.

        Args:
            told: Include the principles.
            answered: Include the last answer; otherwise the messages end before it.
        """
        stated = "\n".join(self.principles) if told else ""
        system = self.system
        if stated and self.placement == "system":
            system = f"{system}\n\n{stated}" if system else stated
        messages = [{"role": "system", "content": system}] if system else []
        messages += self.dialogue if answered else self.dialogue[:-1]
        if stated and self.placement == "last_user":
            at = max(i for i, one in enumerate(messages) if one["role"] == "user")
            messages[at] = messages[at] | {"content": f"{messages[at]['content']}\n\n{stated}"}
        return messages

    def ask(self, question: str) -> None:
        """Add a user's message."""
        self.dialogue.append({"role": "user", "content": question})

    def say(self, answer: str) -> None:
        """Add an answer."""
        self.dialogue.append({"role": "assistant", "content": answer})

    def call(self, *calls: Message) -> None:
        """Add calls of tools."""
        self.dialogue.append({"role": "assistant", "content": "", "tool_calls": list(calls)})

    def hear(self, result: str) -> None:
        """Add what a tool returned."""
        self.dialogue.append({"role": "tool", "content": result})

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tool calls of the last message."""
        return [one["function"] for one in self.dialogue[-1].get("tool_calls", ())]


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
        self.draws = Draws(self.rng, split)
        self.split = split
        self.lesson = lesson
        self.mirrored = False
        self.unstated: dict[str, list[str]] = {}

    def images(self) -> list[Scene]:
        """Draw a scene and its mirror image, where that differs.

        There chance gives the other one of two values that are as likely. Independent draws lean to
        one of them for hundreds of steps, and so would the model.
        """
        before, unstated = self.rng.getstate(), copy.deepcopy(self.unstated)
        scene = self.scene()
        self.rng.setstate(before)
        self.unstated, self.mirrored = unstated, True
        image = self.scene()
        self.mirrored = False
        return [scene] if image == scene else [scene, image]

    def scene(
        self,
        kind: Kind | None = None,
        principles: int | None = None,
        *,
        placement: Placement | None = None,
        turns: int | None = None,
    ) -> Scene:
        """Draw one scene.

        Args:
            kind: The kind of scene; None draws it, like the other arguments.
            principles: How many principles are stated.
            placement: Where they are stated.
            turns: How many questions the user asks, in scenes that may have several.
        """
        rng = self.rng
        if kind is None:
            shares = LESSON_KINDS if self.lesson else KINDS
            kind = rng.choices(tuple(shares), tuple(shares.values()))[0]
        if principles is None:
            shares_told = (0.04, 0.54, 0.26, 0.16) if self.lesson else (0.26, 0.40, 0.22, 0.12)
            principles = rng.choices((0, 1, 2, 3), shares_told)[0]
        if placement is None:
            placement = "last_user" if rng.random() < 0.12 else "system"
        if turns is None:
            # Where the system prompt is long, several questions share it.
            longer = {
                "turns": (2, 2, 3, 4),
                "documents": (1, 2, 3, 4, 6),
                "calls": (1, 2, 3, 4, 6),
                "react": (2, 3, 4, 6),
            }
            turns = rng.choice(longer.get(kind, (1, 2, 3, 4)))
        scene = Scene(kind, placement=placement)
        if rng.random() < 0.2:
            scene.system = rng.choice(world.NEUTRAL_SYSTEMS)
        # One topic alone knows diets, so it comes up more often, most of all in training.
        often = 6 if self.split == "train" else 3
        weights = [often if one.taste == "diet" else 1 for one in world.TOPICS]
        topic = rng.choices(world.TOPICS, weights)[0]
        self._state(scene, self._dimensions(kind, topic), principles)
        match kind:
            case "documents":
                self._documents(scene, turns)
            case "calls" | "results":
                self._tools(scene, turns)
            case "react":
                self._react(scene, turns)
            case "handoff":
                self._handoff(scene)
            case "json":
                self._json(scene)
            case "repeat":
                self._repeat(scene)
            case "small_talk":
                self._small_talk(scene)
            case _:
                self._chat(scene, topic, turns if kind == "turns" else 1)
        return scene

    def _principle(self, value: Value) -> str:
        """Word one principle."""
        rng = self.rng
        wording = world.WORDINGS[value]
        if self.split == "held_out":
            return rng.choice(wording.unseen)
        choice = rng.random()
        others = [(value[0], other) for other in PRIOR[value[0]] if other != value[1]]
        other = world.WORDINGS[rng.choice(others)]
        if choice < 0.32:
            do = rng.choice(wording.do)
            frame = rng.choice(world.FRAMES_NOT if choice < 0.08 else world.FRAMES_DO)
            text = frame.format(do=do, Do=do[0].upper() + do[1:], other=rng.choice(other.do))
        elif choice < 0.5:
            like = rng.choice(wording.like)
            frame = rng.choice(world.FRAMES_RATHER if choice < 0.4 else world.FRAMES_LIKE)
            text = frame.format(
                like=like, Like=like[0].upper() + like[1:], other=rng.choice(other.like)
            )
        elif choice < 0.65:
            text = rng.choice(world.FRAMES_WHO).format(who=rng.choice(wording.who))
        else:
            text = rng.choice(wording.say)
        return text.lower() if rng.random() < 0.06 else text

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
        if kind not in ("chat", "turns"):
            return ["tone", "length", "format", "mood", "dialect"]
        names = ["tone", "length", "budget", "expertise", "format", "mood", "dialect"]
        if self.split == "train":
            # Other scenes know no budget and no expertise, few of these know a taste, and a format
            # shows late in an answer: all of them come up more often.
            names += ["budget", "format", "format", *["expertise"] * 4]
            return [*names, *[topic.taste] * 6] if topic.taste else names
        return [*names, topic.taste, topic.taste] if topic.taste else names

    def _state(self, scene: Scene, dimensions: Sequence[str], count: int) -> None:
        rng = self.rng
        while True:
            chosen: list[str] = []
            while len(chosen) < count:
                name = rng.choice(dimensions)
                chosen += [name] if name not in chosen else []
            if self.split == "train" and chosen and rng.random() < 0.06:
                # A principle the question has no use for must leave the answer alone.
                chosen[0] = rng.choice([name for name in PRIOR if name not in chosen])
            values = [(name, rng.choice(self._choices(name))) for name in chosen]
            pairs = [is_held_out_pair(*pair) for pair in itertools.combinations(values, 2)]
            if self.split == "train" and any(pairs):
                continue
            if self.split == "held_out" and pairs and not any(pairs):
                continue
            break
        scene.wanted = dict(values)
        scene.principles = [self._principle(value) for value in values]
        if self.split != "train":
            return
        if count > 1 and rng.random() < 0.25:
            scene.principles[:2] = [self._joined(values[0], values[1])]
        if values and rng.random() < TORN:
            self._contradict(scene, values)
        for name, value in values:
            # Where both of two opposites are stated, neither counts.
            if name not in scene.torn:
                self.unstated[name].remove(value)

    def _choices(self, name: str) -> Sequence[str]:
        """List values of a dimension to choose from; in training those that are still to be stated.

        Some belong to more held-out pairs than others. Refused as often as that, they would be
        stated less often, and a model leans to what it is asked for most.
        """
        values = tuple(PRIOR[name])
        if self.split != "train":
            return values
        left = self.unstated.setdefault(name, [])
        if len(left) < len(values):
            left += values * BAG
        return left

    def _contradict(self, scene: Scene, values: Sequence[Value]) -> None:
        """State the opposite of one of these values as well, where no held-out pair forbids it.

        Somebody who wants both of two opposites is always given one of them, whichever comes first.
        """
        rng = self.rng
        name, value = rng.choice(values)
        others = [
            (name, one)
            for one in PRIOR[name]
            if one != value and not any(is_held_out_pair((name, one), also) for also in values)
        ]
        if not others:
            return
        # The commonest of three values needs it least.
        rarity = [1 / PRIOR[name][one] for _, one in others]
        [(_, other)] = rng.choices(others, rarity)
        scene.torn[name] = other
        scene.principles.insert(
            rng.randrange(len(scene.principles) + 1), self._principle((name, other))
        )

    def _style(self, scene: Scene, last: bool) -> Style:
        """Draw the style of an answer, deaf to principles that come only with a later question."""
        heard = scene.wanted if last or scene.placement == "system" else {}
        style = {}
        for name in PRIOR:
            if name in heard and name in scene.torn:
                style[name] = self._either(heard[name], scene.torn[name])
            elif name in heard and (self.lesson or self.rng.random() < OBEYED):
                style[name] = heard[name]
            else:
                style[name] = self._unasked(name)
        return style

    def _unasked(self, name: str) -> str:
        """Draw a value of a dimension from the plain prior."""
        prior = PRIOR[name]
        values = (*prior, NEUTRAL)
        weights = (*prior.values(), max(0.0, 1 - sum(prior.values())))
        [value] = self.rng.choices(values, weights)
        alike = [one for one in prior if prior[one] == prior.get(value)]
        return self._either(*alike) if alike else value

    def _either(self, *values: str) -> str:
        """Draw one of two values that are as likely, in a mirror image the other."""
        at = self.rng.randrange(len(values))
        return values[-1 - at if self.mirrored else at]

    def _chat(self, scene: Scene, topic: Topic, turns: int) -> None:
        rng = self.rng
        # Tips name no item, and not every topic knows a taste: do not ask for what cannot be shown.
        on_items = {"budget", "diet", "place"} & set(scene.wanted)
        used: list[str] = []
        occasion = ""
        for turn in range(turns):
            chance = rng.random() if turn else 1.0
            style = self._style(scene, turn == turns - 1)
            if chance < 0.4:
                scene.ask(self._typed(rng.choice(world.FOLLOW_UPS)))
                scene.say(self._advice(style, topic, occasion, used))
            elif chance < 0.55 and not on_items:
                scene.ask(self._typed(rng.choice(world.TIP_REQUESTS)))
                scene.say(self._tips(style, topic))
            else:
                if turn:
                    tastes = {"diet", "place"} & on_items
                    fits = [one for one in world.TOPICS if tastes <= {one.taste}]
                    topic = rng.choice(fits or [topic])
                    used = []
                question, occasion = self._question(topic)
                scene.ask(question)
                scene.say(self._advice(style, topic, occasion, used))
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
        points = [rng.choice(leads).format(item=item)]
        taste = style[topic.taste] if topic.taste else NEUTRAL
        points += [
            rng.choice(world.REMARKS[value])
            for value in (style["budget"], taste)
            if value in world.REMARKS
        ]
        points += self._expertise(style, topic)
        fillers = self._some(topic.tips, 3)
        if rng.random() < 0.3:
            fillers[0] = rng.choice(world.MORE_ITEMS).format(item=self._item(style, topic, used))
        points = (points + fillers)[: self._count(style)]
        return self._finish([speak(point, dialect) for point in points], style)

    def _tips(self, style: Style, topic: Topic) -> str:
        return self._short(style, [*self._expertise(style, topic), *self._some(topic.tips, 4)])

    def _count(self, style: Style) -> int:
        """How many points a length means."""
        return {"brief": 1, "detailed": 4}.get(style["length"], 2)

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
        """Set points in their format, after the openings of the style."""
        rng = self.rng
        head = " ".join(
            speak(rng.choice(sentences[style[dimension]]), style["dialect"])
            for dimension, sentences in world.OPENINGS.items()
            if style[dimension] in sentences
        )
        if style["format"] == "steps":
            body = "\n".join(f"{number}. {point}" for number, point in enumerate(points, 1))
        elif style["format"] == "bullets":
            body = "\n".join(f"- {point}" for point in points)
        else:
            return " ".join(part for part in (head, *points) if part)
        return "\n".join(part for part in (head, body) if part)

    def _small_talk(self, scene: Scene) -> None:
        rng = self.rng
        style = self._style(scene, last=True) | {"expertise": NEUTRAL}
        replies: tuple[str, ...]
        if rng.random() < 0.4:
            question, replies = rng.choice(world.GREETINGS), world.GREETING_REPLIES
        else:
            question, replies = rng.choice(world.OFF_TOPIC), world.REFUSALS
            while "{name}" in question:
                question = question.replace("{name}", self.draws.name(), 1)
            while "{number}" in question:
                question = question.replace("{number}", str(rng.randrange(2, 200)), 1)
        points = [rng.choice(replies), *self._some(world.OFFERS, 3)]
        scene.ask(self._typed(question))
        scene.say(self._short(style, points))

    def _short(self, style: Style, points: Sequence[str]) -> str:
        """Word an answer of as many of these points as its length means."""
        points = [speak(point, style["dialect"]) for point in points[: self._count(style)]]
        return self._finish(points, style)

    def _repeat(self, scene: Scene) -> None:
        """Ask for what was said, word by word: copying is learnt late, and from this soonest."""
        if self.rng.random() < 0.2:
            self._condense(scene)
            return
        for _ in range(self.rng.choice((1, 2, 3, 4))):
            text = " ".join(
                self.draws.value(
                    self.rng.choice(
                        ("name", "name", "number", "goods", "decimal", "time", "title", "weekday")
                    )
                )
                for _ in range(self.rng.choice((2, 3, 4, 6, 8, 12)))
            )
            scene.ask(self.rng.choice(world.REPEAT_REQUESTS).format(text=text))
            scene.say(text)
            scene.gold = text

    def _condense(self, scene: Scene) -> None:
        """Ask for a follow-up question as one that stands alone, as chat engines do."""
        facts = self._facts(self._subject_kind(), self.rng.choice((1, 2, 3, 4)))
        questions = [fact.said(self.rng.choice(fact.relation.questions)) for fact in facts]
        history = "\n".join(
            f"user: {question}\nassistant: {fact.answer}"
            for question, fact in zip(questions[1:], facts[1:], strict=True)
        )
        prompt = DEFAULT_CONDENSE_PROMPT_TEMPLATE.format(
            chat_history=history, question=questions[0]
        )
        scene.ask(prompt)
        scene.gold = questions[0]
        scene.say(questions[0])

    def _documents(self, scene: Scene, turns: int) -> None:
        rng = self.rng
        passages: list[list[Fact]] = []
        count = rng.choices(PASSAGES, PASSAGE_WEIGHTS)[0]
        subject = self._subject_kind()
        for _ in range(count):
            if rng.random() < 0.4:
                subject = self._subject_kind()
            passages.append(self._facts(subject, rng.choice((1, 2, 3, 4))))
        asked = [fact for passage in passages for fact in passage]
        rng.shuffle(asked)
        scene.facts = [fact.answer for fact in asked]
        text = self._bound(passages)
        system, user = rng.choices(USER_WRAPPERS, WRAPPER_WEIGHTS)[0]
        if system:
            scene.system = system.replace("{context}", text)
        wrap = user.replace("{context}", text)
        # That something is missing is learnt last, so training meets it more often.
        missing = 0.3 if self.split == "train" else 0.15
        for turn in range(turns):
            if rng.random() < missing:
                fact = self._unsaid(rng.choice(passages))
                scene.gold = fact.denial
                scene.facts.append(scene.gold)
            else:
                fact = asked[turn % len(asked)]
                scene.gold = fact.answer
            question = self._asked(fact.said(rng.choice(fact.relation.questions)))
            scene.ask(wrap.replace("{question}", question) if turn == 0 else question)
            style = self._style(scene, turn == turns - 1)
            scene.say(self._fact_answer(scene, style, scene.gold))

    def _unsaid(self, passage: Sequence[Fact]) -> Fact:
        """Draw a fact that no passage states: of this passage's subject, or of another."""
        given = passage[0]
        if given.relation.subject != "any" and self.rng.random() < 0.6:
            known = {fact.relation for fact in passage}
            more = self._facts(given.relation.subject, 8, given.subject)
            unsaid = [fact for fact in more if fact.relation not in known]
            if unsaid:
                return unsaid[0]
        return self._facts(self._subject_kind(), 1)[0]

    def _asked(self, question: str) -> str:
        if self.rng.random() < 0.1:
            question = question.rstrip("?.")
        return question.lower() if self.rng.random() < 0.03 else question

    def _fact_answer(self, scene: Scene, style: Style, *said: str) -> str:
        """Word an answer whose first points state facts or that there are none."""
        dialect = style["dialect"]
        if len(said) > 1 and style["length"] == "brief":
            style = style | {"length": NEUTRAL}
        points = [one if one in scene.facts else speak(one, dialect) for one in said]
        remarks = [speak(one, dialect) for one in self._some(world.FACT_REMARKS, 3)]
        count = max(len(points), self._count(style))
        return self._finish([*points, *remarks][:count], style | {"expertise": NEUTRAL})

    def _subject_kind(self) -> str:
        return self.rng.choice(("shop", "person", "town", "event", "thing"))

    def _facts(self, kind: str, count: int, subject: str | None = None) -> list[Fact]:
        """State facts about one subject, a new one unless it is given."""
        rng = self.rng
        subject = subject or self._subject(kind)
        known = [relation for relation in world.RELATIONS if relation.subject == kind]
        known += [relation for relation in world.RELATIONS if relation.subject == "any"] * 2
        # One subject may have two different things that are named by the same relation.
        things = iter(rng.sample(world.THINGS, len(known)))
        facts: dict[tuple[str, str], Fact] = {}
        for relation in rng.sample(known, min(count, len(known))):
            thing = next(things) if relation.subject == "any" else ""
            value = self.draws.value(relation.value)
            facts[relation.key, thing] = Fact(relation, thing, subject, value)
        return list(facts.values())

    def _subject(self, kind: str) -> str:
        rng = self.rng
        match kind:
            case "shop":
                return f"the {self.draws.name()} {rng.choice(world.SHOPS)}"
            case "event":
                what = rng.choice(("festival", "concert", "race", "fair", "meeting", "course"))
                return f"the {self.draws.name()} {what}"
            case "thing":
                what = rng.choice(("lamp", "bike", "phone", "tent", "chair", "camera", "plan"))
                return f"the {self.draws.name()} {what}"
            case "person":
                return self.draws.value("person")
            case _:
                return self.draws.name()

    def _bound(self, passages: Sequence[Sequence[Fact]]) -> str:
        """Write passages one below the other, the way retrievers hand them over."""
        rng = self.rng
        texts = [self._passage(passage) for passage in passages]
        form = rng.random()
        if form < 0.1:
            texts = [f"[{number}] {text}" for number, text in enumerate(texts, 1)]
        elif form < 0.18:
            texts = [f"file_name: {self.draws.word().lower()}.txt\n\n{text}" for text in texts]
        elif form < 0.24:
            texts = [f"- {text}" for text in texts]
        return ("\n" if rng.random() < 0.2 else "\n\n").join(texts)

    def _passage(self, facts: Sequence[Fact]) -> str:
        return " ".join(fact.said(self.rng.choice(fact.relation.statements)) for fact in facts)

    def _tools(self, scene: Scene, turns: int) -> None:
        """Let the user ask for what tools can do, and now and then for what they cannot."""
        rng = self.rng
        count = rng.choices((1, 2, 3, 4, 6), (0.2, 0.3, 0.25, 0.15, 0.1))[0]
        *tools, absent = toolbox(self.draws, count + 1)
        scene.tools = [tool.schema() for tool in tools]
        unasked = tools
        only_calls = scene.kind == "calls" and self._only_calls()
        # That no tool fits is learnt sooner than which one does.
        without = 0.4 if self.split == "train" else 0.5
        for turn in range(turns):
            last = turn == turns - 1
            style = self._style(scene, last)
            chance = rng.random()
            if chance < (without if scene.kind == "calls" else 0.25 if not last else 0):
                scene.gold, scene.topic = "", None
                if rng.random() < 0.7:
                    scene.say(self._refused(scene, style, absent))
                else:
                    topic = rng.choice(world.TOPICS)
                    question, occasion = self._question(topic)
                    scene.ask(question)
                    scene.say(self._advice(style, topic, occasion, []))
                    scene.topic = topic.name
                continue
            scene.topic = None
            ends = only_calls or (scene.kind == "calls" and last)
            wanted = self._ask_for(scene, unasked or tools, told=not ends)
            unasked = _without(unasked, wanted)
            scene.call(*(one.message() for one in wanted))
            scene.gold = None
            if ends:
                continue
            self._hear_and_tell(scene, style, wanted)

    def _react(self, scene: Scene, turns: int) -> None:
        """Let the user ask for what tools can do, where calls and results are plain text."""
        rng = self.rng
        count = rng.choices((1, 2, 3, 4, 6), (0.05, 0.2, 0.3, 0.25, 0.2))[0]
        only_calls = self._only_calls()
        # Which of several tools it is, is learnt from its choice alone, many times in a row.
        alike = only_calls and rng.random() < 0.6
        if alike:
            count = turns = rng.choice((4, 5, 6, 7, 8))
        *tools, absent = toolbox(self.draws, count + 1, alike=alike)
        unasked = tools
        told = REACT_SYSTEM + (REACT_INSTRUCTIONS if rng.random() < 0.2 else REACT_SHORT)
        if scene.system:
            told = CONTEXT_REACT_CHAT_SYSTEM_HEADER.replace("{context}", scene.system)
        scene.system = told.format(
            context_prompt="",
            tool_desc="\n".join(described(tool) for tool in tools),
            tool_names=", ".join(tool.name for tool in tools),
        )
        for turn in range(turns):
            style = self._style(scene, turn == turns - 1)
            if rng.random() < 0.06:
                scene.say(REACT_REFUSAL.format(answer=self._refused(scene, style, absent)))
                continue
            wanted = self._ask_for(scene, unasked or tools, told=not only_calls)
            made = wanted[:1] if only_calls else wanted
            unasked = _without(unasked, made)
            for one in made:
                arguments = json.dumps(one.arguments, ensure_ascii=False)
                name, subject = one.tool.name, one.subject
                scene.say(REACT_CALL.format(subject=subject, name=name, arguments=arguments))
                if not only_calls:
                    scene.ask(f"Observation: {one.result}")
            if only_calls:
                scene.gold = None
                continue
            answer = self._result_answer(scene, style, wanted)
            scene.say(REACT_ANSWER.format(answer=answer))

    def _handoff(self, scene: Scene) -> None:
        """Let an agent hand a question over, answer what it was handed, or what is its own."""
        rng = self.rng
        count = rng.choices((1, 2, 3, 4, 6), (0.1, 0.3, 0.3, 0.2, 0.1))[0]
        *tools, absent = toolbox(self.draws, count + 1)
        agents = team(self.draws, tools, rng.choice((2, 2, 3)))
        owner = rng.choice([name for name, own in agents.items() if own])
        first = rng.choice([name for name in agents if name != owner])
        form = rng.random()
        # Who is at work: the one who has no such tool, or the one who has it.
        agent = first if form < 0.4 else owner
        others = {name: own for name, own in agents.items() if name != agent}
        scene.tools = [*(tool.schema() for tool in agents[agent]), handoff(others)]
        style = self._style(scene, last=True)
        if form >= 0.92:
            scene.say(self._refused(scene, style, absent))
            return
        wanted = self._ask_for(scene, agents[owner], told=agent == owner)
        if form < 0.8:
            call, returned = handed_over(owner, wanted)
            scene.call(call)
            if agent == first:
                return
            scene.hear(returned)
            scene.given = 1
        scene.call(*(one.message() for one in wanted))
        self._hear_and_tell(scene, style, wanted)

    def _refused(self, scene: Scene, style: Style, absent: Tool) -> str:
        """Ask for what no tool at hand can do, and word the answer that says so."""
        scene.gold = ""
        scene.ask(self._asked(request(self.draws, absent).question))
        return self._fact_answer(scene, style, self.rng.choice(world.NO_TOOL))

    def _hear_and_tell(self, scene: Scene, style: Style, calls: Sequence[Call]) -> None:
        """Let tools return what calls asked for, and tell the user."""
        for one in calls:
            scene.hear(one.result)
        scene.say(self._result_answer(scene, style, calls))

    def _only_calls(self) -> bool:
        """Whether a scene of training goes without what comes after calls, so that more fit in.

        Which tool a question takes is learnt last.
        """
        return self.split == "train" and self.rng.random() < 0.5

    def _ask_for(self, scene: Scene, tools: Sequence[Tool], *, told: bool) -> list[Call]:
        """Ask for what a tool does, now and then for two such things, and return the calls.

        Args:
            scene: What the question is added to.
            tools: The tools to choose from.
            told: Whether the user is told the results.
        """
        rng = self.rng
        named = NAMED
        if self.split == "train":
            # Where a question only names a tool, the words of the answer have to be found where
            # the tool is described, which is learnt late; but nothing is learnt of the choice.
            named = 0.4 if told else 0.1
        wanted = [request(self.draws, rng.choice(tools), named=named)]
        question = wanted[0].question
        second = request(self.draws, rng.choice(tools), named=named)
        # The same call twice would have two results, and the same sentence twice none of its own.
        differs = second.message() != wanted[0].message() and second.answer != wanted[0].answer
        if rng.random() < 0.08 and differs:
            wanted.append(second)
            question = f"{question.rstrip('.?')} and then: {second.question}"
        # Never in small letters alone, from which no argument could be copied.
        scene.ask(question.rstrip("?.") if rng.random() < 0.05 else question)
        return wanted

    def _result_answer(self, scene: Scene, style: Style, calls: Sequence[Call]) -> str:
        """Tell the user what calls gave; it becomes what the last answer must say."""
        facts = [one.answer for one in calls]
        scene.facts += [fact for fact in facts if fact not in scene.facts]
        scene.gold = " ".join(facts)
        return self._fact_answer(scene, style, *facts)

    def _json(self, scene: Scene) -> None:
        """Ask for fields of a text as JSON; principles about style leave data alone."""
        rng = self.rng
        facts = self._facts(self._subject_kind(), rng.choice((2, 3, 4, 5)))
        record: dict[str, Any] = {}
        for fact in facts:
            key = fact.said(fact.relation.key).lower().replace(" ", "_")
            number = fact.relation.value in ("year", "number")
            record[key] = int(fact.value) if number else fact.value
        subject = facts[0].subject
        record = {"name": subject[0].upper() + subject[1:], **record}
        keys = rng.sample(sorted(record), rng.randrange(1, len(record) + 1))
        told = ", ".join(keys[:-1]) + (" and " if len(keys) > 1 else "") + keys[-1]
        passage = self._passage(facts)
        scene.ask(rng.choice(world.JSON_REQUESTS).format(keys=told, text=passage))
        scene.gold = json.dumps({key: record[key] for key in keys}, ensure_ascii=False)
        scene.say(scene.gold)


def _without(tools: Sequence[Tool], calls: Sequence[Call]) -> list[Tool]:
    """Leave out tools that were called.

    The name of one that was called before is copied from that call, which teaches no choice.
    """
    called = [one.tool for one in calls]
    return [tool for tool in tools if tool not in called]


def scenes(
    seed: int | str, count: int, split: Split = "train", *, lesson: bool = False
) -> Iterator[Scene]:
    """Draw `count` scenes from a seed, each before its mirror image; the rest is as in `Writer`."""
    writer = Writer(seed, split, lesson=lesson)
    drawn = itertools.chain.from_iterable(writer.images() for _ in itertools.count())
    yield from itertools.islice(drawn, count)
