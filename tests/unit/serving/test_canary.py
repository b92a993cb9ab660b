"""Canaries in the simulated cluster: begun, compared, promoted or rolled back, through deaths of the operator."""

from __future__ import annotations

from typing import Any

import pytest

from operators.serving.snapshot import NodeState
from tests.unit.serving.canary_world import HOLD, CanaryWorld, wanted


def events(made: CanaryWorld) -> list[str]:
    return [event.reason for event in made.events if event.reason.startswith("Canary")]


def started(
    slowdown: float = 1.0,
    canary: dict[str, Any] | None = None,
    replicas: int = 3,
    rollout: dict[str, Any] | None = None,
    **fields: Any,
) -> CanaryWorld:
    """At rest, then a change of one knob under a canary; the new revision is slower by `slowdown`."""
    made = CanaryWorld.running(replicas=replicas, **fields)
    first = made.revision()
    made.slow = lambda revision: 1.0 if revision == first else slowdown
    made.apply(wanted(128, canary, replicas=replicas, rollout=rollout or {}))
    return made


def test_a_change_comes_up_beside_the_stable_replicas() -> None:
    made = CanaryWorld.running(replicas=3)
    stable = made.revision()
    made.apply(wanted(128, replicas=3))
    made.watch(20)
    assert made.phase == "Observing"
    assert (len(made.alive_of(stable)), len(made.alive_of(made.revision()))) == (3, 1)
    status = made.wanted.status
    assert (status.replicas, status.ready_replicas, status.updated_replicas) == (4, 4, 1)
    assert (status.reason, status.revision, made.condition().status) == ("CanaryObserving", stable, "True")
    assert made.canary.revision == made.revision()
    assert events(made) == ["CanaryBegun"]


def test_one_that_is_no_worse_is_promoted_and_rolled_out() -> None:
    made = started()
    first = made.wanted.status.stable
    made.watch(900, lambda: made.phase == "Promoted")
    assert made.phase == "Promoted", made.canary
    assert made.canary.watched_seconds >= HOLD["leastSeconds"]
    made.watch(60)
    assert len(made.alive_of(made.revision())) == len(made.alive()) == 3
    assert made.wanted.status.stable != first
    assert made.reason() == "AllReady"
    assert made.phase == "Promoted", "the verdict stays readable"
    assert events(made) == ["CanaryBegun", "CanaryPromoted"]


def test_one_that_is_slower_is_rolled_back_and_not_tried_again() -> None:
    made = started(1.3)
    stable = made.wanted.status.stable
    made.watch(900, lambda: made.phase == "RolledBack")
    assert made.canary.reason == "Worse"
    assert made.canary.ttft_ratio_pct is not None
    assert (made.canary.ttft_ratio_pct.lo or 0) > 5
    made.watch(120)
    assert made.alive_of(made.revision()) == []
    assert len(made.alive()) == 3
    assert made.wanted.status.stable == stable
    assert made.reason() == "CanaryRolledBack"
    assert made.condition().status == "True"
    assert "TTFT +" in made.condition().message
    assert events(made) == ["CanaryBegun", "CanaryRolledBack"]
    made.apply(wanted(128, replicas=5))
    made.watch(60)
    assert len(made.alive()) == 5, "scaling goes on, with the stable revision"
    assert made.alive_of(made.revision()) == []
    assert made.phase == "RolledBack"


def test_after_a_rollback_lost_stable_replicas_come_back() -> None:
    made = started(1.3)
    made.watch(900, lambda: made.phase == "RolledBack")
    made.watch(60)
    made.restart()
    made.pods.clear()
    made.watch(60)
    assert len(made.alive()) == 3
    assert made.alive_of(made.revision()) == []


def test_another_change_is_another_canary() -> None:
    made = started(1.3)
    made.watch(900, lambda: made.phase == "RolledBack")
    made.slow = lambda _: 1.0
    made.apply(wanted(64, replicas=3))
    made.watch(900, lambda: made.phase == "Promoted")
    made.watch(60)
    assert len(made.alive_of(made.revision())) == len(made.alive()) == 3


def test_a_change_during_a_canary_replaces_it() -> None:
    made = started()
    made.watch(30)
    abandoned, begun = made.revision(), made.canary.candidate
    made.apply(wanted(64, replicas=3))
    made.watch(40)
    assert made.alive_of(abandoned) == []
    assert made.canary.candidate != begun
    assert made.phase == "Observing"
    assert made.canary.watched_seconds <= 30
    assert made.unserved == 0


def test_going_back_to_the_stable_spec_ends_the_canary() -> None:
    made = started()
    made.watch(30)
    made.apply(wanted(256, replicas=3))
    made.watch(30)
    assert len(made.alive_of(made.revision())) == len(made.alive()) == 3
    assert made.phase is None
    assert made.reason() == "AllReady"


