"""Order of classes: the cheapest path, and what a transfer between them costs."""

import itertools
import math
import random

import pytest

from controlplane.model.errors import InvalidSpec
from tuner.training.placement import Links, best_path, hop_matrix


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
    path = best_path(cost)
    assert sorted(path) == list(range(count))
    assert length(path, cost) == pytest.approx(min(length(each, cost) for each in itertools.permutations(range(count))))


def test_path_over_asymmetric_costs():
    cost = [[0, 1, 9], [9, 0, 1], [1, 9, 0]]
    assert length(best_path(cost), cost) == 2


def test_equal_costs_keep_the_given_order():
    assert best_path([[1.0] * 6] * 6) == (0, 1, 2, 3, 4, 5)


def test_many_classes_on_a_line_are_walked_along_it():
    # Points on a line, shuffled: the best path walks along it.
    where = list(range(14))
    random.Random(3).shuffle(where)
    cost = [[float(abs(one - two)) for two in where] for one in where]
    assert length(best_path(cost), cost) == 13.0


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


@pytest.mark.parametrize(
    "cost", [[[0.0, 1.0]], [[0.0], [0.0]], [[0.0, -1.0], [1.0, 0.0]], [[0.0, math.nan], [1.0, 0.0]]]
)
def test_costs_that_cannot_be_are_refused(cost):
    with pytest.raises(InvalidSpec) as caught:
        best_path(cost)
    assert caught.value.field == "hop_s"
