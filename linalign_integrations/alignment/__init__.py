"""The method: next-token logits of several prompts in, the aligned distribution out.

Pure functions on tensors, batched over requests. Nothing here knows a user, a model or a prompt.
Source of the rule: Gao et al., "Linear Alignment: A Closed-form Solution for Aligning Human
Preferences without Tuning and Feedback", ICML 2024; derivations in ``docs/method.md``.
"""

from linalign_integrations.alignment.candidates import Candidates, nucleus
from linalign_integrations.alignment.step import (
    AlignedStep,
    align,
    direction,
    spent_kl,
    step_size,
    take_step,
)

__all__ = [
    "AlignedStep",
    "Candidates",
    "align",
    "direction",
    "nucleus",
    "spent_kl",
    "step_size",
    "take_step",
]
