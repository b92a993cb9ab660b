"""Training plans over HTTP: the same jobs as other plans, the pools of the cluster, problems in the request's words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from controlplane.model.launch import LaunchPlan
from tests.unit.api.fakes import Setup

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "Bearer bob-token"}
LATER = ALICE | {"Prefer": "respond-async"}
QUESTION: dict[str, Any] = {
    "model": "layers=10,hidden=2048,heads=16,vocab=51200",
    "seq": 2048,
    "globalBatch": 24,
    "pools": [{"name": "a", "accelerator": "a100-sxm-40gb", "free": 16, "nic": "ib-hdr-200"}],
    "top": 2,
}


async def post(http: httpx.AsyncClient, headers: dict[str, str] = ALICE, **changes: Any) -> httpx.Response:
    return await http.post("/v1/training-plans", headers=headers, json=QUESTION | changes)


async def test_a_question_is_answered_with_a_plan_that_can_be_rendered(http: httpx.AsyncClient) -> None:
    answer = await post(http, fixed={"tp": [2], "microBatch": [1, 3], "sp": [True]})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["kind"], job["state"], job["model"]) == ("training", "done", QUESTION["model"])
    assert "plan" not in job
    training = job["training"]
    assert [item["plan"]["parallel"]["tp"] for item in training["best"]] == [2, 2]
    assert training["proof"]["gap"] == 0.0
    plan = LaunchPlan.model_validate(training["best"][0]["plan"])
    assert plan.rank_map[0].pool == "a"
    assert plan.launch is not None
    assert "--tensor-model-parallel-size 2" in plan.launch.arguments
    assert (await http.get(f"/v1/plans/{job['id']}", headers=ALICE)).json() == job
    (listed,) = (await http.get("/v1/plans", headers=ALICE)).json()["items"]
    assert (listed["kind"], "training" in listed) == ("training", False)


async def test_two_pools_make_one_plan_with_ranks_on_both(http: httpx.AsyncClient) -> None:
    pools = [*QUESTION["pools"], {"name": "b", "accelerator": "h100-sxm-80gb", "free": 16, "nic": "ib-ndr-400"}]
    answer = await post(http, pools=pools, fixed={"pp": [2]})
    assert answer.status_code == 200, answer.text
    plan = answer.json()["training"]["best"][0]["plan"]
    assert {stage["pool"] for stage in plan["stages"]} == {"a", "b"}
    assert sum(run["ranks"] for run in plan["rankMap"]) == 32
    LaunchPlan.model_validate(plan)


async def test_what_nothing_launches_stands_apart_and_sizes_beside(http: httpx.AsyncClient) -> None:
    job = (await post(http, theoretical=True, sizes=True, fixed={"pp": [4]})).json()
    assert job["state"] == "done", job
    training = job["training"]
    for item in training["theoretical"]:
        assert item["prediction"]["iterationS"] < training["best"][0]["prediction"]["iterationS"]
        assert "launch" not in item
    assert [size["accelerators"] for size in training["sizes"]] == [16, 8]
    plain = (await post(http)).json()["training"]
    assert "failures" not in plain
    assert "sizes" not in plain
    assert "theoretical" not in plain


async def test_failures_have_a_price_and_a_plan_without_the_node(http: httpx.AsyncClient) -> None:
    found = (await post(http, failures="llama3")).json()["training"]["failures"]
    assert 0.9 < found["ettr"] < 1.0
    assert found["nodes"] == 2
    assert found["checkpointIntervalS"] > found["checkpointS"] > 0.0
    assert (found["afterLoss"][0]["pool"], found["afterLoss"][0]["gpusLeft"]) == ("a", 8)
    none = (await post(http, failures="0")).json()["training"]["failures"]
    assert none["ettr"] == 1.0
    assert "mtbfS" not in none


async def test_jobs_stream_are_cancelled_and_are_nobody_else_s(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.planner.go.clear()
    where = (await post(http, LATER)).headers["Location"]
    stream = asyncio.create_task(http.get(f"{where}/events", headers=ALICE))
    await asyncio.sleep(0.05)
    assert (await http.get(where, headers=BOB)).status_code == 404
    setup.planner.go.set()
    events = [part.split("\n") for part in (await stream).text.strip().split("\n\n")]
    assert [event[0] for event in events] == ["event: progress", "event: done"]
    assert json.loads(events[1][1].removeprefix("data: "))["training"]["best"]
    setup.planner.go.clear()
    where = (await post(http, LATER)).headers["Location"]
    await asyncio.sleep(0)
    assert (await http.delete(where, headers=ALICE)).status_code == 204
    await asyncio.sleep(0)
    assert setup.planner.cancelled == 1


async def test_who_may_not_list_pools_may_not_plan(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.cluster.rights.clear()
    assert (await post(http)).status_code == 403
    assert (await post(http, {})).status_code == 401
    assert setup.planner.training_requests == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "gpt-3-175x"}, "model"),
        ({"pools": [{**QUESTION["pools"][0], "accelerator": "h1000"}]}, "pools[0].accelerator"),
        ({"pools": [{**QUESTION["pools"][0], "nic": None}]}, "pools[0].nic"),
        ({"pools": [{**QUESTION["pools"][0], "free": 0}]}, "pools[0].free"),
        ({"fixed": {"tq": [8]}}, "fixed"),
        ({"fixed": {"tp": ["many"]}}, "fixed.tp"),
        ({"fixed": {"tp": [3]}}, "fixed"),
        ({"seq": None}, "model.seq"),
        ({"failures": "often"}, "failures"),
        ({"model": "layers=96,hidden=20480,heads=160,vocab=51200"}, "memory"),
    ],
)
async def test_the_planner_s_no_names_the_field_of_the_request(
    http: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    answer = await post(http, **changes)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field
    assert answer.json().get("hint") or answer.json().get("limit")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"globalBatch": 0}, "globalBatch"),
        ({"top": 99}, "top"),
        ({"precision": "fp7"}, "precision"),
        ({"fixed": {"tp": []}}, "fixed"),
        ({"modle": "x"}, "modle"),
        ({"pools": QUESTION["pools"] * 9}, "pools"),
    ],
)
async def test_what_is_no_question_is_refused(
    setup: Setup, http: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    answer = await post(http, **changes)
    assert answer.status_code == 422
    assert field in answer.json()["detail"]
    assert setup.planner.training_requests == []


async def test_without_pools_whole_free_nodes_of_the_cluster_are_meant(setup: Setup, http: httpx.AsyncClient) -> None:
    assert (await post(http, pools=[])).status_code == 422
    ready = [{"type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    status = {
        "accelerator": "a100-sxm-40gb", "nic": "ib-hdr-200", "nodes": 4, "accelerators": 32, "freeAccelerators": 21,
        "facts": [{"fact": "nicCount", "value": "8"}], "conditions": ready,
        "freeNodes": [{"nodes": 2, "free": 8}, {"nodes": 1, "free": 5}],
    }  # fmt: skip
    setup.put("GPUPool", "big", spec={}, status=status)
    setup.put("GPUPool", "cpu", spec={}, status={**status, "accelerator": "cpu-x86-amx"})
    setup.put("GPUPool", "full", spec={}, status={**status, "freeAccelerators": 3, "freeNodes": []})
    answer = await post(http, pools=[])
    assert answer.status_code == 200, answer.text
    (request,) = setup.planner.training_requests
    assert [(pool.name, pool.free, pool.nics_per_node) for pool in request.pools] == [("big", 16, 8)]


async def test_the_openapi_document_describes_question_and_answer(http: httpx.AsyncClient) -> None:
    told = (await http.get("/openapi.json")).json()
    operation = told["paths"]["/v1/training-plans"]["post"]
    assert operation["operationId"] == "createTrainingPlan"
    assert {"200", "202", "403", "422", "429", "503"} <= set(operation["responses"])
    schemas = told["components"]["schemas"]
    assert {"TrainingPlanIn", "TrainingPlan", "LaunchPlan", "RankRun", "SearchProof"} <= set(schemas)
    assert "globalBatch" in schemas["TrainingPlanIn"]["required"]
    assert "training" in schemas["PlanJobOut"]["properties"]
