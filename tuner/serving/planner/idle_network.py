"""Whether the network that a pool states made any difference to the answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.catalog import Catalog
from controlplane.model.plans import PlannablePool, PlannedRole, PlanRequest, ServingCandidate

_USUAL_NODE = 8  # accelerators of a node where neither pool nor catalogue says


def idle_network(request: PlanRequest, ranked: Sequence[ServingCandidate], catalog: Catalog) -> str | None:
    """One line about pools whose `nic` none of the ranked deployments is timed with; None where every one counts.

    A NIC class counts where KV leaves prefill replicas, and where replicas over several nodes are timed by a roofline:
    measured tables hold the network of the system that they were measured on.
    """
    stated = [pool for pool in request.pools if pool.nic is not None]
    idle = [pool for pool in stated if not any(_counts(pool, candidate, catalog) for candidate in ranked)]
    if not ranked or not idle:
        return None
    names = ", ".join(f"{pool.name} ({pool.nic})" for pool in idle)
    spanning = any(
        role.pool == pool.name and _spans(role, pool, catalog)
        for pool in idle
        for candidate in ranked
        for role in candidate.roles
    )
    why = "no ranked replica spans nodes"
    if spanning:
        why = "replicas over several nodes are timed with the network of the system that their tables were measured on"
    return (
        f"nic has no effect on these answers in pool{'s' if len(idle) > 1 else ''} {names}: {why}, and no prefill "
        "replica sends KV from there"
    )


def _counts(pool: PlannablePool, candidate: ServingCandidate, catalog: Catalog) -> bool:
    tier = None if candidate.prediction is None else candidate.prediction.provenance.tier
    return any(
        role.role == "prefill" or (tier == "roofline" and _spans(role, pool, catalog))
        for role in candidate.roles
        if role.pool == pool.name
    )


def _spans(role: PlannedRole, pool: PlannablePool, catalog: Catalog) -> bool:
    choice = role.choice
    ranks = choice.tensor_parallel * choice.pipeline_parallel * choice.data_parallel
    usual = catalog.accelerator(pool.accelerator).accelerators_per_node
    return ranks > (pool.per_node or usual or _USUAL_NODE)
