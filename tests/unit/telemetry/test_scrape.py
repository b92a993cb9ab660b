"""Scraping: bounded, sharded, and a failed scrape is a gap."""

import json
import threading

from hypothesis import given
from hypothesis import strategies as st

from telemetry.collectors.scrape import EngineMetrics, Target
from telemetry.shard import owner


def target(pod: str, deployment: str = "chat") -> Target:
    return Target("team", deployment, pod, f"http://{pod}:8000/metrics", {"running": "engine_running"})


async def test_a_failed_scrape_leaves_a_gap() -> None:
    answers: list[bytes | Exception] = [b"engine_running 3\n", ConnectionError("refused"), b"engine_running 5\n"]

    async def fetch(_: str) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    metrics = EngineMetrics(fetch)
    metrics.retarget([target("a")])
    for time_s in (1.0, 2.0, 3.0):
        await metrics.scrape(time_s)
    document = json.loads(metrics.document("team", "chat", 60, 3.0, ["a", "b"]))
    assert document == {"pods": {"a": {"timeS": [1, 2, 3], "running": [3, None, 5]}}, "notHeldHere": ["b"]}
    assert (metrics.scrapes_total, metrics.failures_total) == (3, 1)


async def test_infinity_is_no_number_of_json() -> None:
    async def fetch(_: str) -> bytes:
        return b"engine_running +Inf\n"

    metrics = EngineMetrics(fetch)
    metrics.retarget([target("a")])
    await metrics.scrape(1.0)
    assert b"Infinity" not in metrics.document("team", "chat", 60, 1.0, ["a"])


async def test_a_long_page_is_parsed_beside_the_loop() -> None:
    threads: list[str] = []

    class Noted(bytes):
        def decode(self, *_: object) -> str:  # type: ignore[override]
            threads.append(threading.current_thread().name)
            return super().decode()

    pages = [Noted(b"engine_running 3\n"), Noted(b"engine_running 3\n" + b"other 1\n" * 10_000)]

    async def fetch(_: str) -> bytes:
        return pages.pop(0)

    metrics = EngineMetrics(fetch)
    metrics.retarget([target("a")])
    await metrics.scrape(1.0)
    await metrics.scrape(2.0)
    assert threads[0] == threading.current_thread().name != threads[1]
    assert metrics.of("team", "chat")["a"].latest("running") == 3


async def test_targets_are_bounded_and_the_rest_is_counted() -> None:
    async def fetch(_: str) -> bytes:
        return b"engine_running 1\n"

    metrics = EngineMetrics(fetch, max_targets=2)
    metrics.retarget([target("a"), target("b"), target("c")])
    assert len(metrics) == 2
    assert metrics.targets_over_limit == 1
    metrics.retarget([target("c")])
    assert set(metrics.of("team", "chat")) == {"c"}
    assert metrics.targets_over_limit == 0


@given(st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True), st.lists(st.text(), max_size=50))
def test_only_the_keys_of_a_leaving_member_move(members: list[str], keys: list[str]) -> None:
    leaver, stayers = members[0], members[1:]
    for key in keys:
        before = owner(key, members)
        assert before in members
        if before != leaver:
            assert owner(key, stayers) == before


def test_nobody_owns_anything_without_members() -> None:
    assert owner("key", []) is None
