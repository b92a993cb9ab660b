"""The chart on a real cluster: what its accounts may do, and install, upgrade, rollback, uninstall.

The cluster's own definitions and release are in use and stay untouched. The life of definitions is shown on a copy of
the chart whose definitions have another group and other names; releases here run no operator that could write.
"""

import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import Kubectl
from tests.unit.chart.rendering import CASES, CHART, WITHOUT_TUNING, Case, rendered
from tests.unit.chart.rights import RIGHTS, TUNING, Right

pytestmark = pytest.mark.cluster

PAUSE = {"image": {"repository": "localhost/trimtab/pause", "tag": "1"}}
NOBODY: dict[str, Any] = {"operator": {"replicas": 0}, "api": {"replicas": 0}, **WITHOUT_TUNING}
EPHEMERAL: dict[str, Any] = {"tuning": {"database": {"storage": {"ephemeral": True}}}}
WITHOUT_DEFINITIONS = {"crds": {"install": False}}


@dataclass
class Helm:
    """helm on the test cluster."""

    env: dict[str, str]
    installed: list[tuple[str, str]] = field(default_factory=list)

    def run(self, *args: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        flags = [] if values is None else ["--values", "-"]
        return subprocess.run(
            ["helm", *args, *flags],
            env=self.env,
            input=yaml.safe_dump(values) if values is not None else None,
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )

    def __call__(self, *args: str, values: dict[str, Any] | None = None) -> str:
        done = self.run(*args, values=values)
        assert done.returncode == 0, f"helm {' '.join(args)}: {done.stderr}"
        return done.stdout

    def install(
        self, namespace: str, values: dict[str, Any], *flags: str, chart: Path = CHART, release: str = ""
    ) -> str:
        name = release or f"trimtab-{secrets.token_hex(3)}"
        self.installed.append((name, namespace))
        self("install", name, str(chart), "--namespace", namespace, *flags, values=values)
        return name


@pytest.fixture
def helm(cluster_env: dict[str, str]) -> Iterator[Helm]:
    held = Helm(cluster_env)
    yield held
    for name, namespace in held.installed:
        held.run("uninstall", name, "--namespace", namespace, "--ignore-not-found")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_committed_renderings_are_this_chart_s(cluster_env: dict[str, str], case: Case) -> None:
    helm = shutil.which("helm", path=cluster_env["PATH"])
    assert helm is not None
    assert rendered(helm, case.values) == case.path.read_text()


def allowed(kubectl: Kubectl, user: str, questions: list[tuple[Right, str]]) -> dict[tuple[Right, str], bool]:
    """What the cluster says to each (right, namespace); an empty namespace asks for all of them."""
    reviews = []
    for right, namespace in questions:
        resource, _, subresource = right.resource.partition("/")
        asked = {"group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb}
        reviews.append(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": user,
                    "groups": ["system:authenticated", "system:serviceaccounts"]
                    if ":" in user
                    else ["system:authenticated"],
                    "resourceAttributes": {**asked, "name": right.name, "namespace": namespace},
                },
            }
        )
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    answers = kubectl("create", "-f", "-", "-o", r"jsonpath={.status.allowed}{'\n'}", stdin=body).split()
    return {question: answer == "true" for question, answer in zip(questions, answers, strict=True)}


DENIED = [
    *(Right("", "secrets", verb) for verb in ("get", "list", "watch", "create", "delete")),
    *(Right("", "configmaps", verb) for verb in ("get", "list", "create")),
    *(Right("", f"pods/{sub}", verb) for sub in ("exec", "attach", "portforward") for verb in ("get", "create")),
    Right("", "pods/ephemeralcontainers", "patch"),
    Right("", "pods", "patch"),
    Right("", "pods", "update"),
    Right("", "pods/log", "get"),
    Right("", "nodes", "patch"),
    Right("", "nodes", "delete"),
    Right("", "nodes/proxy", "get"),
    Right("", "namespaces", "create"),
    Right("", "serviceaccounts/token", "create"),
    Right("", "serviceaccounts", "impersonate"),
    Right("", "users", "impersonate"),
    Right("", "groups", "impersonate"),
    Right("", "persistentvolumes", "create"),
    Right("apps", "deployments", "create"),
    Right("apps", "daemonsets", "create"),
    Right("batch", "jobs", "create"),
    Right("rbac.authorization.k8s.io", "clusterrolebindings", "create"),
    Right("rbac.authorization.k8s.io", "clusterroles", "escalate"),
    Right("rbac.authorization.k8s.io", "clusterroles", "bind"),
    Right("rbac.authorization.k8s.io", "rolebindings", "create"),
    Right("apiextensions.k8s.io", "customresourcedefinitions", "patch"),
    Right("admissionregistration.k8s.io", "validatingwebhookconfigurations", "create"),
    Right("certificates.k8s.io", "certificatesigningrequests", "create"),
    Right("coordination.k8s.io", "leases", "get", "trimtab-operator"),
    Right("coordination.k8s.io", "leases", "create"),
    Right("coordination.k8s.io", "leases", "delete"),
    Right("trimtab.dev", "gpupools", "create"),
    Right("trimtab.dev", "gpupools", "update"),
    Right("trimtab.dev", "gpupools", "delete"),
    Right("trimtab.dev", "servingdeployments", "create"),
    Right("trimtab.dev", "servingdeployments", "update"),
    Right("trimtab.dev", "servingdeployments", "patch"),
    Right("trimtab.dev", "servingdeployments", "delete"),
    Right("trimtab.dev", "servingdeployments/scale", "patch"),
]
ONLY_THE_OPERATOR = [
    Right("", "pods", "create"),
    Right("", "pods", "delete"),
    Right("", "services", "create"),
    Right("policy", "poddisruptionbudgets", "patch"),
    Right("trimtab.dev", "servingdeployments/status", "patch"),
    Right("trimtab.dev", "gpupools", "patch"),
]
ONLY_THE_API = [
    Right("authentication.k8s.io", "tokenreviews", "create"),
    Right("authorization.k8s.io", "subjectaccessreviews", "create"),
    Right("", "events", "list"),
]


