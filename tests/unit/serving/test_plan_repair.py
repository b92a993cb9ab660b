"""What breaks and how it is mended: engines, images, nodes, lost races, gangs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from controlplane.model.actions import CreatePod, DeletePod
from operators.serving import plan
from operators.serving.snapshot import NodeState
from tests.unit.serving import simulation
from tests.unit.serving.simulation import H100, SETTINGS, World, choice, deployment, templates_of


def world(nodes: int = 4, units: int = 1, shape: dict[str, Any] | None = None, **spec: Any) -> World:
    made = World()
    made.add_nodes(H100, nodes, units)
    made.apply(deployment(choice(**(shape or {})), **spec))
    return made


def bound(made: World) -> World:
    made.step()
    made.schedule()
    return made


def test_image_that_cannot_be_pulled_is_said_not_looped() -> None:
    made = bound(world())
    (pod,) = made.alive()
    made.change(pod.name, waiting_reason="ImagePullBackOff", waiting_message="registry/engine:1: not found")
    for _ in range(50):
        made.now_s += 10
        made.step()
    assert [p.name for p in made.alive()] == [pod.name]
    assert made.reason() == "ImageUnavailable"
    assert "registry/engine:1: not found" in made.condition().message


@pytest.mark.parametrize(
    ("waits", "reason"),
    [
        ("CrashLoopBackOff", "EngineCrashing"),
        ("CreateContainerConfigError", "ContainerRefused"),
        ("ErrImagePull", "ImageUnavailable"),
    ],
)
def test_container_reasons(waits: str, reason: str) -> None:
    made = bound(world())
    (pod,) = made.alive()
    made.change(pod.name, waiting_reason=waits, exit_code=137, exit_reason="OOMKilled", restarts=3)
    made.step()
    assert made.reason() == reason
    if reason == "EngineCrashing":
        assert "code 137 (OOMKilled)" in made.condition().message


def test_a_bad_revision_stops_and_the_old_one_serves_on() -> None:
    made = world(replicas=2, rollout={"maxUnavailable": 1})
    made.settle()
    old = {pod.name for pod in made.alive()}
    made.apply(deployment(choice(image="registry.example/none:1"), replicas=2, rollout={"maxUnavailable": 1}))
    made.step()
    made.schedule()
    for pod in made.alive():
        if pod.name not in old:
            made.change(pod.name, waiting_reason="ErrImagePull")
    for _ in range(20):
        made.now_s += 30
        made.step()
    assert made.ready() >= 1
    assert made.reason("Progressing") == "RolloutStalled"
    assert made.condition("Progressing").status == "False"
    assert made.condition().status == "True"
    assert [event.reason for event in made.events].count("RolloutStalled") == 1
    made.apply(deployment(choice(), replicas=2, rollout={"maxUnavailable": 1}))
    made.settle()
    assert made.ready() == 2, "taking the change back mends it"


def test_startup_deadline_replaces_with_growing_pauses() -> None:
    made = world(startupDeadlineSeconds=60)
    attempts: dict[str, float] = {}
    reasons = set()
    for _ in range(1500):
        made.now_s += 1
        made.step()
        made.schedule()
        for pod in list(made.pods.values()):
            attempts.setdefault(pod.uid, made.now_s)
            made.change(pod.name, started_s=pod.started_s or int(made.now_s), phase="Running")
        made.end_all()
        reasons.add(made.reason())
    starts = sorted(attempts.values())
    pauses = [later - earlier - 60 for earlier, later in itertools.pairwise(starts)]
    assert pauses == sorted(pauses)
    assert 10 <= pauses[0] <= 14
    assert pauses[-1] >= 80
    assert {"StartupDeadlineExceeded", "EngineStarting"} <= reasons
    assert "startupDeadlineSeconds 60" in next(e.message for e in made.events if e.reason == "ReplicaReplaced")


def test_deadline_counts_from_the_loss_of_readiness() -> None:
    made = world(startupDeadlineSeconds=60)
    made.settle()
    made.now_s += 10_000
    (pod,) = made.alive()
    made.change(pod.name, ready=False, ready_changed_s=int(made.now_s), exit_code=1, restarts=1)
    made.now_s += 30
    made.step()
    assert [p.name for p in made.alive()] == [pod.name]
    assert made.reason() == "EngineCrashing"


def test_lost_race_is_placed_elsewhere() -> None:
    made = world(nodes=2)
    made.step()
    (pod,) = made.alive()
    taken = pod.target_node
    made.change(pod.name, unschedulable_reason="Unschedulable", unschedulable_message="0/2 nodes")
    made.step()
    assert [p.name for p in made.alive()] == [pod.name], "the scheduler may still be right in a moment"
    made.now_s += SETTINGS.lost_race_after_s
    made.step()
    made.step()
    (new,) = made.alive()
    assert new.target_node != taken
    assert made.notes.avoid == {taken: made.now_s + SETTINGS.avoid_node_s}


def unbindable(made: World, message: str) -> None:
    """The scheduler refuses whatever is there, and says why."""
    for pod in made.alive():
        if pod.node_name is None:
            made.change(pod.name, unschedulable_reason="Unschedulable", unschedulable_message=message)


def test_a_pod_that_no_node_takes_is_tried_with_growing_pauses_and_one_event() -> None:
    made = world(nodes=8)
    attempts: dict[str, float] = {}
    conditions = set()
    for _ in range(900):
        made.now_s += 1
        made.step()
        for pod in made.alive():
            attempts.setdefault(pod.uid, made.now_s)
        unbindable(made, "0/8 nodes are available: 8 Insufficient memory.")
        conditions.add((made.reason(), "Insufficient memory" in made.condition().message))
    starts = sorted(attempts.values())
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[0] <= SETTINGS.lost_race_after_s + 2, "once is a lost race"
    assert pauses[1] >= SETTINGS.back_off_base_s
    assert pauses[1:] == sorted(pauses[1:])
    assert len(starts) <= 9
    assert ("PodUnschedulable", True) in conditions
    assert [event.reason for event in made.events] == ["ReplicaReplaced"]


def test_a_pod_that_was_bound_ends_the_row_of_lost_races() -> None:
    made = world(nodes=8)
    made.step()
    unbindable(made, "0/8 nodes")
    made.now_s += SETTINGS.lost_race_after_s
    made.settle()
    assert made.reason() == "AllReady"
    assert not made.notes.back_off


def test_a_pod_that_others_are_preempted_for_stays() -> None:
    made = world(nodes=2)
    made.step()
    (pod,) = made.alive()
    made.change(pod.name, unschedulable_reason="Unschedulable", nominated_node=pod.target_node)
    made.now_s += 20 * SETTINGS.lost_race_after_s
    made.step()
    assert [p.name for p in made.alive()] == [pod.name]
    made.change(pod.name, nominated_node=None)
    made.step()
    assert pod.name not in {p.name for p in made.alive()}


def test_a_missing_claim_is_said_not_taken_for_a_lost_race() -> None:
    made = world(nodes=2)
    made.step()
    (pod,) = made.alive()
    message = '0/2 nodes are available: persistentvolumeclaim "models" not found.'
    made.change(pod.name, unschedulable_reason="Unschedulable", unschedulable_message=message)
    made.now_s += 10 * SETTINGS.lost_race_after_s
    made.step()
    assert [p.name for p in made.alive()] == [pod.name], "no other node would do better"
    assert made.reason() == "ClaimUnavailable"
    assert '"models" not found' in made.condition().message


def test_pod_turned_away_by_its_node_goes_elsewhere_without_back_off() -> None:
    made = bound(world(nodes=2))
    (pod,) = made.alive()
    made.change(pod.name, phase="Failed", status_reason="UnexpectedAdmissionError")
    made.step()
    made.step()
    (new,) = made.alive()
    assert new.target_node != pod.node_name
    assert not made.notes.back_off


def test_silent_node_is_given_a_while_then_replaced_and_does_not_block() -> None:
    made = world(nodes=2)
    made.settle()
    (pod,) = made.alive()
    made.silence(pod.node_name or "")
    made.step()
    assert made.alive() == [made.pods[pod.name]]
    assert made.again_s is not None and made.again_s <= SETTINGS.silent_after_s
    made.now_s += SETTINGS.silent_after_s
    made.step()
    assert made.pods[pod.name].deleting
    assert made.reason() == "NodeLost" or made.reason() == "EngineStarting"
    made.step()
    made.schedule()
    made.run_all()
    made.step()
    assert (made.ready(), made.reason()) == (1, "AllReady")
    assert made.pods[pod.name].deleting, "the old one waits for its kubelet and blocks nobody"


def test_a_node_that_is_gone_is_forgotten_by_force_once_grace_has_passed() -> None:
    made = world(nodes=2)
    made.settle()
    (pod,) = made.alive()
    made.silence(pod.node_name or "")
    made.nodes[pod.node_name or ""].state = NodeState.GONE
    made.now_s += SETTINGS.silent_after_s
    made.step()
    deleting_s = made.pods[pod.name].deleting_s
    assert deleting_s is not None
    made.now_s = deleting_s + 1
    forced = [a for a in made.step() if isinstance(a, DeletePod)]
    assert [(a.uid, a.grace_s) for a in forced] == [(pod.uid, 0)]
    assert pod.name not in made.pods


GANG = {"tensorParallel": 1, "pipelineParallel": 2, "acceleratorsPerPod": 1}


def test_a_gang_is_made_whole_with_its_host_names_first() -> None:
    made = world(shape=GANG)
    actions = made.step()
    assert [type(a).__name__ for a in actions][:5] == ["Apply", "Apply", "Apply", "CreatePod", "CreatePod"]
    assert ("services", "chat-gang") in made.owned
    made.schedule()
    first, second = sorted(pod.name for pod in made.alive())
    made.run(first)
    made.step()
    assert made.wanted.status.ready_replicas == 0
    made.run(second)
    made.step()
    assert made.wanted.status.ready_replicas == 1


def test_one_failed_pod_takes_its_gang_along_where_the_engine_needs_all() -> None:
    made = world(shape=GANG)
    made.settle()
    first, second = sorted(pod.name for pod in made.alive())
    made.change(second, phase="Failed", ready=False, exit_code=1)
    gone = {a.name for a in made.step() if isinstance(a, DeletePod)}
    assert gone == {first, second}
    made.end_all()
    made.now_s += 11
    made.settle()
    assert made.wanted.status.ready_replicas == 1
    assert len(made.pods) == 2


def test_a_half_made_gang_does_not_stay() -> None:
    made = world(shape=GANG)
    made.step(crash_after=4)
    assert len(made.pods) == 1
    made.settle()
    assert len(made.pods) == 2
    assert len({pod.replica for pod in made.alive()}) == 1


def test_one_failed_pod_is_repaired_in_place_where_the_engine_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    def elastic(wanted: Any) -> Any:
        return tuple(dataclasses.replace(template, repair_in_place=True) for template in templates_of(wanted))

    monkeypatch.setattr(simulation, "templates_of", elastic)
    made = world(nodes=3, shape=GANG)
    made.settle()
    first, second = sorted(pod.name for pod in made.alive())
    uid = made.pods[first].uid
    made.change(second, phase="Failed", ready=False, exit_code=1)
    made.step()
    assert [pod.name for pod in made.alive()] == [first]
    for _ in range(int(SETTINGS.back_off_base_s)):
        made.now_s += 0.9
        made.step()
        assert [pod.name for pod in made.alive()] == [first], "its pause counts in place, too"
        assert made.reason() == "EngineCrashing"
    assert len(made.events) == 1, "waiting is no news"
    made.now_s += 1
    made.step()
    assert sorted(pod.name for pod in made.alive()) == [first, second]
    made.settle()
    assert made.pods[first].uid == uid
    assert made.wanted.status.ready_replicas == 1


def test_no_room_in_placement_for_a_pod_never_over_commits() -> None:
    made = world(nodes=1, units=2, replicas=5)
    created = [a for a in made.decide() if isinstance(a, CreatePod)]
    assert len(created) == 2


def test_decide_is_pure() -> None:
    made = world(replicas=2)
    first = plan.decide(made.snapshot(), SETTINGS, made.now_s)
    second = plan.decide(made.snapshot(), SETTINGS, made.now_s)
    assert first == second
