"""Measuring again from a bundle: a job that any installation takes, and the script that makes it on a cluster."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.tuning import JobState
from controlplane.model.tuning_decision import Judged, TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import TrialCounts, TuningJobRecord
from controlplane.model.tuning_resource import TuningJobSpec
from controlplane.tuning_jobs import baseline_of, completed
from tuner.tuning_bundle import packed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "target": {"kind": "engine", "engine": "openvino", "model": "/m.gguf"},
    "space": {
        "parameters": [
            {"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 16},
            {"kind": "choice", "name": "kvCachePrecision", "values": ["u8", "f16"], "changesOutput": True},
        ],
        "fixed": {"dynamicSplitFuse": False},
    },
    "objectives": [{"metric": "output_tokens_per_s"}],
    "limits": [{"metric": "token_agreement", "atLeast": 0.98}],
    "mayChangeOutput": ["kvCachePrecision"],
    # Winners of earlier jobs: recorded when the job was made.
    "startWith": [{"setting": {"maxNumSeqs": 7, "kvCachePrecision": "f16"}, "origin": "best of job x"}],
    "seed": 41,
}
WINNER = {"maxNumSeqs": 8, "kvCachePrecision": "u8", "dynamicSplitFuse": False}


def files(*, in_pods: bool, name: str = "search") -> dict[str, bytes]:
    record = TuningJobRecord(
        id="j", tenant="team", name=name, spec=TuningSpec.model_validate(SPEC), state=JobState.DONE, budget=1,
        counts=TrialCounts(), generation=1, events=1, created_at=NOW,
    )  # fmt: skip
    decision = TuningDecision(
        verdict="better", message="m", best=Judged(number=0, setting=WINNER), baseline=Judged(setting={"maxNumSeqs": 2})
    )
    body = packed(record, [], [], decision, {}, [], in_pods=in_pods)
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return {
            member.name.partition("/")[2]: found.read()
            for member in tar.getmembers()
            if (found := tar.extractfile(member)) is not None
        }


def test_again_is_a_job_that_can_be_made() -> None:
    again = TuningSpec.model_validate(json.loads(files(in_pods=False)["again.json"]))
    whole = completed(again)  # its start is inside its space, its limit is measured
    assert whole.seed == 41 and not whole.start_with and not whole.warm_start
    assert whole.space is not None and [one.name for one in whole.space.parameters if one.changes_output] == ["kvCachePrecision"]  # fmt: skip
    assert baseline_of(whole) == {"maxNumSeqs": 2, "dynamicSplitFuse": False}


@pytest.mark.parametrize("in_pods", [False, True])
def test_what_is_in_it_stands_in_its_readme(in_pods: bool) -> None:
    held = files(in_pods=in_pods)
    readme = held.pop("README.txt").decode()
    told = [line.split()[0] for line in readme.splitlines()[2:] if not line.startswith(" ")]
    assert sorted(told) == sorted(held)


@pytest.mark.parametrize("name", ["search", "s" * 63])
def test_on_a_cluster_it_is_a_resource_under_a_name_that_fits(name: str) -> None:
    found = files(in_pods=True, name=name)
    resource = json.loads(found["tuningjob.json"])
    assert (resource["kind"], resource["metadata"]["namespace"]) == ("TuningJob", "team")
    assert len(resource["metadata"]["generateName"]) + 5 <= 63
    assert resource["metadata"]["generateName"].endswith("-again-")
    assert TuningJobSpec.model_validate(resource["spec"]).job().seed == 41
    assert "TuningJob in namespace team" in found["README.txt"].decode()
    assert "tuningjob.json" not in files(in_pods=False)


KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >> "$0.calls"
case "$*" in
  *create*) echo tuningjob.trimtab.dev/search-again-x7k2p ;;
  *conditions*) n=$(cat "$0.n" 2>/dev/null || echo 0); echo $((n + 1)) > "$0.n"
    if [ "$n" -gt 0 ]; then printf 'Complete=%s Failed=%s ' "$OVER" "$FAILED"; else printf 'Complete=False Failed=False '; fi ;;
  *message*) printf 'better: by much\\n' ;;
  *) echo 'NAME   STATE' ;;
esac
"""


def run(tmp_path: Path, *words: str, path: str, **env: str) -> subprocess.CompletedProcess[str]:
    for name, body in files(in_pods=True).items():
        (tmp_path / name).write_bytes(body)
    script = (tmp_path / "run-again.sh").read_text().replace("sleep 5", "sleep 0.01")
    (tmp_path / "run-again.sh").write_text(script)
    return subprocess.run(
        ["/bin/bash", str(tmp_path / "run-again.sh"), *words], env={"PATH": path, **env}, capture_output=True,
        text=True, timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("over", "failed", "code"), [("True", "False", 0), ("False", "True", 1)])
def test_the_script_makes_it_and_waits(tmp_path: Path, over: str, failed: str, code: int) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kubectl").write_text(KUBECTL)
    (tools / "kubectl").chmod(0o755)
    done = run(tmp_path, "--context", "far", path=f"{tools}:{os.environ['PATH']}", OVER=over, FAILED=failed)
    assert done.returncode == code, done.stderr
    assert "made tuningjob.trimtab.dev/search-again-x7k2p in namespace team" in done.stdout
    assert done.stdout.endswith("better: by much\n")
    calls = (tools / "kubectl.calls").read_text().splitlines()
    assert calls[0] == f"--context far create -f {tmp_path}/tuningjob.json -o name"
    assert all(call.startswith("--context far ") for call in calls)


def test_without_kubectl_it_says_what_to_do(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "dirname").symlink_to("/usr/bin/dirname")
    refused = run(tmp_path, path=str(tools))
    assert refused.returncode == 2 and "no kubectl" in refused.stderr and "/v1/tuning-jobs" in refused.stderr