def test_without_the_setting_the_change_is_rolled_out() -> None:
    made = started(1.3)
    made.watch(900, lambda: made.phase == "RolledBack")
    spec = made.wanted.spec.model_copy(update={"rollout": made.wanted.spec.rollout.model_copy(update={"canary": None})})
    made.apply(made.wanted.model_copy(update={"spec": spec}))
    made.watch(60)
    assert len(made.alive_of(made.revision())) == len(made.alive()) == 3
    assert made.phase is None


@pytest.mark.parametrize("reason", ["OOMKilled", "Error"])
def test_a_canary_that_crashes_is_rolled_back_at_once(reason: str) -> None:
    made = started()
    made.watch(15)
    (pod,) = made.alive_of(made.revision())
    made.change(pod.name, restarts=1, exit_code=137, exit_reason=reason, ready=False, waiting_reason="CrashLoopBackOff")
    made.watch(30)
    assert (made.phase, made.canary.reason) == ("RolledBack", "Crashed")
    assert reason == "Error" or reason in made.canary.message
    assert made.alive_of(made.revision()) == []


def test_a_canary_that_never_answers_is_rolled_back_at_its_deadline() -> None:
    made = CanaryWorld.running(replicas=2)
    made.apply(wanted(128, replicas=2, startupDeadlineSeconds=60))
    made.stuck.add(made.revision())
    made.watch(10)
    (pod,) = made.alive_of(made.revision())
    made.change(pod.name, started_s=int(made.now_s))
    made.watch(90, lambda: made.phase == "RolledBack")
    assert (made.phase, made.canary.reason) == ("RolledBack", "NotReady")
    assert "startupDeadlineSeconds 60" in made.canary.message
    made.watch(30)
    assert len(made.alive()) == 2


def test_an_image_that_cannot_be_pulled_is_given_a_minute() -> None:
    made = started()
    made.watch(3)
    (pod,) = made.alive_of(made.revision())
    made.change(pod.name, ready=False, waiting_reason="ImagePullBackOff", waiting_message="no such image")
    made.watch(30)
    assert made.phase == "Starting"
    made.watch(60)
    assert (made.phase, made.canary.reason) == ("RolledBack", "NotReady")
    assert "no such image" in made.canary.message


