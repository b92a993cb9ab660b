"""One accelerator choice against the catalogue: engine, settings, shape, memory. Pure."""

from __future__ import annotations

from controlplane.catalog import Accelerator, Catalog, Engine, ModelShape, unknown
from controlplane.catalog.engines import REVISION_FLAGS
from controlplane.catalog.knobs import check_knobs
from controlplane.catalog.params import check_parallel
from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.serving import AcceleratorChoice, ServingDeployment
from operators.serving.launch import shape_fields, why_no_data_parallel
from operators.serving.memory import does_not_fit
from operators.serving.shape import ranks_of, resolve
from operators.serving.source import Source


def check_engine(
    deployment: ServingDeployment,
    choice: AcceleratorChoice,
    accelerator: Accelerator,
    engine: Engine,
    source: Source | None,
    path: str,
) -> list[TrimtabError]:
    """Engine against accelerator, knobs, weight format and model source."""
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


def check_api_key(deployment: ServingDeployment, engine: Engine, catalog: Catalog) -> list[TrimtabError]:
    """A key is accepted only where the engine can read it without showing it."""
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


def check_shape(
    choice: AcceleratorChoice, accelerator: Accelerator, engine: Engine, model: ModelShape | None, path: str
) -> list[TrimtabError]:
    """Parallel degrees against node, engine and model, then memory when everything else is right."""
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
