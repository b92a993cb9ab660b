"""A link carries no more than its rate, however well its traffic is hidden."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tuner.training.constants import shipped
from tuner.training.evaluate import times
from tuner.training.networks import across_bytes_per_s
from tuner.training.predict import Predictor
from tuner.training.question import parse_case
from tuner.training.transfers import busiest_link_seconds

_LLAMA = {
    "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256, "seq": 8192, "gated": True,
}  # fmt: skip
_BOUNDARY_BYTES = 2.0 * 8192 * 4096  # one sequence, bf16


def _two_pools(cross_gb_s: float, **change: Any) -> dict[str, Any]:
    new = {"gpu": "h100-sxm-80gb", "gpus": 32, "nic": "ib-ndr-400", "nics_per_node": 8, "cross_gb_s": cross_gb_s}
    old = {"gpu": "a100-sxm-80gb", "gpus": 32, "nic": "roce-200", "nics_per_node": 8, "cross_gb_s": cross_gb_s}
    return {
        "model": _LLAMA, "cluster": [new, old], "tp": 1, "pp": 2, "dp": 32, "vpp": 8, "schedule": "interleaved",
        "micro_batch": 1, "global_batch": 256, "precision": "bf16", "overlap_pp": True, **change,
    }  # fmt: skip


def _one_pool(rate_gb_s: float, **change: Any) -> dict[str, Any]:
    pool = {"gpu": "h100-sxm-80gb", "gpus": 64, "inter_gb_s": rate_gb_s}
    return {
        "model": _LLAMA, "cluster": pool, "tp": 1, "pp": 8, "dp": 8, "vpp": 4, "schedule": "interleaved",
        "micro_batch": 1, "global_batch": 256, "precision": "bf16", "overlap_pp": True, **change,
    }  # fmt: skip


def _seconds(data: dict[str, Any]) -> float:
    return float(times([parse_case(data)], shipped()).seconds[0])


def test_hidden_transfers_over_a_slow_link_between_pools_take_what_the_link_takes() -> None:
    case = parse_case(_two_pools(3.1))
    node = across_bytes_per_s(case.pools[0], shipped())
    # 16 chunks in a row have 15 boundaries, each crossed by every sequence in both directions; 4 nodes share them.
    floor = 15.0 * _BOUNDARY_BYTES * 256 / (4 * node)
    assert floor > 15.0
    assert times([case], shipped()).seconds[0] >= floor


@pytest.mark.parametrize("change", [{}, {"vpp": 1, "schedule": "1f1b"}, {"vpp": 2, "schedule": "zb-v"}])
def test_an_iteration_over_one_pool_lasts_as_long_as_its_nics_need(change: dict[str, Any]) -> None:
    data = _one_pool(0.05, **change)
    case = parse_case(data)
    chunks = case.plan.vpp
    # A node of 8 ranks is one stage here: every chunk's activation goes out and its gradient, each sequence once.
    assert times([case], shipped()).seconds[0] >= 2.0 * chunks * _BOUNDARY_BYTES * 256 / 0.05e9


@pytest.mark.parametrize("data", [_two_pools, _one_pool])
def test_slower_links_never_shorten_an_iteration_nor_save_energy(data: Any) -> None:
    rates = (50.0, 20.0, 5.0, 1.0, 0.2, 0.05, 0.01)
    answers = [Predictor().answer(parse_case(data(rate))) for rate in rates]
    for quick, slow in pairwise(answers):
        assert slow["iteration_s"] >= quick["iteration_s"]
        assert slow["energy_j"] >= quick["energy_j"]
        assert slow["exposed_comm_s"] >= quick["exposed_comm_s"]
    assert answers[-1]["iteration_s"] > 10.0 * answers[0]["iteration_s"]


def test_two_alike_pools_are_one_pool_on_a_slow_link() -> None:
    one = _one_pool(0.5, pp=2, dp=32, vpp=8)
    half = {**one["cluster"], "gpus": 32}
    assert _seconds({**one, "cluster": [half, half]}) == pytest.approx(_seconds(one), rel=0.02)


def test_stages_of_one_node_send_out_of_it_only_at_its_ends() -> None:
    four = np.zeros((1, 4), dtype=np.int64)
    alike = np.ones((1, 4))

    def seconds(stride: float, chunks: float, closed: bool = True) -> float:
        found = busiest_link_seconds(
            four, four, stride * alike, 8.0 * alike, 1e12 * alike, 1e6 * alike, 1e6 * alike, chunks, closed
        )
        return float(found[0])

    assert seconds(8.0, 1.0) == pytest.approx(2.0)  # a stage for a node: one way from each neighbour
    assert seconds(4.0, 1.0) == pytest.approx(1.0)  # two nodes: one boundary between them
    assert seconds(4.0, 2.0) == pytest.approx(3.0)  # two chunks, and once back to the start
    assert seconds(8.0, 2.0) == pytest.approx(4.0)
    assert seconds(2.0, 1.0) == pytest.approx(2.0 * 1e6 / 1e12)  # all in one node
    assert seconds(8.0, 2.0, closed=False) == pytest.approx(4.0)
