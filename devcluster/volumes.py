"""One volume for the database: a folder of the cluster's state, which outlives pods and goes with `make down`.

Both real nodes see this machine's files, so the pod may move between them. It is the default class, so that the chart's
claim needs no settings here.
"""

from __future__ import annotations

import json

from devcluster.cluster import Cluster

CLASS = "local"
VOLUME = "database"
SIZE = "8Gi"


def objects(folder: str) -> list[dict[str, object]]:
    """The storage class, and the volume in it."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": default},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": VOLUME},
            "spec": {
                "capacity": {"storage": SIZE},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": CLASS,
                "local": {"path": folder},
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "trimtab.dev/node", "operator": "In", "values": ["real"]}]}
                        ]
                    }
                },
            },
        },
    ]


def ensure(cluster: Cluster) -> str:
    """Make both. A volume whose claim was deleted is given to the next one, with what is in it."""
    folder = cluster.plan.state / "volumes" / VOLUME
    folder.mkdir(parents=True, exist_ok=True)
    cluster.apply(objects(str(folder)))
    phase = cluster.kubectl("get", "persistentvolume", VOLUME, "-o", "jsonpath={.status.phase}")
    if phase == "Released":
        freed = json.dumps([{"op": "remove", "path": "/spec/claimRef"}])
        cluster.kubectl("patch", "persistentvolume", VOLUME, "--type=json", "-p", freed)
    return str(folder)
