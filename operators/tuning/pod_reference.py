"""The pod that answers for the configuration in use, and what its answers follow from. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from operators.tuning.pod_names import Attempt, trial_pod_name
from operators.tuning.pod_nodes import pinned
from operators.tuning.pod_spec import Rendered

# Of a container: what an engine's answers can follow from.
_OF_CONTAINER = ("name", "image", "command", "args", "env", "envFrom", "resources", "volumeMounts")


def placed(rendered: Rendered, of: Attempt, *, in_use: bool, node: str | None) -> Rendered:
    """The attempt's pod under its name, on this node where one is named."""
    manifest = dict(rendered.manifest)
    manifest["metadata"] = {**manifest["metadata"], "name": trial_pod_name(of, in_use=in_use)}
    if node is not None:
        manifest["spec"] = {**manifest["spec"], "affinity": pinned(manifest["spec"]["affinity"], node)}
    return Rendered(manifest, rendered.container, rendered.port, rendered.served_name, rendered.api_key)


def answering(rendered: Rendered, version: str) -> str:
    """Names image, command, settings, model and volumes of a pod without a key, and its namespace: a claim or a Secret of
    the same name is another one elsewhere, and nobody's answers are held against another tenant's. Weights that change
    under the same name are not seen."""
    pod: dict[str, Any] = rendered.manifest["spec"]
    containers = [
        {name: one[name] for name in _OF_CONTAINER if name in one}
        for one in (*pod.get("initContainers", ()), *pod["containers"])
    ]
    namespace = rendered.manifest["metadata"]["namespace"]
    facts = {"namespace": namespace, "containers": containers, "volumes": pod.get("volumes", []), "version": version}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
