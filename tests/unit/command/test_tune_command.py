"""`trimtab tune` without a server: a job to its decision, interrupted and gone on with, and refusals that name the field."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import xml.dom.minidom
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.cli.tune_spec import spec_of
from controlplane.model.errors import TrimtabError
from tests.unit.command.tune_calls import QUIET, call, command_job, written

OPTIONS: dict[str, Any] = dict.fromkeys(
    ("file", "engine", "model", "slo", "concurrency", "rate", "input_tokens", "output_tokens", "requests", "trials",
     "hours", "sampler", "seed")
) | {"objective": (), "limit": (), "may_change_output": ()}  # fmt: skip


def job(sleep_s: float = 0.0, **changes: Any) -> dict[str, Any]:
    program = (
        f"import time; time.sleep({sleep_s}); print('step_ms=%f' % (100 / {{micro}} + 3 * {{micro}} + {{seed}} % 3))"
    )
    return command_job(program, **changes)


def test_a_job_runs_to_its_decision_and_leaves_report_and_bundle(here: Path) -> None:
    ran = call("run", written(here, job()), "--name", "steps", "-o", "json", *QUIET)
    assert ran.exit_code == 0, ran.output
    record = json.loads(ran.stdout)
    assert record["state"] == "done" and record["decision"]["verdict"] == "better"
    assert record["decision"]["baseline"]["setting"] == {"micro": 1}
    assert "steps" in call("list").stdout and "step_ms" in call("show", "steps").stdout
    best = json.loads(call("best", record["id"][:6], "-o", "json").stdout)
    assert best["best"]["gainPct"]["lo"] > 0
    trials = json.loads(call("trials", "steps", "--sort", "value", "-o", "json").stdout)
    assert [one["purpose"] for one in trials].count("baseline") == 3 and len(trials) == 9
    assert call("report", "steps").stdout == "steps.html\n"
    xml.dom.minidom.parseString((here / "steps.html").read_text().replace("<!DOCTYPE html>", ""))
    assert call("bundle", "steps").exit_code == 0
    with tarfile.open(here / "steps.tar.gz") as tar:
        again = tar.extractfile("steps/again.json")
        assert again is not None
        spec = json.loads(again.read())
    assert spec["budget"]["trials"] == 1 and spec["baseline"] == {"micro": 1}
    assert call("check", written(here, spec)).exit_code == 0
    more = call("run", "--resume", "steps", "--more-trials", "4", "-o", "json", *QUIET)
    assert json.loads(more.stdout)["counts"]["asked"] == 9 + 1 + 6
    assert call("delete", "steps", "--yes").exit_code == 0 and "steps" not in call("list").stdout


def test_a_job_begins_with_what_an_earlier_one_found_unless_told_not_to(here: Path) -> None:
    budget: dict[str, Any] = {"budget": {"trials": 10}, "sampler": "random"}
    assert call("run", written(here, job(**budget)), "--name", "first", *QUIET).exit_code == 0
    won = json.loads(call("best", "first", "-o", "json").stdout)["best"]["setting"]
    ran = call("run", written(here, job(**budget)), "--name", "second", "-o", "json", *QUIET)
    assert json.loads(ran.stdout)["spec"]["startWith"] == [{"setting": won, "origin": "best of job first"}]
    trials = json.loads(call("trials", "second", "-o", "json").stdout)
    assert [(one["setting"], one["why"]) for one in trials[:2]] == [
        ({"micro": 1}, "to start with: the configuration in use"), (won, "to start with: best of job first"),
    ]  # fmt: skip
    other = {"kind": "command", "command": [sys.executable, "-c", "print('step_ms={micro}')"]}
    others: dict[str, dict[str, Any]] = {"cold": {"warmStart": False}, "other": {"target": other}}
    for name, changes in others.items():
        ran = call("run", written(here, job(**budget, **changes)), "--name", name, "-o", "json", *QUIET)
        assert json.loads(ran.stdout)["spec"]["startWith"] == [], name
    outside = job(startWith=[{"setting": {"micro": 99}}])
    refused = call("run", written(here, outside), *QUIET)
    assert isinstance(refused.exception, TrimtabError) and refused.exception.field == "startWith[0].setting"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_job_goes_on_where_it_was(here: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "controlplane", "tune", "run", written(here, job(1.0)), "--name", "s", *QUIET]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.PIPE)  # fmt: skip
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and '"done": 1' not in call("show", "s", "-o", "json").stdout:
        time.sleep(0.3)
    child.send_signal(how)
    child.communicate(timeout=30)
    assert child.returncode == (130 if how is signal.SIGINT else -9)
    record = json.loads(call("show", "s", "-o", "json").stdout)
    assert record["state"] == ("paused" if how is signal.SIGINT else "running")
    ran = call("run", "--resume", "s", "-o", "json", *QUIET)
    assert ran.exit_code == 0, ran.output
    counts = json.loads(ran.stdout)["counts"]
    assert (counts["done"], counts["failed"], counts["asked"]) == (9, 0, 9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": {"mikro": 1}}, ["baseline.mikro", "micro"]),
        ({"sampler": "defualt"}, ["sampler", "default"]),
        ({"budget": {"trials": 0}}, ["budget.trials"]),
        ({"objectives": [{"metric": "a"}, {"metric": "a"}]}, ["objectives[1].metric"]),
        ({"target": {"kind": "command", "command": ["true"]}}, ["target.command", "{micro}"]),
        ({"target": {"kind": "deployment", "name": "d", "namespace": "n"}}, ["target.kind"]),
        ({"target": {"kind": "engine", "engine": "openvino", "model": "/m"}, "space": None, "objectives": [{"metric": "step_ms"}]}, ["objectives[0].metric"]),
        ({"target": {"kind": "engine", "engine": "openvino", "model": "/m"}, "space": None, "objectives": [{"metric": "goodput_per_s"}], "slo": {"ttftMs": 0.2}, "baseline": {}}, ["slo.ttftMs", "200"]),
        ({"target": {"kind": "engine", "engine": "openvino", "model": "/m"}, "space": None, "objectives": [{"metric": "goodput_per_s"}], "baseline": {}}, ["slo"]),
        ({"target": {"kind": "engine", "engine": "openvino", "model": "/m"}, "space": None, "objectives": [{"metric": "ttft_p95_ms"}], "baseline": {}}, ["objectives[0].direction", "minimize"]),
        ({"wrong": 1}, ["wrong"]),
    ],
)  # fmt: skip
def test_refusals_name_the_field(here: Path, changes: dict[str, Any], words: list[str]) -> None:
    refused = call("run", written(here, job(**changes)), *QUIET)
    assert isinstance(refused.exception, TrimtabError), refused.output
    assert all(word in str(refused.exception) for word in words), str(refused.exception)
    assert json.loads(call("list", "-o", "json").stdout) == []


def test_check_shows_what_each_rule_takes_even_if_nothing_is_left(here: Path) -> None:
    body = job()
    body["space"]["rules"] = [{"expression": "micro <= 4", "message": "m"}]
    found = json.loads(call("check", written(here, body), "-o", "json").stdout)
    assert found["leftPct"] == pytest.approx(25, abs=2) and found["rules"][0]["takesPct"] == pytest.approx(75, abs=2)
    body["space"]["rules"].append({"expression": "micro >= 9", "message": "m"})
    nothing = call("check", written(here, body))
    assert nothing.exit_code == 1 and "takes 75" in nothing.stdout and "takes 49" in nothing.stdout


def test_options_make_the_same_job_as_a_file() -> None:
    given = OPTIONS | {
        "engine": "openvino", "model": "./m", "objective": ("goodput_per_s", "ttft_p90_ms:min"), "rate": 12.0,
        "limit": ("tpot_p99_ms<=20", "attainment >= 0.9"), "slo": "ttft=100,tpot=20ms", "trials": 7, "requests": 50,
    }  # fmt: skip
    spec, _ = spec_of(given)
    assert [one.direction for one in spec.objectives] == ["maximize", "minimize"]
    assert (spec.limits[0].at_most, spec.limits[1].at_least) == (20.0, 0.9)
    assert spec.slo is not None and (spec.slo.ttft_ms, spec.slo.tpot_ms) == (100.0, 20.0)
    assert (spec.load.arrivals, spec.load.rate_per_second, spec.budget.trials) == ("poisson", 12.0, 7)


def test_a_second_process_does_not_work_on_the_same_job(here: Path) -> None:
    command = [sys.executable, "-m", "controlplane", "tune", "run", written(here, job(2.0)), "--name", "s", *QUIET]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.PIPE)  # fmt: skip
    try:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s and '"leased": 1' not in call("show", "s", "-o", "json").stdout:
            time.sleep(0.3)
        second = call("run", "--resume", "s", *QUIET)
        assert isinstance(second.exception, TrimtabError) and second.exception.reason == "Busy"
        assert call("cancel", "s").exit_code == 0
        child.communicate(timeout=30)
        assert child.returncode == 1
    finally:
        child.kill()
        child.wait()


def test_a_cluster_s_manifest_runs_here_too() -> None:
    example = Path(__file__).resolve().parents[3] / "examples" / "tuning-openvino.yaml"
    document = yaml.safe_load(example.read_text())
    spec, name = spec_of({**OPTIONS, "file": example})
    assert name == document["metadata"]["name"] and spec.budget.trials == document["spec"]["budget"]["trials"]


def test_what_kubectl_shows_of_a_job_can_be_run(tmp_path: Path) -> None:
    document = {"kind": "TuningJob", "metadata": {"name": "a"}, "spec": {**job(), "suspend": False}, "status": {}}
    spec, name = spec_of({**OPTIONS, "file": Path(written(tmp_path, document))})
    assert name == "a" and spec.budget.trials == 3
