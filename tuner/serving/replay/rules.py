"""Admission rules of each engine, as data: what may share an iteration, who is let in, what must fit into KV memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from controlplane.model.choice import EngineName, KnobValue
from controlplane.model.errors import InvalidSpec, UnknownName

Admission = Literal["prompt", "prompt-and-output", "prompt-and-output-share"]
PrefixVisible = Literal["admission", "prefill"]

MOST_TOKENS = 1 << 30  # a budget that nothing reaches
MOST_BLOCK_TOKENS = 1 << 16
_BALANCE_ITERATIONS = 50  # AttentionDpConfig.timeout_iters of tensorrt_llm/llmapi/llm_args.py


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRules:
    """`token_budget`: tokens of one iteration, decodes first. `mixed`: prompts and decodes share iterations; otherwise
    prompts go first, alone, within `prefill_budget`. `chunked`: prompts may be split over iterations.

    `admission`: free KV memory must hold the prompt; or prompt and whole output of every running request (nobody is
    ever preempted); or prompt and output of the new one beside a share of what the running ones will still make. The
    share starts at `output_share`, shrinks by `output_share_decay` with each decode iteration down to
    `output_share_floor`, and starts again after a preemption. `watermark` is the share of KV blocks kept free when a
    request is let in beside others. Preempted requests are computed again from their first token.

    When a request joins the queue of an engine that is busy (one without pipeline stages): at the end of the iteration
    under way; with `planned_ahead` one iteration later, because the next one was put together before it came. The
    engine looks for requests after `receive_every` decode iterations, and after each with prompts. Requests wait for
    company, at most `wait_iterations`, while the prompts that have come and the decodes make less than `wait_tokens`.
    Where attention ranks run in lock-step they wait, at most `balance_iterations`, while every rank decodes and fewer
    prompts have come than there are ranks: one rank's prompt holds up the others' decodes.
    """

    token_budget: int = 8192
    prefill_budget: int = 8192
    chunked: bool = True
    mixed: bool = True
    max_sequences: int = 1024
    block_tokens: int = 16
    watermark: float = 0.0
    admission: Admission = "prompt"
    output_share: float = 0.7
    output_share_floor: float = 0.098
    output_share_decay: float = 0.001
    long_prompt_tokens: int | None = None  # largest chunk of one prompt
    max_partial_prefills: int | None = None
    prefix_caching: bool = True
    prefix_visible: PrefixVisible = "admission"
    priorities: bool = False  # False: first come, first served whatever the request's class
    host_overlapped: bool = False  # host time hides behind the iteration under way
    planned_ahead: bool = False
    receive_every: int = 1
    wait_iterations: int = 0
    wait_tokens: int = 0
    balance_iterations: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("token_budget", 1), ("prefill_budget", 1), ("max_sequences", 1), ("block_tokens", 1), ("receive_every", 1),
            ("wait_iterations", 0), ("wait_tokens", 0), ("balance_iterations", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value < least:
                raise InvalidSpec("too small", field=name, value=value, limit=f"{least} or more")
        if self.block_tokens > MOST_BLOCK_TOKENS:
            raise InvalidSpec(
                "too large", field="block_tokens", value=self.block_tokens, limit=f"1 to {MOST_BLOCK_TOKENS}"
            )
        if not 0 <= self.watermark < 1:
            raise InvalidSpec("not a share", field="watermark", value=self.watermark, limit="0 or more, below 1")


# Where each default is from:
# vllm: vllm/engine/arg_utils.py (8192 tokens and 1024 sequences on devices of 70 GiB and more, else 2048 and 256),
#   vllm/v1/core/sched/scheduler.py (running requests first, then waiting ones in order, one budget; blocks become
#   findable when they are allocated), vllm/config/cache.py (block_size 16, prefix caching on).
# sglang: python/sglang/srt/server_args.py (chunked_prefill_size 8192 on large devices, max_prefill_tokens 16384,
#   page_size 1), managers/scheduler.py (a prefill batch goes before decodes, nothing is mixed by default),
#   managers/schedule_policy.py (room for the outputs of running requests), environ.py (SGLANG_INIT_NEW_TOKEN_RATIO 0.7,
#   MIN_NEW_TOKEN_RATIO_FACTOR 0.14, NEW_TOKEN_RATIO_DECAY_STEPS 600).
# trtllm-serve: tensorrt_llm/llmapi/llm_args.py (max_num_tokens 8192, max_batch_size 2048, GUARANTEED_NO_EVICT, block
#   reuse on, 32 tokens per block, chunked prefill off).
# All three plan the next iteration while one runs: vLLM's async scheduling, SGLang's overlap schedule, TensorRT-LLM's
#   overlap scheduler are on as they start.
# openvino: openvino.genai src/cpp/src/continuous_batching/scheduler.hpp and this repository's measurements (0010):
#   split-fuse runs decodes first and ignores the sequence limit; without it prompts go first and alone.
_DEFAULTS: dict[EngineName, EngineRules] = {
    "vllm": EngineRules(planned_ahead=True),
    "sglang": EngineRules(
        token_budget=8192,
        prefill_budget=8192,
        mixed=False,
        max_sequences=4096,
        block_tokens=1,
        admission="prompt-and-output-share",
        output_share=0.7,
        output_share_floor=0.7 * 0.14,
        output_share_decay=(0.7 - 0.7 * 0.14) / 600,
        prefix_visible="prefill",
        planned_ahead=True,
    ),
    "trtllm-serve": EngineRules(
        chunked=False,
        planned_ahead=True,
        max_sequences=2048,
        block_tokens=32,
        admission="prompt-and-output",
        prefix_visible="prefill",
    ),
    "openvino": EngineRules(
        token_budget=256,
        prefill_budget=256,
        max_sequences=MOST_TOKENS,
        block_tokens=32,
        prefix_caching=False,
        prefix_visible="prefill",
    ),
}


def default_rules(engine: EngineName, *, small_device: bool = False) -> EngineRules:
    """Rules of an engine as it starts without flags. `small_device`: less than 70 GiB, or an A100 (vLLM's distinction;
    SGLang halves and quarters its chunks in finer steps, 2048 stands for them)."""
    if engine not in _DEFAULTS:
        raise UnknownName(
            "no admission rules for this engine", field="engine", value=engine, limit=", ".join(_DEFAULTS)
        )
    rules = _DEFAULTS[engine]
    if small_device and engine == "vllm":
        return replace(rules, token_budget=2048, prefill_budget=2048, max_sequences=256)
    if small_device and engine == "sglang":
        return replace(rules, token_budget=2048, prefill_budget=2048)
    return rules


def rules_with_knobs(
    engine: EngineName, knobs: Mapping[str, KnobValue], *, small_device: bool = False, context_tokens: int | None = None
) -> EngineRules:
    """An engine's rules under the settings of a deployment (catalogue field names). Knobs that do not concern admission
    are passed over: whether they exist is the catalogue's to check. `context_tokens`: the longest sequence, which is
    OpenVINO's budget when prompts are not split."""
    rules = default_rules(engine, small_device=small_device)
    changes: dict[str, object] = {}
    budget = _whole(knobs, "maxNumBatchedTokens")
    if budget is not None:
        changes.update(token_budget=budget, prefill_budget=budget)
    sequences = _whole(knobs, "maxNumSeqs")
    if sequences is not None:
        changes.update(max_sequences=sequences)
    block = _whole(knobs, "blockSize")
    if block is not None:
        changes.update(block_tokens=block)
    if "enablePrefixCaching" in knobs:
        changes.update(prefix_caching=bool(knobs["enablePrefixCaching"]))
    if engine in ("vllm", "trtllm-serve") and "enableChunkedPrefill" in knobs:
        changes.update(chunked=bool(knobs["enableChunkedPrefill"]))
    if engine == "vllm":
        threshold, partial = _whole(knobs, "longPrefillTokenThreshold"), _whole(knobs, "maxNumPartialPrefills")
        if threshold:
            changes.update(long_prompt_tokens=threshold)
        if partial is not None and partial > 1:
            changes.update(max_partial_prefills=partial)
    if engine == "vllm" and "asyncScheduling" in knobs:
        changes.update(planned_ahead=bool(knobs["asyncScheduling"]))
    if engine in ("vllm", "sglang") and "schedulingPolicy" in knobs:
        changes.update(priorities=knobs["schedulingPolicy"] == "priority")
    if engine == "trtllm-serve":
        changes.update(_trtllm(knobs, budget or rules.token_budget))
    if engine == "sglang":
        changes.update(_sglang(knobs, rules))
    if engine == "openvino" and knobs.get("dynamicSplitFuse") is False:
        whole = budget or context_tokens or MOST_TOKENS
        changes.update(mixed=False, chunked=False, token_budget=whole, prefill_budget=whole)
        changes.setdefault("max_sequences", 256)
    elif engine == "openvino":
        changes.pop("max_sequences", None)  # split-fuse does not look at it
    return replace(rules, **changes)  # type: ignore[arg-type]


