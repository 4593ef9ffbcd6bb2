"""The guides' scripts run as they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
SCRIPTS = sorted((DOCS / "examples").rglob("*.py"))


SAID = {
    "langchain/agent": ("The bus fare is 4 euros.",),
    "langchain/rag": ("The Lantern bakery opens at 7:30.",),
    "langchain/structured_output": ("name='The Lantern bakery' founded=1873",),
    "llama_index/agent": ("The bus fare is 4 euros.",),
    "llama_index/chat_engine": ("opens at 7:30.", "The Heron museum costs 12 euros."),
    "llama_index/extraction": ("Shop(name='The Lantern bakery', opens='7:30')",),
    "llama_index/query_engine": ("The Lantern bakery opens at 7:30.",),
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_guide_s_script_runs(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) > 1, "it shows something"
    for said in SAID.get(f"{script.parent.name}/{script.stem}", ()):
        assert said in shown


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_guide_s_script_is_linked_from_a_page(script: Path) -> None:
    link = f"]({script.relative_to(DOCS).as_posix()})"
    assert any(link in page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
