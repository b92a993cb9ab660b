"""Creation, scaling, rolling over, suspending: what is made, what goes, in which order."""

from __future__ import annotations

import pytest

from controlplane.model.actions import Apply, CreatePod, DeletePod, WriteStatus
from operators.serving.render import grace_s
from tests.unit.serving.simulation import H100, L40S, SETTINGS, World, choice, deployment, templates_of


def world(nodes: int = 8, **spec: object) -> World:
    made = World()
    made.add_nodes(H100, nodes)
    made.apply(deployment(choice(), **spec))
    return made


def names(made: World) -> list[str]:
    return sorted(pod.name for pod in made.alive())


def test_first_decision_makes_objects_pods_and_one_status() -> None:
    made = world(replicas=2)
    actions = made.step()
    kinds = [type(action).__name__ for action in actions]
    assert kinds == ["Apply", "Apply", "CreatePod", "CreatePod", "WriteStatus", "Requeue"]
    revision = templates_of(made.wanted)[0].revision
    assert names(made) == [f"chat-{revision}-0-0", f"chat-{revision}-1-0"]
    status = made.wanted.status
    assert (status.replicas, status.ready_replicas, status.updated_replicas) == (2, 0, 2)
    assert (status.reason, made.condition().status, made.condition("Progressing").status) == (
        "EngineStarting",
        "False",
        "True",
    )
    assert status.endpoints[0].url == "http://chat.prod.svc.cluster.local:8000"


def test_happy_path_needs_five_writes_and_no_event() -> None:
    made = world()
    writes = sum(isinstance(action, CreatePod | Apply) for action in made.step())
    made.schedule()
    made.run_all()
    made.step()
    assert writes + made.status_writes == 5
    assert made.reason() == "AllReady"
    assert not made.events
    again = made.decide()
    assert [type(action).__name__ for action in again] == ["WriteStatus"]
    made.step()
    assert made.status_writes == 2, "a decision without news changes nothing in the status"


def test_last_transition_moves_only_with_the_status_value() -> None:
    made = world()
    made.settle()
    first = made.condition().last_transition_time
    made.now_s += 100
    made.apply(deployment(choice(), replicas=1, priority="High"))
    made.step()
    assert made.condition().last_transition_time == first
    assert made.condition().observed_generation == made.wanted.metadata.generation


def test_surge_first_then_the_old_one_leaves() -> None:
    made = world(replicas=2)
    made.settle()
    old = names(made)
    made.apply(deployment(choice(knobs={"maxNumSeqs": 64}), replicas=2))
    made.step()
    assert len(made.alive()) == 3
    assert set(old) <= set(names(made))
    assert (made.condition().status, made.reason()) == ("True", "RollingOut")
    made.step()
    assert len(made.alive()) == 3, "nothing leaves before the engine of its successor answers"
    made.schedule()
    made.run_all()
    actions = made.step()
    gone = [action for action in actions if isinstance(action, DeletePod)]
    assert len(gone) == 1
    assert gone[0].grace_s == grace_s(made.wanted, SETTINGS.render)
    made.settle()
    assert len(names(made)) == 2
    assert not set(old) & set(names(made))
    assert made.wanted.status.last_rollout_time is not None


def test_promise_without_surge() -> None:
    made = world(nodes=2, replicas=2, rollout={"maxSurge": 0, "maxUnavailable": 1})
    made.settle()
    made.apply(deployment(choice(knobs={"maxNumSeqs": 64}), replicas=2, rollout={"maxSurge": 0, "maxUnavailable": 1}))
    made.step()
    assert made.ready() == 1
    made.settle()
    assert made.ready() == 2
    assert {pod.revision for pod in made.alive()} == {templates_of(made.wanted)[0].revision}


def test_no_room_for_surge_says_what_to_do_and_keeps_serving() -> None:
    made = world(nodes=2, replicas=2)
    made.settle()
    made.apply(deployment(choice(knobs={"maxNumSeqs": 64}), replicas=2))
    made.step()
    assert made.ready() == 2
    assert (made.condition().status, made.reason()) == ("True", "NoRoomForSurge")
    assert "maxUnavailable" in made.condition("Progressing").message
    assert made.waits


