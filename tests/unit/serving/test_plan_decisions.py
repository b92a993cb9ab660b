"""When an auto deployment is planned, what of an answer is kept, and when it replaces what runs. No planner, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from controlplane.model.auto import PlannedCandidate, PlanStatus
from controlplane.model.errors import Refused, TrimtabError, Unsupported
from controlplane.model.plans import Allowed
from operators.pools.plannable import Pods, PoolRoom
from operators.serving.plan_adopt import adopt, choices_of, has_room, in_force, plan_status
from operators.serving.plan_due import Attempt, AutoSettings, due, revisions
from operators.serving.plan_outlook import outlook
from operators.serving.plan_request import ask, held_pods, in_words_of_the_spec
from operators.serving.plan_runs import runs_on, settled
from operators.workloads.podview import PodView
from tests.unit.serving.auto_cases import RENDER, ROOMS, answer, asked, auto, room, status
from tests.unit.serving.cases import CATALOG
from tests.unit.serving.simulation import H100, L40S, NAMESPACE, START_S, UID

SETTINGS = AutoSettings()


def test_pauses_that_many_begin_at_once_end_at_moments_of_their_own() -> None:
    plan, now = status(at_s=0.0), asked(None, room("big", free=7), room("small", L40S))
    ends = [due(plan, now, True, None, SETTINGS, f"uid-{number}") for number in range(50)]
    moments = sorted(item.at_s for item in ends if item is not None)
    assert len(set(moments)) == 50
    assert 600 <= moments[0] < 630 and 720 < moments[-1] < 750  # within the spread, and all over it
    assert due(plan, now, True, None, SETTINGS, "uid-7") == ends[7]
    gone = due(plan, now, False, None, SETTINGS, "uid-7")
    assert gone is not None and (gone.at_s, gone.urgent) == (30.0, True)  # nobody waits longer without room


# ---- the question


def test_the_request_says_what_spec_and_pools_say() -> None:
    wanted = auto(
        slo={"ttftMs": {"p95": 400}}, auto={"allowed": {"maxAccelerators": 4}, "objective": "goodput-per-watt"}
    )
    request = asked(wanted, room("big", nic="ib-ndr-400", price_per_accelerator_hour=3.0)).request
    assert request.slo.ttft_ms is not None
    assert (request.model, request.slo.ttft_ms.p95, request.objective) == ("llama-3.1-8b", 400, "goodput-per-watt")
    assert request.allowed.max_accelerators == 4
    (pool,) = request.pools
    assert (pool.name, pool.free, pool.per_node, pool.nic, pool.price_per_accelerator_hour) == (
        "big", 8, 8, "ib-ndr-400", 3.0,
    )  # fmt: skip


def test_what_its_own_replicas_hold_is_free_for_its_next_plan() -> None:
    def pod(uid: str, phase: str = "Running") -> PodView:
        return PodView("p", "prod", "u", "1", phase, owner_uid=uid, pool="big", units=3)

    assert held_pods([pod(UID), pod(UID, "Failed")]) == {"big": [Pods(3)]}
    rooms = (room("big", free=2),)
    assert ask(auto(), rooms, [pod(UID), pod("other")], CATALOG, RENDER).request.pools[0].free == 5
    assert room("cores", "cpu-x86", free=2).with_held([Pods(1500)]).free == 3  # 2,000 + 1,500 millicores: three cores


def test_only_engines_that_can_serve_it_here_are_asked_for() -> None:
    # A GGUF file in the engine's image is for the engine whose image it is in: none is known for CPUs without one.
    cpu = room("cores", "cpu-x86")
    tiny = {"name": "tiny-random-llama", "source": "image:/models/tiny.gguf"}
    assert asked(auto(model=tiny), cpu).request.allowed.engines == ["openvino"]
    with pytest.raises(TrimtabError, match="does not download weights"):
        asked(auto(model={"name": "tiny-random-llama", "source": "hf:org/tiny"}), cpu)


def test_without_a_usable_pool_there_is_no_question() -> None:
    with pytest.raises(Unsupported, match="no GPUPool has usable nodes"):
        ask(auto(), (), (), CATALOG, RENDER)


def test_revisions_tell_spec_pools_and_room_apart() -> None:
    base = revisions(asked())
    spec = revisions(asked(auto(slo={"tpotMs": {"p50": 30}})))
    pools = revisions(asked(None, room("big", nic="ib-ndr-400"), ROOMS[1]))
    free = revisions(asked(None, room("big", free=7), ROOMS[1]))
    assert [a == b for a, b in zip(base, spec, strict=True)] == [False, True, True, True]
    assert [a == b for a, b in zip(base, pools, strict=True)] == [True, False, True, True]
    assert [a == b for a, b in zip(base, free, strict=True)] == [True, True, False, True]
    # What is no part of the question does not ask it again.
    assert revisions(asked(auto(replicas=7, podTemplate={"metadata": {"labels": {"a": "b"}}}))) == base


def test_errors_speak_of_what_the_user_wrote() -> None:
    def field(name: str | None) -> str | None:
        return in_words_of_the_spec(Unsupported("no", field=name, code="X")).field

    assert field("allowed.accelerators") == "spec.auto.allowed.accelerators"
    assert field("slo.ttftMs") == "spec.slo.ttftMs"
    assert field("model") == "spec.model.name"
    assert (field("pools"), field(None)) == ("pools", None)


# ---- when


def test_planned_at_once_and_not_again_while_nothing_changes() -> None:
    first = due(None, asked(), False, None, SETTINGS)
    assert first is not None
    assert first.at_s <= START_S
    assert due(status(), asked(), True, None, SETTINGS) is None  # nor after a restart, which forgets attempts
    assert due(status(), asked(), True, Attempt(START_S, revisions(asked())), SETTINGS) is None


@pytest.mark.parametrize(
    ("question", "placeable", "pause_s"),
    [
        (asked(auto(slo={"tpotMs": {"p50": 30}})), True, SETTINGS.spec_pause_s),
        (asked(None, room("big", nic="ib-ndr-400"), ROOMS[1]), True, SETTINGS.pools_pause_s),
        (asked(None, room("big", free=7), ROOMS[1]), True, SETTINGS.room_pause_s),
        (asked(None, room("big", free=0), ROOMS[1]), False, SETTINGS.unplaceable_pause_s),
    ],
    ids=["spec", "pools", "room", "no room for what runs"],
)
def test_planned_again_after_a_pause(question: object, placeable: bool, pause_s: float) -> None:
    again = due(status(), question, placeable, None, SETTINGS)  # type: ignore[arg-type]
    assert again is not None
    assert again.at_s == START_S + pause_s


def test_a_definite_no_is_not_asked_again_until_something_changes() -> None:
    no = Attempt(START_S, revisions(asked()), 1, Unsupported("nothing fits"))
    assert due(None, asked(), False, no, SETTINGS) is None
    changed = due(None, asked(auto(slo={"tpotMs": {"p50": 30}})), False, no, SETTINGS)
    assert changed is not None
    assert changed.at_s == START_S + SETTINGS.spec_pause_s
    freed = due(None, asked(None, room("big", free=7)), False, no, SETTINGS)
    assert freed is not None
    assert freed.at_s == START_S + SETTINGS.failure_base_s


def test_a_dead_planner_is_asked_again_with_growing_pauses() -> None:
    def pause_s(failures: int) -> float:
        error = Refused("died", code="PlannerDied")
        found = due(None, asked(), False, Attempt(START_S, revisions(asked()), failures, error, True), SETTINGS)
        assert found is not None
        return found.at_s - START_S

    assert [pause_s(failures) for failures in (1, 2, 3, 99)] == [30, 60, 120, SETTINGS.failure_max_s]


# ---- what is kept of an answer


def test_kept_are_the_best_and_the_best_of_every_other_place() -> None:
    plan = status(None, room("a"), room("b"), room("c"), room("d"), room("e"))
    assert [candidate.choices[0].pool for candidate in plan.candidates] == ["a", "b", "c", "d"]
    assert [choice.pools for choice in choices_of(plan)] == [["a"], ["b"], ["c"], ["d"]]
    assert plan.why_not == []


def test_split_roles_stay_advice() -> None:
    plan = status(None, advisory=True)
    assert all(choice.role == "aggregated" for candidate in plan.candidates for choice in candidate.choices)
    assert [loser.advisory for loser in plan.why_not] == [True]
    assert "prefill" in plan.why_not[0].shape


def test_what_cannot_be_rendered_here_is_told_and_left_out() -> None:
    with pytest.raises(TrimtabError, match="maxNumSeq"):
        status(None, knobs={"maxNumSeq": 4})


def test_numbers_are_kept_to_the_digits_that_mean_something() -> None:
    question = asked()
    plan = answer(question.request)
    prediction = plan.best[0].prediction
    assert prediction is not None
    exact = prediction.model_copy(update={"goodput_per_second": 9.417971036799564, "kv_fraction_peak": 0.00146484375})
    best = [plan.best[0].model_copy(update={"prediction": exact})]
    kept = plan_status(plan.model_copy(update={"best": best}), question, auto(), CATALOG, RENDER, START_S)
    shown = kept.candidates[0].prediction
    assert shown is not None
    assert (shown.goodput_per_second, shown.kv_fraction_peak) == (9.418, 0.001465)


def test_the_planned_condition_says_what_weakens_the_prediction() -> None:
    question = asked()
    plan = answer(question.request)
    prediction = plan.best[0].prediction
    assert prediction is not None
    said = "TPOT p95 is predicted at 38 ms, and the 90 % interval reaches 61 ms: above the SLO of 40 ms"
    weak = prediction.model_copy(update={"warnings": [said], "kv_fraction_peak": None})
    best = [plan.best[0].model_copy(update={"prediction": weak})]
    kept = plan_status(plan.model_copy(update={"best": best}), question, auto(), CATALOG, RENDER, START_S)
    assert kept.candidates[0].prediction is not None
    assert kept.candidates[0].prediction.kv_fraction_peak is None
    assert f"; warning: {said}" in outlook(kept, None, question, "", None).message


def test_an_answer_without_candidates_is_no_plan() -> None:
    question = asked()
    empty = answer(question.request).model_copy(update={"best": [], "why_not": answer(question.request).best})
    with pytest.raises(
        Unsupported, match=r"no deployment on these pools keeps the SLO.*the nearest, 1 x h100"
    ) as raised:
        plan_status(empty, question, auto(), CATALOG, RENDER, START_S)
    assert raised.value.field == "spec.slo"


# ---- what stands where explicit choices would


def test_a_plan_in_force_reads_like_explicit_choices() -> None:
    plan = status(None, replicas=3)
    spec = in_force(auto().spec, plan)
    assert [choice.accelerator for choice in spec.choices] == [H100, L40S]
    assert spec.replicas == 3
    assert in_force(auto(replicas=5).spec, plan).replicas == 5
    assert in_force(auto(replicas=0).spec, plan).replicas == 0


def test_a_plan_for_another_model_gives_no_choices_but_keeps_the_replicas() -> None:
    plan = status(None, replicas=3)
    spec = in_force(auto(model={"name": "llama-3.1-70b", "source": "pvc:models/llama70"}).spec, plan)
    assert spec.choices == []
    assert spec.replicas == 3


# ---- hysteresis


def test_a_small_gain_moves_nothing() -> None:
    running = status(None, scores={"big": 100.0, "small": 90.0})
    new = status(None, scores={"big": 100.0, "small": 109.0}, at_s=START_S + 60)
    kept, why = adopt(running, new, room=True, margin=0.10)
    assert kept.candidates[0].choices[0].pool == "big"
    assert "kept" in why
    assert kept.planned_time == running.planned_time
    assert kept.weighed_time == new.weighed_time


def test_a_large_gain_moves() -> None:
    running = status(None, scores={"big": 100.0, "small": 90.0})
    new = status(None, scores={"big": 100.0, "small": 111.0})
    adopted, why = adopt(running, new, room=True, margin=0.10)
    assert adopted.candidates[0].choices[0].pool == "small"
    assert why == "better by 11 %"


def test_without_room_anything_is_better() -> None:
    running = status(None, scores={"big": 100.0, "small": 10.0})
    new = status(None, room("small", L40S))
    adopted, why = adopt(running, new, room=False, margin=0.10)
    assert adopted.candidates[0].choices[0].pool == "small"
    assert "no room" in why


def test_a_score_by_cost_does_not_outlive_the_prices_it_was_made_with() -> None:
    by_cost = auto(auto={"objective": "goodput-per-cost"})
    running = status(by_cost, room("big", price_per_accelerator_hour=1.0), scores={"big": 100.0})
    dear = (room("big", price_per_accelerator_hour=9.0), room("small", L40S, price_per_accelerator_hour=1.0))
    new = status(by_cost, *dear, scores={"big": 11.0, "small": 60.0})
    alone = new.model_copy(update={"candidates": new.candidates[:1]})
    adopted, why = adopt(running, alone, room=True, margin=0.10)
    assert (adopted, why) == (alone, "the pools have changed and the running deployment is not among their best")
    # By accelerators a price changes nothing: the old score still compares.
    same = status(None, room("big"), scores={"big": 100.0})
    other = status(None, *dear, scores={"big": 11.0, "small": 60.0})
    other = other.model_copy(update={"candidates": other.candidates[:1]})
    assert adopt(same, other, room=True, margin=0.10)[0].candidates == same.candidates


def test_a_closed_pool_stays_in_the_question_while_own_pods_answer_there() -> None:
    plan = status()
    closed = (replace(room("big", free=0), closed=True), room("small", L40S))

    def pools(*pods: PodView, rooms: Sequence[PoolRoom] = closed) -> list[tuple[str, int]]:
        return [(pool.name, pool.free) for pool in ask(auto(), rooms, pods, CATALOG, RENDER).request.pools]

    assert pools() == [("small", 8)]
    assert pools(_pod(1, plan, 0)) == [("big", 1), ("small", 8)]
    assert pools(_pod(1, plan, 0, ready=False)) == [("small", 8)]
    assert pools(_pod(1, plan, 0, owner_uid="other")) == [("small", 8)]
    # its nodes name different accelerators now: the pods say which one they were made for
    assert pools(_pod(1, plan, 0), rooms=closed[1:]) == [("small", 8), ("big", 1)]
    request = ask(auto(), closed, [_pod(1, plan, 0)], CATALOG, RENDER).request
    assert has_room(plan, request, CATALOG)


def test_the_block_that_an_own_pod_holds_is_there_for_its_successor() -> None:
    rooms = (
        replace(room("big", free=7), free_nodes=((5, 1), (1, 2)), free_on={"n0": 1, "n1": 5, "n2": 1}.__getitem__),
    )
    pod = PodView(
        "p", NAMESPACE, "u", "1", "Running", owner_uid=UID, pool="big", accelerator=H100, units=7, ready=True,
        node_name="n2",
    )  # fmt: skip

    def nodes(*pods: PodView) -> list[tuple[int, int]] | None:
        told = ask(auto(), rooms, pods, CATALOG, RENDER).request.pools[0].free_nodes
        return None if told is None else [(item.free, item.nodes) for item in told]

    assert nodes() == [(5, 1), (1, 2)]
    assert nodes(pod) == [(8, 1), (5, 1), (1, 1)]


def test_a_fallback_that_serves_is_what_a_new_plan_must_beat() -> None:
    running = status(None, scores={"big": 101.0, "small": 100.0})
    fallback = running.candidates[1]
    near = status(None, scores={"big": 109.0, "small": 100.0})
    kept, why = adopt(running, near, room=True, margin=0.10, runs=fallback)
    assert [candidate.choices[0].pool for candidate in kept.candidates] == ["small", "big"]
    assert "kept" in why
    alone = status(None, room("big"), scores={"big": 105.0})  # not among the new: its old score stands
    assert adopt(running, alone, room=True, margin=0.10, runs=fallback)[0].candidates[0].choices[0].pool == "small"
    far = status(None, scores={"big": 111.0, "small": 100.0})
    assert adopt(running, far, room=True, margin=0.10, runs=fallback)[0].candidates[0].choices[0].pool == "big"


def _pod(number: int, planned: PlanStatus, candidate: int, ready: bool = True, **more: Any) -> PodView:
    choice = planned.candidates[candidate].choices[0]
    return PodView(
        name=f"chat-{number}", namespace=NAMESPACE, uid=f"pod-{number}", resource_version="1", phase="Running",
        owner_uid=more.get("owner_uid", UID), pool=choice.pool, accelerator=choice.choice.accelerator,
        engine=choice.choice.engine, units=choice.choice.tensor_parallel, ready=ready,
        deleting_s=more.get("deleting_s"),
    )  # fmt: skip


def test_what_runs_is_where_most_pods_are_once_one_answers() -> None:
    plan = status(None, scores={"big": 101.0, "small": 100.0})
    first, fallback = plan.candidates[:2]

    def found(*pods: PodView) -> PlannedCandidate | None:
        return runs_on(plan, pods, UID, CATALOG)

    assert found() is None
    assert found(_pod(1, plan, 1)) == fallback
    assert found(_pod(1, plan, 1), _pod(2, plan, 0)) == first
    assert found(_pod(1, plan, 1), _pod(2, plan, 1), _pod(3, plan, 0)) == fallback
    assert found(_pod(1, plan, 1, ready=False)) is None
    assert found(_pod(1, plan, 1, owner_uid="other"), _pod(2, plan, 1, deleting_s=5)) is None


def test_a_fallback_that_serves_goes_first_unless_another_is_better_by_the_margin() -> None:
    near = status(None, scores={"big": 101.0, "small": 100.0})
    fallback = near.candidates[1]
    assert [item.choices[0].pool for item in settled(near, fallback, 0.10).candidates] == ["small", "big"]
    assert settled(near, near.candidates[0], 0.10) == near
    assert settled(near, None, 0.10) == near
    far = status(None, scores={"big": 120.0, "small": 100.0})
    assert settled(far, far.candidates[1], 0.10) == far


def test_the_same_deployment_is_weighed_again_and_may_change_its_number() -> None:
    new = status(None, replicas=2)
    adopted, _ = adopt(status(), new, room=True, margin=0.10)
    assert adopted == new


def test_after_a_change_of_the_spec_the_running_one_is_judged_among_the_new() -> None:
    running = status(None, scores={"big": 100.0, "small": 90.0})
    stricter = auto(slo={"tpotMs": {"p50": 20}})
    near = status(stricter, scores={"big": 50.0, "small": 52.0})
    assert adopt(running, near, room=True, margin=0.10)[0].candidates[0].choices[0].pool == "big"
    far = status(stricter, scores={"big": 50.0, "small": 80.0})
    assert adopt(running, far, room=True, margin=0.10)[0].candidates[0].choices[0].pool == "small"
    alone = status(stricter, room("small", L40S))  # what runs keeps the new promise nowhere
    assert adopt(running, alone, room=True, margin=0.10)[0].candidates[0].choices[0].pool == "small"


def test_pools_that_bring_an_engine_along_are_the_same_question() -> None:
    # An x86 pool makes OpenVINO able to serve: scores still compare, so a small gain still moves nothing.
    before, after = asked(), asked(None, *ROOMS, room("cores", "cpu-x86", 64))
    assert before.request.allowed.engines != after.request.allowed.engines
    assert [a == b for a, b in zip(revisions(before), revisions(after), strict=True)] == [True, False, False, True]


def test_a_plan_whose_engine_cannot_serve_any_more_has_no_room() -> None:
    request = asked().request
    assert has_room(status(), request, CATALOG)
    gone = request.model_copy(update={"allowed": Allowed(engines=["trtllm-serve"])})
    assert not has_room(status(), gone, CATALOG)


def test_room_is_counted_in_the_plan_s_own_units() -> None:
    plan = status(None, replicas=3)
    assert has_room(plan, asked(None, room("big", free=3)).request, CATALOG)
    assert not has_room(plan, asked(None, room("big", free=2)).request, CATALOG)
    assert not has_room(plan, asked(None, room("other")).request, CATALOG)
    tiny = auto(model={"name": "tiny-random-llama", "source": "image:/models/tiny.gguf"})
    cores = status(tiny, room("cores", "cpu-x86", 4), replicas=2, cpuMillicores=1500)
    assert has_room(cores, asked(tiny, room("cores", "cpu-x86", 3)).request, CATALOG)
    assert not has_room(cores, asked(tiny, room("cores", "cpu-x86", 2)).request, CATALOG)
