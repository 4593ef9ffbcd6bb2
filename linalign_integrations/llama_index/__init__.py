"""LlamaIndex: a local model as an LLM that follows each user's preferences."""

from linalign_integrations.llama_index.llm import LinAlign

__all__ = ["LinAlign"]
