"""Folded pipelines: orders run, memory is what the papers say, closed forms against the simulated time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.unit.tuner.training.cases import case
from tests.unit.tuner.training.closed_forms import equal_stages
from tuner.training.columns import FOLDED_CODE, columns
from tuner.training.constants import shipped
from tuner.training.evaluate import times
from tuner.training.folded import cycle_and_fill, folded_order, held
from tuner.training.iteration import stage_parts
from tuner.training.schedules import in_flight
from tuner.training.simulate import Stage, simulate
from tuner.training.timeline import picture

CODES = {"zb-v": 0.0, "v-half": 1.0, "v-min": 2.0}


def simulated(schedule: str, p: int, m: int, times: tuple[float, float, float], hop: float = 0.0) -> float:
    return simulate(folded_order(schedule, p, m), [Stage(*times)] * p, hop, 2, folded=True).longest_stage_s


@pytest.mark.parametrize("p", [2, 4, 8, 13])
def test_zb_v_has_no_bubble_where_passes_are_equal(p: int) -> None:
    for m in (2 * p - 1, 4 * p):
        assert simulated("zb-v", p, m, (1.0, 1.0, 1.0)) == pytest.approx(3.0 * m)
        assert equal_stages("zb-v", p, m, 1.0, 1.0, 1.0) == 3.0 * m


def test_zb_v_waits_for_what_input_gradients_take_longer_than_weights() -> None:
    assert simulated("zb-v", 8, 32, (1.0, 1.5, 0.5)) == pytest.approx(equal_stages("zb-v", 8, 32, 1.0, 1.5, 0.5))
    assert equal_stages("zb-v", 8, 32, 1.0, 1.5, 0.5) == 32 * 3.0 + 7


@pytest.mark.parametrize("p", [3, 4, 6, 8, 16, 31])
def test_memory_per_stage(p: int) -> None:
    assert max(held("zb-v", p)) == p  # as 1F1B's first stage, and on every stage
    assert p / 2 <= max(held("v-half", p)) <= p / 2 + 1.5
    assert p / 3 <= max(held("v-min", p)) <= p / 3 + 1.5
    one = np.ones(1)
    flight = in_flight((FOLDED_CODE + 2) * one, p * one, 2.0 * one, 2 * one, np.arange(float(p)))
    assert flight.shape == (1, p)
    assert flight.max() <= 2.0


@pytest.mark.parametrize("schedule", CODES)
def test_closed_forms_follow_the_simulated_time(schedule: str) -> None:
    one, worst = np.ones(1), 0.0
    for p, shares in itertools.product((4, 8, 16), ((1, 1, 1), (1, 1.2, 0.8), (1, 1.5, 1), (1, 1.5, 0.7), (1, 2, 1))):
        for m in (2 * p, 6 * p):
            forward, inputs, weight = shares
            cycle, fill = cycle_and_fill(
                CODES[schedule] * one, p * one, m * one, forward * one, inputs * one, weight * one
            )
            found, exact = float(m * cycle[0] + fill[0]), simulated(schedule, p, m, shares)
            worst = max(worst, abs(found / exact - 1.0))
    assert worst < (1e-9 if schedule == "zb-v" else 0.04)


@pytest.mark.parametrize("vocab", [51200, 256000])
@pytest.mark.parametrize("schedule", ["zb-v", "v-half", "v-min", "zb-h1", "zb-h2", "1f1b"])
def test_an_iteration_is_its_simulated_pipeline_even_with_a_heavy_output(schedule: str, vocab: int) -> None:
    tried = case(schedule=schedule, model={"vocab": vocab}, global_batch=24)
    drawn = picture(tried, shipped())
    assert drawn is not None
    assert drawn.micro_batches == drawn.of == 12
    parts = stage_parts(columns([(tried, 0)], tuple(shipped().accelerators)), shipped())
    busy = times([tried], shipped()).seconds[0] - float(parts.gradients[0] + parts.optimizer[0])
    assert busy == pytest.approx(drawn.timeline.longest_stage_s, rel=0.05)


def test_more_micro_batches_and_hops_take_longer() -> None:
    for schedule in CODES:
        assert simulated(schedule, 4, 8, (1, 1, 1)) < simulated(schedule, 4, 9, (1, 1, 1))
        assert simulated(schedule, 4, 8, (1, 1, 1)) < simulated(schedule, 4, 8, (1, 1, 1), 0.1)


@pytest.mark.parametrize("schedule", CODES)
@pytest.mark.parametrize(("p", "m"), [(4, 2), (4, 16), (5, 3)])
def test_every_pass_runs_once(schedule: str, p: int, m: int) -> None:
    for order in folded_order(schedule, p, m):
        assert sorted(order) == sorted((kind, chunk, k) for kind in "FBW" for chunk in (0, 1) for k in range(m))
