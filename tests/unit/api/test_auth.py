"""Callers are known by what the cluster says, and guesses cost neither other callers nor the API server much."""

import asyncio
from typing import Any

import pytest

from controlplane.api.problem import Problem
from tests.unit.api.fakes import Setup


@pytest.fixture
def setup() -> Setup:
    setup = Setup()
    setup.cluster.users["alice-token"] = "alice"
    return setup


async def refusal(setup: Setup, token: str) -> Problem:
    with pytest.raises(Problem) as raised:
        await setup.authority.identify(f"Bearer {token}")
    return raised.value


async def test_guesses_push_out_no_caller(setup: Setup) -> None:
    await setup.authority.identify("Bearer alice-token")
    for number in range(5_000):  # more than all identities that are held
        setup.clock.advance(0.1)
        assert (await refusal(setup, f"guess-{number}")).status == 401
    for number in range(50):
        await refusal(setup, f"burst-{number}")
    assert (await refusal(setup, "one-more")).status == 429
    assert (await setup.authority.identify("Bearer alice-token")).user == "alice"  # still known: not held up


async def test_unknown_tokens_have_a_rate_and_known_callers_none(setup: Setup) -> None:
    await setup.authority.identify("Bearer alice-token")
    answers = [await refusal(setup, f"guess-{number}") for number in range(100)]
    assert {answer.status for answer in answers} == {401, 429}
    assert len(setup.cluster.reviews) == 40
    assert answers[-1].headers["Retry-After"] == "1"
    setup.clock.advance(31)  # alice's answer has ended: she is asked about anew, at once
    for number in range(40):
        await refusal(setup, f"more-{number}")
    assert (await refusal(setup, "one-more")).status == 429
    assert (await setup.authority.identify("Bearer alice-token")).user == "alice"


async def test_a_refused_token_is_not_asked_about_again_at_once(setup: Setup) -> None:
    for _ in range(3):
        assert (await refusal(setup, "guess")).status == 401
    assert len(setup.cluster.reviews) == 1
    setup.clock.advance(6)
    setup.cluster.users["guess"] = "bob"
    assert (await setup.authority.identify("Bearer guess")).user == "bob"


async def test_a_withdrawn_token_becomes_an_unknown_one(setup: Setup) -> None:
    await setup.authority.identify("Bearer alice-token")
    del setup.cluster.users["alice-token"]
    setup.clock.advance(31)
    assert (await refusal(setup, "alice-token")).status == 401
    for number in range(50):
        await refusal(setup, f"guess-{number}")
    asked = len(setup.cluster.reviews)
    assert (await refusal(setup, "alice-token")).status == 401
    assert len(setup.cluster.reviews) == asked


async def test_an_answer_nobody_waited_for_is_kept(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    create = setup.cluster.create

    async def slow(*args: Any, **options: Any) -> bytes:
        asked.set()
        await answer.wait()
        return await create(*args, **options)

    monkeypatch.setattr(setup.cluster, "create", slow)
    caller = asyncio.create_task(setup.authority.identify("Bearer alice-token"))
    await asked.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    answer.set()
    while "alice-token" not in str(setup.cluster.reviews):
        await asyncio.sleep(0)
    assert (await setup.authority.identify("Bearer alice-token")).user == "alice"
    assert len(setup.cluster.reviews) == 1
