"""The benchmark on the real engine: its grids, what its recorder keeps, and how studies are replayed."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlplane.model.tuning import Outcome, Verdict
from tests.perf.tune_openvino import BENCHES, A, B, Bench
from tests.perf.tune_openvino_live import as_text as live_text
from tests.perf.tune_openvino_live import half_kept, job_of
from tests.perf.tune_openvino_record import as_text, order, requests_of, row_of, searched
from tests.perf.tune_openvino_replay import Found, Grid, grid_of, key_of, ratio_interval, study
from tuner.measure.loadgen.job import Sample
from tuner.search.space import compile_space


def peaked(bench: Bench) -> Grid:
    """A grid whose best cell is the one with the most tokens, each cell measured the same twice."""
    values = {key_of(cell): float(place + 1) for place, cell in enumerate(bench.cells())}
    return Grid(bench, {key: (value, value) for key, value in values.items()})


@pytest.mark.parametrize("bench", BENCHES)
def test_cells_keep_the_rules_of_the_shipped_space(bench: Bench) -> None:
    shipped = compile_space(bench.shipped())
    cells = bench.cells()
    assert bench.default() in cells
    assert len({key_of(cell) for cell in cells}) == len(cells) <= 200
    for cell in cells:
        assert shipped.checked(cell) == cell
        assert cell["dynamicSplitFuse"] is True or int(cell["maxNumBatchedTokens"]) >= bench.longest_tokens


def test_every_repeat_measures_every_cell_in_an_order_of_its_own() -> None:
    first, second = order(A, 0), order(A, 1)
    assert first == order(A, 0)
    assert [key_of(one) for one in first] != [key_of(one) for one in second]
    assert {key_of(one) for one in first} == {key_of(one) for one in second} == {key_of(one) for one in A.cells()}
    more = sum(one == A.default() for one in first)
    assert more == 1 + len(A.cells()) // 10
    assert len(first) == len(A.cells()) + more - 1
    assert len(second) == len(A.cells())


def test_requests_of_a_run_leave_warm_up_out_and_failed_ones_unknown() -> None:
    samples = [
        Sample(0, 0.0, 0.0, 0.1, 0.2, 8, 11, warm_up=True),
        Sample(1, 1.0, 1.0, 1.1, 1.3, 8, 11),
        Sample(2, 2.0, 2.0, None, None, 8, 0, error="broke off"),
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"run": 0, **asdict(sample)} for sample in samples]), file)
    assert requests_of(file.getvalue()) == {"ttft_ms": [100.0, None], "tpot_ms": [20.0, None]}


def test_a_run_without_a_measurement_keeps_its_reason() -> None:
    row = row_of(A.default(), 2, Outcome(verdict=Verdict.INFEASIBLE, reason="out of memory"), 1, 3.0)
    assert (row["verdict"], row["reason"], row["repeat"]) == ("infeasible", "out of memory", 2)
    assert row["setting"] == searched(A.default())
    assert "ttft_ms" not in row


def test_what_was_recorded_is_read_back_with_the_stated_limits() -> None:
    assert A.slo.ttft_ms is not None and A.slo.tpot_ms is not None
    good, slow = (A.slo.ttft_ms, A.slo.tpot_ms), (A.slo.ttft_ms + 1, A.slo.tpot_ms)
    runs = [
        {
            "setting": searched(cell), "verdict": "ok", "duration_s": 2.0,
            "ttft_ms": [good[0], slow[0], None], "tpot_ms": [good[1], slow[1], None],
        }
        for cell in A.cells()
    ]  # fmt: skip
    runs += [{"setting": searched(A.default()), "verdict": "infeasible"}]
    runs += [{"setting": searched(A.default()), "verdict": "invalid"}]
    grid = grid_of(A, json.loads(as_text({"provenance": {}, "runs": runs})))
    assert grid.runs[key_of(A.default())] == (0.5, None)
    assert grid.mean(A.default()) == 0.25
    assert grid.attainment_of(runs[:1]) == pytest.approx(1 / 3)
    assert key_of(A.default()) not in grid.good()


def test_a_grid_with_a_cell_that_was_never_measured_is_refused() -> None:
    runs = dict(peaked(B).runs)
    del runs[key_of(B.default())]
    with pytest.raises(ValueError, match="1 cells of grid b have no run"):
        Grid(B, runs)


def test_only_cells_near_the_best_mean_are_good() -> None:
    grid = peaked(A)
    count = len(A.cells())
    assert len(grid.good()) == sum(value >= 0.95 * count for value in range(1, count + 1))


@pytest.mark.parametrize("arm", ["default", "tpe", "random"])
def test_a_study_is_the_same_for_a_seed_and_ends(arm: str) -> None:
    grid = peaked(B)
    found = study(grid, arm, 3)  # type: ignore[arg-type]
    assert found == study(grid, arm, 3)  # type: ignore[arg-type]
    assert 1 <= found.trials <= len(B.cells())


def test_a_study_that_finds_nothing_counts_as_many_trials_as_there_are_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grid, "good", lambda self: frozenset[str]())
    assert study(peaked(B), "random", 0) == Found(len(B.cells()), True)


def test_the_ratio_is_of_means_and_lies_in_its_interval() -> None:
    ours = [[Found(trials, False) for trials in (4, 6)], [Found(10, False)]]
    theirs = [[Found(trials, False) for trials in (10, 20)], [Found(25, True)]]
    value, low, high = ratio_interval(ours, theirs)
    assert value == pytest.approx((5 + 10) / (15 + 25))
    assert low <= value <= high
    assert ratio_interval(ours, theirs) == (value, low, high)


@pytest.mark.parametrize("bench", BENCHES)
def test_the_job_is_one_that_the_command_takes(bench: Bench) -> None:
    from controlplane.model.tuning_job import TuningSpec
    from controlplane.tuning_jobs import completed

    spec = completed(TuningSpec.model_validate(job_of(bench, "tiny.gguf")), cores=2)
    assert spec.load == bench.load
    assert spec.slo == bench.slo
    assert spec.space is not None
    assert "enablePrefixCaching" in {one.name for one in spec.space.parameters}


def test_a_recorded_job_is_read_back() -> None:
    document = {"recorded": "2026-11-21", "decision": {"verdict": "better"}, "trials": [{"number": 0}, {"number": 1}]}
    assert json.loads(live_text(document)) == document


def test_the_pilot_sets_the_limit_that_half_of_all_requests_keep() -> None:
    run = {"ttft_ms": [50.0, 90.0, 200.0, None], "tpot_ms": [3.0, 7.0, 1.0, None]}
    assert half_kept([run], 100.0) == 7.0
    assert half_kept([run, {"ttft_ms": [10.0, 10.0], "tpot_ms": [5.0, 6.0]}], 100.0) == 6.0
    with pytest.raises(ValueError, match="1 of 4 first tokens came within 60 ms"):
        half_kept([run], 60.0)
