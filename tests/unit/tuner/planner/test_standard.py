"""The planner on the real predictor: roofline tables, replay, corrections."""

import pytest

from controlplane.cli.plan_table import plan_table
from controlplane.model.plans import Allowed, Lengths, Workload
from controlplane.model.routing import Routing
from controlplane.model.serving import LatencyTarget, Slo
from tests.unit.tuner.planner.fakes import pool, request
from tuner.serving.planner import Installation, Planner
from tuner.serving.step import ladder

TOLD = Installation(images={"vllm/amd": "registry/vllm-rocm:1"})
SHORT = Workload(rate_per_second=4.0, input=Lengths(tokens=1024), output=Lengths(tokens=64))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE_DIR", str(tmp_path))


def plan(installation=TOLD, **changes):
    values = {
        "model": "qwen3-32b",
        "pools": [pool("amd", "mi300x-192gb", 8)],
        "workload": SHORT,
        "slo": Slo(ttft_ms=LatencyTarget(p95=1500), tpot_ms=LatencyTarget(p95=60)),
        "allowed": Allowed(engines=["vllm"]),
    }
    return Planner(installation=installation).plan(request(**{**values, **changes}))


def test_a_plan_on_an_accelerator_without_measured_tables():
    answer = plan()
    best = answer.best[0]
    found = best.prediction
    assert found.provenance.tier == "roofline" and found.slo_attained >= 0.95
    assert found.ttft_ms.p95 <= 1500 and found.tpot_ms.p95 <= 60
    assert found.ttft_ms.lo <= found.ttft_ms.mean <= found.ttft_ms.hi
    assert found.power_w > 0 and found.memory_bytes_per_accelerator < 192e9
    assert found.cost_per_million_output_tokens is None  # nobody named a price
    assert best.capacity >= 4.0


def test_outputs_of_one_token_have_no_tpot_in_the_plan_either():
    one = Workload(rate_per_second=4.0, input=Lengths(tokens=256), output=Lengths(tokens=1))
    found = plan(workload=one, slo=Slo(ttft_ms=LatencyTarget(p95=1500))).best[0].prediction
    assert found.ttft_ms.mean > 0 and (found.tpot_ms.mean, found.tpot_ms.p95, found.tpot_ms.hi) == (None, None, None)
    assert found.model_dump(exclude_none=True)["tpot_ms"] == {}


def test_without_a_promise_the_plan_says_that_throughput_alone_ranks():
    assert any("no latency was promised" in said for said in plan(slo=Slo()).best[0].prediction.warnings)
    assert not any("no latency was promised" in said for said in plan().best[0].prediction.warnings)


def test_a_looser_slo_or_more_accelerators_never_worsen_the_real_plan():
    scores = []
    for limit in (400, 800, 1600):
        answer = plan(slo=Slo(ttft_ms=LatencyTarget(p95=limit), tpot_ms=LatencyTarget(p95=limit / 25)))
        scores.append(answer.best[0].score if answer.best else 0.0)
    assert scores == sorted(scores)
    more = plan(pools=[pool("amd", "mi300x-192gb", 8), pool("more", "mi325x-256gb", 8)])
    assert more.best[0].score >= plan().best[0].score


def test_the_same_question_has_the_same_answer():
    one, two = (plan().model_dump(exclude={"elapsed_s", "cpu_s"}) for _ in range(2))
    assert one == two


def test_a_closed_loop_is_planned_in_clients():
    closed = Workload(arrivals="closed", concurrency=8, input=Lengths(tokens=512), output=Lengths(tokens=64))
    answer = plan(workload=closed)
    assert answer.best and "8 clients" in answer.best[0].message
    assert "score: clients per accelerator; " in plan_table(answer)
    told = [item.message for item in (*answer.best, *answer.advisory, *answer.why_not, *answer.pareto)]
    assert not [said for said in told if "requests/s" in said]
    assert any("at most" in said and "clients per accelerator" in said for said in told)


