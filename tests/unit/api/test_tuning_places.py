"""Pools, accounts and deployments that a job of the API names: those that are not there are told before any trial."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from tests.unit.api.fakes import Setup

ALICE = {"Authorization": "Bearer alice-token"}
SPEC: dict[str, Any] = {
    "target": {"kind": "engine", "engine": "openvino", "model": "/m/tiny.gguf"},
    "objectives": [{"metric": "output_tokens_per_s"}],
}
PATH = "/v1/tuning-jobs"


@pytest.fixture
def setup(database: Database) -> Setup:
    setup = Setup(tuning=database)
    setup.cluster.users["alice-token"] = "alice"
    setup.cluster.allow("alice", "tuningjobs", "team", "create", "get")
    setup.cluster.allow("alice", "pods", "team", "create")
    setup.cluster.allow("alice", "serviceaccounts", "team", "get")
    setup.cluster.allow("alice", "servingdeployments", "team", "get")
    for name in ("cpu", "h100"):
        setup.put("GPUPool", name, spec={"nodeSelector": {}})
    return setup


@pytest.fixture
async def http(setup: Setup) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=setup.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


async def ask(http: httpx.AsyncClient, path: str = PATH, **spec: Any) -> httpx.Response:
    return await http.post(path, headers=ALICE, json={"namespace": "team", "name": "one", "spec": SPEC | spec})


@pytest.mark.parametrize("path", [PATH, f"{PATH}/check"])
async def test_a_pool_that_is_not_there(setup: Setup, http: httpx.AsyncClient, database: Database, path: str) -> None:
    pods = {"pods": {"pools": ["cpu", "h10"]}}
    answer = await ask(http, path, **pods)
    body = answer.json()
    assert (answer.status_code, body["code"], body["field"]) == (422, "UnknownName", "pods.pools[1]"), body
    assert body["value"] == "h10" and "h100" not in answer.text  # not for those who may not list pools
    setup.cluster.allow("alice", "gpupools", "", "list")
    setup.clock.advance(60)  # answers about rights are remembered for a while
    body = (await ask(http, path, **pods)).json()
    assert body["limit"] == "cpu, h100" and "did you mean h100?" in body["hint"]
    assert Jobs(database).list() == []


@pytest.mark.parametrize("path", [PATH, f"{PATH}/check"])
async def test_an_account_that_is_not_there(
    setup: Setup, http: httpx.AsyncClient, database: Database, path: str
) -> None:
    pods = {"pods": {"serviceAccount": "runner"}}
    answer = await ask(http, path, **pods)
    body = answer.json()
    assert (answer.status_code, body["field"], body["value"]) == (422, "pods.serviceAccount", "runner"), body
    assert "kubectl create serviceaccount runner -n team" in body["hint"] and Jobs(database).list() == []
    setup.cluster.accounts.add("runner")
    assert (await ask(http, path, **pods)).status_code in (200, 201)


async def test_who_may_not_get_the_account_does_not_hear_whether_it_is_there(
    setup: Setup, http: httpx.AsyncClient
) -> None:
    setup.cluster.rights.discard(("alice", "get", "serviceaccounts", "team", ""))
    answers = [await ask(http, pods={"serviceAccount": name}) for name in ("default", "runner")]
    assert [answer.status_code for answer in answers] == [403, 403]


async def test_a_deployment_without_a_namespace_is_one_of_the_jobs(setup: Setup, http: httpx.AsyncClient) -> None:
    choice = {"accelerator": "cpu-x86", "engine": "openvino", "cpuMillicores": 4000}
    model = {"name": "tiny-random-llama", "source": "image:/m.gguf"}
    setup.put("ServingDeployment", "chat", "team", spec={"model": model, "explicit": {"choices": [choice]}})
    answer = await ask(http, target={"kind": "deployment", "name": "chat"})
    assert answer.status_code == 201, answer.text
    target = answer.json()["spec"]["target"]
    assert (target["name"], target["namespace"]) == ("chat", "team")


async def test_what_changes_answers_may_be_searched_with_a_limit(http: httpx.AsyncClient) -> None:
    answer = await ask(
        http, mayChangeOutput=["kvCachePrecision"], limits=[{"metric": "token_agreement", "atLeast": 0.98}]
    )
    assert answer.status_code == 201, answer.text
    parameters = answer.json()["spec"]["space"]["parameters"]
    assert [one["name"] for one in parameters if one.get("changesOutput")] == ["kvCachePrecision"]
