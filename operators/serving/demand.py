"""What CPU a rendered pod will ask for: the engine's and that of every container a podTemplate adds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from operators.workloads.podwire import ContainerWire, ResourcesWire, SpecWire
from operators.workloads.requests import requests_of

CPU = "cpu"


def cpu_millicores(spec: Mapping[str, Any]) -> int:
    """Millicores the scheduler will count for this pod spec (rule: `requests_of`). A container that states a limit
    and no request asks for its limit, as the API server defaults it. Unreadable quantities count as nothing; the API
    server refuses them."""
    wire = SpecWire(containers=_wires(spec.get("containers")), init_containers=_wires(spec.get("initContainers")))
    return dict(requests_of(wire)).get(CPU, 0)


def _wires(containers: Any) -> list[ContainerWire]:
    return [_wire(container) for container in containers or ()]


def _wire(container: Mapping[str, Any]) -> ContainerWire:
    resources = container.get("resources") or {}
    stated = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    amount = stated.get(CPU)
    asked = ResourcesWire(requests={CPU: amount}) if isinstance(amount, str | int | float) else None
    policy = container.get("restartPolicy")
    return ContainerWire(resources=asked, restart_policy=policy if isinstance(policy, str) else None)
