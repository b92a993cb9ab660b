"""The simulated nodes are valid, mixed and the same every time."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog import load as load_catalog
from devcluster import fleet
from devcluster.errors import DevclusterError

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


@given(st.integers(0, 5000), st.lists(st.floats(0.1, 100), min_size=1, max_size=12))
def test_shares_are_whole_and_add_up(total: int, shares: list[float]) -> None:
    parts = fleet.split(total, shares)
    assert sum(parts) == total
    exact = [total * share / sum(shares) for share in shares]
    assert all(abs(part - want) < 1 for part, want in zip(parts, exact, strict=True))


def test_no_shares_at_all_is_refused() -> None:
    with pytest.raises(DevclusterError, match="add up to nothing"):
        fleet.split(3, [0.0])


def test_two_generations_are_byte_for_byte_the_same() -> None:
    first, second = (fleet.node_objects(fleet.load(), 300) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


def test_three_hundred_nodes_have_distinct_names_and_legal_labels() -> None:
    nodes = fleet.node_objects(fleet.load(), 300)
    assert len({node["metadata"]["name"] for node in nodes}) == 300
    for node in nodes:
        for key, value in node["metadata"]["labels"].items():
            assert LABEL_VALUE.fullmatch(value), (node["metadata"]["name"], key, value)
            assert "{" not in value


def test_every_accelerator_of_the_fleet_is_in_the_catalogue() -> None:
    products = {product for record in load_catalog().accelerators.values() for product in record.products}
    for group in fleet.load().groups:
        label = group.labels.get("nvidia.com/gpu.product") or group.labels["amd.com/gpu.product-name"]
        assert label in products, group.name


def test_every_stated_nic_is_in_the_catalogue() -> None:
    known = load_catalog().nics
    for group in fleet.load().groups:
        if "trimtab.dev/nic" in group.labels:
            assert group.labels["trimtab.dev/nic"] in known


def test_a_few_nodes_are_not_as_they_should_be() -> None:
    nodes = fleet.node_objects(fleet.load(), 300)
    cordoned = [node for node in nodes if node["spec"].get("unschedulable")]
    tainted = [node for node in nodes if len(node["spec"]["taints"]) > 1]
    sick = [node for node in nodes if "conditions" in node["status"]]
    assert cordoned and tainted and sick
    assert len(cordoned) + len(tainted) + len(sick) < 30


def test_an_nvl72_rack_is_one_nvlink_domain_of_18_trays() -> None:
    nodes = fleet.node_objects(fleet.load(), 600)
    cliques = Counter(node["metadata"]["labels"].get("nvidia.com/gpu.clique") for node in nodes)
    del cliques[None]
    assert max(cliques.values()) == 18
    assert len(cliques) > 1


def test_resource_slices_agree_with_the_labels_of_their_nodes() -> None:
    loaded = fleet.load()
    nodes = fleet.node_objects(loaded, 300)
    by_name = {node["metadata"]["name"]: node for node in nodes}
    slices = fleet.resource_slices(loaded, nodes)
    assert len(slices) == 2 * loaded.dra_nodes
    uuids: set[str] = set()
    for item in slices:
        node = by_name[item["spec"]["nodeName"]]
        assert len(item["spec"]["devices"]) == int(node["metadata"]["labels"]["nvidia.com/gpu.count"])
        uuids.update(d["attributes"]["uuid"]["string"] for d in item["spec"]["devices"] if d["name"].startswith("gpu"))
    assert len(uuids) == 8 * loaded.dra_nodes


def test_simulated_nodes_refuse_ordinary_pods() -> None:
    for node in fleet.node_objects(fleet.load(), 20):
        assert fleet.FAKE_TAINT in node["spec"]["taints"]
        assert node["metadata"]["annotations"]["kwok.x-k8s.io/node"] == "fake"
