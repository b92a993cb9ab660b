"""`up` into a cluster the user already has: build, push to the user's registry, install the chart."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from devcluster import build as build_programs
from devcluster import images, install, preflight, versions
from devcluster.errors import DevclusterError
from devcluster.images import Image
from devcluster.install import Target
from devcluster.paths import TREE
from devcluster.progress import Progress
from devcluster.shell import run, succeeds
from devcluster.steps import Step, run_all
from devcluster.versions import Versions

Note = Callable[[str], None]


def check_arguments(kubeconfig: str | None, registry: str | None) -> tuple[Path, str]:
    """The two settings, or DevclusterError saying which is missing and why it is needed."""
    if not kubeconfig:
        raise DevclusterError("REGISTRY= alone does nothing: say which cluster with KUBECONFIG=path")
    if not registry:
        raise DevclusterError(
            "REGISTRY=host/prefix is missing: the cluster behind KUBECONFIG cannot pull images that exist on this machine "
            "only, so they must be pushed somewhere it can reach, e.g. make up KUBECONFIG=path REGISTRY=host/team"
        )
    path = Path(kubeconfig).expanduser()
    if not path.is_file():
        raise DevclusterError(f"KUBECONFIG={kubeconfig}: there is no such file")
    return path.absolute(), registry.rstrip("/")


def up(kubeconfig: str | None, registry: str | None) -> None:
    """Install Trimtab into the cluster behind `kubeconfig`."""
    path, prefix = check_arguments(kubeconfig, registry)
    pins = versions.load()
    builder = choose_builder()
    target = target_of(path, build_programs.binary_dir(pins))
    references: dict[str, str] = {}
    progress = Progress()
    progress.say(f"Installing Trimtab into the cluster of {path}; images go to {prefix}, built with {builder}.")

    def push(image: Image) -> Step:
        def body(note: Note) -> str:
            references[image.name] = build_and_push(builder, image, prefix, pins, note)
            return references[image.name]

        return Step(f"image {image.name}", body)

    def chart(_: Note) -> str:
        install.install_chart(target, references, None)
        return f"release {install.RELEASE} in {install.NAMESPACE}"

    try:
        todo = [push(image) for image in images.OURS.values()]
        needed = ("kubectl", "helm")
        todo.append(Step("programs", lambda note: build_programs.build_all(pins, note, needed)))
        todo.append(Step("chart", chart, tuple(step.name for step in todo)))
        run_all(todo, progress, workers=2)
    finally:
        progress.close()
    print(
        "\n".join(
            [
                "",
                "Trimtab runs in your cluster. Next:",
                "  1. say which nodes it may use:  kubectl apply -f examples/pools.yaml     (edit the selectors first)",
                "  2. serve a model on CPU nodes:  kubectl apply -f examples/serving-openvino.yaml",
                "  3. watch it become Ready:       kubectl get gpupools,servingdeployments -A -w",
                f"To remove it: helm uninstall {install.RELEASE} --namespace {install.NAMESPACE}   (your objects stay)",
            ]
        )
    )


def target_of(kubeconfig: Path, programs: Path) -> Target:
    """The user's cluster, through the kubectl and helm of the pins."""

    def kubectl(*arguments: str, stdin: str | None = None, timeout_s: float = 120) -> str:
        argv = [programs / "kubectl", f"--kubeconfig={kubeconfig}", *arguments]
        return run(argv, stdin=stdin, timeout_s=timeout_s)

    return Target(kubectl, (str(programs / "helm"), f"--kubeconfig={kubeconfig}"))


def choose_builder() -> str:
    """podman or docker where the user has one (their logins apply), else our own buildah on Debian as root."""
    for name in ("podman", "docker"):
        if shutil.which(name) and succeeds([name, "info"]):  # a client without its daemon is of no use
            return name
    if os.geteuid() == 0 and shutil.which("apt-get"):
        return "buildah"
    raise DevclusterError("no way to build images: install podman or docker, or run as root on Debian (buildah)")


def build_and_push(builder: str, image: Image, registry: str, pins: Versions, note: Note) -> str:
    """Build one image and push it; returns the reference the cluster pulls."""
    if builder == "buildah":
        preflight.install_packages(pins, note)
        reference = images.build(image, images.base_image(pins, note), note)
        return images.push(reference, registry, note)
    target = f"{registry}/{image.name}:{images.content_tag(image, builder)}"
    note(f"building {image.name}")
    run([builder, "build", "-q", "-f", image.containerfile, "-t", target, TREE / image.context])
    note(f"pushing {target}")
    run([builder, "push", target])
    return target
