"""Megatron Bridge's performance pages: dense and expert models on Hopper and Blackwell in 16, 8 and 4 bits.

Containers of one year differ in speed for the same configuration, recipes use kernels and graphs that the page does not
name, and expert models overlap their exchange as they can: a table that tests, never one that is fitted.
"""

from __future__ import annotations

import re
from pathlib import Path

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.training import Precision
from tuner.training.loaders.rows import Row, Table, number, records, whole
from tuner.training.question import parse_case
from tuner.training.shapes import catalogue_shape

# Names of the page's sections and tables; longer ones first.
_MODELS = {
    "LLAMA3.1_405B": "llama-3.1-405b", "LLAMA3_70B": "llama-3.1-70b", "LLAMA3_8B": "llama-3.1-8b",
    "LLAMA31_405B": "llama-3.1-405b", "Qwen3_30B": "qwen3-30b-a3b", "Qwen3_235B": "qwen3-235b-a22b",
    "GPT OSS 120B": "gpt-oss-120b", "DeepSeekV3": "deepseek-v3",
}  # fmt: skip
_ROUTE_NODES = {"deepseek-v3": 4}  # of its report, arXiv 2412.19437
# Accelerator, its scale-up domain's share that a job's node is, NIC: of the systems' data sheets.
_SYSTEMS = {
    "DGX-H100": ("h100-sxm-80gb", 8, "ib-ndr-400"),
    "DGX-B200": ("b200-sxm-180gb", 8, "ib-ndr-400"),
    "DGX-B300": ("b300-sxm-288gb", 8, "ib-xdr-800"),
    "DGX-GB200": ("gb200-186gb", 64, "ib-ndr-400"),
    "DGX-GB300": ("gb300-278gb", 64, "ib-xdr-800"),
}
_PRECISIONS: tuple[tuple[str, Precision], ...] = (
    ("NVFP4", "nvfp4"), ("MX", "mxfp8"), ("FP8", "fp8"), ("BF16", "bf16"),
)  # fmt: skip


def bridge(path: Path) -> Table:
    """Pre-training rows of known models and one precision; tokens per second and accelerator."""
    table = Table("bridge", assumed="distributed optimizer, gradients overlapped, sequence parallelism with tp, flash "
                  "attention, no recomputation; full attention where the model has windows; 64 of 72 accelerators of "
                  "an NVL72 are one node")  # fmt: skip
    for line, record in records(path):
        try:
            table.rows.append(_row(line, record))
        except TrimtabError as error:
            table.drop(line, str(error))
    return table


def _row(line: int, record: dict[str, str]) -> Row:
    section = record["section"]
    if "Pre-Training" not in section:
        raise InvalidSpec("is no pre-training", field="section", value=section[-60:])
    name = record["Model"] or section.rpartition("Model: ")[2]
    model = next((known for prefix, known in _MODELS.items() if name.upper().startswith(prefix.upper())), None)
    if model is None:
        raise InvalidSpec("has no shape in the catalogue", field="Model", value=name[:60])
    system = record["System"] or section.rpartition("System: ")[2]
    if system not in _SYSTEMS:
        raise InvalidSpec("is no known system", field="System", value=system[:60])
    precision = next((word for part, word in _PRECISIONS if part in record["Precision"].upper()), None)
    if precision is None or "(" in record["Tokens / sec / GPU"]:
        raise InvalidSpec("is no single precision", field="Precision", value=record["Precision"][:60])
    if record["FSDP"] not in ("", "0"):
        raise InvalidSpec("does not say what is sharded", field="FSDP", value=record["FSDP"][:60])
    gpu, per_node, nic = _SYSTEMS[system]
    gpus, batch, seq = (whole(record, column) for column in ("#-GPUs", "GBS", "Sequence Length"))
    tp, pp, cp, ep = (_degree(record, column) for column in ("TP", "PP", "CP", "EP"))
    shape = load().models[model]
    node = min(per_node, gpus)
    case = parse_case({
        "model": {**catalogue_shape(shape), "seq": seq, "route_nodes": _ROUTE_NODES.get(model, 0)},
        "cluster": {"gpu": gpu, "gpus": gpus, "gpus_per_node": node, "nic": nic, "nics_per_node": node},
        "tp": tp, "pp": pp, "cp": cp, "ep": ep, "dp": gpus // (tp * pp * cp), "micro_batch": _degree(record, "MBS"),
        "vpp": min(_degree(record, "VP"), -(-shape.layers // pp)) if pp > 1 else 1, "global_batch": batch,
        "sp": tp > 1, "zero": 1, "gradient_bytes": 4, "precision": precision, "overlap_dp": True,
    })  # fmt: skip
    seconds = batch * seq / gpus / number(record, "Tokens / sec / GPU")
    return Row(line=line, case=case, size=model, pattern=f"{system} {precision}", iteration_s=seconds)


def _degree(record: dict[str, str], column: str) -> int:
    return whole(record, column) if re.fullmatch(r"\d+", record[column]) else 1
