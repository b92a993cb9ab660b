"""Names of a training run's parameters: which field of a question to the predictor each is, and what follows from them.

A command's own parameters count by the same names (`tensorParallel`, `tensor_parallel`, `tp`); others are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.model.tuning import Setting, Value
from controlplane.model.tuning_job import CommandTarget
from controlplane.model.tuning_training import TrainingRun

ACCUMULATION = "accumulation"
_FIELDS = {
    "tensorparallel": "tp", "tp": "tp",
    "pipelineparallel": "pp", "pp": "pp",
    "dataparallel": "dp", "dp": "dp",
    "contextparallel": "cp", "cp": "cp",
    "expertparallel": "ep", "ep": "ep",
    "virtualstages": "vpp", "vpp": "vpp",
    "microbatch": "micro_batch", "microbatchsize": "micro_batch",
    "accumulation": ACCUMULATION, "gradientaccumulation": ACCUMULATION,
    "zerostage": "zero", "zero": "zero",
    "recompute": "recompute",
    "sequenceparallel": "sp", "sp": "sp",
}  # fmt: skip


def field_of(name: str) -> str | None:
    """None: the predictor does not know such a parameter."""
    return _FIELDS.get(name.lower().replace("_", ""))


def fields_of(setting: Mapping[str, Value]) -> dict[str, Value]:
    """What a setting says to the predictor."""
    return {field: value for name, value in setting.items() if (field := field_of(name)) is not None}


def words_of(target: CommandTarget, setting: Setting) -> Setting:
    """What a command's places are filled with: the setting, and for a training run what all its trials have in common and
    what follows from the setting (`dataParallel`, `accumulation`)."""
    run = target.training
    if run is None:
        return setting
    words: Setting = {
        "devices": run.devices,
        "globalBatch": run.global_batch,
        "sequenceTokens": run.sequence_tokens,
    }
    replicas = replicas_of(run, fields_of(setting))
    if replicas is not None:
        words["dataParallel"] = replicas
        micro = fields_of(setting).get("micro_batch", 1)
        if isinstance(micro, int) and run.global_batch % (replicas * micro) == 0:
            words[ACCUMULATION] = run.global_batch // (replicas * micro)
    return {**words, **setting}


def replicas_of(run: TrainingRun, fields: Mapping[str, Value]) -> int | None:
    """Data parallel ranks: as stated, or what the other degrees leave of the devices. None: they leave no whole number."""
    stated = fields.get("dp")
    if isinstance(stated, int):
        return stated
    ranks = 1
    for name in ("tp", "pp", "cp"):
        value = fields.get(name, 1)
        ranks *= value if isinstance(value, int) else 1
    return run.devices // ranks if ranks > 0 and run.devices % ranks == 0 else None
