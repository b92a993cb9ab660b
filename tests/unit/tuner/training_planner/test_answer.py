"""What the answer says beside the winner: ranking, front, why not, launch arguments, and mistakes in a question."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName, Unsupported
from tests.unit.tuner.training_planner.questions import CLUSTER, question
from tuner.training.planner import Planner, megatron_flags, read_question
from tuner.training.question import parse_case

BIG = "layers=40,hidden=6144,heads=48,vocab=51200"


@pytest.fixture(scope="module")
def answer():
    return Planner().plan(question(BIG, gpus=64, batch=96), top=5)


def test_plans_are_ranked_fit_and_are_what_predict_training_says_of_them(answer) -> None:
    seconds = [item.predicted["iteration_s"] for item in answer.best]
    assert len(seconds) == 5
    assert seconds == sorted(seconds)
    for item in json.loads(json.dumps(answer.as_dict()))["best"]:
        assert item["fits"]
        cluster = {**CLUSTER, "gpus": 64}
        model = {"layers": 40, "hidden": 6144, "heads": 48, "vocab": 51200, "seq": 2048}
        case = parse_case({"model": model, "cluster": cluster, **item["plan"]})
        assert Planner()._predictor.answer(case)["iteration_s"] == item["iteration_s"]


def test_terms_add_up_to_the_iteration(answer) -> None:
    for item in (*answer.best, *answer.front):
        assert sum(item.terms_s.values()) == pytest.approx(item.predicted["iteration_s"], rel=1e-9)
        assert min(item.terms_s.values()) >= 0.0


def test_on_the_front_more_time_buys_less_energy(answer) -> None:
    assert answer.front[0].plan == answer.best[0].plan
    points = [(item.predicted["iteration_s"], -item.predicted["energy_j"]) for item in answer.front]
    assert points == sorted(points)


def test_why_not_gives_each_loser_its_first_reason(answer) -> None:
    assert len(answer.why_not) == 10
    limit = Planner()
    for lost in answer.why_not:
        said = limit._predictor.answer(replace(answer.case, plan=lost.plan))
        assert said["iteration_s"] == pytest.approx(lost.iteration_s)
        if lost.over_bytes is None:
            assert said["fits"]
            assert lost.slower == pytest.approx(lost.iteration_s / answer.best[0].predicted["iteration_s"] - 1.0)
            assert "slower" in lost.message
        else:
            assert not said["fits"]
            assert said["memory_bytes"][lost.stage] == max(said["memory_bytes"])
            assert f"stage {lost.stage}" in lost.message


def test_why_not_tells_of_unlike_plans(answer) -> None:
    choices = [("tp",), ("pp",), ("cp", "cp_mode"), ("schedule", "vpp"), ("micro_batch",),
               ("recompute", "recompute_layers"), ("zero",), ("sp",), ("optimizer_offload", "offload_layers")]  # fmt: skip
    winner = answer.best[0].plan
    ways = [
        tuple(any(getattr(lost.plan, name) != getattr(winner, name) for name in names) for names in choices)
        for lost in answer.why_not
    ]
    assert len(set(ways)) == len(ways)
    for at in range(5):  # tensor, pipeline and context parallelism, schedule, micro-batch
        assert any(way[at] for way in ways)


def test_launch_arguments_of_an_interleaved_plan_with_both_ends_counted() -> None:
    model = "layers=14,hidden=4096,heads=32,kv_heads=8,ffn=11008,vocab=32000,gated=true"
    asked = question(model, ("pp=4", "tp=2", "vpp=2", "micro_batch=1", "zero=1", "sp=true"), batch=32)
    flags = megatron_flags(asked.case, Planner().plan(asked).best[0].plan)
    assert {
        "--tensor-model-parallel-size 2", "--pipeline-model-parallel-size 4", "--account-for-loss-in-pipeline-split",
        "--account-for-embedding-in-pipeline-split", "--num-layers-per-virtual-pipeline-stage 2",
        "--sequence-parallel", "--use-distributed-optimizer", "--overlap-param-gather", "--num-query-groups 8",
        "--swiglu", "--bf16", "--untie-embeddings-and-output-weights",
    } <= set(flags)  # fmt: skip


def test_launch_arguments_of_experts() -> None:
    model = "layers=8,hidden=2048,heads=16,vocab=32000,experts=4,top_k=2,expert_ffn=4096,moe_layers=7"
    asked = question(model, ("ep=4", "tp=1", "recompute=full", "pp=1"), gpus=8, batch=8)
    flags = megatron_flags(asked.case, Planner().plan(asked).best[0].plan)
    assert {
        "--expert-model-parallel-size 4",
        "--moe-layer-freq '([0]*1+[1]*7)'",
        "--recompute-granularity full",
    } <= set(flags)


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"fix": ["tq=8"]}, UnknownName, "fix"),
        ({"fix": ["tp"]}, InvalidSpec, "fix.tp"),
        ({"fix": ["tp=0"]}, InvalidSpec, "fix.tp"),
        ({"fix": ["recompute=some"]}, InvalidSpec, "fix.recompute"),
        ({"fix": ["attention=flash,unfused"]}, InvalidSpec, "fix"),
        ({"model": "gpt-3-175x"}, UnknownName, "model"),
        ({"model": "layers=-4,hidden=8"}, InvalidSpec, "model.layers"),
        ({"model": "deepseek-v3.2"}, Unsupported, "model"),
        ({"cluster": {**CLUSTER, "gpu": "h1000"}}, UnknownName, "cluster.gpu"),
        ({"cluster": {**CLUSTER, "gpus": 0}}, InvalidSpec, "cluster.gpus"),
        ({"cluster": {"gpu": "a100", "gpus": 16}}, InvalidSpec, "nic"),
        ({"cluster": {**CLUSTER, "gpus": 1 << 19}}, InvalidSpec, "gpus"),
        ({"global_batch": 0}, InvalidSpec, "global_batch"),
        ({"framework": "eager"}, Unsupported, "framework"),
        ({"framework": "fsdp", "fix": ["attention=unfused"]}, Unsupported, "fix.attention"),
        ({"fix": ["recompute_layers=x"]}, InvalidSpec, "fix.recompute_layers"),
        ({"fix": ["cp_mode=star"]}, InvalidSpec, "fix.cp_mode"),
        ({"seq": None}, InvalidSpec, "model.seq"),
    ],
)
def test_a_mistake_names_its_field(changes: dict, error: type[TrimtabError], field: str) -> None:
    asked = {"model": "gpt-3-175b", "cluster": CLUSTER, "global_batch": 64, "seq": 2048, **changes}
    with pytest.raises(error) as said:
        read_question(asked.pop("model"), asked.pop("cluster"), **asked)
    assert said.value.field == field


def test_top_is_bounded() -> None:
    with pytest.raises(InvalidSpec, match="range"):
        Planner().plan(question(), top=0)


def test_a_search_stopped_early_says_so_and_keeps_its_bound(answer, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("tuner.training.planner.search.time.monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr("tuner.training.planner.search._CHUNK", 64)
    early = Planner().plan(question(BIG, gpus=64, batch=96), limit_s=2.5)
    assert early.proof.cells_left > 0
    assert early.proof.gap is not None
    assert early.proof.gap > 0.0
    assert early.proof.bound_s <= answer.best[0].predicted["iteration_s"] <= early.best[0].predicted["iteration_s"]
    with pytest.raises(InvalidSpec, match="stopped before"):
        Planner().plan(question(BIG, gpus=64, batch=96), limit_s=0.0)
