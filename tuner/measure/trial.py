"""A trial on a ready engine, wherever that runs: runs until they are enough, and what they say together."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

from controlplane.catalog import Engine
from controlplane.model.ports import StopSignal
from controlplane.model.tuning import LeasedTrial, Measurement, Outcome, Setting, TrialPurpose, Verdict
from controlplane.model.tuning_job import TuningSpec
from tuner.measure.crosscheck import Bands
from tuner.measure.definitions import DEFINITIONS, Metrics
from tuner.measure.energy import METRICS as ENERGY
from tuner.measure.energy import EnergyMeter
from tuner.measure.engine.launch import Counters
from tuner.measure.engine.process import Running
from tuner.measure.loadgen.job import LoadJob
from tuner.measure.loadgen.plan import digest, rows_of, run_seed
from tuner.measure.one_run import Believed, one_run
from tuner.measure.repeats import combined, enough, half_width_pct
from tuner.measure.samples import as_parquet
from tuner.measure.short import short_run


@dataclass(frozen=True, slots=True)
class Address:
    """Where the engine answers."""

    host: str
    port: int
    served_name: str
    api_key: str = ""


@dataclass(frozen=True, slots=True)
class Trusted:
    """What must hold for a run to be believed, how long one request may take, and what counts its energy."""

    bands: Bands
    others_pct_max: float | None
    request_timeout_s: float
    meter: EnergyMeter | None = None


def clients_of(spec: TuningSpec) -> int | None:
    """Of a closed loop; None: requests come when they come."""
    return spec.load.concurrency if spec.load.arrivals == "closed" else None


def warm_up_of(spec: TuningSpec) -> int:
    """Every client has sent a request before the measuring begins."""
    return max(spec.measuring.warm_up_requests, clients_of(spec) or 0)


def check_load(spec: TuningSpec) -> None:
    """Before an engine is started. Raises InvalidSpec, which is not the setting's fault."""
    rows_of(spec.load, warm_up_of(spec) + spec.measuring.requests, 0)


def measured(
    process: Running,
    engine: Engine,
    counters: Counters,
    at: Address,
    trial: LeasedTrial,
    spec: TuningSpec,
    *,
    trusted: Trusted,
    resolved: Setting,
    host: str,
    stop: StopSignal,
    deadline_s: float,
    extra: Metrics | None = None,
) -> Outcome:
    """Load the engine until its figures are sure enough, or until its first requests say that it comes nowhere near what
    it is held against. `host`: names the hardware; `extra`: what was measured before. Raises NotServing, LoadFailed,
    Stopped."""
    how = spec.measuring
    # Confirmation compares processes, not runs of one process: the driver pairs them by their seeds.
    most = 1 if trial.purpose is not TrialPurpose.SEARCH else how.runs_max
    runs: list[Believed] = []
    loads: list[str] = []
    metric = spec.objectives[0].metric
    short, share = short_run(spec, trial.bar, extra or {}), 1.0
    while True:
        seed = run_seed(trial.seed, len(runs))
        rows = rows_of(spec.load, warm_up_of(spec) + how.requests, seed)
        looks = short if not runs else None
        loads.append(digest(rows, spec.load, seed))
        job = LoadJob(
            at.host, at.port, at.served_name, rows, clients=clients_of(spec), warm_up=warm_up_of(spec), seed=seed,
            shared_prefix=spec.load.shared_prefix_tokens, timeout_s=trusted.request_timeout_s, api_key=at.api_key,
            look_at=0 if looks is None else looks.requests,
        )  # fmt: skip
        runs.append(
            one_run(
                process, engine, counters, job, spec.slo, bands=trusted.bands, others_pct_max=trusted.others_pct_max,
                stop=stop, deadline_s=deadline_s, meter=trusted.meter,
                look=None if looks is None else functools.partial(looks.enough, rows=rows),
            )
        )  # fmt: skip
        figures = [run.metrics for run in runs]
        if runs[-1].cut:
            share = min(1.0, (figures[-1]["requests"] or 0.0) / how.requests)
        if share < 1:
            break
        if len(runs) >= most or enough(figures, runs[0].samples, metric, spec.slo, how):
            break
    metrics = combined(figures) | (extra or {})
    missing = [name for name in wanted(spec) if name not in metrics]
    if missing:
        return not_ok(
            Verdict.INFRASTRUCTURE,
            f"no metric {missing[0]!r} (goodput needs an slo); there are {', '.join(sorted(metrics))}",
        )
    unmetered = next((name for name in wanted(spec) if name in ENERGY and metrics[name] is None), None)
    if unmetered is not None:
        why = "the pod's node is not asked" if trusted.meter is None else trusted.meter.why_not()
        return not_ok(Verdict.INVALID, f"{unmetered} is unknown: {why or 'a counter began again during the run'}")
    metrics["half_width_pct"] = half_width_pct(figures, runs[0].samples, metric, spec.slo)
    cpu_s = [run.cpu_s for run in runs if run.cpu_s is not None]
    return Outcome(
        verdict=Verdict.OK,
        measurement=Measurement(
            metrics=metrics,
            definitions=DEFINITIONS,
            duration_s=sum(run.metrics["duration_s"] or 0.0 for run in runs),
            cpu_s=sum(cpu_s) if len(cpu_s) == len(runs) else None,
            engine_version=engine.version,
            resolved=resolved,
            host=host,
            load=_joined(loads),
            seed=trial.seed,
            share=share,
        ),
        reason="" if short is None or share == 1 else f"cut short after {share:.0%} of a run: {short.why}",
        samples=as_parquet([run.samples for run in runs]),
    )


def command_outcome(
    metrics: dict[str, float | None], trial: LeasedTrial, spec: TuningSpec, *, took_s: float, host: str
) -> Outcome:
    """What a command that ended well says."""
    missing = [name for name in wanted(spec) if name not in metrics]
    if missing:
        return not_ok(Verdict.INVALID, f"the command printed no line {missing[0]}=NUMBER")
    return Outcome(
        verdict=Verdict.OK,
        measurement=Measurement(
            metrics=metrics, definitions="command", duration_s=took_s, resolved=dict(trial.setting), host=host,
            seed=trial.seed,
        ),
    )  # fmt: skip


def wanted(spec: TuningSpec) -> list[str]:
    """Metrics that a measurement of this job must have."""
    return [one.metric for one in spec.objectives] + [one.metric for one in spec.limits]


def not_ok(verdict: Verdict, reason: str) -> Outcome:
    """An attempt without a measurement."""
    return Outcome(verdict=verdict, reason=reason[:4096])


def no_room(reason: str) -> Outcome:
    """An attempt that got no hardware in all its time for waiting."""
    return Outcome(verdict=Verdict.INFRASTRUCTURE, reason=reason[:4096], waited=True)


def _joined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256(",".join(digests).encode()).hexdigest()[:32]
