"""One trial from lease to verdict, on a server that misbehaves on demand: nothing is measured on a broken engine, and
no engine is left running."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.plans import Lengths, Workload
from controlplane.model.tuning import Bar, LeasedTrial, Objective, Outcome, Setting, TrialPurpose, Verdict
from controlplane.model.tuning_job import (
    CommandTarget,
    DeploymentTarget,
    EngineTarget,
    Measuring,
    RequestSlo,
    TuningSpec,
)
from tuner.measure.crosscheck import Bands
from tuner.measure.engine.launch import Launcher
from tuner.measure.engine.process import GuardedProcess, _marked
from tuner.measure.leases import Hardware, NotLeased, hold, live_engines
from tuner.measure.runner import MeasuringRunner

# The fake server's clock ticks under the load of other tests: generous bands, none of these tests is about them.
LOOSE = Bands(ttft=(0.3, 4.0), tpot=(0.3, 2.5), occupancy=(0.3, 1.3), slack_ms=30.0)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of what a test started: other measurements of this machine are none of its business."""
    marks = []
    begin = GuardedProcess.__init__

    def noted(self: GuardedProcess, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        marks.append(self._mark)

    monkeypatch.setattr(GuardedProcess, "__init__", noted)
    yield
    assert not [pid for pid, mark in _marked().items() if mark in marks]


def runner(tmp_path: Path, *flags: str, any_port: bool = True, **fields: Any) -> MeasuringRunner:
    launcher = Launcher(
        command=(sys.executable, "-m", "controlplane.testing.fake_engine"),
        extra=("--interval", "0.004", "--ttft", "0.01", *flags),
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[4])},
        any_port=any_port,
        steps_metric="trimtab_engine_steps_total",
        restarts_metric="trimtab_engine_restarts_total",
        grace_s=0.5,
    )
    given = {"bands": LOOSE, "others_pct_max": None, "beside_live": True, **fields}
    return MeasuringRunner(tmp_path, {"openvino": launcher}, **given)


def spec(**fields: Any) -> TuningSpec:
    given: dict[str, Any] = {
        "target": EngineTarget(engine="openvino", model="m.gguf"),
        "objectives": [Objective(metric="goodput_per_s")],
        "slo": RequestSlo(ttft_ms=1000),
        "load": Workload(arrivals="closed", concurrency=3, input=Lengths(tokens=16), output=Lengths(tokens=5)),
        "measuring": Measuring(requests=12, warm_up_requests=3, runs_max=2, timeout_s=60),
        **fields,
    }
    return TuningSpec(**given)


def measure(
    who: MeasuringRunner, what: TuningSpec, setting: Setting | None = None, *, attempt: int = 1, **fields: Any
) -> Outcome:
    leased = LeasedTrial(
        id="t", job="j", tenant="local", number=0, attempt=attempt, setting=setting or {}, seed=5, **fields
    )
    return who.run(leased, what, stop=threading.Event())


def test_a_measured_trial(tmp_path: Path) -> None:
    outcome = measure(runner(tmp_path), spec(), {"maxNumBatchedTokens": 64})
    assert outcome.verdict is Verdict.OK, outcome.reason
    found = outcome.measurement
    assert found is not None
    assert found.metrics["runs"] == 2 and found.metrics["requests"] == 24  # 12 a run are too few to judge one alone
    assert found.metrics["attainment"] == 1.0 and (found.metrics["goodput_per_s"] or 0) > 0
    assert found.metrics["steps"] and found.metrics["server_ttft_mean_ms"]
    assert found.resolved == {"interval": 0.004}  # what the engine says, not what was asked
    assert found.definitions and found.load and found.host and found.seed == 5
    from io import BytesIO

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(BytesIO(outcome.samples)).to_pydict()
    assert sorted(set(table["run"])) == [0, 1] and len(table["run"]) == 2 * (12 + 3)


def test_confirmation_is_one_run_and_equal_seeds_send_equal_requests(tmp_path: Path) -> None:
    one = measure(runner(tmp_path), spec(), purpose=TrialPurpose.CONFIRM).measurement
    other = measure(runner(tmp_path), spec(), purpose=TrialPurpose.BASELINE).measurement
    assert one is not None and other is not None
    assert one.metrics["runs"] == 1 and one.load == other.load


def test_energy_is_of_counters_or_unknown(tmp_path: Path) -> None:
    wanted = spec(objectives=[Objective(metric="joule_per_output_token", direction="minimize")])
    unknown = measure(runner(tmp_path, hardware=Hardware(share_host=True)), wanted)
    assert unknown.verdict is Verdict.INVALID and "the host is shared" in unknown.reason
    found = measure(runner(tmp_path, hardware=Hardware(share_host=True)), spec())
    assert found.measurement is not None and found.measurement.metrics["energy_j"] is None


