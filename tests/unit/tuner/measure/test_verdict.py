"""Verdicts between two configurations: intervals that cover what they say, and words that follow from them."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.measure.verdict import enough_pairs, judge_apart, judge_pairs


def pairs(rng: np.random.Generator, count: int, gain: float, noise: float) -> list[tuple[float, float]]:
    """The machine drifts; both sides of a pair share that."""
    drift = np.exp(np.cumsum(rng.normal(0, 0.05, count)))
    one, other = (np.exp(rng.normal(0, noise, count)) for _ in range(2))
    return [(float(d * a * gain), float(d * b)) for d, a, b in zip(drift, one, other, strict=True)]


def test_words() -> None:
    rng = np.random.default_rng(0)
    up = judge_pairs("tokens_per_s", pairs(rng, 8, 1.2, 0.02), maximize=True)
    assert up.word == "faster" and up.gain_pct is not None and up.gain_pct.mean == pytest.approx(20, abs=5)
    assert judge_pairs("ttft_ms", pairs(rng, 8, 1.2, 0.02), maximize=False).word == "slower"
    assert judge_pairs("tokens_per_s", pairs(rng, 8, 1.0, 0.05), maximize=True).word == "no evidence"
    assert "90 % interval" in up.message and "8 pairs" in up.message
    assert judge_pairs("x", [(2.0, 1.0)] * 2, maximize=True).word == "no evidence"  # too few to say anything
    assert judge_pairs("x", [(2.0, 0.0)] * 5, maximize=True).gain_pct is None
    assert judge_pairs("x", [(2.0, 1.0)], maximize=True).message == "x: 1 pair: too few, or values that are not above 0"


def test_pairs_cover_what_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        gain = judge_pairs("x", pairs(rng, 6, 1.1, 0.05), maximize=True).gain_pct
        assert gain is not None and gain.lo is not None and gain.hi is not None
        hits += gain.lo <= 10 <= gain.hi
    assert 0.85 <= hits / 400 <= 0.95


def test_apart() -> None:
    rng = np.random.default_rng(2)
    old = np.exp(rng.normal(0, 0.03, 8)).tolist()
    new = (1.15 * np.exp(rng.normal(0, 0.01, 5))).tolist()
    assert judge_apart("x", new, old, maximize=True).word == "faster"
    assert judge_apart("x", new, old, maximize=False).word == "slower"
    assert judge_apart("x", new[:2], old, maximize=True).gain_pct is None
    assert judge_apart("x", [1.0] * 3, [1.0] * 3, maximize=True).word == "no evidence"


def test_pairs_are_taken_until_they_say_enough() -> None:
    rng = np.random.default_rng(3)
    quiet, loud = pairs(rng, 8, 1.0, 0.01), pairs(rng, 8, 1.0, 0.3)
    assert not enough_pairs(quiet[:2], maximize=True, width_pct=10, most=16)
    assert enough_pairs(quiet, maximize=True, width_pct=10, most=16)
    assert not enough_pairs(loud, maximize=True, width_pct=10, most=16)
    assert enough_pairs(loud, maximize=True, width_pct=10, most=8)
