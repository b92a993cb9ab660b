"""Whether a model and one request's KV cache fit the accelerators of a choice. A lower bound: no activations, no
buffers, so that what is refused here cannot start."""

import math
import re
from collections.abc import Mapping

from controlplane.catalog import Accelerator, Engine, ModelShape
from controlplane.catalog.engines import Scalar
from controlplane.catalog.params import (
    BYTES_PER_WEIGHT,
    kv_bytes_of_request,
    kv_bytes_per_token,
    weight_bytes,
    weight_bytes_per_rank,
)
from controlplane.model.errors import InvalidSpec
from controlplane.model.serving import AcceleratorChoice, ModelCache

# The engines' quantisation words whose weight format follows from the word alone. Words that only name a file layout
# (compressed-tensors, modelopt, quark) say nothing about bytes: unknown, so nothing is refused.
_FORMATS = {
    "awq": "int4",
    "awq_marlin": "int4",
    "gptq": "int4",
    "gptq_marlin": "int4",
    "fp8": "fp8",
    "modelopt_fp8": "fp8",
    "w8a8_fp8": "fp8",
    "w8a8_int8": "int8",
    "modelopt_fp4": "nvfp4",
    "mxfp4": "mxfp4",
    "mxfp8": "mxfp8",
}
# Engine settings that bound the share of device memory they may use, by field name.
_SHARE_KNOBS = ("gpuMemoryUtilization", "memFractionStatic")
_OPENVINO_BLOCK_TOKENS = 32  # OpenVINO GenAI 2026.4, paged KV cache
_OPENVINO_CACHE_GIB = 1  # the embedded engine's cache when no flag sets it
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti)?")
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_FP8_CACHES = ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla")


def weight_format(model: ModelShape, quantization: str | None) -> str | None:
    """Weight format in the catalogue's words; None when it does not follow from what is written."""
    if quantization is None:
        return model.checkpoint_dtype if model.checkpoint_dtype in BYTES_PER_WEIGHT else None
    if quantization in BYTES_PER_WEIGHT:
        return quantization
    return _FORMATS.get(quantization)


def does_not_fit(
    choice: AcceleratorChoice, model: ModelShape, accelerator: Accelerator, engine: Engine, *, field: str
) -> InvalidSpec | None:
    """The error when the fullest rank cannot hold its weights and the KV of one request; None when it can, or when
    a number is unknown."""
    memory_bytes = accelerator.plannable_memory_bytes
    format_ = weight_format(model, choice.quantization)
    if memory_bytes is None or format_ is None or choice.knobs.get("cpuOffloadGb"):
        return None
    weights_bytes = weight_bytes_per_rank(
        model,
        format_,
        tensor_parallel=choice.tensor_parallel,
        pipeline_parallel=choice.pipeline_parallel,
        data_parallel=choice.data_parallel,
        expert_parallel=choice.expert_parallel,
    )
    share = _memory_share(engine, choice.knobs)
    usable_bytes = memory_bytes * share
    used_as = f"{share:.0%} of {_gb(memory_bytes)}" if share < 1 else _gb(memory_bytes)
    if weights_bytes > usable_bytes:
        return InvalidSpec(
            f"{model.id} in {format_} needs at least {_gb(weights_bytes)} of weights on each of "
            f"{choice.tensor_parallel * choice.pipeline_parallel * choice.data_parallel} {accelerator.id}",
            field=field,
            value=round(weights_bytes),
            limit=f"{_gb(usable_bytes)} ({used_as})",
            hint=f"split it over more accelerators (tensorParallel x pipelineParallel of at least "
            f"{-(-weight_bytes(model, format_) // usable_bytes):.0f}) or serve a smaller weight format",
        )
    tokens = _longest_request_tokens(engine, model, choice.knobs)
    if tokens is None:
        return None
    kv_bytes = _kv_bytes_per_rank(model, choice, tokens)
    if weights_bytes + kv_bytes <= usable_bytes:
        return None
    fits_tokens = int((usable_bytes - weights_bytes) / kv_bytes * tokens)
    return InvalidSpec(
        f"weights of {_gb(weights_bytes)} leave {_gb(usable_bytes - weights_bytes)} on each {accelerator.id}, but the KV "
        f"cache of one request of {tokens} tokens needs {_gb(kv_bytes)}",
        field=f"{field}.knobs.maxModelLen",
        value=tokens,
        limit=f"about {fits_tokens} tokens",
        hint="set maxModelLen below that, use an 8-bit KV cache (kvCacheDtype), or split the model further",
    )


