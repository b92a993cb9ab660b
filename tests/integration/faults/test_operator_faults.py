"""The operator is killed, frozen, cut off and lied to; the API server is killed and forgets. What it manages converges."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Cluster
from tests.integration.faults.chaos_proxy import FINE, ChaosProxy, Fate
from tests.integration.faults.local_operator import Keeper, LocalOperator, write_kubeconfig
from tests.integration.faults.pod_history import PodHistory
from tests.integration.faults.rest import Rest, eventually
from tests.integration.faults.serving_objects import GpuNodes, Serving, gpu_spec

pytestmark = pytest.mark.cluster
Make = Callable[..., LocalOperator]


def is_write(method: str, path: str) -> bool:
    """Of an object that the operator manages."""
    return method in ("POST", "PATCH", "DELETE", "PUT") and "/events" not in path and "/leases" not in path


class KilledAtWrites:
    """A judge that ends the operator at a write: odd lives when the first has taken effect but was not answered, even
    ones when the first was answered and the second has not taken effect. So it dies on either side of every write,
    and each life makes one step. Writes that a dead life still has under way change nothing."""

    def __init__(self) -> None:
        self.operator: LocalOperator | None = None
        self.life = 0
        self.kills = 0
        self._writes = 0

    def born(self) -> None:
        self.life += 1
        self._writes = 0

    def __call__(self, method: str, path: str) -> Fate:
        if not is_write(method, path) or self.operator is None or not self.operator.running:
            return FINE
        self._writes += 1
        if self.life % 2 and self._writes == 1:
            return Fate(then=self._kill, lose_answer=True)
        if self.life % 2 == 0 and self._writes >= 2:
            self._kill()
            return Fate(lose_request=True)
        return FINE

    def _kill(self) -> None:
        assert self.operator is not None
        self.operator.kill()
        self.kills += 1


@pytest.mark.parametrize("ranks", [1, 2], ids=["pods", "gangs"])
def test_killed_at_every_write_of_a_rollout(
    rest: Rest,
    make_operator: Make,
    serving: Callable[[str], Serving],
    gpu_nodes: Callable[..., GpuNodes],
    tmp_path: Path,
    ranks: int,
) -> None:
    nodes = gpu_nodes(3 * ranks)
    chat = serving("chat")
    chat.ranks = ranks
    judge = KilledAtWrites()
    with (
        ChaosProxy(rest, judge) as proxy,
        PodHistory(rest, chat.namespace, chat.name, most=3, ranks=ranks) as history,
    ):
        judge.operator = make_operator(write_kubeconfig(tmp_path / "proxy.kubeconfig", proxy.url))
        with Keeper(judge.operator, before=judge.born) as keeper:
            chat.create(gpu_spec(nodes.pool, replicas=2, nodes_per_replica=ranks))
            chat.wait_settled(2, 120)
            history.least = 2
            chat.new_revision(64)
            chat.wait_settled(2, 180)
            history.least = 1
            chat.patch(replicas=1)
            chat.wait_settled(1, 60)
            history.least = 0
            chat.delete()
            chat.wait_gone()
        # Objects, two pods, the rollout's two of each, the scale-down, and a status now and then.
        assert judge.kills >= 8, f"{judge.kills} kills in {keeper.starts} lives"
        assert all(len(uids) == 1 for uids in history.places.values())


def versions(rest: Rest, namespace: str) -> dict[str, str]:
    """resourceVersion of everything the operator may write in a namespace."""
    kinds = (
        f"/api/v1/namespaces/{namespace}/pods",
        f"/api/v1/namespaces/{namespace}/services",
        f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
        f"/apis/trimtab.dev/v1alpha1/namespaces/{namespace}/servingdeployments",
    )
    return {
        f"{path}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for path in kinds
        for item in rest.items(path)
    }


def test_a_leader_frozen_past_its_lease_writes_nothing_when_it_thaws(
    rest: Rest, make_operator: Make, serving: Callable[[str], Serving], gpu_nodes: Callable[..., GpuNodes]
) -> None:
    nodes = gpu_nodes(3)
    chat = serving("chat")
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{chat.namespace}/leases/trimtab-operator"
    first, second = (make_operator(lease_namespace=chat.namespace) for _ in range(2))
    first.start()
    holder = eventually(lambda: (rest.find(lease) or {}).get("spec", {}).get("holderIdentity"), 60, "a leader")
    second.start()
    second.wait_ready()
    chat.create(gpu_spec(nodes.pool, replicas=2))
    chat.wait_settled(2)
    with PodHistory(rest, chat.namespace, chat.name, most=3, least=2):
        first.freeze()
        chat.new_revision(64)
        chat.wait_settled(2, 120)
    assert rest.get(lease)["spec"]["holderIdentity"] != holder
    before = versions(rest, chat.namespace)
    first.thaw()
    assert first.exit_code(20) not in (None, 0)
    assert second.running
    # Whatever the first wrote would lie before what the second is made to do now.
    assert versions(rest, chat.namespace) == before
    chat.patch(replicas=1)
    chat.wait_settled(1)


def test_the_api_server_is_killed_in_the_middle_of_a_rollout(
    cluster: Cluster,
    rest: Rest,
    make_operator: Make,
    serving: Callable[[str], Serving],
    gpu_nodes: Callable[..., GpuNodes],
) -> None:
    nodes = gpu_nodes(3)
    chat = serving("chat")
    operator = make_operator()
    operator.start()
    chat.create(gpu_spec(nodes.pool, replicas=2))
    chat.wait_settled(2)
    with PodHistory(rest, chat.namespace, chat.name, most=3, least=2) as history:
        old = {where[0] for where in history.places}
        chat.new_revision(64)
        history.wait_revision_beside(old, 30)
        cluster.restart("kube-apiserver")
        chat.wait_settled(2, 120)
        # Its watches are older than what etcd still knows: 410, and a new list.
        gone = operator.metric("trimtab_informer_gone_total")
        operator.freeze()
        chat.patch(replicas=3)
        cluster.compact()
        cluster.restart("kube-apiserver")
        cluster.compact()
        operator.thaw()
        chat.wait_settled(3, 120)
        eventually(lambda: operator.metric("trimtab_informer_gone_total") > gone, 60, "a watch to be told 410")
    assert operator.running


def test_an_operator_waits_for_a_server_that_is_not_itself_yet(
    rest: Rest,
    make_operator: Make,
    serving: Callable[[str], Serving],
    gpu_nodes: Callable[..., GpuNodes],
    tmp_path: Path,
) -> None:
    nodes = gpu_nodes(1)
    chat = serving("chat")
    chat.create(gpu_spec(nodes.pool))
    ills = iter([Fate(refuse=500), Fate(lose_request=True), Fate(refuse=503), Fate(lose_answer=True), Fate(refuse=403)])
    with ChaosProxy(rest, lambda _method, _path: next(ills, FINE)) as proxy:
        operator = make_operator(write_kubeconfig(tmp_path / "proxy.kubeconfig", proxy.url))
        operator.start()
        chat.wait_settled(1)
        assert operator.running
        operator.stop()
    assert "Traceback" not in operator.text()


class Chaos:
    """A judge that treats 30 % of all requests badly, in every way there is."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, method: str, path: str) -> Fate:
        draw = self._random.random
        if "watch=" in path:
            return Fate(cut_after_s=0.3 + 2 * draw()) if draw() < 0.3 else FINE
        if draw() > 0.3:
            return FINE
        kinds: tuple[dict[str, Any], ...] = (
            {"refuse": 500},
            {"refuse": 503},
            {"refuse": 429},
            {"lose_request": True},
            {"lose_answer": True},
            {"answer": 500},
            {"answer": 503},
            {"answer": 504},
            {"delay_s": 2 * draw()},
            {"delay_s": draw(), "lose_answer": True},
        )
        return Fate(**self._random.choice(kinds))


