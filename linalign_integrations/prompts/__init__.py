"""Conversations and preferences in, branch prompts out, through the model's own chat template.

And the way back: what a model wrote as text, reasoning and tool calls.
"""

from linalign_integrations.prompts.answers import (
    AnswerReader,
    InvalidToolCall,
    ToolCall,
    ToolCallDelta,
)
from linalign_integrations.prompts.branches import Branch, BranchPlan, plan_branches
from linalign_integrations.prompts.format import PromptFormat
from linalign_integrations.prompts.formats import AnswerFormat
from linalign_integrations.prompts.messages import Message, normalise_messages
from linalign_integrations.prompts.tools import Tools, read_choice, read_tools

__all__ = [
    "AnswerFormat",
    "AnswerReader",
    "Branch",
    "BranchPlan",
    "InvalidToolCall",
    "Message",
    "PromptFormat",
    "ToolCall",
    "ToolCallDelta",
    "Tools",
    "normalise_messages",
    "plan_branches",
    "read_choice",
    "read_tools",
]
