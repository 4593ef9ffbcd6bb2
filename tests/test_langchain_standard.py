"""LangChain's own standard tests, as they are, on the embedded model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

import linalign_integrations.pocket
from linalign_integrations.langchain import ChatLinAlign

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage

    Detail = Literal[
        "audio_input",
        "audio_output",
        "reasoning_output",
        "cache_read_input",
        "cache_creation_input",
    ]

# A module that its package hides behind its function.
load = importlib.import_module("langchain_core.load.load")
# The same weights under another name.
POCKET = str(Path(linalign_integrations.pocket.__file__).parent / "weights")


class _Pocket:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatLinAlign

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "pocket", "seed": 1}

    @property
    def model_override_value(self) -> str:
        return POCKET

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(
        self,
    ) -> dict[Literal["invoke", "stream"], list[Detail]]:
        return {
            "invoke": ["cache_read_input", "reasoning_output"],
            "stream": ["cache_read_input", "reasoning_output"],
        }


class TestUnit(_Pocket, ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def _trusted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # LangChain loads no classes but those on a list of its own, for safety. The package leaves
        # that list alone; whoever trusts this class says so, as here for test_serdes.
        path = tuple(ChatLinAlign.lc_id())
        monkeypatch.setitem(load.ALL_SERIALIZABLE_MAPPINGS, path, path)
        monkeypatch.setattr(load, "_default_class_paths_cache", {})

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"LINALIGN_MODEL": "pocket"}, {}, {"model": "pocket"}


class TestIntegration(_Pocket, ChatModelIntegrationTests):
    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatLinAlign(model="pocket", seed=1, user_id=None)
        config = {"configurable": {"user_id": "ann"}}
        question = "What is a good dish for a cold evening with friends?"
        model.invoke(question, config)
        return _asked(model, question, config, stream=stream)

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        return _asked(ChatLinAlign(model="pocket", seed=1), "Hello", {}, stream=stream)


def _asked(model: Any, question: str, config: Any, *, stream: bool) -> AIMessage:
    if not stream:
        return model.invoke(question, config)
    whole = None
    for chunk in model.stream(question, config):
        whole = chunk if whole is None else whole + chunk
    return whole
