"""Objects the API server must refuse by itself, each with the field it must name and words the message must hold.

The unit tests hold the table against the list of rules; tests/integration/crds sends every row to a real API server.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

GOOD_SERVING: dict[str, Any] = {
    "apiVersion": "trimtab.dev/v1alpha1",
    "kind": "ServingDeployment",
    "metadata": {"name": "chat", "namespace": "default"},
    "spec": {
        "model": {"name": "llama-3.1-8b", "source": "pvc:weights/llama"},
        "explicit": {"choices": [{"accelerator": "l40s", "engine": "vllm"}]},
    },
}
GOOD_POOL: dict[str, Any] = {
    "apiVersion": "trimtab.dev/v1alpha1",
    "kind": "GPUPool",
    "metadata": {"name": "l40s"},
    "spec": {"nodeSelector": {"matchLabels": {"nvidia.com/gpu.product": "NVIDIA-L40S"}}},
}
CHOICE = "spec.explicit.choices[0]"
_GPU = {"accelerator": "l40s", "engine": "vllm"}
_ROLES: dict[str, Any] = {"prefill": {"choices": [_GPU]}, "decode": {"replicas": 2, "choices": [_GPU]}}


@dataclass(frozen=True)
class Bad:
    """`changes` are dotted paths set on a `good` object; the refusal must name `field` and say `words`."""

    name: str
    changes: dict[str, Any]
    field: str
    words: str
    pool: bool = field(default=False)
    good: dict[str, Any] | None = None

    @property
    def manifest(self) -> dict[str, Any]:
        return changed(self.good or (GOOD_POOL if self.pool else GOOD_SERVING), self.changes)


def changed(good: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with dotted paths set; a number steps into a list, None takes the field away."""
    out = copy.deepcopy(good)
    for path, value in changes.items():
        *steps, last = path.replace("[", ".").replace("]", "").split(".")
        node: Any = out
        for step in steps:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        node[last] = value
        if value is None:
            del node[last]
    return out


def _source(name: str, source: str, words: str = "must be pvc:CLAIM/PATH, image:/PATH or hf:ORG/REPO") -> Bad:
    return Bad(f"source: {name}", {"spec.model.source": source}, "spec.model.source", words)


def _choices(*choices: dict[str, Any]) -> dict[str, Any]:
    return {"spec.explicit.choices": [{**_GPU, **choice} for choice in choices]}


WORKLOAD: dict[str, Any] = {"ratePerSecond": 2, "input": {"tokens": 1024}, "output": {"tokens": 256}}


def _auto(workload: dict[str, Any] | None) -> dict[str, Any]:
    return {"spec.explicit": None, "spec.auto": {}, "spec.workload": workload}


