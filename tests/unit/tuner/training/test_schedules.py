"""Pipeline time: closed forms, their identities, bounds."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.tuner.training.closed_forms import equal_stages
from tuner.training.schedules import in_flight, pipeline_time

CODES = {"gpipe": 0.0, "1f1b": 1.0, "interleaved": 2.0, "zb-h1": 3.0, "zb-h2": 4.0}


def vectorised(schedule: str, p: int, m: int, v: int = 1, hop: float = 0.0, weight: float = 1.0) -> float:
    one = np.ones(1)
    found = pipeline_time(
        CODES[schedule] * one, p * one, m * one, v * one, 3.0 * p * one, 3.0 * one, weight * one, hop * one, 0 * one
    )
    return float(found[0])


@pytest.mark.parametrize("schedule", CODES)
def test_the_vectorised_time_is_the_closed_form(schedule: str) -> None:
    for p, m, v in ((1, 4, 1), (4, 8, 2), (8, 64, 3)):
        chunks = v if schedule == "interleaved" else 1
        expected = equal_stages(schedule, p, m, 1.0, 1.0, 1.0, chunks)
        assert vectorised(schedule, p, m, chunks) == pytest.approx(expected)


def test_one_chunk_interleaved_has_the_bubble_of_1f1b() -> None:
    assert equal_stages("interleaved", 8, 32, 1, 1, 1, 1) == equal_stages("1f1b", 8, 32, 1, 1, 1)


def test_hand_computed_bubbles() -> None:
    assert equal_stages("1f1b", 4, 8, 1, 2, 3) == 8 * 6 + 3 * 6
    assert equal_stages("interleaved", 4, 8, 1, 2, 3, 2) == 8 * 6 + 3 * 3
    assert equal_stages("zb-h1", 4, 8, 1, 2, 3) == 8 * 6
    assert equal_stages("zb-h2", 4, 8, 2, 2, 1) == 8 * 5 + 3 * 2


def test_more_micro_batches_a_longer_hop_and_more_stages_take_longer() -> None:
    for schedule in CODES:
        assert vectorised(schedule, 4, 8) < vectorised(schedule, 4, 9)
        assert vectorised(schedule, 4, 8) < vectorised(schedule, 4, 8, hop=0.1)


def test_in_flight() -> None:
    def held(schedule: str, p: int, m: int, v: int = 1) -> list[float]:
        one = np.ones(1)
        return in_flight(CODES[schedule] * one, p * one, m * one, v * one, np.arange(float(p)))[0].tolist()

    assert held("1f1b", 4, 8) == [4, 3, 2, 1]
    assert held("1f1b", 4, 2) == [2, 2, 2, 1]
    assert held("gpipe", 4, 8) == [8, 8, 8, 8]
    assert held("zb-h2", 4, 16) == [7, 7, 7, 7]
    assert held("interleaved", 4, 8, 3)[0] == pytest.approx(4 * (1 + 3 / 12))
