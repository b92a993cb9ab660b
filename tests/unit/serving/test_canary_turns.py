"""One replica: the Service sends to the stable replica and to its canary in turns."""

from __future__ import annotations

import itertools

import pytest

from controlplane.model import labels
from operators.serving.owned import SERVICES
from tests.unit.serving.canary_world import HOLD, CanaryWorld, wanted
from tests.unit.serving.simulation import NAME, choice, deployment


def started(slowdown: float, nodes: int = 4, **spec: object) -> CanaryWorld:
    made = CanaryWorld.running(replicas=1, nodes=nodes)
    first = made.revision()
    made.slow = lambda revision: 1.0 if revision == first else slowdown
    made.apply(wanted(128, {"hold": HOLD, "verdict": {"notWorseThanPct": 10}}, **spec))
    return made


def test_both_get_equal_turns_in_a_drawn_order_and_somebody_always_answers() -> None:
    made = started(1.0)
    stable, new = made.alive()[0].revision, made.revision()
    made.watch(20)
    assert (made.phase, made.canary.mode) == ("Observing", "InTurns")
    made.served.clear()
    made.watch(250, lambda: made.phase != "Observing")
    turns = [(revision, len(list(ticks))) for revision, ticks in itertools.groupby(made.served)]
    assert {revision for revision, _ in turns} == {stable, new}
    for revision in (stable, new):
        share = sum(ticks for whose, ticks in turns if whose == revision) / sum(ticks for _, ticks in turns)
        assert 0.4 < share < 0.6
    assert len({ticks for _, ticks in turns[1:-1]}) > 1, "two turns of one follow each other where the draw says so"
    assert made.unserved == 0


def test_it_is_promoted_and_then_gets_everything() -> None:
    made = started(1.0)
    made.watch(900, lambda: made.phase == "Promoted")
    assert made.phase == "Promoted", made.canary
    made.watch(60)
    assert len(made.alive_of(made.revision())) == len(made.alive()) == 1
    assert labels.REVISION not in dict(made.owned[SERVICES, NAME][4])
    assert made.unserved == 0


def test_a_slower_one_is_rolled_back_without_a_gap() -> None:
    made = started(1.4)
    made.watch(900, lambda: made.phase == "RolledBack")
    assert (made.phase, made.canary.reason) == ("RolledBack", "Worse")
    made.watch(60)
    assert made.alive_of(made.revision()) == []
    assert len(made.alive()) == 1
    assert labels.REVISION not in dict(made.owned[SERVICES, NAME][4])
    assert made.unserved == 0


@pytest.mark.parametrize("turn", ["stable", "canary"])
def test_a_spec_with_errors_leaves_nobody_pinned_to_a_replica_that_goes(turn: str) -> None:
    made = started(1.0)
    stable, new = made.alive()[0].revision, made.revision()
    made.watch(300, lambda: bool(made.served) and made.served[-1] == (new if turn == "canary" else stable))
    made.unserved = 0
    made.apply(deployment(choice(accelerator="no-such-accelerator"), rollout={"canary": {"hold": HOLD}}))
    made.watch(60)
    assert labels.REVISION not in dict(made.owned[SERVICES, NAME][4])
    assert [pod.revision for pod in made.alive()] == [stable]
    assert made.unserved == 0


def test_when_one_stops_answering_the_other_gets_everything_at_once() -> None:
    made = started(1.0)
    made.watch(30)
    (pod,) = made.alive_of(made.revision())
    made.stuck.add(made.revision())
    made.change(pod.name, ready=False, ready_changed_s=int(made.now_s))
    made.step()
    assert labels.REVISION not in dict(made.owned[SERVICES, NAME][4])
    assert made.canary.reason == "NotReady"
    made.stuck.clear()
    made.watch(60)
    assert made.canary.reason != "NotReady"


def test_without_surge_there_is_no_place_for_it_and_the_status_says_so() -> None:
    made = started(1.0, rollout={"maxSurge": 0, "maxUnavailable": 1})
    made.watch(60)
    assert (made.phase, made.reason()) == ("Starting", "NoRoomForCanary")
    assert "maxSurge" in made.canary.message
    assert len(made.alive()) == 1
    assert made.alive_of(made.revision()) == []


def test_clients_that_stay_where_they_are_give_no_pair() -> None:
    made = started(1.0)
    stable = made.alive()[0]
    made.watch(10, lambda: made.phase == "Observing")
    answer = made._answer
    made._answer = lambda pod, requests, factor: answer(stable, requests, factor)  # type: ignore[method-assign]
    made.watch(120)
    assert made.phase == "Observing"
    assert made.canary.reason == "NoTraffic"
    assert "keep their connections" in made.canary.message
