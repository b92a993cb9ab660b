"""Engines: how each one is started, watched, drained, and which of our field names is which of its flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Literal

from controlplane.catalog.facts import Sourced
from controlplane.catalog.hardware import Accelerator

Scalar = bool | int | float | str

# Engines that download from Hugging Face themselves, and their flag for a revision.
# vLLM and SGLang: `--revision` of the server arguments; TensorRT-LLM: `--hf_revision` of trtllm-serve.
REVISION_FLAGS = {"vllm": "--revision", "sglang": "--revision", "trtllm-serve": "--hf_revision"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One engine setting: our field name (lowerCamelCase, as in `knobs:` of a ServingDeployment) and its flag.

    Rendering: `flag VALUE`; booleans give `flag` when true and `false_flag` when false, and nothing where that one is
    None (then it is the engine's default). `bare_above`: an integer that is written as a bare `flag` when greater.
    `config_path`: the setting lives in the engine's configuration file instead, at this dotted path (negated when
    `config_inverted`). `with_args` and `with_config` go along when the number is above 1.
    """

    field: str
    type: Literal["int", "float", "bool", "str"]
    unit: str
    source: str
    flag: str | None = None
    false_flag: str | None = None
    bare_above: int | None = None
    config_path: str | None = None
    config_inverted: bool = False
    with_args: tuple[str, ...] = ()
    with_config: Mapping[str, Scalar] = dataclass_field(default_factory=dict)
    default: Scalar | None = None  # None: the engine decides at start
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: int | None = None
    special: tuple[Scalar, ...] = ()  # values outside the range that have a meaning of their own
    allowed: tuple[str, ...] = ()  # empty: any text
    value_needs: Mapping[str, str] = dataclass_field(default_factory=dict)  # value -> instruction set of the CPU
    help: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A combination the engine refuses. It is looked at when `field` is set to something other than false (and above
    `above`, where given) and all of `when` hold; fields that are not set count with the engine's default.

    `needs_value`: `other` is `value`. `needs_above`: `other` is above `value`. `not_above`: `field` does not exceed
    `other`. `excludes`: `other` is not above `value`. `one_or_product`: `field` is 1 or the product of `others`.
    `divides_product`: `field` divides the product of `others`. `above_sum`: `other` is above the sum of `others`.
    """

    kind: Literal[
        "needs_value", "needs_above", "not_above", "excludes", "one_or_product", "divides_product", "above_sum"
    ]
    field: str
    message: str
    source: str
    other: str | None = None
    others: tuple[str, ...] = ()
    value: Scalar | None = None
    above: float | None = None
    when: Mapping[str, Scalar] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLimit:
    """While all of `when` hold, a prompt above `knob` tokens is refused, although it fits the context. Fields that are
    not set count with the engine's default."""

    knob: str
    message: str
    source: str
    when: Mapping[str, Scalar] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Command line around the knobs. `model_flag` None: the model is the first positional argument."""

    command: tuple[str, ...]
    model_flag: str | None
    served_name_flag: str | None
    host_flag: str
    port_flag: str
    api_key_flag: str | None = None
    api_key_env: str | None = None
    config_flag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiNode:
    """How one replica spans several pods. `flags`: each pod runs the command with its rank; `mpi`: the leader starts
    the ranks of all pods. `leader_address` is the form the leader's address takes: `host` (port in its own flag) or
    `host:port`."""

    style: Literal["flags", "mpi"]
    source: str
    node_count_flag: str | None = None
    node_rank_flag: str | None = None
    leader_flag: str | None = None
    leader_address: Literal["host", "host:port"] | None = None
    leader_port_flag: str | None = None
    leader_port: int | None = None
    worker_args: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Prometheus names of what every engine has in some form. None: this engine does not export it."""

    path: str
    source: str
    enable_args: tuple[str, ...] = ()
    enable_config: Mapping[str, Scalar] = dataclass_field(default_factory=dict)
    running: str | None = None
    waiting: str | None = None
    kv_usage: str | None = None
    kv_usage_unit: Literal["fraction", "percent"] | None = None
    ttft: str | None = None
    inter_token: str | None = None
    tpot: str | None = None
    e2e: str | None = None
    queue_time: str | None = None
    prompt_tokens: str | None = None
    generation_tokens: str | None = None
    preemptions: str | None = None
    requests: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What SIGTERM does. `itself` True: in-flight requests finish before the process ends (with `timeout_flag`: only
    when that flag gives them seconds). False: they are cut, so the pod must be held until they are done. None: no
    document says, so hold it."""

    itself: bool | None
    source: str
    timeout_flag: str | None = None
    refuses_new: bool | None = None
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the engine can do. None: no document says."""

    streaming: bool
    pd_split: bool
    multi_node: bool
    prefix_cache_events: bool | None = None
    repair_one_pod_in_place: bool | None = None
    changes_replicas_live: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine(Sourced):
    """One serving engine at one pinned version."""

    name: str
    version: str
    licence: str
    image: str | None  # None: our own image, whose name the installation gives
    image_note: str | None = None
    launch: Launch
    port: int
    health_path: str
    liveness_path: str | None
    models_path: str
    metrics: Metrics
    drain: Drain
    multi_node: MultiNode | None
    capabilities: Capabilities
    accelerator_kinds: tuple[str, ...]
    accelerator_vendors: tuple[str, ...]
    min_compute_capability: str | None = None
    quantizations: tuple[str, ...] = ()
    shape: tuple[Knob, ...] = ()
    knobs: tuple[Knob, ...] = ()
    rules: tuple[Rule, ...] = ()
    prompt_limit: PromptLimit | None = None
    tensor_flag_counts_data_parallel: bool = False  # its TP size is the whole group when attention is data parallel
    notes: str | None = None

    def knob(self, field: str) -> Knob | None:
        """The knob or shape field of this name."""
        for knob in (*self.shape, *self.knobs):
            if knob.field == field:
                return knob
        return None

    def longest_prompt(self, knobs: Mapping[str, object]) -> int | None:
        """Tokens, where these settings limit it below the context."""
        limit = self.prompt_limit
        if limit is None:
            return None
        defaults = {knob.field: knob.default for knob in self.knobs}
        told = {**defaults, **knobs}
        tokens = told.get(limit.knob)
        holds = all(told.get(name) == value for name, value in limit.when.items())
        return tokens if holds and isinstance(tokens, int) else None

    def why_not_on(self, accelerator: Accelerator) -> str | None:
        """Why this engine cannot run on an accelerator; None when it can."""
        if accelerator.kind not in self.accelerator_kinds:
            return f"{self.id} runs on {' and '.join(self.accelerator_kinds)}, {accelerator.id} is a {accelerator.kind}"
        if accelerator.vendor not in self.accelerator_vendors:
            return f"{self.id} is offered for {', '.join(self.accelerator_vendors)} devices, not {accelerator.vendor}"
        needs, has = self.min_compute_capability, accelerator.compute_capability
        if needs is not None and has is not None and _version(has) < _version(needs):
            return f"{self.id} {self.version} needs compute capability {needs}, {accelerator.id} has {has}"
        return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