@pytest.mark.parametrize("ranks", [1, 2], ids=["pods", "gangs"])
def test_thirty_percent_of_all_requests_fail(
    rest: Rest,
    make_operator: Make,
    serving: Callable[[str], Serving],
    gpu_nodes: Callable[..., GpuNodes],
    tmp_path: Path,
    ranks: int,
) -> None:
    nodes = gpu_nodes(4 * ranks)
    chat = serving("chat")
    chat.ranks = ranks
    with (
        ChaosProxy(rest, Chaos(seed=ranks)) as proxy,
        PodHistory(rest, chat.namespace, chat.name, most=3, ranks=ranks) as history,
    ):
        operator = make_operator(write_kubeconfig(tmp_path / "proxy.kubeconfig", proxy.url))
        with Keeper(operator) as keeper:
            chat.create(gpu_spec(nodes.pool, replicas=2, nodes_per_replica=ranks))
            chat.wait_settled(2)
            for revision in (64, 65, 66):
                history.least, history.most = 2, 3
                chat.new_revision(revision)
                chat.wait_settled(2)
                history.most = 4
                chat.patch(replicas=4)
                chat.wait_settled(4)
                chat.patch(replicas=2)
                chat.wait_settled(2)
            history.least = 0
            chat.delete()
            chat.wait_gone()
        assert proxy.faults > 20
        assert keeper.starts <= 3, f"an operator that fails to start only: {operator.tail()}"
        assert "Traceback" not in operator.text()
