import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controlplane.testing import FakeClock
from operators.runtime import WorkQueue


def make(clock: FakeClock, **options) -> WorkQueue:
    return WorkQueue(clock, **options)


async def test_a_key_is_queued_once():
    queue = make(FakeClock())
    queue.add("a")
    queue.add("a")
    assert await queue.get() == "a"
    assert len(queue) == 0


async def test_a_key_added_while_processed_comes_once_more_and_only_after_done():
    queue = make(FakeClock())
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_delays_double_up_to_the_maximum_and_start_anew_after_forget():
    queue = make(FakeClock())
    assert [queue.add_rate_limited("a") for _ in range(5)] == [0.005, 0.01, 0.02, 0.04, 0.08]
    assert [queue.add_rate_limited("a") for _ in range(40)][-1] == 60.0
    assert queue.add_rate_limited("b") == 0.005
    queue.forget("a")
    assert queue.add_rate_limited("a") == 0.005


async def test_the_global_bucket_spreads_many_failing_keys():
    queue = make(FakeClock(), retry_rate_per_s=10.0, retry_burst=2.0)
    delays = [queue.add_rate_limited(str(n)) for n in range(5)]
    assert delays == pytest.approx([0.005, 0.005, 0.1, 0.2, 0.3])


async def test_the_earliest_of_several_delays_counts_and_once():
    clock = FakeClock()
    queue = make(clock)
    queue.add_after("a", 10.0)
    queue.add_after("a", 2.0)
    queue.add_after("a", 5.0)
    await clock.advance(1.9)
    assert len(queue) == 0
    await clock.advance(0.2)
    assert await queue.get() == "a"
    queue.done("a")
    await clock.advance(20.0)
    assert len(queue) == 0


async def test_who_has_settled_a_key_replaces_the_looks_planned_before():
    clock = FakeClock()
    queue = make(clock)
    queue.add_after("a", 1.0)
    queue.settle("a", 5.0)
    queue.add_after("b", 1.0)
    queue.settle("b")
    await clock.advance(4.0)
    assert len(queue) == 0 and queue.waiting == 1
    await clock.advance(1.0)
    assert await queue.get() == "a"
    assert queue.waiting == 0


async def test_replaced_delays_do_not_pile_up():
    clock = FakeClock()
    queue = make(clock)
    for number in range(5_000):
        queue.settle(f"k{number % 10}", 1_800.0 + number)
    assert queue.waiting == 10
    assert len(queue._delayed) < 1_100
    await clock.advance(1_800.0 + 4_995.0)
    assert len(queue) == 6


async def test_workers_wake_in_turn_and_a_cancelled_one_passes_its_turn_on():
    queue = make(FakeClock())
    first = asyncio.create_task(queue.get())
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await second == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_shut_down_drains():
    clock = FakeClock()
    queue = make(clock)
    queue.add("a")
    queue.add("b")
    queue.add_after("c", 1.0)
    assert await queue.get() == "a"
    queue.shut_down()
    queue.add("d")
    drained = asyncio.create_task(queue.drained())
    assert await queue.get() == "b"
    queue.done("b")
    await asyncio.sleep(0)
    assert not drained.done()
    queue.done("a")
    await drained
    assert await queue.get() is None


async def test_done_without_get_is_an_error():
    with pytest.raises(KeyError, match="not in processing"):
        make(FakeClock()).done("a")


class QueueMachine(RuleBasedStateMachine):
    """Against a model: what is owed must come out, no key is with two workers, nothing comes unasked."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.queue = self.run(self._make())
        self.owed: set[str] = set()
        self.held: set[str] = set()
        self.delayed: dict[str, float] = {}

    async def _make(self) -> WorkQueue:
        return WorkQueue(self.clock)

    def run(self, work):
        return self.loop.run_until_complete(work)

    @rule(key=st.sampled_from("abc"))
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.owed.add(key)

    @rule(key=st.sampled_from("abc"), delay_s=st.floats(0.01, 5.0))
    def add_after(self, key: str, delay_s: float) -> None:
        self.queue.add_after(key, delay_s)
        due_s = self.clock.monotonic_s() + delay_s
        self.delayed[key] = min(due_s, self.delayed.get(key, due_s))

    @rule(delay_s=st.floats(0.01, 3.0))
    def advance(self, delay_s: float) -> None:
        self.run(self.clock.advance(delay_s))
        for key, due_s in list(self.delayed.items()):
            if due_s <= self.clock.monotonic_s():
                self.owed.add(key)
                del self.delayed[key]

    @precondition(lambda self: self.owed - self.held)
    @rule()
    def get(self) -> None:
        key = self.run(self.queue.get())
        assert key in self.owed
        assert key not in self.held
        self.owed.discard(key)
        self.held.add(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def done(self, data) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.queue.done(key)
        self.held.discard(key)

    @invariant()
    def depth_matches(self) -> None:
        assert len(self.queue) == len(self.owed - self.held)
        assert set(self.queue.processing_since_s) == self.held

    def teardown(self) -> None:
        self.loop.close()


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
