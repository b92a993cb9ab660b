"""One trial on this machine: lease, start, load, believe or not. Fulfils `controlplane.model.ports.TrialRunner`."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName
from controlplane.model.ports import StopSignal
from controlplane.model.tuning import LeasedTrial, Measurement, Outcome, TrialPurpose, Verdict
from controlplane.model.tuning_job import CommandTarget, EngineTarget, TuningSpec
from tuner.measure.command import argv_of, run_command
from tuner.measure.crosscheck import Bands
from tuner.measure.definitions import DEFINITIONS
from tuner.measure.engine.launch import HOST, SERVED_NAME, Launcher, resolved, settings_of
from tuner.measure.engine.process import sweep
from tuner.measure.engine.serving import NotServing, serving
from tuner.measure.leases import Hardware, NotLeased, hold, live_engines
from tuner.measure.loadgen.job import LoadJob
from tuner.measure.loadgen.plan import digest, rows_of
from tuner.measure.loadgen.run import LoadFailed, Stopped
from tuner.measure.machine import fingerprint
from tuner.measure.one_run import Believed, one_run
from tuner.measure.repeats import combined, enough, half_width_pct
from tuner.measure.samples import as_parquet

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MeasuringRunner:
    """`launchers`: engines of the catalogue that are installed here. `others_pct_max`: share of the cores that other
    processes may take during a run, None: any. `commands`: user commands may run (embedded: the caller is this user).
    """

    folder: Path
    launchers: Mapping[str, Launcher]
    hardware: Hardware = field(default_factory=Hardware)
    bands: Bands = field(default_factory=Bands)
    others_pct_max: float | None = 25.0
    beside_live: bool = False
    commands: bool = False
    request_timeout_s: float = 120.0
    ready_timeout_s: float = 500.0  # a vLLM on a busy CPU host took 143 s

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        """Whatever goes wrong is an outcome with a verdict and a reason."""
        deadline_s = time.monotonic() + spec.measuring.timeout_s
        try:
            with hold(self.folder, self.hardware, stop=stop, deadline_s=deadline_s) as locks:
                swept = sweep()
                if swept:
                    _log.warning("ended %d processes of a measurement whose worker and guard were killed", swept)
                self._refuse_live()
                if isinstance(spec.target, CommandTarget):
                    return self._command(spec.target, leased, spec, locks, stop, deadline_s)
                if isinstance(spec.target, EngineTarget):
                    return self._engine(spec.target, leased, spec, locks, stop, deadline_s)
            return _not_ok(Verdict.INFRASTRUCTURE, "a deployment is measured in pods, not by this worker")
        except NotServing as found:
            return _not_ok(self._patience(found, leased), found.reason)
        except (InvalidSpec, UnknownName) as error:
            return _not_ok(Verdict.INFEASIBLE, str(error))
        except (NotLeased, LoadFailed, Stopped, TrimtabError) as error:
            return _not_ok(Verdict.INFRASTRUCTURE, str(error))
        except Exception as error:  # a worker's loop must not end for one trial
            _log.exception("trial %s, attempt %d", leased.id, leased.attempt)
            return _not_ok(Verdict.INFRASTRUCTURE, f"{type(error).__name__}: {error}")

    def _refuse_live(self) -> None:
        live = [] if self.beside_live else live_engines()
        if live:
            raise NotLeased(
                f"this host serves already ({live[0]}, {len(live)} in all): a measurement would disturb it and be "
                "disturbed; allow it with beside_live, or measure elsewhere"
            )

    @staticmethod
    def _patience(found: NotServing, trial: LeasedTrial) -> Verdict:
        """An engine that runs and does not get ready is tried once more; then its configuration is the reason."""
        slow = found.verdict is Verdict.INFRASTRUCTURE and "was not ready after" in found.reason
        return Verdict.INFEASIBLE if slow and trial.attempt > 1 else found.verdict

    def _command(
        self, target: CommandTarget, trial: LeasedTrial, spec: TuningSpec, locks: list[int], stop: StopSignal,
        deadline_s: float,
    ) -> Outcome:  # fmt: skip
        if not self.commands:
            return _not_ok(
                Verdict.INFRASTRUCTURE, "this worker runs no user commands: they run in pods of their caller"
            )
        argv = argv_of(target.command, trial.setting, trial.seed)
        metrics, took_s = run_command(
            argv, locks=locks, cpus=self.hardware.cpus, stop=stop, deadline_s=deadline_s
        )  # fmt: skip
        missing = [name for name in _wanted(spec) if name not in metrics]
        if missing:
            return _not_ok(Verdict.INVALID, f"the command printed no line {missing[0]}=NUMBER")
        return Outcome(
            verdict=Verdict.OK,
            measurement=Measurement(
                metrics=metrics, definitions="command", duration_s=took_s, resolved=dict(trial.setting),
                host=fingerprint(self.hardware.gpus, self.hardware.cpus), seed=trial.seed,
            ),
        )  # fmt: skip

    def _engine(
        self, target: EngineTarget, trial: LeasedTrial, spec: TuningSpec, locks: list[int], stop: StopSignal,
        deadline_s: float,
    ) -> Outcome:  # fmt: skip
        engine = load().engine(target.engine, field="target.engine")
        launcher = self.launchers.get(engine.id)
        if launcher is None:
            return _not_ok(Verdict.INFRASTRUCTURE, f"{engine.id} is not installed on this worker")
        knobs, shape = settings_of(engine, trial.setting, target.shape)
        how = spec.measuring
        # Confirmation compares processes, not runs of one process: the driver pairs them by their seeds.
        most = 1 if trial.purpose is not TrialPurpose.SEARCH else how.runs_max
        clients = spec.load.concurrency if spec.load.arrivals == "closed" else None
        warm_up = max(how.warm_up_requests, clients or 0)  # every client has sent one before the measuring begins
        runs: list[Believed] = []
        loads: list[str] = []
        try:
            rows_of(spec.load, warm_up + how.requests, 0)
        except InvalidSpec as error:  # before an engine is started, and not the setting's fault
            return _not_ok(Verdict.INFRASTRUCTURE, f"load: {error}")
        with serving(
            engine, launcher, target.model, knobs, shape, folder=self.folder, locks=locks, cpus=self.hardware.cpus,
            gpus=self.hardware.gpus, stop=stop, deadline_s=min(deadline_s, time.monotonic() + self.ready_timeout_s),
        ) as (process, port):  # fmt: skip
            really = resolved(process.log(), {**knobs, **shape})
            while True:
                seed = _seed(trial.seed, len(runs))
                rows = rows_of(spec.load, warm_up + how.requests, seed)
                loads.append(digest(rows, spec.load, seed))
                job = LoadJob(
                    HOST, port, SERVED_NAME, rows, clients=clients, warm_up=warm_up, seed=seed,
                    shared_prefix=spec.load.shared_prefix_tokens, timeout_s=self.request_timeout_s,
                )  # fmt: skip
                runs.append(
                    one_run(
                        process, engine, launcher, job, spec.slo, bands=self.bands,
                        others_pct_max=self.others_pct_max, stop=stop, deadline_s=deadline_s,
                    )
                )  # fmt: skip
                figures = [run.metrics for run in runs]
                metric = spec.objectives[0].metric
                if len(runs) >= most or enough(figures, runs[0].samples, metric, spec.slo, how):
                    break
        metrics = combined(figures)
        missing = [name for name in _wanted(spec) if name not in metrics]
        if missing:
            return _not_ok(
                Verdict.INFRASTRUCTURE,
                f"no metric {missing[0]!r} (goodput needs an slo); there are {', '.join(sorted(metrics))}",
            )
        metrics["half_width_pct"] = half_width_pct(figures, runs[0].samples, metric, spec.slo)
        return Outcome(
            verdict=Verdict.OK,
            measurement=Measurement(
                metrics=metrics,
                definitions=DEFINITIONS,
                duration_s=sum(run.metrics["duration_s"] or 0.0 for run in runs),
                cpu_s=sum(run.cpu_s for run in runs),
                engine_version=engine.version,
                resolved=really,
                host=fingerprint(self.hardware.gpus, self.hardware.cpus),
                load=_joined(loads),
                seed=trial.seed,
            ),
            samples=as_parquet([run.samples for run in runs]),
        )


def _wanted(spec: TuningSpec) -> list[str]:
    return [one.metric for one in spec.objectives] + [one.metric for one in spec.limits]


def _seed(trial_seed: int, run: int) -> int:
    """Trials with one seed send the same requests in their first run, the same in their second, and so on: pairs."""
    return int.from_bytes(hashlib.sha256(f"{trial_seed}:{run}".encode()).digest()[:4], "little") >> 1


def _joined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256(",".join(digests).encode()).hexdigest()[:32]


def _not_ok(verdict: Verdict, reason: str) -> Outcome:
    return Outcome(verdict=verdict, reason=reason[:4096])
