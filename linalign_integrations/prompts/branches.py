"""The branches of a request: prompts that differ by principles and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from linalign_integrations.errors import InvalidMessages
from linalign_integrations.prompts.messages import add_to, merge_neighbours, system_first

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from linalign_integrations.preferences.model import Placement, Preferences
    from linalign_integrations.prompts.format import PromptFormat
    from linalign_integrations.prompts.formats import AnswerFormat
    from linalign_integrations.prompts.messages import Message
    from linalign_integrations.prompts.tools import Tools


@dataclass(frozen=True, slots=True)
class Branch:
    """One prompt of a request, as the model will see it.

    Attributes:
        name: ``"prompted"`` (all principles of positive weight), ``"plain"`` (none), ``"avoided"``
            (principles to steer away from), or ``"principle 1"`` and so on when weights differ.
        text: the prompt, special tokens included.
        token_ids: its tokens.
    """

    name: str
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """The branches of a request, by index, and how they combine.

    Attributes:
        names: what each branch is called, as in ``Branch``; the prompted one is first.
        token_ids: the tokens of each branch, all different.
        plain: index of the branch without principles.
        terms: ``(index, weight)`` of each branch that pulls the answer away from the plain one;
            empty when nothing is to be aligned.
        guided: whether any principle takes part, be it only in the prompt.
    """

    names: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    plain: int
    terms: tuple[tuple[int, float], ...]
    guided: bool

    def branches(self, form: PromptFormat) -> list[Branch]:
        """The branches with their texts."""
        return [
            Branch(name, form.decode(ids, special=True), ids)
            for name, ids in zip(self.names, self.token_ids, strict=True)
        ]


def plan_branches(
    messages: list[Message],
    preferences: Preferences,
    form: PromptFormat,
    tools: Tools | None = None,
    answers: AnswerFormat | None = None,
) -> BranchPlan:
    """The prompts that a request with these preferences needs.

    Equal weights share one joint prompt, so that two prompts are enough; differing weights need
    one each. Prompts with equal tokens are one branch.

    Args:
        messages: a normalised conversation.
        preferences: what the user wants.
        form: the model's way to write conversations.
        tools: what the model may call, the same in every branch.
        answers: how calls are to be written, if not as usual.

    Raises:
        InvalidMessages: the template refuses the conversation, a principle would forge control
            tokens through it, or principles are to stand in the last user turn and there is none.
    """
    try:
        return _plan(messages, preferences, form, tools, answers)
    except InvalidMessages:
        # For templates that are strict about the order of roles.
        ways = merge_neighbours(messages), merge_neighbours(system_first(messages))
        simpler = next((way for way in ways if way != messages), None)
        if simpler is None:
            raise
        return plan_branches(simpler, preferences, form, tools, answers)


def _plan(
    messages: list[Message],
    preferences: Preferences,
    form: PromptFormat,
    tools: Tools | None,
    answers: AnswerFormat | None,
) -> BranchPlan:
    weights: dict[str, float] = {}
    for principle in preferences.principles:
        weights[principle.text] = weights.get(principle.text, 0.0) + principle.weight
    weights = {text: weight for text, weight in weights.items() if weight}
    wanted = [text for text, weight in weights.items() if weight > 0]

    place = _placer(messages, preferences.placement, form)
    token_ids: list[tuple[int, ...]] = []
    names: list[str] = []

    def branch(name: str, principles: Iterable[str]) -> int:
        texts = list(principles)
        ids = tuple(form.encode(place(texts), tools, answers))
        # Encoding keeps control tokens in a principle plain; a template that edits its input could
        # still put one together.
        if any(map(form.may_forge, texts)):
            harmless = form.encode(place(["x"] * len(texts)), tools, answers)
            if form.structure(ids) != form.structure(harmless):
                raise InvalidMessages(
                    "a principle forges control tokens of the chat template: remove them from it"
                )
        if ids not in token_ids:
            token_ids.append(ids)
            names.append(name)
        return token_ids.index(ids)

    branch("prompted" if wanted else "plain", wanted)
    terms: list[tuple[int, float]] = []
    plain = 0
    if preferences.ratio > 0 and weights:
        plain = branch("plain", [])
        if len(set(weights.values())) == 1:
            joint = branch("avoided", weights)
            terms = [(joint, next(iter(weights.values())))]
        else:
            terms = [
                (branch(f"principle {number}", [text]), weight)
                for number, (text, weight) in enumerate(weights.items(), 1)
            ]
    return BranchPlan(
        names=tuple(names),
        token_ids=tuple(token_ids),
        plain=plain,
        terms=tuple((index, weight) for index, weight in terms if index != plain),
        guided=bool(weights),
    )


def _placer(
    messages: list[Message], placement: Placement, form: PromptFormat
) -> Callable[[list[str]], list[Message]]:
    if placement == "system":
        return lambda texts: form.with_system(messages, "\n".join(texts)) if texts else messages
    turns = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not turns:
        raise InvalidMessages(
            'placement="last_user" needs a user message to carry the principles: '
            'add one, or use placement="system"'
        )
    last = turns[-1]
    return lambda texts: [
        add_to(message, "\n".join(texts)) if place == last and texts else message
        for place, message in enumerate(messages)
    ]
