"""A step table corrected by a calibration, with the host times that belong to it and the interval of the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from controlplane.model.plans import Role
from tuner.serving.calibration.labels import distance_of, labels_of
from tuner.serving.calibration.light import within_light
from tuner.serving.calibration.parameters import Calibration, Distance, Knob, Metric, load_calibration, matching
from tuner.serving.case import EngineCase
from tuner.serving.step.table import StepTable

# Bounds of a correction: a table that needs more than this is the wrong table, not a slow engine.
LEAST_FACTOR, MOST_FACTOR = 0.5, 2.5
_MOST_MS: dict[Knob, float] = {
    "step_ms": 50.0, "sequence_ms": 1.0, "request_ms": 2000.0, "entry_token_ms": 0.1, "launch_ms": 500.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Calibrated:
    """What the replay runs on. `host_step_ms`: each iteration; `host_sequence_ms`: each sequence in it; `request_ms`:
    from a client's sending to the engine's queue; `entry_token_ms`: each prompt token in a front-end that reads one
    prompt after the other. `distance`: how far the case is from what was fitted."""

    table: StepTable
    host_step_ms: float
    host_sequence_ms: float
    request_ms: float
    entry_token_ms: float
    distance: Distance
    notes: tuple[str, ...]
    calibration: Calibration

    def interval(self, metric: Metric) -> tuple[float, float]:
        """Factors on a predicted latency that bound the true mean with 90 % confidence, lo <= 1 <= hi."""
        return interval(self.calibration, self.table.provenance.tier, self.distance, metric)


def calibrate(case: EngineCase, table: StepTable, calibration: Calibration | None = None) -> Calibrated:
    """The case's table after the calibration (None: the packaged one). Effects of engines, accelerators and models that
    the fit has not seen are absent by construction: such a case gets those of its physical classes only."""
    chosen = load_calibration() if calibration is None else calibration
    labels = labels_of(case, table)
    found = matching(chosen, labels)
    prefill, decode = (factor(found[knob]) for knob in ("prefill", "decode"))
    distance = distance_of(chosen, case)
    changed = corrected(table, found)
    if (prefill, decode) != (1.0, 1.0):
        changed, held = within_light(case, changed)
    else:
        held = ()
    step_ms, sequence_ms = bounded("step_ms", found["step_ms"]), bounded("sequence_ms", found["sequence_ms"])
    request_ms, launch_ms = bounded("request_ms", found["request_ms"]), bounded("launch_ms", found["launch_ms"])
    entry_token_ms = bounded("entry_token_ms", found["entry_token_ms"])
    notes = (
        f"calibration {chosen.name}, {_standing(chosen, case, distance)}: prefill x{prefill:.2f}, decode x{decode:.2f}, host {step_ms:.2f} ms a "
        f"step, {sequence_ms * 1e3:.0f} us a sequence, {request_ms:.1f} ms a request, {entry_token_ms * 1e3:.1f} us a "
        f"prompt token, {launch_ms:.0f} ms at least with prompts",
        *held,
    )
    return Calibrated(
        table=replace(
            changed,
            provenance=table.provenance.model_copy(update={"notes": [*table.provenance.notes, *notes]}),
        ),
        host_step_ms=step_ms,
        host_sequence_ms=sequence_ms,
        request_ms=request_ms,
        entry_token_ms=entry_token_ms,
        distance=distance,
        notes=notes,
        calibration=chosen,
    )


def corrected(table: StepTable, found: Mapping[Knob, float]) -> StepTable:
    """The table under the factors, and no iteration with prompts shorter than its launch."""
    prefill, decode = factor(found["prefill"]), factor(found["decode"])
    return replace(
        table,
        context_ms=np.maximum(table.context_ms * prefill, bounded("launch_ms", found["launch_ms"])),
        context_attention_ms=table.context_attention_ms * prefill,
        decode_ms=table.decode_ms * decode,
        decode_attention_ms=table.decode_attention_ms * decode,
    )


def _standing(chosen: Calibration, case: EngineCase, distance: Distance) -> str:
    """How near the fit is, in words: one may be of exactly this engine, and its intervals not proven."""
    exactly = {("engine", case.engine), ("accelerator", case.accelerator), ("model", case.model)}
    if distance != "known" and any(exactly <= set(effect.when.items()) for effect in chosen.effects):
        return "fitted to runs of it, intervals not proven on loads left out"
    return distance


def interval(calibration: Calibration, tier: str, distance: Distance, metric: Metric) -> tuple[float, float]:
    """The band of a tier at a distance. Tiers that were never measured get the widest band there is."""
    bands = [band for band in calibration.bands if band.metric == metric]
    exact = [band for band in bands if band.tier == tier and band.distance == distance]
    if exact:
        return exact[0].lo, exact[0].hi
    return min((band.lo for band in bands), default=0.1), max((band.hi for band in bands), default=10.0)


def of_roles(bands: Sequence[tuple[Role, tuple[float, float]]], metric: Metric) -> tuple[float, float] | None:
    """The band of a deployment of several engines: the widest of those that make the metric. With prefill and decode apart
    the first token is the prefill engine's and the others are the decode engine's; whole answers are both's."""
    absent: Role | None = {"ttft": "decode", "tpot": "prefill"}.get(metric)  # type: ignore[assignment]
    found = [band for role, band in bands if role != absent]
    return (min(lo for lo, _ in found), max(hi for _, hi in found)) if found else None


def bounded(knob: Knob, value: float) -> float:
    """A host time within its bounds."""
    return min(max(value, 0.0), _MOST_MS[knob])


def factor(logarithm: float) -> float:
    """A factor on step times within its bounds. Effects add up, so the sum may be beyond what `exp` can say."""
    if logarithm >= math.log(MOST_FACTOR):
        return MOST_FACTOR
    return max(math.exp(logarithm), LEAST_FACTOR)
