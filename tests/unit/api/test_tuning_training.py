"""Training commands and deployments over HTTP: the job that is made says its space, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from controlplane.model.tuning_job import TuningSpec
from controlplane.store.database import Database
from controlplane.store.trials import Trials
from controlplane.tuning_jobs import sampler_of
from tests.unit.api.fakes import Setup

ALICE = {"Authorization": "Bearer alice-token"}
PATH = "/v1/tuning-jobs"
NAMES = ("tensorParallel", "pipelineParallel", "microBatch", "recompute", "zeroStage")
RUN = {"model": "llama-3.1-8b", "accelerator": "h100", "devices": 8, "globalBatch": 64, "sequenceTokens": 4096}


@pytest.fixture
async def http(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    setup = Setup(tuning=database)
    setup.cluster.users |= {"alice-token": "alice"}
    setup.cluster.allow("alice", "tuningjobs", "team", "create", "list", "get")
    setup.cluster.allow("alice", "pods", "team", "create")
    setup.cluster.allow("alice", "serviceaccounts", "team", "get", name="default")
    transport = httpx.ASGITransport(app=setup.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


async def made(http: httpx.AsyncClient, run: dict[str, Any] | None = None, **target: Any) -> httpx.Response:
    command = {"kind": "command", "image": "train:1", "command": ["train", *(f"--{name}={{{name}}}" for name in NAMES)]}
    spec = {
        "target": command | {"training": RUN | (run or {})} | target,
        "objectives": [{"metric": "step_ms", "direction": "minimize"}],
    }
    return await http.post(PATH, headers=ALICE, json={"namespace": "team", "name": "train", "spec": spec})


async def test_a_training_job_comes_with_its_space_and_its_driver_begins_with_the_predicted_best(
    http: httpx.AsyncClient, database: Database
) -> None:
    answer = await made(http)
    assert answer.status_code == 201, answer.text
    spec = answer.json()["spec"]
    assert {one["name"] for one in spec["space"]["parameters"]} == set(NAMES)
    assert spec["target"]["training"]["framework"] == "megatron-lm"
    stored = Trials(database).spec(answer.json()["id"])
    assert stored == TuningSpec.model_validate(spec)
    first = sampler_of(stored).ask(0)
    assert first.reason.startswith("best of the cheap level (") and "llama-3.1-8b on 8 x h100" in first.reason


@pytest.mark.parametrize(
    ("run", "target", "code", "field", "words"),
    [
        ({"model": "llama-3.1-405b"}, {}, "Unsupported", "target.training.model", "bytes"),
        ({"accelerator": "h1000"}, {}, "UnknownName", "target.training.accelerator", "h100"),
        ({}, {"command": ["train", "{tensorParallel}"]}, "InvalidSpec", "target.command", "{microBatch}"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_with_the_field(
    http: httpx.AsyncClient, run: dict[str, Any], target: dict[str, Any], code: str, field: str, words: str
) -> None:
    answer = await made(http, run, **target)
    assert answer.status_code in {400, 422} and words in answer.text, answer.text
    body = answer.json()
    assert body["code"] == code and body["field"].endswith(field), body
