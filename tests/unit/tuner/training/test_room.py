"""Plans keep memory free, and say how close to the limit they are."""

from __future__ import annotations

import pytest

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec
from tests.unit.tuner.training.cases import line
from tuner.training.constants import shipped
from tuner.training.planner.answer import Planner
from tuner.training.planner.question import read_question
from tuner.training.predict import Predictor
from tuner.training.question import parse_case

_POOL = {"gpu": "a100-sxm-80gb", "gpus": 16, "nic": "ib-hdr-200", "nics_per_node": 8}
_PARTS = ("memory_lo_bytes", "memory_bytes", "memory_hi_bytes")
_MODEL = "layers=48,hidden=6144,heads=48,vocab=51200,seq=2048"


def _total(pool: str = "a100-sxm-80gb") -> float:
    return float(load().accelerators[pool].plannable_memory_bytes or 0)


@pytest.mark.parametrize(("reserve", "share"), [(None, 0.05), (0.0, 0.0), (0.3, 0.3)])
def test_a_plan_leaves_the_reserve_free(reserve: float | None, share: float) -> None:
    pool = _POOL if reserve is None else {**_POOL, "memory_reserve": reserve}
    answer = Planner(shipped()).plan(read_question(_MODEL, pool, global_batch=64), top=5)
    for item in answer.kept:
        assert max(item.predicted["memory_bytes"]) <= (1.0 - share) * _total() + 1.0
        assert item.predicted["memory_limit_bytes"][0] == pytest.approx((1.0 - share) * _total())


@pytest.mark.parametrize(("reserve", "share"), [(None, 0.05), (0.3, 0.3)])
def test_a_plan_over_two_pools_leaves_the_reserve_free(reserve: float | None, share: float) -> None:
    pool = _POOL if reserve is None else {**_POOL, "memory_reserve": reserve}
    other = {**pool, "gpu": "h100-sxm-80gb"}
    answer = Planner(shipped()).plan(read_question(_MODEL, [pool, other], global_batch=64), top=5)
    for item in answer.kept:
        assert max(item.predicted["memory_bytes"]) <= (1.0 - share) * max(_total(), _total("h100-sxm-80gb")) + 1.0


def test_what_may_not_fit_is_called_tight() -> None:
    roomy = Predictor().answer(parse_case(line(micro_batch=1)))
    over = Predictor().answer(parse_case(line(micro_batch=8)))
    full = Predictor().answer(parse_case(line(micro_batch=8, cluster={"memory_reserve": 0.0})))
    assert [(said["fits"], said["tight"]) for said in (roomy, over, full)] == [
        (True, False), (False, False), (True, True)
    ]  # fmt: skip
    assert not any("tight" in text for text in roomy["warnings"])
    assert any("tight" in text for text in full["warnings"])
    for low, mean, high in zip(*(full[name] for name in _PARTS), strict=True):
        assert low < mean < high


def test_a_reserve_is_a_share() -> None:
    with pytest.raises(InvalidSpec, match="memory_reserve"):
        parse_case(line(cluster={"memory_reserve": 5}))
