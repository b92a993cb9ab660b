"""Canaries whose replicas do not all do the same, and one that rests: what is not seen of one is not promoted."""

from __future__ import annotations

import pytest

from tests.unit.serving.canary_world import HOLD, wanted
from tests.unit.serving.simulation import choice, deployment
from tests.unit.serving.test_canary import started

TWO = {"hold": {**HOLD, "mostSeconds": 120}, "replicas": 2, "verdict": {"notWorseThanPct": 15}}


def test_one_that_answers_does_not_hide_another_of_the_canary_that_hangs() -> None:
    made = started(canary=TWO, rollout={"maxSurge": 2}, rate=40.0)
    made.watch(15)
    hangs, _ = made.alive_of(made.revision())
    made.mute.add(hangs.uid)
    made.slow = lambda _: 0.7
    made.watch(180, lambda: made.phase != "Observing")
    assert made.phase == "Observing", made.canary
    assert made.canary.canary.answered > 100 and made.canary.reason in ("NoAnswers", "UnequalLoad"), made.canary
    made.watch(120, lambda: made.phase != "Observing")
    assert made.phase == "RolledBack"


def test_one_of_the_canary_that_lost_its_readiness_holds_the_promotion() -> None:
    made = started(canary=TWO, rollout={"maxSurge": 2}, rate=40.0)
    made.watch(15)
    away, _ = made.alive_of(made.revision())

    def ready(is_ready: bool) -> None:
        now_s = int(made.now_s)
        made.change(away.name, ready=is_ready, ready_changed_s=now_s, waiting_reason=None if is_ready else "Slow")

    ready(False)
    made.watch(180, lambda: made.phase != "Observing" or made.canary.watched_seconds > 100)
    assert (made.phase, made.canary.reason) == ("Observing", "NotReady"), made.canary
    assert "1 of 2 replicas of the canary do not answer" in made.canary.message
    ready(True)
    made.watch(20, lambda: made.phase != "Observing")
    assert made.phase == "Promoted", made.canary


@pytest.mark.parametrize("why", ["suspended", "broken"])
def test_a_canary_that_rested_for_long_starts_again(why: str) -> None:
    made = started()
    made.watch(30)
    seconds = made.canary.watched_seconds
    assert made.phase == "Observing" and seconds
    if why == "suspended":
        made.apply(wanted(128, replicas=3, suspend=True))
    else:
        made.apply(deployment(choice(accelerator="none-such"), rollout={"canary": {"hold": HOLD}}, replicas=3))
    made.watch(60)
    assert (len(made.alive()), made.phase) == (0 if why == "suspended" else 3, "Starting")
    made.now_s += 3 * HOLD["mostSeconds"]
    made.due_s = made.now_s
    made.apply(wanted(128, replicas=3))
    made.watch(900, lambda: made.phase in ("Promoted", "RolledBack"))
    assert made.phase == "Promoted", made.canary
    assert made.canary.watched_seconds > seconds
