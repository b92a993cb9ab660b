"""A database that is full or read-only: 503 with the way out, what was promised is there, and the same request works later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from tests.faulty_stores import full, read_only
from tests.unit.api.bad_jobs import GOOD
from tests.unit.api.fakes import Setup

ALICE = {"Authorization": "Bearer alice-token"}
PATH = "/v1/tuning-jobs"
_MOST = 200


@pytest.fixture
async def http(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    setup = Setup(tuning=database)
    setup.cluster.users["alice-token"] = "alice"
    for plural in ("tuningjobs", "pods", "serviceaccounts"):
        setup.cluster.allow("alice", plural, "team", "create", "list", "get", "update")
    transport = httpx.ASGITransport(app=setup.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


def body(name: str) -> dict[str, Any]:
    return {"namespace": "team", "name": name, "spec": GOOD}


async def post(http: httpx.AsyncClient, name: str) -> httpx.Response:
    return await http.post(PATH, headers=ALICE | {"Idempotency-Key": name}, json=body(name))


async def test_a_full_disk(http: httpx.AsyncClient, database: Database) -> None:
    made = [(await post(http, "before")).json()["id"]]
    with full(database):
        for number in range(_MOST):
            answer = await post(http, f"job-{number}")
            if answer.status_code != 201:
                break
            made.append(answer.json()["id"])
        assert (answer.status_code, answer.json()["code"]) == (503, "StoreFull"), answer.text
        assert answer.headers["Retry-After"] and "free space" in answer.json()["hint"]
        assert (await http.get(f"{PATH}/{made[0]}", headers=ALICE)).status_code == 200
        assert {job.id for job in Jobs(database).list(limit=_MOST)} == set(made)
    assert (await post(http, f"job-{number}")).status_code == 201


async def test_a_read_only_database(http: httpx.AsyncClient, database: Database) -> None:
    job = (await post(http, "before")).json()["id"]
    with read_only(database):
        for answer in (
            await post(http, "during"),
            await http.post(f"{PATH}/{job}/pause", headers=ALICE),
            await http.put(f"{PATH}/{job}/budget", headers=ALICE, json={"trials": 90}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "StoreReadOnly"), answer.text
            assert answer.headers["Retry-After"] and "primary" in answer.json()["hint"]
        found = (await http.get(f"{PATH}/{job}", headers=ALICE)).json()
        assert (found["state"], found["budget"]) == ("running", 40)
    assert (await post(http, "during")).status_code == 201
