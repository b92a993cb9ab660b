"""docs/predict.md names every field of the batch interface, of its answer, and every importer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.tuner.predict.test_predict import LINE
from tuner.serving.calibration.importers import GROUP
from tuner.serving.knobs import _COMMON
from tuner.serving.predict import Predictor
from tuner.serving.question import _ARRIVALS, FIELDS, parse_question
from tuner.serving.step.store import TableStore

PAGE = (Path(__file__).parents[4] / "docs" / "predict.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(FIELDS | _ARRIVALS))
def test_every_field(name: str) -> None:
    assert f"`{name}`" in PAGE or f'"{name}"' in PAGE


def test_every_part_of_the_answer(tmp_path: Path) -> None:
    answer = Predictor(store=TableStore(tmp_path)).answer(parse_question(LINE), per_request=True)
    for name in (*answer, *answer["per_request"], *answer["ttft_ms"], *answer["provenance"]):
        assert name in PAGE, name


def test_importers_and_common_settings() -> None:
    assert GROUP in PAGE
    for word in ("maxNumSeqs", "maxNumBatchedTokens", "blockSize", "prefixCaching", "chunkedPrefill"):
        assert word in _COMMON
        assert "".join(f"_{char.lower()}" if char.isupper() else char for char in word) in PAGE
