"""The method's mathematics, on any logits that hypothesis finds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from linalign_integrations.alignment import align, direction, nucleus, spent_kl, step_size

settings.register_profile("fast", max_examples=80, deadline=None, derandomize=True)
settings.load_profile("fast")

VOCAB = 40


def logits(low: float = -20, high: float = 20, rows: int = 3) -> st.SearchStrategy[Tensor]:
    return arrays.arrays("float32", (rows, VOCAB), elements=st.floats(low, high, width=32)).map(
        torch.from_numpy
    )


ratios = st.floats(0, 10)
budgets = st.floats(1e-3, 5)
masses = st.floats(0.05, 1)
temperatures = st.floats(0.3, 2)


def on_vocabulary(token_ids: Tensor, log_probs: Tensor, vocab: int = VOCAB) -> Tensor:
    dense = torch.full((len(token_ids), vocab), -torch.inf, dtype=torch.double)
    for row, (ids, values) in enumerate(zip(token_ids, log_probs, strict=True)):
        kept = values > -torch.inf
        dense[row, ids[kept]] = values[kept]
    return dense


def released_rule(z_p: Tensor, z_u: Tensor, ratio: float, heat: float, mass: float) -> Tensor:
    """softmax((z_p + r (z_p - z_u)) / T) on the nucleus of softmax(z_p / T), by sorting."""
    z_p, z_u = z_p.double(), z_u.double()
    # By logit: probabilities may be equal where both are too small to tell apart.
    order = z_p.sort(descending=True, stable=True).indices
    prior = (z_p / heat).softmax(-1).gather(-1, order)
    kept = (prior.cumsum(-1) - prior) < mass if mass < 1 else torch.ones_like(prior) > 0
    kept[:, 0] = True
    inside = torch.zeros_like(kept).scatter(-1, order, kept)
    moved = (z_p + ratio * (z_p - z_u)) / heat
    return moved.masked_fill(~inside, -torch.inf).log_softmax(-1)


@given(logits(), logits(), ratios, temperatures, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_without_a_budget_it_is_the_released_rule(
    z_p: Tensor, z_u: Tensor, ratio: float, heat: float, mass: float
) -> None:
    step = align(z_p, z_u, ratio=ratio, temperature=heat, plausibility=mass)
    expected = released_rule(z_p, z_u, ratio, heat, mass)
    found = on_vocabulary(step.token_ids, step.log_probs)
    # Where the cut falls between two float roundings of the same sum, either side is right.
    same = ((found > -torch.inf) == (expected > -torch.inf)).all(-1)
    for row in same.nonzero()[:, 0]:
        inside = expected[row] > -torch.inf
        torch.testing.assert_close(found[row, inside], expected[row, inside], atol=1e-6, rtol=1e-6)
    prior = (z_p.double() / heat).softmax(-1).sort(descending=True).values.cumsum(-1)
    assert (same | ((prior - mass).abs().amin(-1) < 1e-5)).all()


@given(logits(), logits(), ratios, budgets, masses, temperatures)
def test_the_kl_spent_never_exceeds_the_budget(
    z_p: Tensor, z_u: Tensor, ratio: float, budget: float, mass: float, heat: float
) -> None:
    step = align(z_p, z_u, ratio=ratio, kl_budget=budget, plausibility=mass, temperature=heat)
    free = align(z_p, z_u, ratio=ratio, plausibility=mass, temperature=heat)
    assert (step.kl <= budget + 1e-5).all()
    assert (step.ratio <= ratio).all()
    bound = step.ratio < ratio
    torch.testing.assert_close(
        step.kl[bound], torch.full_like(step.kl[bound], budget), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(step.log_probs[~bound], free.log_probs[~bound])


@given(logits(), logits(), masses, st.lists(ratios, min_size=2, max_size=5))
def test_the_kl_spent_grows_with_the_step(
    z_p: Tensor, z_u: Tensor, mass: float, etas: list[float]
) -> None:
    plausible = nucleus(z_p, torch.ones(3), torch.full((3,), mass))
    push = plausible.gather(z_p) - plausible.gather(z_u)
    spent = torch.stack(
        [
            spent_kl(plausible.log_probs, push, torch.full((3,), eta, dtype=torch.double))
            for eta in sorted(etas)
        ]
    )
    assert (spent.diff(dim=0) >= -1e-9).all()


@given(logits(rows=1), logits(rows=1), budgets)
def test_the_step_size_solves_the_kl_equation(z_p: Tensor, z_u: Tensor, budget: float) -> None:
    prior = z_p.double().log_softmax(-1)
    push = (z_p - z_u).double()
    far = torch.tensor([50.0], dtype=torch.double)
    eta = step_size(prior, push, far, torch.tensor([budget], dtype=torch.double))
    if spent_kl(prior, push, far) > budget:
        assert spent_kl(prior, push, eta).item() == pytest.approx(budget, rel=1e-6)
    else:
        assert eta.item() == 50


def test_the_fisher_estimate_and_the_exact_step_agree_on_the_known_example() -> None:
    """A Gaussian direction under a uniform prior: eta = sqrt(2 delta / Var) to first order."""
    torch.manual_seed(0)
    push = torch.randn(1, 20000, dtype=torch.double)
    prior = torch.full_like(push, -math.log(20000))
    for budget in (0.001, 0.01):
        exact = step_size(prior, push, torch.tensor([100.0]), torch.tensor([budget]))
        assert exact.item() == pytest.approx(math.sqrt(2 * budget), rel=0.05)


@given(logits(), logits(), ratios, st.floats(-50, 50), st.floats(-50, 50))
def test_a_constant_added_to_any_branch_changes_nothing(
    z_p: Tensor, z_u: Tensor, ratio: float, first: float, second: float
) -> None:
    z_p, z_u = z_p.double(), z_u.double()
    one = align(z_p, z_u, ratio=ratio, plausibility=1.0, kl_budget=0.5)
    two = align(z_p + first, z_u + second, ratio=ratio, plausibility=1.0, kl_budget=0.5)
    torch.testing.assert_close(one.log_probs.exp(), two.log_probs.exp(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(one.kl, two.kl, atol=1e-6, rtol=1e-6)


@given(logits(), logits(), logits(), ratios)
def test_two_equal_principles_of_half_weight_are_one_of_full_weight(
    z_p: Tensor, z_u: Tensor, other: Tensor, ratio: float
) -> None:
    halves = align(
        z_p,
        z_u,
        ratio=ratio,
        principles=torch.stack([other, other], 1),
        weights=torch.full((3, 2), 0.5),
    )
    whole = align(z_p, z_u, ratio=ratio, principles=other[:, None])
    torch.testing.assert_close(halves.log_probs, whole.log_probs, atol=1e-9, rtol=1e-9)


@given(logits(), logits(), ratios, st.floats(0.3, 2), masses)
def test_rows_are_independent_of_one_another(
    z_p: Tensor, z_u: Tensor, ratio: float, heat: float, mass: float
) -> None:
    per_row = {
        "ratio": torch.tensor([ratio, 1.0, 0.0]),
        "temperature": torch.tensor([heat, 1.0, 0.7]),
        "plausibility": torch.tensor([mass, 1.0, 0.8]),
        "kl_budget": torch.tensor([torch.inf, 0.2, 0.1]),
    }
    together = align(z_p, z_u, **per_row)
    dense = on_vocabulary(together.token_ids, together.log_probs)
    for row in range(3):
        alone = align(
            z_p[row : row + 1],
            z_u[row : row + 1],
            **{name: value[row : row + 1] for name, value in per_row.items()},
        )
        assert torch.equal(on_vocabulary(alone.token_ids, alone.log_probs)[0], dense[row])


@pytest.mark.parametrize(("rounds", "ratio"), [(20, 3.57), (60, 4.65), (80, 4.93)])
def test_amulet_with_its_shipped_settings_is_this_rule_at_one_ratio(
    rounds: int, ratio: float
) -> None:
    """Amulet's online updates, iterated on distributions, against one closed-form step."""
    alpha, lam, eta = 2.0, 2.0, 10.0
    torch.manual_seed(0)
    z_p = torch.randn(20, 200, dtype=torch.double) * 2
    z_u = z_p + 0.3 * torch.randn(20, 200, dtype=torch.double)
    prompted, plain = z_p.log_softmax(-1), z_u.log_softmax(-1)
    policy, utility = prompted, torch.zeros_like(prompted)
    for turn in range(1, rounds + 1):
        utility = utility + alpha * (policy - plain)
        anchored = eta * utility + lam * eta * turn * prompted + policy
        policy = (anchored / (lam * eta * turn + 1)).log_softmax(-1)
    step = align(z_p, z_u, ratio=ratio, plausibility=1.0)
    apart = (policy.exp() * (policy - step.log_probs)).sum(-1)
    assert apart.max() < 0.0012
    farther = align(z_p, z_u, ratio=ratio + 0.5, plausibility=1.0)
    assert (policy.exp() * (policy - farther.log_probs)).sum(-1).min() > apart.max()


