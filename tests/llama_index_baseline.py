"""The conformance suite's scores of HuggingFaceLLM and LinAlign, over one tiny model.

Run it from the repository: ``python tests/llama_index_baseline.py``. It takes a minute or two.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from llama_index.llms.huggingface import HuggingFaceLLM
from llama_index_conformance import FEATURES, METHODS, WAYS, LLMConformance
from models import model, tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Module


class TestHuggingFaceLLM(LLMConformance):
    """LlamaIndex's own class for local models, in its best light: sampling where it is kept."""

    # A setting that its chat and completion methods both obey, in fields.
    wish: ClassVar[Mapping[str, Any]] = {"generate_kwargs": {"repetition_penalty": 5.0}}

    def make(self, **fields: Any) -> HuggingFaceLLM:
        settings = {"max_new_tokens": 12, "is_chat_model": True}
        return HuggingFaceLLM(
            model=model("llama"), tokenizer=tokenizer("chatml"), **{**settings, **fields}
        )

    def module(self, llm: HuggingFaceLLM) -> Module:
        return llm._model

    def fields(self, **settings: Any) -> dict[str, Any]:
        named: dict[str, Any] = {}
        if "max_tokens" in settings:
            named["max_new_tokens"] = settings.pop("max_tokens")
        if "temperature" in settings:
            temperature = settings.pop("temperature")
            sampled = {"do_sample": True, "temperature": temperature} if temperature else {}
            named["generate_kwargs"] = {**self.wish["generate_kwargs"], **sampled}
        # It has no field for a stop text or a seed.
        return named | settings

    def arguments(self, **settings: Any) -> dict[str, Any]:
        return {**settings, **settings.pop("generate_kwargs", {})}


class _Score:
    def __init__(self) -> None:
        self.passed: Counter[tuple[str, str]] = Counter()
        self.cells: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or "::Test" not in report.nodeid:
            return
        _, name, test = report.nodeid.split("::")
        key = name.removeprefix("Test"), test.partition("[")[0].removeprefix("test_")
        self.cells[key] += 1
        self.passed[key] += report.passed


def main() -> None:
    here = Path(__file__)
    score = _Score()
    files = [str(here), str(here.with_name("test_llama_index_conformance.py"))]
    options = ["-p", "no:cacheprovider", "--tb=no", "--no-summary", "-o", "python_files=*.py"]
    pytest.main([*files, *options, *sys.argv[1:]], plugins=[score])
    names = sorted({name for name, _ in score.cells})
    whole = len(METHODS) * len(WAYS)
    lines = [["feature", *names], ["---"] * (len(names) + 1)]
    for feature in FEATURES:
        lines.append([feature.replace("_", " ")])
        for name in names:
            cells = score.cells[name, feature]
            lines[-1].append(f"{score.passed[name, feature]} of {cells}")
    lines.append(["all"])
    for name in names:
        passed = sum(score.passed[name, feature] for feature in FEATURES)
        cells = sum(score.cells[name, feature] for feature in FEATURES)
        lines[-1].append(f"{passed} of {cells}; {whole * len(FEATURES) - cells} not applicable")
    sys.stdout.write("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")


if __name__ == "__main__":
    main()
