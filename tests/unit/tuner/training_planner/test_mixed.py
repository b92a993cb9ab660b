"""Plans over several pools: the search against brute force, its bounds, what never makes the plan slower, its answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.training import ParallelPlan, Recompute, TrainingCase
from tests.unit.hash_seeds import outputs
from tuner.training.checks import check
from tuner.training.constants import shipped
from tuner.training.evaluate import mixed_times, times, waterfall
from tuner.training.planner import Planner, PlanQuestion, megatron_flags, read_question
from tuner.training.planner.exports import case_of, launch_plan
from tuner.training.planner.mixed.answer import case_of as mixed_case
from tuner.training.planner.mixed.bounds import counts_bound
from tuner.training.planner.mixed.cells import slots, stages_of
from tuner.training.planner.mixed.fill import every_answer, first_answers, least_seconds
from tuner.training.planner.mixed.search import _Search, search
from tuner.training.planner.mixed.seating import seated, that_seat
from tuner.training.planner.mixed.sequences import counts, neighbours, ways
from tuner.training.predict import Predictor

SMALL = "layers=5,hidden=2048,heads=8,vocab=32000"
A100 = {"gpu": "a100-sxm-40gb", "gpus": 8, "gpus_per_node": 4, "nic": "ib-hdr-200", "nics_per_node": 4}
V100 = {"gpu": "v100-sxm2-32gb", "gpus": 8, "gpus_per_node": 4, "nic": "ib-edr-100", "nics_per_node": 2}
T4 = {"gpu": "t4", "gpus": 4, "gpus_per_node": 4, "nic": "eth-25", "nics_per_node": 1}


def question(
    *pools: dict[str, Any], model: str = SMALL, batch: int = 8, fix: tuple[str, ...] = ("cp=1",)
) -> PlanQuestion:
    return read_question(model, list(pools or (A100, V100)), global_batch=batch, seq=1024, fix=fix)


def limits(case: TrainingCase) -> np.ndarray[Any, Any]:
    return np.array([load().accelerators[case.pools[pool].gpu].plannable_memory_bytes for pool in case.stage_pools])


def every_case(asked: PlanQuestion) -> Iterator[TrainingCase]:
    """Every plan there is, by trying all of them: pools in blocks, layers in any way."""
    case = asked.case
    model, batch = case.model, case.plan.global_batch
    modes: tuple[Recompute, ...] = (
        ("none", "selective", "full") if case.plan.attention == "unfused" else ("none", "full")
    )
    for tp, dp in itertools.product((1, 2, 4), (1, 2, 4, 8)):
        room = [slots(pool, tp) // dp for pool in case.pools]
        for micro, mode, zero, sp in itertools.product((1, 2, 4, 8), modes, (0, 1, 2, 3), (False, True)):
            if batch % (dp * micro) or (zero and dp == 1) or (sp and tp == 1):
                continue
            if any(not asked.free(name, value) for name, value in (
                ("tp", tp), ("dp", dp), ("micro_batch", micro), ("recompute", mode), ("zero", zero), ("sp", sp))):  # fmt: skip
                continue
            for order in itertools.permutations(range(len(room))):
                for given in itertools.product(*(range(room[pool] + 1) for pool in order)):
                    pools = tuple(pool for pool, count in zip(order, given, strict=True) for _ in range(count))
                    if zero > 1 and len(pools) != 1:
                        continue
                    for layers, vpp in _splits(model.layers, len(pools), batch // (dp * micro)):
                        plan = ParallelPlan(
                            tp=tp, dp=dp, pp=len(pools), micro_batch=micro, global_batch=batch, recompute=mode,
                            zero=zero, sp=sp, vpp=vpp, schedule="interleaved" if vpp > 1 else "1f1b",
                            overlap_dp=True, overlap_pp=vpp > 1, layers_per_stage=layers,
                            attention=case.plan.attention, precision=case.plan.precision,
                        )  # fmt: skip
                        yield replace(case, plan=plan, stage_pools=pools)


def _splits(layers: int, p: int, m: int) -> Iterator[tuple[tuple[int, ...], int]]:
    if not 1 <= p <= layers:
        return
    for cuts in itertools.combinations(range(1, layers), p - 1):
        found = tuple(b - a for a, b in itertools.pairwise((0, *cuts, layers)))
        for vpp in range(1, layers + 1):
            if vpp == 1 or (p > 1 and m % p == 0 and all(count % vpp == 0 for count in found)):
                yield found, vpp


@pytest.mark.parametrize(
    "asked",
    [
        question(fix=("cp=1", "zero=1", "tp=2,4")),
        question(fix=("cp=1", "zero=0,2,3", "tp=1")),
        question(A100, T4, fix=("cp=1", "tp=2", "recompute=none"), model="layers=6,hidden=4096,heads=8,vocab=32000"),
        question({**A100, "gpus": 4}, {**V100, "gpus": 4}, T4, fix=("cp=1", "tp=4", "sp=true", "recompute=full")),
        question(
            {**A100, "gpus": 4}, V100, fix=("cp=1", "tp=4"), model="layers=6,hidden=8192,heads=8,vocab=32000", batch=16
        ),
    ],
)
def test_the_search_finds_what_brute_force_finds(asked: PlanQuestion) -> None:
    best: float | None = None
    for case in every_case(asked):
        check(case)
        took = float(times([case], shipped()).seconds[0])
        if best is not None and took >= best:
            continue
        if (waterfall(case, shipped()).total[0] <= limits(case)).all():
            best = took
    found = search(asked, shipped())
    assert found.snapshot.incumbent_s == best  # to the last bit: one evaluator
    assert found.snapshot.cells_left == 0
    assert best is None or found.snapshot.gap == 0.0


def test_no_bound_is_above_a_plan_and_no_answer_is_left_out() -> None:
    asked = question(fix=("cp=1", "zero=1", "tp=2", "sp=true"))
    run = _Search(asked, shipped(), np.inf)
    cases = list(every_case(asked))[::11]
    assert cases
    for case in cases:
        plan = case.plan
        cell = next(
            index for index, row in enumerate(run.table)
            if tuple(row[[0, 2, 5]]) == (plan.tp, plan.dp, plan.micro_batch) and bool(row[6]) == (plan.recompute == "full")
        )  # fmt: skip
        took = float(times([case], shipped()).seconds[0])
        place = run.order.tolist().index(cell)
        fits = (waterfall(case, shipped()).total[0] <= limits(case)).all()
        if fits:
            assert run.bounds[place] <= took
            line = run._made(np.array([cell]), np.array([plan.vpp]), [np.array([case.stage_pools])])
            assert len(line) == 1
            assert line.bound[0] <= took
            held = np.bincount(case.stage_pools, minlength=len(asked.case.pools))[None, :]
            assert counts_bound(asked, run.has, cell, held, plan.vpp)[0] + run.tails[cell] <= took
            layers = np.array([plan.layers_per_stage])
            assert line.bound[0] * (1 - 1e-12) <= least_seconds(line, layers)[0] <= took * (1 + 1e-12)
            _, every, whole = every_answer(line, asked.case.model.layers, took * (1 + 1e-9), 10_000)
            assert whole
            assert layers[0].tolist() in every.tolist()


def test_first_answers_fit_and_add_up() -> None:
    asked = question(fix=("cp=1",))
    run = _Search(asked, shipped(), np.inf)
    for cell in run.order[:20]:
        stages = tuple(run.stages[cell].tolist())
        shapes = ways(stages, run.orders)[0]
        if shapes.shape[1] > asked.case.model.layers:
            continue
        line = run._made(np.array([cell]), np.array([1]), [shapes])
        layers, least = first_answers(line, asked.case.model.layers)
        for at in np.flatnonzero(np.isfinite(least)):
            assert layers[at].sum() == asked.case.model.layers
            assert (layers[at] <= line.most[at]).all()


def test_every_way_to_line_up_pools() -> None:
    taken, whole = counts((2, 1, 1), 3, ((0, 1, 2),))
    assert whole
    assert sorted(map(tuple, taken.tolist())) == [(1, 1, 1), (2, 0, 1), (2, 1, 0)]
    rows, whole = ways((2, 0, 1), ((0, 1, 2),))
    assert whole
    assert rows.tolist() == [[0, 0, 2], [2, 0, 0]]
    _, whole = ways((1,) * 7, (tuple(range(7)),))
    assert not whole


def test_ways_to_take_stages_are_all_there_where_a_length_has_few() -> None:
    for stages, p in (((4, 4, 4, 8, 8), 28), ((4, 4, 4, 8, 8), 3), ((3, 0, 2), 4), ((2, 2), 5), ((40, 60), 70)):
        taken, whole = counts(stages, p, (tuple(range(len(stages))),))
        ranges = (range(min(count, p) + 1) for count in stages)
        assert whole
        assert list(map(tuple, taken.tolist())) == [row for row in itertools.product(*ranges) if sum(row) == p]
    assert counts((4, 4, 4, 4, 8, 8), 32, (tuple(range(6)),))[1]  # a pipeline of every stage there is
    assert not counts((8, 8, 8, 8, 16, 16), 32, (tuple(range(6)),))[1]


def test_layers_seated_at_most_are_those_of_the_best_order() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        taken = draw.integers(0, 4, (3, int(draw.integers(1, 5))))
        taken = taken[(taken.sum(axis=1) == taken[0].sum()) & (taken[0].sum() > 0)]
        if not len(taken):
            continue
        held = draw.integers(0, 6, (int(taken[0].sum()), taken.shape[1]))
        best = [max(_seats(held, row) for row in ways(tuple(way), ())[0].tolist()) for way in taken.tolist()]
        found = seated(held, taken)
        assert np.maximum(found, -1).tolist() == best
        enough = [row for row, seats in enumerate(best) if seats >= held.mean()]
        assert list(that_seat(int(np.ceil(held.mean())), held, taken)) == enough


def _seats(held: Any, row: list[int]) -> int:
    each = [int(held[place, pool]) for place, pool in enumerate(row)]
    return sum(each) if all(each) else -1


def test_lines_beside_a_line_keep_pools_together() -> None:
    found = neighbours((0, 0, 2, 1))
    assert (2, 0, 0, 1) in found
    assert (1, 2, 0, 0) in found
    assert (0, 0, 2) in found
    assert (0, 0, 2, 1) not in found
    assert all(len(list(itertools.groupby(each))) == len(set(each)) for each in found)


def test_of_many_pools_a_few_orders_are_tried_and_the_bound_says_so() -> None:
    pools = [{**A100, "gpus": 4, "gpu": gpu} for gpu in ("a100-sxm-40gb", "h100-sxm-80gb", "v100-sxm2-32gb", "l4") * 2]
    asked = question(
        *pools, model="layers=16,hidden=4096,heads=32,vocab=51200", batch=32, fix=("cp=1", "tp=4", "sp=true")
    )
    found = search(asked, shipped()).snapshot
    assert found.incumbent_s is not None
    assert found.bound_s is not None
    assert found.bound_s <= found.incumbent_s
    alone = question(
        *pools[:2], model="layers=16,hidden=4096,heads=32,vocab=51200", batch=32, fix=("cp=1", "tp=4", "sp=true")
    )
    assert found.incumbent_s <= seconds(alone)


def test_beyond_what_is_left_out_fewer_sequences_are_tried_and_the_best_and_its_bound_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus = ("h100", "a100-40", "v100-32", "a100-80", "h200", "b200", "t4")
    pools = [
        {"gpu": gpu, "gpus": 4 * (1 + at % 3), "gpus_per_node": 4, "nic": "hdr", "nics_per_node": 4}
        for at, gpu in enumerate(gpus)
    ]
    fix = ("cp=1", "tp=4", "zero=0", "sp=true", "micro_batch=1", "dp=1", "recompute=none", "vpp=1")
    asked = question(*pools, model="layers=24,hidden=4096,heads=32,vocab=32000", batch=64, fix=fix)
    few = search(asked, shipped())
    monkeypatch.setattr("tuner.training.planner.mixed.search._USUAL", 8192)
    many = search(asked, shipped())
    assert few.snapshot.bound_s == many.snapshot.bound_s
    assert few.snapshot.incumbent_s == many.snapshot.incumbent_s
    assert few.snapshot.cells_left <= many.snapshot.cells_left


def test_a_tensor_parallel_group_never_leaves_its_node() -> None:
    asked = question({**A100, "gpus_per_node": 4}, {**V100, "gpus": 6, "gpus_per_node": 3})
    run = _Search(asked, shipped(), np.inf)
    assert slots(asked.case.pools[1], 2) == 2  # one of three accelerators of each node stays idle
    assert (run.table[:, 0] <= 4).all()
    assert (stages_of(asked, run.table)[run.table[:, 0] == 4, 1] == 0).all()


def seconds(asked: PlanQuestion) -> float:
    found = search(asked, shipped()).snapshot.incumbent_s
    return np.inf if found is None else found


def test_more_of_anything_is_never_slower() -> None:
    model = "layers=8,hidden=4096,heads=16,vocab=51200"
    slow = seconds(question(model=model))
    assert seconds(question({**A100, "gpus": 16}, V100, model=model)) <= slow
    assert seconds(question(A100, V100, T4, model=model)) <= slow
    assert seconds(question({**A100, "inter_gb_s": 200}, V100, model=model)) <= slow
    assert seconds(question({**A100, "gpu": "a100-sxm-80gb"}, V100, model=model)) <= slow
    assert seconds(question(fix=("cp=1", "tp=2"), model=model)) >= slow


def test_six_pools_in_any_order() -> None:
    pools = [
        {**base, "nic": nic, "gpus": 4}
        for base in (A100, V100, {**A100, "gpu": "h100-sxm-80gb"})
        for nic in ("ib-hdr-200", "roce-100")
    ]
    model = "layers=12,hidden=4096,heads=32,vocab=51200"
    asked = question(*pools, model=model, batch=32, fix=("cp=1", "tp=4"))
    found = search(asked, shipped())
    assert found.snapshot.gap == 0.0
    free = [_moved(asked, found.table, plan) for plan in found.plans[:3]]
    assert min(free) >= found.plans[0].seconds


def _moved(asked: PlanQuestion, table: Any, plan: Any) -> float:
    """The best of all plans with one layer moved or two stages' pools exchanged."""
    case, best = mixed_case(asked, table, plan), np.inf
    for one, two in itertools.permutations(range(len(plan.pools)), 2):
        layers, pools = list(plan.layers), list(plan.pools)
        layers[one] -= plan.virtual
        layers[two] += plan.virtual
        others = [replace(case, plan=replace(case.plan, layers_per_stage=tuple(layers)))] if layers[one] else []
        pools[one], pools[two] = pools[two], pools[one]
        if len(set(itertools.accumulate(pools))) and len(list(itertools.groupby(pools))) == len(set(pools)):
            others.append(replace(case, stage_pools=tuple(pools)))
        for other in others:
            if (waterfall(other, shipped()).total[0] <= limits(other)).all():
                best = min(best, float(times([other], shipped()).seconds[0]))
    return best


