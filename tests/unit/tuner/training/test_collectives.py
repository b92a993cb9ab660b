"""Collectives: hand-computed times, identities, shared NICs."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.training import collectives


def test_hand_computed_times() -> None:
    # 1 GB over 8 ranks at 100 GB/s, 5 us a step
    assert collectives.all_reduce(1e9, 8, 100e9, 5e-6) == pytest.approx(14 * 5e-6 + 14 / 8 * 0.01)
    assert collectives.reduce_scatter(1e9, 8, 100e9, 5e-6) == pytest.approx(7 * 5e-6 + 7 / 8 * 0.01)
    assert collectives.all_to_all(1e9, 8, 100e9, 5e-6) == pytest.approx(7 * 5e-6 + 7 / 8 * 0.01)
    assert collectives.point_to_point(1e9, 100e9, 5e-6) == pytest.approx(0.010005)


def test_one_rank_communicates_nothing() -> None:
    for name in ("all_reduce", "reduce_scatter", "all_to_all"):
        assert getattr(collectives, name)(1e9, 1, 100e9, 5e-6) == 0


def test_groups_in_a_node_share_its_nics() -> None:
    per_node, intra, node = (np.array([value]) for value in (8.0, 200e9, 100e9))

    def span(ranks: float, stride: float) -> collectives.Span:
        return collectives.span(np.array([ranks]), np.array([stride]), per_node, intra, node)

    inside = span(8, 1)
    assert not inside.crosses[0] and inside.rate[0] == 200e9
    assert span(16, 1).rate[0] == 100e9  # one group has all NICs of the node
    assert span(2, 8).rate[0] == 100e9 / 8  # eight groups share them
    assert span(8, 4).inside[0] == 2 and span(8, 4).rate[0] == 25e9
