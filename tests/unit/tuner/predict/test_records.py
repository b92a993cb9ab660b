"""Requests of a replay on disk, and the report of a whole prediction."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from controlplane.model.errors import Unsupported
from tests.unit.tuner.predict.test_predict import LINE
from tuner.serving.predict import Prediction, Predictor
from tuner.serving.question import parse_question
from tuner.serving.records import COLUMNS, columns_of, write_csv, write_parquet
from tuner.serving.report import html_report
from tuner.serving.run_report import run_of
from tuner.serving.step.store import TableStore


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    line = LINE | {"osl": 2, "osl_range": 0.5, "replicas": 2, "knobs": {"kv_blocks": 40}}
    return Predictor(store=TableStore(tmp_path_factory.mktemp("tables"))).predict(parse_question(line))


def test_csv_holds_every_request_and_column(prediction: Prediction, tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    write_csv(prediction.result, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS == tuple(columns_of(prediction.result))
    assert len(rows) == prediction.answer["requests"]
    for row in rows:
        first, arrival = float(row["first_token_s"]), float(row["arrival_s"])
        assert float(row["ttft_ms"]) == pytest.approx((first - arrival) * 1e3)
    assert {row["tpot_ms"] == "" for row in rows if row["osl"] == "1"} == {True}, "one token has no second"


def test_parquet(prediction: Prediction, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "requests.parquet"
    write_parquet(prediction.result, path)
    table = parquet.read_table(path)
    assert tuple(table.column_names) == COLUMNS
    assert np.allclose(table["ttft_ms"].to_numpy(), prediction.result.ttft_ms)
    assert table["tpot_ms"].null_count == int((prediction.result.osl == 1).sum())


def test_parquet_without_pyarrow_names_the_way_out(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Unsupported, match="CSV"):
        write_parquet(prediction.result, tmp_path / "requests.parquet")


def test_the_report_of_a_prediction(prediction: Prediction) -> None:
    page = html_report(run_of(prediction, LINE, "mine"))
    assert page.count("<svg") == 6
    assert "aggregated 0" in page and "aggregated 1" in page
    assert "nothing to show" not in page
