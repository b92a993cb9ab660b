"""The definitions: names, columns, scale, and the schema with its rules."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from controlplane.model.cluster import GPUPoolSpec, GPUPoolStatus
from controlplane.model.resource import GROUP, VERSION
from controlplane.model.serving import ServingDeploymentSpec, ServingDeploymentStatus
from controlplane.model.tuning_resource import TuningJobSpec, TuningJobStatus
from operators.crds.rules import POOL, SERVING, Rule, install
from operators.crds.schema import Schema, comparable, structural
from operators.crds.tuning import TUNING

# The chart compares it with what the cluster has before it upgrades (helm/templates/crds.yaml).
SCHEMA_ANNOTATION = f"{GROUP}/schema"


def _column(name: str, kind: str, path: str, description: str, priority: int = 0) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | ({"priority": priority} if priority else {})


def _root(description: str, spec: Schema, status: type[BaseModel], rules: tuple[Rule, ...]) -> Schema:
    status_schema = _without_defaults(structural(status))
    conditions = status_schema["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    root: Schema = {
        "description": description,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this schema."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": _defaults_said(spec),
            "status": status_schema,
        },
    }
    install(root, rules)
    return root


def _definition(names: Schema, scope: str, schema: Schema, columns: list[Schema], subresources: Schema) -> Schema:
    spec: Schema = {
        "group": GROUP,
        "scope": scope,
        "names": names,
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": schema},
                "subresources": subresources,
                "additionalPrinterColumns": columns,
            }
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{names['plural']}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "trimtab"},
            "annotations": {
                # Deleting a definition deletes every object users made of it. Helm never deletes what lies in crds/;
                # this tells tools that render the chart and manage the result to do the same.
                "helm.sh/resource-policy": "keep",
                SCHEMA_ANNOTATION: _fingerprint(spec),
            },
        },
        "spec": spec,
    }


def _fingerprint(spec: Schema) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def _without_defaults(node: Any) -> Any:
    # Status says what was seen; the API server must not fill in what the controller left out.
    if isinstance(node, dict):
        return {key: _without_defaults(value) for key, value in node.items() if key != "default"}
    return [_without_defaults(item) for item in node] if isinstance(node, list) else node


def _defaults_said(node: Any) -> Any:
    """With the default at the end of each description: `kubectl explain` shows no other sign of it."""
    if isinstance(node, list):
        return [_defaults_said(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: value if key == "default" else _defaults_said(value) for key, value in node.items()}
    default, said = node.get("default"), node.get("description")
    if isinstance(said, str) and default is not None and not isinstance(default, dict | list):
        shown = (
            default
            if isinstance(default, str)
            else f"{default:g}"
            if isinstance(default, float)
            else json.dumps(default)
        )
        out["description"] = f"{said} Default: {shown}."
    return out


_READY = '.status.conditions[?(@.type=="Ready")]'


def gpu_pool() -> Schema:
    """The GPUPool definition."""
    names: Schema = {
        "kind": "GPUPool",
        "listKind": "GPUPoolList",
        "plural": "gpupools",
        "singular": "gpupool",
        "shortNames": ["gpool"],
        "categories": ["trimtab"],
    }
    columns = [
        _column("Accelerator", "string", ".status.accelerator", "Accelerator stated or detected."),
        _column("NIC", "string", ".status.nic", "NIC class stated or detected."),
        _column("Nodes", "integer", ".status.nodes", "Nodes the selector matches."),
        _column("Usable", "integer", ".status.readyNodes", "Ready, not cordoned, not quarantined."),
        _column("Free", "integer", ".status.freeAccelerators", "Accelerators nobody requested; spares excluded."),
        _column("Total", "integer", ".status.accelerators", "Accelerators on all nodes."),
        _column("Ready", "string", f"{_READY}.status", "Whether placement may use the pool."),
        _column("Reason", "string", f"{_READY}.reason", "The dominant reason."),
        _column("Largest", "integer", ".status.largestFreeBlock", "Most free accelerators on one node.", 1),
        _column("Quarantined", "integer", ".status.quarantinedNodes", "Nodes under quarantine.", 1),
        _column("Spares", "integer", ".status.spareNodes", "Nodes kept free as replacements.", 1),
        _column("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
    ]
    schema = _root(
        "A GPUPool names the nodes that carry one kind of accelerator and are planned as one supply.",
        structural(GPUPoolSpec),
        GPUPoolStatus,
        POOL,
    )
    return _definition(names, "Cluster", schema, columns, {"status": {}})


def serving_deployment() -> Schema:
    """The ServingDeployment definition."""
    names: Schema = {
        "kind": "ServingDeployment",
        "listKind": "ServingDeploymentList",
        "plural": "servingdeployments",
        "singular": "servingdeployment",
        "shortNames": ["sdep"],
        "categories": ["trimtab", "all"],
    }
    columns = [
        _column("Desired", "integer", ".spec.replicas", "Replicas asked for."),
        _column("Ready", "integer", ".status.readyReplicas", "Replicas whose engine answers."),
        _column("Updated", "integer", ".status.updatedReplicas", "Replicas of the current revision."),
        _column("Accelerator", "string", ".status.accelerator", "Accelerator most replicas run on."),
        _column("Reason", "string", f"{_READY}.reason", "The dominant reason."),
        _column("Model", "string", ".spec.model.name", "Model served.", 1),
        _column("Revision", "string", ".status.revision", "Hash of what the pods are rendered from.", 1),
        _column("URL", "string", ".status.endpoints[0].url", "Endpoint inside the cluster.", 1),
        _column("Message", "string", f"{_READY}.message", "The reason in words.", 1),
        _column("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
    ]
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    schema = _root(
        "A ServingDeployment is an LLM endpoint: a model, a latency promise, accelerator choices in order of preference, "
        "a number of replicas and how they are rolled over.",
        structural(ServingDeploymentSpec),
        ServingDeploymentStatus,
        SERVING,
    )
    return _definition(names, "Namespaced", schema, columns, {"status": {}, "scale": scale})


def tuning_job() -> Schema:
    """The TuningJob definition."""
    names: Schema = {
        "kind": "TuningJob",
        "listKind": "TuningJobList",
        "plural": "tuningjobs",
        "singular": "tuningjob",
        "shortNames": ["tj"],
        "categories": ["trimtab"],
    }
    complete = '.status.conditions[?(@.type=="Complete")]'
    columns = [
        _column("State", "string", ".status.state", "Pending, Running, Paused, Done, Failed or Cancelled."),
        _column("Trials", "string", ".status.trials", "Ended trials and those known to be needed."),
        _column("Best", "string", ".status.best.text", "The first objective of the best setting."),
        _column("Gain", "string", ".status.gain.text", "Gain over the configuration in use with its interval."),
        _column("Reason", "string", f"{complete}.reason", "The dominant reason."),
        _column("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
        _column("Job", "string", ".status.jobId", "Id under /v1/tuning-jobs.", 1),
        _column("Message", "string", f"{complete}.message", "The reason in words.", 1),
    ]
    schema = _root(
        "A TuningJob searches engine and parallelism settings on real measurements, within a budget, and hands over the best "
        "one with the gain over the one in use.",
        comparable(structural(TuningJobSpec)),
        TuningJobStatus,
        TUNING,
    )
    return _definition(names, "Namespaced", schema, columns, {"status": {}})


def all_definitions() -> dict[str, dict[str, Any]]:
    """File name to definition."""
    return {f"{GROUP}_{d['spec']['names']['plural']}.yaml": d for d in (gpu_pool(), serving_deployment(), tuning_job())}