anything = arrays.arrays(
    "float32", (2, VOCAB), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
).map(torch.from_numpy)


@given(
    anything,
    anything,
    st.floats(0, 1e6),
    st.one_of(st.none(), st.floats(1e-6, 100)),
    masses,
    st.floats(1e-300, 1e300),
    st.floats(-1e300, 1e300),
)
def test_no_finite_input_gives_nan(
    z_p: Tensor,
    z_u: Tensor,
    ratio: float,
    budget: float | None,
    mass: float,
    heat: float,
    weight: float,
) -> None:
    step = align(
        z_p,
        z_u,
        ratio=ratio,
        kl_budget=budget,
        plausibility=mass,
        temperature=heat,
        weights=torch.full((2, 1), weight, dtype=torch.double),
    )
    assert not step.log_probs.isnan().any()
    torch.testing.assert_close(step.log_probs.exp().sum(-1), torch.ones(2, dtype=torch.double))
    assert step.ratio.isfinite().all()
    assert not step.kl.isnan().any()
    if budget is not None:
        assert (step.kl <= budget + 1e-5).all()


@given(
    logits(rows=1),
    logits(rows=1),
    st.sets(st.integers(0, VOCAB - 1), max_size=VOCAB - 1),
    st.sets(st.integers(0, VOCAB - 1)),
    ratios,
)
def test_forbidden_tokens_stay_forbidden_and_give_no_nan(
    z_p: Tensor, z_u: Tensor, forbidden: set[int], missing: set[int], ratio: float
) -> None:
    z_p, z_u = z_p.clone(), z_u.clone()
    z_p[0, list(forbidden)] = -torch.inf
    z_u[0, list(missing)] = -torch.inf
    step = align(z_p, z_u, ratio=ratio, plausibility=1.0, kl_budget=1.0)
    dense = on_vocabulary(step.token_ids, step.log_probs)
    assert not dense.isnan().any()
    assert (dense[0, list(forbidden)] == -torch.inf).all()
    assert dense.exp().sum().item() == pytest.approx(1)


