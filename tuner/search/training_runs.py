"""Settings of a training command as questions to the training predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.training import TrainingCase
from controlplane.model.tuning import Value
from controlplane.model.tuning_training import TrainingRun
from tuner.search.spaces.training_words import ACCUMULATION, fields_of, replicas_of
from tuner.serving.resolve import find_accelerator, find_model
from tuner.training.checks import check
from tuner.training.columns import columns
from tuner.training.constants import shipped
from tuner.training.memory import stage_totals
from tuner.training.names import nic_id
from tuner.training.planner.startable import usual_attention, usual_precision
from tuner.training.question import parse_case
from tuner.training.room import total_bytes
from tuner.training.shapes import catalogue_shape

Floats = npt.NDArray[np.float64]

FIELD = "target.training"
# Where a question's fields stand in a job.
_PLACES = {
    "cluster.gpu": "accelerator", "cluster.gpus": "devices", "cluster.gpus_per_node": "devicesPerNode",
    "cluster.nic": "nic", "gpu": "accelerator", "model": "model", "precision": "precision",
    "global_batch": "globalBatch", "model.seq": "sequenceTokens",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRuns:
    """What all settings have in common, and cases made of it."""

    run: TrainingRun
    model: str
    accelerator: str
    _asked: dict[str, Any]
    _bases: dict[tuple[Value | None, Value | None], TrainingCase] = field(default_factory=dict)

    @property
    def capacity_bytes(self) -> float:
        """Memory of one accelerator."""
        return total_bytes(self._base({}).pools[0])

    def case(self, setting: Mapping[str, Value]) -> TrainingCase:
        """Raises TrimtabError for a setting that is no training run."""
        fields = fields_of(setting)
        base, dp = self._base(fields), replicas_of(self.run, fields)
        if dp is None:
            raise InvalidSpec(
                "degrees leave no whole number of replicas", field="setting", limit=f"{self.run.devices} devices"
            )
        tp, pp, vpp = (_whole(fields, name, 1) for name in ("tp", "pp", "vpp"))
        plan = replace(
            base.plan, tp=tp, pp=pp, dp=dp, cp=_whole(fields, "cp", 1), ep=_whole(fields, "ep", 1), vpp=vpp,
            schedule="interleaved" if vpp > 1 else "1f1b", overlap_pp=vpp > 1,
            micro_batch=self._micro_batch(fields, dp), sp=tp > 1 and bool(fields.get("sp", self.run.sequence_parallel)),
        )  # fmt: skip
        case = replace(base, plan=plan)
        check(case)
        return case

    def _base(self, fields: Mapping[str, Value]) -> TrainingCase:
        """With what a case's other fields follow from."""
        key = fields.get("zero"), fields.get("recompute")
        if key not in self._bases:
            said = {name: value for name, value in zip(("zero", "recompute"), key, strict=True) if value is not None}
            if isinstance(said.get("recompute"), int):
                said["recompute"] = bool(said["recompute"])
            self._bases[key] = parse_case(self._asked | said)
        return self._bases[key]

    def _micro_batch(self, fields: Mapping[str, Value], dp: int) -> int:
        """Sequences of one pass; with `accumulation` both make up the replica's batch."""
        given, times = _whole(fields, "micro_batch", 0), _whole(fields, ACCUMULATION, 0)
        if not times:
            return max(given, 1)
        each = given or self.run.global_batch // (dp * times)
        if each * dp * times != self.run.global_batch:
            raise InvalidSpec(
                "micro-batch, accumulation and replicas do not multiply to the global batch", field="setting",
                limit=str(self.run.global_batch),
            )  # fmt: skip
        return each


def runs_of(run: TrainingRun) -> TrainingRuns:
    """Raises UnknownName or InvalidSpec under `target.training`, and Unsupported for what the predictor cannot cost."""
    accelerator = find_accelerator(load(), run.accelerator, field=f"{FIELD}.accelerator")
    model = find_model(load(), run.model, field=f"{FIELD}.model")
    cluster: dict[str, Any] = {"gpu": accelerator.id, "gpus": run.devices}
    if run.devices_per_node is not None:
        cluster["gpus_per_node"] = run.devices_per_node
    if run.nic is not None:
        cluster |= {"nic": nic_id(run.nic, field=f"{FIELD}.nic"), "nics_per_node": run.nics_per_node or 1}
    try:
        asked = {
            "model": {**catalogue_shape(model), "seq": run.sequence_tokens}, "cluster": cluster,
            "global_batch": run.global_batch, "framework": run.framework,
            "precision": run.precision or usual_precision([accelerator.id]),
            "attention": usual_attention(run.framework, [accelerator.id]),
        }  # fmt: skip
        found = TrainingRuns(run, model.id, accelerator.id, asked)
        base = found._base({})
        fullest_bytes([base])
    except TrimtabError as error:
        error.field = f"{FIELD}.{_PLACES[error.field]}" if error.field in _PLACES else FIELD
        raise
    per_node = base.pools[0].gpus_per_node
    if run.devices > per_node and run.nic is None:
        raise InvalidSpec(
            f"{run.devices} devices are several nodes of {per_node}, and how they reach each other is not said",
            field=f"{FIELD}.nic", limit="a NIC class",
            hint="for example nic: ib-ndr-400 with nicsPerNode: 8, or say devicesPerNode",
        )  # fmt: skip
    return found


def fullest_bytes(cases: Sequence[TrainingCase]) -> Floats:
    """Bytes that the fullest stage of each takes on one accelerator. Raises Unsupported for unknown hardware."""
    out = np.zeros(len(cases))
    constants = shipped()
    for stages in sorted({case.plan.pp for case in cases}):
        which = [i for i, case in enumerate(cases) if case.plan.pp == stages]
        rows = columns([(cases[i], 0) for i in which], tuple(constants.accelerators))
        out[which] = stage_totals(rows, constants, stages).max(axis=1)
    return out


def _whole(fields: Mapping[str, Value], name: str, otherwise: int) -> int:
    value = fields.get(name, otherwise)
    if isinstance(value, bool | str) or value != int(value) or value < min(otherwise, 1):
        raise InvalidSpec("is no degree", field=f"setting.{name}", value=value, limit="whole numbers from 1 on")
    return int(value)