def test_one_that_keeps_losing_its_readiness_does_not_stay_for_ever() -> None:
    made = started()
    made.watch(15)
    (pod,) = made.alive_of(made.revision())
    for _ in range(2 * HOLD["mostSeconds"] // 4):
        made.change(pod.name, ready=False, ready_changed_s=int(made.now_s), waiting_reason="Flapping")
        made.watch(3)
        if made.phase != "Observing":
            break
        made.change(pod.name, ready=True, ready_changed_s=int(made.now_s), waiting_reason=None)
        made.watch(1)
    assert (made.phase, made.canary.reason) == ("RolledBack", "NotReady")
    assert "readiness" in made.canary.message


def test_more_failed_requests_roll_it_back() -> None:
    made = started()
    new = made.revision()
    made.fails = lambda revision: 0.2 if revision == new else 0.01
    made.watch(300, lambda: made.phase == "RolledBack")
    assert (made.phase, made.canary.reason) == ("RolledBack", "MoreErrors")


@pytest.mark.parametrize(("then", "phase"), [("RollBack", "RolledBack"), ("Promote", "Promoted")])
def test_without_traffic_nothing_is_shown(then: str, phase: str) -> None:
    canary = {"hold": HOLD, "verdict": {"onNoEvidence": then}}
    made = started(canary=canary, rate=0.0)
    made.watch(HOLD["mostSeconds"] - 60)
    assert made.phase == "Observing"
    assert made.canary.reason == "NoTraffic"
    made.watch(200)
    assert (made.phase, made.canary.reason) == (phase, "NoEvidence")


def test_without_metrics_it_is_never_promoted() -> None:
    canary = {"hold": HOLD, "verdict": {"onNoEvidence": "Promote"}}
    made = started(canary=canary, pages=False)
    made.watch(100)
    assert (made.phase, made.canary.reason) == ("Observing", "NoMetrics")
    made.watch(1000, lambda: made.phase != "Observing")
    assert (made.phase, made.canary.reason) == ("RolledBack", "NoMetrics")


def test_must_be_better_asks_for_a_gain() -> None:
    canary = {"hold": HOLD, "verdict": {"mustBeBetter": True, "notWorseThanPct": 10}}
    same, better = started(canary=canary), started(0.8, canary=canary)
    same.watch(1000, lambda: same.phase in ("Promoted", "RolledBack"))
    better.watch(1000, lambda: better.phase == "Promoted")
    assert (same.phase, same.canary.reason) == ("RolledBack", "NoEvidence")
    assert (better.phase, better.canary.reason) == ("Promoted", "Better")


def test_no_room_holds_the_canary_and_says_so() -> None:
    made = CanaryWorld.running(replicas=3, nodes=3)
    stable = made.revision()
    made.apply(wanted(128, replicas=3))
    made.watch(120)
    assert (made.phase, made.reason()) == ("Starting", "NoRoomForCanary")
    assert made.waits
    assert len(made.alive_of(stable)) == len(made.alive()) == 3
    made.add_nodes("h100-sxm-80gb", 4)
    made.watch(20)
    assert made.phase == "Observing"


def test_without_surge_one_stable_replica_makes_room() -> None:
    made = CanaryWorld.running(replicas=3, nodes=3)
    stable = made.revision()
    made.apply(wanted(128, replicas=3, rollout={"maxSurge": 0, "maxUnavailable": 1}))
    made.watch(300, lambda: made.phase == "Observing")
    assert (len(made.alive_of(stable)), len(made.alive_of(made.revision()))) == (2, 1)


def test_scaling_during_a_canary_changes_the_stable_replicas() -> None:
    made = started()
    stable = made.alive()[0].revision
    made.watch(30)
    made.apply(wanted(128, replicas=5))
    made.watch(30)
    assert made.phase == "Observing"
    assert (len(made.alive_of(str(stable))), len(made.alive_of(made.revision()))) == (5, 1)
    assert made.canary.watched_seconds > 30, "the comparison goes on"


def test_suspending_ends_everything_and_resuming_goes_on() -> None:
    made = started(1.3)
    made.watch(900, lambda: made.phase == "RolledBack")
    made.apply(wanted(128, replicas=3, suspend=True))
    made.watch(60)
    assert made.alive() == []
    made.apply(wanted(128, replicas=3))
    made.watch(60)
    assert len(made.alive()) == 3
    assert made.alive_of(made.revision()) == [], "what was rejected stays rejected"


def test_a_stable_revision_that_is_broken_can_be_replaced() -> None:
    made = CanaryWorld.running(replicas=2)
    for pod in made.alive():
        made.change(pod.name, ready=False, waiting_reason="CrashLoopBackOff", exit_code=1, restarts=9)
    made.apply(wanted(128, replicas=2))
    made.watch(60)
    assert len(made.alive_of(made.revision())) == 2
    assert made.phase is None


def test_a_node_lost_under_the_canary_is_no_verdict() -> None:
    made = started()
    made.watch(40)
    (pod,) = made.alive_of(made.revision())
    made.nodes[str(pod.node_name)].state = NodeState.GONE
    made.change(pod.name, ready=False, ready_changed_s=int(made.now_s))
    made.watch(120)
    assert made.phase in ("Observing", "Promoted")
    assert [one.name for one in made.alive_of(made.revision())]


def test_windows_of_a_clock_that_jumps_are_left_out() -> None:
    made = started()
    made.watch(40)
    pairs = made.canary.ttft_ratio_pct.sums.pairs if made.canary.ttft_ratio_pct else 0
    made.now_s += 3600
    made.due_s = made.now_s
    made.watch(4)
    assert made.canary.ttft_ratio_pct is not None
    assert made.canary.ttft_ratio_pct.sums.pairs <= pairs + 1
    made.now_s -= 7200
    made.due_s = made.now_s
    made.watch(60)
    assert made.canary.ttft_ratio_pct.sums.pairs > pairs + 3
    assert made.canary.watched_seconds < 140


def test_one_that_takes_requests_and_answers_none_is_rolled_back_within_minutes() -> None:
    made = started(canary={"hold": HOLD, "verdict": {"onNoEvidence": "Promote"}})
    made.mute.add(made.revision())
    made.watch(200, lambda: made.phase == "RolledBack")
    assert (made.phase, made.canary.reason) == ("RolledBack", "NoAnswers")
    assert "none got a first token" in made.canary.message
    assert made.canary.watched_seconds < 120


def test_one_that_falls_silent_under_load_is_rolled_back() -> None:
    made = started()
    made.watch(40)
    assert made.canary.windows > 2
    made.mute.add(made.revision())
    made.watch(200, lambda: made.phase == "RolledBack")
    assert (made.phase, made.canary.reason) == ("RolledBack", "NoAnswers")
    assert "wait at the canary" in made.canary.message


def test_the_status_says_how_long_it_takes() -> None:
    made = started(canary={"hold": {**HOLD, "mostSeconds": 3600}, "verdict": {"notWorseThanPct": 2}}, rate=10.0)
    made.watch(90)
    assert made.canary.reason == "Undecided"
    assert "more at this spread" in made.canary.message
    assert made.canary.expected_seconds is not None
