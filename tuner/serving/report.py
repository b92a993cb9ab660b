"""A simulation as one HTML file: numbers, plots, how they came about. Works offline and in an e-mail attachment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tuner.axes import Floats
from tuner.page import page, pairs, table, warnings
from tuner.plot import Series, plot

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
        pairs("What was asked", run.question),
        _latencies(run.answer),
        pairs(
            "The rest",
            {
                name: value
                for name, value in run.answer.items()
                if not isinstance(value, dict | list) and name not in ("id", "tier")
            },
        ),
        _provenance(run.answer),
        *_plots(run),
    ]
    return page(run.title, parts)


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
        (name.removesuffix("_ms").upper() + ", ms", *(answer[name].get(word) for word in _STATISTICS))
        for name in ("ttft_ms", "tpot_ms", "e2e_ms")
        if isinstance(answer.get(name), dict)
    ]
    note = "<p>lo and hi bound the true mean with 90 % confidence.</p>"
    return f"<h2>Latencies</h2>{table(('', *_STATISTICS), rows)}{note}"


def _provenance(answer: Mapping[str, Any]) -> str:
    said, warned = answer.get("provenance"), answer.get("warnings")
    parts = [pairs("How it came about", said, words=True)] if isinstance(said, dict) else []
    if isinstance(warned, Sequence) and not isinstance(warned, str):
        parts.append(warnings(warned))
    return "".join(parts)
