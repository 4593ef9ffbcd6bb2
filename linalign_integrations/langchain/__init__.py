"""LangChain: a local model as a chat model or an LLM that follows each user's preferences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linalign_integrations.langchain.chat import ChatLinAlign
from linalign_integrations.langchain.llm import LinAlignLLM

if TYPE_CHECKING:
    from linalign_integrations.langchain.middleware import PreferencesMiddleware

__all__ = ["ChatLinAlign", "LinAlignLLM", "PreferencesMiddleware"]


def __getattr__(name: str) -> object:
    # Agents are in a package of their own, which comes with the extra "agents".
    if name != "PreferencesMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from linalign_integrations.langchain.middleware import PreferencesMiddleware

    return PreferencesMiddleware
