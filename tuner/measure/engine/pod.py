"""A pod under measurement: how it is waited for, and what its end says."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from controlplane.model.errors import Refused, TrimtabError
from controlplane.model.ports import StopSignal, TrialPod
from controlplane.model.tuning import Verdict
from controlplane.model.tuning_pods import PodSeen
from tuner.measure.engine.classify import REASON_LINES, verdict_of
from tuner.measure.engine.process import Ended
from tuner.measure.engine.serving import NoRoom, NotServing
from tuner.measure.http import get

_log = logging.getLogger(__name__)

POLL_S = 0.5
# While requests are under way the API server is asked this often whether the pod still runs.
_LOOK_EVERY_S = 2.0
# A pod that the kubelet calls ready for so long and that we do not reach: something keeps us apart.
_UNREACHED_S = 20.0
_NOTE_EVERY_S = 10.0
_ON_ITS_WAY = frozenset({"", "ContainerCreating", "PodInitializing"})
# Words of the kubelet (kubelet/container, kubelet/images) after which a container does not start by waiting.
_NEVER_STARTS = frozenset(
    {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError"}
)
# The container never ran (StartError, ContainerCannotRun), or nobody saw how it ended.
_NO_END_OF_ITS_OWN = frozenset({"StartError", "ContainerCannotRun", "ContainerStatusUnknown"})
# What a container's end is called that nothing outside has ended.
_OWN_ENDS = frozenset({"", "Error", "Completed", "OOMKilled"})


def ended_of(seen: PodSeen, log: Sequence[str]) -> Ended | None:
    """How the pod ended, None while it may still do what it was made for. Pure."""
    lines = tuple(log)
    if seen.phase == "gone":
        return Ended(None, around="its pod was deleted", log=lines)
    over = seen.phase in ("succeeded", "failed") or seen.exit_code is not None
    if not over:
        if seen.deleting:
            return Ended(None, around="its pod is being deleted", log=lines)
        if seen.phase == "pending" and seen.reason in _NEVER_STARTS:
            return Ended(None, failed=_words(seen), log=lines)
        return None
    if seen.reason in _NO_END_OF_ITS_OWN:
        return Ended(None, failed=_words(seen), log=lines)
    if seen.reason not in _OWN_ENDS:  # Evicted, Preempting, NodeLost, Shutdown, DeadlineExceeded, OutOfcpu, ...
        return Ended(seen.exit_code, around=_words(seen), log=lines)
    if seen.exit_code is None and seen.phase == "failed":
        return Ended(None, around=_words(seen) or "its pod failed", log=lines)
    if seen.deleting and seen.exit_code:
        return Ended(seen.exit_code, around="its pod was being deleted", log=lines)
    return Ended(_of_shell(seen.exit_code or 0), memory_killed=seen.reason == "OOMKilled", log=lines)


def _of_shell(code: int) -> int:
    """Container runtimes say 128 + N of a process that signal N ended."""
    return -(code - 128) if code - 128 in set(signal.Signals) else code


def _waiting(seen: PodSeen) -> str:
    """Why a pod has not begun, where that is worth a word."""
    if not seen.scheduled:
        return f"no node takes its pod: {seen.message}" if seen.message else ""
    return "" if seen.reason in _ON_ITS_WAY else _words(seen)


def _words(seen: PodSeen) -> str:
    return ": ".join(part for part in (seen.reason, seen.message[:300]) if part)


class Notes:
    """Why an attempt waits, told on when it changes. Nobody is held up where it cannot be told."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told, self._told_s = "", float("-inf")

    def say(self, text: str) -> None:
        """The scheduler words the same thing anew with every node that comes and goes: not more often than so."""
        if text and text != self._told and time.monotonic() - self._told_s > _NOTE_EVERY_S:
            self._told, self._told_s = text, time.monotonic()
            self._on(text)

    def clear(self, *, others: bool) -> None:
        """It waits no more. `others`: an earlier attempt may have left a word."""
        if self._told or others:
            self._on("")

    def _on(self, text: str) -> None:
        try:
            self._tell(text)
        except TrimtabError as error:
            _log.warning("why a trial waits could not be noted: %s", error)


