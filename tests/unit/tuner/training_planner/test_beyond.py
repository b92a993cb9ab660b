"""Beside the answer: theoretical plans shown apart, fewer nodes; and what is launchable can be said to its framework."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controlplane.catalog.frameworks import THEORETICAL, training_frameworks
from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.training import SCHEDULES
from tests.unit.tuner.training_planner.questions import CLUSTER, question
from tuner.training.checks import check
from tuner.training.constants import shipped
from tuner.training.planner import Planner, TrainingAnswer, read_question
from tuner.training.planner.beyond import beyond, check_beside, sizes
from tuner.training.planner.exports import launch_of
from tuner.training.planner.launchable import launchable, theoretical
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.rows import plan_of
from tuner.training.planner.search import search
from tuner.training.planner.space import cells, leaves

BIG = "layers=40,hidden=6144,heads=48,vocab=51200"
EXPERTS = "layers=8,hidden=2048,heads=16,vocab=32000,experts=4,top_k=2,expert_ffn=4096,gated=true"


@pytest.mark.parametrize(
    ("framework", "target"),
    [("megatron-lm", "megatron"), ("fsdp", "torchtitan"), ("fsdp-compiled", "torchtitan"),
     ("megatron-deepspeed", "deepspeed"), ("megatron-zero-bubble", "zero-bubble")],
)  # fmt: skip
@pytest.mark.parametrize("model", [BIG, EXPERTS])
def test_every_plan_of_the_default_space_can_be_launched(framework: str, target: str, model: str) -> None:
    if framework == "megatron-zero-bubble":
        with pytest.raises(Unsupported):
            read_question(model, CLUSTER, global_batch=24, seq=2048, framework=framework)
        model = f"{BIG},tied=false"
    asked = read_question(model, CLUSTER, global_batch=24, seq=2048, framework=framework)
    rows = np.abs(leaves(asked, cells(asked)))
    assert len(rows) > 500
    for row in rows[:: len(rows) // 200]:
        plan = plan_of(asked, row)
        check(replace(asked.case, plan=plan))
        assert launch_of(target, asked.case, plan).arguments


def test_the_theoretical_space_holds_the_launchable_one() -> None:
    asked = question(BIG, gpus=16, batch=8)
    wide = replace(asked, rules=theoretical())
    known = {tuple(row) for row in leaves(wide, cells(wide)).tolist()}
    assert {tuple(row) for row in leaves(asked, cells(asked)).tolist()} <= known
    for row in leaves(wide, cells(wide))[::97]:
        check(replace(asked.case, plan=plan_of(wide, np.abs(row))))


def test_theoretical_plans_are_faster_apart_and_have_no_framework() -> None:
    planner, asked = Planner(), question(BIG, gpus=64, batch=96)
    answer = planner.plan(asked)
    found = beyond(planner, asked, answer, top=2)
    assert len(found.plans) == 2
    rules = launchable("megatron-lm")
    for item in found.plans:
        assert item.predicted["iteration_s"] < answer.best[0].predicted["iteration_s"]
        assert item.plan.schedule not in rules.schedules or item.plan.vocab_parallel != "none"
        with pytest.raises(Unsupported):
            launch_of("megatron", asked.case, item.plan)
    assert found.bound_s == found.plans[0].predicted["iteration_s"]
    assert "not exported" in found.as_dict()["note"]
    with pytest.raises(Unsupported):
        launchable(THEORETICAL)


def test_asked_for_is_searched_even_where_it_never_wins() -> None:
    wanted = {"optimizer_offload": ("nvme",), "vocab_parallel": ("vocab-1",)}
    wide = replace(question(BIG, gpus=16), rules=theoretical(), fixed=wanted)
    found = search(wide, shipped())
    assert len(found.rows)
    plan = plan_of(wide, found.rows[0])
    assert (plan.optimizer_offload, plan.vocab_parallel) == ("nvme", "vocab-1")


def test_sizes_go_from_all_nodes_to_one() -> None:
    planner = Planner()
    asked = read_question(
        BIG, {**CLUSTER, "gpus": 64, "price_per_accelerator_hour": 2.0, "currency": "USD"}, global_batch=96, seq=2048
    )
    answer = planner.plan(asked)
    found = sizes(planner, asked, answer)
    assert [size.accelerators for size in found] == [64, 32, 16, 8]
    times = [size.best.predicted["iteration_s"] for size in found if size.best is not None]
    assert times == sorted(times)
    assert found[0].on_front
    for size in found:
        if size.best is not None and not size.on_front:
            assert any(
                other.best is not None
                and other.best.predicted["cost_per_iteration"] <= size.best.predicted["cost_per_iteration"]
                for other in found
            )
    small = sizes(planner, *_too_small(planner))
    assert small[-1].best is None
    assert "lacks" in small[-1].message


def _too_small(planner: Planner) -> tuple[PlanQuestion, TrainingAnswer]:
    asked = question("layers=40,hidden=12288,heads=96,vocab=51200", gpus=32, batch=32)
    return asked, planner.plan(asked)


def test_sizes_compare_one_pool() -> None:
    asked = question()
    two = replace(asked, case=replace(asked.case, pools=asked.case.pools * 2))
    with pytest.raises(InvalidSpec):
        sizes(Planner(), two, Planner().plan(asked))
    for name in ("theoretical", "sizes"):
        with pytest.raises(InvalidSpec) as error:
            check_beside(two, **{"theoretical": False, "sizes": False, name: True})
        assert error.value.field == name
    check_beside(two, theoretical=False, sizes=False)
    check_beside(asked, theoretical=True, sizes=True)


def test_zero_bubble_plans_have_a_program() -> None:
    asked = read_question(f"{BIG},tied=false", {**CLUSTER, "gpus": 64}, global_batch=96, seq=2048, precision="fp16",
                          framework="megatron-zero-bubble", fix=("schedule=zb-v,v-half,v-min,zb-h2",))  # fmt: skip
    found = search(asked, shipped())
    plan = plan_of(asked, found.rows[0])
    assert not plan.overlap_dp
    said = launch_of("zero-bubble", asked.case, plan).arguments
    assert {
        "--enable-zero-bubble",
        "--enable-optimizer-post-validation",
        "--untie-embeddings-and-output-weights",
    } <= set(said)
    half = replace(plan, schedule="v-half", vpp=2, pp=4, dp=16 // plan.tp)
    said = launch_of("zero-bubble", asked.case, half).arguments
    assert {"--zero-bubble-v-schedule", "--zero-bubble-v-schedule-mem-setup half"} <= set(said)
    with pytest.raises(Unsupported):
        launch_of("zero-bubble", asked.case, replace(half, schedule="interleaved"))


def test_rows_of_the_table_use_the_words_of_a_plan() -> None:
    for name, row in training_frameworks().items():
        assert set(row.schedules) <= set(SCHEDULES), name
        assert set(row.zero) | set(row.zero_without_pipeline) <= {0, 1, 2, 3}
        assert row.source
        assert row.notes
