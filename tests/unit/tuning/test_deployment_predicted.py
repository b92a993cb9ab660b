"""A deployment's trials are predicted, and held against the memory model, as those of an engine of its accelerator."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model.errors import Unsupported
from controlplane.model.serving import ServingDeployment
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_resource import TuningJobSpec
from controlplane.tuning_deployments import completed_on_cluster
from controlplane.tuning_jobs import completed, sampler_of
from tuner.search.canonical import canonical_of
from tuner.search.predicted import cheap_trials

LOAD = {"arrivals": "poisson", "ratePerSecond": 20, "input": {"tokens": 1000}, "output": {"tokens": 200}}
TARGET = {"kind": "deployment", "name": "chat", "namespace": "team"}


def spec(**fields: Any) -> TuningSpec:
    body = {"target": TARGET, "objectives": [{"metric": "output_tokens_per_s"}], "load": LOAD}
    return TuningSpec.model_validate(body | fields)


def deployment(model: str = "qwen3-8b", source: str = "hf:Qwen/Qwen3-8B@main", **choice: Any) -> ServingDeployment:
    one = {"accelerator": "h100-sxm-80gb", "engine": "vllm", **choice}
    whole = {"model": {"name": model, "source": source}, "explicit": {"choices": [one]}}
    return ServingDeployment.model_validate({"metadata": {"name": "chat", "namespace": "team"}, "spec": whole})


def test_it_is_predicted_as_the_engine_is_that_it_serves_with() -> None:
    made = completed_on_cluster(spec(), deployment(tensorParallel=2))
    assert made.space is not None and len(made.space.margins) == 1
    found = cheap_trials(made)
    assert "qwen3-8b on h100-sxm-80gb" in found.note
    alone = {
        "kind": "engine",
        "engine": "vllm",
        "model": "qwen3-8b",
        "accelerator": "h100",
        "shape": {"tensorParallel": 2},
    }
    engine = completed(spec(target=alone))
    assert [one.values for one in cheap_trials(engine).trials] == [one.values for one in found.trials]
    assert engine.space is not None and engine.space.margins == made.space.margins
    # Who drives it reads the same from what is stored, whatever the deployment is by then.
    stored = TuningSpec.model_validate_json(made.model_dump_json(by_alias=True))
    assert cheap_trials(stored) == found and sampler_of(stored).ask(1) == sampler_of(made).ask(1)
    assert sampler_of(stored).ask(1).reason.startswith("best of the cheap level (")


def test_the_model_goes_by_the_deployment_s_name_or_by_its_weights() -> None:
    named = completed_on_cluster(spec(), deployment(model="our-chat"))
    assert "qwen3-8b on" in cheap_trials(named).note
    unknown = completed_on_cluster(spec(), deployment(model="our-chat", source="image:/models/ours"))
    assert cheap_trials(unknown).trials == () and "spec.model.name" in cheap_trials(unknown).note
    assert unknown.space is not None and unknown.space.margins == []


def test_what_fits_nowhere_is_refused_with_the_bytes() -> None:
    for space in (None, {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 64}]}):
        with pytest.raises(Unsupported, match=r"[\d,]+ bytes of weights") as caught:
            completed_on_cluster(spec(space=space), deployment(model="llama-3.1-70b"))
        assert caught.value.field == "target.name"


def test_a_user_s_space_is_held_against_the_share_that_the_deployment_keeps() -> None:
    space = {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 64}]}
    assert completed_on_cluster(spec(space=space), deployment()).space is not None
    with pytest.raises(Unsupported, match="does not fit"):
        completed_on_cluster(spec(space=space), deployment(knobs={"gpuMemoryUtilization": 0.12}))


def test_what_it_serves_with_is_written_into_the_job_and_nowhere_else() -> None:
    made = completed_on_cluster(spec(), deployment())
    assert made.target.kind == "deployment" and made.target.serves is not None
    assert made.target.serves.accelerator == "h100-sxm-80gb"
    claimed = spec(target=TARGET | {"serves": {"engine": "sglang", "model": "m"}})
    assert completed_on_cluster(claimed, deployment()).target == made.target
    with pytest.raises(ValueError, match="serves"):
        TuningJobSpec.model_validate(
            {"target": TARGET | {"serves": {"engine": "vllm", "model": "m"}}, "objectives": [{"metric": "x"}]}
        )
    # What runs does not follow from it: configurations of jobs made before it was written stay the same.
    setting = {"maxNumSeqs": 8}
    assert canonical_of(made)(setting) == canonical_of(spec())(setting)


def test_an_engine_on_a_cluster_may_use_the_accelerators_of_a_node() -> None:
    def degrees(**target: Any) -> list[Any]:
        alone = {"kind": "engine", "engine": "vllm", "model": "/m/x", "accelerator": "h100", **target}
        made = completed_on_cluster(spec(target=alone))
        assert made.space is not None
        return [one.values for one in made.space.parameters if one.name == "tensorParallel"]  # type: ignore[union-attr]

    assert degrees(catalogModel="llama-3.1-70b") == [[1, 2, 4, 8]]
    assert degrees(catalogModel="llama-3.1-70b", devices=4) == [[1, 2, 4]]
    assert degrees(catalogModel="qwen3-8b", devices=1) == [] == degrees(catalogModel="qwen3-8b", accelerator="cpu-x86")
    with pytest.raises(Unsupported, match="on each of 1 devices"):
        degrees(catalogModel="llama-3.1-70b", devices=1)
    on_one_machine = {"kind": "engine", "engine": "vllm", "model": "qwen3-8b", "accelerator": "h100"}
    assert completed(spec(target=on_one_machine | {"devices": 2})).space != completed(spec(target=on_one_machine)).space
    # How many a trial may use is no other configuration.
    setting = {"maxNumSeqs": 8}
    two, one = (spec(target=on_one_machine | {"devices": n}) for n in (2, 1))
    assert canonical_of(two)(setting) == canonical_of(one)(setting)
