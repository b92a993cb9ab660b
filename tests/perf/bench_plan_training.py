"""Planning of training: from the question to a proven plan, one core, everything that Megatron-LM launches.

`gpt3_1024_s`, `gpt3_4096_s`: GPT-3 175B on A100 with 1536 and 4096 sequences, all divisors for TP, PP, DP, CP,
micro-batch and virtual stages, both schedules, recomputation of all, some or no layers, ZeRO 0 to 3, offload, ring and
Ulysses, sequence parallelism.
`llama405b_16384_s`: Llama 3.1 405B on 16,384 H100, the same space, and how far the plan is from the bound. The
answer's explanation (interval, front, why not) is part of the time, reading the catalogue is not.

`mixed512_s`: OPT-350M on 256 A100-40 and 256 V100-16 in nodes of four behind 100 Gb/s Ethernet, 2048 sequences.
`mixed512_nic_s`: a 39B GPT, 1536 sequences, on 128 H100, 128 A100 and 256 V100, each half behind InfiniBand and half
behind RoCE (NDR and 400, HDR and 200, EDR and 100 Gb/s), 25 Gb/s Ethernet between the two. All orders of the pools, any
layers per stage. `..._gap_pct`: how much faster a plan with each pool's stages together could be.
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
    gap = _emit(emit, "mixed512", _two_generations(), 2.0)
    emit(Figure("plan-training", "mixed512_gap_pct", None if gap is None else 100 * gap, "%", None, "lower", 1))
    gap = _emit(emit, "mixed512_nic", _two_networks(), 2.0)
    emit(Figure("plan-training", "mixed512_nic_gap_pct", None if gap is None else 100 * gap, "%", None, "lower", 1))


def _two_generations() -> PlanQuestion:
    nodes = {"gpus": 256, "gpus_per_node": 4, "nic": "eth-100", "nics_per_node": 1}
    pools = [{"gpu": gpu, **nodes} for gpu in ("a100-sxm-40gb", "v100-sxm2-16gb")]
    return read_question("opt-350m", pools, global_batch=2048, seq=2048)


def _two_networks() -> PlanQuestion:
    kinds = (("h100-sxm-80gb", 64, "ib-ndr-400", "roce-400"), ("a100-sxm-80gb", 64, "ib-hdr-200", "roce-200"),
             ("v100-sxm2-32gb", 128, "ib-edr-100", "roce-100"))  # fmt: skip
    pools = [{"gpu": gpu, "gpus": gpus, "nic": nic, **NODE} for gpu, gpus, *nics in kinds for nic in nics]
    return read_question("layers=48,hidden=8192,heads=64,vocab=51200", pools, global_batch=1536, seq=2048)


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
