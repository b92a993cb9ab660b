"""A report as one HTML file that is well-formed XML, too: style, tables, pairs. Works offline and in an attachment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_CSS = """
:root{color-scheme:light dark;--text:#1b1f24;--back:#fff;--line:#d8dee4;--c0:#0b62c4;--c1:#b35900;--c2:#1a7f37;--c3:#8250df;--c4:#bf3989;--c5:#57606a;--c6:#0f7f86;--c7:#9a6700}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--back:#0d1117;--line:#30363d;--c0:#6cb0ff;--c1:#f0a05a;--c2:#6bd18a;--c3:#c5a3ff;--c4:#ff8fc7;--c5:#9da7b1;--c6:#5fd0d6;--c7:#e3b341}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--text);background:var(--back);max-width:1180px;margin:2em auto;padding:0 1em;overflow-wrap:anywhere}p,figure,figcaption{max-width:820px}
table{border-collapse:collapse;margin:.6em 0 1.4em;display:block;overflow-x:auto}td,th{border-bottom:1px solid var(--line);padding:.25em .7em;text-align:right;overflow-wrap:normal}
td:first-child,th:first-child{text-align:left}.words td,.words th{text-align:left;vertical-align:top}figure{margin:1.4em 0;overflow-x:auto}svg{width:100%;height:auto}@media(max-width:600px){td,th{padding:.2em .4em;font-size:13px}.words td{min-width:5em}svg{min-width:640px}}
svg text{fill:var(--text);font:11px system-ui,sans-serif}svg .title{font-size:13px;font-weight:600}
.grid{stroke:var(--line);stroke-width:1}.curve{fill:none;stroke-width:1.6}.dots{fill:none;stroke-width:3;stroke-linecap:round;opacity:.55}.few{stroke-width:6;opacity:.9}
.dashed{stroke-dasharray:5 4}.whisker{fill:none;stroke-width:1.2;opacity:.45}svg .on{paint-order:stroke;stroke:var(--back);stroke-width:3px}
.limit{fill:none;stroke:var(--text);stroke-width:1.6;stroke-dasharray:4 2}
path.s0{stroke:var(--c0)}path.s1{stroke:var(--c1)}path.s2{stroke:var(--c2)}path.s3{stroke:var(--c3)}path.s4{stroke:var(--c4)}path.s5{stroke:var(--c5)}path.s6{stroke:var(--c6)}path.s7{stroke:var(--c7)}
path.fill{stroke:none}.fill.s0{fill:var(--c0)}.fill.s1{fill:var(--c1)}.fill.s2{fill:var(--c2)}.fill.s3{fill:var(--c3)}.fill.s4{fill:var(--c4)}.fill.s5{fill:var(--c5)}.fill.s6{fill:var(--c6)}.fill.s7{fill:var(--c7)}
figcaption span{margin-right:1.2em;display:inline-block}span.s0{color:var(--c0)}span.s1{color:var(--c1)}span.s2{color:var(--c2)}span.s3{color:var(--c3)}span.s4{color:var(--c4)}span.s5{color:var(--c5)}span.s6{color:var(--c6)}span.s7{color:var(--c7)}
.warn{border-left:3px solid var(--c1);padding-left:.8em}pre{overflow-x:auto;border:1px solid var(--line);padding:.6em}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file. `parts` are HTML that escaped what came from outside."""
    name = escape(title)
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        f"<title>{name}</title><style>{_CSS}</style></head><body><h1>{name}</h1>"
    )
    return "\n".join([head, *parts, "</body></html>\n"])


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, words: bool = False) -> str:
    """A table; `words`: all columns read from the left."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{shown(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table{_WORDS if words else ''}><tr>{top}</tr>{body}</table>"


def pairs(title: str, values: Mapping[str, object], *, words: bool = False) -> str:
    """A heading and a table of names and values; nothing where there are none. `words`: values read from the left."""
    rows = "".join(f"<tr><td>{escape(str(name))}</td><td>{shown(value)}</td></tr>" for name, value in values.items())
    return f"<h2>{escape(title)}</h2><table{_WORDS if words else ''}>{rows}</table>" if rows else ""


def warnings(items: Iterable[object]) -> str:
    """One marked paragraph each."""
    return "".join(f'<p class="warn">{escape(str(item))}</p>' for item in items)


def shown(value: object) -> str:
    """A value as HTML; what nobody computed is unknown, not zero."""
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(str(name))} {shown(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "<br/>".join(escape(str(item)) for item in value) or "none"
    return escape(str(value))


_WORDS = ' class="words"'