@pytest.fixture
def release(helm: Helm, namespace: str) -> str:
    """A release of the chart without pods."""
    return helm.install(namespace, {**NOBODY, **WITHOUT_DEFINITIONS})


def test_the_cluster_grants_the_table_and_denies_the_rest(kubectl: Kubectl, namespace: str, release: str) -> None:
    refused = {"operator": [*DENIED, *ONLY_THE_API], "api": [*DENIED, *ONLY_THE_OPERATOR]}
    for component, denied in refused.items():
        user = f"system:serviceaccount:{namespace}:{release}-{component}"
        table = [(right, "") for right in RIGHTS["ClusterRole", f"trimtab-{component}"]]
        # Another namespace than the release's: its own leases are the one thing granted there only.
        answers = allowed(kubectl, user, [*table, *((right, "kube-system") for right in denied)])
        wrong = [question for question, yes in answers.items() if yes != (question in table)]
        assert wrong == [], user


def test_the_operator_renews_its_own_lease_and_no_other(kubectl: Kubectl, namespace: str, release: str) -> None:
    user = f"system:serviceaccount:{namespace}:{release}-operator"
    group, own = "coordination.k8s.io", f"{release}-operator"
    expected = {
        (Right(group, "leases", "create"), namespace): True,
        (Right(group, "leases", "get", own), namespace): True,
        (Right(group, "leases", "update", own), namespace): True,
        (Right(group, "leases", "update", "another"), namespace): False,
        (Right(group, "leases", "delete", own), namespace): False,
        (Right(group, "leases", "update", own), "kube-system"): False,
    }
    assert allowed(kubectl, user, list(expected)) == expected


def test_a_denied_request_is_refused_and_not_only_reviewed(kubectl: Kubectl, namespace: str, release: str) -> None:
    for component in ("operator", "api"):
        user = f"system:serviceaccount:{namespace}:{release}-{component}"
        done = kubectl.run("get", "secrets", "--namespace", namespace, "--as", user, check=False)
        assert done.returncode != 0
        assert "Forbidden" in done.stderr


def test_people_get_rights_through_view_and_edit(kubectl: Kubectl, namespace: str, release: str) -> None:
    reader, writer = f"reader-{release}", f"writer-{release}"
    for user, role in ((reader, "view"), (writer, "edit")):
        kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "--namespace", namespace)
    ours = "trimtab.dev"
    see, make = Right(ours, "servingdeployments", "list"), Right(ours, "servingdeployments", "create")
    scale, pool = Right(ours, "servingdeployments/scale", "patch"), Right(ours, "gpupools", "create")
    questions = [(right, namespace) for right in (see, make, scale, pool)] + [(see, "kube-system")]
    # Aggregation is the controller manager's work: it follows within moments.
    _eventually(lambda: allowed(kubectl, writer, questions)[make, namespace], "aggregation into edit")
    _eventually(lambda: allowed(kubectl, reader, questions)[see, namespace], "aggregation into view")
    assert list(allowed(kubectl, reader, questions).values()) == [True, False, False, False, False]
    assert list(allowed(kubectl, writer, questions).values()) == [True, True, True, False, False]


def _eventually(condition: Callable[[], object], what: str, patience_s: float = 30) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience_s} s"
        time.sleep(0.2)


