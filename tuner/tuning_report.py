"""A tuning job's report: one HTML file without scripts, like every report of this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate

import numpy as np

from controlplane.model.tuning import JobState, TrialPurpose, TrialState
from controlplane.model.tuning_decision import Interval, Judged, TuningDecision
from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningJobRecord
from tuner.bars import MAX_BARS, gantt
from tuner.decision import candidates
from tuner.page import page, pairs, table, warnings
from tuner.plot import Series, Style, plot
from tuner.tuning_figures import feasibility_map, parallel_coordinates
from tuner.tuning_words import limit_words, load_words, metric_label, metric_words, slo_words, target_words

_ROWS_MAX = 400
_AGREEMENT = "token_agreement"
# Of bars on the clock: a kind keeps its colour in every report.
_ENDED_OTHERWISE = (TrialState.INFEASIBLE, TrialState.FAILED, TrialState.CANCELLED)
_KINDS = (*(one.value for one in TrialPurpose), "cut short", *(one.value for one in _ENDED_OTHERWISE))


def tuning_page(
    job: TuningJobRecord, trials: Sequence[TrialRecord], measured: Sequence[MeasuredAttempt], decision: TuningDecision
) -> str:
    """`trials` in their order, `measured` of any of them."""
    search = [trial for trial in trials if trial.purpose is TrialPurpose.SEARCH]
    metrics = [one.metric for one in job.spec.objectives]
    parts = [
        f"<p>{escape(_said(job, search, decision))}</p>",
        warnings(_warnings(job, decision)),
        _decision(decision, metrics),
        "<h2>History</h2>",
        _history(job, search, measured, decision),
    ]
    if len(metrics) > 1:
        parts.append(_front(job, search, decision))
    if decision.importance:
        rows = [[one.parameter, f"{one.share:.0%}"] for one in decision.importance]
        parts += ["<h2>What mattered</h2>", table(["parameter", "share of the variance"], rows)]
    if decision.importance_note:
        parts.append(f"<p>{escape(decision.importance_note)}</p>")
    parts += [
        "<h2>Settings</h2>",
        parallel_coordinates(job.spec, search),
        feasibility_map(job.spec, search, [one.parameter for one in decision.importance]),
        "<h2>Timeline</h2>",
        _timeline(trials),
        pairs("What was asked", _asked(job), words=True),
        pairs("Environment", environment(measured), words=True),
        "<h2>Trials</h2>",
        _trials(trials, metrics, measured),
    ]
    return page(f"Tuning {job.name}", parts)


def environment(measured: Sequence[MeasuredAttempt]) -> dict[str, object]:
    """Where and what was measured; more than one of a kind is shown as it is."""
    found = [attempt.measurement for attempt in measured]
    return {
        "hardware": sorted({one.host for one in found if one.host}),
        "engine version": sorted({one.engine_version for one in found if one.engine_version}),
        "metric definitions": sorted({one.definitions for one in found}),
        "time measured, s": float(sum(one.duration_s for one in found)),
    }


def _warnings(job: TuningJobRecord, decision: TuningDecision) -> list[str]:
    out = []
    if job.decision is None:
        out.append(f"The job is {job.state.value}: nothing is confirmed, and the best may only have been lucky.")
    if decision.verdict in {"worse", "no-evidence", "none-kept"} and job.decision is not None:
        out.append("Keep the configuration in use.")
    return out


def _said(job: TuningJobRecord, search: Sequence[TrialRecord], decision: TuningDecision) -> str:
    """What was decided; of a job that may still do so, how far it is."""
    if job.decision is not None or job.state not in (JobState.RUNNING, JobState.PAUSED):
        return decision.message
    ended = sum(1 for trial in search if trial.final)
    state = "under way" if job.state is JobState.RUNNING else "paused"
    said = f"The job is {state}: {ended} of {job.budget} trials of the search have ended"
    leader = next((one for one in candidates(job.spec, search) if one.kept), None)
    if leader is None:
        return f"{said}; none that kept the limits yet."
    metric, value = job.spec.objectives[0].metric, leader.objectives[0]
    so_far = "being confirmed" if decision.confirmed else "not confirmed"
    return f"{said}; best so far {metric} {value:.4g} (trial {leader.trial.number}), {so_far}."


def _decision(decision: TuningDecision, metrics: Sequence[str]) -> str:
    judged: list[tuple[str, Judged]] = [("in use", decision.baseline)] if decision.baseline else []
    judged += [(f"trial {one.number}", one) for one in decision.confirmed]
    if not judged:
        return ""
    rows = [
        [
            f"{name}{' (best)' if one == decision.best else ''}",
            *(_interval(value) for value in one.objectives),
            *["no result"] * (len(metrics) - len(one.objectives)),
            "" if name == "in use" else _interval(one.gain_pct),
            dict(one.setting) or "the engine's own",
            one.note,
        ]
        for name, one in judged
    ]
    note = f"<p>Intervals are {decision.confidence:.0%}, over processes; gains are of pairs on the same requests.</p>"
    return "<h2>Confirmed</h2>" + table(["", *metrics, "gain, %", "setting", "note"], rows, words=True) + note


def _interval(one: Interval | None) -> str:
    if one is None:
        return "unknown"
    if one.lo is None or one.hi is None:
        return f"{one.mean:.4g} ({'one run' if one.runs == 1 else f'{one.runs} runs'})"
    return f"{one.mean:.4g} [{one.lo:.4g},\u00a0{one.hi:.4g}]"  # the interval does not break


def _history(
    job: TuningJobRecord,
    search: Sequence[TrialRecord],
    measured: Sequence[MeasuredAttempt],
    decision: TuningDecision,
) -> str:
    """Each trial, its interval where its own runs say one, the best so far among those within limits, and what the
    configuration in use gave when it was confirmed."""
    objective = job.spec.objectives[0]
    widths = {one.number: one.measurement.metrics.get("half_width_pct") for one in measured}
    short = [(trial, trial.objectives[0]) for trial in search if trial.objectives and trial.short]
    done = [(trial, trial.objectives[0]) for trial in search if trial.objectives and not trial.short]
    kept = [(t, value) for t, value in done if all(v <= 0 for v in t.violation or [])]
    over = [(t, value) for t, value in done if any(v > 0 for v in t.violation or [])]
    best = list(accumulate((value for _, value in kept), max if objective.direction == "maximize" else min))
    half = [(t, value, abs(value) * (widths.get(t.number) or 0.0) / 100) for t, value in done if widths.get(t.number)]
    ends = np.array(
        [(t.number, _floored(objective.metric, value, value - by), value + by) for t, value, by in half], np.float64
    ).reshape(-1, 3)
    in_use = decision.baseline.objectives[0].mean if decision.baseline and decision.baseline.objectives else None
    last = float(max((trial.number for trial in search), default=0))
    return plot(
        "Every trial and the best so far",
        "trial",
        metric_label(objective.metric),
        [
            _points("within the limits", [(t.number, value) for t, value in kept]),
            _points("over a limit", [(t.number, value) for t, value in over], "rings"),
            Series("90 % interval of its runs", ends[:, 0], ends[:, 1], "whiskers", ends[:, 2]),
            *([_points("cut short", [(t.number, value) for t, value in short], "crosses")] if short else []),
            Series(
                "best so far",
                np.array([t.number for t, _ in kept], np.float64),
                np.array(best, np.float64),
                "step",
            ),
            *(
                []
                if in_use is None
                else [Series("in use, as confirmed", np.array([0.0, last]), np.full(2, in_use), "dashed")]
            ),
        ],
        from_zero=False,
    )


def _floored(metric: str, value: float, low: float) -> float:
    """Where a whisker of it ends: what cannot be negative is not drawn so."""
    return max(low, 0.0) if value >= 0 and metric_words(metric)[1] not in {"", "%"} else low


def _points(name: str, points: Sequence[tuple[int, float]], style: Style = "points") -> Series:
    values = np.array(points, np.float64).reshape(-1, 2)
    return Series(name, values[:, 0], values[:, 1], style)


def _front(job: TuningJobRecord, search: Sequence[TrialRecord], decision: TuningDecision) -> str:
    """The first two objectives."""
    first, second = job.spec.objectives[:2]
    points = {t.number: (t.objectives[0], t.objectives[1]) for t in search if t.objectives and len(t.objectives) > 1}
    front = sorted(points[n] for n in decision.front if n in points)
    short = {t.number for t in search if t.short}
    rest = sorted(point for n, point in points.items() if n not in decision.front and n not in short)
    arrays = [np.array(items, np.float64).reshape(-1, 2) for items in (front, rest)]
    figure = plot(
        "What no other trial beats",
        f"{metric_label(first.metric)} ({first.direction})",
        f"{metric_label(second.metric)} ({second.direction})",
        [
            *([Series("front", arrays[0][:, 0], arrays[0][:, 1], "step")] if len(front) > 1 else []),
            Series("trials of the front", arrays[0][:, 0], arrays[0][:, 1], "points"),
            Series("other trials", arrays[1][:, 0], arrays[1][:, 1], "rings"),
        ],
        from_zero=False,
    )
    return "<h2>Pareto front</h2>" + figure


def _timeline(trials: Sequence[TrialRecord]) -> str:
    """When which trial was under way; the newest where there are too many."""
    ran = [trial for trial in trials if trial.leased_at is not None and trial.ended_at is not None][-MAX_BARS:]
    starts = [trial.leased_at.timestamp() for trial in ran if trial.leased_at is not None]
    origin = min(starts, default=0.0)
    bars: dict[str, list[tuple[int, float, float]]] = {kind: [] for kind in _KINDS}
    for row, trial in enumerate(ran):
        if trial.leased_at is None or trial.ended_at is None:
            continue
        done = "cut short" if trial.short else trial.purpose.value
        kind = done if trial.state is TrialState.DONE else trial.state.value
        begin, end = trial.leased_at.timestamp() - origin, trial.ended_at.timestamp() - origin
        bars.setdefault(kind, []).append((row, begin / 60, max(end, begin + 0.1) / 60))
    return gantt("Trials on the clock", "min", "trial", [str(trial.number) for trial in ran], bars)


def _asked(job: TuningJobRecord) -> Mapping[str, object]:
    spec = job.spec
    return {
        "target": target_words(spec),
        "load": load_words(spec),
        "objectives": [f"{one.direction} {one.metric}" for one in spec.objectives],
        "limits": [limit_words(one) for one in spec.limits],
        "SLO of a request": slo_words(spec.slo),
        "sampler and seed": f"{spec.sampler}, {spec.seed}",
        "trials": f"{job.counts.asked} asked, budget of the search {job.budget}",
        "state": f"{job.state.value} {job.reason} {job.message}",
    }


def _trials(trials: Sequence[TrialRecord], metrics: Sequence[str], measured: Sequence[MeasuredAttempt]) -> str:
    """With how far each agrees with the configuration in use, where that was measured."""
    agrees = {one.number: one.measurement.metrics.get(_AGREEMENT) for one in measured}
    column = [_AGREEMENT] if any(value is not None for value in agrees.values()) else []
    rows = [
        [
            trial.number,
            trial.purpose.value,
            f"{trial.state.value}, cut short" if trial.short else trial.state.value,
            *(trial.objectives or _nothing(metrics)),
            *(agrees.get(trial.number) for _ in column),
            dict(trial.setting),
            trial.reason[:300] or trial.why,
        ]
        for trial in trials[-_ROWS_MAX:]
    ]
    note = f"<p>The newest {_ROWS_MAX} of {len(trials)}.</p>" if len(trials) > _ROWS_MAX else ""
    return note + table(["trial", "purpose", "state", *metrics, *column, "setting", "why"], rows, words=True)


def _nothing(metrics: Sequence[str]) -> list[None]:
    return [None] * len(metrics)
