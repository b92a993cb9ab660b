"""Cases as numpy columns: one element per (case, pool), float64, so that formulas broadcast without branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.catalog import Accelerator, load
from controlplane.model.errors import Unsupported
from controlplane.model.training import PRECISIONS, ParallelPlan, TrainingCase, TrainingPool
from tuner.training.software import software

Array = NDArray[np.float64]
RECOMPUTE_CODE = {"none": 0.0, "selective": 1.0, "operators": 2.0, "full": 3.0}
SCHEDULE_CODE = {"gpipe": 0.0, "1f1b": 1.0, "interleaved": 2.0, "zb-h1": 3.0, "zb-1p": 3.0, "zb-h2": 4.0, "zb-2p": 4.0,
                 "zb-v": 5.0, "v-half": 6.0, "v-min": 7.0}  # fmt: skip
FOLDED_CODE = 5.0  # from here on: stage i holds chunk i and chunk 2p - 1 - i, so both ends lie on the first stage
VOCABULARY_CODE = {"none": 0.0, "vocab-2": 1.0, "vocab-1": 2.0, "interlaced": 3.0}
CONTEXT_CODE = {"ring": 0.0, "ulysses": 1.0}
OFFLOAD_CODE = {"none": 0.0, "cpu": 1.0, "nvme": 2.0}
_WEIGHT_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 2.0, "mxfp8": 2.0, "nvfp4": 2.0, "tf32": 4.0, "fp32": 4.0}


@dataclass(frozen=True, slots=True)
class Columns:
    """Model, plan and hardware of many configurations. Flags are 0 or 1; rates are bytes or operations per second."""

    layers: Array
    hidden: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    ffn: Array
    vocab: Array
    seq: Array
    first: Array  # layers on the first stage, on the fullest inner one, on the last
    most: Array
    last: Array
    gated: Array
    dropout: Array
    tied: Array
    experts: Array
    top_k: Array
    expert_ffn: Array
    shared_ffn: Array
    moe_layers: Array
    route_nodes: Array
    q_rank: Array
    kv_rank: Array
    rope_dim: Array
    value_dim: Array
    tp: Array
    pp: Array
    dp: Array
    cp: Array
    ep: Array
    etp: Array
    vpp: Array
    schedule: Array
    micro_batch: Array
    micro_batches: Array
    recompute: Array
    recomputed: Array  # layers of a stage that `recompute` is about, where it has so many
    zero: Array
    weight_group: Array
    gradient_group: Array
    secondary_group: Array
    optimizer_offload: Array
    offload_layers: Array
    sp: Array
    cp_mode: Array
    vocab_parallel: Array
    flash: Array
    gradient_bytes: Array
    state_bytes: Array
    overlap_dp: Array
    overlap_tp: Array
    overlap_pp: Array
    element_bytes: Array
    slots: Array
    elementwise: Array
    accumulate_bytes: Array
    handovers: Array
    beside_weights: Array
    optimizer_bytes: Array
    flat_copies: Array
    peak: Array
    wide_peak: Array  # of what narrow formats leave alone: attention, output layer
    bandwidth: Array
    memory: Array
    intra: Array
    node: Array
    host: Array  # link to host memory, not a number where unknown
    per_node: Array
    power: Array
    gpu_class: NDArray[np.intp]
    intra_class: NDArray[np.intp]
    inter_class: NDArray[np.intp]
    gpu_classes: tuple[str, ...]
    link_classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.layers)


_NUMBERS = tuple(item.name for item in fields(Columns) if item.name not in (
    "gpu_class", "intra_class", "inter_class", "gpu_classes", "link_classes"))  # fmt: skip


def columns(rows: Sequence[tuple[TrainingCase, int]], gpu_classes: Sequence[str]) -> Columns:
    """The columns of (case, index of the pool) pairs. `gpu_classes` are the accelerator classes with constants."""
    classes, links = (*gpu_classes,), _LINKS
    data = np.empty((len(_NUMBERS), len(rows)))
    kinds = np.zeros((3, len(rows)), dtype=np.intp)
    for index, (case, pool) in enumerate(rows):
        values, (gpu, intra, inter) = _row(case, case.pools[pool])
        data[:, index] = values
        name = gpu if gpu in classes else "other"
        kinds[:, index] = classes.index(name), links.index(intra), links.index(inter)
    named: dict[str, Any] = dict(zip(_NUMBERS, data, strict=True))
    return Columns(
        **named, gpu_class=kinds[0], intra_class=kinds[1], inter_class=kinds[2], gpu_classes=classes, link_classes=links
    )


_LINKS = ("nvlink", "xgmi", "pcie", "infiniband", "roce", "efa", "slingshot", "tcp", "unknown")


def _row(case: TrainingCase, pool: TrainingPool) -> tuple[tuple[float, ...], tuple[str, str, str]]:
    model, plan = case.model, case.plan
    gpu = load().accelerators[pool.gpu]
    traits = software(plan.framework)
    peak, wide_peak = peaks(gpu, plan.precision)
    if gpu.memory_bandwidth_bytes_per_s is None or gpu.plannable_memory_bytes is None:
        raise Unsupported(
            "the catalogue does not know how much memory it has, or how fast", field="gpu", value=pool.gpu
        )
    host = gpu.pcie_bandwidth_bytes_per_s_per_direction
    if host is None and (plan.optimizer_offload != "none" or plan.offload_layers):
        raise Unsupported(
            f"the catalogue does not know the link between {pool.gpu} and host memory", field="optimizer_offload"
            if plan.optimizer_offload != "none" else "offload_layers", value=plan.optimizer_offload, limit="no offload",
        )  # fmt: skip
    slower = clock_under_cap(gpu, pool.power_cap_w)
    peak, wide_peak = slower * peak, slower * wide_peak
    first, most, last = stage_layers(case)
    intra, intra_kind = _intra(pool)
    node, inter_kind = _node(pool, intra)
    values = (
        model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim, model.ffn, model.vocab, model.seq,
        first, most, last,
        model.gated,
        model.dropout, model.tied, model.experts, model.top_k, model.expert_ffn, model.shared_ffn, model.moe_layers,
        model.route_nodes, model.q_rank, model.kv_rank, model.rope_dim, model.value_dim or model.head_dim,
        plan.tp, plan.pp, plan.dp, plan.cp, plan.ep, plan.etp, plan.vpp, SCHEDULE_CODE[plan.schedule], plan.micro_batch,
        plan.micro_batches, RECOMPUTE_CODE[plan.recompute],
        plan.recompute_layers * plan.vpp or model.layers,
        plan.zero, plan.weight_group, plan.gradient_group, plan.secondary_group,
        OFFLOAD_CODE[plan.optimizer_offload], plan.offload_layers,
        plan.sp, CONTEXT_CODE[plan.cp_mode], VOCABULARY_CODE[plan.vocab_parallel],
        plan.attention == "flash", plan.gradient_bytes, _state_bytes(plan), plan.overlap_dp,
        plan.overlap_tp, plan.overlap_pp, _WEIGHT_BYTES[plan.precision],
        traits.forward_slots, traits.elementwise,
        traits.accumulate_bytes(_WEIGHT_BYTES[plan.precision], plan.gradient_bytes),
        traits.handovers, traits.beside_weights, traits.optimizer_bytes, traits.flat_copies,
        peak, wide_peak, gpu.memory_bandwidth_bytes_per_s, gpu.plannable_memory_bytes, intra, node,
        np.nan if host is None else host, pool.gpus_per_node, gpu.tdp_w or np.nan,
    )  # fmt: skip
    return values, (gpu.architecture.lower().replace(" ", "-"), intra_kind, inter_kind)


def clock_under_cap(gpu: Accelerator, cap_w: float | None) -> float:
    """Clock under a power cap over that without: dynamic power goes with its cube where voltage follows it."""
    return 1.0 if cap_w is None or gpu.tdp_w is None else float(min(cap_w / gpu.tdp_w, 1.0) ** (1.0 / 3.0))


_NARROW = {"fp8": "fp8", "mxfp8": "fp8", "nvfp4": "fp4"}
# Architectures whose matrix units take operands with a scale per block (vendors' architecture papers).
_BLOCK_SCALED = {"mxfp8": ("Blackwell", "Blackwell Ultra", "CDNA 4"), "nvfp4": ("Blackwell", "Blackwell Ultra")}


def peaks(gpu: Accelerator, precision: str) -> tuple[float, float]:
    """Operations per second of the layers' matrix products, and of what narrow formats leave in 16 bits. Raises
    Unsupported where the catalogue has no peak of this precision."""
    found = _native(gpu, precision)
    wide = _native(gpu, "bf16") if precision in _NARROW else found
    if found is None or wide is None:
        known = [name for name in PRECISIONS if _native(gpu, name) is not None]
        raise Unsupported(
            f"{gpu.id} has no {precision} peak in the catalogue", field="precision", value=precision,
            limit=", ".join(known) or "none is known", hint="choose a precision this accelerator computes in",
        )  # fmt: skip
    return found, wide


def _native(gpu: Accelerator, precision: str) -> float | None:
    if gpu.architecture not in _BLOCK_SCALED.get(precision, (gpu.architecture,)):
        return None
    if precision == "bf16":
        return gpu.bf16_flop_per_s or gpu.fp16_flop_per_s
    if precision == "tf32":
        return gpu.tf32_flop_per_s or gpu.fp32_flop_per_s
    return gpu.peak_flop_per_s(_NARROW.get(precision, precision))


def _state_bytes(plan: ParallelPlan) -> float:
    """Optimizer state per parameter: the master weight where weights are shorter, and Adam's two moments."""
    return (0.0 if _WEIGHT_BYTES[plan.precision] > 2.0 else 4.0) + (8.0 if plan.optimizer == "adam" else 0.0)


