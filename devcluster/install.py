"""The steps of `up` that install Trimtab and bring the sample to its first token."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster import imageload, images, volumes
from devcluster.cluster import Cluster, wait_for
from devcluster.errors import DevclusterError
from devcluster.paths import PACKAGE, TREE
from devcluster.shell import run
from devcluster.steps import Step
from devcluster.versions import Versions

Note = Callable[[str], None]
RELEASE = "trimtab"
NAMESPACE = "trimtab-system"
CHART = TREE / "helm"
POOLS = PACKAGE / "manifests" / "pools.yaml"
VALUES = PACKAGE / "manifests" / "values.yaml"
SAMPLE = TREE / "examples" / "serving-openvino.yaml"
TUNING = TREE / "examples" / "tuning-openvino.yaml"
SAMPLE_NAME = "sample"
SAMPLE_NAMESPACE = "default"
SAMPLE_PATIENCE_S = 300.0
TOKEN_PATIENCE_S = 120.0  # after a crash the status still says Ready while the engine loads again


@dataclass(frozen=True)
class Target:
    """A cluster to install into: how to call kubectl and helm there."""

    kubectl: Callable[..., str]
    helm: tuple[str, ...]


def target_of(cluster: Cluster) -> Target:
    """Our own cluster."""
    return Target(cluster.kubectl, (str(cluster.programs / "helm"), f"--kubeconfig={cluster.kubeconfig}"))


def image_steps(versions: Versions, references: dict[str, str]) -> list[Step]:
    """Build every image; `references` is filled in by image name."""

    def base(note: Note) -> str:
        references["base"] = images.base_image(versions, note)
        return references["base"].rpartition("/")[2]

    def one(image: images.Image) -> Step:
        def body(note: Note) -> str:
            references[image.name] = images.build(image, references["base"], note)
            return references[image.name].rpartition(":")[2]

        return Step(f"image {image.name}", body, ("base image",))

    return [Step("base image", base, ("packages",)), *(one(image) for image in images.IMAGES.values())]


def steps(cluster: Cluster, versions: Versions) -> list[Step]:
    """From a cluster and built images to a token that came out of the sample's endpoint."""
    references: dict[str, str] = {}
    target = target_of(cluster)
    built = tuple(f"image {name}" for name in images.IMAGES)

    def load(note: Note) -> str:
        return imageload.load([references[name] for name in images.IMAGES], cluster.nodes, note)

    def chart(_: Note) -> str:
        install_chart(target, references, VALUES)
        return f"release {RELEASE} in {NAMESPACE}"

    def sample(note: Note) -> str:
        wait_ready(target, note)
        return f"{SAMPLE_NAMESPACE}/{SAMPLE_NAME} is Ready"

    def token(_: Note) -> str:
        text = first_token(cluster.plan.ports["engine"], served_model(target))
        return f"{text!r} from http://127.0.0.1:{cluster.plan.ports['engine']}"

    runtimes = tuple(f"{node.name} runtime" for node in cluster.nodes)
    return [
        *image_steps(versions, references),
        Step("images on the nodes", load, (*built, *runtimes)),
        Step("volume", lambda _: volumes.ensure(cluster), ("API server",)),
        Step("chart", chart, ("controllers", "images on the nodes", "volume")),
        Step("pools", lambda _: apply(target, POOLS), ("chart",)),
        Step("sample", sample, ("pools", "cluster DNS", "forwards")),
        Step("first token", token, ("sample",)),
    ]


def apply(target: Target, manifest: Path) -> None:
    """Server-side apply of one file of ours."""
    target.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(manifest))


def install_chart(target: Target, references: dict[str, str], values: Path | None) -> None:
    """`helm upgrade --install` with the images by their tags."""
    repository, _, tag = references["trimtab"].rpartition(":")
    settings = {
        "image.repository": repository,
        "image.tag": tag,
        "engineImages.openvino": references["engine-openvino"],
    }
    # Where they were not built here, the chart's own are pulled.
    for name, value in {"postgresql": "tuning.database.image", "redis": "tuning.broker.image"}.items():
        if name in references:
            settings[value] = references[name]
    argv = [*target.helm, "upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace"]
    # CRDs are part of the release; whatever an interrupted start left is adopted.
    argv += ["--take-ownership", "--force-conflicts", *(["--values", str(values)] if values else [])]
    for key, value in settings.items():
        argv += ["--set-string", f"{key}={value}"]
    run(argv, timeout_s=180)