def test_open_loop_on_a_port_of_our_choice(tmp_path: Path) -> None:
    load = Workload(arrivals="gamma", cv=0.5, rate_per_second=30, input=Lengths(tokens=8), output=Lengths(tokens=3))
    outcome = measure(runner(tmp_path, any_port=False), spec(load=load))
    assert outcome.verdict is Verdict.OK, outcome.reason
    assert outcome.measurement is not None and outcome.measurement.metrics["occupancy"] is None
    assert not list(tmp_path.glob("port-*"))


def test_an_engine_that_never_gets_ready_is_tried_twice(tmp_path: Path) -> None:
    slow = runner(tmp_path, "--never-ready", ready_timeout_s=1.0)
    first = measure(slow, spec())
    assert first.verdict is Verdict.INFRASTRUCTURE and "not ready" in first.reason and "listening" in first.reason
    assert measure(slow, spec(), attempt=2).verdict is Verdict.INFEASIBLE


@pytest.mark.parametrize(
    ("flags", "verdict", "words"),
    [
        (("--die-after", "6", "--die-with", "1"), Verdict.INFEASIBLE, "ended with status 1 under load"),
        (("--die-after", "6", "--die-with", "-11"), Verdict.INFEASIBLE, "SIGSEGV"),
        (("--die-after", "6", "--last-words", "CUDA out of memory"), Verdict.INFEASIBLE, "out of memory"),
        (("--die-after", "6", "--last-words", "No space left on device"), Verdict.INFRASTRUCTURE, "around it"),
        (("--die-at-start", "--last-words", "no such flag"), Verdict.INFEASIBLE, "no such flag"),
        (("--refuse", "the KV cache holds 64"), Verdict.INFEASIBLE, "KV cache holds 64"),
        (("--lie", "0.01"), Verdict.INVALID, "disagree"),
        (("--lie", "30"), Verdict.INVALID, "disagree"),
    ],
)
def test_broken_engines(tmp_path: Path, flags: tuple[str, ...], verdict: Verdict, words: str) -> None:
    tight = Bands() if "--lie" in flags else LOOSE
    outcome = measure(runner(tmp_path, *flags, bands=tight), spec())
    assert outcome.verdict is verdict, outcome.reason
    assert words in outcome.reason
    assert outcome.measurement is None and outcome.samples == b""


def test_what_cannot_be_measured_here(tmp_path: Path) -> None:
    who = runner(tmp_path)
    unknown = measure(who, spec(), {"maxNumBatchedToken": 64})
    assert unknown.verdict is Verdict.INFEASIBLE and "maxNumBatchedTokens" in unknown.reason
    illegal = measure(who, spec(), {"maxNumSeqs": 4})
    assert illegal.verdict is Verdict.INFEASIBLE and "maxNumSeqs" in illegal.reason
    absent = measure(who, spec(target=EngineTarget(engine="sglang", model="m")))
    assert absent.verdict is Verdict.INFRASTRUCTURE and "not installed" in absent.reason
    elsewhere = measure(who, spec(target=DeploymentTarget(name="a", namespace="b")))
    assert elsewhere.verdict is Verdict.INFRASTRUCTURE
    no_slo = measure(who, spec(slo=None))
    assert no_slo.verdict is Verdict.INFRASTRUCTURE and "slo" in no_slo.reason
    no_trace = measure(who, spec(load=Workload(arrivals="trace", trace="/nowhere.csv")))
    assert no_trace.verdict is Verdict.INFRASTRUCTURE and "trace" in no_trace.reason


def test_a_full_disk_is_nobodys_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tuner.measure.leases.os.open", full)
    outcome = measure(runner(tmp_path), spec())
    assert outcome.verdict is Verdict.INFRASTRUCTURE and "No space left" in outcome.reason


