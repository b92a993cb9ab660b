"""A ServingDeployment as the target of a tuning job: what trials start from, and what they leave as it is."""

from __future__ import annotations

from typing import cast

from controlplane.catalog import load
from controlplane.model.choice import AcceleratorChoice, EngineName
from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.serving import ServingDeployment
from controlplane.model.tuning import SearchSpace, Setting
from controlplane.model.tuning_job import DeploymentTarget, EngineTarget, TuningSpec
from controlplane.tuning_jobs import completed
from operators.tuning.pod_engine import deployed, engine_of
from tuner.search.predicted import known_names
from tuner.serving.resolve import find_accelerator

_SHAPE = ("tensorParallel", "pipelineParallel", "dataParallel", "expertParallel")


def completed_on_cluster(spec: TuningSpec, deployment: ServingDeployment | None = None) -> TuningSpec:
    """As `tuning_jobs.completed`, where trials are pods. `deployment`: the target, read with the rights of whoever makes
    the job. Its knobs that are not searched are held as they are now, also when it changes while the job runs; its
    knobs are the baseline, unless another one is stated; what the job fixes does not count there. What it serves with is
    written into the target, for who drives the job. Raises UnknownName, InvalidSpec, Unsupported, or Refused where nothing
    is planned for the deployment yet."""
    if not isinstance(spec.target, DeploymentTarget) or deployment is None:
        return completed(spec, devices=_of_a_node(spec))
    choice = deployed(deployment)
    engine, accelerator = engine_of(choice, load())
    shape = _shape(choice, {knob.field for knob in engine.shape})
    cores = max(1, (choice.cpu_millicores or 1000) // 1000) if accelerator.kind == "cpu" else None
    alone = EngineTarget(
        engine=cast(EngineName, engine.id), model=_model(deployment), shape=shape, accelerator=accelerator.id
    )
    baseline = dict(spec.baseline or choice.knobs)
    try:
        whole = completed(
            spec.model_copy(update={"target": alone, "baseline": baseline}), cores=cores, held=dict(choice.knobs)
        )
    except TrimtabError as error:
        if error.field is not None and error.field.startswith("target."):
            error.field = "target.name"  # what is wrong stands in the deployment
        raise
    assert whole.space is not None
    space = _kept(whole.space, choice.knobs)
    fixed_by_user = spec.space.fixed if spec.space is not None else {}
    in_use = {name: value for name, value in space.fixed.items() if name not in fixed_by_user}
    in_use |= {name: value for name, value in choice.knobs.items() if name in fixed_by_user}
    in_use |= baseline
    target = spec.target.model_copy(update={"serves": alone})
    return whole.model_copy(update={"target": target, "space": space, "baseline": in_use})


def _of_a_node(spec: TuningSpec) -> int:
    """Accelerators that a trial's pod may have: it has a node to itself."""
    if not isinstance(spec.target, EngineTarget) or spec.target.accelerator is None:
        return 1
    accelerator = find_accelerator(load(), spec.target.accelerator, field="target.accelerator")
    return 1 if accelerator.kind == "cpu" else accelerator.accelerators_per_node or 1


def _model(deployment: ServingDeployment) -> str:
    """By the name that the catalogue knows: the deployment's own, else that of its weights."""
    model = deployment.spec.model
    names = (model.name, model.source.partition(":")[2].partition("@")[0])
    return next((name for name in names if known_names(EngineTarget(engine="vllm", model=name))[0]), model.name)


def _shape(choice: AcceleratorChoice, known: set[str]) -> dict[str, int | str]:
    """Parallel degrees and weight format: other ones are another deployment."""
    degrees = (choice.tensor_parallel, choice.pipeline_parallel, choice.data_parallel, choice.expert_parallel)
    shape: dict[str, int | str] = {
        name: value for name, value in zip(_SHAPE, degrees, strict=True) if name in known and value > 1
    }
    if choice.quantization is not None and "quantization" in known:
        shape["quantization"] = choice.quantization
    return shape


def _kept(space: SearchSpace, knobs: Setting) -> SearchSpace:
    searched = {parameter.name for parameter in space.parameters}
    for name in sorted(searched & {*_SHAPE, "quantization"}):
        raise InvalidSpec(
            "trials of a deployment change its engine's knobs, not its shape", field="space.parameters", value=name,
            hint="tune the engine alone (target {kind: engine}), or leave it out",
        )  # fmt: skip
    held = {name: value for name, value in knobs.items() if name not in searched}
    return space.model_copy(update={"fixed": {**held, **space.fixed}})
