"""Every operation, asked what its own OpenAPI document allows and what it does not: no 500, no status and no body that
the document does not name. Seeds are fixed: a failure is found again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import FailureGroup

from controlplane.kube import Resource
from controlplane.kube.errors import error_from
from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import JobState, Measurement, Outcome, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask
from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from tests.unit.api.fakes import FakeCluster, FakePlanning, Setup

TOKEN = {"Authorization": "Bearer alice-token"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 8  # for each operation, place and database
# What path parameters say in half of the requests: the other half is about what is not there.
KNOWN = {"job_id": "ended", "namespace": "team", "name": "chat", "action": "pause"}
# It never ends by itself; tests/unit/api/test_stream.py reads it.
ENDLESS = {"streamEvents"}
DEPLOYMENT = {
    "model": {"name": "llama-3.1-8b", "source": "hf:meta-llama/Llama-3.1-8B"},
    "explicit": {"choices": [{"accelerator": "cpu-x86", "engine": "openvino", "knobs": {"maxNumSeqs": 2}}]},
}
SPEC = {
    "target": {"kind": "engine", "engine": "openvino", "model": "/m/tiny.gguf"},
    "space": {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 16}]},
    "objectives": [{"metric": "output_tokens_per_s"}],
}


class Everything(FakeCluster):
    """Allows everything, holds one object of each kind, named `chat`, and takes every write."""

    async def create(self, resource: Resource, body: Mapping[str, Any], *_: Any, **__: Any) -> bytes:
        if "resourceAttributes" in body["spec"]:
            return b'{"status": {"allowed": true}}'
        return await super().create(resource, body)

    async def get(self, resource: Resource, name: str, namespace: str | None = None, **options: Any) -> bytes:
        if name != "chat":
            body = {"code": 404, "reason": "NotFound", "message": f"{resource.plural} {name!r} not found"}
            raise error_from(404, json.dumps(body).encode())
        meta = {"name": name, "namespace": namespace, "uid": "u-chat", "resourceVersion": "5"}
        return json.dumps({"metadata": meta, "spec": DEPLOYMENT}).encode()


class Quick(FakePlanning):
    """Plans nothing: what the planners make of odd questions is their own tests' business."""

    async def plan_training(self, request: Any, *, progress: Any = None) -> Any:
        raise InvalidSpec("fits nowhere (fake planner)", field="pools")


class Client:
    """The application on an event loop of its own, for a property that is tried synchronously."""

    def __init__(self, setup: Setup) -> None:
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(app=setup.app(), raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://api", headers=TOKEN)
        self._setup = setup

    def request(self, **sent: Any) -> httpx.Response:
        return self._runner.run(self._http.request(**sent))

    def close(self) -> None:
        self._runner.run(self._http.aclose())
        self._runner.run(self._setup.plans.close())
        self._runner.close()


@pytest.fixture
def client(database: Database) -> Iterator[Client]:
    setup = Setup(tuning=database, cluster=Everything(), planner=Quick())
    setup.cluster.users["alice-token"] = "alice"
    setup.put("ServingDeployment", "chat", "team", spec=DEPLOYMENT)
    setup.put("GPUPool", "chat", spec={"accelerator": "cpu-x86"})
    _measured(database)
    client = Client(setup)
    yield client
    client.close()


def _measured(database: Database) -> None:
    """A job that has ended, with trials of every kind."""
    now = datetime.now(UTC)
    Jobs(database).create("ended", tenant="team", name="ended", spec=TuningSpec.model_validate(SPEC), now=now)
    for number in range(4):
        ask = Ask(number=number, setting={"maxNumSeqs": number + 1}, canonical=f"c{number}", seed=number)
        assert Studies(database).append("ended", [ask], now=now)
        leased = Trials(database).lease(f"ended/{number}", owner="w", seconds=30, now=now)
        assert leased is not None
        measured = Measurement(metrics={"output_tokens_per_s": 1.0 + number}, definitions="1", duration_s=1.0)
        bad = Outcome(verdict=Verdict.INFEASIBLE, reason="out of memory")
        Trials(database).tell(leased, bad if number == 2 else Outcome(verdict=Verdict.OK, measurement=measured), now=now)  # fmt: skip
    Steering(database).end("ended", JobState.DONE, reason="x", message="", now=now)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not-allowed"])
def test_no_operation_answers_otherwise_than_its_document_says(
    client: Client, database: Database, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(client.request(method="GET", url="/openapi.json").json())
    failures: dict[str, str] = {}
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.definition.raw["operationId"] in ENDLESS:
            continue
        if not database.embedded and "tuning" not in operation.path:
            continue  # the others never ask the database
        known = {name: value for name, value in KNOWN.items() if f"{{{name}}}" in operation.path}
        for place in [known, None] if known else [None]:
            strategy = operation.as_strategy(mode, path_parameters=place)
            asked += _ask(client, operation.definition.raw["operationId"], strategy, failures)
    assert not failures, "\n\n".join(f"{key}: {text}" for key, text in failures.items())
    assert asked > 100


def _ask(client: Client, operation: str, strategy: SearchStrategy[Any], failures: dict[str, str]) -> int:
    asked = 0

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy)
    def ask(case: schemathesis.Case) -> None:
        nonlocal asked
        asked += 1
        response = client.request(**_for_httpx(case.as_transport_kwargs(base_url="http://api")))
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as found:
            kinds = sorted({type(one).__name__ for one in found.exceptions})
            failures.setdefault(f"{operation} {response.status_code} {', '.join(kinds)}", str(found))

    with contextlib.suppress(Unsatisfiable):  # nothing to say wrong: no parameter, no body
        ask()
    return asked


def _for_httpx(sent: dict[str, Any]) -> dict[str, Any]:
    """What was made for `requests`: raw bodies have another name, and none has cookies."""
    out = {name: value for name, value in sent.items() if name not in {"data", "cookies"}}
    data = sent.get("data")
    if data is not None:
        out["content" if isinstance(data, str | bytes) else "data"] = data
    out["headers"] = {**dict(sent.get("headers") or {}), **TOKEN}
    return out
