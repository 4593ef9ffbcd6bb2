"""The engine's tokens against the rule computed the slow way: no cache, one branch at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models import CONFIGS, VOCAB, engine, model

from linalign_integrations import Preferences, Principle, SamplingParams
from linalign_integrations.engine.rows import Rows
from linalign_integrations.engine.sampling import uniform

LENGTH = 24
# Most of the rounding of a few layers in bfloat16, in logits whose standard deviation is 2.5.
ROUNDING = 0.25
SHORT = "Tell me a story."
LONG = "I have a question about the weather in the north, and it is a long one: " * 2
CASES = [
    # ratio, temperature, plausibility, greedy, question, principle
    (0.0, 1.0, 0.8, True, SHORT, "Be brief."),
    (0.0, 0.7, 0.8, False, SHORT, "Be brief."),
    (1.0, 0.5, 0.5, False, LONG, "Be brief."),
    (2.0, 0.7, 0.8, False, SHORT, "Answer like a pirate who has seen the seven seas."),
    (2.0, 1.0, 0.8, True, LONG, "x"),
    (3.0, 0.5, 0.8, True, SHORT, "The person who asked is a chef; take their needs into account."),
    (3.0, 1.5, 0.95, False, LONG, "Be formal."),
    (5.0, 0.5, 1.0, False, SHORT, "Be formal."),
    (5.0, 1.5, 1.0, True, LONG, "Be formal."),
]


def reference(
    kind: str,
    prompts: dict[str, tuple[int, ...]],
    *,
    ratio: float,
    temperature: float,
    plausibility: float,
    greedy: bool,
    seed: int,
) -> list[int]:
    """The released rule, as the method's description gives it, token by token."""
    drawn: list[int] = []
    end = model(kind).config.eos_token_id

    def last_logits(prompt: tuple[int, ...]) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *drawn]])
        with torch.no_grad():
            return model(kind)(ids, use_cache=False).logits[0, -1].float()

    for position in range(LENGTH):
        z_p, z_u = last_logits(prompts["prompted"]), last_logits(prompts["plain"])
        combined = z_p + ratio * (z_p - z_u)
        prior = (z_p.double() / temperature).softmax(-1)
        mass, order = prior.sort(descending=True, stable=True)
        before = mass.cumsum(-1) - mass
        plausible = order[before < plausibility] if plausibility < 1 else torch.arange(len(z_p))
        aligned = (combined.double() / temperature)[plausible].softmax(-1)
        if greedy:
            token = plausible[aligned.argmax()]
        else:
            cumulative = aligned.cumsum(-1)
            token = plausible[int((cumulative <= uniform(seed, position)).sum())]
        drawn.append(int(token))
        if drawn[-1] == end or drawn[-1] in engine(kind)._end_tokens:
            break
    return drawn


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:4])))
def test_tokens_equal_the_reference_rule(kind: str, case: tuple) -> None:
    ratio, temperature, plausibility, greedy, question, principle = case
    preferences = Preferences(principles=[principle], ratio=ratio, plausibility=plausibility)
    both = Preferences(principles=[principle], ratio=1.0)
    prompts = {
        branch.name: branch.token_ids
        for branch in engine(kind).branches(question, preferences=both)
    }
    assert len(prompts["prompted"]) != len(prompts["plain"])
    expected = reference(
        kind,
        prompts,
        ratio=ratio,
        temperature=temperature,
        plausibility=plausibility,
        greedy=greedy,
        seed=7,
    )
    result = engine(kind).generate(
        question,
        preferences=preferences,
        sampling=SamplingParams(
            temperature=temperature, top_k=1 if greedy else None, seed=7, max_tokens=LENGTH
        ),
    )
    assert list(result.token_ids) == expected


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("ratio", [0.0, 2.0])
def test_without_a_step_greedy_answers_equal_those_of_transformers(kind: str, ratio: float) -> None:
    principles = ["Be brief."] if ratio == 0 else []
    preferences = Preferences(principles=principles, ratio=ratio)
    [branch] = engine(kind).branches(LONG, preferences=preferences)
    prompt = torch.tensor([branch.token_ids])
    generated = model(kind).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=LENGTH,
        eos_token_id=sorted(engine(kind)._end_tokens),
        pad_token_id=0,
    )
    result = engine(kind).generate(
        LONG,
        preferences=preferences,
        sampling=SamplingParams(temperature=0, max_tokens=LENGTH),
    )
    assert list(result.token_ids) == generated[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_weighted_principles_equal_the_sum_of_their_directions(kind: str) -> None:
    preferences = Preferences(
        principles=[Principle("Be brief.", 2.0), Principle("Be formal.", -0.5)], ratio=1.5
    )
    branches = {b.name: b.token_ids for b in engine(kind).branches(SHORT, preferences=preferences)}
    assert list(branches) == ["prompted", "plain", "principle 2"]
    drawn: list[int] = []

    def logits(name: str) -> torch.Tensor:
        with torch.no_grad():
            ids = torch.tensor([[*branches[name], *drawn]])
            return model(kind)(ids, use_cache=False).logits[0, -1]

    for _ in range(LENGTH):
        prompted, plain, avoided = logits("prompted"), logits("plain"), logits("principle 2")
        moved = prompted + 1.5 * (2.0 * (prompted - plain) - 0.5 * (avoided - plain))
        mass, order = prompted.double().softmax(-1).sort(descending=True)
        plausible = order[mass.cumsum(-1) - mass < 0.8]
        drawn.append(int(plausible[moved[plausible].argmax()]))
        if drawn[-1] in engine(kind)._end_tokens:
            break
    result = engine(kind).generate(
        SHORT, preferences=preferences, sampling=SamplingParams(temperature=0, max_tokens=LENGTH)
    )
    assert list(result.token_ids) == drawn


@pytest.mark.parametrize(
    "principles",
    [
        ["Answer like a pirate."],
        ["Be brief.", "Be formal."],
        [Principle("Be brief.", 2.0), Principle("Be formal."), Principle("Be dull.", -1.0)],
        [Principle("Be brief.", -1.0), Principle("Be formal.", -2.0)],
    ],
    ids=["one", "equal weights", "different weights", "weights below 0"],
)
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_neox"])
def test_a_kl_budget_bounds_every_token_and_changes_the_answer(
    kind: str, principles: list[str | Principle]
) -> None:
    sampling = SamplingParams(seed=5, max_tokens=LENGTH)
    free = Preferences(principles=principles, ratio=5.0)
    bounded = Preferences(principles=principles, ratio=5.0, kl_budget=0.05)
    spent = {
        preferences.kl_budget: [
            piece.kl
            for piece in engine(kind).stream(SHORT, preferences=preferences, sampling=sampling)
        ]
        for preferences in (free, bounded)
    }
    assert max(spent[None]) > 0.05
    assert max(spent[0.05]) == pytest.approx(0.05, abs=1e-5)
    assert max(spent[0.05]) <= 0.05 + 1e-9


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_in_bfloat16_rows_are_computed_as_the_model_itself_does(kind: str) -> None:
    half: Any = copy.deepcopy(model(kind)).to(torch.bfloat16)
    # One token, one more than a block of queries, and many, at different lengths of each row.
    counts = [(9, 30, 17), (1, 1, 1), (11, 11, 33), (0, 1, 2), (65, 1, 16), (1, 1, 1)]
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, VOCAB, (3, 200), generator=generator).tolist()
    reader = copy.deepcopy(half)
    with torch.inference_mode():
        rows = Rows(half, max_positions=256)
        rows.add(3)
        for step in counts:
            new = [
                one[length : length + count]
                for one, length, count in zip(ids, rows.lengths, step, strict=True)
            ]
            got = iter(rows.forward(new))
            rows.extend(new)
            for one, length, count in zip(ids, rows.lengths, step, strict=True):
                if count:
                    own = reader(torch.tensor([one[:length]]), use_cache=False).logits[0, -1]
                    assert (next(got) - own.float()).abs().max() < ROUNDING
