"""Tuning jobs as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from controlplane.model.tuning_job import CommandTarget, EngineTarget
from controlplane.model.tuning_records import progress_text
from operators.tuning.best import decided

if TYPE_CHECKING:
    from controlplane.model.tuning import Setting
    from controlplane.model.tuning_decision import Interval, Judged, TuningDecision
    from controlplane.model.tuning_records import TrialRecord, TuningJobRecord


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are as wide as their longest cell."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def setting_text(setting: Setting) -> str:
    return " ".join(f"{name}={value}" for name, value in setting.items()) or "(the engine's own)"


def interval_text(one: Interval | None, *, unit: str = "", sign: bool = False) -> str:
    if one is None:
        return "unknown"
    form = "{:+.3g}" if sign else "{:.4g}"
    mean = form.format(one.mean) + unit
    if one.lo is None or one.hi is None:
        return f"{mean} ({'one run' if one.runs == 1 else f'{one.runs} runs'})"
    return f"{mean} [{form.format(one.lo)}, {form.format(one.hi)}]"


def jobs_text(jobs: Sequence[TuningJobRecord], *, namespaces: bool = False) -> str:
    head = ["NAME", "ID", "STATE", "TRIALS", "INFEASIBLE", "OBJECTIVE", "CREATED"]
    rows = [
        [
            job.name,
            job.id,
            job.state.value,
            _trials_of(job),
            str(job.counts.infeasible),
            job.spec.objectives[0].metric,
            f"{job.created_at:%Y-%m-%d %H:%M}",
        ]
        for job in jobs
    ]
    if namespaces:
        head, rows = ["NAMESPACE", *head], [[job.tenant, *row] for job, row in zip(jobs, rows, strict=True)]
    return columns(head, rows)


def _trials_of(job: TuningJobRecord) -> str:
    """`6/6 +4`: of the search's budget, and what confirms beside it. A list without progress has it where a job spent its
    budget; elsewhere all that ended are one count."""
    if job.progress is not None:
        search, more = job.progress.search_ended, job.progress.confirm_ended
    else:
        ended = job.counts.asked - job.counts.waiting - job.counts.leased
        if job.reason != "BudgetSpent" or job.spec.budget.hours is not None or ended < job.budget:
            return progress_text(job)
        search, more = job.budget, ended - job.budget
    return f"{search}/{job.budget}{f' +{more}' if more else ''}"


def trials_text(trials: Sequence[TrialRecord], metrics: Sequence[str]) -> str:
    rows = []
    for trial in trials:
        values = [f"{value:.5g}" for value in trial.objectives] if trial.objectives else ["-"] * len(metrics)
        broken = any(value > 0 for value in trial.violation or [])
        notes = [word for word, holds in (("cut short", trial.short), ("over a limit", broken)) if holds]
        state = " ".join([trial.state.value, *([f"({', '.join(notes)})"] if notes else [])])
        note = trial.reason.replace("\n", " ")[:100] if trial.reason else trial.why
        rows.append([str(trial.number), trial.purpose.value, state, *values, setting_text(trial.setting), note])
    return columns(["TRIAL", "PURPOSE", "STATE", *(name.upper() for name in metrics), "SETTING", "WHY"], rows)


def job_text(job: TuningJobRecord) -> str:
    counts = ", ".join(
        f"{n} {state}" for state, n in job.counts.model_dump().items() if n and state != "asked"
    )  # fmt: skip
    target = job.spec.target
    if isinstance(target, EngineTarget):
        what = f"{target.engine} with {target.model}"
    elif isinstance(target, CommandTarget):
        what = " ".join(target.command)
    else:
        what = f"deployment {target.namespace}/{target.name}"
    lines: Mapping[str, str] = {
        "name": job.name,
        "id": job.id,
        "state": f"{job.state.value}{f' ({job.reason})' if job.reason else ''}",
        "why": job.message,
        "target": what,
        "objective": ", ".join(f"{one.direction} {one.metric}" for one in job.spec.objectives),
        "limits": ", ".join(
            f"{one.metric} {'<=' if one.at_most is not None else '>='} "
            f"{one.at_most if one.at_most is not None else one.at_least:g}"
            for one in job.spec.limits
        ),
        "progress": progress_text(job),
        "trials": counts or "none yet",
        "sampler": f"{job.spec.sampler}, seed {job.spec.seed}",
    }
    return "\n".join(f"{name + ':':<11}{text}" for name, text in lines.items() if text)


def ended_text(job: TuningJobRecord) -> str:
    """The job, and its decision once there is one that this version can read."""
    decision = decided(job)
    if decision is None:
        return job_text(job)
    return f"{job_text(job)}\n\n{decision_text(decision, [one.metric for one in job.spec.objectives])}"


def decision_text(decision: TuningDecision, metrics: Sequence[str]) -> str:
    """The verdict, and every configuration that was confirmed beside the one in use."""
    said = decision.message.startswith(decision.verdict)
    lines = [decision.message if said else f"{decision.verdict}: {decision.message}"]
    judged: list[tuple[str, Judged]] = [("in use", decision.baseline)] if decision.baseline else []
    judged += [(f"trial {one.number}", one) for one in decision.confirmed]
    rows = [
        [
            ("* " if one == decision.best else "  ") + name,
            *(interval_text(value) for value in one.objectives),
            *["no result"] * (len(metrics) - len(one.objectives)),
            "" if name == "in use" else interval_text(one.gain_pct, unit=" %", sign=True),
            setting_text(one.setting),
            one.note,
        ]
        for name, one in judged
    ]
    if rows:
        lines += ["", columns(["  CONFIRMED", *(name.upper() for name in metrics), "GAIN", "SETTING", "NOTE"], rows)]
        lines.append(
            f"Intervals: {decision.confidence:.0%}, over processes; the gain is of pairs on the same requests."
        )
    if decision.importance:
        lines += ["", "What mattered (share of the variance explained):"]
        lines += [f"  {one.share:4.0%}  {one.parameter}" for one in decision.importance]
        lines += [f"  {decision.importance_note}"] if decision.importance_note else []
    return "\n".join(lines)
