"""The slowest stage at least: by hand, below every split of whole layers, and never falling when it gets harder."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.training.placement import least_bottleneck

row = st.tuples(st.integers(1, 3), st.sampled_from([0.5, 1.0, 2.6, 6.5]), st.integers(1, 6))


def bound(rows, layers):
    stages, speed, most = (np.array([each], dtype=float) for each in zip(*rows, strict=True))
    return float(least_bottleneck(stages, speed, most, np.array([float(layers)]))[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=1, max_size=2), st.integers(1, 12))
def test_never_above_any_split_and_infinite_only_where_nothing_fits(rows, layers):
    each = [(speed, most) for stages, speed, most in rows for _ in range(stages)]
    best = min(
        (
            max(speed * held for (speed, _), held in zip(each, split, strict=True))
            for split in itertools.product(*(range(most + 1) for _, most in each[:-1]), range(each[-1][1] + 1))
            if sum(split) == layers
        ),
        default=math.inf,
    )
    assert bound(rows, layers) <= best * (1 + 1e-9)
    assert math.isinf(bound(rows, layers)) == math.isinf(best)


@settings(max_examples=80, deadline=None)
@given(st.lists(row, min_size=1, max_size=4), st.integers(1, 30))
def test_harder_questions_are_never_cheaper(rows, layers):
    base = bound(rows, layers)
    stages, speed, most = rows[0]
    for harder in ((stages - 1, speed, most), (stages, speed * 1.5, most), (stages, speed, most - 1)):
        found = bound([harder, *rows[1:]], layers)
        assert math.isinf(found) or found >= base * (1 - 1e-9)
    assert bound(rows, layers + 1) >= base


def test_without_memory_limits_all_stages_work_as_long():
    # 4 stages of 1 s and 2 of 2 s per layer: 5 layers per second, so 50 layers take 10 s on every stage.
    assert bound([(4, 1.0, 100), (2, 2.0, 100)], 50) == pytest.approx(10.0)


def test_full_stages_leave_the_rest_to_the_others():
    # 4 stages hold 4 layers each; the other 34 of 50 take 2 stages of 2 s per layer 34 s.
    assert bound([(4, 1.0, 4), (2, 2.0, 100)], 50) == pytest.approx(34.0)


def test_rows_are_bounded_one_by_one():
    stages, speed = np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    got = least_bottleneck(stages, speed, np.full((2, 2), 8.0), np.array([12.0, 12.0]))
    assert got.tolist() == [8.0, math.inf]
