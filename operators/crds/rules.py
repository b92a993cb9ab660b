"""What a schema cannot say and CEL can: one rule, one readable message, one reason.

Rules guard what is wrong whatever the cluster holds. What depends on the catalogue (which heads divide, which engine
runs where) is judged by the controller and told in the Ready condition.
"""

from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule at a dotted path of the schema; `[]` steps into list items, an empty path is the whole object.

    Where a rule stands on text or a number itself, the API server shows the value. Messages cannot: the cost of turning
    a number into text has no bound for the API server's estimate, so it refuses a messageExpression that does.
    """

    path: str
    rule: str
    message: str
    field: str | None = None

    def as_dict(self) -> dict[str, str]:
        out = {"rule": self.rule, "message": self.message, "reason": "FieldValueInvalid"}
        return out | ({"fieldPath": self.field} if self.field else {})


# Pods are named DEPLOYMENT-REVISION-SLOT-RANK (10 + 4 + 3 characters and separators) inside the 63 of a label.
DEPLOYMENT_NAME_MAX = 43

_SEGMENT = "[A-Za-z0-9_][A-Za-z0-9._+-]*"
_PATH = f"{_SEGMENT}(/{_SEGMENT})*/?"
_REPO_PART = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
SOURCE_PATTERN = (
    f"^(pvc:[a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?(/({_PATH})?)?"
    f"|image:/{_PATH}"
    f"|hf:{_REPO_PART}/{_REPO_PART}(@[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}})?)$"
)
SERVED_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"
IMAGE_PATTERN = "^[a-z0-9][A-Za-z0-9._:/@-]*$"
_RISING = "!has(self.{a}) || !has(self.{b}) || self.{a} <= self.{b}"
_PERCENTILES = ("p50", "p90", "p95", "p99")

# Fields that decide where a choice can be placed, and the engine. Where these are equal the earlier choice always wins.
_ALWAYS_SET = ("accelerator", "engine", "tensorParallel", "pipelineParallel", "dataParallel", "expertParallel")
_OFTEN_ABSENT = ("pools", "acceleratorsPerPod", "cpuMillicores", "quantization", "nic", "topology")
_SAME_CHOICE = " && ".join(
    [f"a.{name} == b.{name}" for name in _ALWAYS_SET]
    + [f"has(a.{name}) == has(b.{name}) && (!has(a.{name}) || a.{name} == b.{name})" for name in _OFTEN_ABSENT]
)

_CHOICES = ("spec.explicit.choices[]", "spec.roles.prefill.choices[]", "spec.roles.decode.choices[]")


def _of_a_choice(path: str) -> tuple[Rule, ...]:
    """Rules of one accelerator choice, wherever it stands."""
    return (
        Rule(
            path,
            "!has(self.cpuMillicores) || self.accelerator.startsWith('cpu-')",
            "only applies to CPU accelerators (cpu-...); remove it, GPUs are counted by the parallel degrees",
            ".cpuMillicores",
        ),
        Rule(
            path,
            "!has(self.acceleratorsPerPod) || !self.accelerator.startsWith('cpu-')",
            "does not apply to CPU accelerators; set cpuMillicores",
            ".acceleratorsPerPod",
        ),
        Rule(
            path,
            "self.tensorParallel * self.pipelineParallel * self.dataParallel <= 1024",
            "tensorParallel x pipelineParallel x dataParallel must not exceed 1024 accelerators for one replica",
            ".tensorParallel",
        ),
        Rule(
            path,
            "self.expertParallel <= self.tensorParallel * self.dataParallel",
            "must not exceed tensorParallel x dataParallel: experts are spread over those ranks",
            ".expertParallel",
        ),
        Rule(
            path,
            "!has(self.pools) || self.pools.all(a, self.pools.exists_one(b, a == b))",
            "names a pool twice",
            ".pools",
        ),
        Rule(
            f"{path}.image",
            f"self.matches('{IMAGE_PATTERN}')",
            "is no image reference; allowed: REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST",
        ),
        Rule(
            f"{path}.nic",
            "has(self.class) || has(self.minPerNode)",
            "say which class, or how many NICs each node must have",
        ),
    )


SERVING: tuple[Rule, ...] = (
    Rule(
        "",
        f"size(self.metadata.name) <= {DEPLOYMENT_NAME_MAX}",
        f"metadata.name is too long; allowed: {DEPLOYMENT_NAME_MAX} characters, because pod names and labels are made from it",
    ),
    Rule(
        "",
        "!self.metadata.name.endsWith('-gang')",
        "metadata.name must not end in -gang: the headless Services of other deployments are named so",
    ),
    Rule(
        "",
        "self.metadata.name.matches('^[a-z][-a-z0-9]*$')",
        "metadata.name must start with a letter and hold no dots: it becomes the name of a Service",
    ),
    Rule(
        "spec.model.source",
        f"self.matches('{SOURCE_PATTERN}')",
        "must be pvc:CLAIM/PATH, image:/PATH or hf:ORG/REPO[@REVISION], no path segment starting with a dot; host paths "
        "and URLs are not accepted: put the weights on a claim or into the engine image",
    ),
    Rule("spec.model.source", "!self.contains('..')", "must not contain '..': name the directory itself"),
    Rule(
        "spec.model.servedName",
        f"self.matches('{SERVED_NAME_PATTERN}')",
        "may hold letters, digits and ._:/@- and must start with a letter or digit",
    ),
    *(
        Rule(
            f"spec.slo.{metric}",
            _RISING.format(a=a, b=b),
            f"{a} must not exceed {b}: a higher percentile cannot be faster",
            f".{a}",
        )
        for metric in ("ttftMs", "tpotMs")
        for index, a in enumerate(_PERCENTILES)
        for b in _PERCENTILES[index + 1 :]
    ),
    *(
        Rule(
            f"spec.slo.{metric}",
            " || ".join(f"has(self.{p})" for p in _PERCENTILES),
            "name at least one percentile: p50, p90, p95 or p99, in milliseconds",
        )
        for metric in ("ttftMs", "tpotMs")
    ),
    Rule(
        "spec.rollout",
        "self.maxSurge > 0 || self.maxUnavailable > 0",
        "maxSurge and maxUnavailable are both 0: no replica could ever be replaced; set one of them to 1",
        ".maxSurge",
    ),
    Rule(
        "spec.rollout.canary.hold",
        "self.leastSeconds <= self.mostSeconds",
        "leastSeconds must not exceed mostSeconds: nothing could ever be promoted",
        ".leastSeconds",
    ),
    Rule(
        "spec.rollout.canary.hold",
        "self.windowSeconds * 8 <= self.mostSeconds",
        "an interval needs 8 windows: make mostSeconds at least 8 x windowSeconds",
        ".windowSeconds",
    ),
    Rule(
        "spec",
        "!has(self.roles) || !has(self.rollout.canary)",
        "prefill and decode replicas apart cannot be tried by a canary, a request needs both: remove rollout.canary",
        ".rollout.canary",
    ),
    Rule(
        "spec",
        "[has(self.explicit), has(self.roles), has(self.auto)].exists_one(given, given)",
        "give exactly one of explicit (accelerator choices in order), roles (prefill and decode replicas apart) and auto "
        "(let Trimtab plan them)",
        ".explicit",
    ),
    Rule(
        "spec",
        "!has(self.roles) || self.routing.router in ['sglang-router', 'vllm-router']",
        "separate roles need a router that sends a request to a prefill and then to a decode replica: sglang-router for "
        "sglang, vllm-router for vllm",
        ".routing.router",
    ),
    Rule(
        "spec",
        "!has(self.auto) || has(self.workload)",
        "a plan needs the traffic it is made for: state arrivals with ratePerSecond or concurrency, input and output",
        ".workload",
    ),
    Rule(
        "spec.routing",
        "!has(self.policy) || self.policy in (self.router == 'service' ? ['random'] : "
        "self.router == 'gateway-inference-extension' ? ['kv-aware'] : ['prefix-affinity', 'round-robin', 'random'])",
        "this router does not pick so: random for a service, kv-aware for gateway-inference-extension, and prefix-affinity, "
        "round-robin or random for sglang-router and vllm-router",
        ".policy",
    ),
    Rule(
        "spec.routing",
        "!has(self.endpointPicker) || self.router == 'gateway-inference-extension'",
        "only gateway-inference-extension asks an endpoint picker; remove it",
        ".endpointPicker",
    ),
    Rule(
        "spec.workload",
        "self.arrivals == 'closed' ? has(self.concurrency) : has(self.ratePerSecond)",
        "closed arrivals need concurrency, all others ratePerSecond",
        ".arrivals",
    ),
    Rule(
        "spec.workload",
        "!(has(self.ratePerSecond) && has(self.concurrency))",
        "ratePerSecond and concurrency do not go together: closed arrivals have concurrency clients and no rate, all "
        "others a rate; leave one of them out",
        ".ratePerSecond",
    ),
    Rule(
        "spec.workload",
        "self.sharedPrefixTokens <= self.input.tokens",
        "a shared prefix is part of the prompt: it cannot be longer than input.tokens",
        ".sharedPrefixTokens",
    ),
    *(rule for path in _CHOICES for rule in _of_a_choice(path)),
    Rule(
        "spec.explicit",
        f"self.choices.all(a, self.choices.exists_one(b, {_SAME_CHOICE}))",
        "two choices ask for the same place with the same engine: the later one could never be used; change or remove it",
        ".choices",
    ),
)

POOL: tuple[Rule, ...] = (
    Rule("", "!self.metadata.name.contains('.')", "metadata.name must not contain dots: it becomes a label value"),
    Rule(
        "",
        "size(self.metadata.name) <= 63",
        "metadata.name is too long; allowed: 63 characters, it becomes a label value",
    ),
    Rule(
        "spec.nodeSelector.matchExpressions[]",
        "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 "
        ": !has(self.values) || size(self.values) == 0",
        "In and NotIn need values; Exists and DoesNotExist take none",
        ".values",
    ),
)


def install(schema: Schema, rules: tuple[Rule, ...]) -> None:
    """Put each rule where its path points. Raises KeyError for a path the schema does not have."""
    for rule in rules:
        node = schema
        for step in filter(None, rule.path.split(".")):
            name = step.removesuffix("[]")
            node = node["properties"][name]
            if step.endswith("[]"):
                node = node["items"]
        node.setdefault("x-kubernetes-validations", []).append(rule.as_dict())
