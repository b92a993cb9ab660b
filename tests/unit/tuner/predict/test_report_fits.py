"""What a reader sees of the reports: nothing lies outside its figure, every axis has its unit, numbers read as such."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.unit.tuner.predict.test_report import _run
from tuner.axes import HEIGHT, WIDTH
from tuner.page import page, pairs, shown
from tuner.plot import Series, plot
from tuner.serving.report import Run, html_report

_GLYPH = 6.6  # widest mean width of a character at the figures' 11 px, in their units
_UNITS = ("s", "ms", "percentile", "requests", "share")
_VOID = {"meta", "br", "hr", "img", "link", "input"}


class Balance(HTMLParser):
    """Every tag that opens closes again, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, _tag: str, _attrs: object) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def figures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def report(n: int = 300) -> Run:
    return _run(n)


def test_tags_are_balanced() -> None:
    check = Balance()
    check.feed(html_report(report()))
    check.close()
    assert (check.open, check.wrong) == ([], [])


def test_every_axis_says_its_unit() -> None:
    drawn = figures(html_report(report()))
    assert drawn
    for figure in drawn:
        labels = [item.text or "" for item in figure.iter() if item.get("class") == "axis"]
        texts = [item.text for item in figure.iter() if item.tag == "text"]
        assert len(labels) == 2 or "nothing to show" in texts
        for label in labels:
            assert label.rpartition(", ")[2] in _UNITS, label


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e5, 1e12])
def test_nothing_lies_outside_its_figure(scale: float) -> None:
    x = np.linspace(0.0, 86_400.0, 700)
    series = [Series("waiting", x, np.abs(np.sin(x)) * scale, style) for style in ("line", "step", "points")]
    for log_y in (False, True):
        (figure,) = figures(plot("A title as long as ours are", "time, s", "requests", series, log_y=log_y))
        for item in figure.iter():
            if item.tag == "line":
                assert 0 <= float(item.get("x1", "")) <= float(item.get("x2", "")) <= WIDTH
                assert 0 <= float(item.get("y1", "")) <= float(item.get("y2", "")) <= HEIGHT
            if item.tag == "path":
                _inside(item.get("d", ""))
            if item.tag == "text" and item.get("x"):
                _fits(item)


def _inside(path: str) -> None:
    for letter, numbers in re.findall(r"([MLHV])([-\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        across = values[:1] if letter in "MLH" else []
        up = values[1:] if letter in "ML" else values if letter == "V" else []
        assert all(-0.1 <= value <= WIDTH + 0.1 for value in across)
        assert all(-0.1 <= value <= HEIGHT + 0.1 for value in up)


def _fits(item: ElementTree.Element) -> None:
    wide = len(item.text or "") * _GLYPH
    at = float(item.get("x", ""))
    start = at - {"middle": wide / 2, "end": wide}.get(item.get("text-anchor", ""), 0.0)
    assert start >= 0, (item.text, start)
    assert start + wide <= WIDTH + 2, (item.text, start + wide)


def test_wide_tables_scroll_inside_the_page() -> None:
    style = page("t", []).partition("</style>")[0]
    (rule,) = re.findall(r"(?<![-\w.])table\{([^}]*)\}", style)
    assert "overflow-x:auto" in rule and "display:block" in rule


def test_counts_that_are_all_zero_stand_on_an_axis_from_zero() -> None:
    x = np.arange(5.0)
    (figure,) = figures(plot("Requests waiting", "time, s", "requests", [Series("waiting", x, x * 0, "step")]))
    ticks = [item.text or "" for item in figure.iter() if item.get("class") == "tick"]
    assert not any(tick.startswith("-") for tick in ticks)


def test_a_map_reads_as_words() -> None:
    assert shown({"poisson": 6.0}) == "poisson 6"
    assert shown({}) == "none"
    assert "{" not in pairs("What was asked", {"arrivals": {"poisson": 6.0}, "knobs": {"a": "<b>"}})
    assert "&lt;b&gt;" in pairs("What was asked", {"knobs": {"a": "<b>"}})
