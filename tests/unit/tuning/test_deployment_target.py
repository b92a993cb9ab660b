"""A deployment as the target of a tuning job: what is held, what is the baseline, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec, UnknownName, Unsupported
from controlplane.model.serving import ServingDeployment
from controlplane.model.tuning_job import TuningSpec
from controlplane.tuning_deployments import completed_on_cluster
from controlplane.tuning_jobs import baseline_of, completed, sampler_of

TARGET = {"kind": "deployment", "name": "chat", "namespace": "team"}


def spec(**fields: Any) -> TuningSpec:
    return TuningSpec.model_validate({"target": TARGET, "objectives": [{"metric": "output_tokens_per_s"}], **fields})


def deployment(**choice: Any) -> ServingDeployment:
    one = {"accelerator": "cpu-x86", "engine": "openvino", "cpuMillicores": 4000, **choice}
    whole = {"model": {"name": "tiny-random-llama", "source": "image:/m.gguf"}, "explicit": {"choices": [one]}}
    return ServingDeployment.model_validate({"metadata": {"name": "chat", "namespace": "team"}, "spec": whole})


KNOBS = {"maxNumBatchedTokens": 512, "cacheSizeGb": 2}


def test_knobs_that_are_searched_are_the_baseline_and_the_others_are_held() -> None:
    space = {"parameters": [{"kind": "int", "name": "maxNumBatchedTokens", "low": 64, "high": 4096, "log": True}]}
    found = completed_on_cluster(spec(space=space), deployment(knobs=KNOBS))
    assert found.space is not None and found.space.fixed == {"cacheSizeGb": 2}
    assert baseline_of(found) == KNOBS
    assert found.target.kind == "deployment"
    stated = completed_on_cluster(spec(space=space, baseline={"maxNumBatchedTokens": 64}), deployment(knobs=KNOBS))
    assert baseline_of(stated) == {"maxNumBatchedTokens": 64, "cacheSizeGb": 2}


def test_what_a_job_fixes_is_not_in_use() -> None:
    space = {
        "parameters": [{"kind": "int", "name": "maxNumBatchedTokens", "low": 64, "high": 4096, "log": True}],
        "fixed": {"dynamicSplitFuse": False, "cacheSizeGb": 1},
    }
    found = completed_on_cluster(spec(space=space), deployment(knobs=KNOBS))
    assert found.space is not None and found.space.fixed == {"dynamicSplitFuse": False, "cacheSizeGb": 1}
    assert baseline_of(found) == KNOBS
    sampler_of(found)  # the configuration in use is outside the space, and no reason not to begin


def test_settings_work_with_what_the_deployment_holds() -> None:
    space = {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 16}]}
    assert completed_on_cluster(spec(space=space), deployment(knobs={"dynamicSplitFuse": False})).space is not None
    with pytest.raises(InvalidSpec, match="dynamicSplitFuse"):
        completed_on_cluster(spec(space=space), deployment())


def test_without_a_space_its_engine_brings_one_and_defaults_are_a_baseline_too() -> None:
    found = completed_on_cluster(spec(), deployment())
    assert found.space is not None
    names = {one.name for one in found.space.parameters}
    assert "maxNumBatchedTokens" in names and "numThreads" in names  # 4 cores of its pod
    assert baseline_of(found) == {**found.space.fixed}


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"objectives": [{"metric": "output_token_per_s"}]}, UnknownName, "objectives[0].metric"),
        ({"space": {"parameters": [{"kind": "int", "name": "maxBatchedTokens", "low": 1, "high": 2}]}}, UnknownName, "space.parameters[0].name"),
        ({"baseline": {"nonsense": 1}}, UnknownName, "baseline.nonsense"),
    ],
)  # fmt: skip
def test_what_an_engine_is_asked_a_deployment_is_asked(
    fields: dict[str, Any], error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        completed_on_cluster(spec(**fields), deployment())
    assert caught.value.field == field  # type: ignore[attr-defined]


def test_its_shape_stays() -> None:
    space = {"parameters": [{"kind": "choice", "name": "tensorParallel", "values": [1, 2]}]}
    with pytest.raises(InvalidSpec, match="not its shape"):
        completed_on_cluster(
            spec(space=space), deployment(accelerator="h100-sxm-80gb", engine="vllm", cpuMillicores=None)
        )


def test_on_one_machine_it_is_refused() -> None:
    for refuse in (completed, completed_on_cluster):
        with pytest.raises(Unsupported, match="pods of their own"):
            refuse(spec())
