"""Replica counts, cheapest first: as a full listing would order them, without making one."""

import itertools
import math
import random

import pytest

from tests.unit.tuner.planner.fakes import FakePieces, pool, request
from tuner.serving.planner import Planner
from tuner.serving.planner.counts import Limit, cheapest_first


def _all(ranges, weights, need, most):
    listed = []
    for counts in itertools.product(*ranges):
        cost = _dot(weights, counts)
        if sum(counts) >= need and cost <= most:
            listed.append((cost, counts))
    return sorted(listed)


def _dot(weights, counts):
    return float(sum(weight * count for weight, count in zip(weights, counts, strict=True)))


@pytest.mark.parametrize("seed", range(40))
def test_as_the_full_listing_orders_them(seed):
    draw = random.Random(seed)
    parts = draw.randint(1, 4)
    weights = tuple(float(draw.randint(1, 5)) for _ in range(parts))
    ranges = [range(least := draw.randint(1, 3), least + draw.randint(0, 6)) for _ in range(parts)]
    need, most = draw.randint(0, 20), draw.choice([math.inf, 30.0, 12.0])
    found = cheapest_first(
        ranges,
        Limit(weights, math.inf),
        [Limit(weights, most)],
        lambda: need,
        lambda counts: cost if (cost := _dot(weights, counts)) <= most else None,
    )
    assert list(found) == _all(ranges, weights, need, most)


def test_a_need_that_rises_is_heard():
    need = 2
    found = cheapest_first(
        [range(1, 9), range(1, 9)], Limit((1.0, 1.0), math.inf), [], lambda: need, lambda counts: float(sum(counts))
    )
    assert next(found) == (2.0, (1, 1))
    need = 9
    assert next(found) == (9.0, (1, 8))


def test_pools_of_hundreds_do_not_cost_their_product():
    pools = [pool(name=f"p{i}", accelerator=("h100-sxm-80gb", "l40s")[i % 2], free=600) for i in range(6)]
    answer = Planner(pieces=FakePieces()).plan(request(pools=pools))
    assert answer.best  # the full listing took minutes and gigabytes
