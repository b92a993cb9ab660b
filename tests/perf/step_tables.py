"""Step tables: the error interpolation adds to direct queries of the measured tables, and what a table costs to build.

Points are drawn log-uniformly over what iterations look like, on and off the grids: decodes of 1-512 sequences with
32-32,768 tokens each, chunks of 8-16,384 tokens after 0-65,536, batches of up to 32 prompts, and both together. Each
engine's accelerator is loaded before it is timed: loading its tables costs about a CPU second once per process.
"""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from controlplane.model.plans import Provenance
from tests.perf.report import Emit, Figure, from_samples
from tuner.serving.case import EngineCase
from tuner.serving.step import aiconfigurator, bounds, ladder
from tuner.serving.step.aiconfigurator import MeasuredParts
from tuner.serving.step.lookup import context_step_ms, decode_step_ms
from tuner.serving.step.query import Miss, Query
from tuner.serving.step.table import StepTable
from tuner.serving.step.tabulate import SLOW, USUAL, tabulate

_H100, _H200, _B200 = "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb"
ENGINES = (
    EngineCase(model="llama-3.1-70b", accelerator=_H200, engine="vllm", tensor_parallel=8),
    EngineCase(model="qwen3-32b", accelerator=_B200, engine="trtllm-serve", tensor_parallel=2, gemm_quant="fp8_static"),
    EngineCase(model="gpt-oss-120b", accelerator=_H100, engine="vllm", tensor_parallel=2, moe_tensor_parallel=2),
    EngineCase(model="qwen3-235b-a22b", accelerator=_H200, engine="vllm", tensor_parallel=8, moe_expert_parallel=8),
    EngineCase(model="deepseek-v3", accelerator=_H200, engine="sglang", tensor_parallel=8, moe_expert_parallel=8),
    EngineCase(
        model="deepseek-r1", accelerator=_B200, engine="trtllm-serve", attention_data_parallel=8, moe_expert_parallel=8,
        gemm_quant="nvfp4", moe_quant="nvfp4", draft_tokens=1,
    ),
    EngineCase(model="deepseek-v3.2", accelerator=_H200, engine="sglang", tensor_parallel=8, moe_expert_parallel=8),
    EngineCase(model="llama-3.1-8b", accelerator=_H100, engine="sglang"),
)  # fmt: skip
_POINTS = 400  # of each of four kinds, per engine


def figures(emit: Emit) -> None:
    """`table_error_median_pct`, `table_error_p99_pct`, `table_build_s` of the bench `replay`, over all engines."""
    errors: list[np.ndarray] = []
    builds: list[float] = []
    for case in ENGINES:
        query = _answered(case)  # loads the accelerator's tables
        start = time.process_time()
        parts = bounds.review(aiconfigurator.compile_query(query), aiconfigurator.compile_query).parts
        provenance = Provenance(tier="measured", source="benchmark")
        knots = SLOW if parts.slow else USUAL
        table = tabulate(parts, provenance, draft_tokens=case.draft_tokens, knots=knots)
        builds.append(time.process_time() - start)
        errors.append(np.fromiter(_errors_pct(parts, table), float))
    pooled = np.concatenate(errors)
    for name, percentile, target in (("table_error_median_pct", 50, 0.1), ("table_error_p99_pct", 99, 2.0)):
        each = [float(np.percentile(error, percentile)) for error in errors]
        value = float(np.percentile(pooled, percentile))
        emit(Figure("replay", name, value, "%", target, "lower", len(pooled), (min(each), max(each))))
    emit(from_samples("replay", "table_build_s", builds, "CPU s", 0.5, "lower"))


def _answered(case: EngineCase) -> Query:
    """The first rung that answers, so that only the table's own work is timed."""
    for _, query in ladder.rungs(case):
        try:
            return replace(query, version=aiconfigurator.compile_query(query).query.version)
        except Miss:
            continue
    raise AssertionError(f"{case.model} on {case.accelerator}: not measured")


def _errors_pct(parts: MeasuredParts, table: StepTable) -> Iterator[float]:
    rng = random.Random(1)

    def size(low: int, high: int) -> int:
        return round(math.exp(rng.uniform(math.log(low), math.log(max(high, low + 1)))))

    for _ in range(_POINTS):
        g, k = size(1, 512), size(32, 32_768)
        yield _off(decode_step_ms(table, g, k), parts.decode_ms(g) + parts.decode_attention_ms(g, k))
        c, past = size(8, 16_384), rng.choice((0, size(16, 65_536)))
        yield _off(context_step_ms(table, 1, c, past), parts.context_ms(c) + parts.context_attention_ms(1, c, past))
        b = size(1, 32)
        n, past = size(8, 16_384 // b), rng.choice((0, 0, size(16, 8_192)))
        attention = parts.context_attention_ms(b, n, past)
        yield _off(context_step_ms(table, b, n, past), parts.context_ms(b * n) + attention)
        tokens = b * n + g * (1 + parts.query.draft_tokens)
        mixed = parts.context_ms(tokens) + attention + parts.decode_attention_ms(g, k)
        yield _off(context_step_ms(table, b, n, past, g, k), mixed)


def _off(value: float, truth: float) -> float:
    return 100.0 * abs(value / truth - 1.0)
