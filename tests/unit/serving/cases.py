"""ServingDeployments that the rendering tests share, and the golden manifest of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controlplane.catalog import load
from controlplane.model.cluster import PoolToleration
from controlplane.model.serving import ServingDeployment
from operators.serving.render import (
    RenderSettings,
    headless_service,
    pod,
    pod_disruption_budget,
    replica_template,
    service,
)

GOLDEN = Path(__file__).parent / "golden"
CATALOG = load()
SETTINGS = RenderSettings(engine_images={"openvino": "registry.example/trimtab-engine:0.1.0"})
NVIDIA_TAINT = PoolToleration(key="nvidia.com/gpu", effect="NoSchedule")


def deployment(**spec: Any) -> ServingDeployment:
    """A valid deployment of the embedded engine; fields of the spec (camelCase) are replaced by `spec`."""
    return ServingDeployment.model_validate(
        {
            "metadata": {"name": "chat", "namespace": "prod", "uid": "5e0c1b1a-0000-4000-8000-000000000001"},
            "spec": {
                "model": {"name": "tiny-random-llama", "source": "image:/models/tiny.gguf"},
                "explicit": {"choices": [{"accelerator": "cpu-x86", "engine": "openvino"}]},
                **spec,
            },
        }
    )


def one_choice(model: str, source: str, choice: dict[str, Any], **spec: Any) -> ServingDeployment:
    """A deployment with one accelerator choice and a cache claim for downloads."""
    cache = {"cache": {"claim": "weights"}} if source.startswith("hf:") else {}
    return deployment(model={"name": model, "source": source, **cache}, explicit={"choices": [choice]}, **spec)


@dataclass(frozen=True)
class Golden:
    """One golden manifest: the deployment, and the vendors' documents its command lines were checked against."""

    name: str
    about: str
    documents: tuple[str, ...]
    deployment: ServingDeployment

    @property
    def path(self) -> Path:
        return GOLDEN / f"{self.name}.yaml"

    def text(self) -> str:
        """The manifest as the golden file holds it."""
        ran = "" if self.name.startswith("openvino") else "Rendered, not run here. "
        header = [f"# {self.about}", f"# {ran}Checked against:"]
        header += [f"#   {document}" for document in self.documents]
        return "\n".join(header) + "\n" + yaml.dump_all(self.objects(), Dumper=_Plain, sort_keys=False, width=110)

    def objects(self) -> list[dict[str, Any]]:
        """Service, headless Service of a gang, budget, and the pods of the first replica."""
        template = replica_template(self.deployment, 0, CATALOG, SETTINGS)
        gang = template.pods > 1
        tolerations = [NVIDIA_TAINT] if template.resource == "nvidia.com/gpu" else []
        out = [service(self.deployment)]
        if gang:
            out.append(headless_service(self.deployment))
        out.append(pod_disruption_budget(self.deployment, template.pods if gang else None))
        for rank in range(template.pods):
            out.append(pod(template, self.deployment, 0, rank, f"node-{rank}", "pool-a", tolerations))
        return out