def test_with_one_plausible_token_the_plain_branch_does_not_matter() -> None:
    z_p = torch.zeros(1, VOCAB)
    z_p[0, 7] = 30.0
    for z_u in (torch.zeros(1, VOCAB), torch.randn(1, VOCAB) * 100):
        step = align(z_p, z_u, ratio=5.0)
        assert step.token_ids.tolist() == [[7]]
        assert step.kl.item() == 0


def test_the_plausible_set_is_exact_where_the_first_few_hundred_tokens_do_not_hold_the_mass() -> (
    None
):
    torch.manual_seed(1)
    flat = torch.randn(2, 5000) * 0.1
    found = nucleus(flat, torch.ones(2), torch.tensor([0.8, 0.3]))
    for row, mass in enumerate((0.8, 0.3)):
        probs, order = flat[row].double().softmax(-1).sort(descending=True)
        expected = order[probs.cumsum(-1) - probs < mass]
        kept = found.log_probs[row] > -torch.inf
        assert found.token_ids[row, kept].tolist() == expected.tolist()


def test_equal_logits_at_the_edge_of_the_set_are_taken_by_rising_token_id() -> None:
    tied = torch.zeros(1, 1000)
    found = nucleus(tied, torch.ones(1), torch.tensor([0.5]))
    assert found.token_ids.tolist() == [list(range(500))]


def test_a_tie_across_the_edge_of_the_first_look_is_still_taken_by_token_id() -> None:
    """More equal logits than are looked at first, and a cut that falls just before that edge."""
    tied = torch.full((1, 1000), -50.0)
    tied[0, ::3] = 0.0
    found = nucleus(tied, torch.ones(1), torch.tensor([255.5 / 334]))
    assert found.token_ids.tolist() == [list(range(0, 3 * 256, 3))]


def test_the_step_size_takes_few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linalign_integrations.alignment.step._ROOT_STEPS", 6)
    torch.manual_seed(2)
    z_p, z_u = torch.randn(64, 200) * 3, torch.randn(64, 200) * 3
    step = align(z_p, z_u, ratio=20.0, kl_budget=0.3)
    bound = align(z_p, z_u, ratio=20.0).kl > 0.3
    assert bound.sum() > 32
    reached = step.kl[bound] > 0.3 - 1e-6
    assert reached.double().mean() > 0.95


def test_top_k_is_counted_before_the_mass() -> None:
    z = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    found = nucleus(z, torch.ones(1), torch.tensor([0.7]), torch.tensor([2]))
    # Within the two likeliest the first alone holds 1 / (1 + 1/e) = 0.731 of the mass.
    assert found.token_ids[found.log_probs > -torch.inf].tolist() == [0]


def test_a_token_only_one_branch_allows_is_a_strong_finite_push() -> None:
    inf = torch.inf
    push = direction(
        torch.tensor([[[0.0, -inf, 1.0, -inf]]]),
        torch.tensor([[-inf, 0.0, 0.5, -inf]]),
        torch.tensor([[1.0]]),
    )
    assert push.isfinite().all()
    assert push[0, 0] > 1e30
    assert push[0, 1] < -1e30
    assert push[0, 2].item() == 0.5
    assert push[0, 3].item() == 0
