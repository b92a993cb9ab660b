"""A prediction as the contents of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tuner.axes import Floats
from tuner.serving.predict import Prediction
from tuner.serving.replay.result import ReplicaUse
from tuner.serving.report import Run

_MOST_CURVES = 4  # colours of the plots; the rest of a fleet is the same kind of curve


def run_of(prediction: Prediction, question: Mapping[str, Any], title: str) -> Run:
    """Timelines of the first replicas of each member."""
    result = prediction.result
    shown = _chosen(prediction)
    times = np.unique(np.concatenate([use.timeline.time_s for _, use in shown])) if shown else np.zeros(0)
    return Run(
        title=title,
        question=question,
        answer=prediction.answer,
        arrival_s=result.arrival_s,
        ttft_ms=result.ttft_ms,
        tpot_ms=result.tpot_ms,
        e2e_ms=result.e2e_ms,
        timeline_s=times,
        queue={f"waiting, {name}": _held(times, use.timeline.time_s, use.timeline.waiting) for name, use in shown},
        kv_fraction={name: _held(times, use.timeline.time_s, use.timeline.kv_fraction) for name, use in shown},
        batch={f"running, {name}": _held(times, use.timeline.time_s, use.timeline.running) for name, use in shown},
    )


def _chosen(prediction: Prediction) -> list[tuple[str, ReplicaUse]]:
    found, at = [], 0
    members = prediction.deployment.members
    for member in members:
        most = max(1, _MOST_CURVES // len(members))
        for number in range(min(member.count, most)):
            found.append((f"{member.role} {number}", prediction.result.replicas[at + number]))
        at += member.count
    return found


def _held(times: Floats, own: Floats, values: Floats) -> Floats:
    """A step curve at other times; NaN before its first point."""
    if not own.size:
        return np.full_like(times, np.nan)
    index = np.searchsorted(own, times, side="right") - 1
    return np.where(index >= 0, values[np.maximum(index, 0)], np.nan)
