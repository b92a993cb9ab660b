"""Pools and the account that a tuning job names, held against the cluster when it is made: a name that is not there is
told before any trial, alike for REST and for the TuningJob resource."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from controlplane.catalog.loader import nearest
from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.tuning_job import TuningSpec

POOLS, ACCOUNT = "pods.pools", "pods.serviceAccount"
_SHOWN = 12


class Places(Protocol):
    """What of them is there. None: it cannot be said now, and trials will tell."""

    def pools(self) -> Collection[str] | None:
        """Names of GPUPools."""
        ...

    def has_account(self, namespace: str, name: str) -> bool | None:
        """Blocks."""
        ...


def check_places(spec: TuningSpec, namespace: str, places: Places) -> None:
    """Raises UnknownName for a pool, InvalidSpec for the account."""
    known = places.pools() if spec.pods.pools else None
    if known is not None:
        check_pools(spec, known)
    if places.has_account(namespace, spec.pods.service_account) is False:
        raise no_account(spec, namespace)


def check_pools(spec: TuningSpec, known: Collection[str], *, shown: bool = True) -> None:
    """Raises UnknownName. `shown`: whoever reads this may read the names of all pools."""
    for i, name in enumerate(spec.pods.pools):
        if name in known:
            continue
        names = sorted(known) if shown else []
        close = nearest(name, names)
        way_out = f"did you mean {' or '.join(close)}? " if close else ""
        way_out += "name a pool that is there, make this one, or name none: then the target's own are used"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        none = "there are no pools yet" if shown else None
        raise UnknownName(
            "there is no such GPUPool", field=f"{POOLS}[{i}]", value=name,
            limit=f"{', '.join(names[:_SHOWN])}{more}" if names else none, hint=way_out,
        )  # fmt: skip


def no_account(spec: TuningSpec, namespace: str) -> InvalidSpec:
    name = spec.pods.service_account
    return InvalidSpec(
        f"there is no such ServiceAccount in namespace {namespace!r}, and trials are pods that run as it", field=ACCOUNT,
        value=name, hint=f"make it (kubectl create serviceaccount {name} -n {namespace}), or name one that is there",
    )  # fmt: skip
