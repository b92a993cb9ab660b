"""Following a job: a stream that breaks goes on where it was, what is refused for good is said, and how long it takes."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.cli import tune_events
from controlplane.cli.tune_events import EventStream
from controlplane.cli.tune_follow import _why
from controlplane.cli.tune_http import Http
from controlplane.cli.tune_progress import Pace, bar
from controlplane.cli.tune_text import jobs_text
from controlplane.model.errors import TrimtabError
from controlplane.model.tuning import JobState, TrialPurpose, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import (
    TrialCounts,
    TrialRecord,
    TuningEvent,
    TuningJobRecord,
    TuningProgress,
    progress_text,
)
from tests.unit.command.tune_places import SPEC

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int) -> str:
    body = {"job": "j", "id": number, "at": "2026-01-01T00:00:00Z", "kind": "asked", "data": {}}
    return f"id: {number}\nevent: asked\ndata: {json.dumps(body)}\n\n"


class Streams(http.server.BaseHTTPRequestHandler):
    """One answer for each connection, in order: a status and what is sent before it is closed."""

    answers: list[tuple[int, str]]
    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Last-Event-ID"])
        status, text = self.answers.pop(0) if self.answers else (200, 'event: end\ndata: {"reason":"JobEnded"}\n\n')
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Http]:
    monkeypatch.setattr(tune_events, "_WAITS_S", (0.01,))
    Streams.answers, Streams.asked = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Streams) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Http(f"http://127.0.0.1:{server.server_address[1]}", "t")
        server.shutdown()


def all_of(stream: EventStream) -> list[int]:
    out: list[int] = []
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        out += [one.id for one in stream.take(0.05)]
        if stream.ended:
            return out + [one.id for one in stream.take(0)]
    raise AssertionError(f"did not end: {stream.trouble}")


def test_a_stream_that_breaks_goes_on_after_the_last_event(api: Http) -> None:
    problem = json.dumps({"detail": "the store is away", "code": "StoreUnreachable"})
    Streams.answers = [(200, ": hello\n\n" + event(4) + event(5)), (503, problem), (200, event(6))]
    assert all_of(EventStream(api, "j", 3)) == [4, 5, 6]
    assert Streams.asked == ["3", "5", "5", "6"]


def test_a_stream_that_is_cut_within_a_chunk_is_followed_all_the_same(
    api: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Streams) -> None:
        whole(self)
        if len(Streams.asked) == 1:
            self.wfile.write(b"50\r\nid: 5\n")  # 80 bytes are announced

    def whole(self: Streams) -> None:
        self.asked.append(self.headers["Last-Event-ID"])
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        last = len(Streams.asked) > 1
        text = 'event: end\ndata: {"reason":"JobEnded"}\n\n' if last else event(4)
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())

    monkeypatch.setattr(Streams, "do_GET", cut)
    assert all_of(EventStream(api, "j", 3)) == [4]
    assert Streams.asked == ["3", "4"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, 'event: end\ndata: {"reason":"TokenEnded"}\n\n'), "the token has run out; the job goes on"),
        ((404, json.dumps({"detail": "There is no tuning job 'j'.", "code": "NotFound"})), "no tuning job"),
        ((200, "event: asked\ndata: {}\n\n"), "another version"),
    ],
)
def test_what_is_refused_for_good_is_said(api: Http, answer: tuple[int, str], words: str) -> None:
    Streams.answers = [answer]
    stream = EventStream(api, "j", 0)
    with pytest.raises(TrimtabError, match=words):
        while True:
            stream.take(0.05)


def job(ended: int, confirm: int = 0, **changes: Any) -> TuningJobRecord:
    progress = TuningProgress(search_asked=ended, search_ended=ended, confirm_asked=confirm, confirm_ended=confirm)
    return TuningJobRecord(
        id="j", tenant="t", name="n", spec=TuningSpec.model_validate(SPEC | changes), state=JobState.RUNNING, budget=40,
        counts=TrialCounts(asked=ended + confirm), progress=progress, generation=1, events=1, created_at=NOW,
    )  # fmt: skip


def trial(number: int, begin_s: float, end_s: float) -> TrialRecord:
    return TrialRecord(
        job="j", number=number, state=TrialState.DONE, purpose=TrialPurpose.SEARCH, setting={}, canonical="c", why="",
        seed=0, attempt=1, lost=0, asked_at=NOW, leased_at=NOW + timedelta(seconds=begin_s),
        ended_at=NOW + timedelta(seconds=end_s),
    )  # fmt: skip


def test_the_search_stands_out_of_its_budget_and_the_confirmation_beside_it() -> None:
    assert progress_text(job(12)) == "search 12/40" and progress_text(job(40, 3)) == "search 40/40, confirm 3"
    assert bar(job(12)) == "[######..............]" and bar(job(40, 3)) == f"[{'#' * 20}]"


def test_time_left_is_of_the_newest_trials_and_within_the_hours() -> None:
    pace = Pace.of([trial(0, 0, 10), trial(1, 0, 10), trial(2, 10, 20), trial(3, 10, 20)])  # two at a time
    assert pace.each_s == 5
    # 3 best and the one in use, 7 rounds at most
    assert pace.left_text(job(12), now=NOW) == "about 2 min left, then at most 28 runs to confirm"
    in_time = job(12, budget={"trials": 40, "hours": 0.01})
    assert pace.left_text(in_time, now=NOW).startswith("about 36 s left")
    assert pace.left_text(job(40, 20), now=NOW) == "at most 40 s left"
    assert Pace.of([]).left_text(job(0), now=NOW) == ""


def test_a_line_of_the_job_has_its_cause() -> None:
    def said(kind: str, **data: Any) -> str:
        return _why(TuningEvent(job="j", id=1, at=NOW, kind=kind, data=data))

    assert said("waits", trial=3, reason="no node takes its pod") == ": trial 3: no node takes its pod"
    assert said("begins", trial=3, reason="") == ": trial 3"
    assert said("failed", reason="NoneWorked", message="3 trials were searched") == ": 3 trials were searched"
    assert said("decided") == ""


def test_a_list_counts_what_confirms_apart() -> None:
    job = TuningJobRecord(
        id="j", tenant="t", name="n", spec=TuningSpec.model_validate(SPEC), state=JobState.DONE, generation=0, budget=6,
        counts=TrialCounts(asked=10), events=0, created_at=NOW,
    )  # fmt: skip
    progress = TuningProgress(search_asked=6, search_ended=6, confirm_asked=4, confirm_ended=4)
    spent = job.model_copy(update={"reason": "BudgetSpent"})
    for one in (spent, job.model_copy(update={"progress": progress})):
        assert "6/6 +4" in jobs_text([one]) and "SEARCH-BUDGET" not in jobs_text([one])
    # Which of them confirm is not known: the search may have ended before its budget.
    assert "10 ended, budget 6" in jobs_text([job])
