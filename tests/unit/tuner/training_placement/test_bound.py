"""The bound: below every split, and never falling when the question gets harder."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.errors import Refused
from tuner.training.placement import StageClass, lower_bounds_s, split

row = st.tuples(st.integers(1, 3), st.sampled_from([0.5, 1.0, 2.6, 6.5]), st.integers(1, 12))


def bound(rows, layers, micro_batches):
    stages, speed, most = zip(*rows, strict=True)
    return float(lower_bounds_s([stages], [speed], [most], layers, micro_batches)[0])


@settings(max_examples=80, deadline=None)
@given(st.lists(row, min_size=1, max_size=4), st.integers(1, 30), st.integers(1, 50))
def test_never_above_the_optimum_and_infinite_only_where_nothing_fits(rows, layers, micro_batches):
    classes = [
        StageClass(name=str(i), stages=n, layer_s=t, memory_bytes=float(k), layer_bytes=1.0)
        for i, (n, t, k) in enumerate(rows)
    ]
    got = bound(rows, layers, micro_batches)
    try:
        best = split(classes, layers, micro_batches, [[0.0] * len(rows)] * len(rows)).iteration_s
    except Refused:
        return
    assert got <= best * (1 + 1e-9)


@settings(max_examples=80, deadline=None)
@given(st.lists(row, min_size=1, max_size=4), st.integers(1, 30), st.integers(1, 50))
def test_harder_questions_are_never_cheaper(rows, layers, micro_batches):
    base = bound(rows, layers, micro_batches)
    n, t, k = rows[0]
    for harder in ((n - 1, t, k), (n, t * 1.5, k), (n, t, k - 1)):
        assert bound([harder, *rows[1:]], layers, micro_batches) >= base * (1 - 1e-9) or math.isinf(base)
    assert bound(rows, layers + 1, micro_batches) >= base
    assert bound(rows, layers, micro_batches + 1) >= base


def test_without_memory_limits_it_is_the_balanced_pipeline():
    # 4 stages of 1 s and 2 of 2 s per layer: 5 layers per second; 50 layers take 10 s each turn, 40 on the fast
    # and 10 on the slow stages, 60 s in all; longer turns would shorten that by less than they cost.
    got = bound([(4, 1.0, 100), (2, 2.0, 100)], 50, 11)
    assert got == pytest.approx(40 * 1.0 + 10 * 2.0 + 10 * 10.0)


def test_few_micro_batches_are_worth_a_longer_bottleneck():
    # With one micro-batch only the sum counts: all on the fast stages, as far as memory goes.
    assert bound([(4, 1.0, 10), (2, 2.0, 100)], 50, 1) == pytest.approx(40 * 1.0 + 10 * 2.0)
    assert bound([(4, 1.0, 100), (2, 2.0, 100)], 50, 1) == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("stages", "layers", "micro_batches", "best"), [(8, 96, 32, 859.8), (16, 96, 64, 932.7), (24, 128, 96, 1303.8)]
)
def test_close_below_known_optima(stages, layers, micro_batches, best):
    counts = [stages // 3 + (index < stages % 3) for index in range(3)]
    got = bound(list(zip(counts, (1.0, 2.6, 6.5), (36, 36, 14), strict=True)), layers, micro_batches)
    assert 0.9 * best < got < best


def test_rows_are_bounded_one_by_one():
    got = lower_bounds_s([[1, 1], [1, 0]], [1.0, 2.0], [8, 8], [12, 12], 1)
    assert got.shape == (2,)
    assert got[0] == 8 * 1.0 + 4 * 2.0
    assert np.isinf(got[1])
