"""Tuning jobs over HTTP: made once, seen by who may, steered on what was read, followed without a gap."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from controlplane.api import tuning_stream
from controlplane.api.tuning_routes import own_key
from controlplane.model.tuning import JobState, Measurement, Outcome, Verdict
from controlplane.model.tuning_records import Ask
from controlplane.store.database import Database
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from tests.unit.api.fakes import Setup

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "Bearer bob-token"}
CAROL = {"Authorization": "Bearer carol-token"}
DORA = {"Authorization": "Bearer dora-token"}  # may write tuning jobs, and make no pods
SPEC: dict[str, Any] = {
    "target": {"kind": "engine", "engine": "openvino", "model": "/m/tiny.gguf"},
    "objectives": [{"metric": "output_tokens_per_s"}],
    "limits": [{"metric": "ttft_p90_ms", "atMost": 200}],
}
PATH = "/v1/tuning-jobs"


@pytest.fixture
def setup(database: Database) -> Setup:
    return Setup(tuning=database)


@pytest.fixture
async def http(setup: Setup) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(setup) as client:
        yield client


def _client(setup: Setup) -> httpx.AsyncClient:
    setup.cluster.users |= {f"{name}-token": name for name in ("alice", "bob", "carol", "dora")}
    setup.cluster.allow("alice", "tuningjobs", "team", "create", "list", "get", "update", "delete")
    setup.cluster.allow("alice", "pods", "team", "create")
    setup.cluster.allow("alice", "serviceaccounts", "team", "get", name="default")
    setup.cluster.allow("bob", "tuningjobs", "team", "list", "get")
    setup.cluster.allow("dora", "tuningjobs", "team", "create", "list", "get", "update")
    setup.cluster.allow("carol", "tuningjobs", "", "list")
    transport = httpx.ASGITransport(app=setup.app(), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://api")


async def made(http: httpx.AsyncClient, name: str = "one", **changes: Any) -> dict[str, Any]:
    body = {"namespace": "team", "name": name, "spec": SPEC | changes}
    answer = await http.post(PATH, headers=ALICE, json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"{PATH}/{answer.json()['id']}"
    found: dict[str, Any] = answer.json()
    return found


def measure(database: Database, job: str, values: list[float | None]) -> None:
    now = datetime.now(UTC)
    for number, value in enumerate(values):
        ask = Ask(number=number, setting={"maxNumSeqs": number + 1}, canonical=f"c{number}", seed=number)
        assert Studies(database).append(job, [ask], now=now)
        leased = Trials(database).lease(f"{job}/{number}", owner="w", seconds=30, now=now)
        assert leased is not None
        metrics = {"output_tokens_per_s": value, "ttft_p90_ms": 100.0}
        measured = Measurement(metrics=metrics, definitions="1", duration_s=1.0)
        bad = Outcome(verdict=Verdict.INFEASIBLE, reason="<b>out of memory</b>")
        Trials(database).tell(leased, bad if value is None else Outcome(verdict=Verdict.OK, measurement=measured), now=now)  # fmt: skip


async def test_a_job_is_made_once_per_key_and_comes_with_its_space(http: httpx.AsyncClient) -> None:
    body = {"namespace": "team", "name": "one", "spec": SPEC}
    key = ALICE | {"Idempotency-Key": "k1"}
    first, again = [await http.post(PATH, headers=key, json=body) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"] and first.json()["spec"]["space"]["parameters"]
    other = await http.post(PATH, headers=key, json=body | {"name": "two"})
    assert (other.status_code, other.json()["code"]) == (422, "IdempotencyMismatch")
    taken = await http.post(PATH, headers=ALICE, json=body)
    assert (taken.status_code, taken.json()["code"]) == (409, "AlreadyExists")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target": {"kind": "command", "command": ["rm", "{a}"]}}, "target.image"),
        ({"objectives": [{"metric": "outputtokens_per_s"}]}, "objectives[0].metric"),
        ({"objectives": [{"metric": "goodput_per_s"}]}, "slo"),
        ({"objectives": [{"metric": "joule_per_output_token"}]}, "objectives[0].metric"),
        ({"sampler": "defualt"}, "sampler"),
    ],
)
async def test_what_cannot_run_is_refused_with_its_field(
    http: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    answer = await http.post(PATH, headers=ALICE, json={"namespace": "team", "name": "x", "spec": SPEC | changes})
    assert answer.status_code == 422 and answer.json()["field"] == field, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_rights_are_the_clusters(http: httpx.AsyncClient) -> None:
    job = await made(http)
    path = f"{PATH}/{job['id']}"
    body = {"namespace": "team", "name": "two", "spec": SPEC}
    assert (await http.post(PATH, headers=BOB, json=body)).status_code == 403
    assert (await http.get(path, headers=BOB)).json()["name"] == "one"
    assert (await http.post(f"{path}/cancel", headers=BOB)).status_code == 403
    assert (await http.delete(path, headers=BOB)).status_code == 403
    # Who may not see it learns nothing of it.
    hidden, absent = await http.get(path, headers=CAROL), await http.get(f"{PATH}/none", headers=CAROL)
    assert hidden.status_code == absent.status_code == 404
    assert (await http.get(PATH, headers=BOB)).status_code == 403
    assert len((await http.get(PATH, headers=BOB, params={"namespace": "team"})).json()["items"]) == 1
    assert len((await http.get(PATH, headers=CAROL)).json()["items"]) == 1
    assert (await http.get(PATH)).status_code == 401


async def test_who_may_make_no_pods_makes_no_command_run(http: httpx.AsyncClient) -> None:
    command = {
        "target": {"kind": "command", "command": ["rm", "{a}"], "image": "busybox"},
        "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 2}]},
        "objectives": [{"metric": "s"}],
    }
    body = {"namespace": "team", "name": "two", "spec": command}
    refused = await http.post(PATH, headers=DORA, json=body)
    assert refused.status_code == 403, refused.text
    assert refused.json()["missing"] == ["create pods", "get serviceaccounts 'default'"]
    assert "create pods" in refused.json()["detail"]
    # The account is asked for by its name, the deployment by its own.
    other = {**command, "pods": {"serviceAccount": "admin"}}
    refused = await http.post(PATH, headers=ALICE, json=body | {"spec": other})
    assert refused.json()["missing"] == ["get serviceaccounts 'admin'"]
    served = SPEC | {"target": {"kind": "deployment", "name": "d", "namespace": "team"}}
    refused = await http.post(PATH, headers=ALICE, json=body | {"spec": served})
    assert refused.json()["missing"] == ["get servingdeployments 'd'"]
    made = await http.post(PATH, headers=ALICE, json=body)
    assert made.status_code == 201, made.text
    path = f"{PATH}/{made.json()['id']}"
    assert (await http.post(f"{path}/pause", headers=DORA)).status_code == 200
    for method, route, sent in (("POST", "resume", None), ("PUT", "budget", {"trials": 99}), ("POST", "clones", {"name": "x"})):  # fmt: skip
        refused = await http.request(method, f"{path}/{route}", headers=DORA, json=sent)
        assert (refused.status_code, refused.json()["missing"][0]) == (403, "create pods"), route
    assert (await http.post(f"{path}/resume", headers=ALICE)).status_code == 200


async def test_a_deployment_of_another_namespace_is_refused(setup: Setup, http: httpx.AsyncClient) -> None:
    setup.cluster.allow("alice", "servingdeployments", "", "get")
    spec = SPEC | {"target": {"kind": "deployment", "name": "d", "namespace": "other"}}
    answer = await http.post(PATH, headers=ALICE, json={"namespace": "team", "name": "x", "spec": spec})
    assert (answer.status_code, answer.json()["field"]) == (422, "target.namespace")


async def test_pages_follow_each_other(http: httpx.AsyncClient) -> None:
    for n in range(5):
        await made(http, f"job-{n}")
    seen, cursor = [], None
    while True:
        params = {"namespace": "team", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await http.get(PATH, headers=ALICE, params=params)).json()
        seen += [job["name"] for job in page["items"]]
        cursor = page.get("next")
        if cursor is None:
            break
    assert seen == [f"job-{n}" for n in reversed(range(5))]
    for cursor in (
        "%%",
        "MTI6AA",
        "MTI6",
        "Onge",
        "OTk5OTk5OTk5OTk5OTk5OTk5OTk6YQ",
    ):  # 12:NUL, no id, no time, year 300000
        bad = await http.get(PATH, headers=ALICE, params={"namespace": "team", "cursor": cursor})
        assert (bad.status_code, bad.json()["field"]) == (422, "cursor"), cursor


async def test_steering_is_on_what_was_read(http: httpx.AsyncClient) -> None:
    job = await made(http)
    path = f"{PATH}/{job['id']}"
    tag = (await http.get(path, headers=ALICE)).headers["ETag"]
    paused = await http.post(f"{path}/pause", headers=ALICE | {"If-Match": tag})
    assert paused.status_code == 200 and paused.json()["state"] == "paused"
    stale = await http.post(f"{path}/resume", headers=ALICE | {"If-Match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "Changed")
    assert (await http.post(f"{path}/resume", headers=ALICE)).json()["state"] == "running"
    assert (await http.put(f"{path}/budget", headers=ALICE, json={"trials": 80})).json()["budget"] == 80
    assert (await http.put(f"{path}/budget", headers=ALICE, json={"trials": 8})).status_code == 422
    assert (await http.post(f"{path}/cancel", headers=ALICE)).json()["state"] == "cancelled"
    assert (await http.post(f"{path}/resume", headers=ALICE)).status_code == 409
    copy = await http.post(f"{path}/clones", headers=ALICE, json={"name": "copy"})
    assert copy.status_code == 201 and copy.json()["clonedFrom"] == job["id"]
    assert (await http.delete(path, headers=ALICE)).status_code == 204
    assert (await http.get(path, headers=ALICE)).status_code == 404


async def test_trials_front_decision_report_and_bundle(http: httpx.AsyncClient, database: Database) -> None:
    job = await made(http)
    measure(database, job["id"], [10.0, 30.0, None, 20.0])
    path = f"{PATH}/{job['id']}"
    by_value = (await http.get(f"{path}/trials", headers=ALICE, params={"sort": "-value", "limit": 2})).json()
    assert [one["number"] for one in by_value["items"]] == [1, 3] and by_value["next"] == 2
    bad = (await http.get(f"{path}/trials", headers=ALICE, params={"state": "infeasible"})).json()
    assert [one["number"] for one in bad["items"]] == [2]
    assert [one["number"] for one in (await http.get(f"{path}/pareto", headers=ALICE)).json()["items"]] == [1]
    best = (await http.get(f"{path}/best", headers=ALICE)).json()
    assert best["verdict"] == "none-kept" and best["front"] == [1]
    assert "at least 8" in (await http.get(f"{path}/importance", headers=ALICE)).json()["note"]
    page = await http.get(f"{path}/report", headers=ALICE)
    assert "&lt;b&gt;out of memory" in page.text and "<b>out" not in page.text
    packed = await http.get(f"{path}/bundle", headers=ALICE)
    with tarfile.open(fileobj=io.BytesIO(packed.content)) as tar:
        assert "one/trials.csv" in tar.getnames()


async def test_a_reader_that_comes_back_misses_nothing(
    http: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_stream, "_POLL_S", 0.01)
    job = await made(http)
    await asyncio.to_thread(measure, database, job["id"], [10.0])
    await asyncio.to_thread(
        lambda: Steering(database).end(job["id"], JobState.DONE, reason="x", message="", now=datetime.now(UTC))
    )
    whole = await http.get(f"{PATH}/{job['id']}/events", headers=ALICE)
    ids = [line for line in whole.text.splitlines() if line.startswith("id: ")]
    assert ids == [f"id: {n}" for n in range(1, 6)] and "event: end" in whole.text
    rest = await http.get(f"{PATH}/{job['id']}/events", headers=ALICE | {"Last-Event-ID": "3"})
    assert [line for line in rest.text.splitlines() if line.startswith("id: ")] == ids[3:]
    bad = await http.get(f"{PATH}/{job['id']}/events", headers=ALICE | {"Last-Event-ID": "x"})
    assert bad.status_code == 400


async def test_without_a_database_tuning_is_not_offered() -> None:
    async with _client(Setup()) as http:
        answer = await http.post(PATH, headers=ALICE, json={"namespace": "team", "name": "x", "spec": SPEC})
        assert (answer.status_code, answer.json()["code"]) == (503, "NoDatabase")


def test_keys_of_callers_with_long_names_are_told_apart() -> None:
    user = f"system:serviceaccount:{'n' * 63}:{'a' * 253}"
    keys = {own_key(user, "one"), own_key(user, "two"), own_key(user + "b", "one"), own_key("alice", "one")}
    assert len(keys) == 4 and max(map(len, keys)) <= 255 and "alice:one" in keys
