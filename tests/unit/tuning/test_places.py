"""Pools and accounts that a job names and that are not there: told when it is made, before any trial."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.tuning_job import TuningSpec
from controlplane.operator_tuning import CachedPlaces
from controlplane.testing import Fault
from controlplane.tuning_desk import StoreDesk, checking
from controlplane.tuning_places import check_places, check_pools
from controlplane.tuning_targets import check_for_cluster, in_namespace
from tests.unit.tuning.cases import NAMESPACE, SPEC
from tests.unit.tuning.lab import Lab


class Places:
    def __init__(self, pools: list[str] | None, account: bool | None) -> None:
        self.known, self.account = pools, account

    def pools(self) -> list[str] | None:
        return self.known

    def has_account(self, namespace: str, name: str) -> bool | None:
        return self.account


def spec(**fields: Any) -> TuningSpec:
    return TuningSpec.model_validate({**SPEC, **fields})


def test_what_is_not_there_is_named_with_what_is() -> None:
    two = spec(pods={"pools": ["cpu", "h10"], "serviceAccount": "runner"})
    with pytest.raises(UnknownName) as caught:
        check_places(two, "lab", Places(["cpu", "h100"], True))
    error = caught.value
    assert (error.field, error.value, error.limit) == ("pods.pools[1]", "h10", "cpu, h100")
    assert error.hint is not None and error.hint.startswith("did you mean h100?")
    with pytest.raises(InvalidSpec) as missing:
        check_places(two, "lab", Places(["cpu", "h10"], False))
    assert (missing.value.field, missing.value.value) == ("pods.serviceAccount", "runner")
    assert "kubectl create serviceaccount runner -n lab" in str(missing.value)
    for places in (Places(["cpu", "h10"], True), Places(None, None)):  # what cannot be said now is no reason to refuse
        check_places(two, "lab", places)


def test_names_are_shown_to_those_who_may_read_them() -> None:
    with pytest.raises(UnknownName) as caught:
        check_pools(spec(pods={"pools": ["h10"]}), ["h100"], shown=False)
    assert "h100" not in str(caught.value)
    with pytest.raises(UnknownName) as none:
        check_pools(spec(pods={"pools": ["h10"]}), [])
    assert none.value.limit == "there are no pools yet"
    with pytest.raises(UnknownName) as many:
        check_pools(spec(pods={"pools": ["x"]}), [f"pool-{n:03}" for n in range(100)])
    assert (many.value.limit or "").endswith("and 88 more")


@pytest.mark.parametrize(
    ("pods", "reason", "word"),
    [({"pools": ["h10"]}, "WaitingForPool", "h100"), ({"serviceAccount": "runner"}, "WaitingForAccount", "runner")],
)
async def test_a_resource_waits_for_it_and_says_so(lab: Lab, pods: dict[str, Any], reason: str, word: str) -> None:
    places = Places(["h100"], reason == "WaitingForPool")
    lab.desk = StoreDesk(lab.database, checking(lambda *_: None, places))
    lab.create(pods=pods)
    async with lab.operator():
        await lab.until(lambda: lab.condition() == ("False", reason))
        assert lab.status["state"] == "Pending" and "spec.pods." in lab.status["message"]
        assert word in lab.status["message"] and "jobId" not in lab.status and lab.jobs == []
        await lab.until(lambda: reason in lab.events)
        places.known, places.account = ["h10"], True
        await lab.until(lambda: lab.jobs)


async def test_what_the_operator_knows(lab: Lab) -> None:
    class Pools:
        synced = False
        store: dict[str, Any] = {}  # noqa: RUF012 - a fake

    async with KubeClient(ClusterAccess(lab.server.url), timeout_s=5.0) as client:
        places = CachedPlaces(client, Pools())  # type: ignore[arg-type]
        assert places.pools() is None
        account = {"metadata": {"name": "runner", "namespace": NAMESPACE}}
        lab.server.storage.create("/v1/serviceaccounts", NAMESPACE, account)
        has = asyncio.to_thread
        assert await has(places.has_account, NAMESPACE, "runner") is True
        assert await has(places.has_account, NAMESPACE, "nobody") is False
        lab.server.faults.append(Fault(method="GET", path_contains="serviceaccounts", status=403))
        assert await has(places.has_account, NAMESPACE, "runner") is None


def test_a_deployment_without_a_namespace_is_the_jobs() -> None:
    target = {"kind": "deployment", "name": "chat"}
    found = in_namespace(spec(target=target), "lab")
    assert found.target == spec(target={**target, "namespace": "lab"}).target
    for one in (found, spec(target=target)):
        check_for_cluster(one, "lab")
    with pytest.raises(InvalidSpec, match=r"target\.namespace"):
        check_for_cluster(in_namespace(spec(target={**target, "namespace": "other"}), "lab"), "lab")
    command = spec()
    assert in_namespace(command, "lab") is command
