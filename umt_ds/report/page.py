"""One HTML page without anything outside it: tables, sentences, pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# What is wider than the window (a table of many columns) scrolls in its own box. In a narrow window pictures do so too:
# the text in them could not be read at a third of its size.
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; overflow-wrap: anywhere }
p { overflow-wrap: anywhere } p.note { color: #666 } .scroll { overflow-x: auto; margin: 1em 0 }
img { max-width: 100%; height: auto }
table { border-collapse: collapse } th, td { text-align: left; padding: .15rem 1.2rem .15rem 0; vertical-align: top }
th { font-weight: 600 } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; min-width: 3.5rem }
tr + tr { border-top: 1px solid #eee }
.key { display: inline-block; width: 1.8rem; margin-right: .5rem; vertical-align: middle }
@media (max-width: 640px) { .scroll > img { min-width: 640px } td { min-width: 9rem }
th { overflow-wrap: anywhere; min-width: 6rem } }
"""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, as HTML made by the functions of this module."""

    title: str
    parts: tuple[str, ...]


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    body = "\n".join(f"<h2>{escape(s.title)}</h2>\n" + "\n".join(s.parts) for s in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def sentence(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """A paragraph that explains, or says what is missing and why; lines stay apart."""
    return f'<p class="note">{escape(text).replace(chr(10), "<br>")}</p>'


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str] = ()) -> str:
    """Rows of cells; the first cell of each row is its name."""
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"] if head else []
    for name, *cells in rows:
        lines.append(f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def picture(png: bytes, *, about: str) -> str:
    """An embedded picture. about: says in words what it shows, for those who cannot see it."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<div class="scroll"><img alt="{escape(about)}" src="{source}"></div>'


def legend(keys: Sequence[tuple[str, str, str, str | None]]) -> str:
    """A line for each of several runs: colour and style of its curve, its name, and where its own page lies, if it has
    one."""
    lines = []
    for colour, style, text, href in keys:
        name = escape(text) if href is None else f'<a href="{escape(href)}">{escape(text)}</a>'
        dash = {"dashdot": "dashed"}.get(style, style)
        lines.append(f'<span class="key" style="border-top: .25rem {dash} {colour}"></span>{name}')
    return f"<p>{'<br>'.join(lines)}</p>"
