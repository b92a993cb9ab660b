"""What operator, API and users may do: a committed table, and what must never be in it."""

from typing import Any

import pytest

from controlplane.kube import (
    EVENTS,
    LEASES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    RESOURCE_SLICES,
    SERVICES,
    SUBJECT_ACCESS_REVIEWS,
    TOKEN_REVIEWS,
)
from tests.unit.chart.rendering import CASES, DEFAULT, NAMESPACE, Case
from tests.unit.chart.rights import FORBIDDEN_RESOURCES, FORBIDDEN_VERBS, HARMLESS, RIGHTS, ROUTING, TUNING, Right

READS = {"get", "list", "watch"}


def granted(document: dict[str, Any]) -> set[Right]:
    """One right per group, resource, name and verb."""
    return {
        Right(group, resource, verb, name)
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def roles(case: Case) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (document["kind"], document["metadata"]["name"]): document
        for document in case.documents()
        if document["kind"] in ("Role", "ClusterRole")
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_roles_are_those_of_the_table(case: Case) -> None:
    wanted = RIGHTS | TUNING | (ROUTING if case.values.get("routers") else {})
    assert {key: granted(role) for key, role in roles(case).items()} == wanted


@pytest.mark.parametrize(
    "rights",
    (RIGHTS | ROUTING | TUNING).values(),
    ids=[f"{kind} {name}" for kind, name in RIGHTS | ROUTING | TUNING],
)
def test_nothing_is_granted_that_makes_its_holder_more_powerful(rights: set[Right]) -> None:
    for right in rights - HARMLESS:
        assert "*" not in (right.group, right.resource, right.verb)
        assert right.verb not in FORBIDDEN_VERBS
        assert right.resource not in FORBIDDEN_RESOURCES


def test_the_api_writes_nothing() -> None:
    rights = RIGHTS["ClusterRole", "trimtab-api"]
    reviews = {right for right in rights if right.resource in ("tokenreviews", "subjectaccessreviews")}
    assert {right.verb for right in reviews} == {"create"}
    assert {right.verb for right in rights - reviews} == READS


def test_the_operator_writes_no_spec_and_leases_of_its_own_namespace_only() -> None:
    rights = RIGHTS["ClusterRole", "trimtab-operator"]
    on_ours = {(r.resource, r.verb) for r in rights if r.group == "trimtab.dev" and r.verb not in READS}
    assert on_ours == {
        ("gpupools", "patch"),
        ("gpupools/status", "patch"),
        ("servingdeployments/status", "patch"),
        ("servingdeployments/finalizers", "update"),
        ("tuningjobs", "patch"),
        ("tuningjobs/status", "patch"),
    }
    assert not [right for right in rights if right.resource == "leases"]
    assert roles(DEFAULT)["Role", "trimtab-operator"]["metadata"]["namespace"] == NAMESPACE


def test_what_the_client_knows_by_name_is_granted_in_its_group() -> None:
    operator = RIGHTS["ClusterRole", "trimtab-operator"] | RIGHTS["Role", "trimtab-operator"]
    for resource in (PODS, SERVICES, POD_DISRUPTION_BUDGETS, NODES, RESOURCE_SLICES, EVENTS, LEASES):
        assert [right for right in operator if (right.group, right.resource) == (resource.group, resource.plural)]
    for resource in (TOKEN_REVIEWS, SUBJECT_ACCESS_REVIEWS):
        assert Right(resource.group, resource.plural, "create") in RIGHTS["ClusterRole", "trimtab-api"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_roles_are_bound_to_our_accounts_only(case: Case) -> None:
    documents = case.documents()
    accounts = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
    bound = []
    for document in documents:
        if not document["kind"].endswith("RoleBinding"):
            continue
        bound.append((document["kind"], document["metadata"].get("namespace", ""), document["roleRef"]["name"]))
        for subject in document["subjects"]:
            assert subject["kind"] == "ServiceAccount"
            assert subject["namespace"] == NAMESPACE
            assert subject["name"] in accounts
            assert document["roleRef"]["name"].startswith(subject["name"])
    everywhere = ["trimtab-api", "trimtab-operator", "trimtab-tuning-worker"]
    everywhere += ["trimtab-operator-routing"] if case.values.get("routers") else []
    pods, namespaces = "trimtab-tuning-worker-pods", case.values.get("tuning", {}).get("namespaces")
    everywhere += [] if namespaces else [pods]
    assert sorted(bound) == sorted(
        [
            ("RoleBinding", NAMESPACE, "trimtab-operator"),
            *(("RoleBinding", namespace, pods) for namespace in namespaces or []),
            *(("ClusterRoleBinding", "", name) for name in everywhere),
        ]
    )


@pytest.mark.parametrize(
    ("name", "into"),
    [("view", {"view", "edit", "admin"}), ("edit", {"edit", "admin"}), ("admin", {"admin"})],
)
def test_users_get_theirs_through_the_cluster_s_own_roles(name: str, into: set[str]) -> None:
    labels = roles(DEFAULT)["ClusterRole", f"trimtab-{name}"]["metadata"]["labels"]
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert {
        key.removeprefix(prefix) for key, value in labels.items() if key.startswith(prefix) and value == "true"
    } == into
