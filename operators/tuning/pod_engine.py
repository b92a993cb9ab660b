"""The pod of an attempt with an engine in it: one the job names, or the one a ServingDeployment serves with. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from controlplane.catalog import Accelerator, Catalog, Engine
from controlplane.catalog.knobs import Rendered as Settings
from controlplane.catalog.knobs import merge, render_knobs, render_shape
from controlplane.model.choice import AcceleratorChoice, EngineName
from controlplane.model.errors import InvalidSpec, Refused, Unsupported
from controlplane.model.resource import ObjectMeta
from controlplane.model.serving import Explicit, Model, ServingDeployment, ServingDeploymentSpec
from controlplane.model.tuning import Setting
from controlplane.model.tuning_job import EngineTarget, TuningSpec
from operators.serving import source as sources
from operators.serving.launch import EngineLaunch, command, served_model
from operators.serving.overlay_fields import ENGINE_CONTAINER
from operators.serving.plan_adopt import in_force
from operators.serving.podspec import skeleton
from operators.serving.probes import probes
from operators.serving.render import RenderSettings, choice_image, no_image, replica_template
from operators.serving.shape import resolve
from operators.serving.validate import validate
from operators.tuning.pod_names import Attempt
from operators.tuning.pod_nodes import Place
from operators.tuning.pod_spec import Rendered, dressed

SERVED_NAME = "trial"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}(@.+)?")
# An engine that cannot load says so by its end: the embedded one would try again twice.
_TRIAL_ARGS: Mapping[str, tuple[str, ...]] = {"openvino": ("--drain-grace", "0", "--max-load-failures", "1")}


def deployed(deployment: ServingDeployment) -> AcceleratorChoice:
    """The choice that trials start from: the first, of an auto deployment the first that is planned.

    Raises Unsupported (separate roles, replicas of several pods' engines) or Refused (no plan yet)."""
    name = deployment.metadata.name
    if deployment.spec.roles is not None:
        raise Unsupported(
            "its prefill and decode replicas are measured only together", field="target.name", value=name,
            hint="tune the engine alone: target {kind: engine}",
        )  # fmt: skip
    spec = in_force(deployment.spec, deployment.status.plan)
    if not spec.choices:
        raise Refused("nothing is planned for it yet", field="target.name", value=name, hint="wait for its plan")
    return spec.choices[0]


def engine_of(choice: AcceleratorChoice, catalog: Catalog) -> tuple[Engine, Accelerator]:
    """Engine and accelerator of a choice. Raises UnknownName; Unsupported where a replica spans pods."""
    engine = catalog.engine(choice.engine, field="target.name")
    accelerator = catalog.accelerator(choice.accelerator, field="target.name")
    if resolve(choice, accelerator).pods > 1:
        raise Unsupported(
            "a replica spans several pods, and a trial is one", field="target.name", value=choice.engine,
            limit=f"{accelerator.accelerators_per_node or 1} accelerators",
        )  # fmt: skip
    return engine, accelerator


def deployment_pod(
    of: Attempt,
    spec: TuningSpec,
    place: Place,
    deployment: ServingDeployment,
    setting: Setting,
    catalog: Catalog,
    settings: RenderSettings,
    api_key: str,
) -> Rendered:
    """The deployment's own pod with the trial's knobs in place of its own, no labels that a Service would select, and no
    key but `api_key`, which is asked of clients where the deployment asks one. Raises TrimtabError."""  # fmt: skip
    choice = deployed(deployment).model_copy(update={"knobs": dict(setting)})
    engine_of(choice, catalog)
    explicit = Explicit.model_construct(choices=[choice])
    changed = deployment.spec.model_copy(update={"explicit": explicit, "auto": None, "api_key_secret": None})
    one = ServingDeployment.model_construct(metadata=deployment.metadata, spec=changed, status=deployment.status)
    for error in validate(one, catalog, settings):
        raise error
    template = replica_template(one, 0, catalog, settings)
    key = api_key if deployment.spec.api_key_secret is not None else ""
    namespace = deployment.metadata.namespace or ""
    return _engine_pod(of, namespace, spec, place, template.launch, template.base, key)


def engine_pod(
    of: Attempt,
    namespace: str,
    target: EngineTarget,
    spec: TuningSpec,
    place: Place,
    knobs: Setting,
    shape: Setting,
    catalog: Catalog,
    settings: RenderSettings,
) -> Rendered:
    """An engine of the catalogue as the job names it. Raises TrimtabError; under `setting` where a degree of this one
    needs more accelerators than a node has."""  # fmt: skip
    engine = catalog.engine(target.engine, field="target.engine")
    accelerator = place.accelerator or catalog.accelerator("cpu-x86")
    choice = _choice(engine, accelerator, knobs, shape, place)
    image = choice_image(choice, engine, accelerator, settings)
    if image is None:
        raise no_image(engine, accelerator, "target")
    text = source_of(target.model)
    source = sources.parse(text, field="target.model")
    watch = Settings(engine.metrics.enable_args, dict(engine.metrics.enable_config))
    words = merge(render_shape(engine, shape), render_knobs(engine, knobs), watch)
    launch = EngineLaunch(engine, resolve(choice, accelerator), choice, source, SERVED_NAME, words)
    alone = ServingDeployment(
        metadata=ObjectMeta(name=SERVED_NAME, namespace=namespace),
        spec=ServingDeploymentSpec(
            model=Model(name=SERVED_NAME, source=text), explicit=Explicit(choices=[choice])
        ),
    )  # fmt: skip
    return _engine_pod(of, namespace, spec, place, launch, skeleton(alone, launch, accelerator, None, image), "")


def source_of(model: str) -> str:
    """Where weights are, in the words of a ServingDeployment: those words themselves, a path inside the engine's image,
    or a repository that the engine downloads. Raises InvalidSpec."""
    if model.startswith(("pvc:", "image:", "hf:")):
        return model
    if model.startswith("/"):
        return f"image:{model}"
    if _REPOSITORY.fullmatch(model):
        return f"hf:{model}"
    raise InvalidSpec(
        "a pod finds no model by this name", field="target.model", value=model,
        limit=f"{sources.SCHEMES}, a path inside the engine's image, or ORG/REPO",
    )  # fmt: skip


def _choice(
    engine: Engine, accelerator: Accelerator, knobs: Setting, shape: Setting, place: Place
) -> AcceleratorChoice:
    """All ranks in one pod."""
    degrees = [_degree(shape, name) for name in ("tensorParallel", "pipelineParallel", "dataParallel")]
    ranks = math.prod(degrees)
    most = place.devices or accelerator.accelerators_per_node
    if accelerator.kind != "cpu" and most is not None and ranks > most:
        raise InvalidSpec(
            f"{ranks} accelerators are needed, and a trial is one pod", field="setting.tensorParallel",
            value=degrees[0], limit=f"{most} {accelerator.id} on a node", hint="lower a parallel degree",
        )  # fmt: skip
    quantization = shape.get("quantization")
    return AcceleratorChoice(
        accelerator=accelerator.id,
        engine=cast(EngineName, engine.id),
        tensor_parallel=degrees[0],
        pipeline_parallel=degrees[1],
        data_parallel=degrees[2],
        expert_parallel=_degree(shape, "expertParallel"),
        quantization=None if quantization is None else str(quantization),
        knobs=dict(knobs),
        accelerators_per_pod=ranks,
    )


def _degree(shape: Setting, name: str) -> int:
    value = shape.get(name, 1)
    return value if isinstance(value, int) else 1


def _engine_pod(
    of: Attempt, namespace: str, spec: TuningSpec, place: Place, launch: EngineLaunch, base: Mapping[str, Any],
    api_key: str,
) -> Rendered:  # fmt: skip
    """`base`: a pod as serving renders it, but for the command line."""
    engine = launch.engine
    program, arguments = command(launch, 0, None, 0)
    ready = probes(engine, int(spec.measuring.timeout_s))["readinessProbe"]  # nothing restarts it: no other probe
    containers = []
    for container in base["spec"]["containers"]:
        if container["name"] == ENGINE_CONTAINER:
            env = [*container["env"]]
            if api_key and engine.launch.api_key_env is not None:
                env.append({"name": engine.launch.api_key_env, "value": api_key})
            extra = _TRIAL_ARGS.get(engine.id, ())
            engine_words = {"command": program, "args": [*arguments, *extra], "readinessProbe": ready, "env": env}
            container = {**container, **engine_words}  # noqa: PLW2901 - the same container, started
        containers.append(container)
    pod = {**base["spec"], "containers": containers}
    pod.pop("priorityClassName", None)  # a measurement pushes nobody off a node
    manifest = dressed(of, namespace, spec, place, pod, base["metadata"].get("annotations"))
    name = served_model(engine, launch.served_name, launch.source)
    return Rendered(manifest, ENGINE_CONTAINER, engine.port, name, api_key)
