"""The package as a whole: its names, its imports, its documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import linalign_integrations

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "linalign_integrations"
MODULES = sorted(SOURCE.rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FLOORS = {
    "errors": 0,
    "alignment": 0,
    "preferences": 0,
    "prompts": 0,
    "engine": 1,
    "pocket": 1,
    "adapter": 1,
    "langchain": 2,
    "llama_index": 2,
    "cli": 3,
}


def run(code: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names_are_the_documented_ones() -> None:
    assert sorted(linalign_integrations.__all__) == [
        "Engine",
        "Preferences",
        "Principle",
        "SamplingParams",
        "open_profiles",
        "use_preferences",
    ]
    assert all(hasattr(linalign_integrations, name) for name in linalign_integrations.__all__)
    from linalign_integrations import langchain, llama_index

    assert sorted(langchain.__all__) == [
        "ChatLinAlign",
        "LinAlignLLM",
        "PreferencesMiddleware",
    ]
    assert all(hasattr(langchain, name) for name in langchain.__all__)
    assert llama_index.__all__ == ["LinAlign", "answers_only", "unaligned"]
    with pytest.raises(AttributeError, match="no attribute 'Motor'"):
        _ = linalign_integrations.Motor


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("linalign_integrations.langchain", "llama_index"),
        ("linalign_integrations.llama_index", "langchain_core"),
    ],
)
def test_each_framework_works_where_the_other_cannot_be_imported(module: str, other: str) -> None:
    run(
        "import sys\n"
        f"sys.modules[{other!r}] = None\n"
        f"import {module}\n"
        "from linalign_integrations import Engine, Preferences\n"
    )


@pytest.mark.parametrize(
    "module",
    [
        "linalign_integrations",
        "linalign_integrations.langchain",
        "linalign_integrations.llama_index",
        "linalign_integrations.cli",
    ],
)
def test_importing_loads_no_torch(module: str) -> None:
    assert run(f"import sys, {module}; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_a_room_imports_only_from_its_own_floor_and_those_below(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            if module.startswith("linalign_integrations."):
                other = module.split(".")[1]
                assert FLOORS[other] <= FLOORS[room], f"{room} imports {other}"
                frameworks = {"langchain", "llama_index"}
                assert not {room, other} >= frameworks, "the two frameworks stay apart"


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_examples_in_the_documents_run(document: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, document.name, "exec"), space)  # noqa: S102


def test_the_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {linalign_integrations.__version__}" in changelog
