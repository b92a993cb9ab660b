"""Workers that come late, die, repeat themselves and share a store: whatever the order, no result is lost or counted
twice, and whoever lost a lease changes nothing."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from controlplane.model.tuning import JobState, LeasedTrial, Measurement, Outcome, TrialState, Verdict
from controlplane.model.tuning_records import Ask
from controlplane.store.database import open_database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.store.upkeep import Upkeep
from tests.unit.store.conftest import NOW, SPEC

TRIALS = 2
LEASE_S = 30.0
FINAL = {TrialState.DONE, TrialState.INFEASIBLE, TrialState.FAILED, TrialState.CANCELLED}


class Store(RuleBasedStateMachine):
    """`model` says for each trial which attempt holds it, until when, and the result that was accepted."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="trimtab-test-"))
        self.database = open_database(f"sqlite:///{self.folder}/x.db")
        self.now = NOW
        self.holder: dict[int, tuple[int, object] | None] = dict.fromkeys(range(TRIALS))
        self.result: dict[int, TrialState] = {}
        self.values: dict[int, float] = {}
        self.lost = dict.fromkeys(range(TRIALS), 0)
        self.state = JobState.RUNNING

    @initialize()
    def begin(self) -> None:
        upgrade(self.database)
        Jobs(self.database).create("j", tenant="t", name="n", spec=SPEC, now=self.now)
        asks = [Ask(number=i, setting={"a": i + 1}, canonical=str(i)) for i in range(TRIALS)]
        assert Studies(self.database).append("j", asks, now=self.now)

    @rule(number=st.integers(0, TRIALS - 1), target=leases)
    def lease(self, number: int) -> object:
        leased = Trials(self.database).lease(f"j/{number}", owner="w", seconds=LEASE_S, now=self.now)
        holder = self.holder[number]
        ran_out = holder is not None and holder[1] <= self.now  # type: ignore[operator]
        free = number not in self.result and (holder is None or ran_out)
        if not free or self.state is not JobState.RUNNING:
            assert leased is None
            return multiple()
        if ran_out:
            self._lose(number)
        if number in self.result:
            assert leased is None
            return multiple()
        assert leased is not None and leased.number == number
        self.holder[number] = leased.attempt, self.now + timedelta(seconds=LEASE_S)
        return leased

    @rule(leased=leases)
    def renew(self, leased: LeasedTrial) -> None:
        renewal = Trials(self.database).renew(leased, seconds=LEASE_S, now=self.now)
        assert renewal.ours == self._held(leased)
        if renewal.ours:
            assert renewal.cancelled == (self.state is JobState.CANCELLED)
            self.holder[leased.number] = leased.attempt, self.now + timedelta(seconds=LEASE_S)

    @rule(leased=leases, verdict=st.sampled_from(Verdict), value=st.floats(1, 9))
    def tell(self, leased: LeasedTrial, verdict: Verdict, value: float) -> None:
        metrics = {"value": value, "ttft_p90_ms": 1.0}
        measured = Measurement(metrics=metrics, definitions="1", duration_s=1.0) if verdict is Verdict.OK else None
        accepted = Trials(self.database).tell(leased, Outcome(verdict=verdict, measurement=measured), now=self.now)
        assert accepted == self._held(leased)
        if not accepted:
            return
        number = leased.number
        if verdict is Verdict.OK:
            self.result[number], self.values[number] = TrialState.DONE, value
        elif verdict is Verdict.INFEASIBLE:
            self.result[number] = TrialState.INFEASIBLE
        else:
            self._lose(number)
        self.holder[number] = None

    @rule(leased=leases, target=leases)
    def taken_by_another(self, leased: LeasedTrial) -> object:
        """The owner falls silent, somebody else takes the trial; the old lease stays in play."""
        self.wait(31.0)
        return self.lease(leased.number)

    @rule(seconds=st.sampled_from([31.0, 29.0, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def reap(self) -> None:
        again = Upkeep(self.database).reap(now=self.now)
        expected = []
        for number, holder in self.holder.items():
            if holder is not None and holder[1] <= self.now:  # type: ignore[operator]
                self._lose(number)
                if number not in self.result:
                    expected.append(f"j/{number}")
        assert sorted(again) == expected

    @rule()
    def pause(self) -> None:
        if self.state is JobState.RUNNING:
            self.state = Steering(self.database).pause("j", now=self.now).state

    @rule()
    def resume(self) -> None:
        if self.state is JobState.PAUSED:
            self.state = Steering(self.database).resume("j", now=self.now).state

    @rule(really=st.integers(0, 9))
    def cancel(self, really: int) -> None:
        if really == 0:  # seldom, or there would be nothing left to try
            self.state = Steering(self.database).cancel("j", now=self.now).state
            for number, holder in self.holder.items():
                if holder is None:
                    self.result.setdefault(number, TrialState.CANCELLED)

    @rule()
    def another_process(self) -> None:
        self.database.close()
        self.database = open_database(f"sqlite:///{self.folder}/x.db")

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        found = Studies(self.database).trials_from("j", 0)
        assert len(found) in {0, TRIALS}
        for trial in found:
            expected = self.result.get(trial.number)
            if expected is None:
                holder = self.holder[trial.number]
                expected = TrialState.WAITING if holder is None else TrialState.LEASED
            assert trial.state is expected
            if trial.number in self.values:
                assert trial.objectives == [self.values[trial.number]]
        if not found:
            return
        job = Jobs(self.database).get("j")
        assert job.state is self.state
        for state in TrialState:
            assert getattr(job.counts, state.value) == sum(trial.state is state for trial in found)
        events = EventLog(self.database).after("j", 0)
        assert [event.id for event in events] == list(range(1, job.events + 1))
        finals = [e.data["trial"] for e in events if e.kind == "told" and TrialState(e.data["state"]) in FINAL]
        assert len(finals) == len(set(finals))
        assert len(Studies(self.database).measured("j")) == len(self.values)

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _held(self, leased: LeasedTrial) -> bool:
        holder = self.holder[leased.number]
        return holder is not None and holder[0] == leased.attempt

    def _lose(self, number: int) -> None:
        self.lost[number] += 1
        self.holder[number] = None
        if self.state is JobState.CANCELLED:
            self.result[number] = TrialState.CANCELLED
        elif self.lost[number] >= SPEC.measuring.attempts:
            self.result[number] = TrialState.FAILED


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
