"""Memory of Megatron-LM's functional tests (golden values; cited, BSD-3-style licence): tiny models, 8 accelerators.

What PyTorch allocated at most on the last rank, which writes the log: no driver context, no allocator slack. Times are not used: most runs
force deterministic kernels and measure launches.
"""

from __future__ import annotations

import re
from pathlib import Path

from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.training import Attention, ParallelPlan, TrainingCase, TrainingModel, TrainingPool
from tuner.training.loaders.rows import Row, Table, number, records, whole

_GPUS = {"a100": "a100-sxm-80gb", "h100": "h100-sxm-80gb", "gb200": "gb200-186gb"}
_RANKS = 8
_VOCABULARY = 50257  # of the tokenizer the tests name
_PADDING = 128
_SKIPPED_NAMES = ("inference", "grpo", "release", "bert/", "t5/", "multimodal", "hybrid/", "frozen_resume")
_SKIPPED_FLAGS = (
    "multi-latent-attention", "use-megatron-fsdp", "use-torch-fsdp2", "mtp-num-layers", "optimizer-cpu-offload",
    "pipeline-model-parallel-layout", "kv-channels",
)  # fmt: skip


def golden(path: Path) -> Table:
    """Peak allocated bytes of GPT and mixture-of-experts tests; other architectures and features are dropped."""
    table = Table("golden_memory", assumed="8 ranks (4 for one-node GB200 tests), vocabulary 50257 where not given")
    for line, record in records(path):
        reason = _unfit(record)
        if reason is not None:
            table.drop(line, reason)
            continue
        try:
            case = _case(record)
            peak = number(record, "mem_max_alloc_bytes")
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        kind = "experts" if case.model.experts else "dense"
        label = f"{kind} {case.plan.attention}" + (" recompute" if case.plan.recompute != "none" else "")
        label += f" cp{case.plan.cp}" if case.plan.cp > 1 else ""
        table.rows.append(Row(line=line, case=case, size=f"h{case.model.hidden}", pattern=label, memory_bytes=peak, last_stage=True,
                              note=record["test"]))  # fmt: skip
    return table


def _unfit(record: dict[str, str]) -> str | None:
    name = record["test"]
    for word in _SKIPPED_NAMES:
        if word in name:
            return f"{word.strip('/')}: not a pre-training step of a decoder on one node"
    for flag in _SKIPPED_FLAGS:
        if record[flag]:
            return f"--{flag} is not modelled"
    if not record["mem_max_alloc_bytes"]:
        return "no memory logged"
    return None


def _case(record: dict[str, str]) -> TrainingCase:
    def size(name: str, default: int) -> int:
        return whole(record, name) if record[name] else default

    hidden, heads, layers = (whole(record, name) for name in ("hidden-size", "num-attention-heads", "num-layers"))
    tp, pp, cp = (size(f"{name}-parallel-size", 1) for name in ("tensor-model", "pipeline-model", "context"))
    ranks = 4 if "gb200" in record["platform"] and "1node" in record["test"] else _RANKS
    dp = ranks // (tp * pp * cp)
    if dp < 1:
        raise InvalidSpec("runs on more ranks than assumed", field="ranks", value=tp * pp * cp, limit=str(ranks))
    experts = size("num-experts", 0)
    gated = record["swiglu"] == "True"
    ffn = size("ffn-hidden-size", 4 * hidden)
    chunk = size("num-layers-per-virtual-pipeline-stage", 0)
    vpp = layers // pp // chunk if chunk else size("num-virtual-stages-per-pipeline-rank", 1)
    unit = _PADDING * tp
    model = TrainingModel(
        layers=layers, hidden=hidden, heads=heads, kv_heads=size("num-query-groups", heads), ffn=ffn,
        vocab=-(-size("vocab-size", _VOCABULARY) // unit) * unit, seq=size("seq-length", 1024),
        head_dim=hidden // heads, gated=gated, tied=record["untie-embeddings-and-output-weights"] != "True",
        experts=experts, top_k=size("moe-router-topk", 2) if experts else 0,
        expert_ffn=size("moe-ffn-hidden-size", ffn) if experts else 0,
        moe_layers=_moe_layers(record["moe-layer-freq"], layers) if experts else 0,
    )  # fmt: skip
    granularity = record["recompute-granularity"]
    plan = ParallelPlan(
        tp=tp, pp=pp, dp=dp, cp=cp, ep=size("expert-model-parallel-size", 1),
        etp=size("expert-tensor-parallel-size", tp) if experts else 1, vpp=vpp,
        schedule="interleaved" if vpp > 1 else "1f1b", micro_batch=whole(record, "micro-batch-size"),
        global_batch=whole(record, "global-batch-size"),
        recompute="full" if granularity == "full" else "selective" if granularity else "none",
        zero=1 if record["use-distributed-optimizer"] == "True" else 0, sp=tp > 1 and record["sequence-parallel"] == "True",
        attention=_attention(record),
    )  # fmt: skip
    # Some platforms name only the container: the accelerator does not change what tensors take.
    gpu = next((value for key, value in _GPUS.items() if key in record["platform"]), _GPUS["a100"])
    return TrainingCase(model=model, pools=(TrainingPool(gpu=gpu, gpus=ranks, gpus_per_node=8),), plan=plan)


def _attention(record: dict[str, str]) -> Attention:
    """Unfused where asked for, or where the local implementation computes attention itself."""
    backend = record["attention-backend"]
    if backend in ("unfused", "local"):
        return "unfused"
    if backend in ("flash", "fused"):
        return "flash"
    return "unfused" if record["transformer-impl"] == "local" else "flash"


def _moe_layers(text: str, layers: int) -> int:
    """Layers with experts: all, one in n, or a pattern like ([0]*3+[1]*11)."""
    if not text:
        return layers
    if text.isdigit():
        return layers // int(text)
    parts = re.findall(r"\[(\d)\]\*(\d+)", text)
    if not parts:
        raise InvalidSpec("is no pattern of layers", field="moe-layer-freq", value=text[:40])
    return sum(int(count) for kind, count in parts if kind == "1")
