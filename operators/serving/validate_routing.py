"""What a deployment asks of routers and this installation does not have. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.catalog import Catalog
from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.routers import OFFERED, SPLITS, InstalledRouter, RouterName
from controlplane.model.serving import ServingDeploymentSpec

_ROUTER = "spec.routing.router"


def check_routing(
    spec: ServingDeploymentSpec, catalog: Catalog, routers: Mapping[RouterName, InstalledRouter] | None
) -> list[TrimtabError]:
    """Everything that keeps the router from standing in front of these replicas. `routers`: what is installed here; None
    where nobody knows."""
    routing = spec.routing
    errors: list[TrimtabError] = []
    if routing.policy is not None and routing.policy not in OFFERED[routing.router]:
        errors.append(
            InvalidSpec(
                f"{routing.router} does not pick replicas so",
                field="spec.routing.policy",
                value=routing.policy,
                limit=", ".join(OFFERED[routing.router]),
            )
        )
    if spec.roles is not None:
        errors += _check_split(spec)
    if routing.router == "service":
        return errors
    engines = {choice.engine for choice in spec.choices}
    ports = {catalog.engines[engine].port for engine in engines if engine in catalog.engines}
    if len(ports) > 1:
        errors.append(
            Unsupported(
                f"{routing.router} looks for all replicas on one port, and these engines have several",
                field=_ROUTER,
                value=", ".join(sorted(engines)),
                limit="engines of one port",
                hint="use one engine for all choices, or the router service",
            )
        )
    if routers is not None:
        errors += _check_installed(routing.router, routers.get(routing.router))
    return errors


def _check_split(spec: ServingDeploymentSpec) -> list[TrimtabError]:
    engines = {choice.engine for choice in spec.choices}
    if len(engines) > 1:
        return [
            InvalidSpec(
                "prefill and decode replicas of different engines cannot hand over a KV cache",
                field="spec.roles",
                value=", ".join(sorted(engines)),
                limit="one engine",
                hint="use the same engine in all choices of both roles",
            )
        ]
    wanted = next((router for router, engine in SPLITS.items() if engine in engines), None)
    if wanted is None or wanted == spec.routing.router:
        return []  # an engine without a router is refused choice by choice
    return [
        Unsupported(
            f"{spec.routing.router} does not send requests through prefill and decode replicas of {engines.pop()}",
            field=_ROUTER,
            value=spec.routing.router,
            limit=wanted,
            hint=f"set it to {wanted}",
        )
    ]


def _check_installed(name: RouterName, installed: InstalledRouter | None) -> list[TrimtabError]:
    if installed is None:
        return [
            Unsupported(
                f"{name} is not part of this installation",
                field=_ROUTER,
                value=name,
                hint=f"name it in the chart's value routers.{name}, or use the router service",
                code="RouterMissing",
            )
        ]
    if installed.missing is not None:
        return [Unsupported(installed.missing, field=_ROUTER, value=name, code="RouterMissing")]
    return []
