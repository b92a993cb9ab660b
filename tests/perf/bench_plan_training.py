"""Planning of training: from the question to a proven plan, one core, everything that Megatron-LM launches.

`gpt3_1024_s`, `gpt3_4096_s`: GPT-3 175B on A100 with 1536 and 4096 sequences, all divisors for TP, PP, DP, CP,
micro-batch and virtual stages, both schedules, recomputation, optimizer sharding and sequence parallelism.
`llama405b_16384_s`: Llama 3.1 405B on 16,384 H100, the same space, and how far the plan is from the bound. The
answer's explanation (interval, front, why not) is part of the time, reading the catalogue is not.
"""

import time

from tests.perf.report import Emit, Figure, from_samples
from tuner.training.planner import Planner, PlanQuestion, read_question

RUNS = 5
NODE = {"gpus_per_node": 8, "nics_per_node": 8}


def run(emit: Emit) -> None:
    a100 = {"gpu": "a100-sxm-80gb", "nic": "ib-hdr-200", **NODE}
    for gpus, batch in ((1024, 1536), (4096, 4096)):
        asked = read_question("gpt-3-175b", {**a100, "gpus": gpus}, global_batch=batch, seq=2048)
        _emit(emit, f"gpt3_{gpus}", asked, 5.0)
    h100 = {"gpu": "h100-sxm-80gb", "nic": "roce-400", "gpus": 16384, **NODE}
    asked = read_question("llama-3.1-405b", h100, global_batch=2048, seq=8192)
    gap = _emit(emit, "llama405b_16384", asked, 30.0)
    emit(Figure("plan-training", "llama405b_16384_gap_pct", None if gap is None else 100 * gap, "%", 5.0, "lower", 1))


def _emit(emit: Emit, name: str, asked: PlanQuestion, target_s: float) -> float | None:
    samples, gaps = [], set()
    for _ in range(RUNS):
        start = time.perf_counter()
        answer = Planner().plan(asked)
        samples.append(time.perf_counter() - start)
        gaps.add(answer.proof.gap)
    assert len(gaps) == 1, "the same question has several answers"
    emit(from_samples("plan-training", f"{name}_s", samples, "s", target_s, "lower"))
    return gaps.pop()