def download_does_not_fit(cache: ModelCache, model: ModelShape) -> InvalidSpec | None:
    """The error when a download would outgrow the emptyDir it lands in (the kubelet would evict the pod in the middle of
    it); None with a claim, or when the checkpoint's format is unknown."""
    format_ = weight_format(model, None)
    if cache.claim is not None or format_ is None:
        return None
    size = _SIZE.fullmatch(cache.size_limit)
    if size is None:
        return None  # the schema refuses it
    limit_bytes, needed_bytes = float(size[1]) * _UNITS[size[2] or ""], weight_bytes(model, format_)
    if needed_bytes <= limit_bytes:
        return None
    return InvalidSpec(
        f"{model.id} is {_gb(needed_bytes)} to download",
        field="spec.model.cache.sizeLimit",
        value=cache.size_limit,
        limit=f"at least {math.ceil(needed_bytes * 1.05 / 2**30)}Gi",
        hint="or name a claim (spec.model.cache.claim), which also spares the next pod the download",
    )


def host_memory_bytes(choice: AcceleratorChoice, model: ModelShape) -> int | None:
    """Memory a CPU engine's pod asks for: weights twice (the file's pages and the packed copy, of which the first can be
    dropped), the KV cache, and 384 MiB for the processes (367 MB resident were measured with a 31 MB model). None when
    the weight format is unknown."""
    format_ = weight_format(model, choice.quantization)
    if format_ is None:
        return None
    blocks, cache_gib = choice.knobs.get("numKvBlocks"), choice.knobs.get("cacheSizeGb")
    if isinstance(blocks, int) and blocks > 0:
        kv_bytes = blocks * _OPENVINO_BLOCK_TOKENS * kv_bytes_per_token(model)
    else:
        kv_bytes = (cache_gib if isinstance(cache_gib, int) and cache_gib > 0 else _OPENVINO_CACHE_GIB) * 2**30
    mib = 2**20
    return -(-int(2 * weight_bytes(model, format_) + kv_bytes + 384 * mib) // mib) * mib


def _memory_share(engine: Engine, knobs: Mapping[str, Scalar]) -> float:
    for name in _SHARE_KNOBS:
        knob = engine.knob(name)
        value = knobs.get(name, None if knob is None else knob.default)
        if value is not None and not isinstance(value, str):
            return float(value)
    return 1.0


def _longest_request_tokens(engine: Engine, model: ModelShape, knobs: Mapping[str, Scalar]) -> int | None:
    """Tokens the engine insists on holding at start: vLLM refuses when one request of its longest length does not fit
    (its own limit is the model's when none is set); others only when told."""
    told = knobs.get("maxModelLen")
    if told is not None and not isinstance(told, str):
        return int(told)
    return model.max_context_tokens if engine.id == "vllm" else None


def _kv_bytes_per_rank(model: ModelShape, choice: AcceleratorChoice, tokens: int) -> float:
    element_bytes = 1.0 if choice.knobs.get("kvCacheDtype") in _FP8_CACHES else 2.0
    all_heads = kv_bytes_per_token(model, element_bytes)
    share = kv_bytes_per_token(model, element_bytes, choice.tensor_parallel) / all_heads
    context_ranks = choice.knobs.get("decodeContextParallel", 1)
    split = choice.pipeline_parallel * (1 if isinstance(context_ranks, str) else max(1, int(context_ranks)))
    return kv_bytes_of_request(model, tokens, element_bytes) * share / split


def _gb(value: float) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"
