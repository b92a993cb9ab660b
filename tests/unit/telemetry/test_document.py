"""The document of a deployment's engines: whole when small, bounded when large, and it says what it left out."""

import json
import math
from typing import Any

from telemetry.document import MAX_CELLS, MAX_PODS, MAX_ROWS, Asked, encode, snapshot
from telemetry.window import Window


def window(*rows: dict[str, float] | None) -> Window:
    made = Window(MAX_ROWS)
    for time_s, row in enumerate(rows, start=1):
        made.append(float(time_s), row)
    return made


async def document(windows: dict[str, Window], asked: Asked, now_s: float = 3.0, pods: tuple[str, ...] = ()) -> Any:
    return json.loads(encode(await snapshot(windows, pods, asked, now_s)))


async def test_gaps_and_infinity_are_null_and_pods_held_elsewhere_are_named() -> None:
    shown = await document({"a": window({"running": 3}, None, {"running": math.inf})}, Asked(60), pods=("a", "b"))
    assert shown["pods"] == {"a": {"timeS": [1, 2, 3], "running": [3, None, None]}}
    assert shown["notHeldHere"] == ["b"]
    assert (shown["limits"]["rowsLeftOut"], shown["limits"]["podsLeftOut"]) == (0, [])


async def test_a_histogram_is_asked_for_by_its_name() -> None:
    row = {"ttft_s_sum": 1.0, "ttft_s_count": 1.0, "ttft_s_bucket:0.1": 1.0, "running": 2.0, "e2e_s_sum": 1.0}
    shown = await document({"a": window(row)}, Asked(60, columns=frozenset({"ttft_s", "running"})))
    assert set(shown["pods"]["a"]) == {"timeS", "running", "ttft_s_sum", "ttft_s_count", "ttft_s_bucket:0.1"}


async def test_the_newest_rows_are_shown_and_the_rest_counted() -> None:
    shown = await document({"a": window({"x": 1}, {"x": 2}, {"x": 3})}, Asked(60, max_rows=2))
    assert shown["pods"]["a"] == {"timeS": [2, 3], "x": [2, 3]}
    assert (shown["limits"]["rows"], shown["limits"]["rowsLeftOut"]) == (2, 1)


async def test_full_windows_of_many_pods_stay_under_the_limit() -> None:
    row = {f"c{number}": 1.0 for number in range(200)}
    full = window(*[row] * MAX_ROWS)
    shown = await document({f"pod-{number:03}": full for number in range(MAX_PODS + 2)}, Asked(86_400))
    assert list(shown["pods"]) == [f"pod-{number:03}" for number in range(MAX_PODS)]
    assert shown["limits"]["podsLeftOut"] == ["pod-032", "pod-033"]
    assert sum(len(column) for pod in shown["pods"].values() for column in pod.values()) <= MAX_CELLS
    assert shown["pods"]["pod-000"]["timeS"][-1] == MAX_ROWS


async def test_pods_can_be_named() -> None:
    shown = await document(
        {"a": window({"x": 1}), "b": window({"x": 2})}, Asked(60, pods=frozenset({"b", "c"})), pods=("c",)
    )
    assert (list(shown["pods"]), shown["notHeldHere"]) == (["b"], ["c"])


async def test_the_summary_is_of_the_whole_span_whatever_is_shown() -> None:
    rows = (
        {"generation_tokens": 0.0},
        {"generation_tokens": 10.0},
        {"generation_tokens": 40.0, "requests_running": 2.0},
    )
    shown = await document({"a": window(*rows)}, Asked(60, columns=frozenset({"ttft_s"}), max_rows=1))
    assert shown["summary"]["a"] == {
        "requestsRunning": 2,
        "requestsWaiting": None,
        "kvCacheUseRatio": None,
        "promptTokensPerS": None,
        "generationTokensPerS": 20,
        "ttftS": {"p50": None, "p95": None},
        "interTokenS": {"p50": None, "p95": None},
    }
