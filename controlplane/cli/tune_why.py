"""Why a job or a trial is as it is, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from controlplane.cli.tune_text import columns, setting_text
from controlplane.model.tuning_records import progress_text

if TYPE_CHECKING:
    from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningJobRecord

_REASONS = 5


def job_why(job: TuningJobRecord, bad: Sequence[TrialRecord]) -> str:
    """Its state's reason, and what went wrong most among the trials that did not work."""
    lines = [f"{job.name} is {job.state.value}{f' ({job.reason})' if job.reason else ''}: {progress_text(job)}"]
    if job.message:
        lines.append(job.message)
    if job.decision is not None and job.decision.get("message") not in {None, job.message}:
        lines.append(str(job.decision["message"]))
    found = reasons(bad)
    if found:
        lines.append("trials that did not work:")
        lines += [f"  {one['count']} {one['state']}: {one['reason']} (first: trial {one['first']})" for one in found]
    return "\n".join(lines)


def reasons(bad: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The commonest last words, most of them first."""
    first: dict[tuple[str, str], int] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for trial in bad:
        lines = trial.reason.strip().splitlines()
        key = (trial.state.value, lines[-1][:200] if lines else "nothing was said")
        first.setdefault(key, trial.number)
        counts[key] += 1
    return [
        {"state": state, "reason": reason, "count": count, "first": first[state, reason]}
        for (state, reason), count in counts.most_common(_REASONS)
    ]


def trial_why(job: TuningJobRecord, trial: TrialRecord, measured: Sequence[MeasuredAttempt]) -> str:
    """Everything that is known of it."""
    lines = {
        "trial": f"{trial.number} of {job.name} ({trial.purpose.value}), {trial.state.value}",
        "setting": setting_text(trial.setting),
        "tried for": trial.why,
        "seed": str(trial.seed),
        "attempts": f"{trial.attempt}, of which {trial.lost} were lost" if trial.lost else str(trial.attempt),
        "result": ", ".join(
            f"{one.metric} {value:.5g}" for one, value in zip(job.spec.objectives, trial.objectives or [], strict=False)
        ),
        "limits": ", ".join(
            f"{one.metric} {'over' if value > 0 else 'kept'} by {abs(value):.4g}"
            for one, value in zip(job.spec.limits, trial.violation or [], strict=False)
        ),
        "reason": trial.reason.strip().replace("\n", "\n           "),
    }
    if trial.leased_at and trial.ended_at:
        lines["took"] = f"{(trial.ended_at - trial.leased_at).total_seconds():.1f} s"
    text = "\n".join(f"{name + ':':<11}{value}" for name, value in lines.items() if value)
    if not measured:
        return text
    last = measured[-1].measurement
    rows = [[name, "unknown" if value is None else f"{value:.6g}"] for name, value in sorted(last.metrics.items())]
    return f"{text}\n\n{columns([f'MEASURED (attempt {measured[-1].attempt})', 'VALUE'], rows)}"