def _trtllm(knobs: Mapping[str, KnobValue], budget: int) -> dict[str, object]:
    changes: dict[str, object] = {}
    ratio = knobs.get("batchWaitMaxTokensRatio")
    waits = _whole(knobs, "batchWaitTimeoutIters")
    if waits and isinstance(ratio, int | float) and not isinstance(ratio, bool) and ratio > 0:
        changes.update(wait_iterations=waits, wait_tokens=int(ratio * budget))
    if knobs.get("attentionDpBalance") is True:
        most = _whole(knobs, "attentionDpTimeoutIters")
        changes.update(balance_iterations=_BALANCE_ITERATIONS if most is None else most)
    if knobs.get("overlapScheduler") is False:
        changes.update(planned_ahead=False)
    return changes


def _sglang(knobs: Mapping[str, KnobValue], rules: EngineRules) -> dict[str, object]:
    changes: dict[str, object] = {}
    interval = _whole(knobs, "schedulerRecvInterval")
    if interval is not None:
        changes.update(receive_every=interval)
    chunk = _whole(knobs, "chunkedPrefillSize")
    most = _whole(knobs, "maxPrefillTokens") or 16384
    if chunk is not None and chunk < 0:
        changes.update(chunked=False, token_budget=most, prefill_budget=most)
    elif chunk is not None:
        changes.update(token_budget=min(chunk, most), prefill_budget=min(chunk, most))
    if knobs.get("enableMixedChunk") is True:
        changes.update(mixed=True)
    conservative = knobs.get("scheduleConservativeness")
    if isinstance(conservative, int | float) and not isinstance(conservative, bool):
        start = min(0.7 * float(conservative), 1.0)
        floor = min(start * 0.14, 1.0)
        changes.update(output_share=start, output_share_floor=floor, output_share_decay=(start - floor) / 600)
    return changes


def _whole(knobs: Mapping[str, KnobValue], name: str) -> int | None:
    value = knobs.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec("not a whole number", field=f"knobs.{name}", value=value, limit="a whole number")
    return value
