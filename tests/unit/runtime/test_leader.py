import asyncio
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.kube import ClusterAccess, Conflict, KubeClient, NotFound, Unreachable
from controlplane.testing import FakeApiServer, FakeClock, settle
from operators.runtime import (
    Fence,
    FenceLost,
    FenceWatchdog,
    KubeLeaseStore,
    LeaderElector,
    LeaderTimes,
    LeaseRecord,
)


class FakeLease:
    """The Lease object, shared by all candidates; `view` gives each its own, disturbable way to it."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.version = 0

    def write(self, record: LeaseRecord) -> LeaseRecord:
        self.version += 1
        self.record = replace(record, resource_version=str(self.version))
        return self.record

    def view(self) -> "FakeLeaseStore":
        return FakeLeaseStore(self)


class FakeLeaseStore:
    def __init__(self, lease: FakeLease) -> None:
        self.lease = lease
        self.mode = "ok"  # ok, down, hang, hang_after (the write takes effect, the answer never comes)

    async def _gate(self) -> None:
        await asyncio.sleep(0)
        if self.mode == "down":
            raise Unreachable(0, "Unreachable", "no route to host")
        if self.mode == "hang":
            await asyncio.Event().wait()

    async def get(self) -> LeaseRecord | None:
        await self._gate()
        return self.lease.record

    async def create(self, record: LeaseRecord) -> LeaseRecord:
        await self._gate()
        if self.lease.record is not None:
            raise Conflict(409, "AlreadyExists", "exists")
        return await self._write(record)

    async def replace(self, record: LeaseRecord) -> LeaseRecord:
        await self._gate()
        if self.lease.record is None:
            raise NotFound(404, "NotFound", "gone")
        if record.resource_version != self.lease.record.resource_version:
            raise Conflict(409, "Conflict", "changed")
        return await self._write(record)

    async def _write(self, record: LeaseRecord) -> LeaseRecord:
        written = self.lease.write(record)
        if self.mode == "hang_after":
            await asyncio.Event().wait()
        return written


class Candidate:
    def __init__(self, name: str, lease: FakeLease, clock: FakeClock) -> None:
        self.clock = clock
        self.fence = Fence(clock)
        self.store = lease.view()
        self.lost: list[str] = []
        self.elector = LeaderElector(
            self.store, name, self.fence, lost=self.lost.append, clock=clock, jitter=lambda: 0.5
        )
        self.task = asyncio.create_task(self.elector.run())

    @property
    def leads(self) -> bool:
        return self.fence.is_open

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def lease():
    return FakeLease()


@pytest.fixture
async def two(lease):
    source = FakeClock()
    a = Candidate("a", lease, FakeClock(source=source))
    await settle()
    b = Candidate("b", lease, FakeClock(source=source, offset_s=-40_000.0))
    await settle()
    yield source, a, b
    await a.end()
    await b.end()


async def test_the_first_leads_and_the_second_waits(two):
    source, a, b = two
    for _ in range(100):
        await source.advance(1.0)
        assert (a.leads, b.leads) == (True, False)


@pytest.mark.parametrize("mode", ["down", "hang", "hang_after"])
async def test_a_leader_cut_off_stops_before_another_starts(two, mode):
    source, a, b = two
    await source.advance(20.0)
    a.store.mode = mode
    stopped_at_s = started_at_s = None
    for tick in range(400):
        await source.advance(0.1)
        assert not (a.leads and b.leads)
        if not a.leads and stopped_at_s is None:
            stopped_at_s = tick / 10
        if b.leads and started_at_s is None:
            started_at_s = tick / 10
    assert stopped_at_s is not None and stopped_at_s <= 10.0
    assert started_at_s is not None and started_at_s > stopped_at_s
    assert a.lost  # called once, in time
    assert len(a.lost) == 1


async def test_a_frozen_leader_does_not_pass_the_fence_when_it_wakes(two):
    source, a, b = two
    await source.advance(20.0)
    a.clock.freeze()
    await source.advance(40.0)
    assert b.leads
    with pytest.raises(FenceLost):  # the very first thing it tries, before its own loop has run again
        a.fence.check()
    await a.clock.thaw()
    assert a.lost
    b.fence.check()


async def test_a_released_lease_is_taken_at_the_next_attempt(two):
    source, a, b = two
    await source.advance(20.0)
    await a.end()
    await a.elector.release()
    with pytest.raises(FenceLost):
        a.fence.check()
    await source.advance(3.0)
    assert b.leads
    assert not a.lost


async def test_release_works_after_a_renewal_that_seemed_to_fail(two, lease):
    source, a, _ = two
    await source.advance(20.0)
    a.store.mode = "hang_after"
    await source.advance(2.5)
    await a.end()
    a.store.mode = "ok"
    await a.elector.release()
    assert lease.record is not None and lease.record.holder == ""


async def test_a_deleted_lease_ends_the_leader_and_is_not_taken_early(two, lease):
    source, a, b = two
    await source.advance(20.0)
    lease.record = None
    for _ in range(300):
        await source.advance(0.1)
        assert not (a.leads and b.leads)
    assert a.lost == ["the lease was deleted, so another candidate may create it at any moment"]
    assert b.leads


async def test_a_lease_taken_by_hand_ends_the_leader_at_once(two, lease):
    source, a, _ = two
    await source.advance(20.0)
    lease.write(replace(lease.record, holder="somebody"))
    await source.advance(2.5)
    assert not a.leads
    assert a.lost == ["the lease is held by 'somebody'"]


async def test_the_patience_is_the_longer_of_two_lease_durations(lease):
    source = FakeClock()
    lease.write(LeaseRecord("old", 60.0, source.utc_now(), source.utc_now(), 3, ""))
    b = Candidate("b", lease, FakeClock(source=source))
    await source.advance(59.0)
    assert not b.leads
    await source.advance(5.0)
    assert b.leads
    assert lease.record.transitions == 4
    await b.end()


actions = st.lists(
    st.tuples(
        st.sampled_from(["ok", "down", "hang", "hang_after", "freeze", "thaw"]),
        st.integers(0, 1),
        st.floats(0.1, 25.0),
    ),
    max_size=25,
)


@given(actions=actions, rates=st.tuples(st.floats(0.9, 1.25), st.floats(0.9, 1.25)))
@settings(max_examples=60, deadline=None)
def test_two_candidates_never_write_at_once(actions, rates):
    """Skewed and drifting clocks, lost and hung calls, freezes, in any order."""

    async def play() -> None:
        source, lease = FakeClock(), FakeLease()
        clocks = [
            FakeClock(source=source, rate=rates[0], offset_s=7_000.0),
            FakeClock(source=source, rate=rates[1], offset_s=-7_000.0),
        ]
        candidates = [Candidate("a", lease, clocks[0]), Candidate("b", lease, clocks[1])]
        for action, who, duration_s in actions:
            if action == "freeze":
                clocks[who].freeze()
            elif action == "thaw":
                await clocks[who].thaw()
            else:
                candidates[who].store.mode = action
            for _ in range(int(duration_s / 0.5) + 1):
                await source.advance(0.5)
                assert not all(candidate.leads for candidate in candidates)
        for candidate in candidates:
            await candidate.end()

    asyncio.run(play())


def test_times_that_would_let_two_lead_are_refused():
    with pytest.raises(ValueError, match="must exceed renew_deadline_s"):
        LeaderTimes(lease_duration_s=10.0, renew_deadline_s=10.0)
    with pytest.raises(ValueError, match=r"1\.2 x retry_period_s"):
        LeaderTimes(retry_period_s=9.0)


def test_the_watchdog_notices_what_a_stuck_loop_cannot():
    clock = FakeClock()
    fence = Fence(clock)
    fence.extend_to(clock.monotonic_s() + 0.05)
    expired = threading.Event()
    dog = FenceWatchdog(fence, lambda why: expired.set())
    dog.arm()
    asyncio.run(clock.advance(1.0))
    assert expired.wait(10.0)


def test_a_lost_lease_ends_the_process():
    code = "from operators.runtime.watchdog import exit_process\ntry:\n    exit_process('x')\nfinally:\n    print('cleanup')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 75
    assert b"cleanup" not in done.stdout


async def test_the_lease_object_round_trips():
    async with FakeApiServer() as server, KubeClient(ClusterAccess(server.url)) as client:
        store = KubeLeaseStore(client, "ns", "operator", call_timeout_s=2.0)
        assert await store.get() is None
        now = FakeClock().utc_now()
        wanted = LeaseRecord("a", 15.0, now, now, 0, "")
        created = await store.create(wanted)
        assert replace(created, resource_version="") == wanted
        assert await store.get() == created
        with pytest.raises(Conflict):
            await store.create(wanted)
        renewed = await store.replace(replace(created, renewed_at=FakeClock(offset_s=5.0).utc_now()))
        with pytest.raises(Conflict):
            await store.replace(created)
        assert renewed.resource_version != created.resource_version
