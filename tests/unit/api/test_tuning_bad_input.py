"""Jobs that cannot be are refused before any trial, with the field and the way out, and nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from tests.unit.api.bad_jobs import BY_FACTS, BY_SCHEMA, GOOD
from tests.unit.api.fakes import Setup

ALICE = {"Authorization": "Bearer alice-token"}
PATH = "/v1/tuning-jobs"


@pytest.fixture
async def http(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    setup = Setup(tuning=database)
    setup.cluster.users["alice-token"] = "alice"
    for plural, verbs in (("tuningjobs", ("create", "list", "get")), ("pods", ("create",)), ("serviceaccounts", ("get",))):  # fmt: skip
        setup.cluster.allow("alice", plural, "team", *verbs)
    transport = httpx.ASGITransport(app=setup.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


def body(changes: dict[str, Any], name: str = "x") -> dict[str, Any]:
    return {"namespace": "team", "name": name, "spec": GOOD | changes}


async def test_what_the_schema_refuses_names_the_field(http: httpx.AsyncClient) -> None:
    for changes, field in BY_SCHEMA:
        answer = await http.post(PATH, headers=ALICE, json=body(changes))
        assert answer.status_code == 422 and answer.json()["code"] == "InvalidRequest", answer.text
        named = [one["field"].removeprefix("body.spec.") for one in answer.json()["errors"]]
        # A discriminated union puts the word that chose into the path.
        assert any(field in (one, one.replace("target.engine.engine", "target.engine"), one.replace(".0.int", ".0")) for one in named), (field, named)  # fmt: skip


async def test_what_is_known_of_engines_and_models_refuses(http: httpx.AsyncClient, database: Database) -> None:
    for changes, field, words in BY_FACTS:
        answer = await http.post(PATH, headers=ALICE, json=body(changes))
        assert (answer.status_code, answer.json().get("field")) == (422, field), answer.text
        assert all(word in answer.json()["detail"] for word in words), answer.text
    assert Jobs(database).list() == []
    assert (await http.post(PATH, headers=ALICE, json=body({}))).status_code == 201


async def test_a_name_is_taken_once_and_ten_megabytes_are_no_job(http: httpx.AsyncClient) -> None:
    assert (await http.post(PATH, headers=ALICE, json=body({}, "one"))).status_code == 201
    again = await http.post(PATH, headers=ALICE, json=body({}, "one"))
    assert (again.status_code, again.json()["code"]) == (409, "AlreadyExists")
    assert "delete that job" in again.json()["hint"]
    for content in (b"[" + b"1," * 5 * 2**20, b" " * 10 * 2**20):
        large = await http.post(PATH, headers=ALICE | {"Content-Type": "application/json"}, content=content)
        assert (large.status_code, large.json()["code"]) == (413, "ContentTooLarge")
