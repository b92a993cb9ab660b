"""Bounds of percentiles: as wide as the mean's, and as the number of requests makes them."""

import numpy as np
import pytest

from tuner.serving.answer import Interval, quantiles, tail_bounds

BAND = Interval(0.8, 1.5)


def test_more_requests_bound_a_percentile_closer() -> None:
    widths = []
    for count in (300, 3_000, 300_000):
        values = np.linspace(0.0, 100.0, count)
        low, high = tail_bounds(values, 95, BAND)
        assert low is not None and high is not None
        assert low < 95 * BAND.lo and 95 * BAND.hi < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert (low, high) == pytest.approx((95 * BAND.lo, 95 * BAND.hi), rel=1e-3)


def test_what_a_short_run_cannot_tell_is_unknown() -> None:
    low, high = tail_bounds(np.linspace(0.0, 100.0, 100), 99, BAND)
    assert high is None and low is not None and low < 99 * BAND.lo


def test_equal_latencies_have_the_band_of_the_mean() -> None:
    found = quantiles(np.full(1_000, 7.0), BAND)
    assert (found["p90_lo"], found["p90_hi"]) == (found["lo"], found["hi"]) == pytest.approx((5.6, 10.5))


def test_without_a_band_nothing_is_bounded() -> None:
    found = quantiles(np.arange(1.0, 50.0), None)
    assert found["p90"] is not None
    assert {found[name] for name in ("lo", "hi", "p90_lo", "p99_hi")} == {None}
    assert set(quantiles(np.array([np.nan]), BAND).values()) == {None}
