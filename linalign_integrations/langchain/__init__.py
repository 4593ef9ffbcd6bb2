"""LangChain: a local model as a chat model or an LLM that follows each user's preferences."""

from linalign_integrations.langchain.chat import ChatLinAlign
from linalign_integrations.langchain.llm import LinAlignLLM

__all__ = ["ChatLinAlign", "LinAlignLLM"]
