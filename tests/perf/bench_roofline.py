"""How far the roofline is from measured operator tables and from measured runs. Nothing here is fitted.

`*_prefill_median_pct`, `*_decode_median_pct`: whole iterations against the measured tables of one accelerator, median
over engines and points. `runs_tpot_median_pct`: output token times of the runs that fitting may use (FIT_CLEAN,
aggregated), as a steady state: one decode iteration at the row's concurrency plus the prompt tokens that arrive per
output token. A row without an answer counts as infinitely wrong. `table_ms`: one step table, CPU time.
"""

import math
import statistics
import time
from collections.abc import Iterator

import numpy as np

from controlplane.catalog import load
from controlplane.model.errors import TrimtabError
from tests.perf.report import Emit, Figure, from_samples
from tuner.serving.calibration.rows import row_fields
from tuner.serving.calibration.silicon import SiliconRow, load_silicon
from tuner.serving.calibration.split import split
from tuner.serving.case import EngineCase
from tuner.serving.resolve import engine_case
from tuner.serving.step.aiconfigurator import compile_query
from tuner.serving.step.lookup import decode_step_ms
from tuner.serving.step.query import Miss, Query
from tuner.serving.step.roofline import engine_of, roofline_table
from tuner.serving.step.roofline_attention import context_attention_ms, decode_attention_ms

# (repository, tensor parallel, attention data parallel, expert parallel)
_ENGINES = (
    ("meta-llama/Meta-Llama-3.1-8B", 1, 1, 1),
    ("meta-llama/Meta-Llama-3.1-8B", 2, 1, 1),
    ("meta-llama/Meta-Llama-3.1-70B", 4, 1, 1),
    ("meta-llama/Meta-Llama-3.1-70B", 8, 1, 1),
    ("nvidia/Llama-3.1-70B-Instruct-FP8", 4, 1, 1),
    ("Qwen/Qwen3-32B", 1, 1, 1),
    ("Qwen/Qwen3-32B", 2, 1, 1),
    ("Qwen/Qwen3-32B", 4, 1, 1),
    ("Qwen/Qwen3-32B", 8, 1, 1),
    ("Qwen/Qwen3-0.6B", 1, 1, 1),
    ("Qwen/Qwen3.5-27B", 2, 1, 1),
    ("Qwen/Qwen3-30B-A3B", 1, 1, 1),
    ("Qwen/Qwen3-30B-A3B", 2, 1, 1),
    ("Qwen/Qwen3-30B-A3B", 4, 1, 1),
    ("Qwen/Qwen3-30B-A3B", 1, 4, 4),
    ("Qwen/Qwen3-235B-A22B", 8, 1, 1),
    ("Qwen/Qwen3-235B-A22B", 8, 1, 8),
    ("openai/gpt-oss-120b", 1, 1, 1),
    ("openai/gpt-oss-120b", 4, 1, 1),
)
# The slowest PCI Express groups measured move 2 GB/s between boards: no class describes them.
_WIDEST = {"l40s": 2}
_PREFILLS = ((1, 512, 0), (1, 2048, 0), (1, 8192, 0), (1, 2048, 8192), (16, 512, 0))
_DECODES = ((1, 1024), (8, 1024), (32, 4096), (128, 4096), (8, 32768))


def run(emit: Emit) -> None:
    for accelerator in load().accelerators.values():
        system = accelerator.aiconfigurator_system
        if system is None:
            continue
        found = [pair for engine in _ENGINES for pair in _against_tables(system, *engine)]
        if not found:
            continue
        for phase in ("prefill", "decode"):
            errors = [100 * abs(ratio - 1) for kind, ratio in found if kind == phase]
            emit(from_samples("roofline", f"{system}_{phase}_median_pct", errors, "%", None, "lower"))
    rows = [row for row in split(load_silicon()).fit_clean if row.shape is not None and row.concurrency is not None]
    ratios = [_run_ratio(row) for row in rows]
    errors = [math.inf if ratio is None else 100 * abs(ratio - 1) for ratio in ratios]
    answered = [ratio for ratio in ratios if ratio is not None]
    emit(Figure("roofline", "runs_tpot_median_pct", statistics.median(errors), "%", None, "lower", len(errors)))
    bias = math.exp(statistics.fmean(math.log(ratio) for ratio in answered))
    emit(Figure("roofline", "runs_tpot_bias", bias, "x", None, "lower", len(answered)))
    emit(from_samples("roofline", "table_ms", list(_table_ms()), "ms", None, "lower"))


def _against_tables(system: str, model: str, tp: int, dp: int, ep: int) -> Iterator[tuple[str, float]]:
    """(phase, ours over measured) at each point; nothing where the tables or the accelerator lack the engine."""
    if max(tp, dp) > _WIDEST.get(system, 8):
        return
    fields = {"model": model, "system": system, "backend": "vllm", "tp": tp, "attention_dp": dp, "moe_ep": ep}
    try:
        engine = engine_of(engine_case(fields))
        case = engine.case
        parts = compile_query(
            Query(
                model=model,
                system=system,
                backend="vllm",
                tensor_parallel=tp,
                attention_data_parallel=dp,
                moe_tensor_parallel=case.moe_tensor_parallel,
                moe_expert_parallel=case.moe_expert_parallel,
            )
        )
    except (Miss, TrimtabError):
        return
    for batch, new, past in _PREFILLS:
        ours = engine.rest_ms(_one(batch * new), decode=False)
        ours = ours + context_attention_ms(engine, _one(batch), _one(new), _one(past))
        theirs = parts.context_ms(batch * new) + parts.context_attention_ms(batch, new, past)
        yield "prefill", float(ours[0]) / theirs
    for sequences, kv in _DECODES:
        ours = engine.rest_ms(_one(sequences), decode=True) + decode_attention_ms(engine, _one(sequences), _one(kv))
        yield "decode", float(ours[0]) / (parts.decode_ms(sequences) + parts.decode_attention_ms(sequences, kv))


def _run_ratio(row: SiliconRow) -> float | None:
    """Steady-state token time over the measured one."""
    assert row.shape is not None and row.concurrency is not None
    try:
        table = roofline_table(engine_case(row_fields(row)))
    except TrimtabError:
        return None
    batch = max(1.0, row.concurrency / row.shape.attention_data_parallel)
    prompt, output = 0.9 * row.isl, 0.9 * row.osl  # lengths are uniform in 0.8 to 1.0 of the longest
    step_ms = decode_step_ms(table, batch, prompt + output / 2)
    whole = np.interp(prompt, table.context_tokens, table.context_ms)
    whole += np.interp(prompt, table.context_attention_new, table.context_attention_ms[0, :, 0])
    share = batch / output if batch > 1 else 0.0
    return float(step_ms + whole * share) / row.tpot_ms


def _table_ms() -> Iterator[float]:
    case = EngineCase(model="llama-3.1-70b", accelerator="h200-sxm-141gb", engine="vllm", tensor_parallel=8)
    for _ in range(20):
        begun = time.process_time()
        roofline_table(case)
        yield 1e3 * (time.process_time() - begun)


def _one(value: float) -> np.ndarray:
    return np.array([float(value)])
