"""What the pools and budgets would have to hold for a candidate that they do not let pass, in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controlplane.model.plans import Allowed
from tuner.serving.planner.shape import Shape


def needs(shapes: Sequence[Shape], asked: float, limit: float, fit: int, allowed: Allowed, *, replayed: bool) -> str:
    """`limit`: load that one replica of the first shape carries at most. `fit`: its replicas that the pool's nodes take."""
    pools = {shape.pool.name: shape.pool.free for shape in shapes}
    free = " and ".join(f"{name} has {count}" for name, count in pools.items())
    if replayed:
        return f"more replicas do not fit: pool {free} free{_budgets(allowed)}"
    if len(shapes) > 1:
        return f"pool {free} free{_budgets(allowed)}"
    shape = shapes[0]
    replicas = math.ceil(asked / limit - 1e-9)
    units = replicas * shape.units
    scattered = (
        f" and its nodes have room for {fit} such replicas" if fit < replicas and units <= shape.pool.free else ""
    )
    return f"at least {replicas} replicas ({units} accelerators) are needed, pool {free} free{scattered}{_budgets(allowed)}"


def _budgets(allowed: Allowed) -> str:
    said = [
        f"{value:g} {unit}"
        for value, unit in (
            (allowed.max_accelerators, "accelerators"),
            (allowed.max_watts, "W"),
            (allowed.max_cost_per_hour, "an hour"),
        )
        if value is not None
    ]
    return f", the budget is {' and '.join(said)}" if said else ""
