"""A window keeps what was measured, in order, bounded, and never fills a gap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.window import Window


def test_gap_is_nan_and_latest_is_none() -> None:
    window = Window(8)
    window.append(1.0, {"running": 3})
    window.append(2.0, None)
    assert window.since().latest("running") is None
    assert math.isnan(window.since().columns["running"][1])
    window.append(3.0, {"running": 5})
    assert window.since().latest("running") == 5
    assert window.since().latest("never-reported") is None


def test_a_column_that_appears_late_has_gaps_before() -> None:
    window = Window(4)
    window.append(1.0, {"a": 1})
    window.append(2.0, {"a": 1, "b": 2})
    assert np.isnan(window.since().columns["b"][0])


def test_increase_counts_resets_from_zero_and_skips_gaps() -> None:
    window = Window(16)
    for time_s, value in [(1, 10.0), (2, 15.0), (3, None), (4, 100.0), (5, 2.0), (6, 4.0)]:
        window.append(time_s, None if value is None else {"tokens": value})
    # 10->15 is 5; across the gap unknown; 100->2 is a restart: 2; 2->4 is 2
    assert window.since().increase("tokens") == 9
    assert window.since(3).increase("tokens") == 4
    assert window.since().increase("absent") is None
    assert window.since().rate_per_s("tokens") == 3  # 9 in the three seconds whose growth is known
    assert window.since().rate_per_s("absent") is None


def test_increase_without_adjacent_samples_is_unknown() -> None:
    window = Window(4)
    window.append(1, {"tokens": 1})
    window.append(2, None)
    window.append(3, {"tokens": 9})
    assert window.since().increase("tokens") is None


def test_time_must_rise() -> None:
    window = Window(4)
    window.append(2.0, {})
    with pytest.raises(ValueError, match="does not follow"):
        window.append(2.0, {})


def test_columns_are_bounded_and_the_overflow_is_counted() -> None:
    window = Window(4, max_columns=2)
    window.append(1.0, {"a": 1, "b": 1, "c": 1})
    assert list(window.columns) == ["a", "b"]
    assert window.dropped_columns == 1


@given(st.integers(1, 30), st.integers(2, 12), st.integers(0, 31))
def test_since_starts_at_its_time_wherever_the_ring_stands(rows: int, capacity: int, since_s: int) -> None:
    window = Window(capacity)
    for time_s in range(rows):
        window.append(float(time_s), {"x": time_s})
    want = [float(time_s) for time_s in range(rows)[-capacity:] if time_s >= since_s]
    got = window.since(since_s)
    assert got.time_s.tolist() == got.columns["x"].tolist() == want


@given(st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=1, max_size=40), st.integers(2, 12))
def test_window_equals_the_tail_of_a_list(values: list[float | None], capacity: int) -> None:
    window = Window(capacity)
    for index, value in enumerate(values):
        window.append(float(index), None if value is None else {"x": value})
    rows = window.since()
    tail = list(enumerate(values))[-capacity:]
    assert rows.time_s.tolist() == [float(i) for i, _ in tail]
    held = rows.columns.get("x", np.full(len(tail), np.nan))
    for got, (_, want) in zip(held, tail, strict=True):
        assert math.isnan(got) if want is None else got == want
