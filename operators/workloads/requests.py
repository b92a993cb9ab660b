"""What a pod asks of a node: requests summed by the scheduler's rule."""

from __future__ import annotations

import sys

from controlplane.model.errors import InvalidSpec
from operators.workloads.podwire import ResourcesWire, SpecWire
from operators.workloads.quantity import milli, whole

Requests = tuple[tuple[str, int], ...]

_SHARED_MAX = 4096
_shared: dict[Requests, Requests] = {}
_single: dict[tuple[tuple[str, str | int | float], ...], Requests] = {}


def requests_of(spec: SpecWire) -> Requests:
    """Effective requests: max(containers + sidecars, each init step with the sidecars before it) + overhead.

    The scheduler's rule (KEP-753 for sidecars; pod-level `spec.resources` replaces the sum, KEP-2837). Kept: `cpu` in
    millicores and every resource with a domain, in units. The API server defaults requests from limits, so limits
    are not read.
    """
    containers = spec.containers
    if containers is None or len(containers) != 1 or spec.init_containers or spec.overhead or spec.resources:
        return _effective(spec)
    # Most pods of a cluster are alike: one container, a handful of distinct requests.
    resources = containers[0].resources
    if resources is None or not resources.requests:
        return ()
    stated = tuple(resources.requests.items())
    known = _single.get(stated)
    if known is None:
        if len(_single) >= _SHARED_MAX:
            _single.clear()
        known = _single[stated] = _effective(spec)
    return known


def _effective(spec: SpecWire) -> Requests:
    running: dict[str, int] = {}
    for container in spec.containers or ():
        _add(running, container.resources)
    peak: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in spec.init_containers or ():
        if container.restart_policy == "Always":
            _add(sidecars, container.resources)
            step = dict(sidecars)
        else:
            step = dict(sidecars)
            _add(step, container.resources)
        for name, amount in step.items():
            peak[name] = max(peak.get(name, 0), amount)
    for name, amount in sidecars.items():
        running[name] = running.get(name, 0) + amount
    for name, amount in peak.items():
        running[name] = max(running.get(name, 0), amount)
    if spec.resources is not None:
        stated: dict[str, int] = {}
        _add(stated, spec.resources)
        running.update(stated)
    if spec.overhead:
        _add(running, ResourcesWire(requests=spec.overhead))
    key = tuple(sorted(running.items()))
    if len(_shared) >= _SHARED_MAX:
        _shared.clear()
    return _shared.setdefault(key, key)


def _add(into: dict[str, int], resources: ResourcesWire | None) -> None:
    if resources is None or not resources.requests:
        return
    for name, text in resources.requests.items():
        try:
            if name == "cpu":
                into["cpu"] = into.get("cpu", 0) + milli(text)
            elif "/" in name:
                into[sys.intern(name)] = into.get(name, 0) + whole(text)
        except InvalidSpec:
            continue
