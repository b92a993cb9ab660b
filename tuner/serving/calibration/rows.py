"""A measured row as a question: the same fields a user would write on a line of the batch interface."""

from __future__ import annotations

from typing import Any

from controlplane.model.errors import Unsupported
from tuner.serving.calibration.launch import launch_fields
from tuner.serving.calibration.silicon import Phase, Shape, SiliconRow
from tuner.serving.question import Question, parse_question


def row_question(row: SiliconRow) -> Question:
    """The question whose answer is compared with the row. Raises Unsupported where the row does not say enough."""
    return parse_question(row_fields(row))


def row_fields(row: SiliconRow) -> dict[str, Any]:
    """The row as one line of the batch interface, with what is known of how such runs are launched (`launch.py`).
    Raises Unsupported where the row does not say enough."""
    if row.concurrency is None:
        raise Unsupported("the row names no concurrency", field=f"line {row.line}, silicon_data_source")
    fields: dict[str, Any] = {
        "id": f"{row.line}:{row.id}"[:200],
        "model": row.model,
        "system": row.system,
        "backend": row.backend,
        "isl": row.isl,
        "osl": row.osl,
        "arrivals": {"closed": row.concurrency},
    }
    optional = {
        "backend_version": row.backend_version,
        "replicas": row.replicas if row.replicas > 1 else None,
        **launch_fields(row),
    }
    fields |= {name: value for name, value in optional.items() if value is not None}
    if row.shape is not None:
        return fields | degrees(row.shape)
    return fields | {"disagg": {"prefill": _role(row, row.prefill), "decode": _role(row, row.decode)}}


def degrees(shape: Shape) -> dict[str, int]:
    """Parallel degrees by their batch names. Dense models are filed with expert widths of 1: those are left out.

    Where experts are wider than tp x attention_dp, attention_dp was blank: an engine needs tp x attention_dp equal to
    moe_tp x moe_ep (and the checkpoints of those rows do not fit on tp accelerators).
    """
    experts = shape.moe_tensor_parallel * shape.moe_expert_parallel
    tp, dp = shape.tensor_parallel, shape.attention_data_parallel
    if dp == 1 and experts > tp and experts % tp == 0:
        dp = experts // tp
    named = {"tp": tp, "pp": shape.pipeline_parallel, "attention_dp": dp}
    if experts > 1:
        named |= {"moe_tp": shape.moe_tensor_parallel, "moe_ep": shape.moe_expert_parallel}
    return named


def _role(row: SiliconRow, role: Phase | None) -> dict[str, Any]:
    if role is None or role.shape is None or role.workers is None:
        raise Unsupported("the row names no workers of its roles", field=f"line {row.line}, prefill_num_workers")
    fields: dict[str, Any] = degrees(role.shape) | {"workers": role.workers}
    if role.batch_per_rank is not None:
        fields["max_batch"] = role.batch_per_rank
    return fields
