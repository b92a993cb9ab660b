"""The fit finds a truth it was given, stays at the step tables where it knows nothing, and is the same every time."""

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec
from tests.unit.tuner.calibration.synthetic import observations
from tuner.serving.calibration.fit import LEAST_ROWS, Level, fit, knobs_of
from tuner.serving.calibration.observations import log_errors
from tuner.serving.calibration.parameters import KNOBS, Effect

WIDE = Level(("engine",), {"prefill": 1.0, "decode": 1.0, "step_ms": 5.0, "request_ms": 50.0})
TRUTH = [
    Effect(when={"engine": "vllm"}, knob="prefill", value=0.25, rows=1),
    Effect(when={"engine": "vllm"}, knob="decode", value=-0.1, rows=1),
    Effect(when={"engine": "vllm"}, knob="request_ms", value=20.0, rows=1),
    Effect(when={"engine": "sglang"}, knob="prefill", value=-0.1, rows=1),
    Effect(when={"engine": "sglang"}, knob="request_ms", value=5.0, rows=1),
]


def of(effects: list[Effect], engine: str, knob: str) -> float:
    return sum(item.value for item in effects if item.knob == knob and item.when.get("engine") == engine)


def test_the_truth_is_found() -> None:
    runs = observations(TRUTH)
    found = fit(runs, [WIDE], rounds=12).effects
    assert of(found, "vllm", "prefill") == pytest.approx(0.25, abs=0.03)
    assert of(found, "vllm", "decode") + of(found, "vllm", "step_ms") / 10 == pytest.approx(-0.1, abs=0.03)
    assert of(found, "vllm", "request_ms") == pytest.approx(20.0, abs=4.0)
    assert of(found, "sglang", "prefill") == pytest.approx(-0.1, abs=0.03)
    before = np.abs(log_errors(runs, np.zeros((len(runs), len(KNOBS)))))
    after = np.abs(log_errors(runs, knobs_of(runs, found)))
    assert np.median(after) < 0.01 < np.median(before)


def test_shared_effects_reach_groups_that_were_not_seen() -> None:
    runs = observations(TRUTH)
    levels = [WIDE, Level(("engine", "accelerator", "model"), {"prefill": 0.05, "decode": 0.05})]
    kept = [item for item in runs if item.labels["model"] != "qwen3-32b"]
    left = [item for item in runs if item.labels["model"] == "qwen3-32b"]
    errors = log_errors(left, knobs_of(left, fit(kept, levels, rounds=12).effects))
    assert np.median(np.abs(errors)) < 0.03


def test_strong_shrinkage_is_identity() -> None:
    runs = observations(TRUTH)
    found = fit(runs, [WIDE], shrinkage=1e9).effects
    assert all(abs(item.value) < 1e-3 for item in found)


def test_a_lonely_outlier_moves_little() -> None:
    runs = observations([])
    worse = [item for item in runs if item.group == runs[0].group]
    changed = observations([Effect(when={"model": runs[0].labels["model"]}, knob="decode", value=0.6, rows=1)])
    mixed = [b if a in worse else a for a, b in zip(runs, changed, strict=True)]
    found = fit(mixed, [Level(("engine",), {"prefill": 0.06, "decode": 0.03})]).effects
    assert abs(of(found, "vllm", "decode")) < 0.05


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="too few runs") as found:
        fit(observations([], models=("qwen3-32b",), systems=("h200_sxm",)), [WIDE])
    assert str(LEAST_ROWS) in str(found.value.limit)


def test_the_order_of_rows_does_not_matter() -> None:
    runs = observations(TRUTH, noise=0.05)
    forward, backward = fit(runs, [WIDE], rounds=3).effects, fit(runs[::-1], [WIDE], rounds=3).effects
    assert [(item.when, item.knob) for item in forward] == [(item.when, item.knob) for item in backward]
    for one, other in zip(forward, backward, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-3)


def test_leaving_runs_out_is_like_never_having_had_them() -> None:
    runs = observations(TRUTH, noise=0.05)
    levels = [WIDE, Level(("engine", "accelerator", "model"), {"prefill": 0.1, "decode": 0.1})]
    left_out = [item.labels["model"] == "qwen3-32b" for item in runs]
    without = fit(runs, levels, rounds=12).without(left_out)
    never = fit([item for item, out in zip(runs, left_out, strict=True) if not out], levels, rounds=12).effects
    assert not any(item.when.get("model") == "qwen3-32b" for item in without)
    left = [item for item, out in zip(runs, left_out, strict=True) if out]
    one, other = (log_errors(left, knobs_of(left, effects)) for effects in (without, never))
    assert np.abs(one - other).max() < 0.02
