"""Planning over HTTP: answered at once or as a job, with progress, limits, and nobody else's business."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from controlplane.api import plan_jobs, plan_routes
from controlplane.model.errors import Refused, Unsupported
from controlplane.testing.fake_planner import invented_prediction
from telemetry.collectors.scrape import Target
from tests.unit.api.fakes import Setup

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "Bearer bob-token"}
LATER = ALICE | {"Prefer": "respond-async"}
QUESTION: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "workload": {"ratePerSecond": 2, "input": {"tokens": 512}, "output": {"tokens": 128}},
    "pools": [{"name": "a", "accelerator": "l40s", "free": 4}],
}


async def post(http: httpx.AsyncClient, headers: dict[str, str] = ALICE, **changes: Any) -> httpx.Response:
    return await http.post("/v1/plans", headers=headers, json=QUESTION | changes)


async def test_a_short_question_is_answered_at_once(http: httpx.AsyncClient) -> None:
    answer = await post(http)
    assert answer.status_code == 200
    job = answer.json()
    assert (job["state"], job["share"]) == ("done", 1.0)
    assert job["plan"]["best"][0]["roles"][0]["pool"] == "a"
    assert (await http.get(f"/v1/plans/{job['id']}", headers=ALICE)).json() == job
    (listed,) = (await http.get("/v1/plans", headers=ALICE)).json()["items"]
    assert "plan" not in listed


async def test_who_may_not_list_pools_may_not_plan(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.cluster.rights.clear()
    assert (await post(http)).status_code == 403
    assert (await post(http, {})).status_code == 401
    assert setup.planner.requests == []


async def test_a_long_question_becomes_a_job(
    setup: Setup, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_routes, "INLINE_S", 0.05)
    setup.planner.go.clear()
    answer = await post(http)
    assert answer.status_code == 202
    where = answer.headers["Location"]
    assert where == f"/v1/plans/{answer.json()['id']}"
    job = (await http.get(where, headers=ALICE)).json()
    assert (job["state"], job["doing"], job["share"]) == ("running", "inventing numbers (fake planner)", 0.25)
    setup.planner.go.set()
    while (await http.get(where, headers=ALICE)).json()["state"] != "done":
        await asyncio.sleep(0)


async def test_jobs_are_nobody_else_s(http: httpx.AsyncClient) -> None:
    job = (await post(http)).json()["id"]
    assert (await http.get("/v1/plans", headers=BOB)).json() == {"items": []}
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/events")]:
        answer = await http.request(method, f"/v1/plans/{job}{path}", headers=BOB)
        assert (answer.status_code, answer.json()["code"]) == (404, "NotFound")
    assert (await http.get(f"/v1/plans/{job}", headers=ALICE)).status_code == 200
    assert (await http.get("/v1/plans/../secrets", headers=ALICE)).status_code == 404
    assert (await http.get("/v1/plans/NOT-AN-ID", headers=ALICE)).status_code == 422


async def test_cancelling_stops_the_planner(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.planner.go.clear()
    where = (await post(http, LATER)).headers["Location"]
    await asyncio.sleep(0)
    assert (await http.delete(where, headers=ALICE)).status_code == 204
    await asyncio.sleep(0)
    assert setup.planner.cancelled == 1
    assert (await http.get(where, headers=ALICE)).status_code == 404


async def test_progress_is_streamed_to_the_end(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.planner.go.clear()
    where = (await post(http, LATER)).headers["Location"]
    # httpx's in-process transport hands a body over when it is complete, which the end of a job makes it.
    stream = asyncio.create_task(http.get(f"{where}/events", headers=ALICE))
    await asyncio.sleep(0.05)
    setup.planner.go.set()
    answer = await stream
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in part.split("\n")) for part in answer.text.strip().split("\n\n")]
    assert [event["event"] for event in events] == ["progress", "done"]
    assert json.loads(events[0]["data"])["share"] == 0.25
    assert json.loads(events[1]["data"])["plan"]["best"]


async def test_a_stream_hears_of_the_cancellation(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.planner.go.clear()
    where = (await post(http, LATER)).headers["Location"]
    stream = asyncio.create_task(http.get(f"{where}/events", headers=ALICE))
    await asyncio.sleep(0.05)
    await http.delete(where, headers=ALICE)
    assert (await stream).text.endswith("event: cancelled\ndata: {}\n\n")


async def test_the_planner_s_no_is_a_problem_with_its_field(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.planner.error = Unsupported("nothing fits", field="pools", limit="2", hint="free some", code="PoolTooSmall")
    answer = await post(http)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["code"], told["field"], told["hint"]) == ("PoolTooSmall", "pools", "free some")
    (job,) = (await http.get("/v1/plans", headers=ALICE)).json()["items"]
    assert (job["state"], job["problem"]["code"]) == ("failed", "PoolTooSmall")


async def test_a_planner_that_is_down_is_our_fault(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.planner.error = Refused("it died", code="PlannerDied")
    answer = await post(http)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workload": {**QUESTION["workload"], "arrivals": "trace", "trace": "/etc/passwd"}}, "workload"),
        ({"workload": {**QUESTION["workload"], "trace": "/etc/passwd"}}, "workload.trace"),
        ({"top": 1000}, "top"),
        ({"pools": [{"name": "a", "accelerator": "l40s", "free": -1}]}, "free"),
        ({"sloo": {}}, "sloo"),
    ],
)
async def test_what_is_no_question_is_refused(
    setup: Setup, http: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    answer = await post(http, **changes)
    assert answer.status_code == 422
    assert field in answer.json()["detail"]
    assert setup.planner.requests == []


async def test_without_pools_the_cluster_s_own_are_meant(setup: Setup, http: httpx.AsyncClient) -> None:
    assert (await post(http, pools=[])).status_code == 422
    ready = [{"type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    status = {
        "accelerator": "h100-sxm-80gb", "nic": "ib-ndr-400", "nodes": 2, "accelerators": 16, "freeAccelerators": 12,
        "facts": [{"fact": "nicCount", "value": "4-8"}], "conditions": ready,
    }  # fmt: skip
    h100 = status | {"largestFreeBlock": 7, "freeNodes": [{"free": 7, "nodes": 1}, {"free": 5, "nodes": 1}]}
    setup.put("GPUPool", "h100", spec={"price": {"amountPerAcceleratorHour": 3.9}}, status=h100)
    setup.put("GPUPool", "mixed", spec={}, status=status | {"nic": "ib-ndr-400, roce-200"})
    setup.put("GPUPool", "broken", spec={}, status=status | {"conditions": []})
    setup.put("GPUPool", "closed", spec={"suspend": True}, status=status)
    assert (await post(http, pools=[])).status_code == 200
    (request,) = setup.planner.requests
    pool, mixed = request.pools
    assert (pool.name, pool.free, pool.per_node, pool.nic, pool.nics_per_node, pool.price_per_accelerator_hour) == (
        "h100", 12, 8, "ib-ndr-400", 4, 3.9,
    )  # fmt: skip
    assert (pool.largest_block, mixed.largest_block) == (7, None)  # None: its controller has not said
    assert ([(one.free, one.nodes) for one in pool.free_nodes or []], mixed.free_nodes) == ([(7, 1), (5, 1)], None)
    assert (mixed.nic, mixed.price_per_accelerator_hour) == (None, None)


async def test_open_questions_are_limited_and_old_answers_go(
    setup: Setup, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_jobs, "KEPT_MAX", 2)
    first = (await post(http)).json()["id"]
    for _ in range(3):
        await post(http)
    assert (await http.get(f"/v1/plans/{first}", headers=ALICE)).status_code == 404
    setup.planner.go.clear()
    for _ in range(plan_jobs.OPEN_MAX):
        assert (await post(http, LATER)).status_code == 202
    refused = await post(http, LATER)
    assert (refused.status_code, refused.json()["code"]) == (429, "TooManyPlans")
    assert (await post(http, BOB | {"Prefer": "respond-async"})).status_code == 202


async def test_predictions_stand_beside_what_engines_report(setup: Setup, http: httpx.AsyncClient) -> None:
    choice = {"accelerator": "l40s", "engine": "vllm"}
    prediction = invented_prediction().model_dump(mode="json", by_alias=True)
    candidate = {
        "choices": [{"role": "aggregated", "pool": "a", "replicas": 1, "choice": choice}],
        "accelerators": 1, "score": 1.0, "prediction": prediction, "reason": "best",
    }  # fmt: skip
    plan = {
        "model": "llama-3.1-8b", "objective": "goodput-per-watt", "requestRevision": "a", "poolsRevision": "b",
        "roomRevision": "c", "plannedTime": "2026-01-01T00:00:00Z", "weighedTime": "2026-01-01T00:00:00Z",
        "candidates": [candidate], "weighed": 1, "replayed": 1, "elapsedS": 0.1,
    }  # fmt: skip
    spec = {
        "model": {"name": "llama-3.1-8b", "source": "pvc:m"}, "auto": {}, "workload": QUESTION["workload"],
    }  # fmt: skip
    planned = {"type": "Planned", "status": "True", "reason": "Planned", "message": "1 x l40s",
               "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    setup.put("ServingDeployment", "chat", "prod", spec=spec, status={"plan": plan, "conditions": [planned]})
    path = "/v1/namespaces/prod/serving-deployments/chat/plan"
    assert (await http.get(path, headers=ALICE)).status_code == 403
    setup.cluster.allow("alice", "servingdeployments", "prod", "get")
    setup.cluster.allow("alice", "pods", "prod", "get")
    setup.authority._reviews._entries.clear()

    empty = (await http.get(path, headers=ALICE)).json()
    assert (empty["reason"], empty["plan"]["objective"], empty["pods"]) == ("Planned", "goodput-per-watt", [])
    assert empty["ttftMs"] == {"predicted": prediction["ttftMs"]}

    setup.metrics.retarget([Target("prod", "chat", "chat-0", "http://e", {})])
    ((_, window),) = setup.metrics._windows.values()
    now_s = time.time()
    for row, count in enumerate((0.0, 10.0)):
        sample = {"ttft_s_count": count, "ttft_s_sum": count * 0.3, "inter_token_s_count": count * 9}
        sample |= {"inter_token_s_sum": count * 9 * 0.02, "ttft_s_bucket:0.25": 0.0, "ttft_s_bucket:0.5": count}
        sample |= {"ttft_s_bucket:inf": count}
        window.append(now_s - 10 + 5 * row, sample)
    seen = (await http.get(path, headers=ALICE)).json()
    ttft, tpot = seen["ttftMs"], seen["tpotMs"]
    assert (ttft["observations"], ttft["mean"], ttft["p50"], ttft["meanInInterval"]) == (10, 300.0, 375.0, False)
    assert (tpot["observations"], tpot["mean"], tpot["meanInInterval"]) == (90, 20.0, True)
    assert "p50" not in tpot
    assert (seen["plannedRequestsPerS"], seen["requestsPerS"], seen["pods"]) == (2.0, 2.0, ["chat-0"])
