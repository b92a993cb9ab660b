"""Stages on pools that do not seat them whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.tuner.training.cases import case
from tuner.training.predict import Predictor
from tuner.training.seats import stage_pools, stands_on

NEW = {"gpu": "h100", "gpus_per_node": 8, "nic": "ndr", "nics_per_node": 8}
OLD = {"gpu": "a100-40", "gpus_per_node": 8, "nic": "hdr", "nics_per_node": 8}


def mixed(*pools: tuple[dict[str, Any], int], **changes: Any) -> Any:
    return case(cluster=[{**pool, "gpus": gpus} for pool, gpus in pools], **changes)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_stage_across_pools_goes_at_the_slower_ones_pace(swapped: bool) -> None:
    pools = [(OLD, 8), (NEW, 8)] if swapped else [(NEW, 8), (OLD, 8)]
    asked = mixed(*pools, tp=8, dp=2, pp=1)
    assert stands_on(asked) == ((0, 1),)
    assert asked.pools[stage_pools(asked)[0]].gpu == "a100-sxm-40gb"
    found = Predictor().answer(asked)
    assert any("no single pool seats stage 0 (pools 0, 1" in text for text in found["warnings"])


def test_memory_of_a_stage_across_pools_is_the_smallest() -> None:
    small = {**OLD, "gpu": "a100-40"}
    large = {**OLD, "gpu": "a100-80"}
    model = {"layers": 48, "hidden": 6144, "heads": 64, "vocab": 51200, "seq": 2048}
    alone = Predictor().answer(mixed((large, 8), (large, 8), tp=8, dp=2, pp=1, model=model, recompute="full"))
    across = Predictor().answer(mixed((large, 8), (small, 8), tp=8, dp=2, pp=1, model=model, recompute="full"))
    need = max(across["memory_bytes"])
    assert 42e9 < need < 79e9 and alone["fits"] and not across["fits"]


def test_whole_stages_stay_in_their_pools_and_the_rest_share_what_is_left() -> None:
    asked = mixed((NEW, 12 * 8), (OLD, 12 * 8), tp=8, dp=8, pp=3)
    assert stands_on(asked) == ((0,), (1,), (0, 1))
    assert stage_pools(asked) == (0, 1, 1)
    assert stands_on(mixed((NEW, 128), (OLD, 128), tp=8, dp=4, pp=4)) == ((0,),) * 4


def test_stages_that_take_more_than_their_pool_has_are_told() -> None:
    asked = mixed((NEW, 8), (OLD, 8), tp=8, dp=1, pp=2, stage_pools=[0, 0])
    assert any("pool 0 take 16 accelerators of the 8" in text for text in Predictor().answer(asked)["warnings"])
    asked = mixed((NEW, 8), (OLD, 8), tp=8, dp=1, pp=2, stage_pools=[0, 1])
    assert not any("accelerators of" in text for text in Predictor().answer(asked)["warnings"])
