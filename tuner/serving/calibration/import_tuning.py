"""Reads the measurements of a tuning job from its bundle (`trimtab tune bundle JOB`): every believed run of an engine, with
the settings it ran with.

A job names engine, model and load; accelerator and model are taken from the target where it names them for the catalogue
(`accelerator`, `catalogModel`) and are the user's case otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.tuning import Measurement as Measured
from controlplane.model.tuning import Setting
from controlplane.model.tuning_job import EngineTarget, TuningSpec
from tuner.search.predicted import engine_fields, known_names, load_fields
from tuner.serving.calibration.importers import readable
from tuner.serving.calibration.measurement import MAX_LATENCY_MS, Measurement, with_case
from tuner.serving.question import parse_question
from tuner.tuning_recorded import read_bundle

_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def read(path: Path, case: Mapping[str, Any]) -> list[Measurement]:
    """One Measurement for each believed one of the job; those of an open loop that was saturated are left out, for they
    were stopped early, and so are those that a short run ended. Raises Unsupported for a job that tuned no engine."""
    found = read_bundle(readable(path))
    spec = found.job.spec
    if not isinstance(spec.target, EngineTarget):
        raise Unsupported(
            "a job that tuned no engine calibrates no engine", field=str(path), value=spec.target.kind, limit="engine"
        )
    runs = [
        _measurement(one.measurement, found.settings[one.number], spec, case, f"{path.name}#{one.number}.{one.attempt}")
        for one in found.believed()
        if not one.measurement.metrics.get("saturated")
    ]
    if not runs:
        raise InvalidSpec("holds no believed measurement", field=str(path))
    return runs


def _measurement(
    run: Measured, setting: Setting, spec: TuningSpec, case: Mapping[str, Any], source: str
) -> Measurement:
    assert isinstance(spec.target, EngineTarget)
    model, accelerator = known_names(spec.target)
    cpu = accelerator is not None and load().accelerator(accelerator, field="target.accelerator").kind == "cpu"
    runs = int(run.metrics.get("runs") or 1)
    said = {
        "model": model,
        "system": accelerator,
        "backend": spec.target.engine,
        "backend_version": None,
        **({} if spec.load.arrivals == "trace" else load_fields(spec)),
        # What was asked for: engines report far more than the catalogue has names for.
        **engine_fields({**spec.target.shape, **setting}, cpu=cpu),
        "requests": max(1, round((run.metrics.get("requests") or spec.measuring.requests) / runs)),
    }
    try:
        question = parse_question(with_case(case, said))
    except TrimtabError as error:
        hint = error.hint or "give it in the case: the job does not name it"
        raise type(error)(
            error.message, field=f"{source}: {error.field}", value=error.value, limit=error.limit, hint=hint
        ) from None
    return Measurement(
        question=question,
        ttft_ms=_latencies(run, "ttft", source),
        tpot_ms=_latencies(run, "tpot", source),
        source=source,
    )


def _latencies(run: Measured, name: str, source: str) -> dict[str, float]:
    values = {word: run.metrics.get(f"{name}_{word}_ms") for word in _STATISTICS}
    found = {word: value for word, value in values.items() if value is not None and 0 < value <= MAX_LATENCY_MS}
    if not found:
        raise InvalidSpec(f"no {name} in this measurement", field=source, hint="outputs of one token have no tpot")
    return found
