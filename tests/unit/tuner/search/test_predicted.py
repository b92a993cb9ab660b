"""The predictor as a cheap level: absent where nobody knows, the same each time, and in the job's own metrics."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model.errors import UnknownName, Unsupported
from controlplane.model.tuning import Told, Verdict
from controlplane.model.tuning_job import EngineTarget, TuningSpec
from controlplane.tuning_jobs import completed, sampler_of
from tuner.search.predicted import SETTINGS, cheap_trials, followed, known_names, violations

VLLM = {"kind": "engine", "engine": "vllm", "model": "/models/Qwen3-8B", "accelerator": "h100"}


def spec(target: dict[str, Any] | None = None, **more: Any) -> TuningSpec:
    body: dict[str, Any] = {"target": target or VLLM, "objectives": [{"metric": "output_tokens_per_s"}]}
    body["load"] = {"arrivals": "poisson", "ratePerSecond": 20, "input": {"tokens": 1000}, "output": {"tokens": 200}}
    return completed(TuningSpec.model_validate(body | more), cores=2)


def test_settings_are_predicted_in_the_jobs_metrics_and_alike_each_time() -> None:
    job = spec(
        objectives=[{"metric": "goodput_per_s"}, {"metric": "ttft_p90_ms", "direction": "minimize"}],
        slo={"ttftMs": 200, "tpotMs": 12},
    )
    found = cheap_trials(job)
    assert len(found.trials) == SETTINGS and "qwen3-8b on h100-sxm-80gb" in found.note
    assert all(len(told.values) == 2 and told.values[0] >= 0 for told in found.trials)
    assert len({told.values[1] for told in found.trials}) > 5
    cheap_trials.__globals__["_cheap"].cache_clear()
    assert cheap_trials(job) == found
    first = sampler_of(job).ask(0)
    assert first.reason.startswith("best of the cheap level (") and sampler_of(job).ask(0) == first


@pytest.mark.parametrize(
    ("target", "more", "why"),
    [
        (VLLM | {"accelerator": None}, {}, "target.accelerator is not named"),
        (VLLM | {"model": "/models/ours"}, {}, "name target.catalogModel"),
        ({"kind": "engine", "engine": "openvino", "model": "tiny-random-llama", "accelerator": "cpu-x86"},
         {}, "no measured times"),
        (VLLM, {"load": {"arrivals": "trace", "trace": "t.jsonl"}}, "a trace"),
        (VLLM, {"objectives": [{"metric": "lateness_p99_ms", "direction": "minimize"}]}, "the same of all settings"),
        ({"kind": "command", "command": ["x", "{a}"]},
         {"space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 9}]}}, "no predictor knows"),
    ],
)  # fmt: skip
def test_it_says_why_there_is_none(target: dict[str, Any], more: dict[str, Any], why: str) -> None:
    job = spec(target, **more)
    found = cheap_trials(job)
    assert found.trials == () and why in found.note
    assert found.note in sampler_of(job).ask(0).reason


def test_a_job_whose_hardware_the_catalogue_has_forgotten_goes_on_without() -> None:
    job = spec()
    assert isinstance(job.target, EngineTarget)
    gone = job.model_copy(update={"target": job.target.model_copy(update={"accelerator": "h1000"})})
    assert cheap_trials(gone).trials == () and "h1000" in cheap_trials(gone).note
    assert sampler_of(gone).ask(0).setting


def test_settings_that_break_a_limit_by_prediction_count_like_the_worst() -> None:
    job = spec(limits=[{"metric": "ttft_p90_ms", "atMost": 150}])
    trials = cheap_trials(job).trials
    broken = {told.values[0] for told in trials if told.violation[0] > 0}
    assert len(broken) == 1 and min(told.values[0] for told in trials) in broken
    assert any(told.violation[0] <= 0 for told in trials)


def test_it_is_not_followed_where_no_setting_is_expected_to_keep_the_limits_and_says_so() -> None:
    found = cheap_trials(spec(limits=[{"metric": "ttft_p90_ms", "atMost": 0.001}]))
    assert (
        found.trials == () and found.note == "the predictor expects no setting to keep every limit: it is not followed"
    )


def test_those_that_keep_the_limits_may_be_the_only_ones_that_are_alike() -> None:
    job = spec(limits=[{"metric": "ttft_p90_ms", "atMost": 100}])
    told = [
        Told(number=n, setting={"a": n}, verdict=Verdict.OK, values=[10.0 + 5 * broken], violation=[broken - 0.5])
        for n, broken in enumerate((0, 0, 1, 1))
    ]
    assert "the same of all settings that keep every limit:" in followed(told, job, "").note
    better = [one.model_copy(update={"values": [20.0]}) if one.number == 0 else one for one in told]
    assert [one.values for one in followed(better, job, "").trials] == [[20.0], [10.0], [10.0], [10.0]]


def test_limits_either_way() -> None:
    limits = [{"metric": "ttft_p90_ms", "atMost": 100}, {"metric": "requests_per_s", "atLeast": 5}]
    known = {"ttft_p90_ms": 130.0, "requests_per_s": 7.0}
    assert violations(spec(limits=limits), known.get) == [30.0, -2.0]
    assert violations(spec(limits=limits), {"requests_per_s": 4.0}.get) == [1.0], "one without a figure is left out"


def test_names() -> None:
    def names(**fields: Any) -> tuple[str | None, str | None]:
        return known_names(EngineTarget.model_validate({"engine": "vllm", "model": "m", **fields}))

    assert names(model="Qwen/Qwen3-8B", accelerator="NVIDIA H100 80GB HBM3") == ("qwen3-8b", "h100-sxm-80gb")
    assert names(model="/m/tiny-random-llama.gguf") == ("tiny-random-llama", None)
    assert names(catalog_model="qwen3-8b")[0] == "qwen3-8b" and names() == (None, None)
    for field, wrong in (("accelerator", "h1000"), ("catalog_model", "qwen3-8")):
        with pytest.raises(UnknownName) as error:
            names(**{field: wrong})
        assert error.value.field in {"target.accelerator", "target.catalogModel"}


def test_a_model_that_fits_nowhere_is_refused_before_any_trial() -> None:
    with pytest.raises(Unsupported, match=r"GB|GiB|bytes"):
        spec(VLLM | {"model": "meta-llama/Llama-3.1-70B"})
