"""What failures make of a plan: checkpoint, share of time that trains, spares, elastic rules, a node fewer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec, UnknownName
from tests.unit.tuner.training_planner.questions import question as one_pool
from tests.unit.tuner.training_planner.test_mixed import A100, V100, question
from tuner.training.constants import shipped
from tuner.training.planner import Planner
from tuner.training.planner.goodput import after_loss, failures_of, under_failures
from tuner.training.resilience import Run, best_interval_s, ettr

MODEL = "layers=12,hidden=4096,heads=32,vocab=51200"
PARAMETERS = 12 * (12 * 4096**2 + 4 * 4096) + 51200 * 4096  # norms and one vocabulary matrix, no biases


@pytest.fixture(scope="module")
def mixed() -> Any:
    asked = question(A100, V100, model=MODEL, batch=32, fix=("cp=1", "zero=1"))
    return asked, Planner().plan(asked)


def test_a_checkpoint_holds_every_parameter_once(mixed: Any) -> None:
    _, answer = mixed
    for item in answer.best:
        found = under_failures(answer, item, failures_of("0.01"), shipped())
        copies = PARAMETERS + (51200 * 4096 if item.plan.pp > 1 else 0)  # a tied matrix stands on both ends
        assert found["checkpoint_bytes"] == pytest.approx(14 * copies, rel=0.01)  # bf16 weight, three fp32 numbers


def test_the_interval_is_the_best_for_the_nodes_that_the_plan_takes(mixed: Any) -> None:
    _, answer = mixed
    found = under_failures(answer, answer.best[0], failures_of("0.01"), shipped())
    assert found["nodes"] <= 4
    run = Run(
        nodes=found["nodes"],
        failures_per_node_day=0.01,
        checkpoint_s=found["checkpoint_s"],
        restart_s=found["restart_s"],
    )
    assert found["checkpoint_interval_s"] == best_interval_s(run)
    assert found["ettr"] == ettr(run, found["checkpoint_interval_s"])
    assert found["tokens_per_s"] == pytest.approx(found["ettr"] * answer.best[0].predicted["tokens_per_s"])
    assert {rule["rule"] for rule in found["rules"]} == {"bamboo", "oobleck", "recycle", "elaswave"}
    json.dumps(found, allow_nan=False)


def test_more_failures_leave_less(mixed: Any) -> None:
    _, answer = mixed
    kept = [
        under_failures(answer, answer.best[0], failures_of(rate), shipped()) for rate in ("0", "0.001", "0.01", "0.1")
    ]
    assert kept[0]["ettr"] == 1.0
    assert kept[0]["checkpoint_interval_s"] is None
    assert [found["ettr"] for found in kept] == sorted((found["ettr"] for found in kept), reverse=True)
    assert [found["spare_nodes"] for found in kept] == sorted(found["spare_nodes"] for found in kept)


def test_a_node_fewer_is_planned_anew_for_every_pool(mixed: Any) -> None:
    asked, answer = mixed
    found = after_loss(Planner(), asked, answer.best[0])
    assert {item["pool"] for item in found} == {asked.case.pools[index].gpu for index in answer.best[0].stage_pools}
    assert all(item["slowdown"] >= 1.0 for item in found)
    assert all(item["gpus_left"] == 4 for item in found)


def test_plans_made_anew_keep_the_limit_of_the_question(mixed: Any) -> None:
    asked, answer = mixed
    given: list[float | None] = []

    class Watched(Planner):
        def plan(self, question: Any, **options: Any) -> Any:
            given.append(options["limit_s"])
            return super().plan(question, **{**options, "limit_s": None})

    pools = len(set(answer.best[0].stage_pools))
    after_loss(Watched(), asked, answer.best[0], limit_s=6.0)
    assert given == [6.0 / pools] * pools


def test_the_last_node_cannot_be_spared() -> None:
    asked = one_pool(gpus=8, batch=8)
    found = after_loss(Planner(), asked, Planner().plan(asked).best[0])
    assert "no node" in found[0]["error"]


def test_a_rate_is_published_or_a_number() -> None:
    assert "Llama 3" in failures_of("llama3").source
    with pytest.raises(UnknownName):
        failures_of("llama9")
    for text in ("-1", "nan", "2"):
        with pytest.raises(InvalidSpec):
            failures_of(text)
    with pytest.raises(InvalidSpec):
        failures_of("0.01", restart_s=-1.0)
