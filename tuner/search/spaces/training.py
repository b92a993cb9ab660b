"""The space of a training run's parallelism: degrees, micro-batch, ZeRO stage, recomputation.

What follows from these is no parameter of its own: the replicas are what degrees leave of the devices, accumulation is
what replicas and micro-batch leave of the global batch (`training_words.words_of` gives both to a command).
"""

from __future__ import annotations

from controlplane.catalog import load
from controlplane.catalog.frameworks import TrainingFramework, training_frameworks
from controlplane.catalog.models import ModelShape
from controlplane.catalog.params import check_parallel
from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import ChoiceParameter, Parameter, SearchSpace, SpaceRule, Value
from controlplane.model.tuning_training import TrainingRun
from tuner.serving.resolve import find_model

_MICRO_BATCH_MOST = 64
# Rajbhandari and others 2020: from stage 2 on gradients are reduced for every micro-batch, which pipeline schedules
# cannot; where a framework's row says nothing, this holds.
_ZERO, _ZERO_WITHOUT_PIPELINE = (0, 1), (2, 3)
# PyTorch's own data-parallel loop: no framework that splits a model.
_WHOLE_MODEL = "eager"


def space_of_run(run: TrainingRun) -> SearchSpace:
    """Raises UnknownName for the model."""
    model = find_model(load(), run.model, field="target.training.model").id
    return training_space(devices=run.devices, global_batch=run.global_batch, model=model, framework=run.framework)


def training_space(
    *, devices: int, global_batch: int, model: str | None = None, framework: str = "megatron-lm"
) -> SearchSpace:
    """Degrees divide the devices and the model, and replicas and micro-batch divide the global batch, so every draw is a
    whole training run. What has one possible value is fixed.

    Raises InvalidSpec for numbers below 1, UnknownName for the model."""
    for name, value in (("devices", devices), ("globalBatch", global_batch)):
        if value < 1:
            raise InvalidSpec("must be at least 1", field=name, value=value, limit=">= 1")
    shape = load().model(model, field="model") if model else None
    starts = training_frameworks().get(framework)
    parameters: list[Parameter] = []
    fixed: dict[str, Value] = {}

    def add(name: str, values: list[int], *, ordered: bool = False) -> None:
        if len(values) > 1:
            parameters.append(ChoiceParameter(name=name, values=list(values), ordered=ordered))
        else:
            fixed[name] = values[0]

    splits = framework != _WHOLE_MODEL
    divisors = [n for n in range(1, devices + 1) if devices % n == 0] if splits else [1]
    add("tensorParallel", [n for n in divisors if shape is None or _splits_layer(shape, n)])
    add("pipelineParallel", [n for n in divisors if shape is None or shape.layers % n == 0])
    add("microBatch", [n for n in range(1, min(global_batch, _MICRO_BATCH_MOST) + 1) if global_batch % n == 0])
    parameters.append(ChoiceParameter(name="recompute", values=[False, True]))
    rules = _whole_runs(devices, global_batch)
    if starts is not None and not starts.tp_beside_pipeline:
        message = f"{starts.version} starts tensor parallelism and a pipeline only apart: lower either to 1"
        rules.append(SpaceRule(expression="tensorParallel == 1 or pipelineParallel == 1", message=message))
    if splits and devices > 1:
        levels, rule = _zero(starts)
        add("zeroStage", levels, ordered=True)
        message = "ZeRO shards over replicas: with one there is nothing to shard"
        rules.append(
            SpaceRule(expression=f"zeroStage == 0 or tensorParallel * pipelineParallel < {devices}", message=message)
        )
        rules += rule
    experts = [] if shape is None or shape.moe is None or not splits else _experts(devices, shape.moe.experts)
    if len(experts) > 1:
        add("expertParallel", experts)
        rules.append(
            SpaceRule(
                expression=f"({devices} // pipelineParallel) % expertParallel == 0",
                message="experts are spread over the ranks of a stage: expertParallel divides them",
            )
        )
    return SearchSpace(parameters=parameters, rules=rules, fixed=fixed)


def _whole_runs(devices: int, global_batch: int) -> list[SpaceRule]:
    return [
        SpaceRule(
            expression=f"{devices} % (tensorParallel * pipelineParallel) == 0",
            message=f"degrees divide the {devices} devices; what is left are replicas",
        ),
        SpaceRule(
            expression=f"{global_batch} % (microBatch * ({devices} // (tensorParallel * pipelineParallel))) == 0",
            message=f"replicas and micro-batch divide the global batch of {global_batch}; what is left is accumulated",
        ),
    ]


def _splits_layer(shape: ModelShape, degree: int) -> bool:
    widths = [shape.ffn] if shape.ffn is not None else []
    return not check_parallel(shape, tensor_parallel=degree) and all(width % degree == 0 for width in widths)


def _zero(starts: TrainingFramework | None) -> tuple[list[int], list[SpaceRule]]:
    """Levels, and what keeps some of them away from pipelines."""
    with_stages = _ZERO if starts is None else starts.zero
    alone = _ZERO_WITHOUT_PIPELINE if starts is None else starts.zero_without_pipeline
    levels = sorted({*with_stages, *alone})
    if not alone:
        return levels, []
    least = min(alone)
    return levels, [
        SpaceRule(
            expression=f"zeroStage < {least} or pipelineParallel == 1",
            message=f"ZeRO stages from {least} on do not go with pipeline stages: lower either",
        )
    ]


def _experts(devices: int, experts: int) -> list[int]:
    return [n for n in range(1, devices + 1) if devices % n == 0 and experts % n == 0]
