"""ServingDeployments that the rendering tests share, and the golden manifest of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controlplane.catalog import load
from controlplane.model.cluster import PoolToleration
from controlplane.model.routers import InstalledRouter, RouterName
from controlplane.model.serving import ServingDeployment
from operators.serving.render import (
    RenderSettings,
    headless_service,
    pod,
    pod_disruption_budget,
    replica_template,
    service,
)
from operators.serving.routers import routing_objects

GOLDEN = Path(__file__).parent / "golden"
CATALOG = load()
ROUTERS: dict[RouterName, InstalledRouter] = {
    "sglang-router": InstalledRouter(image="registry.example/sglang-router:0.3.2"),
    "vllm-router": InstalledRouter(image="registry.example/vllm-router:0.1.17"),
    "gateway-inference-extension": InstalledRouter(gateway="gateways/inference", domain="llm.example"),
}
SETTINGS = RenderSettings(engine_images={"openvino": "registry.example/trimtab-engine:0.1.0"}, routers=ROUTERS)
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


def split(engine: str, router: str, **spec: Any) -> ServingDeployment:
    """One prefill and two decode replicas of a 70B model."""
    choice = {"accelerator": "h100-sxm-80gb", "engine": engine, "tensorParallel": 4}
    return deployment(
        model={"name": "llama-3.3-70b", "source": "pvc:models/llama-3.3-70b"},
        explicit=None,
        roles={"prefill": {"choices": [choice]}, "decode": {"replicas": 2, "choices": [choice]}},
        routing={"router": router},
        **spec,
    )


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
        """Service, headless Service of a gang, budget, routing, and the pods of the first replica (of each role)."""
        split_roles = self.deployment.spec.roles is not None
        indices = range(len(self.deployment.spec.choices)) if split_roles else range(1)
        templates = [replica_template(self.deployment, index, CATALOG, SETTINGS) for index in indices]
        gang = templates[0].pods > 1
        out = [service(self.deployment)]
        if gang:
            out.append(headless_service(self.deployment))
        counted = sum(template.pods for template in templates) if gang or split_roles else None
        out.append(pod_disruption_budget(self.deployment, counted))
        port = templates[0].engine_facts.port
        out += [manifest for _, manifest in routing_objects(self.deployment, ROUTERS, port)]
        for template in templates:
            tolerations = [NVIDIA_TAINT] if template.resource == "nvidia.com/gpu" else []
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
_LLAMA_8B = ("llama-3.1-8b", "pvc:models/llama-3.1-8b")
_L40S = {"accelerator": "l40s", "engine": "vllm", "knobs": {"maxModelLen": 16384}}
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
_SGLANG_ROUTER = (
    "sglang-router 0.3.2, sglang_router/router_args.py (its parser takes these arguments)",
    'SGLang documentation, "SGLang Model Gateway" (service discovery in Kubernetes)',
)
_VLLM_ROUTER = (
    "vllm-router 0.1.17, vllm_router/router_args.py (its parser takes these arguments)",
    'vLLM router documentation, "Prefill-Decode Disaggregation" and "Kubernetes Deployment"',
)
_EXTENSION = (
    "Gateway API inference extension 1.0: InferencePool inference.networking.k8s.io/v1,",
    "  InferenceObjective inference.networking.x-k8s.io/v1alpha2",
    "Gateway API 1.3: HTTPRoute gateway.networking.k8s.io/v1",
)
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
            f"{engine}-split-h100",
            f"Llama 3.3 70B: prefill and decode replicas on four H100 each, {name}'s own KV connector and router.",
            (*documents, *router_documents),
            split(engine, router),
        )
        for engine, name, documents, router, router_documents in (
            ("vllm", "vLLM", _VLLM_SPLIT, "vllm-router", _VLLM_ROUTER),
            ("sglang", "SGLang", _SGLANG_SPLIT, "sglang-router", _SGLANG_ROUTER),
        )
    ),
    Golden(
        "vllm-sglang-router-l40s",
        "Llama 3.1 8B on L40S behind sglang-router, by cached prefix.",
        (*_VLLM, *_SGLANG_ROUTER),
        one_choice(*_LLAMA_8B, _L40S, routing={"router": "sglang-router"}),
    ),
    Golden(
        "vllm-inference-extension-l40s",
        "Llama 3.1 8B on L40S behind a gateway with the inference extension.",
        (*_VLLM, *_EXTENSION),
        one_choice(*_LLAMA_8B, _L40S, routing={"router": "gateway-inference-extension"}, priority="High"),
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
