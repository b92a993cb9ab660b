"""One run on a ready engine: load it, read what it counts, believe it or not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.catalog import Engine
from controlplane.model.ports import StopSignal
from controlplane.model.tuning import Verdict
from controlplane.model.tuning_job import RequestSlo
from tuner.measure.counters import NoCounters, Served, read, served
from tuner.measure.crosscheck import Bands, as_metrics, compare
from tuner.measure.definitions import Metrics, metrics_of
from tuner.measure.energy import EnergyMeter, energy_metrics
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.launch import Counters
from tuner.measure.engine.process import Running
from tuner.measure.engine.serving import NotServing
from tuner.measure.loadgen.job import LoadJob, LoadResult, Sample
from tuner.measure.loadgen.run import Look, Stopped, run_load
from tuner.measure.machine import Others

# The server counts a request when its last token leaves; a reading that is older than that is taken again.
_SETTLE_S, _SETTLE_AGAIN_S = 0.1, 1.0
_RATE_PCT = 2.0  # an open loop whose sends were off by more measured another load than was asked for
_OVERLOADED = (429, 503)  # refusals of a server that has too much to do: they break the SLO, the run stands


@dataclass(frozen=True, slots=True)
class Believed:
    """A run that stands. `cut`: its first requests said enough, and it was ended there."""

    metrics: Metrics
    samples: tuple[Sample, ...]
    cpu_s: float | None
    cut: bool = False


def one_run(
    process: Running,
    engine: Engine,
    counters: Counters,
    job: LoadJob,
    slo: RequestSlo | None,
    *,
    bands: Bands,
    others_pct_max: float | None,
    stop: StopSignal,
    deadline_s: float,
    meter: EnergyMeter | None = None,
    look: Look | None = None,
) -> Believed:
    """`meter`: of the hardware that the engine has; None: what it uses cannot be known from here. `look`: whether the
    first requests say enough. Raises NotServing with the verdict: the engine died, refused everything, or the run is not
    to be believed."""
    try:
        before = read(job.host, job.port, engine.metrics.path)
        # The machine's own count of CPU seconds says something only where the engine's are counted on it, too.
        cpu_before_s = process.cpu_s()
        others = None if cpu_before_s is None else Others(lambda: process.cpu_s() or 0.0)
        energy = None if meter is None else meter.begin()
        result = run_load(job, stop=stop, deadline_s=deadline_s, look=look)
        used = None if energy is None else energy.end()
        cpu_after_s = process.cpu_s()
        cpu_s = None if cpu_before_s is None or cpu_after_s is None else cpu_after_s - cpu_before_s
        disturbed_pct = None if others is None else others.share_pct(result.cpu_s)
        ended = process.poll()
        if ended is not None:
            raise NotServing(*verdict_of(ended, when="under load"))
        seen = _settled(before, job, result, engine, counters)
    except Stopped as error:
        ended = process.poll()
        if ended is not None:
            raise NotServing(*verdict_of(ended, when="under load")) from error
        raise
    except NoCounters as error:
        ended = process.poll()
        if ended is not None:
            raise NotServing(*verdict_of(ended, when="under load")) from error
        raise NotServing(Verdict.INVALID, f"the engine does not show its counters: {error}") from error
    _check_failures(process, result.samples, seen)
    _check_rate(job, result)
    compared = compare(result.samples, seen, job.clients, bands)
    if compared.disagreements:
        raise NotServing(Verdict.INVALID, "client and server disagree: " + "; ".join(compared.disagreements))
    if others_pct_max is not None and disturbed_pct is not None and disturbed_pct > others_pct_max:
        raise NotServing(
            Verdict.INVALID,
            f"other processes took {disturbed_pct:.0f} % of the cores (believed: up to {others_pct_max:g} %)",
        )
    metrics = metrics_of(result.samples, slo)
    metrics |= as_metrics(compared)
    metrics |= {
        "queue_mean_ms": None if seen.queue_mean_s is None else seen.queue_mean_s * 1e3,
        "preemptions": seen.preemptions,
        "steps": seen.steps,
        "engine_cpu_s": cpu_s,
        "client_cpu_ms_per_request": result.cpu_s / len(result.samples) * 1e3,
        "others_cpu_pct": disturbed_pct,
        "saturated": float(result.saturated),
    }
    metrics |= energy_metrics(used, sum(sample.output_tokens for sample in result.samples))
    metrics["engine_cpu_ms_per_token"] = None if cpu_s is None else _per_token(cpu_s, result.samples)
    return Believed(metrics, result.samples, cpu_s, result.cut)


def _settled(before: dict[str, float], job: LoadJob, result: LoadResult, engine: Engine, counters: Counters) -> Served:
    tokens = sum(sample.output_tokens for sample in result.samples)
    seen = None
    for pause_s in (_SETTLE_S, _SETTLE_AGAIN_S):
        time.sleep(pause_s)
        after = read(job.host, job.port, engine.metrics.path)
        seen = served(before, after, engine.metrics, counters.steps_metric, counters.restarts_metric)
        if seen.output_tokens is None or seen.output_tokens >= tokens:
            break
    assert seen is not None
    return seen


def _check_failures(process: Running, samples: Sequence[Sample], seen: Served) -> None:
    if seen.restarts:
        tail = "\n".join(process.log()[-15:])
        raise NotServing(Verdict.INFEASIBLE, f"the engine crashed under load and was started again\n{tail}")
    failed = [sample for sample in samples if sample.error]
    refused = [sample for sample in failed if sample.status >= 400 and sample.status not in _OVERLOADED]
    if refused:
        raise NotServing(
            Verdict.INFEASIBLE, f"the engine refused {len(refused)} of {len(samples)} requests: {refused[0].error}"
        )
    told = [sample for sample in failed if sample.error.startswith("error event")]
    if told:
        raise NotServing(Verdict.INFEASIBLE, f"{len(told)} of {len(samples)} answers broke off: {told[0].error}")
    odd = [sample for sample in failed if sample.status == 200 and "of" in sample.error and "tokens" in sample.error]
    if odd:
        raise NotServing(Verdict.INVALID, f"{len(odd)} of {len(samples)} answers have another length: {odd[0].error}")
    if len(failed) == len(samples):
        raise NotServing(Verdict.INVALID, f"no request came back whole: {failed[0].error}")


def _check_rate(job: LoadJob, result: LoadResult) -> None:
    """An open loop sends as many as intended in the time intended, or it measured something else."""
    sent = sorted(sample.sent_s for sample in result.samples if sample.sent_s is not None)
    if job.clients is not None or len(sent) < 2 or result.saturated:
        return
    intended = sorted(sample.intended_s for sample in result.samples)
    off_pct = abs((sent[-1] - sent[0]) / max(intended[-1] - intended[0], 1e-9) - 1) * 100
    if off_pct > _RATE_PCT:
        raise NotServing(Verdict.INVALID, f"the load was sent {off_pct:.1f} % off its rate (believed: {_RATE_PCT:g} %)")


def _per_token(cpu_s: float, samples: Sequence[Sample]) -> float | None:
    tokens = sum(sample.output_tokens for sample in samples)
    return cpu_s * 1e3 / tokens if tokens else None
