"""Scraping: bounded, sharded, and a failed scrape is a gap."""

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.collectors.scrape import EngineMetrics, Target
from telemetry.shard import owner


def target(pod: str, deployment: str = "chat", namespace: str = "team") -> Target:
    return Target(namespace, deployment, pod, f"http://{pod}:8000/metrics", {"running": "engine_running"})


async def test_a_failed_scrape_leaves_a_gap() -> None:
    answers: list[bytes | Exception] = [b"engine_running 3\n", ConnectionError("refused"), b"engine_running 5\n"]

    async def fetch(_: str) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    times_s = iter((1.0, 2.0, 3.0))
    metrics = EngineMetrics(fetch, now=lambda: next(times_s))
    metrics.retarget([target("a")])
    for _ in range(3):
        await metrics.scrape()
    rows = metrics.of("team", "chat")["a"].since()
    assert (rows.time_s.tolist(), str(rows.columns["running"])) == ([1, 2, 3], "[ 3. nan  5.]")
    assert (metrics.scrapes_total, metrics.failures_total) == (3, 1)


async def test_a_long_page_is_parsed_beside_the_loop() -> None:
    threads: list[str] = []

    class Noted(bytes):
        def decode(self, *_: object) -> str:  # type: ignore[override]
            threads.append(threading.current_thread().name)
            return super().decode()

    pages = [Noted(b"engine_running 3\n"), Noted(b"engine_running 3\n" + b"other 1\n" * 10_000)]

    async def fetch(_: str) -> bytes:
        return pages.pop(0)

    times_s = iter((1.0, 2.0))
    metrics = EngineMetrics(fetch, now=lambda: next(times_s))
    metrics.retarget([target("a")])
    await metrics.scrape()
    await metrics.scrape()
    assert threads[0] == threading.current_thread().name != threads[1]
    assert metrics.of("team", "chat")["a"].since().latest("running") == 3


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


async def nothing(_: str) -> bytes:
    return b""


def test_a_namespace_with_many_pods_pushes_out_nobody() -> None:
    metrics = EngineMetrics(nothing, max_targets=5)
    crowd = [target(f"z{number}", namespace="a-crowd") for number in range(9)]
    metrics.retarget([*crowd, target("one"), target("two")])
    assert set(metrics.of("team", "chat")) == {"one", "two"}
    assert set(metrics.of("a-crowd", "chat")) == {"z0", "z1", "z2"}
    assert metrics.targets_over_limit == 6
    before = metrics.of("a-crowd", "chat")
    metrics.retarget([target("two"), *reversed(crowd), target("one")])  # the order of the watch decides nothing
    assert metrics.of("a-crowd", "chat") == before


async def test_bytes_are_bounded_and_shared_between_namespaces() -> None:
    wide = b"".join(b'engine_running_bucket{le="%d"} 1\n' % bound for bound in range(100))

    async def fetch(url: str) -> bytes:
        return b"engine_running 1\n" if "small" in url else wide

    limit = 100_000
    clock = itertools.count(1.0)
    metrics = EngineMetrics(fetch, now=lambda: next(clock), capacity=10, max_bytes=limit)
    crowd = [target(f"big{number}", namespace="crowd") for number in range(40)]
    metrics.retarget(crowd)
    await metrics.scrape()
    assert limit * 0.8 < metrics.nbytes <= limit  # alone, a namespace may use nearly everything
    assert metrics.dropped_values_total > 0
    for _ in range(20):
        metrics.retarget([*crowd, *(target(f"other{number}", namespace="other") for number in range(40))])
        await metrics.scrape()
        assert metrics.nbytes <= limit
    held = [sum(window.nbytes for window in metrics.of(name, "chat").values()) for name in ("crowd", "other")]
    assert sum(held) == metrics.nbytes
    assert min(held) > limit * 0.3


async def test_each_row_has_the_time_of_its_own_fetch() -> None:
    clock = itertools.count(10.0)
    metrics = EngineMetrics(nothing, now=lambda: next(clock), concurrency=1)
    metrics.retarget([target("a"), target("b")])
    await metrics.scrape()
    assert [window.since().time_s.tolist() for _, window in sorted(metrics.of("team", "chat").items())] == [[10], [11]]


async def test_a_round_ends_although_engines_are_slow() -> None:
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return b""

    metrics = EngineMetrics(fetch, round_s=0)
    metrics.retarget([target("a")])
    await metrics.scrape()
    assert (asked, metrics.failures_total, len(metrics.of("team", "chat")["a"])) == ([], 1, 1)


async def test_what_one_engine_sends_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def fetch(url: str) -> bytes:
        if "bad" in url:
            raise RecursionError("a page nobody thought of")
        return b"engine_running 3\n"

    metrics = EngineMetrics(fetch)
    metrics.retarget([target("bad"), target("good")])
    await metrics.scrape()
    assert metrics.failures_total == 1
    assert "nobody thought of" in caplog.text


async def test_a_clock_that_steps_back_costs_rows_not_the_scraping(caplog: pytest.LogCaptureFixture) -> None:
    times_s = iter((5.0, 4.0, 6.0))
    metrics = EngineMetrics(nothing, now=lambda: next(times_s))
    metrics.retarget([target("a")])
    for _ in range(3):
        await metrics.scrape()
    assert metrics.of("team", "chat")["a"].since().time_s.tolist() == [5, 6]
    assert "stepped back" in caplog.text


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
