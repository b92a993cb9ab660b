"""Memory: two published figures, identities of the sharding levels, what must grow and shrink."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.tuner.training.cases import case, one
from tuner.training.activations import held as held_bytes
from tuner.training.columns import Columns
from tuner.training.constants import shipped
from tuner.training.evaluate import waterfall
from tuner.training.memory import memory, stage_totals, state_bytes
from tuner.training.schedules import in_flight

HERE = Path(__file__).parent
# layers, hidden, heads, micro-batch, pp, interleaving: arXiv 2205.05198, Table 3; all with tp 8, seq 2048
SHAPES = {
    "22B": (48, 6144, 64, 4, 1, 1),
    "175B": (96, 12288, 96, 1, 8, 3),
    "530B": (105, 20480, 128, 1, 35, 3),
    "1T": (128, 25600, 160, 1, 64, 1),
}
MODES: dict[str, dict[str, Any]] = {
    "none": {"attention": "unfused"},
    "SP": {"attention": "unfused", "sp": True},
    "selective": {"attention": "unfused", "recompute": "selective"},
    "selective+SP": {"attention": "unfused", "recompute": "selective", "sp": True},
    "full": {"attention": "unfused", "recompute": "full"},
}


def figure(name: str) -> list[dict[str, str]]:
    text = (HERE / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(row for row in text if not row.startswith("#")))


def published(model: str, mode: str) -> Columns:
    layers, hidden, heads, micro, pp, vpp = SHAPES[model]
    return one(
        model={"layers": layers, "hidden": hidden, "heads": heads},
        cluster={"gpus": 8 * pp},
        tp=8, dp=1, pp=pp, vpp=vpp, micro_batch=micro, global_batch=micro * pp * 8, **MODES[mode],
    )  # fmt: skip


@pytest.mark.parametrize("row", figure("fig1.csv"), ids=lambda row: f"{row['model']} {row['mode']}")
def test_figure_1_is_exact(row: dict[str, str]) -> None:
    c = published(row["model"], row["mode"])
    parameters = 12.0 * c.layers * c.hidden**2 / (c.tp * c.pp)
    states = sum(part[0] for part in state_bytes(c, parameters, np.zeros(1)))
    assert states / 2**30 == pytest.approx(float(row["param_opt_GiB"]), rel=1e-12)
    flight = in_flight(c.schedule, c.pp, c.micro_batches, c.vpp, np.zeros(1))[0, 0]
    held = flight * c.first[0] * held_bytes(c).kept[0]
    assert held / 2**30 == pytest.approx(float(row["activation_GiB"]), rel=1e-12)


@pytest.mark.parametrize("row", figure("fig7.csv"), ids=lambda row: f"{row['model']} {row['mode']}")
def test_figure_7_within_a_fifth_of_a_point(row: dict[str, str]) -> None:
    share = (
        100.0
        * held_bytes(published(row["model"], row["mode"])).kept[0]
        / held_bytes(published(row["model"], "none")).kept[0]
    )
    assert share == pytest.approx(float(row["pct_of_tp_baseline"]), abs=0.2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"zero": 0}, 18.0),
        ({"zero": 0, "gradient_bytes": 2}, 16.0),
        ({"zero": 1}, 6.0 + 12.0 / 4),  # Megatron's distributed optimizer
        ({"zero": 1, "gradient_bytes": 2}, 4.0 + 12.0 / 4),
        ({"zero": 2}, 2.0 + 14.0 / 4),
        ({"zero": 3}, 16.0 / 4),
        ({"precision": "fp32"}, 16.0),
        ({"precision": "fp32", "optimizer": "sgd"}, 8.0),
    ],
)
def test_bytes_per_parameter(changes: dict[str, Any], expected: float) -> None:
    gpu = {"gpu": "v100-sxm2-32gb"} if changes.get("precision") == "fp32" else {}
    c = one(tp=4, pp=4, dp=4, cluster=gpu, **changes)
    assert sum(part[0] for part in state_bytes(c, np.ones(1), np.zeros(1))) == pytest.approx(expected)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_sharding_over_one_rank_changes_nothing_but_gradients(zero: int) -> None:
    plain = waterfall(case(dp=1, zero=0, gradient_bytes=2), shipped())
    cut = waterfall(case(dp=1, zero=zero, gradient_bytes=2), shipped())
    for part in ("weights", "gradients", "optimizer", "activations", "ends"):
        assert np.array_equal(getattr(plain, part), getattr(cut, part))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "zb-h2"])
@pytest.mark.parametrize("vocabulary", ["none", "vocab-1", "vocab-2", "interlaced"])
def test_totals_are_the_waterfalls(schedule: str, vocabulary: str) -> None:
    for pp in (1, 2, 4):
        c = one(tp=4, pp=pp, dp=2, schedule=schedule, vocab_parallel=vocabulary)
        assert stage_totals(c, shipped(), pp) == pytest.approx(memory(c, shipped(), pp).total)


def test_flat_copies_of_the_weights_are_overhead() -> None:
    def overhead(framework: str) -> Any:
        c = one(tp=4, pp=2, dp=2, framework=framework)
        found = memory(c, shipped(), 2)
        assert stage_totals(c, shipped(), 2) == pytest.approx(found.total)
        return found.overhead, found.weights

    (plain, _), (kept, weights) = overhead("megatron-lm"), overhead("eager")
    assert kept - plain == pytest.approx(2.0 * weights)


def test_first_stages_hold_more_micro_batches() -> None:
    found = waterfall(case(), shipped()).activations[0]
    assert np.all(np.diff(found) < 0)
    assert np.allclose(np.diff(waterfall(case(schedule="gpipe"), shipped()).activations[0]), 0)


def test_a_larger_vocabulary_weighs_on_the_last_stage_only_without_vocabulary_parallelism() -> None:
    def grown(**changes: Any) -> Any:
        small = waterfall(case(**changes), shipped()).total[0]
        return waterfall(case(model={"vocab": 262144}, **changes), shipped()).total[0] - small

    assert grown()[1] == 0 < grown()[0] < grown()[-1]
    spread = grown(vocab_parallel="vocab-2")
    assert np.ptp(spread) < 1e-6 * spread.mean()


def test_experts_divide_by_their_own_degrees() -> None:
    moe = {"experts": 8, "top_k": 2, "expert_ffn": 24576}
    alone, spread = (
        waterfall(case(model=moe, tp=4, pp=2, dp=8, ep=ep, etp=etp), shipped()).weights[0, 1] for ep, etp in ((1, 1), (4, 2))
    )  # fmt: skip
    dense = waterfall(case(tp=4, pp=2, dp=8, model={"ffn": 4}), shipped()).weights[0, 1]
    assert (alone - dense) / (spread - dense) == pytest.approx(8, rel=0.01)