def wait_ready(target: Target, note: Note) -> None:
    """Apply the sample and wait for its Ready condition. Raises DevclusterError with the reason it gives instead."""
    apply(target, SAMPLE)
    last = ""

    def ready() -> bool:
        nonlocal last
        condition = _ready_condition(target)
        last = f"{condition.get('reason', 'no status yet')}: {condition.get('message', '')}"
        note(last[:100])
        return condition.get("status") == "True"

    try:
        wait_for(ready, SAMPLE_PATIENCE_S, "the sample to be Ready", pause_s=0.3)
    except DevclusterError as late:
        pods = target.kubectl("get", "pods", "-A", "-o", "wide", "--field-selector=spec.nodeName!=", "--no-headers")
        ours = [line for line in pods.splitlines() if line.startswith((NAMESPACE, SAMPLE_NAMESPACE))][:10]
        shown = "\n".join(ours)
        raise DevclusterError(f"{late} (last seen: {last})\n{shown}") from late


def _ready_condition(target: Target) -> dict[str, Any]:
    text = target.kubectl("get", "servingdeployment", SAMPLE_NAME, "-n", SAMPLE_NAMESPACE, "-o", "json")
    found = json.loads(text)
    conditions = found.get("status", {}).get("conditions", [])
    current = found["metadata"]["generation"]
    for condition in conditions:
        if condition["type"] == "Ready" and condition.get("observedGeneration", current) == current:
            return dict(condition)
    return {}


def served_model(target: Target) -> str:
    """The model name the sample's endpoint answers to."""
    path = "jsonpath={.status.endpoints[0].servedModel}"
    name = target.kubectl("get", "servingdeployment", SAMPLE_NAME, "-n", SAMPLE_NAMESPACE, "-o", path)
    if not name:
        raise DevclusterError("the sample is Ready, but its status names no endpoint")
    return name


def completion_body(model: str, tokens: int) -> str:
    """A streaming completion request."""
    return json.dumps({"model": model, "prompt": "Hello", "max_tokens": tokens, "stream": True})


def first_token(port: int, model: str) -> str:
    """Text of the first streamed token. Raises DevclusterError when none comes within TOKEN_PATIENCE_S."""
    deadline = time.monotonic() + TOKEN_PATIENCE_S
    while True:
        try:
            return _stream_one(port, model)
        except (OSError, http.client.HTTPException, DevclusterError) as error:
            if time.monotonic() > deadline:
                raise DevclusterError(
                    f"no token from 127.0.0.1:{port} within {TOKEN_PATIENCE_S:g} s: {error}"
                ) from error
            time.sleep(0.1)  # the Service's rules follow the pod's readiness by a moment


def _stream_one(port: int, model: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TOKEN_PATIENCE_S)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body=completion_body(model, 8), headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise DevclusterError(f"status {answer.status}: {answer.read(500).decode(errors='replace')}")
        for _ in range(100):
            line = answer.readline(65536).decode(errors="replace").strip()
            if line.startswith("data: ") and line != "data: [DONE]":
                text = json.loads(line.removeprefix("data: "))["choices"][0].get("text", "")
                if text:
                    return str(text)
        raise DevclusterError("the stream held no token")
    finally:
        connection.close()


def things_to_try(cluster: Cluster, model: str) -> str:
    """Lines for the reader to type."""
    url = f"http://127.0.0.1:{cluster.plan.ports['engine']}/v1/completions"
    kubectl = cluster.plan.state / "kubectl"
    down = "make down" if cluster.plan.name == "dev" else f"python3 -m devcluster down --name {cluster.plan.name}"
    return "\n".join(
        [
            "",
            "Try:",
            f"  {kubectl} get gpupools,servingdeployments",
            f"  curl -N {url} -H 'Content-Type: application/json' -d '{completion_body(model, 32)}'",
            f"  {kubectl} apply -f {TUNING.relative_to(TREE)} && {kubectl} get tuningjobs -w",
            f"  {down}",
        ]
    )
