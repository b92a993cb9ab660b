"""The tuning service in the chart: its pods, its database and broker or somebody else's, its account's reach."""

import subprocess
from typing import Any

import pytest
import yaml

from controlplane.settings import api_settings, operator_settings, worker_settings
from tests.unit.chart.rendering import CHART, DEFAULT, EVERYTHING, NAMESPACE, WITHOUT_TUNING, render, rendered
from tests.unit.chart.test_pods import Recorded, container, environment, one

WORKERS = pytest.mark.parametrize(("component", "role"), [("tuning-driver", "driver"), ("tuning-worker", "trials")])
SERVERS = pytest.mark.parametrize(("kind", "component"), [("StatefulSet", "postgres"), ("Deployment", "redis")])
PODS = [
    ("Deployment", "tuning-driver", 65532),
    ("Deployment", "tuning-worker", 65532),
    ("StatefulSet", "postgres", 999),
    ("Deployment", "redis", 999),
]


def documents(helm: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(rendered(helm, {**DEFAULT.values, **values})) if document]


def named(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(document["kind"], document["metadata"]["name"]) for document in found}


def pod_of(kind: str, component: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(DEFAULT, kind, f"trimtab-{component}")["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(("kind", "component", "account"), PODS)
def test_every_pod_is_confined(kind: str, component: str, account: int) -> None:
    spec = pod_of(kind, component)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == account
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (own,) = spec["containers"]
    assert own["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in own["resources"]["limits"] and "memory" in own["resources"]["requests"]
    # Only workers speak to the API server.
    assert spec["automountServiceAccountToken"] is (component == "tuning-worker")
    assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume)


@WORKERS
def test_workers_read_everything_they_are_told(component: str, role: str) -> None:
    told = environment(DEFAULT, component)
    read = Recorded(told)
    found = worker_settings(read)
    assert {name for name in told if name.startswith("TRIMTAB_")} <= read.names
    assert found.database == (
        f"postgresql://trimtab:trimtab-tuning.postgresql-password@trimtab-postgres.{NAMESPACE}.svc:5432/trimtab"
    )
    assert found.broker == f"redis://:trimtab-tuning.redis-password@trimtab-redis.{NAMESPACE}.svc:6379/0"
    own = container(DEFAULT, component)
    assert own["args"] == ["worker", role]
    assert own["ports"] == [{"name": "http", "containerPort": found.process.port}]
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert own[probe]["httpGet"] == {"path": path, "port": "http"}


def test_workers_make_pods_and_know_where_and_of_which_image() -> None:
    default = worker_settings(environment(DEFAULT, "tuning-worker"))
    assert (default.pods, default.namespaces, default.engine_images) == (True, (), {})
    everything = worker_settings(environment(EVERYTHING, "tuning-worker"))
    assert everything.namespaces == ("team-a", "team-b")
    assert everything.engine_images == EVERYTHING.values["engineImages"]
    # The load generator's time counts in what it measures: throttled, it would lie.
    assert "cpu" not in container(DEFAULT, "tuning-worker")["resources"]["limits"]


def test_one_driver_and_one_broker_at_a_time() -> None:
    for component in ("tuning-driver", "redis"):
        spec = one(DEFAULT, "Deployment", f"trimtab-{component}")["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert one(EVERYTHING, "Deployment", "trimtab-tuning-worker")["spec"]["replicas"] == 4


def test_api_and_operator_know_the_same_database() -> None:
    url = worker_settings(environment(DEFAULT, "tuning-driver")).database
    assert api_settings(environment(DEFAULT, "api")).database_url == url
    assert operator_settings(environment(DEFAULT, "operator")).database_url == url


def test_passwords_stand_in_a_secret_and_nowhere_else(helm: str) -> None:
    text = render(helm, DEFAULT.values).stdout
    (secret,) = [d for d in yaml.safe_load_all(text) if d and d["kind"] == "Secret"]
    assert set(secret["data"]) == {"postgresql-password", "redis-password"}
    for value in secret["data"].values():
        assert len(value) >= 43  # 32 characters in base64
        assert text.count(value) == 1
    again = [d for d in yaml.safe_load_all(render(helm, DEFAULT.values).stdout) if d and d["kind"] == "Secret"]
    assert again[0]["data"] != secret["data"]


def test_a_secret_of_the_user_s_is_taken_instead(helm: str) -> None:
    found = documents(helm, {"tuning": {"passwordSecret": "ours"}})
    assert not [d for d in found if d["kind"] == "Secret"]
    (api,) = [d for d in found if d["kind"] == "Deployment" and d["metadata"]["name"] == "trimtab-api"]
    (env,) = [e for e in api["spec"]["template"]["spec"]["containers"][0]["env"] if e["name"] == "DATABASE_PASSWORD"]
    assert env["valueFrom"]["secretKeyRef"] == {"name": "ours", "key": "postgresql-password"}


def test_a_database_and_a_broker_elsewhere_replace_the_chart_s() -> None:
    found = named(EVERYTHING.documents())
    assert not {("StatefulSet", "trimtab-postgres"), ("Deployment", "trimtab-redis")} & found
    assert not [name for kind, name in found if kind == "Secret"]
    assert environment(EVERYTHING, "api")["TRIMTAB_DATABASE_URL"] == "our-database.uri"
    told = environment(EVERYTHING, "tuning-worker")
    assert (told["TRIMTAB_DATABASE_URL"], told["TRIMTAB_BROKER_URL"]) == ("our-database.uri", "our-redis.url")
    ways = one(EVERYTHING, "NetworkPolicy", "trimtab-tuning-driver")["spec"]["egress"]
    assert {port["port"] for way in ways for port in way["ports"]} == {53, 5433, 6380}


def test_only_one_of_the_two_may_be_elsewhere(helm: str) -> None:
    found = named(documents(helm, {"tuning": {"database": {"urlSecret": {"name": "d"}}}}))
    assert ("Deployment", "trimtab-redis") in found and ("StatefulSet", "trimtab-postgres") not in found
    assert ("Secret", "trimtab-tuning") in found


def test_without_tuning_nothing_of_it_is_left_but_the_rule_who_may_ask(helm: str) -> None:
    found = documents(helm, WITHOUT_TUNING)
    words = ("tuning-", "postgres", "redis", "Secret")
    left = {(kind, name) for kind, name in named(found) if any(word in f"{kind} {name}" for word in words)}
    assert left == set()
    assert "DATABASE" not in yaml.safe_dump_all(found)
    assert ("ValidatingAdmissionPolicyBinding", "trimtab-tuningjobs") in named(found)


def test_results_outlive_the_pod_unless_asked_otherwise(helm: str) -> None:
    spec = one(DEFAULT, "StatefulSet", "trimtab-postgres")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"] == {"storage": "8Gi"}
    assert "storageClassName" not in claim["spec"]
    storage = {"size": "20Gi", "className": "fast"}
    (fast,) = [d for d in documents(helm, {"tuning": {"database": {"storage": storage}}}) if d["kind"] == "StatefulSet"]
    assert fast["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    (gone,) = [
        d
        for d in documents(helm, {"tuning": {"database": {"storage": {"ephemeral": True}}}})
        if d["kind"] == "StatefulSet"
    ]
    assert "volumeClaimTemplates" not in gone["spec"]
    assert "emptyDir" in next(v for v in gone["spec"]["template"]["spec"]["volumes"] if v["name"] == "data")


@SERVERS
def test_scripts_are_whole_shell_and_hold_nothing_that_kubernetes_would_replace(kind: str, component: str) -> None:
    (own,) = pod_of(kind, component)["containers"]
    (script,) = own["args"]
    assert script == (CHART / "files" / "tuning" / f"{component}.sh").read_text()
    assert subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=False).returncode == 0
    assert "$(" not in script
    assert own["command"] == ["/bin/sh", "-euc"]


@SERVERS
def test_servers_are_reached_by_our_pods_only(kind: str, component: str) -> None:
    policy = one(DEFAULT, "NetworkPolicy", f"trimtab-{component}")["spec"]
    assert policy["egress"] == []
    (way,) = policy["ingress"]
    callers = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in way["from"]}
    workers = {"tuning-driver", "tuning-worker"}
    assert callers == (workers | {"api", "operator"} if component == "postgres" else workers)


def test_an_account_of_its_own_and_namespaces_that_can_be_named() -> None:
    reach = {
        case.name: {
            (d["kind"], d["metadata"].get("namespace"))
            for d in case.documents()
            if d["kind"].endswith("Binding") and d.get("roleRef", {}).get("name") == "trimtab-tuning-worker-pods"
        }
        for case in (DEFAULT, EVERYTHING)
    }
    assert reach["default"] == {("ClusterRoleBinding", None)}
    assert reach["everything"] == {("RoleBinding", "team-a"), ("RoleBinding", "team-b")}


def test_whoever_changes_a_job_s_spec_is_asked_for_rights_and_nobody_else() -> None:
    spec = one(DEFAULT, "ValidatingAdmissionPolicy", "trimtab-tuningjobs")["spec"]
    (rule,) = spec["matchConstraints"]["resourceRules"]
    # Writes of the status come by a resource of their own.
    assert rule["resources"] == ["tuningjobs"]
    assert spec["failurePolicy"] == "Fail"
    assert "oldObject.spec" in spec["matchConditions"][0]["expression"]
    assert [check["reason"] for check in spec["validations"]] == ["Forbidden"] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"namespaces": ["Team_A"]},
        {"namespaces": ["a", "a"]},
        {"worker": {"replicas": -1}},
        {"driver": {"replicas": 2}},
        {"database": {"url": "postgresql://u:secret@h/d"}},
        {"database": {"storage": {"size": "lots"}}},
        {"database": {"image": ""}},
        {"broker": {"urlSecret": {"name": "Not_A_Name"}}},
        {"enabled": "yes"},
    ],
    ids=str,
)
def test_the_schema_refuses(helm: str, changes: dict[str, Any]) -> None:
    assert render(helm, {"tuning": changes}).returncode != 0
