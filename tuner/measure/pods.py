"""One trial in a pod of its own: made, loaded from here, believed or not, gone. Fulfils `TrialRunner` on a cluster.

Nothing of what a user wrote runs in this process: commands and images run in pods of the job's namespace.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, Refused, TrimtabError
from controlplane.model.ports import PODS_LATER, ReferenceStore, StopSignal, TrialPodLauncher
from controlplane.model.tuning import LeasedTrial, Outcome, Verdict
from controlplane.model.tuning_job import CommandTarget, TuningSpec
from tuner.measure.agreement import Reference, is_measured
from tuner.measure.command import metrics_in
from tuner.measure.crosscheck import Bands
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.launch import counters_of, resolved
from tuner.measure.engine.pod import Notes, PodProcess, StopOrEnd, stopped_within
from tuner.measure.engine.serving import NoRoom, NotServing
from tuner.measure.loadgen.run import LoadFailed, Stopped
from tuner.measure.pod_reference import References, agreement
from tuner.measure.trial import Address, Trusted, check_load, command_outcome, measured, no_room, not_ok

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Attempt:
    leased: LeasedTrial
    spec: TuningSpec
    notes: Notes
    stop: StopSignal


@dataclass(frozen=True, slots=True)
class PodRunner:
    """`notes`: hears why an attempt waits; an empty text says that it waits no more."""

    launcher: TrialPodLauncher
    notes: Callable[[LeasedTrial, str], None]
    references: ReferenceStore
    bands: Bands = field(default_factory=Bands)
    request_timeout_s: float = 120.0
    ready_timeout_s: float = 500.0
    again_s: float = 5.0

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        """Whatever goes wrong is an outcome with a verdict and a reason; pods are told to go whatever happens. Waiting
        for a node has a time limit of its own: a pod that waited has no less time to show what its setting is worth, and
        an attempt that waited in vain is none."""
        notes = Notes(lambda why: self.notes(leased, why))
        try:
            if not isinstance(spec.target, CommandTarget):
                if (
                    spec.load.trace is not None
                ):  # refused where jobs are made; this process holds secrets, and reads none
                    raise Refused("files of this process are not read for a job", field="load.trace")
                check_load(spec)
            attempt = _Attempt(leased, spec, notes, stop)
            if is_measured(spec) and not isinstance(spec.target, CommandTarget):
                return self._compared(attempt)
            with self._running(attempt) as process:
                return self._measured(process, attempt)
        except NoRoom as found:
            return no_room(found.reason)
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

    @contextmanager
    def _running(self, attempt: _Attempt, *, in_use: bool = False, node: str | None = None) -> Iterator[PodProcess]:
        """A pod of the attempt from its start on; it is told to go at the end. Raises NoRoom, NotServing."""
        deadline_s = time.monotonic() + attempt.spec.measuring.timeout_s
        leased, spec = attempt.leased, attempt.spec
        pod = self._asked(lambda: self.launcher.start(leased, spec, in_use=in_use, node=node), attempt, deadline_s)
        try:
            process = PodProcess(pod, attempt.notes)
            process.wait_started(attempt.stop, deadline_s)
            attempt.notes.clear(others=leased.attempt > 1)
            yield process
        finally:
            pod.end()

    def _asked(self, what: Callable[[], T], attempt: _Attempt, deadline_s: float) -> T:
        """Quotas and an API server that is away are waited for, as a node is: attempts are for what measuring shows."""
        while True:
            try:
                return what()
            except Refused as refused:
                if refused.reason not in PODS_LATER:
                    raise
                if time.monotonic() + self.again_s > deadline_s:
                    raise NoRoom(str(refused)) from refused
                attempt.notes.say(str(refused))
                if stopped_within(attempt.stop, self.again_s):
                    raise NotServing(Verdict.INFRASTRUCTURE, "stopped") from refused

    def _compared(self, attempt: _Attempt) -> Outcome:
        """The reference comes first where none is known: its pod, then the trial's on the same node. Where the trial got
        hardware of which there is none yet, its pod goes again until there is."""
        leased, spec, stop = attempt.leased, attempt.spec, attempt.stop
        timeout_s = spec.measuring.timeout_s
        answering = self._asked(lambda: self.launcher.answering(leased, spec), attempt, time.monotonic() + timeout_s)
        references = References(
            self.references, answering, lambda node: self._running(attempt, in_use=True, node=node), stop,
            timeout_s,
        )  # fmt: skip
        known, node = references.known(), None
        for _ in range(2):
            if not known or node is not None:
                node, host, reference = references.decoded(node)
                known[host] = reference
            with self._running(attempt, node=node) as process:
                host = process.pod.hardware()
                if host in known:
                    return self._measured(process, attempt, known[host])
                node = process.seen.node
        raise NotServing(Verdict.INFRASTRUCTURE, f"node {node} is other hardware from one minute to the next: {host}")

    def _measured(self, process: PodProcess, attempt: _Attempt, reference: Reference | None = None) -> Outcome:
        pod, trial, spec, stop = process.pod, attempt.leased, attempt.spec, attempt.stop
        deadline_s = time.monotonic() + spec.measuring.timeout_s
        if isinstance(spec.target, CommandTarget):
            return self._command(process, trial, spec, stop, deadline_s)
        engine = load().engine(pod.engine)
        host = pod.hardware()  # before the work: without it the figures could not be compared
        address = self._ready(process, engine.health_path, trial, stop, deadline_s)
        extra = None if reference is None else agreement(process, address, reference, stop, deadline_s)
        return measured(
            process, engine, counters_of(engine), Address(address, pod.port, pod.served_name, pod.api_key), trial, spec,
            # What else computes on the pod's node cannot be seen from here; the node is the pod's alone.
            trusted=Trusted(self.bands, None, self.request_timeout_s),
            resolved=resolved(pod.log(last=False), dict(trial.setting)),
            host=host, stop=StopOrEnd(stop, process), deadline_s=deadline_s, extra=extra,
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
