"""A simulation as one HTML file: numbers, plots, how they came about. Works offline and in an e-mail attachment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from tuner.serving.plot import Floats, Series, plot

_CSS = """
:root{color-scheme:light dark;--text:#1b1f24;--back:#fff;--line:#d8dee4;--c0:#0b62c4;--c1:#b35900;--c2:#1a7f37;--c3:#8250df}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--back:#0d1117;--line:#30363d;--c0:#6cb0ff;--c1:#f0a05a;--c2:#6bd18a;--c3:#c5a3ff}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--text);background:var(--back);max-width:820px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:.6em 0 1.4em}td,th{border-bottom:1px solid var(--line);padding:.25em .8em;text-align:right}
td:first-child,th:first-child{text-align:left}figure{margin:1.4em 0}svg{width:100%;height:auto}
svg text{fill:var(--text);font:11px system-ui,sans-serif}svg .title{font-size:13px;font-weight:600}
.grid{stroke:var(--line);stroke-width:1}.curve{fill:none;stroke-width:1.6}.dots{fill:none;stroke-width:3;stroke-linecap:round;opacity:.55}
path.s0{stroke:var(--c0)}path.s1{stroke:var(--c1)}path.s2{stroke:var(--c2)}path.s3{stroke:var(--c3)}
figcaption span{margin-right:1.2em}span.s0{color:var(--c0)}span.s1{color:var(--c1)}span.s2{color:var(--c2)}span.s3{color:var(--c3)}
.warn{border-left:3px solid var(--c1);padding-left:.8em}
"""
_STATISTICS = ("mean", "p50", "p90", "p95", "p99", "lo", "hi")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """What a report shows. `answer` is the batch interface's answer; records are per request; a timeline maps names of
    its curves to values at `timeline_s`. Empty timelines are left out."""

    title: str
    question: Mapping[str, Any]
    answer: Mapping[str, Any]
    arrival_s: Floats
    ttft_ms: Floats
    tpot_ms: Floats
    e2e_ms: Floats
    timeline_s: Floats
    queue: Mapping[str, Floats] = field(default_factory=dict)  # requests
    kv_fraction: Mapping[str, Floats] = field(default_factory=dict)
    batch: Mapping[str, Floats] = field(default_factory=dict)


def html_report(run: Run) -> str:
    """The whole page. Everything from outside is escaped."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{escape(run.title)}</title><style>{_CSS}</style><h1>{escape(run.title)}</h1>",
        _pairs("What was asked", run.question),
        _latencies(run.answer),
        _pairs(
            "The rest",
            {
                name: value
                for name, value in run.answer.items()
                if not isinstance(value, dict | list) and name not in ("id", "tier")
            },
        ),
        _provenance(run.answer),
        *_plots(run),
        "</html>\n",
    ]
    return "\n".join(parts)


def _plots(run: Run) -> list[str]:
    order = np.argsort(run.arrival_s, kind="stable")
    arrived = run.arrival_s[order]
    found = [
        plot("TTFT of each request", "arrival, s", "TTFT, ms", [Series("TTFT", arrived, run.ttft_ms[order], "points")]),
        plot(
            "Percentiles",
            "percentile",
            "latency, ms",
            [
                _percentiles("TTFT", run.ttft_ms),
                _percentiles("TPOT", run.tpot_ms),
                _percentiles("whole request", run.e2e_ms),
            ],
            log_y=True,
        ),
        plot("TPOT of each request", "arrival, s", "TPOT, ms", [Series("TPOT", arrived, run.tpot_ms[order], "points")]),
    ]
    for title, label, curves in (
        ("Requests waiting", "requests", run.queue),
        ("KV cache in use", "share", run.kv_fraction),
        ("Requests running together", "requests", run.batch),
    ):
        if curves:
            lines = [Series(name, run.timeline_s, values, "step") for name, values in curves.items()]
            found.append(plot(title, "time, s", label, lines))
    return found


def _percentiles(name: str, values: Floats) -> Series:
    known = values[np.isfinite(values)]
    if not known.size:
        return Series(name, known, known)
    shares = np.linspace(0.0, 1.0, 201)
    return Series(name, shares * 100.0, np.quantile(known, shares))


def _latencies(answer: Mapping[str, Any]) -> str:
    rows = [
        (name.removesuffix("_ms").upper() + ", ms", [answer[name].get(word) for word in _STATISTICS])
        for name in ("ttft_ms", "tpot_ms", "e2e_ms")
        if isinstance(answer.get(name), dict)
    ]
    head = "".join(f"<th>{word}</th>" for word in ("", *_STATISTICS))
    body = "".join(
        f"<tr><td>{name}</td>{''.join(f'<td>{_shown(v)}</td>' for v in values)}</tr>" for name, values in rows
    )
    note = "<p>lo and hi bound the true mean with 90 % confidence.</p>"
    return f"<h2>Latencies</h2><table><tr>{head}</tr>{body}</table>{note}"


def _provenance(answer: Mapping[str, Any]) -> str:
    said = answer.get("provenance")
    parts = [_pairs("How it came about", said)] if isinstance(said, dict) else []
    warnings = answer.get("warnings")
    if isinstance(warnings, Sequence) and not isinstance(warnings, str) and warnings:
        parts.append("".join(f'<p class="warn">{escape(str(item))}</p>' for item in warnings))
    return "".join(parts)


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(name))}</td><td>{_shown(value)}</td></tr>" for name, value in values.items())
    return f"<h2>{escape(title)}</h2><table>{rows}</table>" if rows else ""


def _shown(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return "<br>".join(escape(str(item)) for item in value) or "none"
    return escape(str(value))
