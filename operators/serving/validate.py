"""What the API server's schema cannot check: names, shapes, memory, sources, templates. Pure; reports everything."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TypeVar

from controlplane.catalog import Accelerator, Catalog, Engine, ModelShape, unknown
from controlplane.catalog.knobs import check_knobs
from controlplane.catalog.params import check_parallel
from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName, Unsupported
from controlplane.model.serving import AcceleratorChoice, LatencyTarget, ServingDeployment
from operators.serving import source as sources
from operators.serving.launch import REVISION_FLAGS, shape_fields, why_no_data_parallel
from operators.serving.memory import does_not_fit, download_does_not_fit
from operators.serving.names import GANG_SUFFIX, NAME_MAX
from operators.serving.overlay import check_template
from operators.serving.render import RenderSettings, choice_image, no_image
from operators.serving.shape import ranks_of, resolve
from operators.serving.source import Source

T = TypeVar("T")


def validate(
    deployment: ServingDeployment, catalog: Catalog, settings: RenderSettings | None = None
) -> list[TrimtabError]:
    """Everything that keeps this deployment from working as written; empty when nothing does.

    With `settings`, also that an image is known for each choice. Each error names the field, its value, what would be
    allowed and the way out.
    """
    errors = _check_name(deployment)
    spec = deployment.spec
    model = _look_up_model(deployment, catalog, errors)
    source: Source | None = None
    try:
        source = sources.parse(spec.model.source)
    except InvalidSpec as error:
        errors.append(error)
    if source is not None and source.scheme == "hf" and model is not None:
        too_big = download_does_not_fit(spec.model.cache, model)
        if too_big is not None:
            errors.append(too_big)
    errors += _check_slo(spec.slo.ttft_ms, "spec.slo.ttftMs") + _check_slo(spec.slo.tpot_ms, "spec.slo.tpotMs")
    if spec.rollout.max_surge == 0 and spec.rollout.max_unavailable == 0:
        errors.append(
            InvalidSpec(
                "a rollout could never move",
                field="spec.rollout.maxSurge",
                value=0,
                hint="set one of maxSurge and maxUnavailable above 0",
            )
        )
    resources: set[str] = set()
    for index, choice in enumerate(spec.explicit.choices):
        path = f"spec.explicit.choices[{index}]"
        accelerator = _find(catalog.accelerators, "accelerator", choice.accelerator, f"{path}.accelerator", errors)
        engine = _find(catalog.engines, "engine", choice.engine, f"{path}.engine", errors)
        _check_names_of_choice(choice, catalog, path, errors)
        if accelerator is None or engine is None:
            continue
        resources.add(accelerator.resource_name)
        errors += _check_engine(deployment, choice, accelerator, engine, source, path)
        errors += _check_api_key(deployment, engine, catalog)
        errors += _check_shape(choice, accelerator, engine, model, path)
        if settings is not None and choice_image(choice, engine, accelerator, settings) is None:
            errors.append(no_image(engine, accelerator, path))
    keys = frozenset(engine.launch.api_key_env for engine in catalog.engines.values() if engine.launch.api_key_env)
    return errors + check_template(spec.pod_template, accelerator_resources=frozenset(resources), key_variables=keys)


def _check_name(deployment: ServingDeployment) -> list[TrimtabError]:
    name = deployment.metadata.name
    if len(name) > NAME_MAX:
        return [
            InvalidSpec(
                f"{len(name)} characters are too many: pods are named NAME-REVISION-SLOT-RANK",
                field="metadata.name",
                value=name,
                limit=f"{NAME_MAX} characters",
                hint="create it again under a shorter name",
            )
        ]
    if "." in name or not name[:1].isalpha():
        return [
            InvalidSpec(
                "a Service of this name cannot exist",
                field="metadata.name",
                value=name,
                limit="lower-case letters, digits and -, starting with a letter",
                hint="create it again under another name",
            )
        ]
    if name.endswith(GANG_SUFFIX):
        return [
            InvalidSpec(
                f"names that end in {GANG_SUFFIX} are taken by the headless Services of other deployments",
                field="metadata.name",
                value=name,
                hint="create it again under another name",
            )
        ]
    return []


def _look_up_model(deployment: ServingDeployment, catalog: Catalog, errors: list[TrimtabError]) -> ModelShape | None:
    name = deployment.spec.model.name
    model = catalog.models.get(name)
    if model is None:
        alias = catalog.find_model(name)
        if alias is not None:
            errors.append(
                UnknownName(
                    f"unknown model {name!r}",
                    field="spec.model.name",
                    value=name,
                    hint=f"the catalogue calls it {alias.id}",
                )
            )
        else:
            errors.append(unknown("model", name, catalog.models, field="spec.model.name"))
    return model


def _find(known: Mapping[str, T], what: str, name: str, field: str, errors: list[TrimtabError]) -> T | None:
    item = known.get(name)
    if item is None:
        errors.append(unknown(what, name, known, field=field))
    return item


def _check_slo(target: LatencyTarget | None, path: str) -> list[TrimtabError]:
    if target is None:
        return []
    stated = [(name, value) for name, value in target.model_dump().items() if value is not None]
    return [
        InvalidSpec(
            f"{later} {high:g} ms is below {earlier} {low:g} ms",
            field=f"{path}.{later}",
            value=high,
            limit=f"at least {low:g}",
            hint="a higher percentile is never faster",
        )
        for (earlier, low), (later, high) in itertools.pairwise(stated)
        if high < low
    ]


def _check_names_of_choice(choice: AcceleratorChoice, catalog: Catalog, path: str, errors: list[TrimtabError]) -> None:
    if choice.nic is not None and choice.nic.nic_class is not None:
        _find(catalog.nics, "NIC class", choice.nic.nic_class, f"{path}.nic.class", errors)
    if len(set(choice.pools)) < len(choice.pools):
        errors.append(
            InvalidSpec("a pool is listed twice", field=f"{path}.pools", value=list(choice.pools), hint="list it once")
        )


def _check_engine(
    deployment: ServingDeployment,
    choice: AcceleratorChoice,
    accelerator: Accelerator,
    engine: Engine,
    source: Source | None,
    path: str,
) -> list[TrimtabError]:
    errors: list[TrimtabError] = []
    why_not = engine.why_not_on(accelerator)
    if why_not is not None:
        errors.append(
            Unsupported(why_not, field=f"{path}.engine", value=engine.id, hint="choose another engine or accelerator")
        )
    settings = shape_fields(engine, choice)
    errors += check_knobs(engine, choice.knobs, settings, field=f"{path}.knobs", accelerator=accelerator)
    quantization = choice.quantization
    if quantization is not None and quantization not in engine.quantizations:
        errors.append(
            unknown(f"{engine.id} weight format", quantization, engine.quantizations, field=f"{path}.quantization")
            if engine.quantizations
            else Unsupported(
                f"{engine.id} reads the weight format from the checkpoint",
                field=f"{path}.quantization",
                value=quantization,
                hint="leave it out",
            )
        )
    if deployment.spec.model.served_name is not None and engine.launch.served_name_flag is None:
        errors.append(
            Unsupported(
                f"{engine.id} derives its model name from the source",
                field="spec.model.servedName",
                value=deployment.spec.model.served_name,
                hint="leave it out",
            )
        )
    if source is not None and source.scheme == "hf" and engine.id not in REVISION_FLAGS:
        errors.append(
            Unsupported(
                f"{engine.id} does not download weights",
                field="spec.model.source",
                value=deployment.spec.model.source,
                limit="pvc:CLAIM/PATH, image:/PATH",
                hint="put the weights on a claim or into the engine image",
            )
        )
    return errors


def _check_api_key(deployment: ServingDeployment, engine: Engine, catalog: Catalog) -> list[TrimtabError]:
    secret = deployment.spec.api_key_secret
    if secret is None or engine.launch.api_key_env is not None:
        return []
    why = (
        "takes its key only on the command line, where every process of the node can read it"
        if engine.launch.api_key_flag is not None
        else "cannot check a key"
    )
    able = sorted(item.id for item in catalog.engines.values() if item.launch.api_key_env is not None)
    return [
        Unsupported(
            f"{engine.id} {why}",
            field="spec.apiKeySecret",
            value=secret.name,
            limit=f"engines that read it from the environment: {', '.join(able)}",
            hint="check keys in a gateway before the Service, or use another engine",
        )
    ]


def _check_shape(
    choice: AcceleratorChoice, accelerator: Accelerator, engine: Engine, model: ModelShape | None, path: str
) -> list[TrimtabError]:
    errors: list[TrimtabError] = []
    shape, ranks = resolve(choice, accelerator), ranks_of(choice)
    node = accelerator.accelerators_per_node
    if choice.cpu_millicores is not None and accelerator.kind != "cpu":
        errors.append(
            InvalidSpec(
                f"{accelerator.id} is not a CPU",
                field=f"{path}.cpuMillicores",
                value=choice.cpu_millicores,
                hint="add CPU requests of a GPU engine with spec.podTemplate",
            )
        )
    if choice.accelerators_per_pod is not None and choice.accelerators_per_pod > ranks:
        errors.append(
            InvalidSpec(
                f"one replica uses {ranks} (tensorParallel x pipelineParallel x dataParallel)",
                field=f"{path}.acceleratorsPerPod",
                value=choice.accelerators_per_pod,
                limit=f"1 to {ranks}",
            )
        )
    elif not shape.divides:
        errors.append(
            InvalidSpec(
                f"{ranks} ranks do not fill pods of {shape.ranks_per_pod}",
                field=f"{path}.acceleratorsPerPod",
                value=shape.ranks_per_pod,
                limit=f"a divisor of {ranks}",
            )
        )
    if accelerator.kind == "gpu" and node is not None and shape.ranks_per_pod > node:
        errors.append(
            InvalidSpec(
                f"a full node of {accelerator.id} has {node}",
                field=f"{path}.acceleratorsPerPod",
                value=shape.ranks_per_pod,
                limit=f"1 to {node}",
                hint="let the replica span several pods",
            )
        )
    if shape.pods > 1 and engine.multi_node is None:
        errors.append(
            Unsupported(
                f"{engine.id} cannot span pods, and this replica needs {shape.pods} of {shape.ranks_per_pod}",
                field=f"{path}.engine",
                value=engine.id,
                hint="shrink the replica to one pod",
            )
        )
    if model is None:
        return errors
    errors += check_parallel(
        model,
        tensor_parallel=choice.tensor_parallel,
        pipeline_parallel=choice.pipeline_parallel,
        expert_parallel=choice.expert_parallel,
        field=path,
    )
    if choice.expert_parallel > ranks:
        errors.append(
            InvalidSpec(
                f"experts are spread over ranks the replica has, {ranks}",
                field=f"{path}.expertParallel",
                value=choice.expert_parallel,
                limit=f"1 to {ranks}",
            )
        )
    why_not = why_no_data_parallel(engine, model) if choice.data_parallel > 1 else None
    if why_not is not None:
        errors.append(
            InvalidSpec(
                why_not, field=f"{path}.dataParallel", value=choice.data_parallel, limit="1", hint="use spec.replicas"
            )
        )
    if not errors:
        tight = does_not_fit(choice, model, accelerator, engine, field=path)
        if tight is not None:
            errors.append(tight)
    return errors