@pytest.fixture(scope="module")
def asked() -> PlanQuestion:
    return question(A100, V100, model="layers=12,hidden=4096,heads=32,vocab=51200", batch=32, fix=())


@pytest.fixture(scope="module")
def answer(asked: PlanQuestion) -> Any:
    return Planner().plan(asked, top=4)


def test_the_answer_is_what_predict_training_says(answer: Any, asked: PlanQuestion) -> None:
    said = [item.predicted["iteration_s"] for item in answer.best]
    assert said == sorted(said)
    assert answer.proof.incumbent_s == said[0]
    for item in answer.best:
        case = case_of(answer, item)
        assert case.stage_pools == item.stage_pools
        assert sum(item.plan.layers_per_stage) == asked.case.model.layers
        assert item.predicted == Predictor().answer(case)
        assert item.predicted["fits"]
        assert sum(item.terms_s.values()) == pytest.approx(item.predicted["iteration_s"], rel=1e-12)
        assert min(item.terms_s.values()) >= 0.0


def test_a_search_for_any_plan_ends_with_the_first(asked: PlanQuestion) -> None:
    some, every = search(asked, shipped(), any_plan=True), search(asked, shipped())
    assert some.plans and every.plans
    assert some.cells_opened < every.cells_opened or some.plans_costed < every.plans_costed
    nothing = question(A100, V100, model="layers=40,hidden=12288,heads=96,vocab=51200")
    assert not search(nothing, shipped(), any_plan=True).plans


