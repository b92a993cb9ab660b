"""Limits of what is asked: caps, times, numbers of accelerators that nothing divides, accelerators left over."""

from __future__ import annotations

import math

import pytest

from controlplane.model.errors import InvalidSpec
from tests.unit.tuner.training_planner.questions import CLUSTER, MODEL, question
from tuner.training.constants import shipped
from tuner.training.planner.answer import Planner
from tuner.training.planner.question import read_question


def test_a_cap_that_the_accelerator_cannot_keep_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"cluster\.power_cap_w.*400 W"):
        question(power_cap_w=10.0)


def test_a_cap_above_the_accelerators_own_is_told() -> None:
    capped, free = (Planner(shipped()).plan(asked).best[0] for asked in (question(power_cap_w=900.0), question()))
    assert any("900 W is above" in text for text in capped.predicted["warnings"])
    assert capped.predicted["iteration_s"] == free.predicted["iteration_s"]


@pytest.mark.parametrize("limit_s", [math.nan, -1.0])
def test_a_limit_is_a_time(limit_s: float) -> None:
    with pytest.raises(InvalidSpec, match="limit_s"):
        Planner(shipped()).plan(question(), limit_s=limit_s)


def test_a_search_that_ran_out_of_time_says_so() -> None:
    pools = [
        {**CLUSTER, "name": "a"},
        {**CLUSTER, "name": "b", "gpu": "h100-sxm-80gb"},
        {**CLUSTER, "name": "c", "gpus": 24},
    ]
    asked = read_question(MODEL, pools, global_batch=48, seq=2048)
    stopped = Planner(shipped()).plan(asked, limit_s=0.0)
    assert stopped.stopped_after_s == 0.0
    assert stopped.proof.cells_left and stopped.proof.gap is not None
    whole = Planner(shipped()).plan(asked)
    assert whole.stopped_after_s is None
    assert stopped.proof.bound_s is not None and whole.proof.incumbent_s is not None
    assert stopped.proof.bound_s <= whole.proof.incumbent_s * (1.0 + 1e-9)


def test_the_nearest_number_of_accelerators_that_works_is_named() -> None:
    with pytest.raises(InvalidSpec, match=r"240 accelerators would do.*leave 8 idle"):
        Planner(shipped()).plan(question("layers=12,hidden=2048,heads=16,vocab=51200", batch=240, gpus=248))


def test_accelerators_that_a_mixed_plan_leaves_idle_are_told() -> None:
    # Nothing crosses this network in time, so one pool does it all.
    pools = [
        {**CLUSTER, "name": "quick", "gpu": "h100-sxm-80gb", "nic": "ib-ndr-400", "cross_gb_s": 0.001},
        {**CLUSTER, "name": "slow", "nic": "roce-200", "cross_gb_s": 0.001},
    ]
    best = Planner(shipped()).plan(read_question(MODEL, pools, global_batch=48, seq=2048)).best[0]
    assert set(best.stage_pools) == {0}
    assert any("16 of the 16 accelerators of pool slow stay idle" in text for text in best.predicted["warnings"])
