"""Simulated pipelines: the closed forms where those are exact, bounds where not, memory limits kept."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.unit.tuner.training.closed_forms import equal_stages
from tuner.training.simulate import Stage, Timeline, delayed_order, fixed_order, simulate, zero_bubble


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 4), (4, 8), (8, 32)])
def test_equal_stages_without_hops_are_the_closed_form(schedule: str, p: int, m: int) -> None:
    for v in (1, 2, 4) if schedule == "interleaved" and p > 1 else (1,):
        found = simulate(fixed_order(schedule, p, m, v), [Stage(1.0, 1.5, 0.5)] * p, 0.0, v)
        assert found.seconds == pytest.approx(equal_stages(schedule, p, m, 1.0, 1.5, 0.5, v))


def test_hand_made_zero_bubble_orders_are_the_closed_forms() -> None:
    stages = [Stage(1.0, 1.0, 1.0)] * 8
    first = simulate(delayed_order(8, 32, 8, 1.0), stages, 0.0)
    second = simulate(delayed_order(8, 32, 15, 2.0), stages, 0.0)
    assert first.longest_stage_s == equal_stages("zb-h1", 8, 32, 1, 1, 1) == 103
    assert second.longest_stage_s == equal_stages("zb-h2", 8, 32, 1, 1, 1) == 96
    assert zero_bubble(stages, 32, 0.0, 8).longest_stage_s <= 103


def test_unequal_stages_take_at_least_the_bound() -> None:
    stages = [Stage(1, 2, 0), Stage(3, 1, 0), Stage(1, 3, 0), Stage(2, 2, 0)]
    found = simulate(fixed_order("1f1b", 4, 16), stages, 0.1).seconds
    busy = [stage.forward + stage.backward for stage in stages]
    assert found >= sum(busy) + 15 * max(busy)
    assert found <= sum(busy) + 15 * (max(busy) + 2 * 4 * 0.1) + 6 * 0.1 + 16


def test_no_schedule_holds_more_than_its_limit() -> None:
    for limit in (4, 6, 8):
        found = zero_bubble([Stage(1.0, 1.1, 0.8)] * 4, 16, 0.05, limit)
        for bars in found.stages:
            held = 0
            for bar in bars:
                held += {"F": 1, "B": 0, "W": -1}[bar.kind]
                assert held <= limit
            assert len(bars) == 3 * 16 and held == 0


def test_passes_never_overlap_and_follow_their_data() -> None:
    hop = 0.25
    found = zero_bubble([Stage(1.0, 1.1, 0.8)] * 4, 8, hop, 8)
    ends = {
        (bar.kind, place, bar.micro_batch): (bar.start_s, bar.end_s)
        for place, bars in enumerate(found.stages)
        for bar in bars
    }
    for bars in found.stages:
        assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(bars))
    for place in range(3):
        for micro in range(8):
            assert ends["F", place + 1, micro][0] >= ends["F", place, micro][1] + hop - 1e-9
            assert ends["B", place, micro][0] >= ends["B", place + 1, micro][1] + hop - 1e-9


def test_more_memory_never_makes_the_schedule_longer() -> None:
    def span(limit: int) -> float:
        found: Timeline = zero_bubble([Stage(1.0, 1.0, 0.9)] * 8, 32, 0.02, limit)
        return found.longest_stage_s

    assert span(16) < span(8) < simulate(fixed_order("1f1b", 8, 32), [Stage(1.0, 1.0, 0.9)] * 8, 0.02).seconds


def test_an_order_that_waits_for_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="waits for itself"):
        simulate([[("BW", 0, 0), ("F", 0, 0)]], [Stage(1, 1, 1)], 0.0)
