"""The revision: what restarts engines, and what must not."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.serving import ServingDeployment
from operators.serving.render import RenderSettings, replica_template
from tests.unit.serving.cases import CATALOG, SETTINGS, deployment

CHOICE: dict[str, Any] = {"accelerator": "h100-sxm-80gb", "engine": "vllm", "tensorParallel": 4}
OTHER: dict[str, Any] = {"accelerator": "l40s", "engine": "vllm", "tensorParallel": 8}
MODEL: dict[str, Any] = {"name": "llama-3.1-70b", "source": "pvc:models/llama"}


def make(choices: list[dict[str, Any]] | None = None, **spec: Any) -> ServingDeployment:
    return deployment(**{"model": MODEL, "explicit": {"choices": choices or [CHOICE]}, **spec})


def revision(made: ServingDeployment, index: int = 0, settings: RenderSettings = SETTINGS) -> str:
    return replica_template(made, index, CATALOG, settings).revision


BASE = revision(make())


def test_is_ten_hexadecimal_digits() -> None:
    assert len(BASE) == 10
    int(BASE, 16)


latency = st.fixed_dictionaries({}, optional={"p50": st.floats(1, 10), "p99": st.floats(10, 100)})
without_restart = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 1000),
        "spread": st.sampled_from(["Pack", "Spread"]),
        "priority": st.sampled_from(["Low", "Normal", "High"]),
        "suspend": st.booleans(),
        "startupDeadlineSeconds": st.integers(10, 86_400),
        "slo": st.fixed_dictionaries({}, optional={"ttftMs": latency, "tpotMs": latency}),
        "rollout": st.fixed_dictionaries(
            {},
            optional={
                "maxSurge": st.integers(0, 100),
                "maxUnavailable": st.integers(0, 100),
                "drainSeconds": st.integers(0, 7200),
                "preferBetter": st.sampled_from(["Never", "WhenFree"]),
            },
        ),
    },
)
placement = st.fixed_dictionaries(
    {},
    optional={
        "pools": st.lists(st.sampled_from(["a", "b", "c"]), unique=True),
        "nic": st.just({"class": "ib-ndr-400", "minPerNode": 4}),
        "topology": st.just({"level": "rack", "mode": "preferred"}),
    },
)


@settings(max_examples=60, deadline=None)
@given(without_restart, placement, st.booleans())
def test_scaling_rollout_priority_and_placement_restart_nothing(
    spec: dict[str, Any], place: dict[str, Any], second: bool
) -> None:
    choice = {**CHOICE, **place}
    made = make([OTHER, choice] if second else [choice, OTHER], **spec)
    assert revision(made, 1 if second else 0) == BASE


restarting: list[dict[str, Any]] = [
    {"model": {**MODEL, "name": "llama-3.3-70b"}},
    {"model": {**MODEL, "source": "pvc:models/other"}},
    {"model": {**MODEL, "servedName": "other"}},
    {"model": {**MODEL, "cache": {"claim": "weights"}}},
    {"explicit": {"choices": [{**CHOICE, "tensorParallel": 8}]}},
    {"explicit": {"choices": [{**CHOICE, "knobs": {"maxNumSeqs": 64}}]}},
    {"explicit": {"choices": [{**CHOICE, "knobs": {"maxNumSeqs": 65}}]}},
    {"explicit": {"choices": [{**CHOICE, "quantization": "fp8"}]}},
    {"explicit": {"choices": [{**CHOICE, "engine": "sglang"}]}},
    {"explicit": {"choices": [{**CHOICE, "accelerator": "h200-sxm-141gb"}]}},
    {"explicit": {"choices": [{**CHOICE, "acceleratorsPerPod": 2}]}},
    {"explicit": {"choices": [{**CHOICE, "image": "registry.example/vllm:1"}]}},
    {"podTemplate": {"metadata": {"labels": {"team": "a"}}}},
    {"podTemplate": {"spec": {"imagePullSecrets": [{"name": "pull"}]}}},
    {"apiKeySecret": {"name": "key"}},
    {"explicit": None, "roles": {"prefill": {"choices": [CHOICE]}, "decode": {"choices": [CHOICE]}}},
    {"priorityClassName": "high"},
]


@pytest.mark.parametrize("change", restarting, ids=str)
def test_what_a_pod_is_made_of_restarts_it(change: dict[str, Any]) -> None:
    assert revision(make(**change)) != BASE


def test_all_restarting_changes_differ_from_each_other() -> None:
    assert len({revision(make(**change)) for change in restarting}) == len(restarting)


def test_an_installation_that_changes_the_engine_image_restarts_its_engines() -> None:
    assert revision(make(), settings=RenderSettings(engine_images={"vllm": "mirror.example/vllm:2"})) != BASE


def test_an_image_named_in_the_choice_equals_the_same_image_from_the_settings() -> None:
    image = "mirror.example/vllm:2"
    named = make([{**CHOICE, "image": image}])
    assert revision(named) == revision(make(), settings=RenderSettings(engine_images={"vllm": image}))


def test_a_default_written_out_is_no_change() -> None:
    assert revision(make([{**CHOICE, "pipelineParallel": 1, "acceleratorsPerPod": 4, "knobs": {}}])) == BASE