def test_as_many_plans_as_asked_for(asked: PlanQuestion) -> None:
    best = Planner().plan(asked, top=30).best
    assert len(best) == 30
    assert len({(item.plan, item.stage_pools) for item in best}) == 30


def test_the_answer_is_plain_data_with_stages_and_reasons(answer: Any) -> None:
    data = json.loads(json.dumps(answer.as_dict(), allow_nan=False))
    assert [pool["gpu"] for pool in data["cluster"]] == ["a100-sxm-40gb", "v100-sxm2-32gb"]
    first = data["best"][0]["plan"]
    assert len(first["stage_pools"]) == len(first["layers_per_stage"]) == first["pp"]
    assert data["proof"]["complete"]
    assert 1 <= len(data["why_not"]) <= 10
    for lost, shown in zip(answer.why_not, data["why_not"], strict=True):
        assert shown["message"]
        if lost.over_bytes is not None:
            assert lost.iteration_s < answer.proof.incumbent_s
            assert lost.over_bytes > 0


def test_launch_arguments_say_the_layout_and_where_ranks_sit(answer: Any) -> None:
    for item in answer.best:
        case = case_of(answer, item)
        flags = " ".join(megatron_flags(case, item.plan))
        if len(set(item.plan.layers_per_stage)) > 1:
            assert "--pipeline-model-parallel-layout 'E" in flags
        launch = launch_plan(case, item.plan)
        assert [stage.layers for stage in launch.stages] == list(item.plan.layers_per_stage)
        assert sum(run.ranks for run in launch.rank_map) == item.plan.ranks


