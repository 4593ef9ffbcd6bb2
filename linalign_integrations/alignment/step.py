"""The step: how far to move the prompted distribution along the direction the user wants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from linalign_integrations.alignment.candidates import Candidates, nucleus

# Twice the float32 range: a contrast this large stands for "in one branch only".
_LARGEST_CONTRAST = 1e39
_LARGEST_PUSH = 1e100
_ROOT_STEPS = 96
_ROOT_PRECISION = 1e-8


@dataclass(frozen=True, slots=True)
class AlignedStep:
    """What to draw the next token from, and what it took to get there.

    Attributes:
        token_ids: ``[n, m]`` int64, the plausible set of each row, padded as in ``Candidates``.
        log_probs: ``[n, m]`` float64, aligned and normalised on that set; ``-inf`` on padding.
        ratio: ``[n]`` float64, the step taken: ``min(ratio, eta(kl_budget))``.
        kl: ``[n]`` float64, nats spent: KL(aligned || prompted) on the plausible set, both at the
            request's temperature.
        prompted: ``[n, m]`` float64, as ``log_probs`` before the step.
    """

    token_ids: Tensor
    log_probs: Tensor
    ratio: Tensor
    kl: Tensor
    prompted: Tensor


def direction(principles: Tensor, plain: Tensor, weights: Tensor) -> Tensor:
    """``sum_k w_k (z_k - z_plain)``: where the principles push, up to a constant per row.

    A token that one branch forbids (``-inf``) and the other allows counts as a very large, finite
    push; where both forbid it there is nothing to compare and the push is 0.

    Args:
        principles: ``[n, p, m]`` logits of one branch per weighted principle, at the same tokens.
        plain: ``[n, m]`` logits of the branch without principles.
        weights: ``[n, p]``; 0 for rows that have fewer than ``p`` principles.

    Returns:
        ``[n, m]`` float64, finite.
    """
    contrast = (principles.double() - plain.double()[:, None]).nan_to_num(
        nan=0.0, posinf=_LARGEST_CONTRAST, neginf=-_LARGEST_CONTRAST
    )
    push = (weights.double()[..., None] * contrast).sum(1)
    return push.nan_to_num(nan=0.0).clamp(-_LARGEST_PUSH, _LARGEST_PUSH)


def spent_kl(log_prior: Tensor, push: Tensor, eta: Tensor) -> Tensor:
    """KL(pi_eta || pi_0) in nats, for ``pi_eta`` proportional to ``pi_0 exp(eta push)``.

    It grows monotonically in ``eta``: its derivative is ``eta Var_{pi_eta}(push)``.

    Args:
        log_prior: ``[n, m]`` normalised ``log pi_0``; ``-inf`` outside the support.
        push: ``[n, m]``.
        eta: ``[n]``, not negative.
    """
    return _kl(log_prior, _tilt(log_prior, push, eta))


def step_size(log_prior: Tensor, push: Tensor, ratio: Tensor, kl_budget: Tensor) -> Tensor:
    """``min(ratio, eta(kl_budget))`` where ``eta`` solves ``KL(eta) = kl_budget``.

    The root is found by Newton's method on ``log KL`` over ``log eta``, which is nearly a straight
    line, from the Fisher estimate ``sqrt(2 delta / Var(push))`` and inside a shrinking bracket. It
    takes 3 to 5 evaluations as a rule; the KL spent at the result never exceeds the budget.

    Args:
        log_prior: ``[n, m]`` normalised log-probabilities before the step.
        push: ``[n, m]`` direction divided by the temperature.
        ratio: ``[n]``, the largest step allowed.
        kl_budget: ``[n]`` nats; ``inf`` for no budget.

    Returns:
        ``[n]`` float64.
    """
    ratio, kl_budget = ratio.double(), kl_budget.double()
    if bool(kl_budget.isinf().all()):
        return ratio
    bound = spent_kl(log_prior, push, ratio) > kl_budget
    if not bool(bound.any()):
        return ratio
    low, high = torch.zeros_like(ratio), ratio.clone()
    goal = kl_budget * (1 - _ROOT_PRECISION / 2)
    start = (2 * kl_budget / _variance(log_prior, push)).sqrt()
    eta = torch.where(start < high, start, high / 2)
    for attempt in range(_ROOT_STEPS):
        tilted = _tilt(log_prior, push, eta)
        kl = _kl(log_prior, tilted)
        over = kl > kl_budget
        low, high = torch.where(over, low, eta), torch.where(over, eta, high)
        done = ~over & (kl >= kl_budget * (1 - _ROOT_PRECISION))
        if bool((done | ~bound).all()):
            break
        # In logarithms KL(eta) is nearly straight: eta^2 Var / KL is its slope there.
        rise = (kl / goal).log() * kl / (eta.square() * _variance(tilted, push))
        newton = eta * (-rise).exp()
        # Newton can crawl where KL saturates; now and then the bracket is halved instead.
        sound = (newton > low) & (newton < high) & (attempt % 6 != 5)
        eta = torch.where(done, eta, torch.where(sound, newton, (low + high) / 2))
    return torch.where(bound, low, ratio)


def take_step(
    plausible: Candidates,
    push: Tensor,
    *,
    temperature: Tensor,
    ratio: Tensor,
    kl_budget: Tensor,
) -> AlignedStep:
    """Moves the prompted distribution on its plausible set: ``softmax((z_p + r d) / T)``.

    Args:
        plausible: nucleus of the prompted distribution at this temperature.
        push: ``[n, m]`` the direction ``d`` at those tokens.
        temperature: ``[n]``, above 0.
        ratio: ``[n]``, not negative.
        kl_budget: ``[n]`` nats per token; ``inf`` for no budget.
    """
    tempered = (push / temperature.double()[:, None]).clamp(-_LARGEST_PUSH, _LARGEST_PUSH)
    taken = step_size(plausible.log_probs, tempered, ratio, kl_budget)
    log_probs = _tilt(plausible.log_probs, tempered, taken)
    before = plausible.log_probs
    return AlignedStep(plausible.token_ids, log_probs, taken, _kl(before, log_probs), before)


def align(
    prompted: Tensor,
    plain: Tensor,
    *,
    ratio: float | Tensor,
    kl_budget: float | Tensor | None = None,
    plausibility: float | Tensor = 0.8,
    temperature: float | Tensor = 1.0,
    principles: Tensor | None = None,
    weights: Tensor | None = None,
) -> AlignedStep:
    """One step of linear alignment for ``n`` requests at once.

    With ``kl_budget=None`` and no ``principles`` this is the rule of the paper's released code:
    draw from ``softmax((z_p + ratio (z_p - z_u)) / T)`` inside the nucleus of ``softmax(z_p / T)``.

    Args:
        prompted: ``[n, vocab]`` logits with all principles of positive weight in the prompt.
        plain: ``[n, vocab]`` logits with none.
        ratio: largest step, a number or ``[n]``; not negative.
        kl_budget: most nats a step may spend, a number or ``[n]``; None or ``inf`` for no limit.
        plausibility: mass of the plausible set in (0, 1], a number or ``[n]``.
        temperature: above 0, a number or ``[n]``.
        principles: ``[n, p, vocab]`` logits of a branch per weighted principle; by default
            ``prompted`` is the only one, with weight 1.
        weights: ``[n, p]``, negative to steer away; by default 1.
    """
    n = len(prompted)

    def per_row(value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.double, device=prompted.device).expand(n)

    terms = prompted[:, None] if principles is None else principles
    weights = prompted.new_ones(terms.shape[:2]) if weights is None else weights
    heat = per_row(temperature)
    plausible = nucleus(prompted, heat, per_row(plausibility))
    at_tokens = plausible.token_ids[:, None].expand(-1, terms.shape[1], -1)
    push = direction(terms.gather(-1, at_tokens), plausible.gather(plain), weights)
    return take_step(
        plausible,
        push,
        temperature=heat,
        ratio=per_row(ratio),
        kl_budget=per_row(torch.inf if kl_budget is None else kl_budget),
    )


def _tilt(log_prior: Tensor, push: Tensor, eta: Tensor) -> Tensor:
    supported = log_prior > -torch.inf
    # Measured from the largest push, the product can only overflow downwards, to probability 0.
    centred = push - push.masked_fill(~supported, -torch.inf).amax(-1, keepdim=True)
    moved = (log_prior + eta[:, None] * centred).masked_fill(~supported, -torch.inf)
    return moved.log_softmax(-1)


def _kl(log_prior: Tensor, log_posterior: Tensor) -> Tensor:
    probs = log_posterior.exp()
    gain = torch.where(probs > 0, log_posterior - log_prior, 0.0)
    return (probs * gain).sum(-1).clamp_min(0.0)


def _variance(log_probs: Tensor, push: Tensor) -> Tensor:
    probs = log_probs.exp()
    mean = (probs * push).sum(-1, keepdim=True)
    return (probs * (push - mean).square()).sum(-1)
