"""Conversations and preferences in, branch prompts out, through the model's own chat template."""

from linalign_integrations.prompts.branches import Branch, BranchPlan, plan_branches
from linalign_integrations.prompts.format import PromptFormat
from linalign_integrations.prompts.messages import Message, normalise_messages

__all__ = [
    "Branch",
    "BranchPlan",
    "Message",
    "PromptFormat",
    "normalise_messages",
    "plan_branches",
]
