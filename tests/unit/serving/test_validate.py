"""Each thing the schema cannot check is refused with field, value and a way out."""

from typing import Any

import pytest

from controlplane.catalog import unknown
from controlplane.model.errors import TrimtabError
from controlplane.model.serving import ServingDeployment
from operators.serving.names import NAME_MAX, pod_name
from operators.serving.render import RenderSettings
from operators.serving.validate import validate
from tests.unit.serving.cases import CATALOG, SETTINGS, deployment, one_choice

H100 = "h100-sxm-80gb"
PVC = "pvc:models/x"


def errors(made: ServingDeployment, settings: RenderSettings | None = SETTINGS) -> dict[str, TrimtabError]:
    return {error.field or "": error for error in validate(made, CATALOG, settings)}


def named(name: str) -> ServingDeployment:
    made = deployment()
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"name": name})})


def choice(model: str = "llama-3.1-70b", source: str = PVC, **fields: Any) -> ServingDeployment:
    return one_choice(model, source, {"accelerator": H100, "engine": "vllm", **fields})


def test_the_sample_is_fine() -> None:
    assert errors(deployment()) == {}


C = "spec.explicit.choices[0]"
RULES = {rule.message for engine in CATALOG.engines.values() for rule in engine.rules}  # they say what to set


@pytest.mark.parametrize(
    ("made", "field", "words"),
    [
        (deployment(model={"name": "tiny-random-lama", "source": PVC}), "spec.model.name", ["tiny-random-llama"]),
        (
            deployment(model={"name": "meta-llama/Llama-3.1-8B-Instruct", "source": PVC}),
            "spec.model.name",
            ["llama-3.1-8b"],
        ),
        (choice(accelerator="h100-sxm", tensorParallel=4), f"{C}.accelerator", [H100]),
        (choice(tensorParallel=4, knobs={"maxNumSeq": 1}), f"{C}.knobs.maxNumSeq", ["maxNumSeqs"]),
        (choice(tensorParallel=4, knobs={"maxNumSeqs": 0}), f"{C}.knobs.maxNumSeqs", ["1 to"]),
        (choice(tensorParallel=4, knobs={"maxNumSeqs": "many"}), f"{C}.knobs.maxNumSeqs", ["whole number"]),
        (
            one_choice(
                "tiny-random-llama",
                PVC,
                {"accelerator": "cpu-x86", "engine": "openvino", "knobs": {"inferencePrecision": "bf16"}},
            ),
            f"{C}.knobs.inferencePrecision",
            ["amx"],
        ),
        (
            deployment(
                podTemplate={
                    "spec": {"containers": [{"name": "engine", "env": [{"name": "VLLM_API_KEY", "value": "x"}]}]}
                }
            ),
            "spec.podTemplate.spec.containers[0].env[0].name",
            ["apiKeySecret"],
        ),
        (choice(tensorParallel=4, nic={"class": "ib-ndr"}), f"{C}.nic.class", ["ib-ndr-400"]),
        (choice(tensorParallel=3), f"{C}.tensorParallel", ["64 attention heads", "4"]),
        (choice("llama-3.1-8b", tensorParallel=64), f"{C}.tensorParallel", ["32 attention heads"]),
        (choice("qwen2.5-7b", tensorParallel=8), f"{C}.tensorParallel", ["28 attention heads"]),
        (choice("qwen3-0.6b", pipelineParallel=64), f"{C}.pipelineParallel", ["28 layers"]),
        (choice(tensorParallel=4, expertParallel=4), f"{C}.expertParallel", ["no experts"]),
        (
            choice("qwen3-30b-a3b", engine="sglang", tensorParallel=4, expertParallel=3),
            f"{C}.expertParallel",
            ["128 experts"],
        ),
        (
            choice("mixtral-8x7b", tensorParallel=4, expertParallel=2),
            f"{C}.expertParallel",
            ["all tensor x data parallel ranks"],
        ),
        (choice("qwen3-30b-a3b", engine="sglang", tensorParallel=2, expertParallel=8), f"{C}.expertParallel", []),
        (choice(accelerator="mi300x-192gb", engine="trtllm-serve"), f"{C}.engine", ["nvidia"]),
        (choice(engine="openvino"), f"{C}.engine", ["cpu"]),
        (choice(accelerator="cpu-x86"), f"{C}.engine", ["gpu"]),
        (choice("llama-3.1-8b", accelerator="v100-sxm2-32gb"), f"{C}.engine", ["compute capability"]),
        (choice(), C, ["141.1 GB", "92% of 8", "at least 2"]),
        (choice("llama-3.1-8b", accelerator="l4"), f"{C}.knobs.maxModelLen", ["131072", "tokens"]),
        (choice("llama-3.1-8b", accelerator="l4", knobs={"maxModelLen": 100_000}), f"{C}.knobs.maxModelLen", []),
        (choice(tensorParallel=4, acceleratorsPerPod=16), f"{C}.acceleratorsPerPod", ["1 to 4"]),
        (choice(tensorParallel=8, acceleratorsPerPod=3), f"{C}.acceleratorsPerPod", ["divisor of 8"]),
        (choice("deepseek-r1", tensorParallel=16, acceleratorsPerPod=16), f"{C}.acceleratorsPerPod", ["1 to 8"]),
        (choice(tensorParallel=4, quantization="fp9"), f"{C}.quantization", ["fp8"]),
        (
            one_choice(
                "tiny-random-llama", PVC, {"accelerator": "cpu-x86", "engine": "openvino", "quantization": "Q5"}
            ),
            f"{C}.quantization",
            ["Q8_0"],
        ),
        (
            one_choice("tiny-random-llama", PVC, {"accelerator": "cpu-x86", "engine": "openvino", "tensorParallel": 2}),
            f"{C}.tensorParallel",
            ["openvino has no tensorParallel"],
        ),
        (choice(tensorParallel=4, cpuMillicores=2000), f"{C}.cpuMillicores", ["not a CPU"]),
        (choice(accelerator="mi300x-192gb", tensorParallel=4), f"{C}.image", ["vllm/amd"]),
        (choice(tensorParallel=4, pools=["a", "a"]), f"{C}.pools", ["twice"]),
        (choice(engine="sglang", tensorParallel=4, dataParallel=2), f"{C}.dataParallel", ["spec.replicas"]),
        (
            choice("deepseek-r1", engine="trtllm-serve", tensorParallel=8, dataParallel=2),
            f"{C}.dataParallel",
            ["tensorParallel 1"],
        ),
        (named("a" * (NAME_MAX + 1)), "metadata.name", [f"{NAME_MAX} characters"]),
        (named("a.b"), "metadata.name", ["Service"]),
        (named("1a"), "metadata.name", ["letter"]),
        (named("chat-gang"), "metadata.name", ["-gang"]),
        (deployment(slo={"ttftMs": {"p50": 500, "p99": 200}}), "spec.slo.ttftMs.p99", ["p50 500", "at least 500"]),
        (deployment(slo={"tpotMs": {"p90": 9, "p95": 8}}), "spec.slo.tpotMs.p95", ["at least 9"]),
        (deployment(rollout={"maxSurge": 0}), "spec.rollout.maxSurge", ["maxUnavailable"]),
        (deployment(model={"name": "tiny-random-llama", "source": "file:/etc"}), "spec.model.source", ["pvc:"]),
        (deployment(model={"name": "tiny-random-llama", "source": "hf:a/b"}), "spec.model.source", ["download"]),
        (
            deployment(
                model={"name": "llama-3.1-70b", "source": "hf:a/b"},
                explicit={"choices": [{"accelerator": H100, "engine": "vllm", "tensorParallel": 4}]},
            ),
            "spec.model.cache.sizeLimit",
            ["141.1 GB", "138Gi", "claim"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_refused(made: ServingDeployment, field: str, words: list[str]) -> None:
    found = errors(made)
    assert field in found, f"got {[str(error) for error in found.values()]}"
    text = str(found[field])
    for word in words:
        assert word in text
    assert found[field].limit or found[field].hint or found[field].message in RULES, "an error shows the way out"


@pytest.mark.parametrize(("engine", "able"), [("sglang", False), ("trtllm-serve", False), ("vllm", True)])
def test_a_key_that_an_engine_would_show_on_its_command_line_is_refused(engine: str, able: bool) -> None:
    made = one_choice(
        "llama-3.1-70b", PVC, {"accelerator": H100, "engine": engine, "tensorParallel": 8}, apiKeySecret={"name": "k"}
    )
    assert ("spec.apiKeySecret" in errors(made)) is not able


def test_an_engine_that_cannot_span_pods_is_told_so() -> None:
    made = one_choice(
        "tiny-random-llama",
        PVC,
        {"accelerator": "cpu-x86", "engine": "openvino", "dataParallel": 2, "acceleratorsPerPod": 1},
    )
    assert "cannot span pods" in str(errors(made)[f"{C}.engine"])


def test_every_choice_is_checked_and_all_errors_come_at_once() -> None:
    made = deployment(
        model={"name": "llama-3.1-70b", "source": "ftp:x"},
        explicit={
            "choices": [
                {"accelerator": H100, "engine": "vllm", "tensorParallel": 3},
                {"accelerator": "l40-sxm", "engine": "vllm"},
                {"accelerator": H100, "engine": "vllm", "tensorParallel": 4},
            ]
        },
        podTemplate={"spec": {"hostNetwork": True}},
    )
    assert set(errors(made)) == {
        "spec.model.source",
        "spec.explicit.choices[0].tensorParallel",
        "spec.explicit.choices[1].accelerator",
        "spec.podTemplate.spec.hostNetwork",
    }


def test_images_are_not_asked_for_without_settings() -> None:
    assert errors(choice(accelerator="mi300x-192gb", tensorParallel=4), settings=None) == {}


def test_unknown_numbers_refuse_nothing() -> None:
    made = choice(quantization="compressed-tensors")
    assert errors(made) == {}


def test_an_8_bit_cache_and_a_shorter_context_make_room() -> None:
    tight = {"accelerator": "l4", "engine": "vllm", "knobs": {"maxModelLen": 60_000}}
    assert errors(one_choice("llama-3.1-8b", PVC, tight))
    roomy = {**tight, "knobs": {"maxModelLen": 60_000, "kvCacheDtype": "fp8"}}
    assert not errors(one_choice("llama-3.1-8b", PVC, roomy))


def test_the_suggested_context_length_is_accepted() -> None:
    error = errors(choice("llama-3.1-8b", accelerator="l4"))[f"{C}.knobs.maxModelLen"]
    tokens = int((error.limit or "").split()[1])
    assert not errors(choice("llama-3.1-8b", accelerator="l4", knobs={"maxModelLen": tokens}))
    assert errors(choice("llama-3.1-8b", accelerator="l4", knobs={"maxModelLen": int(tokens * 1.01) + 1}))


def test_the_longest_name_leaves_room_for_every_derived_name() -> None:
    longest = pod_name("a" * NAME_MAX, "0" * 10, 9999, 999)
    assert len(longest) == 63
    assert errors(named("a" * NAME_MAX)) == {}


def test_errors_are_data_for_the_api() -> None:
    error = errors(choice(tensorParallel=3))[f"{C}.tensorParallel"]
    assert error.as_dict()["field"] == f"{C}.tensorParallel"
    assert error.as_dict()["value"] == 3
    assert unknown("x", "y", ["z"]).as_dict()["code"] == "UnknownName"
