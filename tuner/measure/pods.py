"""One trial in a pod of its own: made, loaded from here, believed or not, gone. Fulfils `TrialRunner` on a cluster.

Nothing of what a user wrote runs in this process: commands and images run in pods of the job's namespace.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, Refused, TrimtabError
from controlplane.model.ports import PODS_LATER, StopSignal, TrialPod, TrialPodLauncher
from controlplane.model.tuning import LeasedTrial, Outcome, Verdict
from controlplane.model.tuning_job import CommandTarget, TuningSpec
from tuner.measure.command import metrics_in
from tuner.measure.crosscheck import Bands
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.launch import counters_of, resolved
from tuner.measure.engine.pod import Notes, PodProcess, StopOrEnd, stopped_within
from tuner.measure.engine.serving import NotServing
from tuner.measure.loadgen.run import LoadFailed, Stopped
from tuner.measure.trial import Address, Trusted, check_load, command_outcome, measured, not_ok

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PodRunner:
    """`notes`: hears why an attempt waits; an empty text says that it waits no more."""

    launcher: TrialPodLauncher
    notes: Callable[[LeasedTrial, str], None]
    bands: Bands = field(default_factory=Bands)
    request_timeout_s: float = 120.0
    ready_timeout_s: float = 500.0
    again_s: float = 5.0

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        """Whatever goes wrong is an outcome with a verdict and a reason; the pod is told to go whatever happens. Waiting
        for a node has a time limit of its own: a pod that waited has no less time to show what its setting is worth."""
        deadline_s = time.monotonic() + spec.measuring.timeout_s
        notes = Notes(lambda why: self.notes(leased, why))
        try:
            if not isinstance(spec.target, CommandTarget):
                if (
                    spec.load.trace is not None
                ):  # refused where jobs are made; this process holds secrets, and reads none
                    raise Refused("files of this process are not read for a job", field="load.trace")
                check_load(spec)
            pod = self._started(leased, spec, notes, stop, deadline_s)
            try:
                process = PodProcess(pod, notes)
                process.wait_started(stop, deadline_s)
                notes.clear(others=leased.attempt > 1)
                return self._measured(process, leased, spec, stop, time.monotonic() + spec.measuring.timeout_s)
            finally:
                pod.end()
        except NotServing as found:
            return not_ok(found.verdict, found.reason)
        except TrimtabError as error:
            own = isinstance(error, InvalidSpec) and (error.field or "").startswith("setting")
            return not_ok(Verdict.INFEASIBLE if own else Verdict.INFRASTRUCTURE, str(error))
        except (LoadFailed, Stopped) as error:
            return not_ok(Verdict.INFRASTRUCTURE, str(error))
        except Exception as error:  # a worker's loop must not end for one trial
            _log.exception("trial %s, attempt %d", leased.id, leased.attempt)
            return not_ok(Verdict.INFRASTRUCTURE, f"{type(error).__name__}: {error}")

    def _started(
        self, leased: LeasedTrial, spec: TuningSpec, notes: Notes, stop: StopSignal, deadline_s: float
    ) -> TrialPod:
        """Quotas and an API server that is away are waited for, as a node is: attempts are for what measuring shows."""
        while True:
            try:
                return self.launcher.start(leased, spec)
            except Refused as refused:
                if refused.reason not in PODS_LATER or time.monotonic() + self.again_s > deadline_s:
                    raise
                notes.say(str(refused))
                if stopped_within(stop, self.again_s):
                    raise NotServing(Verdict.INFRASTRUCTURE, "stopped") from refused

    def _measured(
        self, process: PodProcess, trial: LeasedTrial, spec: TuningSpec, stop: StopSignal, deadline_s: float
    ) -> Outcome:
        pod = process.pod
        if isinstance(spec.target, CommandTarget):
            return self._command(process, trial, spec, stop, deadline_s)
        engine = load().engine(pod.engine)
        host = pod.hardware()  # before the work: without it the figures could not be compared
        address = self._ready(process, engine.health_path, trial, stop, deadline_s)
        return measured(
            process, engine, counters_of(engine), Address(address, pod.port, pod.served_name, pod.api_key), trial, spec,
            # What else computes on the pod's node cannot be seen from here; the node is the pod's alone.
            trusted=Trusted(self.bands, None, self.request_timeout_s),
            resolved=resolved(pod.log(last=False), dict(trial.setting)),
            host=host, stop=StopOrEnd(stop, process), deadline_s=deadline_s,
        )  # fmt: skip

    @staticmethod
    def _command(
        process: PodProcess, trial: LeasedTrial, spec: TuningSpec, stop: StopSignal, deadline_s: float
    ) -> Outcome:
        begun_s = time.monotonic()
        ended = process.wait_over(stop, deadline_s)
        took_s = time.monotonic() - begun_s
        if ended.exit_code != 0:
            raise NotServing(*verdict_of(ended, when="(the command)"))
        return command_outcome(metrics_in(ended.log), trial, spec, took_s=took_s, host=process.pod.hardware())

    def _ready(self, process: PodProcess, path: str, trial: LeasedTrial, stop: StopSignal, deadline_s: float) -> str:
        """As on one machine, an engine that runs and does not get ready is tried once more; then its configuration is the
        reason."""
        try:
            return process.wait_ready(path, stop, min(deadline_s, time.monotonic() + self.ready_timeout_s))
        except NotServing as found:
            if "was not ready after" in found.reason and trial.attempt > 1:
                raise NotServing(Verdict.INFEASIBLE, found.reason) from found
            raise
