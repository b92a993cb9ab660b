"""One trial on this machine: lease, start, load, believe or not. Fulfils `controlplane.model.ports.TrialRunner`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.catalog import Engine, load
from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName
from controlplane.model.ports import StopSignal
from controlplane.model.tuning import LeasedTrial, Outcome, Setting, Verdict
from controlplane.model.tuning_job import CommandTarget, EngineTarget, TuningSpec
from tuner.measure.agreement import Decoder, Reference, is_measured, keep, kept, reference_key, weights_of
from tuner.measure.command import argv_of, run_command
from tuner.measure.crosscheck import Bands
from tuner.measure.definitions import Metrics
from tuner.measure.energy import EnergyMeter
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.launch import HOST, SERVED_NAME, Launcher, resolved, settings_of
from tuner.measure.engine.process import GuardedProcess, sweep
from tuner.measure.engine.serving import NotServing, serving
from tuner.measure.leases import Hardware, InUse, NotLeased, hold, live_engines
from tuner.measure.loadgen.run import LoadFailed, Stopped
from tuner.measure.machine import fingerprint
from tuner.measure.trial import Address, Trusted, check_load, command_outcome, measured, no_room, not_ok
from tuner.search.spaces.training_words import words_of

_log = logging.getLogger(__name__)
_DYING_S = 1.0

Start = Callable[[Setting, Setting], contextlib.AbstractContextManager[tuple[GuardedProcess, int]]]


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
            return not_ok(Verdict.INFRASTRUCTURE, "a deployment is measured in pods, not by this worker")
        except NotServing as found:
            return not_ok(self._patience(found, leased), found.reason)
        except (InvalidSpec, UnknownName) as error:
            return not_ok(Verdict.INFEASIBLE, str(error))
        except InUse as error:
            return no_room(str(error))
        except (NotLeased, LoadFailed, Stopped, TrimtabError) as error:
            return not_ok(Verdict.INFRASTRUCTURE, str(error))
        except Exception as error:  # a worker's loop must not end for one trial
            _log.exception("trial %s, attempt %d", leased.id, leased.attempt)
            return not_ok(Verdict.INFRASTRUCTURE, f"{type(error).__name__}: {error}")

    def _refuse_live(self) -> None:
        live = [] if self.beside_live else live_engines()
        if live:
            raise NotLeased(
                f"this host serves already ({live[0]}, {len(live)} in all): a measurement would disturb it and be "
                "disturbed; allow it with beside_live, or measure elsewhere"
            )

    def _meter(self) -> EnergyMeter:
        return EnergyMeter(self.hardware.gpus, alone=not self.hardware.share_host)

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
            return not_ok(Verdict.INFRASTRUCTURE, "this worker runs no user commands: they run in pods of their caller")
        argv = argv_of(target.command, words_of(target, trial.setting), trial.seed)
        metrics, took_s = run_command(
            argv, locks=locks, cpus=self.hardware.cpus, stop=stop, deadline_s=deadline_s
        )  # fmt: skip
        host = fingerprint(self.hardware.gpus, self.hardware.cpus)
        return command_outcome(metrics, trial, spec, took_s=took_s, host=host)

    def _engine(
        self, target: EngineTarget, trial: LeasedTrial, spec: TuningSpec, locks: list[int], stop: StopSignal,
        deadline_s: float,
    ) -> Outcome:  # fmt: skip
        engine = load().engine(target.engine, field="target.engine")
        launcher = self.launchers.get(engine.id)
        if launcher is None:
            return not_ok(Verdict.INFRASTRUCTURE, f"{engine.id} is not installed on this worker")
        knobs, shape = settings_of(engine, trial.setting, target.shape)
        try:
            check_load(spec)
        except InvalidSpec as error:
            return not_ok(Verdict.INFRASTRUCTURE, f"load: {error}")
        start = self._start(engine, launcher, target.model, locks, stop, deadline_s)
        reference = self._reference(engine, target, spec, start, stop) if is_measured(spec) else None
        with start(knobs, shape) as (process, port):
            extra = {} if reference is None else self._agreement(process, port, reference, stop)
            return measured(
                process, engine, launcher, Address(HOST, port, SERVED_NAME), trial, spec,
                trusted=Trusted(self.bands, self.others_pct_max, self.request_timeout_s, self._meter()),
                resolved=resolved(process.log(), {**knobs, **shape}),
                host=fingerprint(self.hardware.gpus, self.hardware.cpus), stop=stop, deadline_s=deadline_s,
                extra=extra,
            )  # fmt: skip

    @staticmethod
    def _agreement(process: GuardedProcess, port: int, reference: Reference, stop: StopSignal) -> Metrics:
        try:
            return Decoder(HOST, port, SERVED_NAME, stop).agreement(reference)
        except NotServing:
            if not stop.wait(_DYING_S):  # a connection is lost before the process is reaped
                ended = process.poll()
                if ended is not None:
                    raise NotServing(*verdict_of(ended, when="with one request")) from None
            raise

    def _start(
        self, engine: Engine, launcher: Launcher, model: str, locks: list[int], stop: StopSignal, deadline_s: float
    ) -> Start:
        def start(knobs: Setting, shape: Setting) -> contextlib.AbstractContextManager[tuple[GuardedProcess, int]]:
            return serving(
                engine, launcher, model, knobs, shape, folder=self.folder, locks=locks, cpus=self.hardware.cpus,
                gpus=self.hardware.gpus, stop=stop,
                deadline_s=min(deadline_s, time.monotonic() + self.ready_timeout_s),
            )  # fmt: skip

        return start

    def _reference(
        self, engine: Engine, target: EngineTarget, spec: TuningSpec, start: Start, stop: StopSignal
    ) -> Reference:
        """What the configuration in use answers on this machine: decoded once, then kept beside the leases."""
        in_use = {**(spec.space.fixed if spec.space is not None else {}), **spec.baseline}
        knobs, shape = settings_of(engine, in_use, target.shape)
        host = fingerprint(self.hardware.gpus, self.hardware.cpus)
        facts = {"engine": engine.id, "version": engine.version, "model": weights_of(target.model), "host": host}
        key = reference_key({**facts, "knobs": knobs, "shape": shape})
        found = kept(self.folder, key)
        if found is None:
            try:
                with start(knobs, shape) as (_, port):
                    found = Decoder(HOST, port, SERVED_NAME, stop).reference()
            except NotServing as error:
                # Not the trial's fault: nothing can be said of any setting until the one in use works.
                raise NotServing(Verdict.INFRASTRUCTURE, f"the configuration in use: {error.reason}") from error
            keep(self.folder, key, found)
        return found