BAD: tuple[Bad, ...] = (
    _source("host path", "/var/lib/models/llama"),
    _source("hostPath scheme", "hostPath:/var/lib/models"),
    _source("file URL", "file:///etc/passwd"),
    _source("internal URL", "http://169.254.169.254/latest/meta-data"),
    _source("bucket URL", "s3://bucket/llama"),
    _source("absolute path after the claim", "pvc:weights//etc"),
    _source("upper-case claim", "pvc:Weights/llama"),
    _source("claim path that leaves", "pvc:weights/../../etc", "must not contain '..'"),
    _source("image path that leaves", "image:/models/../etc/shadow", "must not contain '..'"),
    _source("relative image path", "image:models/llama.gguf"),
    _source("hidden file", "image:/models/.ssh/id"),
    _source("repository without organisation", "hf:llama"),
    _source("repository as URL", "hf:https://huggingface.co/a/b"),
    _source("shell in a path", "image:/models/$(id)"),
    _source("new line", "image:/models/a\n--evil"),
    Bad("served name as a flag", {"spec.model.servedName": "--evil"}, "spec.model.servedName", "letters, digits"),
    Bad("cache size in words", {"spec.model.cache.sizeLimit": "a lot"}, "spec.model.cache.sizeLimit", "should match"),
    Bad("negative latency", {"spec.slo.ttftMs": {"p50": -1}}, "spec.slo.ttftMs.p50", "greater than 0"),
    Bad("zero latency", {"spec.slo.tpotMs": {"p99": 0}}, "spec.slo.tpotMs.p99", "greater than 0"),
    Bad("latency as text", {"spec.slo.ttftMs": {"p50": "2s"}}, "spec.slo.ttftMs.p50", "must be of type number"),
    Bad("no percentile", {"spec.slo.ttftMs": {}}, "spec.slo.ttftMs", "name at least one percentile"),
    *(
        Bad(f"{low} above {high}", {f"spec.slo.{metric}": {low: 20, high: 10}}, f"spec.slo.{metric}.{low}", "faster")
        for metric in ("ttftMs", "tpotMs")
        for low, high in (("p50", "p90"), ("p50", "p95"), ("p50", "p99"), ("p90", "p95"), ("p90", "p99"), ("p95", "p99"))
    ),
    Bad(
        "rollout that cannot move",
        {"spec.rollout": {"maxSurge": 0, "maxUnavailable": 0}},
        "spec.rollout.maxSurge",
        "no replica could ever be replaced",
    ),
    Bad(
        "surge 0 with the default",
        {"spec.rollout": {"maxSurge": 0}},
        "spec.rollout.maxSurge",
        "no replica could ever be replaced",
    ),
    Bad(
        "canary that could never be promoted",
        {"spec.rollout.canary": {"hold": {"leastSeconds": 300, "mostSeconds": 200}}},
        "spec.rollout.canary.hold.leastSeconds",
        "nothing could ever be promoted",
    ),
    Bad(
        "canary with too few windows",
        {"spec.rollout.canary": {"hold": {"windowSeconds": 300}}},
        "spec.rollout.canary.hold.windowSeconds",
        "an interval needs 8 windows",
    ),
    Bad(
        "canary of separate roles",
        {
            "spec.explicit": None,
            "spec.roles": _ROLES,
            "spec.routing": {"router": "vllm-router"},
            "spec.rollout.canary": {},
        },
        "spec.rollout.canary",
        "cannot be tried by a canary",
    ),
    Bad("canary of nothing", {"spec.rollout.canary": {"replicas": 0}}, "spec.rollout.canary.replicas", "equal to 1"),
    Bad("negative replicas", {"spec.replicas": -1}, "spec.replicas", "greater than or equal to 0"),
    Bad("absurd replicas", {"spec.replicas": 1_000_000}, "spec.replicas", "less than or equal to 1000"),
    Bad("absurd drain", {"spec.rollout.drainSeconds": 10**9}, "spec.rollout.drainSeconds", "less than or equal to 7200"),
    Bad("unknown priority", {"spec.priority": "Urgent"}, "spec.priority", "supported values"),
    Bad("neither explicit nor auto", {"spec.explicit": None}, "spec.explicit", "give exactly one of explicit"),
    Bad(
        "explicit and auto", {"spec.auto": {}, "spec.workload": WORKLOAD}, "spec.explicit", "give exactly one of explicit"
    ),
    Bad("auto without a workload", _auto(None), "spec.workload", "a plan needs the traffic it is made for"),
    Bad(
        "closed loop without clients",
        _auto({**WORKLOAD, "arrivals": "closed"}),
        "spec.workload.arrivals",
        "closed arrivals need concurrency",
    ),
    Bad(
        "open loop without a rate",
        _auto({"input": {"tokens": 9}, "output": {"tokens": 9}, "concurrency": 4}),
        "spec.workload.arrivals",
        "all others ratePerSecond",
    ),
    Bad("planned roles", {**_auto(WORKLOAD), "spec.roles": _ROLES}, "spec.explicit", "exactly one of explicit"),
    Bad("half a split", {"spec.explicit": None, "spec.roles.prefill": _ROLES["prefill"]}, "spec.roles.decode", "Required"),
    Bad("roles without a router", {"spec.explicit": None, "spec.roles": _ROLES}, "spec.routing.router", "need a router"),
    Bad("unknown router", {"spec.routing.router": "nginx"}, "spec.routing.router", "supported values"),
    Bad("a policy it lacks", {"spec.routing.policy": "kv-aware"}, "spec.routing.policy", "this router does not pick so"),
    Bad("a picker nobody asks", {"spec.routing.endpointPicker": "epp"}, "spec.routing.endpointPicker", "remove it"),
    Bad(
        "a rate beside clients",
        _auto({**WORKLOAD, "arrivals": "closed", "concurrency": 8}),
        "spec.workload.ratePerSecond",
        "ratePerSecond and concurrency do not go together",
    ),
    Bad("a trace", _auto({**WORKLOAD, "arrivals": "trace"}), "spec.workload.arrivals", "supported values"),
    Bad(
        "prefix longer than the prompt",
        _auto({**WORKLOAD, "sharedPrefixTokens": 1025}),
        "spec.workload.sharedPrefixTokens",
        "a shared prefix is part of the prompt",
    ),
    Bad(
        "unknown objective",
        {**_auto(WORKLOAD), "spec.auto.objective": "fastest"},
        "spec.auto.objective",
        "supported values",
    ),
    Bad("no choices", {"spec.explicit.choices": []}, "spec.explicit.choices", "at least 1 items"),
    Bad(
        "too many choices",
        _choices(*({"tensorParallel": n} for n in range(1, 18))),
        "spec.explicit.choices",
        "at most 16 items",
    ),
    Bad("unknown engine", {f"{CHOICE}.engine": "llama.cpp"}, f"{CHOICE}.engine", "supported values"),
    Bad("no ranks", {f"{CHOICE}.tensorParallel": 0}, f"{CHOICE}.tensorParallel", "greater than or equal to 1"),
    Bad(
        "too many ranks",
        _choices({"tensorParallel": 512, "pipelineParallel": 64, "dataParallel": 512}),
        f"{CHOICE}.tensorParallel",
        "must not exceed 1024",
    ),
    Bad(
        "more expert ranks than ranks",
        _choices({"tensorParallel": 4, "dataParallel": 2, "expertParallel": 16}),
        f"{CHOICE}.expertParallel",
        "must not exceed tensorParallel x dataParallel",
    ),
    Bad("millicores of a GPU", {f"{CHOICE}.cpuMillicores": 500}, f"{CHOICE}.cpuMillicores", "only applies to CPU"),
    Bad(
        "accelerators per pod of a CPU",
        _choices({"accelerator": "cpu-x86", "engine": "openvino", "acceleratorsPerPod": 1}),
        f"{CHOICE}.acceleratorsPerPod",
        "set cpuMillicores",
    ),
    Bad("pool twice", {f"{CHOICE}.pools": ["a", "b", "a"]}, f"{CHOICE}.pools", "names a pool twice"),
    Bad("same choice twice", _choices({}, {}), "spec.explicit.choices", "the later one could never be used"),
    Bad(
        "choices that differ in knobs only",
        _choices({"knobs": {"maxNumSeqs": 1}}, {"knobs": {"maxNumSeqs": 2}}),
        "spec.explicit.choices",
        "the later one could never be used",
    ),
    Bad("nested knob", {f"{CHOICE}.knobs": {"maxNumSeqs": {"a": 1}}}, f"{CHOICE}.knobs.maxNumSeqs", "at most 0"),
    Bad("list as a knob", {f"{CHOICE}.knobs": {"maxNumSeqs": [1]}}, f"{CHOICE}.knobs.maxNumSeqs", "at most 0"),
    Bad("long knob", {f"{CHOICE}.knobs": {"a": "x" * 1025}}, f"{CHOICE}.knobs.a", "may not be more than 1024"),
    Bad("too many knobs", {f"{CHOICE}.knobs": {f"k{n}": n for n in range(65)}}, f"{CHOICE}.knobs", "at most 64 items"),
    Bad("empty NIC needs", {f"{CHOICE}.nic": {}}, f"{CHOICE}.nic", "say which class"),
    Bad("image with a space", {f"{CHOICE}.image": "engine --privileged"}, f"{CHOICE}.image", "no image reference"),
    Bad("long name", {"metadata.name": "a" * 44}, "", "allowed: 43 characters"),
    Bad("name of a gang", {"metadata.name": "chat-gang"}, "", "must not end in -gang"),
    Bad("dotted name", {"metadata.name": "chat.v2"}, "", "must start with a letter and hold no dots"),
    Bad("name that starts with a digit", {"metadata.name": "4chat"}, "", "must start with a letter"),
    Bad("dotted pool name", {"metadata.name": "hall.1"}, "", "must not contain dots", pool=True),
    Bad("long pool name", {"metadata.name": "a" * 64}, "", "allowed: 63 characters", pool=True),
    *(
        Bad(
            f"{operator} {'with' if values else 'without'} values",
            {"spec.nodeSelector.matchExpressions": [{"key": "a", "operator": operator, "values": values}]},
            "spec.nodeSelector.matchExpressions[0].values",
            "In and NotIn need values; Exists and DoesNotExist take none",
            pool=True,
        )
        for operator, values in (("In", []), ("NotIn", []), ("Exists", ["b"]), ("DoesNotExist", ["b"]))
    ),
    Bad("negative spares", {"spec.spareNodes": -1}, "spec.spareNodes", "greater than or equal to 0", pool=True),
    Bad("currency in words", {"spec.price": {"amountPerAcceleratorHour": 1, "currency": "dollar"}}, "spec.price.currency",
        "should match", pool=True),
    Bad("negative price", {"spec.price": {"amountPerAcceleratorHour": -1}}, "spec.price.amountPerAcceleratorHour",
        "greater than or equal to 0", pool=True),
)  # fmt: skip

