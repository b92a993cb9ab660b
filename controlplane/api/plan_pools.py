"""The cluster's pools as a planner may use them, from what their status says. Pure."""

from collections.abc import Iterable

from controlplane.api.documents import PoolOut
from controlplane.catalog import load
from controlplane.model.plans import PlannablePool
from controlplane.model.resource import is_dns_label
from controlplane.model.training_plans import MAX_POOLS

POOLS_MAX = 64


def plannable(pool_jsons: Iterable[bytes]) -> list[PlannablePool]:
    """Ready pools with a known accelerator, by name; free room as their controller last saw it."""
    pools = sorted(map(PoolOut.model_validate_json, pool_jsons), key=lambda pool: pool.metadata.name)
    return [made for pool in pools if (made := _plannable(pool)) is not None][:POOLS_MAX]


def for_training(pools: Iterable[PlannablePool]) -> list[PlannablePool]:
    """The GPU pools among them with what whole free nodes hold, the largest where there are too many."""
    kept = []
    for pool in pools:
        known = load().accelerators.get(pool.accelerator)
        per_node = pool.per_node or 1
        if pool.free_nodes is None:
            nodes = pool.free // per_node
        else:
            nodes = sum(group.nodes for group in pool.free_nodes if group.free >= per_node)
        if nodes and known is not None and known.kind == "gpu":
            kept.append(pool.model_copy(update={"free": nodes * per_node}))
    largest = sorted(kept, key=lambda pool: -pool.free)[:MAX_POOLS]
    return [pool for pool in kept if pool in largest]


def _plannable(pool: PoolOut) -> PlannablePool | None:
    status, price = pool.status, pool.spec.price
    ready = any(item.type == "Ready" and item.status == "True" for item in status.conditions)
    if not ready or status.accelerator is None or pool.spec.suspend or not is_dns_label(pool.metadata.name):
        return None  # a choice cannot name a pool whose name is no label
    return PlannablePool(
        name=pool.metadata.name,
        accelerator=status.accelerator,
        free=status.free_accelerators,
        largest_block=status.largest_free_block or None,
        free_nodes=status.free_nodes or None,
        per_node=status.accelerators // status.nodes or None if status.nodes else None,
        # A list stands where nodes differ.
        nic=status.nic if status.nic is not None and "," not in status.nic and " " not in status.nic else None,
        nics_per_node=_whole(pool, "nicCount"),
        price_per_accelerator_hour=None if price is None else price.amount_per_accelerator_hour,
        currency="USD" if price is None else price.currency,
    )


def _whole(pool: PoolOut, fact: str) -> int | None:
    """A counted fact, the least where nodes differ (`4-8`)."""
    for item in pool.status.facts:
        low = (item.value or "").partition("-")[0]
        if item.fact == fact and low.isascii() and low.isdigit():
            return int(low)
    return None
