"""Leader election on a Lease, with a fence that closes before anybody else may lead.

Three times, with the defaults of client-go and controller-runtime: a candidate takes a lease it has seen unchanged
for `lease_duration_s`; a leader that could not renew for `renew_deadline_s` stops; attempts are `retry_period_s`
apart, and no call may last longer than that.

Why two leaders never write at once: the fence is open until (start of the last successful renewal + renew deadline).
The renewal became visible to others after that start, so nobody takes the lease before (that start + lease
duration), which is later. Candidates measure with their own monotonic clock how long the record has not changed and
never compare its timestamps with their wall clock; a clock would have to run 1.5 times too fast to break this.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from controlplane.kube import Conflict, KubeError, NotFound
from operators.runtime.clock import Clock, SystemClock
from operators.runtime.fence import Fence
from operators.runtime.lease import LeaseRecord, LeaseStore
from operators.runtime.watchdog import exit_process

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaderTimes:
    """Defaults from client-go / controller-runtime pkg/manager/internal.go."""

    lease_duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease_duration_s > self.renew_deadline_s:
            raise ValueError(
                f"lease_duration_s={self.lease_duration_s} must exceed renew_deadline_s={self.renew_deadline_s}"
            )
        if not self.renew_deadline_s > 1.2 * self.retry_period_s > 0:
            raise ValueError(
                f"renew_deadline_s={self.renew_deadline_s} must exceed 1.2 x retry_period_s={self.retry_period_s}"
            )


class LeaderElector:
    """Campaigns, renews, and closes `fence` in time. One use: after losing or releasing, make a new process.

    `lost` is called once, after the fence has closed; it is expected to end the process. `name` is for metrics.
    """

    def __init__(
        self,
        leases: LeaseStore,
        identity: str,
        fence: Fence,
        *,
        name: str = "trimtab",
        lost: Callable[[str], None] = exit_process,
        times: LeaderTimes | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity
        self.name = name
        self.fence = fence
        self._leases = leases
        self._lost = lost
        self._times = times or LeaderTimes()
        self._clock: Clock = clock or SystemClock()
        self._jitter = jitter
        self._observed: LeaseRecord | None = None
        self._observed_at_s = 0.0
        self._transitions = 0
        self._stopping = False
        self._deleted = False
        self.leading = asyncio.Event()
        self.observed_holder = ""

    async def run(self) -> None:
        """Campaign, then renew until stopped or lost; any error counts as "not renewed", none ends the loop."""
        while not self._stopping and not await self._attempt(self._try_acquire):
            # Jitter as in client-go (factor 1.2), so that candidates do not collide at every turn.
            await self._clock.sleep(self._times.retry_period_s * (1.0 + 0.2 * self._jitter()))
        if self._stopping:
            return
        self.leading.set()
        log.info("leading as %s", self.identity)
        while not self._stopping:
            await self._clock.sleep(min(self._times.retry_period_s, max(0.05, self.fence.remaining_s)))
            if self._stopping:
                return
            if self.fence.is_open:
                await self._attempt(self._try_renew)
            why = self._reason_to_stop()
            if why is not None:
                self.fence.revoke()
                log.error("leadership lost: %s", why)
                self._lost(why)
                return

    async def release(self) -> None:
        """Close the fence, then give the lease back, so that the next leader need not wait for its end."""
        self._stopping = True
        was_leading = self.leading.is_set() and self.fence.is_open
        self.fence.revoke()
        if was_leading:
            await self._attempt(self._try_release)

    def _reason_to_stop(self) -> str | None:
        if self._deleted:
            return "the lease was deleted, so another candidate may create it at any moment"
        if self.observed_holder != self.identity:
            return f"the lease is held by {self.observed_holder!r}"
        return None if self.fence.is_open else "the lease could not be renewed in time"

    async def _attempt(self, step: Callable[[], Awaitable[bool]]) -> bool:
        # A store bounds its requests by itself; this bounds any store, by the clock the fence goes by.
        work = asyncio.ensure_future(step())
        limit = asyncio.ensure_future(self._clock.sleep(self._times.retry_period_s))
        try:
            await asyncio.wait({work, limit}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                log.warning("lease: no answer within %g s", self._times.retry_period_s)
                return False
            return work.result()
        except KubeError as error:
            log.warning("lease: %s", error)
            return False
        except Exception:
            log.exception("lease: an attempt failed")
            return False
        finally:
            for task in (work, limit):
                task.cancel()
            await asyncio.gather(work, limit, return_exceptions=True)

    async def _observe(self) -> LeaseRecord | None:
        record = await self._leases.get()
        if record is None:
            return None
        if self._observed is None or record != self._observed:
            self._observed, self._observed_at_s = record, self._clock.monotonic_s()
        self.observed_holder = record.holder
        return record

    async def _try_acquire(self) -> bool:
        record = await self._observe()
        # A Lease that somebody deleted may still be somebody's: that leader's fence is open until it notices.
        latest = record or self._observed
        if latest is not None and latest.holder not in ("", self.identity):
            # A leader with a longer lease duration than ours counts on all of it.
            patience_s = max(self._times.lease_duration_s, latest.duration_s)
            if self._clock.monotonic_s() - self._observed_at_s < patience_s:
                return False
        changed_hands = record is None or record.holder != self.identity
        self._transitions = (record.transitions if record else 0) + (1 if record and changed_hands else 0)
        return await self._write(record, acquired=changed_hands)

    async def _try_renew(self) -> bool:
        record = self._observed
        assert record is not None, "a leader has written its record"
        try:
            return await self._write(record, acquired=False)
        except NotFound:
            self.observed_holder = ""
            self._deleted = True
            raise

    async def _write(self, record: LeaseRecord | None, *, acquired: bool) -> bool:
        started_s = self._clock.monotonic_s()
        now = self._clock.utc_now()
        wanted = LeaseRecord(
            holder=self.identity,
            duration_s=self._times.lease_duration_s,
            acquired_at=now if acquired or record is None else record.acquired_at,
            renewed_at=now,
            transitions=self._transitions,
            resource_version=record.resource_version if record else "",
        )
        try:
            written = await (self._leases.create(wanted) if record is None else self._leases.replace(wanted))
        except Conflict:  # AlreadyExists is one
            # Somebody wrote since we looked, perhaps ourselves in an attempt that seemed to have failed.
            await self._observe()
            return False
        self._observed, self._observed_at_s = written, self._clock.monotonic_s()
        self.observed_holder = self.identity
        self.fence.extend_to(started_s + self._times.renew_deadline_s)
        return True

    async def _try_release(self) -> bool:
        record = self._observed
        if record is None or record.holder != self.identity:
            return False
        released = replace(record, holder="", duration_s=1.0, renewed_at=self._clock.utc_now())
        try:
            await self._leases.replace(released)
        except Conflict:  # a renewal cut short by the stop had taken effect after all
            latest = await self._observe()
            if latest is None or latest.holder != self.identity:
                return False
            await self._leases.replace(replace(released, resource_version=latest.resource_version))
        log.info("lease released")
        return True
