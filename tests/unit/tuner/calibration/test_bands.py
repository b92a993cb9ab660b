"""Bands cover what they say on synthetic truth, widen with distance and weaker sources."""

import numpy as np
import pytest

from tests.unit.tuner.calibration.synthetic import observations
from tuner.serving.calibration.bands import Residual, bands_of
from tuner.serving.calibration.fit import Level, fit
from tuner.serving.calibration.package import checked, coverage_of, group_folds, residuals, support_of
from tuner.serving.calibration.parameters import DISTANCES, METRICS


def drawn(count: int, width: float, distance: str, tier: str = "measured", seed: int = 0) -> list[Residual]:
    rng = np.random.default_rng(seed)
    return [
        Residual(tier, distance, (f"group {i % 12}",), dict.fromkeys(METRICS, float(rng.normal(0, width))))  # type: ignore[arg-type]
        for i in range(count)
    ]


def test_bands_cover_ninety_percent_of_what_they_had_not_seen() -> None:
    items = drawn(3000, 0.3, "known-engine")
    shares, _ = coverage_of(items, [i % 5 for i in range(len(items))])
    for metric in METRICS:
        assert shares[metric] == pytest.approx(0.90, abs=0.02)


def test_bands_hold_the_prediction_and_widen_with_distance() -> None:
    items = drawn(300, 0.1, "known") + drawn(300, 0.3, "known-model", seed=1) + drawn(30, 0.05, "unknown", seed=2)
    bands = {(band.tier, band.distance, band.metric): band for band in bands_of(items)}
    for tier in ("measured", "sibling", "borrowed", "roofline"):
        widths = [bands[tier, distance, "ttft"].hi / bands[tier, distance, "ttft"].lo for distance in DISTANCES]
        assert widths == sorted(widths)
        assert all(bands[tier, distance, "ttft"].lo <= 1 <= bands[tier, distance, "ttft"].hi for distance in DISTANCES)
    assert bands["roofline", "known", "tpot"].hi > bands["measured", "known", "tpot"].hi


def test_a_biased_source_has_a_lopsided_band() -> None:
    items = [
        Residual("sibling", "known", (str(i % 5),), dict.fromkeys(METRICS, 0.5 + 0.01 * (i % 10))) for i in range(100)
    ]
    band = next(band for band in bands_of(items) if band.tier == "sibling" and band.metric == "tpot")
    assert band.lo == 1.0
    assert band.hi == pytest.approx(np.exp(0.59), abs=0.02)


def test_folds_leave_whole_groups_out_and_intervals_hold_on_synthetic_truth() -> None:
    runs = observations([], noise=0.1, seed=3)
    fold_of = group_folds(runs)
    assert all(len({fold for item, fold in zip(runs, fold_of, strict=True) if item.group == group}) == 1
               for group in {item.group for item in runs})  # fmt: skip
    levels = [Level(("engine",), {"prefill": 0.1, "decode": 0.1, "request_ms": 5.0})]
    found = checked(fit(runs, levels), fold_of)
    assert set(found.distances) <= {"known-model", "known-engine", "unknown"}
    shares, _ = coverage_of(residuals(runs, found), fold_of)
    assert 0.75 <= shares["ttft"] <= 1.0
    assert 0.75 <= shares["tpot"] <= 1.0


def test_support_names_what_was_seen() -> None:
    support = support_of(observations([], models=("qwen3-32b",), systems=("h200_sxm",), backends=("vllm",)))
    assert support.engine_system_models == ["vllm/h200-sxm-141gb/qwen3-32b"]
    assert support.engine_models == ["vllm/qwen3-32b"]
