"""The space of a training run's parallelism: degrees, micro-batch, accumulation, ZeRO stage, recomputation."""

from __future__ import annotations

from controlplane.catalog import load
from controlplane.catalog.params import check_parallel
from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import ChoiceParameter, SearchSpace, SpaceRule

_MICRO_BATCH_MOST = 64


def training_space(*, devices: int, global_batch: int, model: str | None = None, zero: bool = True) -> SearchSpace:
    """Degrees are divisors of the devices that divide the model; their product is the devices, and micro-batch times
    accumulation times replicas is the global batch, so every draw is a whole training run.

    Raises InvalidSpec for numbers below 1, UnknownName for the model."""
    for name, value in (("devices", devices), ("globalBatch", global_batch)):
        if value < 1:
            raise InvalidSpec("must be at least 1", field=name, value=value, limit=">= 1")
    shape = load().model(model, field="model") if model else None
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    parts = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
    tensor = [n for n in divisors if shape is None or not check_parallel(shape, tensor_parallel=n)]
    stages = [n for n in divisors if shape is None or not check_parallel(shape, pipeline_parallel=n)]
    replicas = [n for n in divisors if global_batch % n == 0]
    experts = [] if shape is None or shape.moe is None else _experts(devices, shape.moe.experts)
    parameters = [
        ChoiceParameter(name="tensorParallel", values=list(tensor)),
        ChoiceParameter(name="pipelineParallel", values=list(stages)),
        ChoiceParameter(name="dataParallel", values=list(replicas)),
        ChoiceParameter(name="microBatch", values=[n for n in parts if n <= _MICRO_BATCH_MOST]),
        ChoiceParameter(name="accumulation", values=_spread(parts)),
        ChoiceParameter(name="recompute", values=[False, True]),
    ]
    rules = [
        SpaceRule(
            expression=f"tensorParallel * pipelineParallel * dataParallel == {devices}",
            message=f"the degrees multiply to the {devices} devices",
        ),
        SpaceRule(
            expression=f"microBatch * accumulation * dataParallel == {global_batch}",
            message=f"micro-batch, accumulation and replicas multiply to the global batch of {global_batch}",
        ),
    ]
    if zero:
        parameters.append(ChoiceParameter(name="zeroStage", values=[0, 1, 2, 3], ordered=True))
        rules += [
            SpaceRule(
                expression="zeroStage == 0 or dataParallel > 1",
                message="ZeRO shards over replicas: with one there is nothing to shard",
            ),
            # Rajbhandari and others 2020: from stage 2 on gradients are reduced for every micro-batch, which
            # pipeline schedules cannot; DeepSpeed refuses it.
            SpaceRule(
                expression="zeroStage < 2 or pipelineParallel == 1",
                message="ZeRO stages 2 and 3 do not go with pipeline stages: lower either",
            ),
        ]
    if len(experts) > 1:
        parameters.append(ChoiceParameter(name="expertParallel", values=list(experts)))
        rules.append(
            SpaceRule(
                expression="dataParallel * tensorParallel % expertParallel == 0",
                message="experts are spread over the ranks of a stage: expertParallel divides them",
            )
        )
    return SearchSpace(parameters=list(parameters), rules=rules)


def _experts(devices: int, experts: int) -> list[int]:
    return [n for n in range(1, devices + 1) if devices % n == 0 and experts % n == 0]


def _spread(values: list[int], most: int = 256) -> list[int | float | bool | str]:
    """All, or as many as a parameter may have."""
    return list(values[:most])