def test_the_same_answer_under_any_hash_seed() -> None:
    code = (
        "import json; from tests.unit.tuner.training_planner.test_mixed import question, A100, V100, T4;"
        "from tuner.training.planner import Planner;"
        "print(json.dumps(Planner().plan(question(A100, V100, T4)).as_dict()))"
    )
    assert len(outputs(code)) == 1


def test_a_search_stopped_early_keeps_its_bound(asked: PlanQuestion, answer: Any) -> None:
    found = search(asked, shipped(), limit_s=0.0).snapshot
    assert found.cells_left > 0
    assert found.incumbent_s is not None
    assert found.bound_s is not None
    assert found.bound_s <= answer.proof.incumbent_s <= found.incumbent_s


def test_what_fits_nowhere_names_the_nearest_plan_and_its_bytes() -> None:
    big = "layers=40,hidden=12288,heads=96,vocab=51200"
    with pytest.raises(Unsupported, match=r"lacks \d+ bytes .* on stage \d+") as error:
        Planner().plan(question(A100, V100, model=big))
    assert error.value.reason == "PlanDoesNotFit"
    middle = "layers=6,hidden=12288,heads=96,vocab=51200"
    with pytest.raises(Unsupported) as error:
        Planner().plan(question(model=middle, fix=("cp=1", "tp=1", "dp=4")))
    assert "dp" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("fix", "error", "field"),
    [
        (("tp=3",), InvalidSpec, "fix"),
        (("cp_mode=ulysses",), Unsupported, "fix.cp_mode"),
        (("recompute_layers=2",), Unsupported, "fix.recompute_layers"),
    ],
)
def test_a_choice_that_cannot_be_names_its_field(fix: tuple[str, ...], error: type[TrimtabError], field: str) -> None:
    with pytest.raises(error) as said:
        Planner().plan(question(fix=fix))
    assert said.value.field == field


def test_gradient_traffic_is_not_hidden_where_that_is_fixed() -> None:
    assert seconds(question(fix=("cp=1", "overlap_dp=false"))) >= seconds(question())
    assert not Planner().plan(question(fix=("cp=1", "overlap_dp=false"))).best[0].plan.overlap_dp


def test_frameworks_without_unequal_stages_are_refused() -> None:
    asked = question()
    with pytest.raises(Unsupported) as said:
        Planner().plan(replace(asked, rules=replace(asked.rules, framework="fsdp")))
    assert said.value.field == "framework"


def test_slower_links_between_unlike_nics_cost_time() -> None:
    plans = [question(A100, {**V100, "nic": "roce-100"}), question(A100, V100)]
    case = next(case for case in every_case(plans[0]) if set(case.stage_pools) == {0, 1} and case.plan.vpp == 1)
    apart = mixed_times(case, shipped()).seconds[0]
    alike = mixed_times(replace(case, pools=plans[1].case.pools), shipped()).seconds[0]
    assert apart > alike
