"""What a deployment costs: the pools' prices over the tokens it makes. A price nobody stated is unknown, not zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.model.errors import UnknownName
from controlplane.model.plans import PlannablePool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of all accelerators of a deployment, in one currency."""

    per_hour: float
    currency: str
    per_million_output_tokens: float | None  # None while no token is made


def cost(
    accelerators: Mapping[str, int], pools: Iterable[PlannablePool], *, output_tokens_per_second: float
) -> Cost | None:
    """Cost of `accelerators` (pool name to count). None where a price is unknown or currencies differ: adding them up
    would invent an exchange rate. Raises UnknownName for a pool that is not among `pools`."""
    known = {pool.name: pool for pool in pools}
    per_hour = 0.0
    currencies: set[str] = set()
    for name, count in sorted(accelerators.items()):
        if name not in known:
            raise UnknownName(
                f"unknown pool {name!r}", field="pools", value=name, hint=f"known: {', '.join(sorted(known))}"
            )
        price = known[name].price_per_accelerator_hour
        if price is None:
            return None
        per_hour += price * count
        currencies.add(known[name].currency)
    if len(currencies) != 1:
        return None
    per_hour_tokens = output_tokens_per_second * 3600.0
    return Cost(
        per_hour=per_hour,
        currency=currencies.pop(),
        per_million_output_tokens=per_hour / per_hour_tokens * 1e6 if per_hour_tokens > 0 else None,
    )