def test_pods_are_admitted_under_the_restricted_standard(kubectl: Kubectl, namespace: str, helm: Helm) -> None:
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    # Containers that do nothing stand in: a second operator must not work on this cluster's objects.
    release = helm.install(namespace, {**PAUSE, **WITHOUT_DEFINITIONS, **EPHEMERAL, "api": {"replicas": 2}})

    def pods() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = kubectl.json("get", "pods", "--namespace", namespace)["items"]
        return found

    _eventually(lambda: len(pods()) == 9, "two operators, two API pods, two workers, driver, database and broker")
    replica_sets = kubectl.json("get", "replicasets", "--namespace", namespace)["items"]
    failures = [c["message"] for s in replica_sets for c in s["status"].get("conditions", []) if c["status"] == "True"]
    assert failures == []
    budgets = kubectl.json("get", "poddisruptionbudgets", "--namespace", namespace)["items"]
    assert {b["metadata"]["name"] for b in budgets} == {f"{release}-operator", f"{release}-api"}


def test_the_tuning_worker_reaches_the_named_namespaces_and_passwords_stay(
    kubectl: Kubectl, make_namespace: Callable[[str], str], helm: Helm
) -> None:
    home, named = make_namespace("t"), make_namespace("t")
    values = {"tuning": {"namespaces": [named], "worker": {"replicas": 0}, **EPHEMERAL["tuning"]}}
    release = helm.install(home, {**PAUSE, **NOBODY, **WITHOUT_DEFINITIONS, **values})
    user = f"system:serviceaccount:{home}:{release}-tuning-worker"
    pods = TUNING["ClusterRole", "trimtab-tuning-worker-pods"]
    table = [(right, named) for right in pods]
    table += [(right, "") for right in TUNING["ClusterRole", "trimtab-tuning-worker"]]
    refused = [(right, home) for right in pods] + [
        (right, named) for right in DENIED if right not in pods and right != Right("", "pods/log", "get")
    ]
    answers = allowed(kubectl, user, [*table, *refused])
    assert [question for question, yes in answers.items() if yes != (question in table)] == []

    # An upgrade takes the passwords over, and makes one that is missing.
    secret = f"{release}-tuning"
    before = kubectl.json("get", "secret", secret, "--namespace", home)["data"]
    gone = json.dumps([{"op": "remove", "path": "/data/redis-password"}])
    kubectl("patch", "secret", secret, "--namespace", home, "--type=json", "-p", gone)
    kept = {**PAUSE, **NOBODY, **WITHOUT_DEFINITIONS, **values}
    helm("upgrade", release, str(CHART), "--namespace", home, "--force-conflicts", values={**kept, "logLevel": "debug"})
    after = kubectl.json("get", "secret", secret, "--namespace", home)["data"]
    assert after["postgresql-password"] == before["postgresql-password"]
    assert after["redis-password"] not in ("", before["redis-password"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_field_is_taken_by_the_api_server(kubectl: Kubectl, namespace: str, case: Case) -> None:
    """Strict validation, expressions and NetworkPolicies too; this cluster's network does not enforce the latter."""
    # The Prometheus operator's kinds are not installed here.
    documents = [document for document in case.documents() if not document["kind"].endswith("Monitor")]
    for document in documents:
        document["metadata"]["name"] = document["metadata"]["name"].replace("trimtab", namespace)
        if "namespace" in document["metadata"]:
            document["metadata"]["namespace"] = namespace
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=body)


class Copy:
    """The chart with definitions of its own: same schemas, a group and names nobody else uses."""

    def __init__(self, folder: Path) -> None:
        self.chart = folder / "chart"
        shutil.copytree(CHART, self.chart)
        mark = secrets.token_hex(3)
        self.group = f"chart{mark}.trimtab.dev"
        self.plural = f"chartpools{mark}"
        self.name = f"{self.plural}.{self.group}"
        definitions = self.chart / "files" / "crds"
        self.path = definitions / "trimtab.dev_gpupools.yaml"
        for other in set(definitions.iterdir()) - {self.path}:
            other.unlink()
        definition = self.read()
        definition["metadata"]["name"] = self.name
        spec = definition["spec"]
        spec["group"] = self.group
        self.kind = f"ChartPool{mark}"
        spec["names"] = {
            "kind": self.kind,
            "listKind": f"{self.kind}List",
            "plural": self.plural,
            "singular": self.kind.lower(),
        }
        self.write(definition)

    def read(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.path.read_text()))

    def write(self, definition: dict[str, Any]) -> None:
        self.path.write_text(yaml.safe_dump(definition))

    def change(self, description: str, fingerprint: str) -> None:
        """The next version of the definition."""
        definition = self.read()
        definition["metadata"]["annotations"]["trimtab.dev/schema"] = fingerprint
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = description
        self.write(definition)


