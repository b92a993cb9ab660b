"""Scores against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from tuner.serving.calibration.score import Point, by_label, macro_median_pct, score, wilson


def _point(measured: float, predicted: float | None, **labels: str) -> Point:
    return Point(measured=measured, predicted=predicted, labels=tuple(labels.items()))


def test_errors_bias_and_coverage() -> None:
    result = score([_point(100, 110), _point(100, 50), _point(100, 100), _point(100, None)])
    assert result.rows == 4
    assert result.answered == 3
    assert result.coverage_pct == 75.0
    assert result.mape_pct == pytest.approx(20.0)
    assert result.median_pct == pytest.approx(10.0)
    assert result.p90_pct == pytest.approx(42.0)
    assert result.bias == pytest.approx((1.1 * 0.5) ** (1 / 3))
    assert result.within_20_pct == 50.0
    assert result.interval is None


def test_a_missing_answer_counts_as_infinitely_wrong() -> None:
    points = [_point(1, 1.1), _point(1, 1.2), _point(1, None), _point(1, None)]
    assert score(points).median_pct == pytest.approx(15.0)
    assert score(points).median_missed_pct == pytest.approx(20.0)
    assert score(points).p90_missed_pct is None
    assert score(points[2:]).median_missed_pct is None
    assert score(points[2:]).mape_pct is None


def test_nothing_to_score() -> None:
    empty = score([])
    assert (empty.rows, empty.coverage_pct, empty.median_pct, empty.median_missed_pct) == (0, None, None, None)
    assert macro_median_pct([]) is None


def test_intervals() -> None:
    points = [
        Point(measured=100, predicted=100, lo=80, hi=120),
        Point(measured=130, predicted=100, lo=80, hi=120),
        Point(measured=100, predicted=200, lo=100, hi=300),
        Point(measured=100, predicted=None),
    ]
    interval = score(points).interval
    assert interval is not None
    assert interval.n == 3
    assert interval.inside_pct == pytest.approx(200 / 3)
    assert interval.half_width_median_pct == pytest.approx(20.0)
    assert interval.low_pct < interval.inside_pct < interval.high_pct


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Worked examples of R's prop.test(correct = FALSE).
    [(5, 10, 0.236593, 0.763407), (90, 100, 0.825634, 0.944771), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0)],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-5)


def test_wilson_refuses_nonsense() -> None:
    for successes, n in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="of"):
            wilson(successes, n)


def test_groups_are_scored_apart_and_weigh_the_same_in_the_macro_score() -> None:
    many = [_point(1, 2.0, backend="vllm", system="a", model="m") for _ in range(98)]
    points = [
        *many,
        _point(1, 1.1, backend="sglang", system="a", model="m"),
        _point(1, 1.2, backend="vllm", system="b", model="m"),
    ]
    assert score(points).median_pct == pytest.approx(100.0)
    assert macro_median_pct(points) == pytest.approx(20.0)
    assert {name: item.rows for name, item in by_label(points, "backend").items()} == {"sglang": 1, "vllm": 99}


def test_a_group_that_was_not_answered_is_missed() -> None:
    points = [_point(1, None, model="a"), _point(1, 1.1, model="b"), _point(1, None, model="c")]
    assert macro_median_pct(points, ("model",)) is None
    assert math.isinf(points[0].error)