class _Plain(yaml.SafeDumper):
    """YAML without anchors, with scripts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Plain.add_representer(str, _text)

_DEEPSEEK = ("deepseek-r1", "hf:deepseek-ai/DeepSeek-R1@main")
_TOKEN = {
    "spec": {
        "containers": [
            {
                "name": "engine",
                "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hugging-face", "key": "token"}}}],
                "resources": {"limits": {"rdma/hca_shared_devices_a": "1"}},
                "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
            }
        ],
        "volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "64Gi"}}],
    }
}
_VLLM = (
    'vLLM documentation, "Parallelism and Scaling" (multi-node with multiprocessing)',
    "vLLM 0.24.0, vllm/engine/arg_utils.py and vllm/entrypoints/cli/serve.py",
    'vLLM documentation, "Using Kubernetes" (shared memory, probes)',
)
_SGLANG = (
    'SGLang documentation, "Multi-Node Deployment" and "Deploy On Kubernetes"',
    "SGLang 0.5.14, sglang/srt/server_args.py",
)
_VLLM_SPLIT = (*_VLLM[1:], 'vLLM documentation, "NixlConnector Usage Guide"')
_SGLANG_SPLIT = (_SGLANG[1], 'SGLang documentation, "PD Disaggregation"')
_TRTLLM = (
    'TensorRT-LLM documentation, "trtllm-serve" (multi-node serving, --config)',
    "TensorRT-LLM, tensorrt_llm/commands/serve.py and llmapi/trtllm-llmapi-launch",
    "Kubeflow MPI Operator, ssh between pods without root (the image must bring sshd)",
)

GOLDENS = (
    Golden(
        "openvino-cpu",
        "Embedded engine on two CPU cores, key from a Secret.",
        ("trimtab-engine serve --help",),
        one_choice(
            "tiny-random-llama",
            "image:/models/tiny.gguf",
            {
                "accelerator": "cpu-x86",
                "engine": "openvino",
                "cpuMillicores": 2000,
                "knobs": {"maxNumBatchedTokens": 256, "numKvBlocks": 400},
            },
            apiKeySecret={"name": "chat-key"},
        ),
    ),
    Golden(
        "vllm-l40s",
        "Llama 3.1 8B on one L40S, weights on a claim.",
        _VLLM,
        one_choice(
            "llama-3.1-8b",
            "pvc:models/llama-3.1-8b",
            {"accelerator": "l40s", "engine": "vllm", "knobs": {"maxModelLen": 16384, "maxNumSeqs": 128}},
        ),
    ),
    Golden(
        "vllm-mi300x",
        "Llama 3.1 70B on two MI300X with AMD's image.",
        (*_VLLM, "AMD ROCm documentation, vLLM inference (groups video and render own the devices)"),
        one_choice(
            "llama-3.1-70b",
            "hf:meta-llama/Llama-3.1-70B-Instruct",
            {
                "accelerator": "mi300x-192gb",
                "engine": "vllm",
                "tensorParallel": 2,
                "image": "docker.io/vllm/vllm-openai-rocm:v0.24.0",
            },
            podTemplate={"spec": {"securityContext": {"supplementalGroups": [44, 109]}}},
        ),
    ),
    Golden(
        "vllm-deepseek-r1-h100x16",
        "DeepSeek-R1 on two nodes of eight H100: tensor parallel 8, two pipeline stages.",
        _VLLM,
        one_choice(
            *_DEEPSEEK,
            {
                "accelerator": "h100-sxm-80gb",
                "engine": "vllm",
                "tensorParallel": 8,
                "pipelineParallel": 2,
                "knobs": {"maxModelLen": 32768, "trustRemoteCode": True},
                "nic": {"class": "ib-ndr-400", "minPerNode": 8},
            },
            podTemplate=_TOKEN,
        ),
    ),
    Golden(
        "vllm-deepseek-r1-h100x16-dp",
        "DeepSeek-R1 on two nodes of eight H100: data parallel attention, experts over all ranks.",
        (*_VLLM, 'vLLM documentation, "Data Parallel Deployment" and "Expert Parallel Deployment"'),
        one_choice(
            *_DEEPSEEK,
            {
                "accelerator": "h100-sxm-80gb",
                "engine": "vllm",
                "dataParallel": 16,
                "expertParallel": 16,
                "knobs": {"maxModelLen": 32768},
            },
        ),
    ),
    Golden(
        "sglang-deepseek-r1-h100x16",
        "DeepSeek-R1 on two nodes of eight H100: data parallel attention over 16 ranks, experts spread.",
        _SGLANG,
        one_choice(
            *_DEEPSEEK,
            {
                "accelerator": "h100-sxm-80gb",
                "engine": "sglang",
                "tensorParallel": 2,
                "dataParallel": 8,
                "expertParallel": 16,
            },
            podTemplate=_TOKEN,
        ),
    ),
    Golden(
        "sglang-h200",
        "Qwen3 32B on two H200, downloaded by each pod into its own cache.",
        _SGLANG,
        deployment(
            model={"name": "qwen3-32b", "source": "hf:Qwen/Qwen3-32B", "servedName": "qwen"},
            explicit={"choices": [{"accelerator": "h200-sxm-141gb", "engine": "sglang", "tensorParallel": 2}]},
        ),
    ),
    *(
        Golden(
            f"{engine}-{role.lower()}-h100",
            f"Llama 3.3 70B on four H100, {role.lower()} replicas with {name}'s own KV connector; needs a router.",
            documents,
            one_choice(
                "llama-3.3-70b",
                "pvc:models/llama-3.3-70b",
                {"accelerator": "h100-sxm-80gb", "engine": engine, "tensorParallel": 4},
                role=role,
            ),
        )
        for engine, name, documents in (("vllm", "vLLM", _VLLM_SPLIT), ("sglang", "SGLang", _SGLANG_SPLIT))
        for role in ("Prefill", "Decode")
    ),
    Golden(
        "trtllm-h100",
        "Llama 3.1 8B on one H100: settings partly in the configuration file, drain by metrics.",
        _TRTLLM[:2],
        one_choice(
            "llama-3.1-8b",
            "pvc:models/llama-3.1-8b",
            {
                "accelerator": "h100-sxm-80gb",
                "engine": "trtllm-serve",
                "knobs": {"enablePrefixCaching": False, "maxNumBatchedTokens": 8192},
            },
        ),
    ),
    Golden(
        "trtllm-deepseek-r1-h100x16",
        "DeepSeek-R1 on two nodes of eight H100 by MPI.",
        _TRTLLM,
        one_choice(
            *_DEEPSEEK,
            {
                "accelerator": "h100-sxm-80gb",
                "engine": "trtllm-serve",
                "tensorParallel": 16,
                "expertParallel": 4,
                "knobs": {"kvCacheDtype": "fp8"},
            },
            podTemplate=_TOKEN,
        ),
    ),
)