# Unknown fields are refused by strict validation, which kubectl and our API ask for.
UNKNOWN_FIELDS: tuple[tuple[dict[str, Any], str], ...] = (
    ({f"{CHOICE}.tensorParalel": 2}, "spec.explicit.choices[0].tensorParalel"),
    ({"spec.hostPath": "/"}, "spec.hostPath"),
    ({"spec.podTemplate": {"status": {}}}, "spec.podTemplate.status"),
)

GOOD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("defaults", {}),
    ("claim alone", {"spec.model.source": "pvc:weights"}),
    ("deep claim path", {"spec.model.source": "pvc:weights.v2/org/model_1+x/"}),
    ("repository with revision", {"spec.model.source": "hf:deepseek-ai/DeepSeek-R1@refs/pr/1"}),
    ("scalar knobs", {f"{CHOICE}.knobs": {"a": 1, "b": 0.5, "c": True, "d": "fp8", "e": ""}}),
    ("equal percentiles", {"spec.slo.ttftMs": {"p50": 10, "p90": 10, "p99": 10.5}}),
    ("smaller shape of the same accelerator", _choices({"tensorParallel": 4}, {"tensorParallel": 2})),
    ("other pools of the same accelerator", _choices({"pools": ["a"]}, {"pools": ["b"]}, {})),
    ("rack required, then preferred",
     _choices({"topology": {"level": "rack"}}, {"topology": {"level": "rack", "mode": "preferred"}})),
    ("suspended at zero", {"spec.suspend": True, "spec.replicas": 0}),
    (
        "prefill and decode replicas",
        {"spec.explicit": None, "spec.roles": _ROLES, "spec.routing": {"router": "vllm-router"}},
    ),
    ("a router", {"spec.routing": {"router": "sglang-router", "policy": "round-robin"}}),
    ("a picker", {"spec.routing": {"router": "gateway-inference-extension", "endpointPicker": "epp"}}),
    ("planned", _auto(WORKLOAD)),
    ("planned for a closed loop, within a budget",
     {**_auto({"arrivals": "closed", "concurrency": 8, "input": {"tokens": 9, "rangeRatio": 0.5}, "output": {"tokens": 9}}),
      "spec.auto.allowed": {"engines": ["vllm"], "maxAccelerators": 8}, "spec.auto.objective": "goodput-per-watt"}),
    ("longest name", {"metadata.name": "a" * 43}),
    ("pod template", {"spec.podTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"hostAliases": [{"ip": "::1"}]}}}),
)  # fmt: skip
