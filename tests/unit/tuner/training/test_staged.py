"""Iterations over several pools: the stepped pipeline against the simulator, own layers and links of every stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controlplane.model.training import TrainingCase
from tuner.training.constants import shipped
from tuner.training.evaluate import mixed_times, times, waterfall
from tuner.training.predict import Predictor
from tuner.training.question import parse_case
from tuner.training.simulate import Stage, fixed_order, simulate
from tuner.training.stepped import stepped_seconds

MODEL = {"layers": 12, "hidden": 2048, "heads": 16, "vocab": 51200, "seq": 2048}
A100 = {"gpu": "a100-sxm-40gb", "gpus": 16, "gpus_per_node": 8, "nic": "ib-hdr-200", "nics_per_node": 8}
V100 = {"gpu": "v100-sxm2-32gb", "gpus": 16, "gpus_per_node": 8, "nic": "ib-edr-100", "nics_per_node": 4}


def case(*pools: dict[str, Any], **plan: Any) -> TrainingCase:
    asked = {"tp": 4, "dp": 2, "pp": 4, "micro_batch": 1, "global_batch": 64, **plan}
    return parse_case({"model": MODEL, "cluster": list(pools), **asked})


@pytest.mark.parametrize(
    ("schedule", "p", "m", "v"),
    [("1f1b", 1, 5, 1), ("1f1b", 4, 3, 1), ("1f1b", 5, 16, 1), ("gpipe", 3, 7, 1), ("interleaved", 4, 8, 2)],
)
def test_many_plans_stepped_at_once_take_what_the_simulator_says(schedule: str, p: int, m: int, v: int) -> None:
    random = np.random.default_rng(p)
    forward, backward = random.random((6, p)), random.random((6, p))
    found = stepped_seconds(schedule, m, v, forward, backward, np.full((6, p), 0.25))
    for row in range(6):
        stages = [Stage(go, back, 0.0) for go, back in zip(forward[row], backward[row], strict=True)]
        assert found[row] == simulate(fixed_order(schedule, p, m, v), stages, 0.25, v).seconds


def test_a_slow_boundary_delays_what_lies_behind_it() -> None:
    work, hops = np.ones((2, 3)), np.array([[0.0, 0.0, 9.0], [0.0, 0.5, 9.0]])
    even, slow = stepped_seconds("1f1b", 1, 1, work, work, hops)
    assert slow - even == pytest.approx(2 * 0.5)  # there and back; nothing takes the way from the last to the first


def test_two_equal_pools_are_nearly_one_pool() -> None:
    # The closed form of one pool lets every transfer hold up every micro-batch; stepping hides some in the fill.
    one, two = case({**A100, "gpus": 32}), case(A100, A100, stage_pools=[0, 0, 1, 1])
    assert times([two], shipped()).seconds[0] == pytest.approx(times([one], shipped()).seconds[0], rel=0.08)


def test_each_stage_holds_its_own_layers() -> None:
    uneven = case(A100, V100, layers_per_stage=[2, 5, 1, 4])
    found = waterfall(uneven, shipped()).weights[0]
    even = waterfall(replace(uneven, plan=replace(uneven.plan, layers_per_stage=())), shipped()).weights[0]
    each = even[1] / 3.0
    assert found[1] == pytest.approx(5 * each)
    assert found[2] == pytest.approx(each)
    assert found[0] - 2 * each == pytest.approx(even[0] - 3 * each)


def test_layers_belong_on_the_faster_pool() -> None:
    seconds = [
        times([case(A100, V100, layers_per_stage=list(layers))], shipped()).seconds[0]
        for layers in ((3, 3, 3, 3), (4, 4, 2, 2), (2, 2, 4, 4))
    ]
    assert seconds[1] < seconds[0] < seconds[2]


def test_unlike_nics_meet_on_the_network_that_is_said() -> None:
    roce = {**V100, "nic": "roce-100"}
    same, unlike = case(A100, V100), case(A100, roce)
    said = case({**A100, "cross_gb_s": 50}, {**roce, "cross_gb_s": 50})
    slow, fast = (mixed_times(each, shipped()).waiting[0] for each in (unlike, said))
    assert slow > fast
    assert any("Ethernet" in text for text in Predictor().answer(unlike)["warnings"])
    for each in (same, said):
        assert not any("Ethernet" in text for text in Predictor().answer(each)["warnings"])


def test_parts_of_an_iteration_add_up() -> None:
    found = mixed_times(case(A100, V100, layers_per_stage=[4, 4, 2, 2], overlap_dp=True), shipped())
    parts = found.busy + found.waiting + found.gradients + found.optimizer
    assert parts[0] == pytest.approx(found.seconds[0], rel=1e-12)
    assert 0.0 <= found.collectives[0] <= found.busy[0]
