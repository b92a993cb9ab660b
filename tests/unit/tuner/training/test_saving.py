"""Sharding groups, offload, partial recomputation, context parallel modes, latent attention: by hand, and identities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec, Unsupported
from tests.unit.tuner.training.cases import case, one
from tuner.training.activations import held as held_bytes
from tuner.training.activations import plain_bytes
from tuner.training.constants import shipped
from tuner.training.evaluate import times, waterfall
from tuner.training.experts import exchange
from tuner.training.flops import model_flops
from tuner.training.hardware import hardware
from tuner.training.iteration import stage_parts
from tuner.training.memory import memory, stage_totals, state_bytes
from tuner.training.offload import host_bytes
from tuner.training.parameters import layer_parameters

GIB = 2**30
LATENT = {
    "layers": 8, "hidden": 7168, "heads": 128, "head_dim": 192, "kv_rank": 512, "q_rank": 1536, "rope_dim": 64,
    "value_dim": 128, "ffn": 18432, "gated": True,
}  # fmt: skip


def seconds(**changes: Any) -> float:
    return float(times([case(**changes)], shipped()).seconds[0])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"zero": 3, "secondary_group": 4}, 16.0 / 8 + 2.0 / 4),  # ZeRO++: a second copy of the weights in groups of 4
        ({"zero": 3, "weight_group": 2}, 2.0 / 2 + 14.0 / 8),
        ({"zero": 3, "weight_group": 2, "gradient_group": 4}, 2.0 / 2 + 2.0 / 4 + 12.0 / 8),  # three levels
        ({"zero": 2, "gradient_group": 2}, 2.0 + 2.0 / 2 + 12.0 / 8),
        ({"zero": 1, "optimizer_offload": "cpu"}, 2.0 + 4.0),
        ({"zero": 3, "optimizer_offload": "nvme"}, 4.0 / 8),
    ],
)
def test_bytes_per_parameter(changes: dict[str, Any], expected: float) -> None:
    c = one(tp=4, pp=2, dp=8, **changes)
    assert sum(part[0] for part in state_bytes(c, np.ones(1), np.zeros(1))) == pytest.approx(expected)


def test_a_group_of_all_ranks_is_no_group() -> None:
    plain = case(tp=4, pp=1, dp=8, zero=3)
    grouped = case(tp=4, pp=1, dp=8, zero=3, weight_group=8, gradient_group=8, secondary_group=8)
    assert times([plain], shipped()).seconds[0] == pytest.approx(times([grouped], shipped()).seconds[0])
    assert np.allclose(waterfall(plain, shipped()).total, waterfall(grouped, shipped()).total)


def test_weights_gathered_inside_a_node_are_faster_and_larger() -> None:
    far = {
        "model": {"layers": 12},
        "cluster": {"nic": "ib-hdr-200", "nics_per_node": 1},
        "tp": 1,
        "pp": 1,
        "dp": 64,
        "zero": 3,
    }
    whole = seconds(**far)
    assert seconds(**far, secondary_group=8) < whole
    assert seconds(**far, weight_group=8, gradient_group=8) < whole
    assert (
        waterfall(case(**far, secondary_group=8), shipped()).weights[0, 0]
        > waterfall(case(**far), shipped()).weights[0, 0]
    )


def test_zero_2_sums_gradients_with_every_micro_batch() -> None:
    base = {"tp": 8, "pp": 1, "dp": 8, "overlap_dp": True}
    assert seconds(**base, zero=2, global_batch=64) > seconds(**base, zero=1, global_batch=64, gradient_bytes=2)
    assert seconds(**base, zero=2, global_batch=8) == pytest.approx(
        seconds(**base, zero=1, global_batch=8, gradient_bytes=2)
    )


def test_partial_recomputation_lies_between_none_and_full() -> None:
    base = {"tp": 8, "pp": 4, "dp": 2}  # 12 layers per stage
    none, some, full = (
        case(**base, **extra) for extra in ({}, {"recompute": "full", "recompute_layers": 3}, {"recompute": "full"})
    )
    took = times([none, some, full], shipped()).seconds
    assert took[0] < took[1] < took[2]
    assert took[1] - took[0] == pytest.approx((took[2] - took[0]) / 4, rel=0.02)
    c = one(**base, recompute="full", recompute_layers=3)
    found = memory(c, shipped(), 4).activations[0, 0]
    by_hand = 4 * (9 * plain_bytes(c)[0] + 3 * held_bytes(c).kept[0]) + plain_bytes(c)[0] + 64 * 2**20
    assert found == pytest.approx(by_hand)
    assert stage_totals(c, shipped(), 4) == pytest.approx(memory(c, shipped(), 4).total)
    every = case(**base, recompute="full", recompute_layers=12)
    assert times([every], shipped()).seconds[0] == pytest.approx(took[2])
    assert np.allclose(waterfall(every, shipped()).total, waterfall(full, shipped()).total)


def test_recomputed_layers_are_counted_per_chunk() -> None:
    chunks = one(tp=8, pp=4, dp=2, vpp=3, recompute="full", recompute_layers=2)
    assert chunks.recomputed[0] == 6


def test_offloaded_activations_leave_two_layers_behind() -> None:
    base = {"tp": 8, "pp": 1, "dp": 8, "micro_batch": 2}
    c = one(**base, offload_layers=40)
    held = plain_bytes(c)[0]
    assert memory(c, shipped(), 1).activations[0, 0] == pytest.approx(8 * held + 2 * held + 64 * 2**20)
    assert stage_totals(c, shipped(), 1) == pytest.approx(memory(c, shipped(), 1).total)
    assert host_bytes(c)[0] == pytest.approx(40 * held)
    assert seconds(**base, offload_layers=40) >= seconds(**base)


def test_offload_takes_at_least_the_bytes_over_the_link() -> None:
    base: dict[str, Any] = {"tp": 1, "pp": 1, "dp": 8, "model": {"layers": 4}, "zero": 1, "global_batch": 8}
    away, near = (stage_parts(one(**base, **extra), shipped()) for extra in ({"optimizer_offload": "cpu"}, {}))
    c = one(**base)
    updated = sum(sum(layer_parameters(c))) * 4 / 8
    assert away.optimizer[0] > near.optimizer[0]
    assert away.optimizer[0] >= (2 + 4) * updated / c.host[0]
    disk = stage_parts(one(**base, optimizer_offload="nvme"), shipped()).optimizer[0]
    assert disk > away.optimizer[0]
    assert host_bytes(one(**base, optimizer_offload="cpu"))[0] == pytest.approx(
        16 * (updated + 51200 * 6144 / 8), rel=0.01
    )


def test_offload_needs_a_known_link() -> None:
    with pytest.raises(Unsupported, match="host memory"):
        one(cluster={"gpu": "gh200-96gb"}, optimizer_offload="cpu")


def test_ulysses_moves_less_than_a_ring_of_many_ranks_and_shows_it() -> None:
    long = {"model": {"seq": 65536}, "tp": 1, "pp": 4, "dp": 1, "cp": 16, "global_batch": 4}
    ring, swap = one(**long), one(**long, cp_mode="ulysses")
    assert memory(ring, shipped(), 4).total == pytest.approx(memory(swap, shipped(), 4).total)
    assert stage_parts(swap, shipped()).layer.exposed[0] > stage_parts(ring, shipped()).layer.exposed[0]
    h = hardware(swap, shipped())
    volume = 2.0 * 4096 * 4 * 6144  # queries, keys, values, output of this rank's tokens, 16 bits
    by_hand = volume * 15 / 16 / min(h.intra[0], h.node[0] / 8) + 2 * shipped().shared["collective_launch_s"]
    assert stage_parts(swap, shipped()).layer.exposed[0] == pytest.approx(2 * by_hand)


def test_latent_attention_by_hand() -> None:
    c = one(model=LATENT, tp=1, pp=1, dp=1)
    attention = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    assert layer_parameters(c)[0][0] == pytest.approx(attention + 2 * 7168 + 3 * 7168 * 18432)
    model = case(model=LATENT).model
    scores = 8 * 2048 * 128 * (192 + 128)
    weights = 8 * (attention + 3 * 7168 * 18432) + 7168 * 51200
    assert model_flops(model, 1) == pytest.approx(6 * 2048 * (weights + scores))
    halves = layer_parameters(one(model=LATENT, tp=2, pp=1, dp=1))[0][0]
    latent = 7168 * 1536 + 7168 * 576  # every tensor parallel rank has these
    assert halves == pytest.approx((attention - latent) / 2 + latent + 2 * 7168 + 3 * 7168 * 18432 / 2)


def test_tokens_that_leave_the_node_are_limited_by_its_nics_and_by_routing() -> None:
    moe = {"experts": 64, "top_k": 8, "expert_ffn": 2048}
    far = one(model=moe, tp=1, pp=1, dp=64, ep=64)
    h = hardware(far, shipped())
    copies = np.array([2048.0 * 8])
    volume = 2.0 * copies[0] * 6144
    assert exchange(far, h, copies, 0.0)[0] == pytest.approx(volume * 7 / 8 / (h.node[0] / 8))
    near = one(model=moe, tp=1, pp=1, dp=64, ep=8)
    assert exchange(near, h, copies, 0.0)[0] == pytest.approx(volume * 7 / 8 / h.intra[0])
    limited = one(model={**moe, "route_nodes": 4}, tp=1, pp=1, dp=64, ep=64)
    assert exchange(limited, h, copies, 0.0)[0] == pytest.approx(volume / 2 * 7 / 8 / (h.node[0] / 8))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"recompute_layers": 2}, "recompute_layers"),
        ({"recompute": "full", "recompute_layers": 13}, "recompute_layers"),
        ({"weight_group": 2}, "weight_group"),
        ({"zero": 3, "weight_group": 3}, "weight_group"),
        ({"zero": 3, "dp": 4, "pp": 2, "weight_group": 4, "gradient_group": 2}, "gradient_group"),
        ({"zero": 2, "secondary_group": 2}, "secondary_group"),
        ({"offload_layers": 13}, "offload_layers"),
        ({"offload_layers": 1, "recompute": "full"}, "offload_layers"),
        ({"cp": 16, "tp": 1, "dp": 1, "cp_mode": "ulysses", "model": {"heads": 24}}, "cp"),
        ({"schedule": "zb-v", "vpp": 3}, "vpp"),
        ({"schedule": "v-min", "pp": 1, "dp": 8}, "pp"),
        ({"schedule": "v-half", "recompute": "full"}, "recompute"),
        ({"model": {"kv_rank": 512}}, "model.rope_dim"),
        ({"model": {"q_rank": 512}}, "model.q_rank"),
        ({"precision": "mxfp8", "cluster": {"gpu": "h100"}}, "precision"),
        ({"precision": "nvfp4", "cluster": {"gpu": "mi300x"}}, "precision"),
    ],
)
def test_what_does_not_go_together_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises((InvalidSpec, Unsupported)) as said:
        one(**changes)
    assert said.value.field == field


def test_narrow_formats_are_faster_in_layers_alone() -> None:
    wide, block, four = (seconds(cluster={"gpu": "b200"}, precision=name) for name in ("bf16", "mxfp8", "nvfp4"))
    assert four < block < wide
    c = one(cluster={"gpu": "b200"}, precision="nvfp4")
    assert c.peak[0] == 9e15
    assert c.wide_peak[0] == one(cluster={"gpu": "b200"}).peak[0]


def test_folded_pipelines_hold_both_ends_on_the_first_stage() -> None:
    base = {"model": {"tied": False, "vocab": 256000}, "tp": 8, "pp": 4, "dp": 2}
    found = waterfall(case(**base, schedule="zb-v"), shipped())
    plain = waterfall(case(**base), shipped())
    matrix = 256000 * 6144 / 8
    assert found.weights[0, 0] - found.weights[0, 1] == pytest.approx(2 * 2 * matrix)
    assert found.weights[0, 3] == found.weights[0, 1]
    assert found.ends[0, 3] == 0.0 < found.ends[0, 0]
    assert plain.weights[0, 0] == plain.weights[0, 3]
    for schedule in ("zb-v", "v-half", "v-min"):
        c = one(**base, schedule=schedule)
        assert stage_totals(c, shipped(), 4) == pytest.approx(memory(c, shipped(), 4).total)
    assert seconds(**base, schedule="v-min") > seconds(**base, schedule="zb-v")


def test_recomputed_layers_of_a_stage_that_has_more_than_the_inner_ones() -> None:
    base: dict[str, Any] = {"tp": 8, "pp": 4, "dp": 2, "recompute": "full", "recompute_layers": 4}
    ends = case(**base, model={"layers": 24}, layers_per_stage=[8, 4, 4, 8])
    held = waterfall(ends, shipped()).activations[0]
    c = one(**base, model={"layers": 24})
    by_hand = 4 * (4 * plain_bytes(c)[0] + 4 * held_bytes(c).kept[0]) + plain_bytes(c)[0] + 64 * 2**20
    assert held[0] == pytest.approx(by_hand)
