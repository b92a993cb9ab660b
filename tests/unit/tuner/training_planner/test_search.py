"""The search against brute force, its bounds, and what must never make the best plan slower."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.training import ParallelPlan, TrainingCase
from tests.unit.hash_seeds import outputs
from tests.unit.tuner.training_planner.questions import MODEL, question
from tuner.training.checks import check
from tuner.training.constants import shipped
from tuner.training.evaluate import times, waterfall
from tuner.training.iteration import iteration
from tuner.training.planner import Planner, PlanQuestion
from tuner.training.planner.bounds import least_seconds, least_spare_bytes
from tuner.training.planner.fewest import leanest, open_rows
from tuner.training.planner.launchable import launchable, theoretical
from tuner.training.planner.rows import PP, as_columns, plan_of
from tuner.training.planner.search import memory_limit, search, spare_bytes
from tuner.training.planner.space import cells, leaves

BIG = "layers=40,hidden=6144,heads=48,vocab=51200"
EXPERTS = "layers=8,hidden=2048,heads=16,vocab=32000,experts=4,top_k=2,expert_ffn=4096,gated=true"


def brute_force(asked: PlanQuestion) -> list[TrainingCase]:
    """Every launchable plan, by trying all small degrees and asking what `predict training` accepts."""
    case, gpus = asked.case, asked.case.pools[0].gpus
    model, batch = case.model, case.plan.global_batch
    sizes = [n for n in range(1, gpus + 1) if gpus % n == 0]
    found = []
    for tp, pp, cp in itertools.product(sizes, repeat=3):
        if gpus % (tp * pp * cp) or model.kv_heads % tp or (cp > 1 and model.seq % (2 * cp)):
            continue
        dp = gpus // (tp * pp * cp)
        counted = [n for n in (model.layers, model.layers + 1, model.layers + 2) if n % pp == 0]
        if batch % dp or not counted:
            continue
        spread = [(1, 1)]
        if model.experts:
            spread = [(ep, etp) for ep in range(1, model.experts + 1) for etp in {1, tp}]
        for (ep, etp), micro, vpp, saving, sp, mode in itertools.product(
            spread, range(1, batch // dp + 1), range(1, counted[0] // pp + 1), savings(asked, pp, dp * cp),
            (False, True), ("ring", "ulysses") if cp > 1 else ("ring",),
        ):  # fmt: skip
            plan = ParallelPlan(
                tp=tp, pp=pp, dp=dp, cp=cp, ep=ep, etp=etp, vpp=vpp, micro_batch=micro, global_batch=batch,
                schedule="interleaved" if vpp > 1 else "1f1b", sp=sp, overlap_dp=True, overlap_pp=vpp > 1, cp_mode=mode,
                **saving,
            )  # fmt: skip
            tried = replace(case, plan=plan)
            chunk = math.ceil(math.ceil(model.layers / pp) / vpp)
            if counted[0] // pp % vpp or (model.experts and tp > 1 and not sp) or plan.recompute_layers >= chunk > 0:
                continue
            try:
                check(tried)
            except InvalidSpec:
                continue
            found.append(tried)
    return found


def savings(asked: PlanQuestion, pp: int, ranks: int) -> list[dict[str, Any]]:
    """What saves memory: every number of recomputed and of offloaded layers."""
    most = -(-asked.case.model.layers // pp)
    modes: list[dict[str, Any]] = [{"recompute": "none"}]
    modes += [{"recompute": "full", "recompute_layers": count} for count in range(most)]
    modes += [{"offload_layers": count} for count in range(1, most) if pp == 1]
    shards: list[dict[str, Any]] = [{"zero": 0}]
    shards.append({"zero": 1, "optimizer_offload": "cpu"})
    if ranks > 1:
        shards.append({"zero": 1})
        shards += [{"zero": level} for level in (2, 3) if pp == 1]
    return [{**mode, **shard} for mode, shard in itertools.product(modes, shards)]


@pytest.mark.parametrize(
    "asked",
    [
        question("layers=5,hidden=2048,heads=16,vocab=51200", batch=6),
        question(gpus=4, batch=8),
        question("layers=7,hidden=4096,heads=32,vocab=51200", gpus=8, batch=4),
        question("layers=4,hidden=2048,heads=8,vocab=32000,experts=4,top_k=2,expert_ffn=4096", gpus=8, batch=4),
        question("layers=6,hidden=8192,heads=64,vocab=51200", gpus=2, batch=2),
        question("layers=6,hidden=8192,heads=64,vocab=51200", gpus=4, batch=2),
    ],
)
def test_the_search_finds_what_brute_force_finds(asked: PlanQuestion) -> None:
    every = brute_force(asked)
    whole = [case for case in every if not case.plan.recompute_layers and not case.plan.offload_layers]
    rows = leaves(asked, cells(asked))
    assert len(whole) == (~open_rows(rows)).sum()
    assert len(every) - len(whole) >= open_rows(rows).sum()
    limit = memory_limit(asked)
    seconds = times(every, shipped()).seconds
    best = min(
        (took for took, case in zip(seconds, every, strict=True) if waterfall(case, shipped()).total.max() <= limit),
        default=None,
    )
    found = search(asked, shipped())
    assert found.snapshot.incumbent_s == (None if best is None else pytest.approx(best, rel=1e-12))
    assert found.snapshot.cells_left == 0
    assert best is None or found.snapshot.gap == 0.0


@pytest.mark.parametrize(
    "asked",
    [
        question(),
        question(BIG, gpus=64, batch=96),
        question(BIG, ("attention=unfused", "overlap_dp=false"), gpus=64, batch=96),
        question(BIG, ("overlap_tp=true",), gpus=64, batch=96, gpu="h100-sxm-80gb"),
        question(EXPERTS),
        replace(question(BIG, gpus=64, batch=96), rules=launchable("fsdp")),
        replace(question(EXPERTS), rules=launchable("megatron-deepspeed")),
        replace(question(BIG, gpus=64, batch=96), rules=theoretical()),
        replace(question(EXPERTS), rules=theoretical()),
    ],
)
def test_bounds_hold_for_every_leaf(asked: PlanQuestion) -> None:
    for cell in cells(asked)[::29]:
        rows = leaves(asked, cell[None, :])
        if not len(rows):
            continue
        fastest, rows = np.abs(rows), leanest(asked, rows)
        c = as_columns(asked, fastest, shipped())
        spread = len(asked.rules.vocab_parallel) > 1
        assert least_seconds(c, shipped(), spread=spread)[0] <= iteration(c, shipped()).seconds.min()
        spare, _ = spare_bytes(asked, rows, shipped())
        least = least_spare_bytes(asked, cell[None, :], shipped(), memory_limit(asked))[0]
        assert least >= spare.max() - 1.0


def test_stages_of_the_table_are_those_of_the_plan() -> None:
    asked = question()
    rows = np.abs(leaves(asked, cells(asked)))
    rows = rows[rows[:, PP] > 1][::37]
    seconds = iteration(as_columns(asked, rows, shipped()), shipped()).seconds
    cases = [replace(asked.case, plan=plan_of(asked, row)) for row in rows]
    np.testing.assert_allclose(times(cases, shipped()).seconds, seconds, rtol=1e-12)


def best_s(asked: PlanQuestion) -> float:
    found = search(asked, shipped()).snapshot.incumbent_s
    return float("inf") if found is None else found


def test_more_memory_is_never_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = question(BIG, gpus=64, batch=96)
    whole = memory_limit(asked)
    answers = []
    for share in (0.25, 0.5, 0.75, 1.0, 2.0):
        monkeypatch.setattr("tuner.training.planner.search.memory_limit", lambda _, share=share: share * whole)
        answers.append(best_s(asked))
    assert answers == sorted(answers, reverse=True)
    assert answers[-1] < answers[1]


def test_more_bandwidth_is_never_slower() -> None:
    answers = [best_s(question(BIG, gpus=64, batch=96, nic=None, inter_gb_s=rate)) for rate in (5, 25, 100, 400)]
    assert answers == sorted(answers, reverse=True)
    answers = [best_s(question(BIG, gpus=64, batch=96, intra_gb_s=rate)) for rate in (20, 100, 300, 900)]
    assert answers == sorted(answers, reverse=True)


def test_a_choice_already_made_is_kept_and_never_faster() -> None:
    free = best_s(question(BIG, gpus=64, batch=96))
    for fix in (
        ("tp=2",),
        ("pp=1,2", "zero=1"),
        ("recompute=full",),
        ("schedule=1f1b",),
        ("sp=false", "micro_batch=1"),
    ):
        asked = question(BIG, fix, gpus=64, batch=96)
        found = search(asked, shipped())
        assert len(found.rows)
        assert found.snapshot.incumbent_s >= free
        for row in found.rows:
            plan = plan_of(asked, row)
            assert all(getattr(plan, name) in values for name, values in asked.fixed.items())


def test_full_recomputation_asked_for_is_all_of_it() -> None:
    asked = question(BIG, ("recompute=full",), gpus=64, batch=96)
    assert all(plan_of(asked, row).recompute_layers == 0 for row in search(asked, shipped()).rows)
    part = question(BIG, ("recompute=full", "recompute_layers=2"), gpus=64, batch=96)
    assert {plan_of(part, row).recompute_layers for row in search(part, shipped()).rows} == {2}


def test_what_fits_nowhere_names_the_nearest_plan_its_bytes_and_the_choice_in_the_way() -> None:
    with pytest.raises(Unsupported, match=r"lacks \d+ bytes .* on stage \d+") as error:
        Planner().plan(question(BIG, ("recompute=none", "tp=1"), gpus=4, batch=64))
    assert error.value.reason == "PlanDoesNotFit"
    assert error.value.value > 0
    with pytest.raises(Unsupported) as error:
        Planner().plan(question(BIG, ("tp=1", "pp=1", "zero=0"), gpus=64, batch=64))
    assert "without tp=1 or without zero=0" in (error.value.hint or "")
    with pytest.raises(Unsupported, match="lacks") as error:
        Planner().plan(question(BIG, gpus=1, batch=4))
    assert "nothing that was fixed" in (error.value.hint or "")


def test_the_bytes_of_the_nearest_plan_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = question(BIG, ("optimizer_offload=none",), gpus=4, batch=8)
    with pytest.raises(Unsupported) as error:
        Planner().plan(asked)
    limit = memory_limit(asked)
    monkeypatch.setattr("tuner.training.planner.search.memory_limit", lambda _: limit + error.value.value + 1)
    assert len(search(asked, shipped()).rows)
    monkeypatch.setattr("tuner.training.planner.search.memory_limit", lambda _: limit + error.value.value - 2)
    assert not len(search(asked, shipped()).rows)


def test_nothing_that_divides_is_an_error_that_names_the_choice() -> None:
    with pytest.raises(InvalidSpec) as error:
        Planner().plan(question(fix=("tp=3",)))
    assert error.value.reason == "NoPlan"
    assert "without tp=3" in (error.value.hint or "")


def test_a_search_that_is_stopped_says_how_far_off_it_may_be() -> None:
    asked = question(BIG, gpus=64, batch=96)
    seen = []
    whole = search(asked, shipped(), progress=seen.append)
    stopped = search(asked, shipped(), limit_s=0.0)
    assert stopped.snapshot.cells_left > 0
    known = [at for at in seen if at.incumbent_s is not None]
    assert known
    assert all(at.bound_s <= whole.snapshot.incumbent_s <= at.incumbent_s for at in known)
    assert all(a.gap >= b.gap for a, b in itertools.pairwise(known))


def test_the_same_answer_under_any_hash_seed() -> None:
    code = (
        "import json; from tests.unit.tuner.training_planner.questions import question;"
        "from tuner.training.planner import Planner; print(json.dumps(Planner().plan(question()).as_dict()))"
    )
    assert len(outputs(code)) == 1


def test_memory_limit_is_the_catalogues_less_the_reserve() -> None:
    total = load().accelerators["a100-sxm-40gb"].plannable_memory_bytes
    assert total is not None
    assert memory_limit(question(MODEL)) == pytest.approx(0.95 * total)
