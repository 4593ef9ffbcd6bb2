"""Runs the branches: weights, rows of keys and values, sampling, stops and streams."""

from linalign_integrations.engine.answer import Piece, Result, Usage
from linalign_integrations.engine.engine import Engine
from linalign_integrations.engine.grammar import Constraint, Grammar
from linalign_integrations.engine.record import (
    AlignmentRecord,
    Alternative,
    Strength,
    TokenRecord,
)
from linalign_integrations.engine.sampling import SamplingParams
from linalign_integrations.prompts import InvalidToolCall, ToolCall, ToolCallDelta

__all__ = [
    "AlignmentRecord",
    "Alternative",
    "Constraint",
    "Engine",
    "Grammar",
    "InvalidToolCall",
    "Piece",
    "Result",
    "SamplingParams",
    "Strength",
    "TokenRecord",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
]
