"""What `trimtab tune` says of trials that were cut short."""

from __future__ import annotations

from typing import Any

from controlplane.cli.tune_text import trials_text
from controlplane.model.tuning import Bar
from controlplane.model.tuning_records import TrialRecord
from tests.unit.store.conftest import NOW


def test_trials_that_were_cut_short_say_why() -> None:
    given: dict[str, Any] = {
        "job": "j", "number": 3, "state": "done", "purpose": "search", "setting": {"a": 9}, "canonical": "c", "why": "drawn",
        "seed": 3, "attempt": 1, "lost": 0, "asked_at": NOW, "objectives": [3.1], "violation": [1.0], "share": 0.25,
        "reason": "cut short after 25 % of a run: goodput_per_s is 4 at most (99% sure), the best so far is 11.2",
        "bar": Bar(value=11.2, pace=1.8),
    }  # fmt: skip
    trial = TrialRecord(**given)
    text = trials_text(
        [trial, trial.model_copy(update={"share": 1.0, "violation": [], "reason": ""})], ["goodput_per_s"]
    )
    first, second = text.splitlines()[1:]
    assert "done (cut short, over a limit)" in first and "3.1" in first and "the best so far is 11.2" in first
    assert "cut short" not in second
    document = trial.model_dump(mode="json", by_alias=True)
    assert document["share"] == 0.25 and document["bar"] == {"value": 11.2, "pace": 1.8}
