"""A refit finds what it was given (synthetic truth), stays home with little data, and says what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controlplane.cli.refit_table import refit_dict, refit_table
from controlplane.model.errors import InvalidSpec
from tuner.serving.calibration.measurement import Measurement
from tuner.serving.calibration.parameters import FACTORS, Calibration, Effect, dump_calibration, load_calibration
from tuner.serving.calibration.refit import Refit, refit
from tuner.serving.predict import Predictor
from tuner.serving.question import parse_question

LINE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "system": "mi300x",
    "backend": "vllm",
    "tp": 1,
    "isl": 512,
    "osl": 64,
}
GROUP = {"engine": "vllm", "accelerator": "mi300x-192gb", "model": "llama-3.1-8b"}
ROOFLINE = {"tier": "roofline"}  # no tables of this accelerator were measured
LOADS = (1, 4, 8, 16, 32, 64)


def _runs(loads: tuple[int, ...] = LOADS, **effects: float) -> list[Measurement]:
    """What an engine would measure whose parts differ from the packaged calibration by these effects."""
    base = load_calibration()
    truth = base.model_copy(
        update={
            "effects": [
                *base.effects,
                *(
                    Effect(when=GROUP | ROOFLINE if knob in FACTORS else GROUP, knob=knob, value=value, rows=0)  # type: ignore[arg-type]
                    for knob, value in effects.items()
                ),
            ]
        }
    )
    predictor = Predictor(calibration=truth)
    runs = []
    for clients in loads:
        question = parse_question(LINE | {"arrivals": {"closed": clients}, "seed": clients})
        answer = predictor.answer(question)
        runs.append(
            Measurement(
                question=question,
                ttft_ms={word: answer["ttft_ms"][word] for word in ("mean", "p50", "p99")},
                tpot_ms={"mean": answer["tpot_ms"]["mean"]},
                source=f"run {clients}",
            )
        )
    return runs


def _refit(runs: list[Measurement]) -> Refit:
    return refit(
        runs,
        load_calibration(),
        lambda calibration: Predictor(calibration=calibration).answer,
        source="runs",
        sha256="0" * 64,
    )


def test_it_finds_the_truth_it_was_given() -> None:
    found = _refit(_runs(prefill=0.3, decode=-0.2, request_ms=12.0))
    assert found.before["tpot"].median_pct is not None and found.after["tpot"].median_pct is not None
    assert found.before["tpot"].median_pct > 8
    assert found.after["tpot"].median_pct < 3
    assert found.after["ttft"].median_pct is not None and found.after["ttft"].median_pct < 5
    assert found.left_out is not None
    assert found.left_out["tpot"].median_pct is not None and found.left_out["tpot"].median_pct < 6
    (values,) = found.groups.values()
    assert values["decode"] == pytest.approx(-0.2, abs=0.06)
    assert values["prefill"] == pytest.approx(0.3, abs=0.12)


def test_it_stays_where_it_is_when_nothing_is_wrong() -> None:
    found = _refit(_runs())
    (values,) = found.groups.values()
    assert values == {"prefill": 0.0, "decode": 0.0, "request_ms": 0.0}
    assert found.calibration.effects == load_calibration().effects


def test_the_result_is_a_calibration_that_knows_the_engine(tmp_path: Any) -> None:
    found = _refit(_runs(decode=0.4)).calibration
    assert "vllm/mi300x-192gb/llama-3.1-8b" in found.support.engine_system_models
    assert found.provenance.rows == len(LOADS)
    path = tmp_path / "mine.json"
    path.write_text(dump_calibration(found))
    again: Calibration = load_calibration(path)
    assert again == found
    changed, packaged = Predictor(calibration=path), Predictor()
    question = parse_question(LINE | {"arrivals": {"closed": 4}})
    assert changed.answer(question)["tpot_ms"]["mean"] > 1.2 * packaged.answer(question)["tpot_ms"]["mean"]
    other = parse_question(LINE | {"model": "qwen3-32b", "arrivals": {"closed": 4}})
    assert changed.answer(other)["ttft_ms"]["mean"] == packaged.answer(other)["ttft_ms"]["mean"], "others are untouched"


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="too few") as caught:
        _refit(_runs((1, 2)))
    assert caught.value.value == "2 of vllm/mi300x-192gb/llama-3.1-8b"
    with pytest.raises(InvalidSpec, match="too few"):
        _refit([])


def test_few_loads_leave_none_out() -> None:
    found = _refit(_runs((1, 8, 32), decode=0.2))
    assert found.left_out is None
    assert found.calibration.support == load_calibration().support, "nothing left out, nothing proven: wide intervals"


def test_an_engine_whose_unseen_loads_fall_outside_keeps_its_wide_intervals() -> None:
    runs = _runs(decode=0.2)
    odd = [
        replace(run, tpot_ms={"mean": run.tpot_ms["mean"] * (6 if index % 2 else 1)}) for index, run in enumerate(runs)
    ]
    found = _refit(odd)
    assert found.calibration.support == load_calibration().support
    group = "vllm/mi300x-192gb/llama-3.1-8b"
    assert f"intervals of {group} stay wide: of the loads left out one lay outside" in refit_table(found, None)
    assert refit_dict(found, None)["unproven"] == [group]
    again = Predictor(calibration=found.calibration).answer(parse_question(LINE | {"arrivals": {"closed": 4}}))
    (note,) = [one for one in again["provenance"]["notes"] if one.startswith("calibration ")]
    assert "fitted to runs of it, intervals not proven" in note and ", unknown:" not in note


def test_separate_roles_are_refused() -> None:
    line = {key: value for key, value in LINE.items() if key != "tp"}
    roles = {"prefill": {"tp": 1}, "decode": {"tp": 1}}
    question = parse_question(line | {"disagg": roles, "arrivals": {"closed": 1}})
    runs = [replace(run, question=question) for run in _runs((1, 2, 4))]
    with pytest.raises(InvalidSpec, match="separate roles"):
        _refit(runs)
