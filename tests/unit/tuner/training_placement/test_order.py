"""Order of classes: the cheapest path, alone and together with the split."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec, Refused
from tuner.training.placement import Links, StageClass, best_path, hop_matrix, place, split


def matrix(count, seed):
    pick = random.Random(seed)
    rows = [[0.0] * count for _ in range(count)]
    for one, two in itertools.combinations(range(count), 2):
        rows[one][two] = rows[two][one] = round(pick.uniform(0.1, 9.0), 3)
    return rows


def length(order, cost):
    return sum(cost[one][two] for one, two in itertools.pairwise(order))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_path_is_the_best_of_all_orders(count):
    cost = matrix(count, count)
    path, proven = best_path(cost)
    assert proven and sorted(path) == list(range(count))
    assert length(path, cost) == pytest.approx(min(length(each, cost) for each in itertools.permutations(range(count))))


def test_path_over_asymmetric_costs():
    cost = [[0, 1, 9], [9, 0, 1], [1, 9, 0]]
    assert length(best_path(cost)[0], cost) == 2


def test_equal_costs_keep_the_given_order():
    assert best_path([[1.0] * 6] * 6)[0] == (0, 1, 2, 3, 4, 5)


def test_many_classes_are_close_but_not_proven():
    # Points on a line, shuffled: the best path walks along it.
    where = list(range(14))
    random.Random(3).shuffle(where)
    cost = [[float(abs(one - two)) for two in where] for one in where]
    path, proven = best_path(cost)
    assert not proven
    assert length(path, cost) == 13.0


def record(name, stages, layer_s, most, **more):
    return StageClass(name=name, stages=stages, layer_s=layer_s, memory_bytes=float(most), layer_bytes=1.0, **more)


def exhaustive(classes, layers, micro_batches, cost):
    best = None
    for order in itertools.permutations(range(len(classes))):
        try:
            got = split(
                [classes[i] for i in order], layers, micro_batches, [[cost[i][j] for j in order] for i in order]
            )
        except Refused:
            continue
        best = got.iteration_s if best is None else min(best, got.iteration_s)
    return best


one_class = st.builds(
    record,
    name=st.just("x"),
    stages=st.integers(1, 3),
    layer_s=st.sampled_from([0.5, 1.0, 2.6]),
    most=st.integers(2, 9),
    first_s=st.sampled_from([0.0, 1.5]),
    last_s=st.sampled_from([0.0, 4.0]),
    activation_bytes=st.sampled_from([0.0, 0.3]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(one_class, min_size=1, max_size=4), st.integers(1, 20), st.sampled_from([1, 4, 30]), st.integers(0, 9))
def test_order_and_split_together_are_the_best_of_all(classes, layers, micro_batches, seed):
    classes = [
        record(str(i), c.stages, c.layer_s, c.memory_bytes, first_s=c.first_s, last_s=c.last_s, activation_bytes=c.activation_bytes)
        for i, c in enumerate(classes)
    ]  # fmt: skip
    cost = matrix(len(classes), seed)
    want = exhaustive(classes, layers, micro_batches, cost)
    if want is None:
        with pytest.raises(Refused):
            place(classes, layers, micro_batches, cost)
        return
    got = place(classes, layers, micro_batches, cost)
    assert got.exact
    assert got.iteration_s == pytest.approx(want)


def test_beyond_the_proof_the_bound_holds_and_the_gap_is_stated():
    classes = [record(str(i), 1, 1.0 + i / 4, 9, last_s=1.0) for i in range(7)]
    cost = matrix(7, 1)
    got = place(classes, 30, 8, cost)
    assert not got.exact
    assert got.bound_s <= exhaustive(classes, 30, 8, cost) <= got.iteration_s * (1 + 1e-12)
    assert got.gap == pytest.approx(got.iteration_s / got.bound_s - 1)


def test_fast_output_layer_goes_last():
    # The slow class would take 9 s for the loss, the fast one 1 s; hops are the same either way.
    classes = [record("fast", 1, 1.0, 99, last_s=1.0), record("slow", 1, 1.0, 99, last_s=9.0)]
    assert place(classes, 20, 50, [[0.0, 0.1], [0.1, 0.0]]).classes == ("slow", "fast")


def test_unlike_nics_talk_over_the_slower_common_network():
    ib = Links(nic="ib-hdr-200", bytes_per_s=25e9, latency_s=3e-6, cross_bytes_per_s=3e9, cross_latency_s=30e-6)
    roce = Links(nic="roce-200", bytes_per_s=20e9, latency_s=5e-6, cross_bytes_per_s=1e9, cross_latency_s=40e-6)
    unknown = Links(nic=None, bytes_per_s=1e9, latency_s=0.0, cross_bytes_per_s=1e9, cross_latency_s=0.0)
    got = hop_matrix([ib, roce, ib, unknown, unknown], 1e9)
    assert got[0][0] == pytest.approx(1 / 25 + 3e-6)
    assert got[0][1] == got[1][0] == pytest.approx(1.0 + 40e-6)
    assert got[0][2] == pytest.approx(1 / 25 + 3e-6)
    assert got[3][4] == pytest.approx(1.0)


def test_a_link_without_a_rate_is_refused():
    with pytest.raises(InvalidSpec):
        hop_matrix([Links(nic="a", bytes_per_s=0.0, latency_s=0.0, cross_bytes_per_s=1.0, cross_latency_s=0.0)], 1.0)
