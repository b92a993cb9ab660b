"""A bundle: everything to measure a job's best and its baseline again elsewhere, and to check what was said of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from controlplane.model.resource import GROUP, VERSION
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningEvent, TuningJobRecord
from tuner.tuning_report import environment, tuning_page

# A job's name has 63 characters at most, of which the API server makes the last five of a `generateName`.
_NAME_MAX = 50
_SCRIPT = """#!/usr/bin/env bash
# Measures the winner of this job and the configuration that was in use once more, in pairs, on this machine.
# Needs `trimtab` on PATH and what the job's target needs (its engine's environment, its model folder or its command).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec trimtab tune run "$here/again.json" "$@"
"""
# `kubectl wait` knows no second condition to end at.
_SCRIPT_OF_CLUSTER = """#!/usr/bin/env bash
# Measures the winner of this job and the configuration that was in use once more, in pairs, in pods of namespace {namespace}:
# makes a TuningJob of tuningjob.json, a new one each time, and waits for its end. Arguments go to kubectl (--context NAME).
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
if ! command -v kubectl >/dev/null; then
  echo "run-again.sh: no kubectl on PATH. This job ran in pods of a cluster and is measured again there: run this where" \\
    "kubectl is, or make again.json the spec of a new job (POST /v1/tuning-jobs)." >&2
  exit 2
fi
job=$(kubectl "$@" create -f "$here/tuningjob.json" -o name)
echo "made $job in namespace {namespace}; it goes on if this script is ended"
while true; do
  ended=$(kubectl "$@" get "$job" -n {namespace} \\
    -o 'jsonpath={{range .status.conditions[*]}}{{.type}}={{.status}} {{end}}')
  case $ended in *Complete=True* | *Failed=True*) break ;; esac
  sleep 5
done
kubectl "$@" get "$job" -n {namespace}
kubectl "$@" get "$job" -n {namespace} -o 'jsonpath={{.status.message}}{{"\\n"}}'
case $ended in *Complete=True*) ;; *) exit 1 ;; esac
"""
_README = """Bundle of the tuning job {name} ({id}).

"""
_FILES = {
    "job.json": "the job: what was asked, its state",
    "decision.json": "what was confirmed, with intervals and importance",
    "environment.json": "hardware, engine version, metric definitions",
    "trials.csv": "every trial: setting, seed, state, objectives, violation of limits; share: of a run, below 1 where a short\n"
    "                   run ended the trial, which then stands for no full one",
    "settings.json": "every trial's setting, with the types of its values",
    "measurements.json": "every measurement: metrics, resolved configuration, digest of the requests, seeds",
    "events.json": "what happened, in order",
    "samples/": "raw samples per request of the confirmed trials (Parquet), where they were kept",
    "again.json": "the spec of a job that measures best and baseline once more",
    "tuningjob.json": "the same as a TuningJob",
    "run-again.sh": "runs it: {where}",
    "report.html": "the report",
}


def packed(
    job: TuningJobRecord,
    trials: Sequence[TrialRecord],
    measured: Sequence[MeasuredAttempt],
    decision: TuningDecision,
    samples: Mapping[tuple[int, int], bytes],
    events: Sequence[TuningEvent],
    *,
    in_pods: bool = False,
) -> bytes:
    """A tar.gz. The same job gives the same bytes. `samples`: by trial and attempt. `in_pods`: the job belongs to a
    namespace of a cluster, and is measured again there."""
    where = f"as a TuningJob in namespace {job.tenant}, by kubectl" if in_pods else "on this machine"
    files: dict[str, bytes] = {
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
        if in_pods:
            files["tuningjob.json"] = _json(_resource(job, again))
        files["run-again.sh"] = (_SCRIPT_OF_CLUSTER.format(namespace=job.tenant) if in_pods else _SCRIPT).encode()
    for (number, attempt), body in samples.items():
        files[f"samples/{number}-{attempt}.parquet"] = body
    files["README.txt"] = _readme(job, files, where).encode()
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name in sorted(files):
            info = tarfile.TarInfo(f"{job.name}/{name}")
            info.size = len(files[name])
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(info, io.BytesIO(files[name]))
    return out.getvalue()


def _readme(job: TuningJobRecord, names: Collection[str], where: str) -> str:
    """What is in this bundle; a job without a winner has nothing to measure again."""
    lines = [
        f"{name:<18} {says.format(where=where)}\n"
        for name, says in _FILES.items()
        if name in names or any(one.startswith(name) for one in names if name.endswith("/"))
    ]
    return _README.format(name=job.name, id=job.id) + "".join(lines)


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
    changing = {one.name for one in job.spec.space.parameters if one.changes_output} if job.spec.space else set()
    choices = [
        {"kind": "choice", "name": name, "values": [value], "changesOutput": name in changing}
        for name, value in winner.items()
    ]
    spec["space"] = {"parameters": choices, "fixed": fixed}
    spec["target"].pop("serves", None)  # written when a job is made
    # Other settings are outside this space.
    spec["startWith"], spec["warmStart"] = [], False
    spec["budget"] = {"trials": 1}
    spec["sampler"] = "random"
    spec["measuring"] = {**spec["measuring"], "confirmTop": 1}
    if decision.baseline is not None:
        spec["baseline"] = decision.baseline.setting
    return spec


def _resource(job: TuningJobRecord, spec: Mapping[str, Any]) -> dict[str, Any]:
    name = job.name[:_NAME_MAX].rstrip("-.")
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TuningJob",
        "metadata": {"generateName": f"{name}-again-", "namespace": job.tenant},
        "spec": dict(spec),
    }


def _json(body: object) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def _csv(job: TuningJobRecord, trials: Sequence[TrialRecord]) -> bytes:
    names = sorted({name for trial in trials for name in trial.setting})
    metrics = [one.metric for one in job.spec.objectives]
    limits = [f"over {one.metric}" for one in job.spec.limits]
    blank: Sequence[str] = [""] * (len(metrics) + len(limits))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    head = ["trial", "purpose", "state", "verdict", "share", "seed", "attempts"]
    rows.writerow([*head, *metrics, *limits, *names, "canonical"])
    for trial in trials:
        rows.writerow(
            [
                trial.number,
                trial.purpose.value,
                trial.state.value,
                trial.verdict.value if trial.verdict else "",
                "" if trial.share is None else trial.share,
                trial.seed,
                trial.attempt,
                *(trial.objectives or blank[: len(metrics)]),
                *(trial.violation or blank[: len(limits)]),
                *(trial.setting.get(name, "") for name in names),
                trial.canonical,
            ]
        )
    return text.getvalue().encode()
