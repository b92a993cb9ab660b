"""Runs taken earlier: compared machine by machine, with the same requests, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import Measurement
from controlplane.model.tuning_job import TuningSpec
from tuner.compare import Compared, recorded_apart

SPEC = TuningSpec.model_validate(
    {
        "target": {"kind": "command", "command": ["true"]},
        "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 100}]},
        "objectives": [{"metric": "value"}],
        "budget": {"trials": 20},
    }
)


def runs(
    values: list[float], host: str = "one", load: str = "same", definitions: str = "trimtab-1"
) -> list[Measurement]:
    return [
        Measurement(
            metrics={"value": value}, definitions=definitions, duration_s=1.0, resolved={}, host=host, load=load, seed=0
        )
        for value in values
    ]  # fmt: skip


def apart(new: list[Measurement], old: list[Measurement]) -> Compared:
    return recorded_apart(SPEC, new, old, names=("new", "old"))


def test_a_faster_machine_on_one_side_is_no_faster_configuration() -> None:
    slow, fast = [100.0, 101.0, 99.0], [200.0, 202.0, 198.0, 201.0]
    found = apart(runs(slow) + runs(fast, host="two"), runs(slow))
    assert found.word == "no evidence" and found.verdicts[0].gain_pct is not None
    assert found.verdicts[0].gain_pct.mean == pytest.approx(0.0, abs=1e-9)
    assert "4 of 10 runs left out" in found.verdicts[0].message


def test_machines_that_both_sides_have_are_each_compared_with_themselves() -> None:
    """Most of the new one's runs are the fast machine's, most of the old one's the slow machine's."""
    new = runs([103.0, 104.0, 105.0]) + runs([208.0, 206.0, 210.0, 207.0, 209.0], host="two")
    old = runs([100.0, 101.0, 99.0, 100.0, 102.0]) + runs([200.0, 201.0, 199.0], host="two")
    found = apart(new, old)
    gain = found.verdicts[0].gain_pct
    assert found.word == "faster" and gain is not None and gain.lo is not None and gain.hi is not None
    assert 2.0 < gain.lo < gain.mean < gain.hi < 6.0
    assert "one" in found.verdicts[0].message and "two" in found.verdicts[0].message
    assert "3 and 5 runs" in found.verdicts[0].message and "left out" not in found.verdicts[0].message


def test_a_machine_with_too_few_runs_says_nothing_and_that_is_said() -> None:
    new, old = [110.0, 111.0, 109.0], [100.0, 101.0, 99.0]
    found = apart(runs(new) + runs([500.0], host="two"), runs(old) + runs([100.0] * 3, host="two"))
    gain = found.verdicts[0].gain_pct
    assert gain is not None and gain.mean == pytest.approx(10.0, abs=0.1)
    assert "nothing to be said of 1 and 3 runs" in found.verdicts[0].message


def test_other_requests_are_left_out() -> None:
    found = apart(runs([100.0, 101.0, 99.0]) + runs([900.0], load="easy"), runs([100.0, 101.0, 99.0]))
    assert found.word == "no evidence" and "1 of 7 runs left out" in found.verdicts[0].message


@pytest.mark.parametrize(
    ("new", "old", "words"),
    [
        (runs([1.0]), runs([1.0], host="two"), "hardware differ"),
        (runs([1.0]), runs([1.0], load="other"), "requests differ"),
        (runs([1.0]), runs([1.0], definitions="vllm-bench"), "metric definitions differ"),
        # Each of them overlaps, no run has its like.
        (runs([1.0]) + runs([1.0], host="two", load="other"), runs([1.0], host="two"), "no run has its like"),
    ],
)
def test_what_is_not_alike_is_refused(new: list[Measurement], old: list[Measurement], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        apart(new, old)


def test_the_interval_of_two_machines_holds() -> None:
    rng, inside = np.random.default_rng(3), 0
    for _ in range(400):
        new, old = [], []
        for host, level, noise, n, m in (("one", 100.0, 0.05, 4, 6), ("two", 300.0, 0.15, 6, 4)):
            new += runs(list(level * 1.1 * np.exp(rng.normal(0.0, noise, n))), host=host)
            old += runs(list(level * np.exp(rng.normal(0.0, noise, m))), host=host)
        gain = apart(new, old).verdicts[0].gain_pct
        assert gain is not None and gain.lo is not None and gain.hi is not None
        inside += gain.lo <= 10.0 <= gain.hi
    assert 0.86 <= inside / 400 <= 0.94
