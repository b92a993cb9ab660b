"""The two pods: hardened, probed, told what the processes read, found by the API."""

import re
from typing import Any

import pytest

from controlplane.api.cache import API_POD_SELECTOR
from controlplane.settings import ProcessSettings, api_settings, operator_settings
from operators.runtime.manager import STOP_GRACE_S
from tests.unit.chart.rendering import CASES, DEFAULT, EVERYTHING, Case, rendered

BOTH = pytest.mark.parametrize("component", ["operator", "api"])
ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def one(case: Case, kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in case.documents() if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def deployment(case: Case, component: str) -> dict[str, Any]:
    return one(case, "Deployment", f"trimtab-{component}")


def pod_spec(case: Case, component: str) -> dict[str, Any]:
    spec: dict[str, Any] = deployment(case, component)["spec"]["template"]["spec"]
    return spec


def container(case: Case, component: str) -> dict[str, Any]:
    (only,) = pod_spec(case, component)["containers"]
    return dict(only)


def environment(case: Case, component: str) -> dict[str, str]:
    """As the container gets it: a field's path stands for its value, NAME.KEY for what a Secret holds."""
    told: dict[str, str] = {}
    for item in container(case, component)["env"]:
        source = item.get("valueFrom", {})
        if "fieldRef" in source:
            told[item["name"]] = source["fieldRef"]["fieldPath"]
        elif "secretKeyRef" in source:
            told[item["name"]] = "{name}.{key}".format(**source["secretKeyRef"])
        else:
            # Kubernetes fills in what stands before it in the list.
            told[item["name"]] = re.sub(r"\$\((\w+)\)", lambda found: told[found[1]], item["value"])
    return told


@ALL
@BOTH
def test_pods_meet_the_restricted_standard_and_more(case: Case, component: str) -> None:
    spec, own = pod_spec(case, component), container(case, component)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    scratch, calibration = spec["volumes"]
    assert set(scratch) == {"name", "emptyDir"}
    assert "sizeLimit" in scratch["emptyDir"]
    assert set(calibration) == {"name", "configMap"}


@ALL
@BOTH
def test_pods_are_probed_where_they_listen(case: Case, component: str) -> None:
    own = container(case, component)
    assert own["args"] == {
        "tuning-driver": ["worker", "driver"],
        "tuning-worker": ["worker", "trials"],
    }.get(component, [component])
    assert own["ports"] == [{"name": "http", "containerPort": int(environment(case, component)["TRIMTAB_PORT"])}]
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert own[probe]["httpGet"] == {"path": path, "port": "http"}


@ALL
@BOTH
def test_selectors_select_their_own_pods_only(case: Case, component: str) -> None:
    own = deployment(case, component)["spec"]
    labels = own["template"]["metadata"]["labels"]
    for document in case.documents():
        selector = document.get("spec", {}).get("selector") or document.get("spec", {}).get("podSelector")
        if selector is None or document["kind"] in ("ServiceMonitor", "PodMonitor"):
            continue
        wanted = selector.get("matchLabels", selector)
        assert (wanted.items() <= labels.items()) == document["metadata"]["name"].endswith(component)
    (spread,) = own["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"


def test_the_api_finds_its_own_replicas() -> None:
    labels = deployment(DEFAULT, "api")["spec"]["template"]["metadata"]["labels"]
    assert dict(term.split("=") for term in API_POD_SELECTOR.split(",")).items() <= labels.items()


@ALL
@BOTH
def test_processes_are_told_who_they_are_and_read_everything_they_are_told(case: Case, component: str) -> None:
    told = environment(case, component)
    assert told["TRIMTAB_NAMESPACE"] == "metadata.namespace"
    assert told["TRIMTAB_POD_NAME"] == "metadata.name"
    read = Recorded(told)
    (operator_settings if component == "operator" else api_settings)(read)
    assert {name for name in told if name.startswith("TRIMTAB_")} <= read.names


class Recorded(dict[str, str]):
    """An environment that remembers what was asked of it."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)


def test_the_operator_reads_what_the_values_say() -> None:
    read = operator_settings(environment(EVERYTHING, "operator"))
    assert read.engine_images == EVERYTHING.values["engineImages"]
    assert operator_settings(environment(DEFAULT, "operator")).engine_images == {}
    assert set(read.routers) == set(EVERYTHING.values["routers"])
    assert read.routers["gateway-inference-extension"].domain == "llm.example"
    assert operator_settings(environment(DEFAULT, "operator")).routers == {}
    assert read.cluster_domain == "cluster.example"
    assert read.leader_election
    assert read.process == ProcessSettings(
        "0.0.0.0", 8080, "metadata.namespace", "metadata.name", None, log_level="debug", log_format="text"
    )
    assert one(EVERYTHING, "Role", "trimtab-operator")["rules"][1]["resourceNames"] == [read.lease_name]


def test_the_api_reads_what_the_values_say() -> None:
    assert api_settings(environment(DEFAULT, "api")).audience == "trimtab"
    assert api_settings(environment(EVERYTHING, "api")).audience is None
    process = api_settings(environment(DEFAULT, "api")).process
    assert (process.host, process.port, process.log_format) == ("0.0.0.0", 8000, "json")


@ALL
@BOTH
def test_a_calibration_may_be_installed_later(case: Case, component: str) -> None:
    name = case.values.get("planner", {"calibration": {"configMap": "trimtab-calibration"}})["calibration"]["configMap"]
    (volume,) = [volume for volume in pod_spec(case, component)["volumes"] if "configMap" in volume]
    assert volume["configMap"] == {"name": name, "optional": True}
    (mount,) = [mount for mount in container(case, component)["volumeMounts"] if mount["name"] == volume["name"]]
    assert mount["readOnly"] is True
    # As a whole: a mount of one key would not follow changes, and would hide a misnamed one.
    assert "subPath" not in mount
    read = operator_settings if component == "operator" else api_settings
    assert read(environment(case, component)).calibration == mount["mountPath"]


def test_no_calibration_at_all_can_be_asked_for(helm: str) -> None:
    assert "calibration" not in rendered(helm, {**DEFAULT.values, "planner": {"calibration": {"configMap": ""}}})


def test_a_leaving_leader_has_time_to_give_its_lease_back() -> None:
    spec = deployment(DEFAULT, "operator")["spec"]
    assert spec["replicas"] == 2
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= STOP_GRACE_S + 10
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_budgets_only_where_there_is_more_than_one() -> None:
    budgets = {case.name: [d for d in case.documents() if d["kind"] == "PodDisruptionBudget"] for case in CASES}
    assert [d["metadata"]["name"] for d in budgets["default"]] == ["trimtab-operator"]
    assert [d["metadata"]["name"] for d in budgets["everything"]] == ["trimtab-api", "trimtab-operator"]
    assert all(d["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for d in budgets["everything"])


def test_the_service_leads_to_the_api() -> None:
    default, everything = (one(case, "Service", "trimtab-api")["spec"] for case in CASES)
    assert default["type"] == "ClusterIP"
    (port,) = default["ports"]
    assert (port["port"], port["targetPort"]) == (80, "http")
    assert "nodePort" not in port
    (port,) = everything["ports"]
    assert (everything["type"], port["port"], port["nodePort"]) == ("NodePort", 8080, 30080)


@pytest.mark.parametrize(("component", "port"), [("operator", 8080), ("api", 8000)])
def test_network_policies_leave_the_ways_that_are_needed(component: str, port: int) -> None:
    policy = one(EVERYTHING, "NetworkPolicy", f"trimtab-{component}")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"port": port, "protocol": "TCP"}]}]
    api_server, names, engines, database = policy["egress"]
    assert [item["port"] for item in api_server["ports"]] == [16443]
    assert {(item["port"], item["protocol"]) for item in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert engines["to"][0]["podSelector"] == {"matchLabels": {"trimtab.dev/leader": "true"}}
    assert database == {"ports": [{"port": 5433, "protocol": "TCP"}]}


def test_monitors_scrape_both() -> None:
    assert not [d for d in DEFAULT.documents() if d["kind"].endswith("Monitor")]
    for kind, name, key in (
        ("ServiceMonitor", "trimtab-api", "endpoints"),
        ("PodMonitor", "trimtab-operator", "podMetricsEndpoints"),
    ):
        monitor = one(EVERYTHING, kind, name)
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        assert monitor["spec"][key] == [{"port": "http", "path": "/metrics", "interval": "30s"}]
        component = name.removeprefix("trimtab-")
        labels = deployment(EVERYTHING, component)["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


@BOTH
def test_placement_of_our_own_pods_can_be_steered(component: str) -> None:
    spec = pod_spec(EVERYTHING, component)
    assert spec["priorityClassName"] == "system-cluster-critical"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["nodeSelector"] == {"role": "system"}
    assert spec["tolerations"] == EVERYTHING.values[component]["tolerations"]
    assert container(EVERYTHING, component)["image"] == "registry.example/trimtab:1.2.3"
    assert container(DEFAULT, component)["image"] == "localhost/trimtab/trimtab:0.1.0"
