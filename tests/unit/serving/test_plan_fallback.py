"""Down the list of choices, back up again, and what the status says about it."""

from __future__ import annotations

from controlplane.model.actions import AwaitRoom
from operators.placement.reasons import Reason
from tests.unit.serving.simulation import H100, L40S, SETTINGS, World, choice, deployment

CHOICES = (choice(), choice(L40S, tensorParallel=2))


def world(h100: int, l40s: int, **spec: object) -> World:
    made = World()
    made.add_nodes(H100, h100)
    made.add_nodes(L40S, l40s, units=2)
    made.apply(deployment(*CHOICES, **spec))
    return made


def by_accelerator(made: World) -> dict[str, int]:
    return {pool.accelerator: pool.ready for pool in made.wanted.status.pools}


def test_each_replica_takes_the_first_choice_that_fits() -> None:
    made = world(2, 4, replicas=3)
    made.settle()
    assert by_accelerator(made) == {H100: 2, L40S: 1}
    told = [(v.index, v.reason, v.replicas) for v in made.wanted.status.choices]
    assert told == [(0, "Chosen", 2), (0, Reason.WAITING_FOR_QUOTA, 0), (1, "Chosen", 1)]
    assert [event.reason for event in made.events] == ["Fallback"]
    assert made.wanted.status.accelerator == H100


def test_why_not_stays_readable_after_the_placement() -> None:
    made = world(0, 2)
    made.settle()
    made.now_s += 1000
    made.step()
    assert [(v.index, v.reason) for v in made.wanted.status.choices] == [(0, Reason.NO_MATCHING_FLAVOR), (1, "Chosen")]
    assert made.reason() == "AllReady"


def test_nothing_fits_one_reason_with_numbers_and_one_event() -> None:
    made = world(1, 0, replicas=2)
    made.settle()
    assert made.reason() == Reason.EXCEEDS_MAX_QUOTA or made.reason() == Reason.WAITING_FOR_QUOTA
    assert made.condition().status == "False"
    assert made.condition().message.startswith("1 of 2 replicas ready; pool pool-h100")
    made.step()
    assert [event.reason for event in made.events] == ["Unplaceable"]
    assert made.waits


def test_those_who_miss_replicas_come_before_those_who_wish_and_by_priority() -> None:
    ranks = {}
    for priority in ("High", "Normal", "Low"):
        made = world(0, 0, priority=priority)
        made.add_nodes("a100-sxm-80gb", 1)
        (wait,) = [action for action in made.decide() if isinstance(action, AwaitRoom)]
        ranks[priority] = wait.rank
    wishing = world(0, 2, rollout={"preferBetter": "WhenFree"}, priority="High")
    wishing.settle()
    (wish,) = [action for action in wishing.decide() if isinstance(action, AwaitRoom)]
    assert ranks["High"] < ranks["Normal"] < ranks["Low"] < wish.rank


def test_moves_back_one_at_a_time_without_losing_a_replica() -> None:
    made = world(0, 2, replicas=2, rollout={"preferBetter": "WhenFree"})
    made.settle()
    assert by_accelerator(made) == {L40S: 2}
    made.add_nodes(H100, 2)
    made.step()
    assert len(made.alive()) == 2, "room must last"
    seen = []
    for _ in range(400):
        made.now_s += 1
        made.step()
        made.schedule()
        assert made.ready() >= 2
        assert len(made.alive()) <= 3
        made.run_all()
        made.end_all()
        seen.append(made.reason())
    assert by_accelerator(made) == {H100: 2}
    assert "MovingToBetterChoice" in seen


def test_moving_back_without_surge() -> None:
    rollout = {"preferBetter": "WhenFree", "maxSurge": 0, "maxUnavailable": 1}
    made = world(0, 1, rollout=rollout)
    made.settle()
    made.add_nodes(H100, 1)
    for _ in range(int(SETTINGS.better_after_s) + 10):
        made.now_s += 1
        made.step()
        made.schedule()
        made.run_all()
        made.end_all()
    assert by_accelerator(made) == {H100: 1}


def test_never_moves_unless_asked() -> None:
    made = world(0, 1)
    made.settle()
    made.add_nodes(H100, 1)
    made.now_s += 1000
    made.settle()
    assert by_accelerator(made) == {L40S: 1}
    assert not made.waits


def test_a_better_choice_that_fails_is_not_tried_again_at_once() -> None:
    made = world(0, 1, rollout={"preferBetter": "WhenFree"}, startupDeadlineSeconds=100)
    made.settle()
    made.add_nodes(H100, 1)
    starts = set()
    for _ in range(600):
        made.now_s += 1
        made.step()
        made.schedule()
        for pod in list(made.pods.values()):
            if pod.accelerator == H100:
                starts.add(pod.uid)
                made.change(pod.name, started_s=pod.started_s or int(made.now_s))
            else:
                made.run(pod.name)
        made.end_all()
        assert made.ready() == 1
    assert len(starts) == 1


def test_the_revisions_of_both_choices_are_current() -> None:
    """Editing one choice rolls only the replicas that run on it."""
    made = world(1, 1, replicas=2)
    made.settle()
    before = {pod.accelerator: pod.name for pod in made.alive()}
    made.add_nodes("l40s-more", 0)
    made.nodes["l40s-x"] = type(made.nodes["l40s-0"])("l40s-x", L40S, 2)
    made.apply(deployment(choice(), choice(L40S, tensorParallel=2, knobs={"maxNumSeqs": 32}), replicas=2))
    made.settle()
    after = {pod.accelerator: pod.name for pod in made.alive()}
    assert after[H100] == before[H100]
    assert after[L40S] != before[L40S]
