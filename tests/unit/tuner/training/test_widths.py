"""Intervals are as wide as the errors that are known of."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.unit.tuner.training.cases import line
from tuner.training.predict import Predictor
from tuner.training.question import parse_case


def _said(**changes: Any) -> dict[str, Any]:
    return Predictor().answer(parse_case(line(**changes)))


def _width(said: dict[str, Any]) -> float:
    return math.log(said["hi"] / said["iteration_s"])


@pytest.mark.parametrize(
    ("changes", "least", "word"),
    [
        ({"model": {"seq": 131072}, "cp": 1}, math.log(1.62), "131072 tokens"),
        ({"model": {"seq": 65536}, "cp": 2, "dp": 1}, math.log(1.62), "65536 tokens"),
        ({"cluster": {"gpu": "mi300x"}}, math.log(1.55), "CDNA 3"),
        ({"cluster": {"gpu": "b200-sxm-180gb"}}, math.log(1.55), "Blackwell"),
        ({"optimizer_offload": "cpu", "zero": 1}, 0.2, "offload"),
    ],
)
def test_an_interval_widens_where_errors_are_known_and_says_why(
    changes: dict[str, Any], least: float, word: str
) -> None:
    said = _said(**changes)
    assert _width(said) >= least - 1e-9
    assert any(text.startswith("wider interval") and word in text for text in said["warnings"])


def test_a_usual_run_keeps_the_interval_of_its_pattern() -> None:
    said = _said()
    assert not any(text.startswith("wider interval") for text in said["warnings"])
    assert _width(_said(optimizer_offload="cpu", zero=1)) == pytest.approx(2.0 * _width(said))