def test_points_of_the_front_say_what_their_numbers_are_of():
    answer = plan()
    assert answer.pareto
    for point in answer.pareto:
        assert point.score is None, "what is carried at most is no score, which is of the asked load"
        assert f"up to {point.capacity:.3g} requests/s on {point.accelerators} accelerator" in point.message
        assert " W at its share of the asked load" in point.message


def test_cores_of_a_cpu_pool_run_the_embedded_engine():
    answer = plan(
        model="tiny-random-llama",
        pools=[pool("cpus", "cpu-x86", 8)],
        allowed=Allowed(engines=["openvino"]),
        workload=Workload(rate_per_second=1.0, input=Lengths(tokens=200), output=Lengths(tokens=30)),
        slo=Slo(ttft_ms=LatencyTarget(p95=5000), tpot_ms=LatencyTarget(p95=500)),
    )
    choice = answer.best[0].roles[0].choice
    assert choice.engine == "openvino" and choice.cpu_millicores % 1000 == 0
    assert answer.best[0].prediction.power_w is None  # no document states a CPU's draw


def test_a_power_cap_slows_and_saves():
    free, capped = plan(), plan(pools=[pool("amd", "mi300x-192gb", 8, power_cap_w=400.0)])
    assert capped.best[0].score <= free.best[0].score
    one, two = (item.best[0].prediction.power_w / item.best[0].accelerators for item in (free, capped))
    assert two < one


def test_separate_roles_are_predicted_with_their_link():
    whole = Installation(
        images=TOLD.images,
        routers=frozenset({"vllm-router"}),
        split_roles=frozenset({"vllm"}),
        kv_connectors=frozenset({"vllm"}),
    )
    answer = plan(
        whole,
        allowed=Allowed(engines=["vllm"], disaggregated=True),
        routing=Routing(router="vllm-router"),
        top=16,
    )
    pairs = [item for item in answer.best if len(item.roles) == 2]
    assert pairs and {role.role for role in pairs[0].roles} == {"prefill", "decode"}
    assert pairs[0].prediction.slo_attained >= 0.95


def test_a_plan_on_tables_that_failed_says_so(monkeypatch):
    def broken(_query):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(ladder.aiconfigurator, "require", lambda: None)
    monkeypatch.setattr(ladder.aiconfigurator, "installed", lambda: True)
    monkeypatch.setattr(ladder.aiconfigurator, "shipped_models", frozenset)
    monkeypatch.setattr(ladder.aiconfigurator, "compile_query", broken)
    found = plan(pools=[pool("h100", "h100-sxm-80gb", 8)]).best[0].prediction
    assert found.provenance.tier == "roofline"
    assert any("measured tables failed" in said and "ZeroDivisionError" in said for said in found.warnings)


def test_equals_at_one_load_cost_the_same_for_a_token():
    priced = [pool(free=8, price_per_accelerator_hour=3.2)]
    load = Workload(rate_per_second=4.0, input=Lengths(tokens=2000), output=Lengths(tokens=300))
    asked = {"pools": priced, "workload": load, "slo": Slo(tpot_ms=LatencyTarget(p95=50))}
    best = plan(**asked, objective="goodput-per-cost", allowed=Allowed(engines=["vllm", "sglang"])).best
    equals = [item.prediction for item in best if item.score == best[0].score]
    assert len(equals) > 1
    assert len({item.cost_per_million_output_tokens for item in equals}) == 1
    assert len({item.tokens_per_second_per_accelerator for item in equals}) == 1
    assert all(item.goodput_per_second == pytest.approx(4 * item.slo_attained) for item in equals)


def test_a_kv_cache_of_unknown_size_has_no_share_in_use(monkeypatch):
    from tuner.serving.replay.result import ReplayResult

    monkeypatch.setattr(ReplayResult, "kv_fraction_peak", property(lambda _: None))
    assert plan().best[0].prediction.kv_fraction_peak is None
