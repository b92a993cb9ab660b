"""Verdicts between two configurations: intervals that cover what they say, and words that follow from them."""

from __future__ import annotations

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec
from tuner.measure.verdict import bootstrap_by_run, enough_pairs, judge_apart, judge_pairs, ranked


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


def test_ranking_distrusts_luck() -> None:
    runs = {"lucky": [130.0, 90.0, 95.0], "steady": [104.0, 105.0, 103.0], "once": [200.0]}
    assert ranked(runs, maximize=True) == ["steady", "lucky", "once"]
    assert ranked({"a": [1.0, 1.1], "b": [2.0, 2.1]}, maximize=False) == ["a", "b"]
    with pytest.raises(InvalidSpec, match="no run"):
        ranked({"a": []}, maximize=True)


def test_bootstrap_by_run() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(60):
        runs = [rng.normal(100 + shift, 3, 40).tolist() for shift in rng.normal(0, 5, 6)]
        found = bootstrap_by_run(runs, lambda xs: float(np.mean(xs)), seed=trial)
        assert found.lo is not None and found.hi is not None
        hits += found.lo <= 100 <= found.hi
    assert 0.8 <= hits / 60 <= 1.0
    one = bootstrap_by_run([[1.0, 2.0]], lambda xs: float(np.mean(xs)))
    assert one.lo is None and one.mean == 1.5
    again = bootstrap_by_run([[1.0, 2.0], [3.0]], lambda xs: float(np.median(xs)), seed=5)
    assert again == bootstrap_by_run([[1.0, 2.0], [3.0]], lambda xs: float(np.median(xs)), seed=5)
    with pytest.raises(ValueError, match="no requests"):
        bootstrap_by_run([[]], lambda xs: 0.0)
