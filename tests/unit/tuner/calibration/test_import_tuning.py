"""What a tuning job measured as runs to calibrate from."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.tuning import JobState, Measurement, Setting, TrialPurpose, TrialState, Verdict
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import MeasuredAttempt, TrialCounts, TrialRecord, TuningJobRecord
from tuner.serving.calibration.importers import find_importer
from tuner.serving.question import Span
from tuner.tuning_bundle import packed
from tuner.tuning_recorded import read_bundle

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TARGET = {
    "kind": "engine",
    "engine": "vllm",
    "model": "/models/Qwen3-8B",
    "accelerator": "h100",
    "shape": {"tensorParallel": 2},
}
METRICS: dict[str, float | None] = {
    "ttft_mean_ms": 40.0, "ttft_p50_ms": 38.0, "ttft_p99_ms": 90.0, "tpot_mean_ms": 8.0, "tpot_p90_ms": 9.0,
    "requests": 400.0, "runs": 2.0, "saturated": 0.0,
}  # fmt: skip


def trial(number: int, setting: Setting, purpose: TrialPurpose = TrialPurpose.SEARCH) -> TrialRecord:
    return TrialRecord(
        job="j", number=number, state=TrialState.DONE, purpose=purpose, setting=setting, canonical=str(setting), why="",
        seed=0, attempt=1, lost=0, asked_at=NOW, objectives=[1.0], violation=[],
    )  # fmt: skip


def attempt(number: int, verdict: Verdict = Verdict.OK, **metrics: float | None) -> MeasuredAttempt:
    run = Measurement(metrics=METRICS | metrics, definitions="trimtab-1", duration_s=1.0)
    return MeasuredAttempt(job="j", number=number, attempt=1, verdict=verdict, measurement=run, at=NOW)


def bundle(path: Path, attempts: list[MeasuredAttempt], settings: list[Setting], **fields: Any) -> Path:
    spec = TuningSpec.model_validate(
        {
            "target": TARGET,
            "objectives": [{"metric": "output_tokens_per_s"}],
            "load": {"arrivals": "closed", "concurrency": 8, "input": {"tokens": 256, "rangeRatio": 0.5}, "output": {"tokens": 64}},
            **fields,
        }
    )  # fmt: skip
    job = TuningJobRecord(
        id="j", tenant="local", name="night", spec=spec, state=JobState.DONE, budget=2, counts=TrialCounts(),
        generation=1, events=1, created_at=NOW,
    )  # fmt: skip
    trials = [trial(number, setting) for number, setting in enumerate(settings)]
    decision = TuningDecision(verdict="none-kept", message="m")
    path.write_bytes(packed(job, trials, attempts, decision, {}, []))
    return path


def test_believed_runs_with_their_settings(tmp_path: Path) -> None:
    attempts = [attempt(0), attempt(1, Verdict.INVALID), attempt(2), attempt(3, saturated=1.0)]
    settings: list[Setting] = [{"maxNumSeqs": 32, "enablePrefixCaching": True}, {}, {"maxNumSeqs": 64}, {}]
    path = bundle(tmp_path / "night.tar.gz", attempts, settings)
    first, second = find_importer("tuning")(path, {})
    question = first.question
    assert (question.model, question.system, question.backend) == ("qwen3-8b", "h100-sxm-80gb", "vllm")
    assert question.degrees is not None and question.degrees.tp == 2
    assert (question.arrivals.clients, question.requests) == (8, 200)
    assert (question.input, question.output) == (Span(low=128, high=256), Span(low=64, high=64))
    assert question.knobs == {"maxNumSeqs": 32, "enablePrefixCaching": True} and second.question.knobs == {
        "maxNumSeqs": 64
    }
    assert first.ttft_ms == {"mean": 40.0, "p50": 38.0, "p99": 90.0} and first.tpot_ms == {"mean": 8.0, "p90": 9.0}
    assert (first.source, second.source) == ("night.tar.gz#0.1", "night.tar.gz#2.1")


def test_runs_that_were_cut_short_calibrate_nothing(tmp_path: Path) -> None:
    short = attempt(1)
    short = short.model_copy(update={"measurement": short.measurement.model_copy(update={"share": 0.25})})
    path = bundle(tmp_path / "b.tar.gz", [attempt(0), short], [{"maxNumSeqs": 32}, {"maxNumSeqs": 2}])
    assert [run.source for run in find_importer("tuning")(path, {})] == ["b.tar.gz#0.1"]


def test_what_the_job_does_not_name_is_the_users_case(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b.tar.gz", [attempt(0)], [{}], target=TARGET | {"accelerator": None, "model": "/m"})
    with pytest.raises(TrimtabError, match="model: is needed"):
        find_importer("tuning")(path, {"system": "h100"})
    (found,) = find_importer("tuning")(path, {"system": "h100", "model": "qwen3-8b"})
    assert (found.question.system, found.question.model) == ("h100", "qwen3-8b")


def test_refusals(tmp_path: Path) -> None:
    command = {"kind": "command", "command": ["x"]}
    for name, attempts, fields, error in (
        ("command", [attempt(0)], {"target": command}, Unsupported),
        ("none", [attempt(0, Verdict.INVALID)], {}, InvalidSpec),
        ("no-ttft", [attempt(0, ttft_mean_ms=None, ttft_p50_ms=None, ttft_p99_ms=None)], {}, InvalidSpec),
    ):
        with pytest.raises(error):
            find_importer("tuning")(bundle(tmp_path / f"{name}.tar.gz", attempts, [{}], **fields), {})


def test_a_broken_bundle_says_what_is_wrong(tmp_path: Path) -> None:
    whole = bundle(tmp_path / "whole.tar.gz", [attempt(0)], [{"a": 1}])
    assert read_bundle(whole).settings == {0: {"a": 1}}
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:300])
    for name, body in (("empty", {}), ("odd", {"x/job.json": b"[1]", "x/settings.json": b"[]"})):
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as tar:
            for part in ("decision.json", "measurements.json", "trials.csv", *body):
                info = tarfile.TarInfo(part if "/" in part else f"x/{part}")
                text = body.get(part, b"") if name == "odd" else b""
                info.size = len(text)
                if name == "odd":
                    tar.addfile(info, io.BytesIO(text))
    for name in ("cut", "empty", "odd"):
        with pytest.raises(InvalidSpec):
            read_bundle(tmp_path / f"{name}.tar.gz")


def test_a_bundle_of_an_older_version_is_read(tmp_path: Path) -> None:
    whole, older = bundle(tmp_path / "whole.tar.gz", [attempt(0)], [{"a": 1}]), tmp_path / "older.tar.gz"
    with tarfile.open(whole) as source, tarfile.open(older, "w:gz") as made:
        for member in source:
            body = source.extractfile(member)
            text = b"" if body is None else body.read()
            if member.name.endswith("/job.json"):
                document = json.loads(text)
                document["spec"]["measuring"]["confirmRuns"] = 2  # allowed then
                document["spec"]["target"]["serviceAccount"] = None  # has moved since
                text = json.dumps(document).encode()
            member.size = len(text)
            made.addfile(member, io.BytesIO(text))
    assert read_bundle(older).job.spec.measuring.confirm_runs == 3
