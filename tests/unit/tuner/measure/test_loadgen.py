"""The load generator against a server that streams on a clock and misbehaves on demand."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.plans import Lengths, Workload
from controlplane.model.tuning_job import RequestSlo
from tuner.measure.definitions import keeps, metrics_of, wilson
from tuner.measure.loadgen.answer import parse
from tuner.measure.loadgen.early import Early
from tuner.measure.loadgen.job import LoadJob, LoadResult, Sample, Saturation
from tuner.measure.loadgen.plan import constant_rows, digest, rows_of
from tuner.measure.loadgen.prompts import prompt
from tuner.measure.loadgen.run import Stopped, run_load, split
from tuner.measure.loadgen.saturation import saturated, surely_rising


@contextmanager
def engine(*flags: str) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "controlplane.testing.fake_engine", *flags],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stderr is not None
        yield int(process.stderr.readline().rsplit(":", 1)[1])
    finally:
        process.kill()
        process.communicate()


def drive(job: LoadJob, *, processes: int | None = None) -> LoadResult:
    return run_load(job, stop=threading.Event(), deadline_s=time.monotonic() + 60, processes=processes)


def test_closed_loop_with_warm_up_in_one_go() -> None:
    with engine() as port:
        result = drive(LoadJob("127.0.0.1", port, "m", constant_rows(1, 12, 16, 5), clients=3, warm_up=4))
    assert [sample.number for sample in result.samples] == list(range(12))
    assert [sample.warm_up for sample in result.samples] == [True] * 4 + [False] * 8
    assert all(not s.error and s.output_tokens == 5 and s.events == 5 for s in result.samples)
    # No drain: the first measured request is sent before the last warm-up one is answered.
    assert result.samples[4].sent_s is not None and result.samples[3].last_s is not None
    assert result.samples[4].sent_s < result.samples[3].last_s
    assert metrics_of(result.samples, None)["requests"] == 8


def test_two_processes_share_the_requests_and_the_clock() -> None:
    with engine() as port:
        job = LoadJob("127.0.0.1", port, "m", constant_rows(40, 20, 16, 3))
        result = drive(job, processes=2)
    assert result.processes == 2
    assert [sample.number for sample in result.samples] == list(range(20))
    assert [round(sample.intended_s, 6) for sample in result.samples] == [round(i / 40, 6) for i in range(20)]


def test_a_stall_is_seen_by_every_request_it_delays() -> None:
    with engine("--stall-at", "0.8", "--stall-for", "1.0", "--ttft", "0") as port:
        result = drive(LoadJob("127.0.0.1", port, "m", constant_rows(20, 40, 16, 2)))
    late = [s for s in result.samples if s.first_s is not None and s.first_s - s.intended_s > 0.1]
    longest = max(s.first_s - s.intended_s for s in result.samples if s.first_s is not None)
    assert longest > 0.9
    assert 14 <= len(late) <= 22  # 20 requests a second, stalled for one second
    lateness = [s.sent_s - s.intended_s for s in result.samples if s.sent_s is not None]
    assert max(lateness) < 0.5  # they were sent all the same


def test_errors_and_timeouts_are_samples() -> None:
    with engine("--refuse", "kv_cache_too_small: 2 blocks") as port:
        refused = drive(LoadJob("127.0.0.1", port, "m", constant_rows(50, 3, 16, 2)))
    assert {sample.status for sample in refused.samples} == {400}
    assert "kv_cache_too_small" in refused.samples[0].error
    with engine("--ttft", "30") as port:
        late = drive(LoadJob("127.0.0.1", port, "m", constant_rows(50, 2, 16, 2), timeout_s=0.3))
    assert all("within 0.3 s" in sample.error for sample in late.samples)
    nobody = drive(LoadJob("127.0.0.1", port, "m", constant_rows(50, 2, 16, 2)))
    assert all(sample.sent_s is None and sample.error for sample in nobody.samples)
    assert metrics_of(nobody.samples, RequestSlo(ttft_ms=1))["goodput_per_s"] in (0.0, None)


def test_a_stop_ends_the_load() -> None:
    stop = threading.Event()
    threading.Timer(0.8, stop.set).start()
    with engine() as port, pytest.raises(Stopped):
        run_load(
            LoadJob("127.0.0.1", port, "m", constant_rows(1, 60, 16, 2)), stop=stop, deadline_s=time.monotonic() + 60
        )


def test_oversaturated_loads_are_stopped() -> None:
    rule = Saturation(after_s=2.0, ttft_s=0.3)
    with engine("--capacity", "1", "--interval", "0.05") as port:  # 5 requests a second at most, 40 come
        job = LoadJob("127.0.0.1", port, "m", constant_rows(40, 2000, 8, 4), saturation=rule)
        result = drive(job, processes=1)
    assert result.saturated
    assert len(result.samples) < 1000
    assert any("falls behind" in sample.error for sample in result.samples)


def test_the_saturation_rule() -> None:
    rule = Saturation()
    rising = [(float(t), 0.2 * t) for t in range(60)]
    flat = [(float(t), 3.0 + 0.1 * (-1) ** t) for t in range(60)]
    assert saturated(60, rising, [(t, v + 3) for t, v in rising], rule)
    assert not saturated(20, rising[:20], rising[:20], rule)  # too early
    assert not saturated(60, rising, flat, rule)
    assert not saturated(60, rising, [(t, v / 100) for t, v in rising], rule)  # first tokens are quick
    assert not surely_rising([(0.0, 1.0), (0.0, 2.0)], 2.0)


def test_prompts_repeat_for_a_seed_and_never_across_seeds() -> None:
    job = LoadJob("h", 1, "m", constant_rows(1, 2, 64, 2), seed=7, shared_prefix=16)
    other = LoadJob("h", 1, "m", job.requests, seed=8, shared_prefix=16)
    assert prompt(job, 0, 64) == prompt(job, 0, 64)
    assert prompt(job, 0, 64)[:16] == prompt(job, 1, 64)[:16]
    assert prompt(job, 0, 64)[16:] != prompt(job, 1, 64)[16:]
    assert prompt(job, 0, 64)[:16] != prompt(other, 0, 64)[:16]
    assert all(job.low_id <= token < job.high_id for token in prompt(job, 0, 64))


def test_jobs_and_results_survive_json() -> None:
    job = LoadJob("h", 1, "m", constant_rows(1, 2, 64, 2), numbers=(3, 5))
    assert LoadJob.from_json(job.to_json()) == job
    result = LoadResult((Sample(0, 0.0, 0.1, None, None, 4, 0, error="x"),), 0.5, saturated=True)
    assert LoadResult.from_json(result.to_json()) == result


def test_parts_cover_the_job() -> None:
    job = LoadJob("h", 1, "m", constant_rows(1, 7, 64, 2), clients=5)
    parts = split(job, 2)
    assert sorted(number for part in parts for number in part.numbers) == list(range(7))
    assert [part.clients for part in parts] == [3, 2]


def test_workloads_become_rows() -> None:
    load = Workload(arrivals="poisson", rate_per_second=10, input=Lengths(tokens=64), output=Lengths(tokens=8))
    rows = rows_of(load, 500, 3)
    assert rows == rows_of(load, 500, 3) != rows_of(load, 500, 4)
    assert rows[-1][0] == pytest.approx(50, rel=0.2)
    assert digest(rows, load, 3) == digest(rows, load, 3) != digest(rows, load, 4)
    burst = load.model_copy(update={"arrivals": "burst"})
    with pytest.raises(Unsupported, match="cv"):
        rows_of(burst, 5, 0)
    with pytest.raises(InvalidSpec):
        rows_of(Workload(arrivals="trace", trace="/nowhere"), 5, 0)


def test_answers_in_pieces() -> None:
    events = b'data: {"choices": [{"text": ""}]}\n\n', b'data: {"choices": [{"text": "a"}]}\n\n'
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*events, b"data: [DONE]\n\n")) + b"0\r\n\r\n"
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    whole = parse([(1.0, raw)])
    assert (whole.tokens, whole.first_s, whole.last_s, whole.done, whole.error) == (2, 1.0, 1.0, True, "")
    single = parse([(float(i), raw[i : i + 1]) for i in range(len(raw))])
    assert single.tokens == 2 and single.first_s is not None and single.last_s is not None
    assert single.first_s < single.last_s
    assert parse([(1.0, raw[:-20])]).error == "the stream ended early"
    assert parse([]).error and parse([(1.0, b"\x00\xff")]).error
    assert parse([(1.0, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")]).error
    broken = b'HTTP/1.1 200 OK\r\n\r\ndata: {"error": {"message": "engine_lost"}}\n\n'
    assert "engine_lost" in parse([(1.0, broken)]).error


def test_definitions() -> None:
    sample = Sample(0, 1.0, 1.2, 1.5, 2.5, 10, 11)
    one = metrics_of([sample], RequestSlo(ttft_ms=500, tpot_ms=100))
    assert one["ttft_p50_ms"] == pytest.approx(500)  # from the intended moment
    assert one["tpot_p50_ms"] == pytest.approx(100)
    assert one["e2e_p50_ms"] == pytest.approx(1500)
    assert one["duration_s"] == pytest.approx(1.5)
    assert one["attainment"] == 1.0
    single = Sample(1, 1.0, 1.0, 1.1, 1.1, 10, 1)
    assert keeps(single, RequestSlo(tpot_ms=0.001))
    assert metrics_of([single], None)["tpot_mean_ms"] is None
    failed = Sample(2, 1.0, 1.0, None, None, 10, 0, error="x")
    both = metrics_of([single, failed], RequestSlo(ttft_ms=200))
    assert both["attainment"] == 0.5 and both["failed_requests"] == 1
    with pytest.raises(ValueError, match="no measured"):
        metrics_of([], None)


def test_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(50, 100)
    assert low == pytest.approx(0.419, abs=0.002) and high == pytest.approx(0.581, abs=0.002)
    assert wilson(10, 10)[1] == pytest.approx(1.0) and wilson(10, 10)[0] > 0.75


@pytest.mark.parametrize("processes", [1, 2])
def test_a_look_at_the_first_requests_ends_the_sending_or_changes_nothing(processes: int) -> None:
    seen: list[list[int]] = []

    def look(early: Sequence[Early], *, enough: bool) -> bool:
        seen.append([one.number for one in early])
        assert all(one.first_s is not None and one.last_s is not None and not one.failed for one in early)
        assert all(one.first_s - one.intended_s < 5 for one in early if one.first_s is not None)
        return enough

    for clients in (4, None):
        job = LoadJob("127.0.0.1", 0, "m", constant_rows(40, 100, 16, 5), clients=clients, warm_up=4, look_at=10)
        for enough in (True, False):
            with engine("--interval", "0.002") as port:
                result = run_load(
                    dataclasses.replace(job, port=port), stop=threading.Event(), deadline_s=time.monotonic() + 60,
                    processes=processes, look=functools.partial(look, enough=enough),
                )  # fmt: skip
            assert seen.pop() == list(range(4, 14)) and seen == []
            assert result.cut == enough
            assert (len(result.samples) < 60) if enough else (len(result.samples) == 100)
            assert all(not sample.error and sample.output_tokens == 5 for sample in result.samples)
            numbers = [sample.number for sample in result.samples]
            assert numbers == sorted(numbers)


def test_a_look_at_failed_requests_says_that_they_failed() -> None:
    seen: list[Sequence[Early]] = []

    def look(early: Sequence[Early]) -> bool:
        seen.append(early)
        return False

    with engine("--refuse", "no room") as port:
        job = LoadJob("127.0.0.1", port, "m", constant_rows(50, 6, 16, 2), look_at=3)
        result = run_load(job, stop=threading.Event(), deadline_s=time.monotonic() + 60, look=look)
    assert [one.failed for one in seen[0]] == [True] * 3
    assert not result.cut and len(result.samples) == 6
