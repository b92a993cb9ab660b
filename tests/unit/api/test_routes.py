"""The REST face: who may see what, what is forwarded, and what a refusal says."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from controlplane.api import routes
from controlplane.api.app import MAX_BODY_BYTES, keep
from controlplane.api.auth import Identity
from controlplane.kube import Unauthorized
from telemetry.collectors.scrape import Target
from telemetry.document import Snapshot, encode
from tests.unit.api.fakes import AUDIENCE, Setup

ALICE = {"Authorization": "Bearer alice-token"}
SPEC: dict[str, Any] = {
    "model": {"name": "tiny-random-llama", "source": "image:/models/m.gguf"},
    "explicit": {"choices": [{"accelerator": "cpu-x86", "engine": "openvino"}]},
}


@pytest.fixture
async def setup() -> Setup:
    setup = Setup()
    setup.cluster.users["alice-token"] = "alice"
    return setup


@pytest.fixture
async def http(setup: Setup) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=setup.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer nobody"}, {"Authorization": "Bearer a b"}],
)
async def test_without_an_accepted_token_nothing_is_shown(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for path in ["/v1/pools", "/v1/serving-deployments", "/v1/events", "/v1/namespaces/a/serving-deployments/x"]:
        answer = await http.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert "WWW-Authenticate" in answer.headers


async def test_a_token_for_another_audience_is_refused(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.cluster.audiences = ["somebody-else"]
    answer = await http.get("/v1/pools", headers=ALICE)
    assert answer.status_code == 401
    assert setup.cluster.reviews[0] == ("TokenReview", {"token": "alice-token", "audiences": [AUDIENCE]})


async def test_no_token_outlives_its_request(setup: Setup) -> None:
    identity = await setup.authority.identify("Bearer alice-token")
    assert (identity.token, "alice-token" in repr(identity)) == ("alice-token", False)
    del identity
    gc.collect()  # what earlier tests left in cycles is not what is held here
    held = [thing for thing in gc.get_objects() if isinstance(thing, Identity)]
    assert {thing.token for thing in held if thing.user == "alice"} == {""}


async def test_lists_show_only_namespaces_the_caller_may_list(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.put("ServingDeployment", "one", "team-a", spec=SPEC)
    setup.put("ServingDeployment", "two", "team-b", spec=SPEC)
    setup.cluster.allow("alice", "servingdeployments", "team-a", "list", "get")
    everything = (await http.get("/v1/serving-deployments", headers=ALICE)).json()
    assert [item["metadata"]["name"] for item in everything["items"]] == ["one"]
    assert (await http.get("/v1/namespaces/team-a/serving-deployments/one", headers=ALICE)).status_code == 200
    for path in [
        "/v1/namespaces/team-b/serving-deployments",
        "/v1/namespaces/team-b/serving-deployments/two",
        "/v1/namespaces/team-b/serving-deployments/absent",
        "/v1/namespaces/team-b/serving-deployments/two/placement",
        "/v1/namespaces/team-b/serving-deployments/two/metrics",
        "/v1/pools",
    ]:
        answer = await http.get(path, headers=ALICE)
        assert answer.status_code == 403, path
        assert "two" not in answer.json()["detail"]


async def test_writes_carry_the_callers_token_and_no_other(setup: Setup, http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/namespaces/team-a/serving-deployments",
        headers=ALICE,
        json={"metadata": {"name": "chat"}, "spec": SPEC},
    )
    assert answer.status_code == 201
    assert answer.json()["metadata"]["name"] == "chat"
    (write,) = setup.cluster.writes
    assert write["token"] == "alice-token"
    assert write["path"] == "/apis/trimtab.dev/v1alpha1/namespaces/team-a/servingdeployments"
    # Only what the client said is written: defaults are the API server's business.
    assert write["body"]["spec"] == SPEC


async def test_a_token_the_cluster_refuses_to_write_with_says_what_it_lacks(
    setup: Setup, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> bytes:
        raise Unauthorized(401, "Unauthorized", "Unauthorized")

    monkeypatch.setattr(setup.cluster, "request", refuse)
    answer = await http.post("/v1/pools", headers=ALICE, json={"metadata": {"name": "h100"}, "spec": {}})
    assert answer.status_code == 401
    assert "audience" in answer.json()["hint"]


async def test_updates_need_a_version_and_keep_what_the_client_never_saw(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.cluster.stored["chat"] = {
        "metadata": {"name": "chat", "resourceVersion": "5", "finalizers": ["keep/me"], "managedFields": [{}]},
        "spec": {},
    }
    path = "/v1/namespaces/team-a/serving-deployments/chat"
    body = {"metadata": {"name": "chat", "labels": {"a": "b"}}, "spec": SPEC}
    answer = await http.put(path, headers=ALICE, json=body)
    assert (answer.status_code, answer.json()["code"]) == (428, "VersionRequired")
    answer = await http.put(path, headers=ALICE | {"If-Match": '"4"'}, json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "Conflict")
    answer = await http.put(path, headers=ALICE | {"If-Match": '"5"'}, json=body)
    assert answer.status_code == 200
    sent = setup.cluster.writes[-1]["body"]["metadata"]
    assert sent == {
        "name": "chat",
        "resourceVersion": "5",
        "finalizers": ["keep/me"],
        "labels": {"a": "b"},
        "annotations": {},
    }
    other = await http.put(path, headers=ALICE | {"If-Match": "5"}, json={"metadata": {"name": "x"}, "spec": SPEC})
    assert other.json()["code"] == "NamesDiffer"


async def test_scale_and_delete_go_to_the_cluster_as_the_caller(setup: Setup, http: httpx.AsyncClient) -> None:
    path = "/v1/namespaces/team-a/serving-deployments/chat"
    assert (await http.put(path + "/scale", headers=ALICE, json={"replicas": 3})).json()["spec"] == {"replicas": 3}
    assert (await http.put(path + "/scale", headers=ALICE, json={"replicas": -1})).status_code == 422
    assert (await http.delete(path, headers=ALICE | {"If-Match": '"9"'})).status_code == 202
    scale, delete = setup.cluster.writes
    assert (scale["subresource"], scale["token"]) == ("scale", "alice-token")
    assert (delete["resource_version"], delete["token"]) == ("9", "alice-token")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (SPEC | {"replicas": -1}, "replicas"),
        (SPEC | {"replica": 1}, "replica"),
        (SPEC | {"explicit": {"choices": []}}, "choices"),
        (SPEC | {"model": {"name": "m" * 64, "source": "image:/m"}}, "name"),
    ],
)
async def test_bad_input_names_the_field(http: httpx.AsyncClient, spec: dict[str, Any], field: str) -> None:
    body = {"metadata": {"name": "chat"}, "spec": spec}
    answer = await http.post("/v1/namespaces/a/serving-deployments", headers=ALICE, json=body)
    assert answer.status_code == 422
    assert field in answer.json()["errors"][0]["field"]


async def test_huge_bodies_are_refused_before_parsing(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65536 + 2):
            yield b" " * 65536

    path = "/v1/namespaces/a/serving-deployments"
    declared = await http.post(path, headers=ALICE, content=b" " * (MAX_BODY_BYTES + 1))
    streamed = await http.post(path, headers=ALICE, content=endless())
    assert (declared.status_code, streamed.status_code) == (413, 413)


async def test_explain_puts_verdicts_beside_what_pools_hold(setup: Setup, http: httpx.AsyncClient) -> None:
    now = "2026-01-01T00:00:00Z"
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "NoMatchingFlavor",
        "message": "m",
        "lastTransitionTime": now,
    }
    choice = {"index": 0, "accelerator": "cpu-x86", "reason": "NoCapacity", "needed": 8, "free": 3, "largestBlock": 2}
    setup.put("ServingDeployment", "chat", "a", spec=SPEC, status={"conditions": [condition], "choices": [choice]})
    setup.put("GPUPool", "cpu", spec={"accelerator": "cpu-x86"}, status={"freeAccelerators": 3, "largestFreeBlock": 2})
    setup.put("GPUPool", "h100", spec={"accelerator": "h100-sxm-80gb"})
    setup.cluster.allow("alice", "servingdeployments", "a", "get")
    path = "/v1/namespaces/a/serving-deployments/chat/placement"
    without_pools = (await http.get(path, headers=ALICE)).json()
    assert without_pools["reason"] == "NoMatchingFlavor"
    assert without_pools["choices"][0]["largestBlock"] == 2
    assert without_pools["supply"] == []
    setup.cluster.allow("alice", "gpupools", "", "list")
    setup.clock.advance(61)
    with_pools = (await http.get(path, headers=ALICE)).json()
    assert [pool["pool"] for pool in with_pools["supply"]] == ["cpu"]


async def test_engine_metrics_are_bounded_and_encoded_beside_the_loop(
    setup: Setup, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noted(taken: Snapshot) -> bytes:
        threads.append(threading.current_thread())
        return encode(taken)

    monkeypatch.setattr(routes, "encode", noted)
    setup.put("ServingDeployment", "chat", "a", spec=SPEC)
    setup.cluster.allow("alice", "servingdeployments", "a", "get")
    setup.cluster.allow("alice", "pods", "a", "get")
    setup.metrics.retarget([Target("a", "chat", "chat-0", "http://10.0.0.1/metrics", {})])
    for _ in range(2):
        await setup.metrics.scrape()
    path = "/v1/namespaces/a/serving-deployments/chat/metrics"
    answer = await http.get(path, headers=ALICE, params={"max_rows": 1, "columns": ["ttft_s"], "pod": "chat-0"})
    assert len(answer.json()["pods"]["chat-0"]["timeS"]) == 1
    assert answer.json()["limits"]["rowsLeftOut"] == 1
    assert threads[0] is not threading.current_thread()
    for params in ({"max_rows": 0}, {"max_rows": 721}, {"columns": ["a"] * 33}, {"columns": "a b"}, {"pod": "A"}):
        assert (await http.get(path, headers=ALICE, params=params)).status_code == 422, params


async def test_openapi_names_every_operation_and_its_problems(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["operationId"]
            assert "application/problem+json" in operation["responses"]["401"]["content"], path
    assert document["components"]["schemas"]["ServingDeploymentSpec"]["properties"]["replicas"]["description"]


async def test_a_watch_that_died_fails_the_liveness_probe(setup: Setup) -> None:
    async def watch() -> None:
        raise RuntimeError("a mistake of ours")

    app = setup.app()
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        assert (await client.get("/healthz")).status_code == 200
        await asyncio.gather(keep(app, watch(), "watch of gpupools"), return_exceptions=True)
        answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (503, "died: watch of gpupools")


async def test_probes(setup: Setup, http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).status_code == 200
    await http.get("/v1/pools", headers=ALICE)
    page = (await http.get("/metrics")).text
    assert 'trimtab_api_requests_total{code="403",method="GET",route="/v1/pools"}' in page
    for watch in ("gpupools", "servingdeployments", "engine-pods", "api-pods", "events"):
        assert f'trimtab_api_watch_silence_seconds{{watch="{watch}"}}' in page
    assert "trimtab_api_engines_scraped 0.0" in page


async def test_the_scraping_counts_are_exported(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.metrics.retarget([Target("a", "chat", "chat-0", "http://10.0.0.1/metrics", {})])
    await setup.metrics.scrape()
    setup.metrics.dropped_values_total = 7
    page = (await http.get("/metrics")).text.splitlines()
    assert {
        "trimtab_api_engine_scrapes_total 1.0",
        "trimtab_api_engine_scrape_failures_total 1.0",
        "trimtab_api_engine_values_dropped_total 7.0",
        "trimtab_api_engines_scraped 1.0",
        "trimtab_api_engines_over_limit 0.0",
        f"trimtab_api_engine_samples_bytes {float(setup.metrics.nbytes)}",
    } <= set(page)


async def test_our_own_mistakes_are_counted(
    setup: Setup, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mistake(*_: Any) -> bool:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(setup.authority, "allows", mistake)
    assert (await http.get("/v1/pools", headers=ALICE)).status_code == 500
    assert (
        'trimtab_api_requests_total{code="500",method="GET",route="/v1/pools"} 1.0' in (await http.get("/metrics")).text
    )
