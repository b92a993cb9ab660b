"""What the API server's schema cannot check: names, shapes, memory, sources, templates. Pure; reports everything."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TypeVar

from controlplane.catalog import Catalog, ModelShape, unknown
from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName, Unsupported
from controlplane.model.serving import AcceleratorChoice, LatencyTarget, ServingDeployment
from operators.serving import source as sources
from operators.serving.memory import download_does_not_fit
from operators.serving.names import GANG_SUFFIX, NAME_MAX
from operators.serving.overlay_check import check_template
from operators.serving.render import RenderSettings, choice_image, no_image
from operators.serving.roles import check_role
from operators.serving.shape import resolve
from operators.serving.source import Source
from operators.serving.validate_choice import check_api_key, check_engine, check_shape
from operators.serving.validate_routing import check_routing

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
    # Every accelerator the catalogue knows, whoever chose it: placement counts them all. CPU only where it is one.
    resources = {known.resource_name for known in catalog.accelerators.values() if known.kind != "cpu"}
    if spec.roles is not None and spec.rollout.canary is not None:
        errors.append(
            Unsupported(
                "prefill and decode replicas apart cannot be tried by a canary: a request needs both",
                field="spec.rollout.canary",
                limit="spec.explicit or spec.auto",
                hint="remove spec.rollout.canary, or use aggregated replicas",
            )
        )
    for index, choice in enumerate(spec.choices):
        path = spec.choice_field(index)
        accelerator = _find(catalog.accelerators, "accelerator", choice.accelerator, f"{path}.accelerator", errors)
        engine = _find(catalog.engines, "engine", choice.engine, f"{path}.engine", errors)
        _check_names_of_choice(choice, catalog, path, errors)
        if accelerator is None or engine is None:
            continue
        resources.add(accelerator.resource_name)
        errors += check_engine(deployment, choice, accelerator, engine, source, path)
        errors += check_api_key(deployment, engine, catalog)
        errors += check_shape(choice, accelerator, engine, model, path)
        errors += check_role(spec.role_of(index)[0], engine, resolve(choice, accelerator).pods, path)
        if settings is not None and choice_image(choice, engine, accelerator, settings) is None:
            errors.append(no_image(engine, accelerator, path))
    errors += check_routing(spec, catalog, None if settings is None else settings.routers)
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
