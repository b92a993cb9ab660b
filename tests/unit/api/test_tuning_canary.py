"""What a deployment's canary will make of a tuned setting, said when it is applied or taken back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.model.canary import Canary
from controlplane.model.tuning import JobState, Measurement, TrialPurpose, TrialState, Verdict
from controlplane.model.tuning_apply import Applied
from controlplane.model.tuning_decision import Judged, TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import MeasuredAttempt, TrialCounts, TrialRecord, TuningJobRecord
from controlplane.tuning_apply import apply_best, merged
from controlplane.tuning_canary import latencies
from controlplane.tuning_undo import take_back

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KNOBS = {"maxNumSeqs": 2, "dynamicSplitFuse": False}
BEST = {"dynamicSplitFuse": False, "maxNumSeqs": 14}
DECISION = TuningDecision(verdict="better", message="gain", best=Judged(number=0, setting=BEST))
WORSE = {"ttft_mean_ms": (100.0, 101.0), "tpot_mean_ms": (11.0, 21.0)}


def job(**changes: Any) -> TuningJobRecord:
    spec: dict[str, Any] = {
        "target": {"kind": "engine", "engine": "openvino", "model": "/m/tiny.gguf"},
        "space": {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 16}]},
        "objectives": [{"metric": "output_tokens_per_s"}],
    }
    return TuningJobRecord(
        id="j1", tenant="team", name="j1", spec=TuningSpec.model_validate(spec | changes), state=JobState.DONE,
        generation=1, budget=1, counts=TrialCounts(), events=0, created_at=NOW, decision={"verdict": "better"},
    )  # fmt: skip


def chat(**rollout: Any) -> dict[str, Any]:
    choice = {"accelerator": "cpu-x86", "engine": "openvino", "knobs": KNOBS}
    spec = {"model": {"name": "tiny", "source": "image:/m/tiny.gguf"}, "explicit": {"choices": [choice]}}
    return {"metadata": {"name": "chat"}, "spec": spec | ({"rollout": rollout} if rollout else {})}


def test_taking_back_under_a_canary_of_the_deployments_own_is_told() -> None:
    for canary, said in (
        ({"replicas": 1}, "without requests it ends after 1800 s with NoEvidence"),
        ({"replicas": 1, "hold": {"mostSeconds": 300}}, "after 300 s"),
        ({"replicas": 1, "verdict": {"onNoEvidence": "Promote"}}, "without evidence it is promoted"),
    ):
        before = chat(canary=canary)
        after = merged(before, apply_best(job(), DECISION, before).body)
        (warning,) = take_back(after, job="j1").warnings
        assert said in warning and "take spec.rollout.canary out" in warning
        assert ("set its verdict.onNoEvidence: Promote" in warning) == ("Promote" not in str(canary))
        Applied(job="j1", namespace="n", deployment="d", written=True, changes=[], warnings=[warning], undo="")


def test_taking_back_what_brought_its_own_canary_is_rolled_out_at_once() -> None:
    after = merged(chat(), apply_best(job(), DECISION, chat(), canary=Canary(replicas=1)).body)
    assert after["spec"]["rollout"]["canary"] == {"replicas": 1}
    assert take_back(after, job="j1").warnings == ()


def told(canary: Canary | None, record: TuningJobRecord, held: dict[str, Any] | None = None, **more: Any) -> list[str]:
    document = chat() if held is None else chat(canary=held)
    patch = apply_best(record, DECISION, document, canary=canary, measured=WORSE | more)
    return [one for one in patch.warnings if one.startswith("the canary judges")]


def test_a_canary_that_judges_what_the_job_did_not_is_told_with_both_figures() -> None:
    (warning,) = told(Canary(), job())
    assert "judges TPOT" in warning and "11 ms in use, 21 ms with this setting (+91 %" in warning
    assert "notWorseThanPct is 5" in warning and "a limit on tpot_mean_ms" in warning and "(ttft)" in warning
    assert told(None, job(), {"replicas": 1}) == [warning]


@pytest.mark.parametrize(
    ("canary", "record", "measured"),
    [
        (None, job(), {}),
        (Canary(), job(objectives=[{"metric": "tpot_p90_ms"}]), {}),
        (Canary(), job(limits=[{"metric": "tpot_mean_ms", "atMost": 30}]), {}),
        (Canary.model_validate({"verdict": {"metrics": ["ttft"]}}), job(), {}),
        (Canary.model_validate({"verdict": {"notWorseThanPct": 95}}), job(), {}),
        (Canary(), job(), {"tpot_mean_ms": (20.0, 20.5)}),
    ],
)
def test_nothing_is_told_where_there_is_nothing_to_fear(
    canary: Canary | None, record: TuningJobRecord, measured: dict[str, Any]
) -> None:
    assert told(canary, record, **measured) == []


def test_latencies_are_those_of_the_runs_that_confirmed() -> None:
    runs = [(TrialPurpose.SEARCH, BEST, 90.0), (TrialPurpose.BASELINE, {}, 10.0), (TrialPurpose.CONFIRM, BEST, 20.0),
            (TrialPurpose.CONFIRM, {"maxNumSeqs": 3}, 70.0), (TrialPurpose.BASELINE, {}, 12.0)]  # fmt: skip
    trials = [
        TrialRecord(
            job="j1", number=number, state=TrialState.DONE, purpose=purpose, setting=setting, canonical="c", why="w",
            seed=0, attempt=1, lost=0, asked_at=NOW,
        )
        for number, (purpose, setting, _) in enumerate(runs)
    ]  # fmt: skip
    measured = [
        MeasuredAttempt(
            job="j1", number=number, attempt=1, verdict=Verdict.OK, at=NOW,
            measurement=Measurement(metrics={"tpot_mean_ms": value, "ttft_mean_ms": None}, definitions="1", duration_s=1),
        )
        for number, (_, _, value) in enumerate(runs)
    ]  # fmt: skip
    assert latencies(trials, measured, DECISION) == {"tpot_mean_ms": (11.0, 20.0)}
    assert latencies(trials, measured[:1], DECISION) == {}