def stage_layers(case: TrainingCase) -> tuple[int, int, int]:
    """Layers on the first stage, on the fullest inner one and on the last; the ends go short first."""
    layers, pp = case.model.layers, case.plan.pp
    if case.plan.layers_per_stage:
        given = case.plan.layers_per_stage
        return given[0], max(given[1:-1] or given), given[-1]
    short, extra = divmod(layers, pp)
    if extra == 0:
        return short, short, short
    return short + (extra == pp - 1), short + 1, short


def _intra(pool: TrainingPool) -> tuple[float, str]:
    gpu = load().accelerators[pool.gpu]
    fabric = gpu.scale_up_bandwidth_bytes_per_s_per_direction
    kind, domain = "pcie", gpu.scale_up_domain_accelerators
    if domain is not None and domain < min(pool.gpus_per_node, pool.gpus):
        fabric = None  # bridges join a few of them: a ring over the node crosses the host
    if fabric is not None:
        kind = "xgmi" if gpu.vendor == "amd" else "nvlink"
    if pool.intra_gb_s is not None:
        return pool.intra_gb_s * 1e9, kind
    rate = fabric if fabric is not None else gpu.pcie_bandwidth_bytes_per_s_per_direction
    return (16e9 if rate is None else rate), kind


def _node(pool: TrainingPool, intra: float) -> tuple[float, str]:
    """Rate of all NICs of a node together; inside one node nothing crosses it."""
    kind, rate = "unknown", None
    if pool.nic is not None:
        nic = load().nics[pool.nic]
        kind = nic.protocol if nic.protocol in _LINKS else "unknown"
        line = nic.line_rate_bytes_per_s
        rate = None if line is None else line * (pool.nics_per_node or 1)
    if pool.inter_gb_s is not None:
        rate = pool.inter_gb_s * 1e9
    return (intra if rate is None else rate), kind
