"""A planned mix keeps its split: each choice gets its share, the rest of the mix carries on where a pool is taken."""

from __future__ import annotations

from collections import Counter

from controlplane.model.auto import PlannedCandidate, PlanStatus
from controlplane.model.choice import AcceleratorChoice
from controlplane.model.plans import PlannedRole
from operators.serving.plan_adopt import choices_of, shares_of
from operators.serving.plan_runs import runs_on
from operators.workloads.podview import PodView
from tests.unit.serving.auto_cases import status
from tests.unit.serving.cases import CATALOG
from tests.unit.serving.simulation import H100, L40S, UID, World, choice, deployment

A100 = "a100-sxm-80gb"
CHOICES = (choice(), choice(L40S), choice(A100))  # two of the mix, and what it falls back to
SPLIT = {0: 2, 1: 3}


def world(h100: int, l40s: int, a100: int = 0, **spec: object) -> World:
    made = World(shares=dict(SPLIT))
    for accelerator, count in ((H100, h100), (L40S, l40s), (A100, a100)):
        made.add_nodes(accelerator, count)
    made.apply(deployment(*CHOICES, replicas=5, **spec))
    made.settle()
    return made


def split(made: World) -> dict[str | None, int]:
    return dict(Counter(pod.accelerator for pod in made.alive()))


def test_each_choice_gets_its_share_though_the_first_has_room_for_all() -> None:
    made = world(8, 8)
    assert split(made) == {H100: 2, L40S: 3}
    assert made.reason() == "AllReady"
    assert [event.reason for event in made.events] == []  # no replica fell back


def test_where_a_pool_of_the_mix_is_taken_the_rest_of_the_mix_and_then_the_fallback_carries_on() -> None:
    assert split(world(8, 1)) == {H100: 4, L40S: 1}
    scarce = world(3, 1, 8)
    assert split(scarce) == {H100: 3, L40S: 1, A100: 1}
    assert [event.reason for event in scarce.events] == ["Fallback"]


def test_what_is_scaled_away_is_beyond_its_share_first() -> None:
    made = world(8, 1)
    made.add_nodes(L40S, 4)
    made.shares = {0: 2, 1: 1}
    made.apply(deployment(*CHOICES, generation=2, replicas=3))
    made.settle()
    assert split(made) == {H100: 2, L40S: 1}


def test_replicas_stay_where_they_are_until_moving_is_allowed_and_then_the_split_is_restored() -> None:
    made = world(8, 1)
    for number in range(1, 5):
        made.nodes[f"{L40S}-{number}"] = type(made.nodes[f"{L40S}-0"])(f"{L40S}-{number}", L40S, 1)
    _run(made, 300)
    assert split(made) == {H100: 4, L40S: 1}
    made.apply(deployment(*CHOICES, generation=2, replicas=5, rollout={"preferBetter": "WhenFree"}))
    _run(made, 600)
    assert split(made) == {H100: 2, L40S: 3}
    steps = len(made.events)
    _run(made, 300)
    assert (split(made), len(made.events)) == ({H100: 2, L40S: 3}, steps)


def test_more_replicas_than_the_split_has_wait_for_nothing() -> None:
    made = world(8, 8)
    made.apply(deployment(*CHOICES, generation=2, replicas=7, rollout={"preferBetter": "WhenFree"}))
    made.settle()
    assert (split(made), made.reason()) == ({H100: 4, L40S: 3}, "AllReady")
    assert not made.waits


def _run(made: World, seconds: int) -> None:
    for _ in range(seconds):
        made.now_s += 1
        made.step()
        made.schedule()
        assert made.ready() >= 5
        made.run_all()
        made.end_all()


def mixed() -> PlanStatus:
    """Two on H100 and three on L40S, then five on H100 alone."""

    def planned(pool: str, accelerator: str, replicas: int) -> PlannedRole:
        one = AcceleratorChoice(accelerator=accelerator, engine="vllm", pools=[pool])
        return PlannedRole(role="aggregated", pool=pool, replicas=replicas, choice=one)

    mix = [planned("big", H100, 2), planned("small", L40S, 3)]
    candidates = [
        PlannedCandidate(choices=mix, accelerators=5, score=1.0, reason="Chosen"),
        PlannedCandidate(choices=[planned("big", H100, 5)], accelerators=5, score=0.9, reason="LowerScore"),
    ]
    return status().model_copy(update={"candidates": candidates})


def test_shares_follow_the_first_candidate_where_it_is_a_mix() -> None:
    plan = mixed()
    assert len(choices_of(plan)) == 2
    assert shares_of(plan) == shares_of(plan, 3) == {0: 2, 1: 3}
    assert shares_of(plan, 7) == {0: 3, 1: 4}, "spec.replicas may ask for more: they are split as the plan is"
    assert shares_of(plan, 10) == {0: 4, 1: 6}
    turned = plan.model_copy(update={"candidates": plan.candidates[::-1]})
    assert (shares_of(turned), shares_of(None)) == ({}, {})


def test_the_running_candidate_of_a_mix_is_told_by_its_split() -> None:
    plan = mixed()

    def pods(**counts: int) -> list[PodView]:
        where = {"big": H100, "small": L40S}
        return [
            PodView(
                f"{pool}-{number}", "prod", "u", "1", "Running", owner_uid=UID, pool=pool, accelerator=where[pool],
                engine="vllm", units=1, ready=True,
            )
            for pool, count in counts.items() for number in range(count)
        ]  # fmt: skip

    assert runs_on(plan, pods(big=2, small=3), UID, CATALOG) == plan.candidates[0]
    assert runs_on(plan, pods(big=5), UID, CATALOG) == plan.candidates[1]
    assert runs_on(plan, pods(big=4, small=6), UID, CATALOG) == plan.candidates[0]