@dataclass(slots=True, eq=False)
class PodProcess:
    """A `TrialPod` as a process under way."""

    pod: TrialPod
    notes: Notes
    seen: PodSeen = field(default_factory=lambda: PodSeen("pending"))
    _ended: Ended | None = None
    _looked_s: float = float("-inf")

    def poll(self, *, every_s: float = 0.0) -> Ended | None:
        """`every_s`: what was seen so shortly before is seen again."""
        now_s = time.monotonic()
        if self._ended is None and now_s - self._looked_s >= every_s:
            self._looked_s = now_s
            try:
                self.seen = self.pod.look()
            except Refused:  # the API server is away: that says nothing about the pod
                return None
            if ended_of(self.seen, ()) is not None:
                self._ended = ended_of(self.seen, self.pod.log())
        return self._ended

    def log(self) -> Sequence[str]:
        return self.pod.log()

    def cpu_s(self) -> float | None:
        """Its node counts them, and nobody asks the node."""
        return None

    def wait_started(self, stop: StopSignal, deadline_s: float) -> None:
        """Until its containers run, or have run. Raises NoRoom where no node takes it in its time, NotServing."""
        while (ended := self.poll()) is None and self.seen.phase == "pending":
            why = _waiting(self.seen)
            self.notes.say(why)
            if not self.seen.scheduled and time.monotonic() > deadline_s:
                raise NoRoom(why or "its pod was given no node")
            _pause(stop, deadline_s, why or "its pod did not start")
        if ended is not None and self.seen.phase == "pending":
            raise NotServing(*verdict_of(ended, when="at start"))

    def wait_ready(self, path: str, stop: StopSignal, deadline_s: float) -> str:
        """The address at which it answers. Raises NotServing."""
        begun_s, ready_s = time.monotonic(), None
        while (ended := self.poll()) is None:
            if self.seen.address is not None and _healthy(self.seen.address, self.pod.port, path):
                return self.seen.address
            now_s = time.monotonic()
            ready_s = (ready_s or now_s) if self.seen.ready else None
            if ready_s is not None and now_s - ready_s > _UNREACHED_S:
                raise NotServing(
                    Verdict.INFRASTRUCTURE,
                    f"its pod is ready, and this worker does not reach {self.seen.address}:{self.pod.port}: does a "
                    "NetworkPolicy keep them apart?",
                )
            tail = "\n".join(self.log()[-REASON_LINES:]) if now_s > deadline_s else ""
            _pause(stop, deadline_s, f"the engine runs but was not ready after {now_s - begun_s:.0f} s\n{tail}")
        raise NotServing(*verdict_of(ended, when="at start"))

    def wait_over(self, stop: StopSignal, deadline_s: float) -> Ended:
        """How it ended. Raises NotServing where it does not within its time."""
        begun_s = time.monotonic()
        while (ended := self.poll()) is None:
            if time.monotonic() > deadline_s:
                ran_s = time.monotonic() - begun_s
                raise NotServing(Verdict.INFEASIBLE, f"the command ran for {ran_s:.0f} s and longer")
            _pause(stop, float("inf"), "")
        return ended


class StopOrEnd:
    """A stop signal that is also given by the end of a pod: what sends requests to it need not wait for each to fail."""

    def __init__(self, stop: StopSignal, process: PodProcess) -> None:
        self._stop = stop
        self._process = process

    def is_set(self) -> bool:
        return self._stop.is_set() or self._process.poll(every_s=_LOOK_EVERY_S) is not None

    def wait(self, timeout: float | None = None) -> bool:
        return self._stop.wait(timeout) or self.is_set()


def _pause(stop: StopSignal, deadline_s: float, why_not: str) -> None:
    if time.monotonic() > deadline_s:
        raise NotServing(Verdict.INFRASTRUCTURE, why_not)
    if stopped_within(stop, POLL_S):
        raise NotServing(Verdict.INFRASTRUCTURE, "stopped")


def stopped_within(stop: StopSignal, seconds: float) -> bool:
    """Waits so long, unless told to stop. A signal may wait for less than it is asked to."""
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        if stop.wait(left_s):
            return True
    return stop.is_set()


def _healthy(host: str, port: int, path: str) -> bool:
    try:
        return get(host, port, path, timeout_s=5.0)[0] == 200
    except OSError:
        return False
