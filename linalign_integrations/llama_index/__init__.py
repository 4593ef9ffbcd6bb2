"""LlamaIndex: a local model as an LLM that follows each user's preferences."""

from linalign_integrations.llama_index.llm import LinAlign
from linalign_integrations.llama_index.parts import answers_only, unaligned

__all__ = ["LinAlign", "answers_only", "unaligned"]
