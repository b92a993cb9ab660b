"""Where a trial pod may run: nodes of its pools, alone among what measures and what serves. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.catalog import Accelerator, Catalog
from controlplane.catalog.loader import unknown
from controlplane.model import labels
from controlplane.model.cluster import GPUPool, PoolToleration
from controlplane.model.errors import InvalidSpec, Refused, Unsupported
from operators.pools.selectors import requirements

HOST = "kubernetes.io/hostname"
FIELD = "pods.pools"
# Pods of the workers that send the load: beside one of them an engine shares its cores with its own clients.
WORKER_LABEL = {"app.kubernetes.io/component": "tuning-worker"}


@dataclass(frozen=True, slots=True)
class Place:
    """Nodes that all carry one accelerator. `terms` empty: any node. `devices`: on each node; None where no pool says.
    `accelerator` None: no pool was asked for."""

    accelerator: Accelerator | None = None
    terms: tuple[dict[str, Any], ...] = ()
    tolerations: tuple[PoolToleration, ...] = ()
    devices: int | None = None


def place_of(
    pools: Sequence[GPUPool],
    named: Sequence[str],
    why_not: Callable[[Accelerator], str | None],
    catalog: Catalog,
    *,
    field: str = FIELD,
) -> Place | None:
    """Nodes of the pools `named`, or of every pool on which `why_not` says nothing. None: nothing was named and nothing
    suits. Figures of different accelerators are not compared, so there must be one.

    Raises UnknownName, Unsupported (the accelerator does not suit), InvalidSpec (several accelerators) or Refused (the
    pools take nothing now)."""
    by_name = {pool.metadata.name: pool for pool in pools}
    for name in named:
        if name not in by_name:
            raise unknown("pool", name, by_name, field=field)
    found: dict[str, Accelerator] = {}
    for pool in (by_name[name] for name in named) if named else pools:
        accelerator = catalog.accelerators.get(pool.status.accelerator or pool.spec.accelerator or "")
        if accelerator is None:
            if named:
                raise Refused(
                    "nobody knows what accelerator this pool has", field=field, value=pool.metadata.name,
                    hint="state it in the pool's spec.accelerator",
                )  # fmt: skip
            continue
        reason = why_not(accelerator)
        if reason is None:
            found[pool.metadata.name] = accelerator
        elif named:
            raise Unsupported(reason, field=field, value=pool.metadata.name, hint="name pools that suit the target")
    if not found:
        return None
    return _place([by_name[name] for name in found], found, field)


def _place(pools: Sequence[GPUPool], of: dict[str, Accelerator], field: str) -> Place:
    accelerators = {accelerator.id: accelerator for accelerator in of.values()}
    if len(accelerators) > 1:
        raise InvalidSpec(
            "trials on different accelerators say nothing about each other", field=field,
            value=", ".join(f"{name}: {of[name].id}" for name in sorted(of)), limit="pools of one accelerator",
            hint=f"name pools of one accelerator in {FIELD}",
        )  # fmt: skip
    taking = [pool for pool in pools if not pool.spec.suspend]
    if not taking:
        raise Refused(
            "the pools are suspended", field=field, value=", ".join(pool.metadata.name for pool in pools),
            hint="resume one, or name others",
        )  # fmt: skip
    terms = [[item.model_dump(exclude_defaults=True) for item in requirements(p.spec.node_selector)] for p in taking]
    tolerations = [item for pool in taking for item in pool.spec.tolerations]
    sizes = [pool.status.accelerators // pool.status.nodes for pool in taking if pool.status.nodes]
    return Place(
        next(iter(accelerators.values())),
        # A term without requirements selects no node, a pool without a selector selects every one.
        tuple({"matchExpressions": term} for term in terms) if all(terms) else (),
        tuple(item for index, item in enumerate(tolerations) if item not in tolerations[:index]),
        min(sizes) if sizes else None,
    )


def affinity(place: Place, *, beside_live: bool) -> dict[str, Any]:
    """A measurement has its node to itself. The scheduler keeps required anti-affinity both ways: what comes to serve
    does not get the node of a measurement either."""
    alone = [_apart(labels.TRIAL)]
    if not beside_live:
        alone.append(_apart(labels.DEPLOYMENT))
    load = {"labelSelector": {"matchLabels": WORKER_LABEL}, "namespaceSelector": {}, "topologyKey": HOST}
    out: dict[str, Any] = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": alone,
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": load}],
        }
    }
    if place.terms:
        required = {"nodeSelectorTerms": list(place.terms)}
        out["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": required}
    return out


def pinned(wanted: Mapping[str, Any], node: str) -> dict[str, Any]:
    """The same affinity on this node alone."""
    nodes = wanted.get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = [{**term, "matchFields": [field]} for term in nodes.get("nodeSelectorTerms") or [{}]]
    return {**wanted, "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _apart(label: str) -> dict[str, Any]:
    expression = {"key": label, "operator": "Exists"}
    return {"labelSelector": {"matchExpressions": [expression]}, "namespaceSelector": {}, "topologyKey": HOST}
