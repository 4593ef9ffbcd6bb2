"""How the record of an answer's alignment is shown: in a terminal, and as HTML in notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from unicodedata import category

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from linalign_integrations.engine.record import AlignmentRecord, Alternative, TokenRecord

# An answer on which hardly anything was spent is not to look like one that was pulled about.
_LEAST_PEAK = 0.1
# Below this part of the peak a token is not shaded.
_VISIBLE = 0.02
_LONGEST_NAME = 40
_LISTED = 8
# Controls, formats (such as those that turn the direction of text), surrogates and separators;
# but lines and columns may be, and what joins letters or the parts of a picture.
_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")
_HARMLESS = "\n\t\u200c\u200d"
# Letters and marks that show nothing.
_HIDING = "\u034f\u115f\u1160\u2800\u3164\uffa0"

# Each readable in itself, on a light terminal and on a dark one.
_SHADES = ("#ffffff on #6a645c", "#ffffff on #86683f", "#ffffff on #a0631c", "#000000 on #e8850c")

# rgb of the shade; at its strongest, black or white text on it stays readable.
_HUE = "235,120,0"
_STRONGEST = 0.55
# Colours come from the page, so that it reads in light and dark themes alike; where a page takes
# the style away, tooltips stay hidden.
_STYLE = """\
.linalign{font-size:1em;line-height:1.7;max-width:60em}
.linalign-text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate}
.linalign-token{position:relative;border-radius:.2em}
.linalign-token:hover,.linalign-token:focus{outline:1px solid currentColor}
.linalign-displaced{border-bottom:2px dotted}
.linalign-forced{font-style:italic}
.linalign-mark{opacity:.5;font-size:.8em;white-space:nowrap;user-select:none}
.linalign-tip{position:absolute;z-index:9;left:0;top:100%;padding:.4em .7em;border-radius:.4em;
background:Canvas;color:CanvasText;border:1px solid GrayText;font-size:.85rem;line-height:1.4;
font-style:normal;white-space:nowrap}
.linalign-token:hover>.linalign-tip,.linalign-token:focus>.linalign-tip{display:block!important}
.linalign-row{display:table-row}
.linalign-row>span{display:table-cell;padding-left:1.2em;text-align:right;unicode-bidi:isolate}
.linalign-row>span:first-child{padding-left:0;text-align:left}
.linalign-own{font-weight:bold}
.linalign-legend{font-size:.85em;margin-top:.6em}
"""


def as_html(record: AlignmentRecord) -> str:
    """The answer with its tokens shaded by KL spent, and what else they might have been on hover.

    It needs nothing from elsewhere and runs no script. All text of the model's is escaped.
    """
    peak = _peak(record)
    tokens = "".join(_html_token(token, peak) for token in record.tokens)
    scale = f"linear-gradient(90deg,rgba({_HUE},0),rgba({_HUE},{_STRONGEST}))"
    legend = (
        f'0 <span style="background:{scale}">{"&nbsp;" * 12}</span> {peak:.2g} nats · '
        "<span class=linalign-displaced>underlined</span>: the prompted model favoured another "
        f"token<br>{escape(_summary(record))}"
    )
    return (
        f'<div class="linalign"><style>{_STYLE}</style>'
        f'<div class="linalign-text">{tokens}</div>'
        f'<div class="linalign-legend">{legend}</div></div>'
    )


def as_terminal(record: AlignmentRecord) -> Group:
    """The answer with its tokens shaded by KL spent, and those on which most was spent below."""
    from rich.console import Group
    from rich.text import Text

    peak = _peak(record)
    answer = Text()
    for token in record.tokens:
        style = _shade(token.kl / peak)
        style += " underline" if token.displaced else ""
        style += " italic" if token.forced else ""
        answer.append(_printable(token.text), style)
    legend = Text.assemble(
        ("KL spent: 0 ", "dim"),
        *(("   ", shade) for shade in _SHADES),
        (f" {peak:.2g} nats · ", "dim"),
        ("underlined", "dim underline"),
        (f": the prompted model favoured another token\n{_summary(record)}", "dim"),
    )
    parts: list[Text | Table] = [answer, Text(), legend]
    spent = sorted((token for token in record.tokens if token.kl > 0), key=lambda one: -one.kl)
    if spent:
        parts.append(_table(record, spent[:_LISTED]))
    return Group(*parts)


def _table(record: AlignmentRecord, listed: list[TokenRecord]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE, title="Where most was spent", title_justify="left")
    for name in ("token", "ratio", "nats", "prompted", "aligned"):
        made.add_column(name, justify="left" if name == "token" else "right")
    made.add_column("favoured by the prompted model")
    for token in (token for token in record.tokens if any(token is one for one in listed)):
        other = token.displaced
        made.add_row(
            Text(_name(token.token)),
            f"{token.ratio:.3g}",
            f"{token.kl:.3f}",
            _percent(token.prompted),
            _percent(token.aligned),
            ""
            if other is None
            else Text.assemble(
                _name(other.token),
                (f"  {_percent(other.prompted)} → {_percent(other.aligned)}", "dim"),
            ),
        )
    return made


def _peak(record: AlignmentRecord) -> float:
    """Nats that are shaded the most."""
    return max(_LEAST_PEAK, *(token.kl for token in record.tokens), 0.0)


def _shade(part: float) -> str:
    if part < _VISIBLE:
        return ""
    return _SHADES[min(int(part * len(_SHADES)), len(_SHADES) - 1)]


def _summary(record: AlignmentRecord) -> str:
    count = len(record.tokens) + record.omitted
    forced = sum(token.forced for token in record.tokens)
    notes = [
        f"{count} tokens",
        f"mean KL {record.strength.mean_kl:.3g} nats",
        f"mean ratio {record.strength.mean_ratio:.3g}",
    ]
    if forced:
        notes.append(f"{forced} forced by the grammar (in italics)")
    if record.omitted:
        notes.append(f"the last {record.omitted} not recorded")
    return " · ".join(notes)


def _html_token(token: TokenRecord, peak: float) -> str:
    part = token.kl / peak
    strength = f"rgba({_HUE},{_STRONGEST * part:.2f})"
    shade = f' style="background:{strength}"' if part >= _VISIBLE else ""
    kinds = ["linalign-token"]
    kinds += ["linalign-displaced"] if token.displaced else []
    kinds += ["linalign-forced"] if token.forced else []
    # What writes nothing, or a line's end, needs something to point at.
    marks = _name(token.token) if not token.text else "↵" if "\n" in token.text else ""
    mark = f'<span class="linalign-mark">{escape(marks)}</span>' if marks else ""
    return (
        f'<span class="{" ".join(kinds)}"{shade} tabindex="-1">{mark}'
        f"{escape(_printable(token.text))}"
        f'<span class="linalign-tip" role="tooltip" hidden>{_html_tip(token)}</span></span>'
    )


def _html_tip(token: TokenRecord) -> str:
    told = f"ratio {token.ratio:.3g} · KL {token.kl:.3f} nats"
    if token.prompted is None:
        return f"<b>{escape(_name(token.token))}</b> forced by the grammar, not drawn"
    if token.forced:
        told += " · the only token that the grammar allows"
    return (
        '<span class="linalign-row"><span></span><span>prompted</span><span>aligned</span></span>'
        f"{_html_row(token, ' linalign-own')}{''.join(map(_html_row, token.alternatives))}{told}"
    )


def _html_row(one: TokenRecord | Alternative, kind: str = "") -> str:
    return (
        f'<span class="linalign-row{kind}"><span>{escape(_name(one.token))}</span>'
        f"<span>{_percent(one.prompted)}</span><span>{_percent(one.aligned)}</span></span>"
    )


def _percent(probability: float | None) -> str:
    if probability is None:
        return ""
    return f"{probability:.1%}" if probability >= 0.001 or not probability else "<0.1%"


def _name(token: str) -> str:
    """A token on one line, its spaces to be seen."""
    shown = _printable(token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "·"))
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"


def _printable(text: str) -> str:
    """Text in which characters that steer a terminal, turn or hide others are spelt out."""
    return "".join(
        char.encode("unicode_escape").decode()
        if (category(char) in _STEERING and char not in _HARMLESS) or char in _HIDING
        else char
        for char in text
    )
