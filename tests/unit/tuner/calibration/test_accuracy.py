"""Rows against answers: nothing is dropped, every direction adds up, the baseline is asked the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controlplane.model.errors import UnknownName, Unsupported
from tuner.serving.calibration.accuracy import ask, points, report, score_file
from tuner.serving.calibration.baseline import compare, estimate
from tuner.serving.calibration.rows import degrees, row_fields
from tuner.serving.calibration.silicon import Shape, SiliconRow, load_silicon
from tuner.serving.question import Question
from tuner.serving.resolve import engine_case
from tuner.serving.step import aiconfigurator

HEAD = "backend,model_path,system,mode,isl,osl,tp_size,attention_dp_size,moe_tp_size,moe_ep_size,batch_size,silicon_ttft_ms,silicon_tpot_ms\n"
ROWS = (
    "vllm,meta-llama/Llama-3.1-70B,h200_sxm,agg,1024,1024,8,1,8,1,16,200,12\n"
    "vllm,meta-llama/Llama-3.1-70B,h200_sxm,agg,1024,1024,8,1,8,1,64,400,20\n"
    "sglang,unheard/of,h200_sxm,agg,1024,1024,8,1,1,1,8,300,15\n"
    "trtllm,deepseek-ai/DeepSeek-R1,b200_sxm,disagg,1024,1024,,,,,,300,15\n"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(HEAD + ROWS)
    return path


def _answer(question: Question) -> dict[str, Any]:
    if question.model == "unheard/of":
        raise UnknownName("unknown model 'unheard/of'", field="model")
    clients = question.arrivals.clients
    return {
        "ttft_ms": {"mean": 220.0, "lo": 100.0, "hi": 300.0},
        "tpot_ms": {"mean": 12.0, "lo": 11.0, "hi": 13.0},
        "tier": "measured" if clients < 32 else "roofline",
    }


def test_no_row_is_dropped(file: Path) -> None:
    answered = ask(load_silicon(file), _answer)
    found = report(answered)
    assert found.rows == 4
    overall = found.metrics["agg"]["ttft"].overall
    assert (overall.rows, overall.answered) == (3, 2)
    assert overall.median_pct == pytest.approx((10 + 45) / 2)
    for scores in found.metrics["agg"]["ttft"].by.values():
        assert sum(score.rows for score in scores.values()) == 3
    assert set(found.metrics["agg"]["ttft"].by["tier"]) == {"measured", "none", "roofline"}
    assert found.metrics["disagg"]["tpot"].overall.coverage_pct == 0
    assert found.misses == {
        "agg": {"UnknownName: unknown model 'unheard/of' (model)": 1},
        "disagg": {"Unsupported: the row names no concurrency (silicon_data_source)": 1},
    }
    interval = found.metrics["agg"]["tpot"].overall.interval
    assert interval is not None
    assert (interval.n, interval.inside_pct) == (2, 50.0)


def test_a_file_as_json_shows_it(file: Path) -> None:
    seen: list[int] = []
    found = score_file(file, "all", _answer, baseline=False, progress=seen.append)
    assert seen == [1, 2, 3, 4]
    assert (found["data"], found["split"], found["rows"]) == ("mine.csv", "all", 4)
    assert score_file(file, "test", _answer, baseline=False)["rows"] == 0


def test_the_baseline_is_asked_the_same_rows(file: Path) -> None:
    if not aiconfigurator.installed():
        pytest.skip("aiconfigurator-core is not installed")
    rows = [row for row in load_silicon(file) if row.mode == "agg"]
    answered = ask(rows, _answer)
    found = compare(rows, {"ttft": points(answered, "ttft"), "tpot": points(answered, "tpot")})
    assert found["tpot"]["all"]["rows"] == 3
    assert found["tpot"]["all"]["answered"] == found["tpot"]["common"]["rows"] == 2
    assert found["tpot"]["ours_common"]["mape_pct"] == pytest.approx(20.0)
    first, second = (estimate(row) for row in rows[:2])
    assert first is not None and second is not None
    assert 0 < first[1] < second[1] < 100, "more clients, longer steps"


def test_the_baseline_has_no_answer_for_separate_roles(file: Path) -> None:
    assert estimate(load_silicon(file)[-1]) is None


def _row(path: Path, text: str) -> SiliconRow:
    path.write_text(HEAD + text)
    return load_silicon(path)[0]


def test_a_row_is_asked_as_a_user_would(tmp_path: Path) -> None:
    fields = row_fields(_row(tmp_path / "a.csv", ROWS.splitlines()[0] + "\n"))
    assert (fields["tp"], fields["arrivals"], fields["isl"]) == (8, {"closed": 16}, 1024)
    assert engine_case(fields).tensor_parallel == 8


def test_dense_rows_name_no_experts_and_narrow_attention_is_widened() -> None:
    def shape(tp: int, moe_tp: int, moe_ep: int) -> Shape:
        return Shape(
            tensor_parallel=tp,
            pipeline_parallel=1,
            attention_data_parallel=1,
            moe_tensor_parallel=moe_tp,
            moe_expert_parallel=moe_ep,
        )

    assert degrees(shape(8, 1, 1)) == {"tp": 8, "pp": 1, "attention_dp": 1}
    assert degrees(shape(2, 4, 1)) == {"tp": 2, "pp": 1, "attention_dp": 2, "moe_tp": 4, "moe_ep": 1}


def test_rows_that_do_not_say_how_they_were_split(file: Path) -> None:
    with pytest.raises(Unsupported):
        row_fields(load_silicon(file)[-1])