def test_impossible_revision_does_not_take_down_the_old_one() -> None:
    rollout = {"maxSurge": 0, "maxUnavailable": 1}
    made = world(nodes=1, replicas=1, rollout=rollout)
    made.settle()
    made.apply(deployment(choice(L40S), replicas=1, rollout=rollout))  # there is no pool of it
    made.step()
    assert made.ready() == 1
    assert made.reason() == "NoRoomForSurge"


def test_scaling_down_takes_not_ready_then_worse_then_newest() -> None:
    made = World()
    made.add_nodes(H100, 2)
    made.add_nodes(L40S, 3)
    choices = (choice(), choice(L40S))
    made.apply(deployment(*choices, replicas=4))
    made.settle()
    made.now_s += 10
    made.apply(deployment(*choices, replicas=5))
    made.step()
    made.schedule()
    starting = next(pod.name for pod in made.alive() if not pod.ready)
    made.apply(deployment(*choices, replicas=3))
    made.step()
    left = names(made)
    assert starting not in left
    assert sorted(made.pods[name].accelerator or "" for name in left) == [H100, H100, L40S]


def test_suspend_drains_all_and_keeps_the_service() -> None:
    made = world(replicas=2)
    made.settle()
    service = dict(made.owned)
    made.apply(deployment(choice(), replicas=2, suspend=True))
    made.settle()
    assert not made.pods
    assert made.owned == service
    assert (made.reason(), made.condition().status) == ("Suspended", "False")
    made.apply(deployment(choice(), replicas=2))
    made.settle()
    assert made.ready() == 2


def test_scaled_to_zero_is_ready() -> None:
    made = world(replicas=0)
    made.settle()
    assert (made.reason(), made.condition().status) == ("ScaledToZero", "True")


def test_a_typo_tears_nothing_down() -> None:
    made = world(replicas=2)
    made.settle()
    before = names(made)
    made.apply(deployment(choice("h100-smx-80gb"), replicas=2))
    made.settle()
    assert names(made) == before
    assert made.reason() == "UnknownName"
    assert H100 in made.condition().message
    assert made.wanted.status.ready_replicas == 2
    made.apply(deployment(choice("h100-smx-80gb"), replicas=1))
    made.settle()
    assert len(names(made)) == 1, "scaling down needs no valid spec"


def test_drift_of_our_objects_is_repaired() -> None:
    made = world()
    made.settle()
    made.owned["services", "chat"] = ("somebody", "else's")
    del made.owned["poddisruptionbudgets", "chat"]
    applied = [action for action in made.step() if isinstance(action, Apply)]
    assert [action.resource for action in applied] == ["services", "poddisruptionbudgets"]


def test_many_replicas_are_made_in_batches() -> None:
    made = world(nodes=300, replicas=250)
    assert sum(isinstance(action, CreatePod) for action in made.step()) == SETTINGS.batch_pods
    assert made.again_s == 1.0
    made.settle()
    assert made.ready() == 250


def test_a_predecessors_pods_only_hold_their_names() -> None:
    made = world()
    made.settle()
    (old,) = made.alive()
    made.change(old.name, owner_uid="another-uid", deleting_s=int(made.now_s) + 100)
    made.step()
    (new,) = [pod for pod in made.alive() if pod.name != old.name]
    assert new.replica == 1


@pytest.mark.parametrize("crash_after", range(6))
def test_killed_at_every_action_of_the_first_decision(crash_after: int) -> None:
    made = world(replicas=2)
    made.step(crash_after=crash_after)
    made.settle()
    assert len(made.pods) == made.ready() == 2


def test_written_status_is_complete_json() -> None:
    made = world()
    (written,) = [action for action in made.decide() if isinstance(action, WriteStatus)]
    assert written.status["selector"] == "trimtab.dev/deployment=chat,trimtab.dev/leader=true"
    assert written.status["conditions"][0]["lastTransitionTime"].endswith("Z")
