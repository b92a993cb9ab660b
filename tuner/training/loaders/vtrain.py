"""Iteration times of Megatron-DeepSpeed on A100 (vTrain, arXiv 2312.12391, MIT): full recomputation, 1F1B."""

from __future__ import annotations

from pathlib import Path

from controlplane.model.errors import TrimtabError
from controlplane.model.training import ParallelPlan, TrainingCase, TrainingModel, TrainingPool
from tuner.training.checks import check
from tuner.training.loaders.rows import Row, Table, number, records, whole

_VOCABULARY = 50257
_PADDING = 128  # Megatron rounds the vocabulary up to a multiple of 128 x tp
_ASSUMED = "unfused attention, fp16 gradients, no overlap, 4 x 200 Gb/s InfiniBand per node of 8, vocabulary 50257"


def multi_node(path: Path) -> Table:
    """64 to 512 accelerators."""
    return _table(path, "vtrain_multi", "Parameters (billion)")


def single_node(path: Path) -> Table:
    """2 to 8 accelerators of one node. The rows are derived: affine in micro-batches to float rounding."""
    table = _table(path, "vtrain_single", None)
    table.assumed += "; rows derived from few measurements: judge by held-out pattern"
    return table


def _table(path: Path, name: str, size: str | None) -> Table:
    table = Table(name, assumed=_ASSUMED)
    for line, record in records(path):
        try:
            case = _case(record)
            check(case)
            seconds = number(record, "iteration time (ms)") / 1e3
            label = f"h{case.model.hidden}" if size is None else f"{number(record, size):g}B"
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        plan = case.plan
        pattern = f"t{plan.tp}d{plan.dp}p{plan.pp}"
        table.rows.append(Row(line=line, case=case, size=label, pattern=pattern, iteration_s=seconds))
    return table


def _case(record: dict[str, str]) -> TrainingCase:
    hidden, heads, tp = (whole(record, key) for key in ("hidden size", "attention heads", "tensor parallelism"))
    unit = _PADDING * tp
    gpus = whole(record, "# GPUs")
    return TrainingCase(
        model=TrainingModel(
            layers=whole(record, "# layers"),
            hidden=hidden,
            heads=heads,
            kv_heads=heads,
            ffn=4 * hidden,
            vocab=-(-_VOCABULARY // unit) * unit,
            seq=whole(record, "sequence length"),
            head_dim=hidden // max(heads, 1),
        ),
        pools=(
            TrainingPool(gpu="a100-sxm-80gb", gpus=gpus, gpus_per_node=8, nic="ib-hdr-200", nics_per_node=4),
        ),
        plan=ParallelPlan(
            tp=tp,
            dp=whole(record, "data parallelism"),
            pp=whole(record, "pipeline parallelism"),
            micro_batch=whole(record, "micro batch"),
            global_batch=whole(record, "global batch"),
            recompute="full",
            precision="fp16",
            framework="megatron-deepspeed",
            attention="unfused",
            gradient_bytes=2,
        ),
    )  # fmt: skip
