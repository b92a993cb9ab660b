"""The rights the chart grants, one by one: the table that rendering and cluster are compared with."""

from typing import NamedTuple


class Right(NamedTuple):
    """`name` empty: every object of the resource."""

    group: str
    resource: str
    verb: str
    name: str = ""


def _rights(group: str, resources: str, verbs: str, name: str = "") -> set[Right]:
    return {Right(group, resource, verb, name) for resource in resources.split() for verb in verbs.split()}


READ = "get list watch"
OURS = "trimtab.dev"

RIGHTS: dict[tuple[str, str], set[Right]] = {
    ("ClusterRole", "trimtab-operator"): (
        _rights(OURS, "gpupools servingdeployments tuningjobs", READ)
        | _rights(OURS, "gpupools gpupools/status servingdeployments/status tuningjobs tuningjobs/status", "patch")
        | _rights(OURS, "servingdeployments/finalizers", "update")
        | _rights("", "pods", f"{READ} create delete")
        | _rights("", "services", f"{READ} create patch delete")
        | _rights("policy", "poddisruptionbudgets", f"{READ} create patch delete")
        | _rights("", "nodes", READ)
        | _rights("resource.k8s.io", "resourceslices", READ)
        | _rights("", "serviceaccounts", "get")
        | _rights("events.k8s.io", "events", "create patch")
    ),
    ("Role", "trimtab-operator"): (
        _rights("coordination.k8s.io", "leases", "create")
        | _rights("coordination.k8s.io", "leases", "get update", "trimtab-operator")
    ),
    ("ClusterRole", "trimtab-api"): (
        _rights(OURS, "gpupools servingdeployments", READ)
        | _rights("", "pods events", READ)
        | _rights("", "serviceaccounts", "get")
        | _rights("authentication.k8s.io", "tokenreviews", "create")
        | _rights("authorization.k8s.io", "subjectaccessreviews", "create")
    ),
    ("ClusterRole", "trimtab-view"): _rights(
        OURS,
        "gpupools gpupools/status servingdeployments servingdeployments/status servingdeployments/scale tuningjobs"
        " tuningjobs/status",
        READ,
    ),
    ("ClusterRole", "trimtab-edit"): (
        _rights(OURS, "servingdeployments tuningjobs", "create update patch delete deletecollection")
        | _rights(OURS, "servingdeployments/scale", "update patch")
    ),
    ("ClusterRole", "trimtab-admin"): _rights(OURS, "gpupools", "create update patch delete deletecollection"),
}

# Only where the tuning service is installed.
TUNING: dict[tuple[str, str], set[Right]] = {
    ("ClusterRole", "trimtab-tuning-worker"): (_rights("", "nodes", "get") | _rights(OURS, "gpupools", "get list")),
    # In every namespace, or in those that the values name.
    ("ClusterRole", "trimtab-tuning-worker-pods"): (
        _rights("", "pods", "get list create delete")
        | _rights("", "pods/log", "get")
        | _rights(OURS, "servingdeployments", "get")
    ),
}

# Only where the installation has routers.
ROUTING: dict[tuple[str, str], set[Right]] = {
    ("ClusterRole", "trimtab-operator-routing"): (
        _rights("apps", "deployments", f"{READ} create patch delete")
        | _rights("inference.networking.k8s.io", "inferencepools", f"{READ} create patch delete")
        | _rights("inference.networking.x-k8s.io", "inferenceobjectives", f"{READ} create patch delete")
        | _rights("gateway.networking.k8s.io", "httproutes", f"{READ} create patch delete")
    ),
}

# Whoever has one of these can become somebody else or read what is not theirs.
FORBIDDEN_VERBS = {"impersonate", "escalate", "bind", "approve", "sign", "use", "proxy"}
# Whether an account is there says nothing that its holder could use: tokens and Secrets have names of their own.
HARMLESS = {Right("", "serviceaccounts", "get")}
FORBIDDEN_RESOURCES = {
    "secrets",
    "configmaps",
    "serviceaccounts",
    "serviceaccounts/token",
    "pods/exec",
    "pods/attach",
    "pods/portforward",
    "pods/proxy",
    "pods/ephemeralcontainers",
    "services/proxy",
    "nodes/proxy",
    "roles",
    "rolebindings",
    "clusterroles",
    "clusterrolebindings",
    "customresourcedefinitions",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
}
