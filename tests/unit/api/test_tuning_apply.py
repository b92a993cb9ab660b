"""A winner written into a deployment: what changes, who may, what is refused, and the way back."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from controlplane.kube import Resource
from controlplane.kube.errors import error_from
from controlplane.model.tuning_apply import TUNED_BEFORE, TUNED_BY
from controlplane.model.tuning_decision import Interval, Judged, TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from controlplane.store.steering import Steering
from controlplane.tuning_apply import merged
from tests.unit.api.fakes import FakeCluster, Setup

ALICE = {"Authorization": "Bearer alice-token"}
CHOICE = {"accelerator": "cpu-x86", "engine": "openvino", "knobs": {"maxNumSeqs": 2, "dynamicSplitFuse": False}}
BEST = {"dynamicSplitFuse": False, "maxNumSeqs": 14, "maxNumBatchedTokens": 622}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Deployments(FakeCluster):
    """Holds deployments and patches them as RFC 7396 says, on the version that was read."""

    def __init__(self) -> None:
        super().__init__()
        self.users |= {"alice-token": "alice", "bob-token": "bob"}
        self.allow("alice", "tuningjobs", "team", "get")
        self.allow("bob", "tuningjobs", "team", "get")
        spec = {"model": {"name": "tiny", "source": "image:/m/tiny.gguf"}, "explicit": {"choices": [CHOICE]}}
        self.stored["chat"] = {"metadata": {"name": "chat", "resourceVersion": "5"}, "spec": spec}

    async def get(self, resource: Resource, name: str, namespace: str | None = None, **options: Any) -> bytes:
        self._judge(options["token"], name)
        return json.dumps(self.stored[name]).encode()

    async def patch(
        self, resource: Resource, body: Any, name: str, namespace: str | None = None, **options: Any
    ) -> bytes:
        self._judge(options["token"], name)
        held = self.stored[name]
        if body["metadata"]["resourceVersion"] != held["metadata"]["resourceVersion"]:
            raise _status(409, "Conflict", "the object has been modified")
        changed: dict[str, Any] = merged(held, body)
        if "dryRun" not in options["query"]:
            changed["metadata"]["resourceVersion"] = str(int(held["metadata"]["resourceVersion"]) + 1)
            self.stored[name] = changed
        return json.dumps(changed).encode()

    def _judge(self, token: str, name: str) -> None:
        if token != "alice-token":
            raise _status(403, "Forbidden", f"{self.users[token]} cannot patch servingdeployments")
        if name not in self.stored:
            raise _status(404, "NotFound", f"servingdeployments {name!r} not found")


def _status(code: int, reason: str, message: str) -> Exception:
    return error_from(code, json.dumps({"code": code, "reason": reason, "message": message}).encode())


@pytest.fixture
def cluster() -> Deployments:
    return Deployments()


@pytest.fixture
async def http(database: Database, cluster: Deployments) -> AsyncIterator[httpx.AsyncClient]:
    app = Setup(tuning=database, cluster=cluster).app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api") as client:
        yield client


def decided(
    database: Database, job: str = "j1", verdict: str = "better", target: Mapping[str, Any] | None = None, **best: Any
) -> str:
    """A finished job and its decision."""
    spec = {
        "target": target or {"kind": "engine", "engine": "openvino", "model": "/m/tiny.gguf"},
        "space": {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 16}]},
        "objectives": [{"metric": "output_tokens_per_s"}],
    }
    Jobs(database).create(job, tenant="team", name=job, spec=TuningSpec.model_validate(spec), now=NOW)
    gain = Interval(mean=52.0, lo=9.0, hi=90.0, runs=5)
    judged = Judged(number=3, setting=best or BEST, gain_pct=gain)
    found = TuningDecision(verdict=verdict, message="gain +52 %", best=judged, baseline=Judged(setting={"maxNumSeqs": 2}))  # type: ignore[arg-type]  # fmt: skip
    Steering(database).decide(job, found.model_dump(mode="json", by_alias=True), now=NOW)
    return f"/v1/tuning-jobs/{job}"


async def test_the_winner_goes_in_as_a_canary_and_comes_out_again(
    http: httpx.AsyncClient, database: Database, cluster: Deployments
) -> None:
    before = copy.deepcopy(cluster.stored["chat"])
    path = decided(database)
    body = {"deployment": "chat", "canary": {"replicas": 1}}
    tried = await http.post(f"{path}/apply", headers=ALICE, json=body | {"dryRun": True})
    assert tried.status_code == 200, tried.text
    assert cluster.stored["chat"] == before and tried.json()["written"] is False
    done = (await http.post(f"{path}/apply", headers=ALICE, json=body)).json()
    assert done["written"] is True and done["changes"] == tried.json()["changes"]
    assert [(one["field"], one["before"], one["after"]) for one in done["changes"]] == [
        ("spec.explicit.choices[0].knobs.maxNumBatchedTokens", None, 622),
        ("spec.explicit.choices[0].knobs.maxNumSeqs", 2, 14),
        ("spec.rollout.canary", None, {"replicas": 1}),
    ]
    stored = cluster.stored["chat"]
    assert stored["spec"]["explicit"]["choices"][0]["knobs"] == BEST
    assert stored["spec"]["rollout"]["canary"] == {"replicas": 1}
    assert stored["metadata"]["annotations"][TUNED_BY] == "j1"
    assert any("own hardware" in one for one in done["warnings"])
    assert any("prompts above 622 tokens will be refused" in one for one in done["warnings"])
    # Again: nothing to do, and the way back still leads to what stood there first.
    again = (await http.post(f"{path}/apply", headers=ALICE, json=body)).json()
    assert (again["written"], again["changes"]) == (False, [])
    undone = await http.post(f"{path}/undo", headers=ALICE, json={"deployment": "chat"})
    assert undone.status_code == 200, undone.text
    now = cluster.stored["chat"]
    assert now["spec"]["explicit"] == before["spec"]["explicit"] and not now["spec"]["rollout"]
    assert now["metadata"]["annotations"] == {}
    nothing = await http.post(f"{path}/undo", headers=ALICE, json={"deployment": "chat"})
    assert (nothing.status_code, nothing.json()["code"]) == (409, "NothingToUndo")


async def test_a_winner_that_is_applied_in_two_steps_comes_out_whole(
    http: httpx.AsyncClient, database: Database, cluster: Deployments
) -> None:
    """First the settings, then the canary, or a setting that somebody changed in between: one way back for all of it."""
    path = decided(database)
    bodies: list[dict[str, Any]] = [{}, {"canary": {"replicas": 1}}, {"canary": {"replicas": 2}}]
    for body in bodies:
        answer = await http.post(f"{path}/apply", headers=ALICE, json={"deployment": "chat"} | body)
        assert answer.status_code == 200 and answer.json()["written"], answer.text
    knobs = cluster.stored["chat"]["spec"]["explicit"]["choices"][0]["knobs"]
    knobs["maxNumBatchedTokens"] = 99
    assert (await http.post(f"{path}/apply", headers=ALICE, json={"deployment": "chat"})).json()["written"]
    undone = await http.post(f"{path}/undo", headers=ALICE, json={"deployment": "chat"})
    assert undone.status_code == 200, undone.text
    spec = cluster.stored["chat"]["spec"]
    (choice,) = spec["explicit"]["choices"]
    assert choice["knobs"] == {"maxNumSeqs": 2, "dynamicSplitFuse": False, "maxNumBatchedTokens": 99}
    assert not spec["rollout"]


@pytest.mark.parametrize(
    "change",
    [
        {"field": "spec.explicit.choices[\u00b2].knobs.maxNumSeqs", "after": 1},
        {"field": "spec.explicit.choices[7].knobs.maxNumSeqs", "after": 1},
        {"field": "spec.rollout.canary", "before": None, "after": {"replicas": "many"}},
        {"field": "spec.rollout.canary", "before": {"replicas": "many"}, "after": {"replicas": 1}},
    ],
)
async def test_a_note_that_somebody_broke_is_a_refusal(
    change: dict[str, Any], http: httpx.AsyncClient, database: Database, cluster: Deployments
) -> None:
    path = decided(database)
    cluster.stored["chat"]["spec"]["rollout"] = {"canary": {"replicas": 1}}
    cluster.stored["chat"]["metadata"]["annotations"] = {TUNED_BEFORE: json.dumps({"job": "j1", "changes": [change]})}
    before = copy.deepcopy(cluster.stored)
    answer = await http.post(f"{path}/undo", headers=ALICE, json={"deployment": "chat"})
    assert answer.status_code in (409, 422) and "detail" in answer.json()
    assert cluster.stored == before


async def test_a_canary_that_stood_there_is_brought_back_whole(
    http: httpx.AsyncClient, database: Database, cluster: Deployments
) -> None:
    held = {"replicas": 2, "hold": {"leastSeconds": 60}}
    cluster.stored["chat"]["spec"]["rollout"] = {"canary": held}
    path = decided(database)
    body = {"deployment": "chat", "canary": {"replicas": 1, "verdict": {"notWorseThanPct": 3}}}
    assert (await http.post(f"{path}/apply", headers=ALICE, json=body)).status_code == 200
    canary = cluster.stored["chat"]["spec"]["rollout"]["canary"]
    assert canary == {"replicas": 1, "hold": {"leastSeconds": 60}, "verdict": {"notWorseThanPct": 3}}
    canary["verdict"]["mustBeBetter"] = False  # as the API server writes defaults
    assert (await http.post(f"{path}/undo", headers=ALICE, json={"deployment": "chat"})).status_code == 200
    assert cluster.stored["chat"]["spec"]["rollout"]["canary"] == held


async def test_what_does_not_fit_is_refused_and_nothing_is_written(
    http: httpx.AsyncClient, database: Database, cluster: Deployments
) -> None:
    before = copy.deepcopy(cluster.stored)
    command = {"kind": "command", "command": ["x", "{maxNumSeqs}"], "image": "i"}
    other = {"kind": "deployment", "name": "other", "namespace": "team"}
    vllm = {"kind": "engine", "engine": "vllm", "model": "m"}
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        (decided(database, "a", "no-evidence"), {}, 409, "NotBetter"),
        (decided(database, "b", target=vllm), {}, 409, "EngineDiffers"),
        (decided(database, "c", target=command), {}, 422, "Unsupported"),
        (decided(database, "d", target=other), {}, 409, "DeploymentDiffers"),
        (decided(database, "e", maxNumSqs=3), {}, 422, "UnknownName"),
        (decided(database, "f", maxNumSeqs=0), {}, 422, "InvalidSpec"),
        # What stays in the deployment and what is written do not go together.
        (decided(database, "g", dynamicSplitFuse=True), {}, 422, "InvalidSpec"),
        (decided(database, "h"), {"deployment": "absent"}, 404, "NotFound"),
        (decided(database, "i"), {"canary": {"replicas": 0}}, 422, "InvalidRequest"),
    ]
    for path, changes, status, code in cases:
        answer = await http.post(f"{path}/apply", headers=ALICE, json={"deployment": "chat"} | changes)
        assert (answer.status_code, answer.json()["code"]) == (status, code), (path, answer.text)
    assert cluster.stored == before
    forced = await http.post("/v1/tuning-jobs/a/apply", headers=ALICE, json={"deployment": "chat", "force": True})
    assert forced.status_code == 200 and "forced: gain" in forced.json()["warnings"][0]


async def test_a_deployment_of_the_same_name_elsewhere_is_another_one(
    http: httpx.AsyncClient, database: Database, cluster: Deployments
) -> None:
    cluster.stored["chat"]["metadata"]["namespace"] = "prod"
    before = copy.deepcopy(cluster.stored)
    path = decided(database, target={"kind": "deployment", "name": "chat", "namespace": "team"})
    body: dict[str, Any] = {"deployment": "chat", "namespace": "prod"}
    answer = await http.post(f"{path}/apply", headers=ALICE, json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "DeploymentDiffers")
    assert (answer.json()["value"], answer.json()["limit"]) == ("prod/chat", "team/chat") and cluster.stored == before
    assert (await http.post(f"{path}/apply", headers=ALICE, json=body | {"force": True})).status_code == 200


async def test_an_auto_deployment_and_a_running_job_are_refused(
    http: httpx.AsyncClient, database: Database, cluster: Deployments
) -> None:
    path = decided(database)
    cluster.stored["chat"]["spec"] = {"model": {"name": "tiny", "source": "image:/m/t"}, "auto": {}}
    answer = await http.post(f"{path}/apply", headers=ALICE, json={"deployment": "chat"})
    assert (answer.status_code, answer.json()["field"]) == (422, "spec.auto")
    spec = TuningSpec.model_validate({"target": {"kind": "engine", "engine": "openvino", "model": "m"}, "objectives": [{"metric": "x"}]})  # fmt: skip
    Jobs(database).create("r", tenant="team", name="r", spec=spec, now=NOW)
    answer = await http.post("/v1/tuning-jobs/r/apply", headers=ALICE, json={"deployment": "chat"})
    assert (answer.status_code, answer.json()["code"]) == (409, "NotDecided")


async def test_the_callers_own_rights_decide_and_nobody_is_overwritten(
    http: httpx.AsyncClient, database: Database, cluster: Deployments
) -> None:
    path = decided(database)
    bob = {"Authorization": "Bearer bob-token"}
    answer = await http.post(f"{path}/apply", headers=bob, json={"deployment": "chat"})
    assert answer.status_code == 403 and "cannot patch" in answer.json()["detail"]
    assert (await http.post(f"{path}/apply", headers=ALICE, json={"deployment": "chat"})).status_code == 200
    cluster.stored["chat"]["spec"]["explicit"]["choices"][0]["knobs"]["maxNumSeqs"] = 9
    answer = await http.post(f"{path}/undo", headers=ALICE, json={"deployment": "chat"})
    assert (answer.status_code, answer.json()["code"]) == (409, "SettingsChanged")
    note = json.loads(cluster.stored["chat"]["metadata"]["annotations"][TUNED_BEFORE])
    assert note["job"] == "j1"
    other = await http.post(f"{decided(database, 'j2')}/undo", headers=ALICE, json={"deployment": "chat"})
    assert (other.status_code, other.json()["code"]) == (409, "NothingToUndo")
    assert (await http.post(f"{path}/undo", headers=ALICE, json={"deployment": "chat", "force": True})).status_code == 200  # fmt: skip
    assert cluster.stored["chat"]["spec"]["explicit"]["choices"] == [CHOICE]
