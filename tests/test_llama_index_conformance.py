"""LinAlign through the conformance suite: every cell that means something, and none excused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from llama_index_conformance import LLMConformance

from linalign_integrations import open_profiles, use_preferences
from linalign_integrations.llama_index import LinAlign

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch.nn import Module

PIRATE = "Answer like a pirate."


class TestLinAlign(LLMConformance):
    wish: ClassVar[Mapping[str, Any]] = {"principles": [PIRATE]}
    secret = PIRATE
    has_context = True
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _model(self, folder: Path) -> None:
        type(self).folder = folder

    def make(self, **fields: Any) -> LinAlign:
        settings = {"model": str(self.folder), "dtype": "float32", "temperature": 0}
        return LinAlign(**{**settings, "max_tokens": 12, **fields})

    def module(self, llm: LinAlign) -> Module:
        return llm._engine()._model

    def copy(self, llm: LinAlign, **fields: Any) -> LinAlign:
        open_profiles("memory://conformance").put("ann", fields["principles"])
        return self.reattach(llm).for_user("ann")

    def reattach(self, llm: LinAlign) -> LinAlign:
        # A store's address may hold a password: pickles keep the store, dicts do not.
        return llm.model_copy(update={"profiles": open_profiles("memory://conformance")})

    def context(self) -> use_preferences:
        return use_preferences(PIRATE)
