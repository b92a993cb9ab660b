"""How the recorded runs were launched, where their tables do not say: formats of the checkpoints, scheduler settings of
the public recipes, the load generator's own settings.

Two families of runs. InferenceX (exports named by a date): one recipe per model, accelerator and engine in
SemiAnalysisAI/InferenceX `benchmarks/`; uniform lengths down to 0.8 of the longest, 10 requests per client. Vendor gap
analyses (exports named by a path): fixed lengths, engines as aiconfigurator's own benchmark harness starts them.

Labels say `fp8` for every 8-bit checkpoint. Publishers of block-scaled ones (DeepSeek, Qwen3-FP8, MiniMax-M2.5) ship
the blocks; the Llama runs used NVIDIA's per-tensor checkpoints, whose configuration also asks for an FP8 KV cache.
"""

from __future__ import annotations

from typing import Any

from tuner.serving.calibration.silicon import SiliconRow

LENGTH_RATIO = 0.8  # RANDOM_RANGE_RATIO of InferenceX
REQUESTS_PER_CLIENT = 10  # num_prompts of InferenceX's benchmark_lib.sh
GAP_REQUESTS_PER_CLIENT = 10  # --request-count of aiconfigurator's eval/benchmarks/genai_perf_runner.py

_BLOCK_SCALED = ("DeepSeek", "Qwen3-235B", "MiniMax", "GLM-5", "Qwen3.5")
_BLACKWELL = ("b200", "b300", "gb200", "gb300")


def is_inferencex(row: SiliconRow) -> bool:
    """Whether the export is one of InferenceX's own, named by its date."""
    return "/" not in row.export.removeprefix("db-dump/")


def launch_fields(row: SiliconRow) -> dict[str, Any]:
    """Fields of the batch interface that the row leaves out or spells loosely. None: the checkpoint's own format."""
    fields: dict[str, Any] = formats(row)
    if is_inferencex(row) and row.concurrency is not None:
        fields |= {
            "isl_range": LENGTH_RATIO,
            "osl_range": LENGTH_RATIO,
            "requests": REQUESTS_PER_CLIENT * row.concurrency,
        }
    elif row.concurrency is not None:
        fields["requests"] = GAP_REQUESTS_PER_CLIENT * row.concurrency
    knobs = _knobs(row)
    return fields | ({"knobs": knobs} if knobs else {})


def formats(row: SiliconRow) -> dict[str, str | None]:
    """Weight and KV formats as deployed."""
    gemm, moe, kv = row.gemm_quant, row.moe_quant, None
    inferencex, blackwell = is_inferencex(row), row.system.startswith(_BLACKWELL)
    if "fp8" in (gemm, moe) and any(name in row.model for name in _BLOCK_SCALED):
        gemm = moe = None
    elif gemm == "fp8" and "Llama" in row.model:
        gemm = "fp8_static"
    if inferencex and "Llama" in row.model:
        kv = "fp8"  # kv-cache-dtype: fp8 in every Llama recipe
    if "gpt-oss" in row.model and blackwell and inferencex:
        kv = "fp8"  # gptoss_fp4_b200*.sh
        if row.backend == "trtllm":
            moe = "w4a8_mxfp4_mxfp8"  # moe_config.backend TRTLLM multiplies in MXFP8
    return {"gemm_quant": gemm, "moe_quant": moe, "kv_quant": kv}


def _knobs(row: SiliconRow) -> dict[str, int | float | bool]:
    if not is_inferencex(row):
        return _gap_analysis_knobs(row)
    if row.concurrency is None or row.shape is None:
        return {}
    if row.backend == "vllm":
        if row.system.startswith(_BLACKWELL) and ("MiniMax" in row.model or "Kimi" in row.model):
            return {"max_num_batched_tokens": 2 * row.isl}  # minimaxm2.5_fp8_b200.sh, kimik2.5_fp4_b200.sh
        return {"max_num_batched_tokens": 8192}
    if row.backend == "sglang":
        return _sglang_knobs(row, row.concurrency)
    # attention_dp_config: enable_balance in both, timeout_iters 60 in dsr1_*_trt.sh, the default in gptoss_fp4_*_trt.sh
    timeout = {} if "gpt-oss" in row.model else {"attention_dp_timeout_iters": 60}
    apart = {"attention_dp_balance": True, **timeout} if row.shape.attention_data_parallel > 1 else {}
    if "gpt-oss" in row.model:
        return {"max_num_batched_tokens": 20_000, **apart}  # gptoss_fp4_b200_trt.sh, gptoss_fp4_h200_trt.sh
    if "Llama" in row.model:  # 70b_*_trt.sh: the model length; short prompts wait for company
        waits = row.isl == row.osl == 1024 and row.shape.tensor_parallel < 8
        wait = {"batch_wait_timeout_iters": 20, "batch_wait_max_tokens_ratio": 0.9} if waits else {}
        return {"max_num_batched_tokens": row.isl + row.osl + 200, **wait}
    rounded = (row.concurrency + row.isl + 127) // 64 * 64
    return {"max_num_batched_tokens": max(rounded, 8192), **apart}  # dsr1_*_trt.sh


def _sglang_knobs(row: SiliconRow, clients: int) -> dict[str, int | float | bool]:
    """dsr1_*.sh, qwen3.5_*.sh, glm5_*.sh of InferenceX. The Blackwell recipes look for new requests only every 10 or 30
    decode iterations (`SCHEDULER_RECV_INTERVAL`); those of GLM-5 and of Hopper at each."""
    blackwell = row.system.startswith(_BLACKWELL)
    chunk = 16_384 if "fp4" in (row.precision or "") or ("Qwen3.5" in row.model and not blackwell) else 32_768
    if "GLM-5" in row.model and not blackwell:
        return {}
    settings: dict[str, int | float | bool] = {"chunked_prefill_size": chunk, "max_prefill_tokens": chunk}
    if blackwell and "GLM-5" not in row.model and row.shape is not None and row.shape.attention_data_parallel == 1:
        settings["scheduler_recv_interval"] = 30 if clients >= 16 else 10
    return settings


def _gap_analysis_knobs(row: SiliconRow) -> dict[str, int | float | bool]:
    """As aiconfigurator launches what it measures (`generator/rule_plugin/benchmark/*.rule`): places for the batch, and
    room in an iteration for it, one prompt and 1,500 tokens more. The TensorRT-LLM runs are older than those rules: one
    prompt an iteration fits them. vLLM of their time (0.12) did not plan ahead. SGLang as it starts."""
    batch = row.batch_per_rank or row.concurrency or 1
    if row.backend == "vllm":
        return {"max_num_batched_tokens": batch + row.isl + 1500, "async_scheduling": False}
    if row.backend == "trtllm":
        # In the Llama runs somebody waits for a whole answer at any time: one place fewer than clients.
        places = {"max_num_seqs": batch - 1} if "Llama-3.1-8B" in row.model and batch > 1 else {}
        return {"max_num_batched_tokens": batch + row.isl + 64, **places}
    return {}
