"""The guides' scripts run as they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
SCRIPTS = sorted((DOCS / "examples").rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_guide_s_script_runs(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 1, "it shows something"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_guide_s_script_is_linked_from_a_page(script: Path) -> None:
    link = f"]({script.relative_to(DOCS).as_posix()})"
    assert any(link in page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
