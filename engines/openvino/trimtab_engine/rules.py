"""Which scheduler flags go together. Pure: flags, model and host in, engine options out, or a refusal with a way out.

Each rule was measured on OpenVINO GenAI 2026.4.1 (docs/decisions/0010): the engine itself ignores, raises late or
crashes on these combinations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trimtab_engine.cpu import Host
from trimtab_engine.errors import UsageError
from trimtab_engine.modelinfo import ModelInfo
from trimtab_engine.options import KV_BLOCK_TOKENS, EngineOptions

DEFAULT_BATCHED_TOKENS: Final = 256  # the engine's own default: best first-token time in our measurements
DEFAULT_SEQS: Final = 256  # the engine's own default
DEFAULT_CACHE_GB: Final = 1
PRECISIONS: Final = ("f32", "bf16")
KV_PRECISIONS: Final = ("u8", "u4", "bf16", "f16", "f32")
_SIXTEEN_BIT: Final = ("F16", "BF16")


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """The flags as given; None means not given. `cache_*_tokens` belong to cache eviction."""

    context_tokens: int | None = None
    max_output_tokens: int | None = None
    num_threads: int | None = None
    inference_precision: str = "f32"
    kv_cache_precision: str | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    dynamic_split_fuse: bool = True
    cache_size_gb: int | None = None
    num_kv_blocks: int | None = None
    enable_prefix_caching: bool = False
    use_cache_eviction: bool = False
    cache_eviction_start_tokens: int = 32
    cache_eviction_recent_tokens: int = 128
    cache_eviction_max_tokens: int = 672


def resolve(flags: EngineFlags, model: ModelInfo, host: Host) -> EngineOptions:
    """Fill in defaults. Raises UsageError for a combination that cannot work."""
    context = _context(flags, model)
    threads = _positive("--num-threads", flags.num_threads, host.usable_cpus)
    batched = _positive(
        "--max-num-batched-tokens",
        flags.max_num_batched_tokens,
        DEFAULT_BATCHED_TOKENS if flags.dynamic_split_fuse else context,
    )
    _check_precision(flags, model, host, threads)
    _check_cache(flags, host)
    _check_eviction(flags)
    return EngineOptions(
        model=str(model.path),
        model_format=model.format,
        context_tokens=context,
        max_prompt_tokens=context - 1 if flags.dynamic_split_fuse else min(context - 1, batched),
        max_output_tokens=min(context, _positive("--max-output-tokens", flags.max_output_tokens, context)),
        num_threads=threads,
        inference_precision=flags.inference_precision,
        kv_cache_precision=flags.kv_cache_precision,
        max_num_batched_tokens=batched,
        max_num_seqs=_max_num_seqs(flags, batched),
        dynamic_split_fuse=flags.dynamic_split_fuse,
        cache_size_gb=0 if flags.num_kv_blocks else (flags.cache_size_gb or DEFAULT_CACHE_GB),
        num_kv_blocks=flags.num_kv_blocks or 0,
        enable_prefix_caching=flags.enable_prefix_caching,
        use_cache_eviction=flags.use_cache_eviction,
        cache_eviction_start_tokens=flags.cache_eviction_start_tokens,
        cache_eviction_recent_tokens=flags.cache_eviction_recent_tokens,
        cache_eviction_max_tokens=flags.cache_eviction_max_tokens,
    )


def _positive(flag: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if value < 1:
        raise UsageError(f"{flag} {value}: must be at least 1")
    return value


def _context(flags: EngineFlags, model: ModelInfo) -> int:
    context = _positive("--max-model-len", flags.context_tokens, model.context_tokens)
    if context > model.context_tokens:
        raise UsageError(
            f"--max-model-len {context}: the model was made for {model.context_tokens} tokens; "
            "give that much or less, or leave the flag out"
        )
    if context < 2:
        raise UsageError(f"--max-model-len {context}: must be at least 2 (a prompt token and an answer)")
    return context


def _max_num_seqs(flags: EngineFlags, batched: int) -> int | None:
    seqs = flags.max_num_seqs
    if flags.dynamic_split_fuse:
        if seqs is not None:
            raise UsageError(
                f"--max-num-seqs {seqs} has no effect with --dynamic-split-fuse (the engine reads it only when prompts "
                "and generation are scheduled apart); leave --max-num-seqs out, or add --no-dynamic-split-fuse"
            )
        return None
    if seqs is None:
        return min(DEFAULT_SEQS, batched)
    _positive("--max-num-seqs", seqs, 1)
    if seqs > batched:
        raise UsageError(
            f"--max-num-seqs {seqs} is over --max-num-batched-tokens {batched}: every sequence needs a token per step; "
            f"lower --max-num-seqs to {batched} or raise --max-num-batched-tokens to {seqs}"
        )
    return seqs


def _check_precision(flags: EngineFlags, model: ModelInfo, host: Host, threads: int) -> None:
    precision = flags.inference_precision
    if precision == "f16":
        raise UsageError(
            "--inference-precision f16: slower than f32 on CPUs and crashed 2 of 15 measured runs; use f32 or bf16"
        )
    if precision not in PRECISIONS:
        raise UsageError(f"--inference-precision {precision}: must be one of {', '.join(PRECISIONS)}")
    kv = flags.kv_cache_precision
    if kv is not None and kv not in KV_PRECISIONS:
        raise UsageError(f"--kv-cache-precision {kv}: must be one of {', '.join(KV_PRECISIONS)}")
    if precision != "bf16":
        if kv == "bf16":
            raise UsageError(
                "--kv-cache-precision bf16 needs --inference-precision bf16 (the engine refuses to load otherwise); "
                "use u8, u4, f16 or f32, or leave it out"
            )
        return
    if not host.amx_bf16:
        raise UsageError(
            "--inference-precision bf16: this CPU has no amx_bf16 (without it bf16 is slow, and wrong on some CPUs); "
            "use --inference-precision f32"
        )
    if model.weights in _SIXTEEN_BIT and min(threads, host.usable_cpus) < 2:
        raise UsageError(
            f"--inference-precision bf16 with --num-threads {threads} on {host.usable_cpus} usable CPU(s) and "
            f"{model.weights} weights ends in SIGFPE while loading; use --inference-precision f32, a Q8_0 model, "
            "or at least two threads on two CPUs"
        )


def _check_cache(flags: EngineFlags, host: Host) -> None:
    blocks, size = flags.num_kv_blocks, flags.cache_size_gb
    if blocks is not None and size is not None:
        raise UsageError(f"--num-kv-blocks {blocks} and --cache-size-gb {size} both set the KV cache's size; give one")
    _positive("--num-kv-blocks", blocks, 1)
    _positive("--cache-size-gb", size, 1)
    limit = host.memory_limit_bytes
    if size is not None and limit is not None and size << 30 >= limit:
        raise UsageError(
            f"--cache-size-gb {size} does not fit the memory limit of {limit} bytes; "
            "give less, use --num-kv-blocks, or raise the limit"
        )


def _check_eviction(flags: EngineFlags) -> None:
    if not flags.use_cache_eviction:
        return
    if flags.enable_prefix_caching:
        raise UsageError(
            "--use-cache-eviction and --enable-prefix-caching exclude each other (evicted blocks cannot be shared); "
            "leave one out"
        )
    start, recent, most = (
        flags.cache_eviction_start_tokens,
        flags.cache_eviction_recent_tokens,
        flags.cache_eviction_max_tokens,
    )
    for flag, value in (
        ("--cache-eviction-start-tokens", start),
        ("--cache-eviction-recent-tokens", recent),
        ("--cache-eviction-max-tokens", most),
    ):
        if value < KV_BLOCK_TOKENS or value % KV_BLOCK_TOKENS:
            raise UsageError(f"{flag} {value}: must be a multiple of the KV block, {KV_BLOCK_TOKENS} tokens")
    if most <= start + recent:
        raise UsageError(
            f"--cache-eviction-max-tokens {most} must be over --cache-eviction-start-tokens {start} plus "
            f"--cache-eviction-recent-tokens {recent}: what lies between them is what can be evicted"
        )
