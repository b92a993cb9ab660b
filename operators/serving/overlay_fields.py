"""Which fields of a pod `spec.podTemplate` may set, and which the renderer owns, with what sets them instead. Pure."""

from __future__ import annotations

ENGINE_CONTAINER = "engine"

# Volumes and mounts that the renderer makes; the template may resize `shm` and `scratch`, nothing else of them.
SHM, SCRATCH = "shm", "scratch"
OWN_VOLUMES = frozenset({"model", "cache", "engine-config", "mpi-ssh"})

# Names the renderer sets on the engine container, and paths it mounts.
OWNED_ENV = frozenset({"HOME", "USER", "HF_HOME", "POD_IP", "VLLM_HOST_IP"})
OWNED_MOUNTS = frozenset({"/model", "/cache", "/tmp", "/dev/shm", "/etc/trimtab"})  # noqa: S108 - paths inside the pod

POD_FIELDS = frozenset(
    {
        "volumes",
        "containers",
        "initContainers",
        "imagePullSecrets",
        "tolerations",
        "securityContext",
        "serviceAccountName",
        "automountServiceAccountToken",
        "runtimeClassName",
        "dnsPolicy",
        "dnsConfig",
        "hostAliases",
        "enableServiceLinks",
        "resourceClaims",
    }
)
ENGINE_FIELDS = frozenset(
    {
        "name",
        "env",
        "envFrom",
        "imagePullPolicy",
        "resources",
        "securityContext",
        "volumeMounts",
        "volumeDevices",
        "terminationMessagePolicy",
    }
)
_PLACEMENT = "placement decides where pods run: use spec.explicit.choices[].pools, nic and topology"
OWNED_POD_FIELDS = {
    "affinity": _PLACEMENT,
    "nodeName": _PLACEMENT,
    "nodeSelector": _PLACEMENT,
    "schedulerName": _PLACEMENT,
    "topologySpreadConstraints": _PLACEMENT,
    "schedulingGates": _PLACEMENT,
    "hostNetwork": "host namespaces are never shared; RDMA devices come as resources of a device plugin",
    "hostPID": "host namespaces are never shared",
    "hostIPC": "host namespaces are never shared; size /dev/shm with the volume named shm",
    "hostUsers": "the node decides on user namespaces",
    "hostname": "names follow from the replica and rank",
    "subdomain": "names follow from the replica and rank",
    "restartPolicy": "replicas are repaired by the controller",
    "activeDeadlineSeconds": "use spec.startupDeadlineSeconds",
    "terminationGracePeriodSeconds": "use spec.rollout.drainSeconds",
    "priority": "use spec.priorityClassName",
    "priorityClassName": "use spec.priorityClassName",
    "readinessGates": "readiness is the engine's own answer",
    "ephemeralContainers": "attach them to a running pod with kubectl debug",
    "overhead": "set by the runtime class",
    "preemptionPolicy": "use spec.priorityClassName",
}
OWNED_ENGINE_FIELDS = {
    "image": "use spec.explicit.choices[].image",
    "command": "use spec.explicit.choices[].knobs",
    "args": "use spec.explicit.choices[].knobs",
    "ports": "the engine's port follows from the catalogue",
    "startupProbe": "use spec.startupDeadlineSeconds",
    "readinessProbe": "readiness is the engine's own answer",
    "livenessProbe": "liveness is the engine's own answer",
    "lifecycle": "use spec.rollout.drainSeconds",
    "restartPolicy": "replicas are repaired by the controller",
    "workingDir": "the engine's paths follow from spec.model.source",
}
OWNED_METADATA = ("name", "generateName", "namespace", "ownerReferences", "finalizers", "uid", "resourceVersion")