def test_a_stop_ends_it_at_once(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    leased = LeasedTrial(id="t", job="j", tenant="local", number=0, attempt=1, setting={}, seed=5)
    begun = time.monotonic()
    outcome = runner(tmp_path, "--ttft", "30").run(leased, spec(), stop=stop)
    assert time.monotonic() - begun < 5
    assert outcome.verdict is Verdict.INFRASTRUCTURE


def test_the_host_is_leased_once(tmp_path: Path) -> None:
    never = threading.Event()
    with hold(tmp_path, Hardware(), stop=never, deadline_s=time.monotonic()) as locks:
        assert len(locks) == 1
        with pytest.raises(NotLeased, match="host"), hold(tmp_path, Hardware(), stop=never, deadline_s=0):
            pass
        busy = measure(runner(tmp_path), spec(measuring=Measuring(requests=12, timeout_s=0.3)))
        assert busy.verdict is Verdict.INFRASTRUCTURE and "in use" in busy.reason
    left, right = Hardware(cpus=(0,), share_host=True), Hardware(gpus=("GPU-1",), share_host=True)
    with hold(tmp_path, left, stop=never, deadline_s=0), hold(tmp_path, right, stop=never, deadline_s=0):
        with pytest.raises(NotLeased, match="cpu-00000"), hold(tmp_path, left, stop=never, deadline_s=0):
            pass
        with pytest.raises(NotLeased, match="host"), hold(tmp_path, Hardware(), stop=never, deadline_s=0):
            pass


def test_hosts_that_serve_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.measure.runner.live_engines", lambda: ["7: vllm serve llama"])
    refused = measure(runner(tmp_path, beside_live=False), spec())
    assert refused.verdict is Verdict.INFRASTRUCTURE and "vllm serve llama" in refused.reason


def test_live_engines_are_found_by_their_command() -> None:
    import subprocess

    code = "import time; time.sleep(60)"
    live = subprocess.Popen([sys.executable, "-c", code, "-m", "trimtab_engine.cli", "serve"])
    try:
        time.sleep(0.3)
        assert any(line.startswith(f"{live.pid}:") for line in live_engines())
    finally:
        live.kill()
        live.wait()


def test_commands(tmp_path: Path) -> None:
    who = runner(tmp_path, commands=True)
    code = "import sys; print('noise'); print('step_s = 9'); print('step_s = ' + sys.argv[1]); print('bad=x=1')"
    what = spec(
        target=CommandTarget(command=[sys.executable, "-c", code, "{batch}e-1"]),
        objectives=[Objective(metric="step_s")],
    )
    outcome = measure(who, what, {"batch": 8})
    assert outcome.verdict is Verdict.OK, outcome.reason
    assert outcome.measurement is not None and outcome.measurement.metrics == {"step_s": 0.8}
    absent = measure(who, what, {})
    assert absent.verdict is Verdict.INFEASIBLE and "batch" in absent.reason
    forbidden = measure(runner(tmp_path), what, {"batch": 8})
    assert forbidden.verdict is Verdict.INFRASTRUCTURE and "no user commands" in forbidden.reason
    silent = spec(target=CommandTarget(command=["true"]), objectives=[Objective(metric="step_s")])
    assert "step_s=NUMBER" in measure(who, silent).reason
    fails = measure(who, spec(target=CommandTarget(command=["false"]), objectives=[Objective(metric="step_s")]))
    assert fails.verdict is Verdict.INFEASIBLE
    endless = spec(
        target=CommandTarget(command=["sleep", "60"]), objectives=[Objective(metric="x")],
        measuring=Measuring(timeout_s=0.5),
    )  # fmt: skip
    assert measure(who, endless).verdict is Verdict.INFEASIBLE


def short_spec(**fields: Any) -> TuningSpec:
    return spec(
        objectives=[Objective(metric="requests_per_s")],
        measuring=Measuring(requests=200, warm_up_requests=3, runs_max=2, timeout_s=60),
        **fields,
    )


def test_a_trial_that_cannot_come_near_the_best_is_cut_short(tmp_path: Path) -> None:
    outcome = measure(runner(tmp_path), short_spec(), bar=Bar(value=1e6, pace=2.0))
    assert outcome.verdict is Verdict.OK, outcome.reason
    assert outcome.measurement is not None
    found, counted = outcome.measurement, outcome.measurement.metrics["requests"] or 0
    assert found.metrics["runs"] == 1 and 50 <= counted < 80  # a quarter, and what was under way
    assert found.share == pytest.approx(counted / 200)
    assert outcome.reason.startswith("cut short after 2") and "the best so far is 1e+06" in outcome.reason
    assert found.metrics["server_ttft_mean_ms"], "believed like any other"


def test_a_trial_that_may_come_near_goes_on_as_if_nobody_had_looked(tmp_path: Path) -> None:
    looked = measure(runner(tmp_path), short_spec(), bar=Bar(value=1.0, pace=2.0))
    assert looked.verdict is Verdict.OK and looked.reason == ""
    assert looked.measurement is not None and looked.measurement.share == 1
    assert (looked.measurement.metrics["requests"] or 0) >= 200
    off = short_spec().model_copy(update={"measuring": Measuring(requests=60, short_share=0, runs_max=1)})
    full = measure(runner(tmp_path), off, bar=Bar(value=1e6, pace=2.0)).measurement
    assert full is not None and full.share == 1 and full.metrics["requests"] == 60


def test_an_engine_that_lies_is_not_believed_for_being_cut_short(tmp_path: Path) -> None:
    outcome = measure(runner(tmp_path, "--lie", "30", bands=Bands()), short_spec(), bar=Bar(value=1e6, pace=2.0))
    assert outcome.verdict is Verdict.INVALID and "disagree" in outcome.reason
