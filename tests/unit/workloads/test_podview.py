"""The projected pod: what is read, what is summed, what is shared."""

import json
from typing import Any

import msgspec
import pytest

from controlplane.model.errors import InvalidSpec
from operators.workloads.podview import PodView, project
from operators.workloads.podwire import PodWire
from operators.workloads.quantity import milli, whole


def view(**parts: Any) -> PodView:
    body = {"metadata": {"name": "p", "namespace": "ns", **parts.pop("metadata", {})}, **parts}
    return project(msgspec.json.decode(json.dumps(body), type=PodWire))


def container(policy: str | None = None, **requests: str) -> dict[str, Any]:
    named = {k.replace("gpu", "nvidia.com/gpu"): v for k, v in requests.items()}
    return {"name": "c", "resources": {"requests": named}} | ({"restartPolicy": policy} if policy else {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("1", 1000), ("100m", 100), ("1.5", 1500), ("2Ki", 2_048_000), ("1e3", 1_000_000), ("1u", 1), ("0.5m", 1)],
        *[("3k", 3_000_000), ("+2", 2000), ("1E", 10**21), (4, 4000), ("", None), ("abc", None), ("1 m x", None)],
        *[("NaN", None), ("Infinity", None), ("1e999999", None), ("9" * 80, None)],
    ],
)
def test_quantities(text: str | int, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(InvalidSpec):
            milli(text)
    else:
        assert milli(text) == expected


def test_whole_units_round_down() -> None:
    assert whole("7900m") == 7


def test_requests_sum_containers_and_take_the_peak_of_init_steps() -> None:
    pod = view(
        spec={
            "containers": [container(cpu="500m", gpu="2"), container(cpu="250m")],
            "initContainers": [container(cpu="2", gpu="1"), container(cpu="100m")],
            "overhead": {"cpu": "10m"},
        }
    )
    assert pod.request("cpu") == 2010
    assert pod.request("nvidia.com/gpu") == 2
    assert pod.request("amd.com/gpu") == 0


def test_sidecars_run_beside_the_containers_and_beside_later_init_steps() -> None:
    pod = view(
        spec={
            "containers": [container(cpu="1")],
            "initContainers": [container(cpu="3"), container("Always", cpu="500m"), container(cpu="2800m")],
        }
    )
    # first step 3000; sidecar + second step 3300; running 1000 + 500
    assert pod.request("cpu") == 3300


def test_pod_level_resources_replace_the_sum() -> None:
    pod = view(spec={"containers": [container(cpu="1", gpu="1")], "resources": {"requests": {"cpu": "4"}}})
    assert (pod.request("cpu"), pod.request("nvidia.com/gpu")) == (4000, 1)


def test_memory_and_unreadable_quantities_are_left_out() -> None:
    pod = view(spec={"containers": [container(cpu="x", memory="1Gi", gpu="4")]})
    assert pod.requests == (("nvidia.com/gpu", 4),)


def test_equal_requests_are_one_object() -> None:
    one = view(spec={"containers": [container(cpu="1", gpu="4")]})
    other = view(spec={"containers": [container(cpu="500m"), container(cpu="500m", gpu="4")]})
    assert one.requests is other.requests


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


FIELD = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
LABEL = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        (affinity(FIELD), "n1"),
        (affinity(LABEL), "n2"),
        (affinity(FIELD, LABEL), None),  # terms are alternatives
        (affinity({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}), None),
        (affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}), None),
        ({}, None),
    ],
)
def test_target_node_is_read_only_when_one_node_is_named(spec: dict[str, Any], target: str | None) -> None:
    assert view(spec=spec).target_node == target


def test_labels_annotations_and_owner() -> None:
    pod = view(
        metadata={
            "uid": "u",
            "labels": {"trimtab.dev/deployment": "d", "trimtab.dev/replica": "3", "trimtab.dev/rank": "0"},
            "annotations": {"trimtab.dev/units": "8", "trimtab.dev/choice": "not a number"},
            "ownerReferences": [{"uid": "other"}, {"uid": "mine", "controller": True}],
        }
    )
    assert (pod.deployment, pod.replica, pod.rank, pod.leader) == ("d", 3, 0, True)
    assert (pod.units, pod.choice, pod.owner_uid) == (8, None, "mine")


def test_where_the_scheduler_makes_room_for_a_pod() -> None:
    assert view(status={"phase": "Pending", "nominatedNodeName": "n1"}).nominated_node == "n1"
    assert view(status={"phase": "Pending"}).nominated_node is None


def test_status_of_a_failing_pod() -> None:
    pod = view(
        status={
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"},
                {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:10Z"},
            ],
            "initContainerStatuses": [{"restartCount": 2, "lastState": {"terminated": {"exitCode": 137}}}],
            "containerStatuses": [
                {"restartCount": 1, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "m" * 9000}}},
                {"state": {"terminated": {"exitCode": 1, "reason": "Error"}}},
            ],
        }
    )
    assert (pod.unschedulable_reason, pod.unschedulable_message) == ("Unschedulable", "0/3 nodes")
    assert (pod.scheduled, pod.ready, pod.ready_changed_s) == (False, False, 1767225610)
    assert (pod.restarts, pod.waiting_reason, pod.exit_code, pod.exit_reason) == (3, "ImagePullBackOff", 1, "Error")
    assert pod.waiting_message is not None and len(pod.waiting_message) == 512


def test_terminal_and_deleting() -> None:
    assert view(status={"phase": "Failed"}).terminal
    leaving = view(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}, status={"phase": "Running"})
    assert leaving.deleting and not leaving.terminal


def test_an_empty_pod_decodes() -> None:
    pod = view()
    assert (pod.key, pod.phase, pod.requests, pod.node_name) == ("ns/p", "Pending", (), None)