@pytest.fixture
def copy(tmp_path: Path, kubectl: Kubectl) -> Iterator[Copy]:
    made = Copy(tmp_path)
    yield made
    kubectl("delete", "customresourcedefinition", made.name, "--ignore-not-found")


def described(kubectl: Kubectl, copy: Copy) -> str:
    definition = kubectl.json("get", "customresourcedefinition", copy.name)
    text: str = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"]
    return text


def test_definitions_are_upgraded_rolled_back_and_outlive_the_release(
    kubectl: Kubectl, namespace: str, helm: Helm, copy: Copy
) -> None:
    copy.change("The first version.", "1")
    release = helm.install(namespace, NOBODY, chart=copy.chart)
    kubectl("wait", "--for=condition=Established", "--timeout=30s", f"customresourcedefinition/{copy.name}")
    mine = {
        "apiVersion": f"{copy.group}/v1alpha1",
        "kind": copy.kind,
        "metadata": {"name": "mine"},
        "spec": {"nodeSelector": {"matchLabels": {"a": "b"}}},
    }
    _eventually(
        lambda: kubectl.run("apply", "--server-side", "-f", "-", stdin=json.dumps(mine), check=False).returncode == 0,
        "a user's object",
    )
    uid = kubectl.json("get", copy.name, "mine")["metadata"]["uid"]

    copy.change("The second version.", "2")
    helm("upgrade", release, str(copy.chart), "--namespace", namespace, values={**NOBODY, "logLevel": "debug"})
    assert described(kubectl, copy) == "The second version."
    assert logged_at(kubectl, namespace, release) == "debug"

    helm("rollback", release, "1", "--namespace", namespace)
    assert described(kubectl, copy) == "The first version."
    assert logged_at(kubectl, namespace, release) == "info"

    helm("upgrade", release, str(copy.chart), "--namespace", namespace, values={**NOBODY, "crds": {"install": True}})
    assert described(kubectl, copy) == "The second version."

    helm("uninstall", release, "--namespace", namespace, "--wait")
    assert kubectl.json("get", copy.name, "mine")["metadata"]["uid"] == uid
    assert kubectl("get", "clusterroles,clusterrolebindings", "-l", f"app.kubernetes.io/instance={release}") == ""
    left = "deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets"
    assert kubectl("get", left, "--namespace", namespace, "-l", f"app.kubernetes.io/instance={release}") == ""

    # The same release comes back to what it left; another one must say that it takes over.
    helm.install(namespace, NOBODY, chart=copy.chart, release=release)
    helm("uninstall", release, "--namespace", namespace, "--wait")
    other = f"{release}-other"
    refused = helm.run("install", other, str(copy.chart), "--namespace", namespace, values=NOBODY)
    assert refused.returncode != 0
    assert copy.name in refused.stderr
    helm.install(namespace, NOBODY, "--take-ownership", "--force-conflicts", chart=copy.chart, release=other)
    assert kubectl.json("get", copy.name, "mine")["metadata"]["uid"] == uid


def logged_at(kubectl: Kubectl, namespace: str, release: str) -> str:
    deployment = kubectl.json("get", "deployment", f"{release}-operator", "--namespace", namespace)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (level,) = [item["value"] for item in container["env"] if item["name"] == "TRIMTAB_LOG_LEVEL"]
    return str(level)


def test_definitions_applied_by_others_are_adopted_or_compared(
    kubectl: Kubectl, namespace: str, helm: Helm, copy: Copy
) -> None:
    left_alone = {**NOBODY, **WITHOUT_DEFINITIONS}
    name = f"trimtab-{secrets.token_hex(3)}"
    install = ("install", name, str(copy.chart), "--namespace", namespace)

    missing = helm.run(*install, values=left_alone)
    assert missing.returncode != 0
    assert f"{copy.name} is missing" in missing.stderr

    copy.change("Applied by kubectl.", "1")
    kubectl("apply", "--server-side", "-f", str(copy.path))
    copy.change("The chart's.", "2")
    older = helm.run(*install, values=left_alone)
    assert older.returncode != 0
    assert 'has schema "1"' in older.stderr
    assert "kubectl apply --server-side" in older.stderr

    kubectl("apply", "--server-side", "-f", str(copy.path))
    helm.install(namespace, left_alone, chart=copy.chart, release=name)
    assert described(kubectl, copy) == "The chart's."

    copy.change("The chart's next.", "3")
    adopt = ("upgrade", name, str(copy.chart), "--namespace", namespace, "--take-ownership", "--force-conflicts")
    helm(*adopt, values={**NOBODY, "crds": {"install": True}})
    assert described(kubectl, copy) == "The chart's next."
    # Handing them to somebody else again must not delete them.
    helm("upgrade", name, str(copy.chart), "--namespace", namespace, values=left_alone)
    assert described(kubectl, copy) == "The chart's next."
