"""Tuning jobs looked up over HTTP: by name, one trial with what it measured, trials by purpose, a space before it is a job."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from controlplane.model.tuning import TrialPurpose
from controlplane.model.tuning_records import Ask
from controlplane.store.database import Database
from controlplane.store.studies import Studies
from tests.unit.api.fakes import Setup
from tests.unit.api.test_tuning import ALICE, BOB, CAROL, PATH, SPEC, _client, made, measure
from tests.unit.command.tune_places import NOW


@pytest.fixture
def setup(database: Database) -> Setup:
    return Setup(tuning=database)


@pytest.fixture
async def http(setup: Setup) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(setup) as client:
        yield client


async def test_a_name_is_one_job_of_its_namespace(http: httpx.AsyncClient) -> None:
    job = await made(http, "one")
    await made(http, "two")
    query = {"namespace": "team", "name": "one"}
    found = (await http.get(PATH, headers=BOB, params=query)).json()["items"]
    assert [one["id"] for one in found] == [job["id"]]
    assert (await http.get(PATH, headers=CAROL, params={"name": "one"})).json()["items"][0]["id"] == job["id"]
    assert (await http.get(PATH, headers=BOB, params={"name": "one"})).status_code == 403
    assert (await http.get(PATH, headers=BOB, params=query | {"name": "none"})).json()["items"] == []
    assert (await http.get(PATH, headers=BOB, params=query | {"name": "NO NAME"})).status_code == 422


async def test_one_trial_comes_with_what_its_attempts_measured(http: httpx.AsyncClient, database: Database) -> None:
    job = await made(http)
    measure(database, job["id"], [10.0, None])
    first = (await http.get(f"{PATH}/{job['id']}/trials/0", headers=BOB)).json()
    assert first["trial"]["objectives"] == [10.0]
    assert first["measured"][0]["measurement"]["metrics"]["ttft_p90_ms"] == 100.0
    second = (await http.get(f"{PATH}/{job['id']}/trials/1", headers=BOB)).json()
    assert second["trial"]["state"] == "infeasible" and second["measured"] == []
    absent = await http.get(f"{PATH}/{job['id']}/trials/7", headers=BOB)
    assert absent.status_code == 404 and "0 to 1" in absent.json()["detail"]
    assert (await http.get(f"{PATH}/{job['id']}/trials/0", headers=CAROL)).status_code == 404
    assert (await http.get(f"{PATH}/{job['id']}/trials/-1", headers=BOB)).status_code == 422


async def test_what_confirms_is_counted_beside_the_search(http: httpx.AsyncClient, database: Database) -> None:
    job = await made(http)
    measure(database, job["id"], [10.0, None])
    more = [
        Ask(number=number, setting={"maxNumSeqs": 1}, canonical="c0", seed=number, purpose=purpose)
        for number, purpose in ((2, TrialPurpose.CONFIRM), (3, TrialPurpose.BASELINE), (4, TrialPurpose.SEARCH))
    ]
    assert Studies(database).append(job["id"], more, now=NOW)
    progress = (await http.get(f"{PATH}/{job['id']}", headers=BOB)).json()["progress"]
    assert progress == {"searchAsked": 3, "searchEnded": 2, "confirmAsked": 2, "confirmEnded": 0}


async def test_a_space_is_checked_with_the_rights_that_making_the_job_takes(http: httpx.AsyncClient) -> None:
    body = {"namespace": "team", "name": "x", "spec": SPEC}
    found = await http.post(f"{PATH}/check", headers=ALICE, json=body)
    assert found.status_code == 200 and found.json()["parameters"] and found.json()["error"] is None
    assert (await http.post(f"{PATH}/check", headers=BOB, json=body)).status_code == 403
    wrong = await http.post(f"{PATH}/check", headers=ALICE, json=body | {"spec": SPEC | {"sampler": "defualt"}})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "sampler")
    assert (await http.get(PATH, headers=BOB, params={"namespace": "team"})).json()["items"] == []
