"""A bundle: everything to measure a job's best and its baseline again elsewhere, and to check what was said of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningEvent, TuningJobRecord
from tuner.tuning_report import environment, tuning_page

_SCRIPT = """#!/usr/bin/env bash
# Measures the winner of this job and the configuration that was in use once more, in pairs, on this machine.
# Needs `trimtab` on PATH and what the job's target needs (its engine's environment, its model folder or its command).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec trimtab tune run "$here/again.json" "$@"
"""
_README = """Bundle of the tuning job {name} ({id}).

job.json           the job: what was asked, its state
decision.json      what was confirmed, with intervals and importance
environment.json   hardware, engine version, metric definitions
trials.csv         every trial: setting, seed, state, objectives, violation of limits
settings.json      every trial's setting, with the types of its values
measurements.json  every measurement: metrics, resolved configuration, digest of the requests, seeds
events.json        what happened, in order
samples/           raw samples per request of the confirmed trials (Parquet), where they were kept
again.json         a job that measures best and baseline once more; run-again.sh runs it on this machine. What ran in pods
                   is measured again there: make it the spec of a new job (POST /v1/tuning-jobs)
report.html        the report
"""


def packed(
    job: TuningJobRecord,
    trials: Sequence[TrialRecord],
    measured: Sequence[MeasuredAttempt],
    decision: TuningDecision,
    samples: Mapping[tuple[int, int], bytes],
    events: Sequence[TuningEvent],
) -> bytes:
    """A tar.gz. The same job gives the same bytes. `samples`: by trial and attempt."""
    files: dict[str, bytes] = {
        "README.txt": _README.format(name=job.name, id=job.id).encode(),
        "job.json": _json(job.model_dump(mode="json", by_alias=True)),
        "decision.json": _json(decision.model_dump(mode="json", by_alias=True)),
        "environment.json": _json(environment(measured)),
        "trials.csv": _csv(job, trials),
        "settings.json": _json({str(trial.number): trial.setting for trial in trials}),
        "measurements.json": _json([one.model_dump(mode="json", by_alias=True) for one in measured]),
        "events.json": _json([one.model_dump(mode="json", by_alias=True) for one in events]),
        "report.html": tuning_page(job, trials, measured, decision).encode(),
    }
    again = again_spec(job, decision)
    if again is not None:
        files["again.json"] = _json(again)
        files["run-again.sh"] = _SCRIPT.encode()
    for (number, attempt), body in samples.items():
        files[f"samples/{number}-{attempt}.parquet"] = body
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name in sorted(files):
            info = tarfile.TarInfo(f"{job.name}/{name}")
            info.size = len(files[name])
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(info, io.BytesIO(files[name]))
    return out.getvalue()


def again_spec(job: TuningJobRecord, decision: TuningDecision) -> dict[str, Any] | None:
    """A job whose search is the winner alone, and whose confirmation compares it with the same baseline. None where
    there is no winner."""
    if decision.best is None:
        return None
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    fixed = dict(job.spec.space.fixed) if job.spec.space else {}
    winner = {name: value for name, value in decision.best.setting.items() if name not in fixed}
    if not winner:
        return None
    choices = [{"kind": "choice", "name": name, "values": [value]} for name, value in winner.items()]
    spec["space"] = {"parameters": choices, "fixed": fixed}
    spec["budget"] = {"trials": 1}
    spec["sampler"] = "random"
    spec["measuring"] = {**spec["measuring"], "confirmTop": 1}
    if decision.baseline is not None:
        spec["baseline"] = decision.baseline.setting
    return spec


def _json(body: object) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def _csv(job: TuningJobRecord, trials: Sequence[TrialRecord]) -> bytes:
    names = sorted({name for trial in trials for name in trial.setting})
    metrics = [one.metric for one in job.spec.objectives]
    limits = [f"over {one.metric}" for one in job.spec.limits]
    blank: Sequence[str] = [""] * (len(metrics) + len(limits))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", "purpose", "state", "verdict", "seed", "attempts", *metrics, *limits, *names, "canonical"])
    for trial in trials:
        rows.writerow(
            [
                trial.number,
                trial.purpose.value,
                trial.state.value,
                trial.verdict.value if trial.verdict else "",
                trial.seed,
                trial.attempt,
                *(trial.objectives or blank[: len(metrics)]),
                *(trial.violation or blank[: len(limits)]),
                *(trial.setting.get(name, "") for name in names),
                trial.canonical,
            ]
        )
    return text.getvalue().encode()
