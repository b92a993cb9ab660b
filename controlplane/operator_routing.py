"""The operator's caches of what stands between clients and replicas, as far as the installation has routers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from controlplane.kube import DEPLOYMENTS, KubeClient, Resource
from controlplane.model.routers import InstalledRouter, RouterName
from operators.runtime import Informer, Projection
from operators.serving import routers as names
from operators.serving.owned import OwnedRow, RoutedWire, routed_row

log = logging.getLogger(__name__)

_EXTENSION: RouterName = "gateway-inference-extension"
_NEEDED = (
    Resource(names.POOL_GROUP, "v1", names.INFERENCE_POOLS, "InferencePool"),
    Resource(names.OBJECTIVE_GROUP, "v1alpha2", names.INFERENCE_OBJECTIVES, "InferenceObjective"),
    Resource(names.ROUTE_GROUP, "v1", names.HTTP_ROUTES, "HTTPRoute"),
)


async def routing(
    client: KubeClient,
    installed: Mapping[RouterName, InstalledRouter],
    serves: Callable[[KubeClient, Resource], Awaitable[bool]],
    label_selector: str,
) -> tuple[dict[RouterName, InstalledRouter], dict[str, Informer[Any, OwnedRow]]]:
    """The routers with what they miss in this cluster, and one cache for each plural that they need."""
    found = dict(installed)
    resources: list[Resource] = [DEPLOYMENTS] if set(installed) - {_EXTENSION} else []
    if _EXTENSION in installed:
        lacking = [resource for resource in _NEEDED if not await serves(client, resource)]
        if lacking:
            said = ", ".join(f"{resource.plural} of {resource.api_version}" for resource in lacking)
            missing = (
                f"the API server does not serve {said}: install the Gateway API and its inference extension (1.0 or "
                "later), then restart the operator; or use the router service"
            )
            log.warning("%s cannot be used: %s", _EXTENSION, missing)
            found[_EXTENSION] = replace(installed[_EXTENSION], missing=missing)
        else:
            resources += _NEEDED
    projection = Projection(RoutedWire, routed_row)
    informers = {
        resource.plural: Informer(client, resource, projection, label_selector=label_selector) for resource in resources
    }
    return found, informers
