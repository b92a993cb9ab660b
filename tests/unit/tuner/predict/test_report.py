"""Plots and the HTML report: self-contained, escaped, complete with few or odd data."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from tuner.plot import MAX_POINTS, Series, plot
from tuner.serving.report import Run, html_report


def _svg(text: str) -> ElementTree.Element:
    found = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    assert found is not None
    return ElementTree.fromstring(found.group())


def _run(n: int, title: str = "one run") -> Run:
    values = np.linspace(1.0, 9.0, n)
    return Run(
        title=title,
        question={"model": "llama", "tp": 8},
        answer={
            "ttft_ms": {"mean": 5.0, "p50": 5.0, "lo": 4.0, "hi": 6.0},
            "power_w": None,
            "tier": "measured",
            "provenance": {"tier": "measured", "notes": ["<b>bold</b>"]},
            "warnings": ["too <few> requests"],
        },
        arrival_s=values,
        ttft_ms=values,
        tpot_ms=np.full(n, np.nan),
        e2e_ms=values * 10,
        timeline_s=values,
        queue={"running": values, "waiting": values[::-1]},
        kv_fraction={"replica 0": values / 10},
    )


def test_the_page_brings_everything_with_it() -> None:
    page = html_report(_run(200))
    ElementTree.fromstring(page)  # well-formed
    assert page.count("<svg") == 5
    assert not re.search(r"""(src|href)\s*=|https?://|<script|@import|url\(""", page)
    assert "Requests waiting" in page
    assert "unknown" in page, "a power nobody computed is not zero"


def test_what_comes_from_outside_is_escaped() -> None:
    page = html_report(_run(10, title="<script>alert(1)</script>"))
    assert "<script" not in page
    assert "<b>bold" not in page
    assert "too &lt;few&gt; requests" in page


def test_no_request_at_all() -> None:
    assert "nothing to show" in html_report(_run(0))


def test_plots_are_bounded_and_keep_their_spikes() -> None:
    x = np.arange(100_000, dtype=float)
    y = np.ones_like(x)
    y[54_321] = 100.0
    root = _svg(plot("spike", "x", "y", [Series("s", x, y)]))
    path = next(item for item in root.iter() if "curve" in item.get("class", ""))
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", path.get("d", ""))
    assert len(points) <= MAX_POINTS + 2
    heights = [float(height) for _, height in points]
    assert min(heights) < 50 < max(heights)


def test_constant_tiny_and_logarithmic_values() -> None:
    one = np.array([1.0])
    for values in (one * 0, one * 1e-9, one * 1e12, -one):
        _svg(plot("t", "x", "y", [Series("s", one, values)]))
    root = _svg(plot("t", "x", "y", [Series("s", np.arange(3.0), np.array([0.0, 10.0, 1000.0]))], log_y=True))
    labels = [item.text for item in root.iter() if item.get("class") == "tick"]
    assert {"10", "100", "1000"} <= set(labels)
