"""Names, links and ports of clusters side by side."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devcluster import plan
from devcluster.errors import DevclusterError
from devcluster.plan import FORWARDS, LINK_POOL, POD_CIDR, SERVICE_CIDR, Plan

names = st.builds(
    lambda first, middle: (first + middle).rstrip("-"),
    st.sampled_from("abcxyz"),
    st.text("abc019-", max_size=29),
)


def make(name: str = "dev", **changes: object) -> Plan:
    values: dict[str, object] = {
        "name": name,
        "kubernetes_minor": "1.36",
        "link_cidr": "10.213.0.8/30",
        "ports": dict(FORWARDS),
        "real_nodes": 2,
        "kwok_nodes": 10,
        "node_monitor_grace_s": 600,
    }
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


@settings(deadline=None)
@given(names)
def test_every_allowed_name_gives_links_the_kernel_accepts(name: str) -> None:
    assert plan.check_name(name) == name
    chosen = make(name)
    assert len(chosen.host_link) <= 15 and len(chosen.cluster_link) <= 15
    assert chosen.host_link != chosen.cluster_link


@pytest.mark.parametrize("name", ["", "Dev", "1a", "a-", "a" * 31, "a/b", "..", "a b"])
def test_other_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(DevclusterError, match="at most 30"):
        plan.check_name(name)


@settings(deadline=None)
@given(st.lists(names, unique=True, min_size=2, max_size=20))
def test_clusters_side_by_side_never_share_a_link(chosen: list[str]) -> None:
    taken: list[ipaddress.IPv4Network] = []
    for name in chosen:
        link = ipaddress.IPv4Network(plan.choose_link(name, taken))
        assert link.subnet_of(LINK_POOL)
        assert not any(link.overlaps(other) for other in taken)
        taken.append(link)


def test_a_link_stays_the_same_while_it_is_free_and_moves_when_it_is_not() -> None:
    first = plan.choose_link("dev", [])
    assert plan.choose_link("dev", []) == first
    assert plan.choose_link("dev", [ipaddress.IPv4Network(first)]) != first


def test_a_machine_whose_routes_cover_the_pool_is_told_so() -> None:
    with pytest.raises(DevclusterError, match=r"no free /30"):
        plan.choose_link("dev", [ipaddress.IPv4Network("10.0.0.0/8")])


def test_links_lie_outside_pods_and_services() -> None:
    assert not LINK_POOL.overlaps(POD_CIDR)
    assert not LINK_POOL.overlaps(SERVICE_CIDR)


def test_ports_are_the_preferred_ones_or_the_next_free() -> None:
    assert plan.choose_ports([], lambda _: True) == FORWARDS
    busy = FORWARDS["api"]
    moved = plan.choose_ports([FORWARDS["engine"]], lambda port: port != busy)
    assert moved["api"] == busy + 1
    assert moved["engine"] == FORWARDS["engine"] + 1
    assert len(set(moved.values())) == len(moved)


def test_no_free_port_names_the_range() -> None:
    with pytest.raises(DevclusterError, match="16443 to 17442"):
        plan.choose_ports([], lambda _: False)


def test_a_plan_survives_being_saved(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "STATE_ROOT", tmp_path)
    plan.save(make())
    assert plan.load("dev") == make()
    assert [known.name for known in plan.known_clusters()] == ["dev"]


def test_a_damaged_plan_counts_as_none(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "STATE_ROOT", tmp_path)
    plan.save(make())
    (make().state / "plan.json").write_text('{"name": "dev"')
    assert plan.load("dev") is None


def test_another_kubernetes_needs_the_cluster_down_first() -> None:
    with pytest.raises(DevclusterError, match=r"runs Kubernetes 1\.36, not 1\.35"):
        plan.resize(make(), 2, 10, 600, "1.35")
    assert plan.resize(make(), 3, 20, 20, "1.36").kwok_nodes == 20


@pytest.mark.parametrize(("real", "simulated"), [(-1, 0), (17, 0), (0, -1), (0, 5001)])
def test_node_counts_out_of_range_are_refused(real: int, simulated: int) -> None:
    with pytest.raises(DevclusterError, match="from 0 to"):
        plan.check_sizes(real, simulated)
