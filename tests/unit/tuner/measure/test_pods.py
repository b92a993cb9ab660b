"""A trial in a pod, from its making to its verdict, on pods that misbehave on demand. The engines are real processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.plans import Lengths, Workload
from controlplane.model.tuning import LeasedTrial, Objective, Outcome, Verdict
from controlplane.model.tuning_job import CommandTarget, EngineTarget, Measuring, RequestSlo, TuningSpec
from controlplane.model.tuning_pods import PodSeen
from tuner.measure.crosscheck import Bands
from tuner.measure.engine import pod as pod_module
from tuner.measure.pods import PodRunner

LOOSE = Bands(ttft=(0.3, 4.0), tpot=(0.3, 2.5), occupancy=(0.3, 1.3), slack_ms=30.0)
RUNNING = PodSeen("running", scheduled=True, ready=True, address="127.0.0.1", node="n1")


@dataclass
class Pod:
    """`states` are shown one after the other, the last for ever."""

    states: list[PodSeen]
    lines: list[str] = field(default_factory=list)
    port: int = 0
    name: str = "tune-j-0-1"
    engine: str = "openvino"
    served_name: str = "trial"
    api_key: str = ""
    away: int = 0
    ended: int = 0

    def look(self) -> PodSeen:
        if self.away:
            self.away -= 1
            raise Refused("no answer", code="ClusterUnreachable")
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def log(self, *, last: bool = True) -> list[str]:
        return self.lines

    def hardware(self) -> str:
        return "16 CPUs"

    def end(self) -> None:
        self.ended += 1


@dataclass
class Launcher:
    pod: Pod
    errors: list[Exception] = field(default_factory=list)

    def start(self, leased: LeasedTrial, spec: TuningSpec, *, in_use: bool = False, node: str | None = None) -> Pod:
        if self.errors:
            raise self.errors.pop(0)
        return self.pod

    def answering(self, leased: LeasedTrial, spec: TuningSpec) -> str:
        return "facts"


class NoReferences:
    """None is needed."""

    def found(self, answering: str) -> dict[str, str]:
        raise AssertionError(answering)

    def keep(self, answering: str, hardware: str, text: str, *, now: datetime) -> str:
        raise AssertionError(answering)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_module, "POLL_S", 0.01)
    monkeypatch.setattr(pod_module, "_NOTE_EVERY_S", 0.0)
    monkeypatch.setattr(pod_module, "_LOOK_EVERY_S", 0.05)


@contextlib.contextmanager
def engine(*flags: str) -> Iterator[int]:
    """The port of an engine that runs here, where a pod would."""
    command = [sys.executable, "-m", "controlplane.testing.fake_engine", "--port", "0", *flags]
    root = Path(__file__).resolve().parents[4]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "listening on" in line)
            yield int(line.rpartition(":")[2])
        finally:
            process.kill()


def spec(**fields: Any) -> TuningSpec:
    given: dict[str, Any] = {
        "target": EngineTarget(engine="openvino", model="/m.gguf"),
        "objectives": [Objective(metric="output_tokens_per_s")],
        "slo": RequestSlo(ttft_ms=1000),
        "load": Workload(arrivals="closed", concurrency=3, input=Lengths(tokens=16), output=Lengths(tokens=5)),
        "measuring": Measuring(requests=12, warm_up_requests=3, runs_max=1, timeout_s=20),
        **fields,
    }
    return TuningSpec(**given)


COMMAND = CommandTarget(command=["train", "{lr}"], image="i")
PRINTS = {"target": COMMAND, "objectives": [Objective(metric="step_time_s", direction="minimize")]}


def measure(
    launcher: Launcher, what: TuningSpec, *, attempt: int = 1, stop: threading.Event | None = None, **fields: Any
) -> tuple[Outcome, list[str]]:
    notes: list[str] = []
    runner = PodRunner(launcher, lambda _, why: notes.append(why), NoReferences(), bands=LOOSE, again_s=0.01, **fields)
    leased = LeasedTrial(id="j/0", job="j", tenant="team", number=0, attempt=attempt, setting={}, seed=5)
    return runner.run(leased, what, stop=stop or threading.Event()), notes


def test_an_engine_in_a_pod_is_measured_as_one_on_this_machine() -> None:
    pod = Pod([PodSeen("pending"), PodSeen("pending", scheduled=True), RUNNING], away=1)
    with engine("--interval", "0.004", "--ttft", "0.01") as pod.port:
        outcome, notes = measure(Launcher(pod), spec())
    assert outcome.verdict is Verdict.OK, outcome.reason
    found = outcome.measurement
    assert found is not None and found.host == "16 CPUs"
    assert found.metrics["requests"] == 12 and (found.metrics["output_tokens_per_s"] or 0) > 0
    assert found.metrics["server_ttft_mean_ms"]  # client and server were compared
    assert found.metrics["others_cpu_pct"] is None and found.metrics["engine_cpu_s"] is None and found.cpu_s is None
    assert found.engine_version == load().engine("openvino").version
    assert pod.ended == 1 and notes == []


def test_why_it_waits_is_told_and_when_it_does_no_more() -> None:
    waits = [PodSeen("pending", reason="Unschedulable", message=f"0/{n} nodes are available") for n in (3, 3, 4)]
    pod = Pod(
        [*waits, PodSeen("running", scheduled=True, node="n"), PodSeen("succeeded", exit_code=0)], ["step_time_s=0.5"]
    )
    outcome, notes = measure(Launcher(pod), spec(**PRINTS))
    assert outcome.verdict is Verdict.OK and outcome.measurement is not None
    assert outcome.measurement.metrics == {"step_time_s": 0.5}
    assert notes == [
        "no node takes its pod: 0/3 nodes are available", "no node takes its pod: 0/4 nodes are available", "",
    ]  # fmt: skip


def test_no_node_in_all_its_time_is_nobodys_fault_and_says_why() -> None:
    pod = Pod([PodSeen("pending", reason="Unschedulable", message="0/3 nodes are available")])
    outcome, _ = measure(Launcher(pod), spec(measuring=Measuring(timeout_s=0.2)))
    assert outcome.verdict is Verdict.INFRASTRUCTURE and "0/3 nodes are available" in outcome.reason
    assert pod.ended == 1 and outcome.waited


def test_a_node_that_does_not_start_the_pod_costs_an_attempt() -> None:
    """It may never do: a volume that is not there is waited for without a word."""
    pod = Pod([PodSeen("pending", scheduled=True, reason="ContainerCreating")])
    outcome, _ = measure(Launcher(pod), spec(measuring=Measuring(timeout_s=0.2)))
    assert outcome.verdict is Verdict.INFRASTRUCTURE and not outcome.waited


def test_a_quota_that_is_used_up_all_the_time_costs_no_attempt() -> None:
    errors: list[Exception] = [Refused("exceeded quota: team", code="QuotaExceeded")] * 1000
    outcome, _ = measure(Launcher(Pod([RUNNING]), errors), spec(measuring=Measuring(timeout_s=0.1)))
    assert outcome.waited and outcome.reason == "exceeded quota: team"


def test_a_quota_and_an_absent_api_server_are_waited_for() -> None:
    pod = Pod([PodSeen("running", scheduled=True, node="n"), PodSeen("succeeded", exit_code=0)], ["step_time_s=1"])
    errors: list[Exception] = [
        Refused("exceeded quota: team", code="QuotaExceeded"),
        Refused("x", code="ClusterUnreachable"),
    ]
    outcome, notes = measure(Launcher(pod, errors), spec(**PRINTS))
    assert outcome.verdict is Verdict.OK
    assert notes == ["exceeded quota: team", "x", ""]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (InvalidSpec("no such degree", field="setting.tensorParallel"), Verdict.INFEASIBLE),
        (InvalidSpec("several accelerators", field="pods.pools"), Verdict.INFRASTRUCTURE),
        (Refused("serviceaccount not found", code="Forbidden"), Verdict.INFRASTRUCTURE),
        (RuntimeError("a bug"), Verdict.INFRASTRUCTURE),
    ],
)
def test_a_pod_that_cannot_be_made(error: Exception, verdict: Verdict) -> None:
    outcome, _ = measure(Launcher(Pod([RUNNING]), [error]), spec())
    assert outcome.verdict is verdict and str(error).split(":")[-1].strip() in outcome.reason


def test_a_pod_that_dies_under_load_ends_the_run_at_once() -> None:
    pod = Pod([RUNNING], ["thread panicked"])

    def die() -> None:
        pod.states = [PodSeen("failed", reason="OOMKilled", exit_code=137)]

    with engine("--interval", "60") as pod.port:
        threading.Timer(1.0, die).start()
        outcome, _ = measure(Launcher(pod), spec())
    assert outcome.verdict is Verdict.INFEASIBLE
    assert (
        outcome.reason.startswith("the engine was killed for memory by the kernel under load")
        and "panicked" in outcome.reason
    )
    assert pod.ended == 1


def test_a_cancelled_trial_leaves_at_once() -> None:
    stop = threading.Event()
    pod = Pod([PodSeen("running", scheduled=True, node="n")])
    threading.Timer(0.1, stop.set).start()
    begun_s = time.monotonic()
    outcome, _ = measure(Launcher(pod), spec(**PRINTS), stop=stop)
    assert outcome.verdict is Verdict.INFRASTRUCTURE and outcome.reason == "stopped"
    assert time.monotonic() - begun_s < 5 and pod.ended == 1


def test_an_engine_that_never_answers_is_tried_twice() -> None:
    silent = PodSeen("running", scheduled=True, node="n")
    for attempt, verdict in ((1, Verdict.INFRASTRUCTURE), (2, Verdict.INFEASIBLE)):
        outcome, _ = measure(Launcher(Pod([silent], ["still loading"])), spec(), attempt=attempt, ready_timeout_s=0.1)
        assert outcome.verdict is verdict and "not ready after" in outcome.reason and "still loading" in outcome.reason


def test_a_ready_pod_that_cannot_be_reached_is_the_networks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_module, "_UNREACHED_S", 0.05)
    outcome, _ = measure(Launcher(Pod([RUNNING], port=9)), spec(), attempt=2)
    assert outcome.verdict is Verdict.INFRASTRUCTURE and "NetworkPolicy" in outcome.reason


def test_waiting_for_a_node_takes_nothing_from_the_time_to_measure() -> None:
    """Or a command cut short would count as one that takes too long."""
    waits, runs = PodSeen("pending"), PodSeen("running", scheduled=True, node="n")
    over = PodSeen("succeeded", scheduled=True, node="n", exit_code=0)
    limit_s = 1.5
    pod = Pod([*[waits] * 80, *[runs] * 80, over], ["step_time_s=1"])  # 0.8 s each, and more
    outcome, _ = measure(Launcher(pod), spec(**PRINTS, measuring=Measuring(timeout_s=limit_s)))
    assert outcome.verdict is Verdict.OK, outcome.reason


def test_no_file_of_the_worker_is_read_for_a_job(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("eyJhbGciOi")
    pod = Pod([RUNNING])
    outcome, _ = measure(Launcher(pod), spec(load=Workload(arrivals="trace", trace=str(file))))
    assert outcome.verdict is Verdict.INFRASTRUCTURE and outcome.reason.startswith("load.trace: files of this process")
    assert "eyJ" not in outcome.reason and pod.ended == 0


def test_a_command_that_takes_too_long() -> None:
    pod = Pod([PodSeen("running", scheduled=True, node="n")])
    outcome, _ = measure(Launcher(pod), spec(**PRINTS, measuring=Measuring(timeout_s=0.1)))
    assert outcome.verdict is Verdict.INFEASIBLE and "and longer" in outcome.reason and pod.ended == 1


def test_a_command_without_its_figure() -> None:
    done = PodSeen("succeeded", scheduled=True, node="n", exit_code=0)
    outcome, _ = measure(Launcher(Pod([done], ["loss=2"])), spec(**PRINTS))
    assert outcome.verdict is Verdict.INVALID and "no line step_time_s=NUMBER" in outcome.reason
