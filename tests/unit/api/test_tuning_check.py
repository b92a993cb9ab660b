"""What a check says of a space: what is searched, and rules as a reader needs them."""

from __future__ import annotations

from controlplane.model.tuning_job import TuningSpec
from controlplane.tuning_check import space_check


def test_what_has_one_value_is_fixed_and_rules_say_no_more_than_they_mean() -> None:
    spec = TuningSpec.model_validate(
        {
            "target": {"kind": "command", "command": ["prog", "{a}", "{b}", "{c}", "{d}"]},
            "space": {
                "parameters": [
                    {"kind": "int", "name": "a", "low": 1, "high": 4},
                    {"kind": "int", "name": "b", "low": 1, "high": 4},
                    {"kind": "choice", "name": "c", "values": ["u8"]},
                    {"kind": "int", "name": "d", "low": 3, "high": 3},
                ],
                "rules": [
                    {"expression": "not (a == a) or b >= 2", "message": "as an engine's rule names its parameter"},
                    {"expression": "not (a == b) or b >= 2", "message": "this one means what it says"},
                ],
            },
            "objectives": [{"metric": "step_ms", "direction": "minimize"}],
        }
    )
    found = space_check(spec, lambda one: one)
    assert [one.name for one in found.parameters] == ["a", "b"]
    assert found.fixed == {"c": "u8", "d": 3}
    assert [one.rule for one in found.rules] == ["b >= 2", "not (a == b) or b >= 2"]
    assert found.settings == 16
    assert [one.takes_pct > 0 for one in found.rules] == [True, True]
