"""What the configuration in use answers, where trials are pods: decoded once per hardware in a pod of its own, then kept.

That pod is one of the attempt that needs it first, before the trial's own and on the same node: it carries the attempt's
labels, so whoever tells the attempt's pods to go (its worker, its successor, the sweep) tells this one as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from controlplane.catalog import load
from controlplane.model.errors import Refused
from controlplane.model.ports import STORE_DOWN, ReferenceStore, StopSignal
from controlplane.model.tuning import Verdict
from tuner.measure.agreement import Decoder, Reference, as_text, from_text
from tuner.measure.definitions import Metrics
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.pod import PodProcess, StopOrEnd, stopped_within
from tuner.measure.engine.serving import NoRoom, NotServing
from tuner.measure.loadgen.run import Stopped

_log = logging.getLogger(__name__)
T = TypeVar("T")
# A connection is lost before the API server shows that the container has ended.
_DYING_S = 3.0

InUse = Callable[[str | None], AbstractContextManager[PodProcess]]
"""A pod with the configuration in use that runs, on this node or on any."""


@dataclass(frozen=True, slots=True)
class References:
    """References of one configuration in use (`answering` names it), as one attempt needs them."""

    store: ReferenceStore
    answering: str
    start: InUse
    stop: StopSignal
    timeout_s: float

    def known(self) -> dict[str, Reference]:
        """By hardware. Without the store nothing is known: it is decoded once more."""
        try:
            found = {host: from_text(text) for host, text in self.store.found(self.answering).items()}
        except Refused as refused:
            if refused.reason not in STORE_DOWN:
                raise
            _log.warning("references could not be read: %s", refused)
            return {}
        return {host: reference for host, reference in found.items() if reference is not None}

    def decoded(self, node: str | None) -> tuple[str, str, Reference]:
        """Node, hardware and answers. Raises NoRoom, NotServing: whatever goes wrong is not the trial's fault, nothing
        can be said of any setting until the one in use works."""
        try:
            with self.start(node) as process:
                deadline_s = time.monotonic() + self.timeout_s
                host = process.pod.hardware()
                engine = load().engine(process.pod.engine)
                address = process.wait_ready(engine.health_path, self.stop, deadline_s)
                reference = asked(process, address, self.stop, deadline_s, Decoder.reference)
                return process.seen.node or "", host, self._kept(host, reference)
        except NoRoom:
            raise
        except NotServing as error:
            raise NotServing(Verdict.INFRASTRUCTURE, f"the configuration in use: {error.reason}") from error

    def _kept(self, host: str, reference: Reference) -> Reference:
        """What another worker kept first stands: all trials are compared with the same."""
        try:
            stands = self.store.keep(self.answering, host, as_text(reference), now=datetime.now(UTC))
        except Refused as refused:
            if refused.reason not in STORE_DOWN:
                raise
            _log.warning("a reference could not be kept, and is decoded again by the next trial: %s", refused)
            return reference
        return from_text(stands) or reference


def agreement(process: PodProcess, address: str, reference: Reference, stop: StopSignal, deadline_s: float) -> Metrics:
    """How far the engine in this pod agrees. Raises NotServing, Stopped."""
    return asked(process, address, stop, deadline_s, lambda decoder: decoder.agreement(reference))


def asked(process: PodProcess, address: str, stop: StopSignal, deadline_s: float, what: Callable[[Decoder], T]) -> T:
    """Something that decoding says, of a pod that may die over it. Raises NotServing, Stopped."""
    pod = process.pod
    until = _Until(StopOrEnd(stop, process), deadline_s)
    try:
        return what(Decoder(address, pod.port, pod.served_name, until, pod.api_key))
    except (NotServing, Stopped):
        for _ in range(2):
            ended = process.poll()
            if ended is not None:
                raise NotServing(*verdict_of(ended, when="with one request")) from None
            if stopped_within(stop, _DYING_S):
                break
        if time.monotonic() > deadline_s and not stop.is_set():
            raise NotServing(Verdict.INFRASTRUCTURE, "its answers were not decoded within measuring.timeoutS") from None
        raise


@dataclass(frozen=True, slots=True)
class _Until:
    """A stop signal that time gives as well."""

    stop: StopSignal
    deadline_s: float

    def is_set(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self.deadline_s

    def wait(self, timeout: float | None = None) -> bool:
        return self.stop.wait(timeout) or self.is_set()
