"""Draws what docs/explain.md shows: explain.svg (a terminal) and explain.html (a notebook's cell).

Run it from anywhere with the package installed: ``python docs/explain_sample.py``.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from linalign_integrations import Engine, Preferences, SamplingParams

HERE = Path(__file__).parent
QUESTION = "What should I cook tonight?"
PREFERENCES = Preferences(principles=["Be very formal."], ratio=3.0)
SAMPLING = SamplingParams(temperature=0.7, seed=1, max_tokens=60)
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>What alignment did to an answer</title>
<style>:root{{color-scheme:light dark}}body{{font-family:system-ui;margin:2em 2em 14em}}</style>
{record}
</html>
"""

# float32, so that every machine gets these figures.
engine = Engine.load("pocket", dtype="float32")
record = engine.generate(
    QUESTION, preferences=PREFERENCES, sampling=SAMPLING, explain=True
).alignment
assert record is not None  # noqa: S101 - it was asked for

console = Console(record=True, width=92, file=io.StringIO(), force_terminal=True)
console.print(record)
# A picture in the documents loads nothing from elsewhere.
frame = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
title = f"{QUESTION} ({PREFERENCES.principles[0].text} ratio {PREFERENCES.ratio:g})"
svg = console.export_svg(title=title, code_format=frame, unique_id="explain")
(HERE / "explain.svg").write_text(svg, encoding="utf-8")
page = PAGE.format(record=record._repr_html_())
(HERE / "explain.html").write_text(page, encoding="utf-8")
