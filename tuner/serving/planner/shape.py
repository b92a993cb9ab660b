"""One replica as the planner handles it: engine, accelerator, degrees, precision, in one pool."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from controlplane.catalog import Accelerator, Engine, ModelShape
from controlplane.model.choice import AcceleratorChoice, KnobValue
from controlplane.model.plans import PlannablePool
from tuner.serving.case import EngineCase
from tuner.serving.planner.precision import Precision

# Field names of the two scheduler settings that plans choose, by engine (controlplane/catalog/data/engines.json).
_SEQUENCES = {"vllm": "maxNumSeqs", "sglang": "maxNumSeqs", "trtllm-serve": "maxNumSeqs"}
_TOKENS = {
    "vllm": "maxNumBatchedTokens",
    "sglang": "chunkedPrefillSize",
    "trtllm-serve": "maxNumBatchedTokens",
    "openvino": "maxNumBatchedTokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """Scheduler settings that are searched, of one attention-data-parallel rank. `max_num_seqs` is not given to engines
    without the setting. `chunked`: said where the engine does not split prompts by itself; None: its own way."""

    max_num_seqs: int
    max_num_batched_tokens: int
    chunked: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One replica's engine in one pool. `units`: accelerators it takes from the pool (cores of a CPU pool)."""

    pool: PlannablePool
    accelerator: Accelerator
    engine: Engine
    model: ModelShape
    precision: Precision
    case: EngineCase
    units: int
    key: tuple[str, ...] = field(init=False, compare=False)
    """Total order that does not depend on hashing."""

    def __post_init__(self) -> None:
        numbers = (self.units, *_degrees(self.case))
        words = (self.pool.name, self.case.engine, self.precision.label, *(f"{n:07d}" for n in numbers))
        object.__setattr__(self, "key", words)  # asked for a hundred thousand times by a search over many pools

    @property
    def label(self) -> str:
        """`vllm TP4 on h100 (h100-sxm-80gb)`, with the degrees that are not 1."""
        case = self.case
        degrees = [
            f"{word}{value}"
            for word, value in (
                ("TP", case.tensor_parallel),
                ("PP", case.pipeline_parallel),
                ("DP", case.attention_data_parallel),
                ("EP", case.moe_expert_parallel),
            )
            if value > 1
        ] or ["TP1"]
        if self.accelerator.kind == "cpu":
            degrees = [f"{self.units} core{'s' if self.units > 1 else ''}"]
        precision = f" {self.precision.label}" if self.precision.label else ""
        return f"{case.engine} {' '.join(degrees)}{precision} on {self.pool.name} ({case.accelerator})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A shape with its scheduler settings: what is replayed."""

    shape: Shape
    scheduler: Scheduler
    max_model_len: int | None = None  # set where the model's whole context does not fit

    @property
    def key(self) -> tuple[object, ...]:
        """Total order that does not depend on hashing."""
        return (*self.shape.key, self.scheduler.max_num_batched_tokens, self.scheduler.max_num_seqs)

    def choice(self) -> AcceleratorChoice:
        """The accelerator choice that deploys this unit."""
        shape, case = self.shape, self.shape.case
        cpu = shape.accelerator.kind == "cpu"
        return AcceleratorChoice(
            accelerator=case.accelerator,
            pools=[shape.pool.name],
            engine=case.engine,
            tensor_parallel=case.tensor_parallel,
            pipeline_parallel=case.pipeline_parallel,
            data_parallel=case.attention_data_parallel,
            expert_parallel=case.moe_expert_parallel,
            quantization=shape.precision.choice_quantization,
            knobs=self._knobs(),
            cpu_millicores=shape.units * 1000 if cpu else None,
            accelerators_per_pod=None if cpu else self._per_pod(),
        )

    def with_scheduler(self, scheduler: Scheduler) -> Unit:
        """The same shape with other settings."""
        return replace(self, scheduler=scheduler)

    def _per_pod(self) -> int | None:
        """Accelerators of one pod where the pool's nodes are not the catalogue's usual ones."""
        shape = self.shape
        node = shape.pool.per_node
        if node is None or node == shape.accelerator.accelerators_per_node or shape.units <= 1:
            return None
        return next(part for part in range(min(shape.units, node), 0, -1) if shape.units % part == 0)

    def _knobs(self) -> dict[str, KnobValue]:
        engine = self.shape.case.engine
        knobs: dict[str, KnobValue] = {}
        if engine in _SEQUENCES:
            # SGLang shares one limit out among its data parallel ranks (scheduler.py: max_running_requests // dp_size)
            ranks = self.shape.case.attention_data_parallel if engine == "sglang" else 1
            knobs[_SEQUENCES[engine]] = self.scheduler.max_num_seqs * ranks
        knobs[_TOKENS[engine]] = self.scheduler.max_num_batched_tokens
        if self.scheduler.chunked is not None:
            knobs["enableChunkedPrefill"] = self.scheduler.chunked
        if self.max_model_len is not None:
            knobs["maxModelLen"] = self.max_model_len
        if self.shape.precision.choice_kv is not None:
            knobs["kvCacheDtype"] = self.shape.precision.choice_kv
        return knobs


def _degrees(case: EngineCase) -> tuple[int, ...]:
    return (
        case.tensor_parallel,
        case.pipeline_parallel,
        case.attention_data_parallel,
        case.moe_expert_parallel,
    )
