"""What a tuning job on a cluster needs beyond one on a laptop, alike for REST and for the TuningJob resource."""

from __future__ import annotations

from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, TuningSpec


def in_namespace(spec: TuningSpec, namespace: str) -> TuningSpec:
    """The spec as it is stored: a deployment without a namespace is one of the job's."""
    if not isinstance(spec.target, DeploymentTarget) or spec.target.namespace is not None:
        return spec
    return spec.model_copy(update={"target": spec.target.model_copy(update={"namespace": namespace})})


def check_for_cluster(spec: TuningSpec, namespace: str) -> None:
    """Raises InvalidSpec or Unsupported."""
    target = spec.target
    _refuse_files(spec)
    if not isinstance(target, CommandTarget):
        _refuse_energy(spec)
    if isinstance(target, CommandTarget) and target.image is None:
        raise InvalidSpec(
            "a command runs in a pod of its own, and no image is named",
            field="target.image",
            hint="name the image that holds the command, or run it with `trimtab tune run` on a machine of your own",
        )
    if isinstance(target, DeploymentTarget) and target.namespace not in (None, namespace):
        raise InvalidSpec(
            "a job tunes deployments of its own namespace",
            field="target.namespace",
            value=target.namespace,
            limit=namespace,
            hint="make the job in the deployment's namespace, or leave target.namespace out",
        )


def _refuse_files(spec: TuningSpec) -> None:
    """A path in a spec is a file of whoever wrote it, and the load is sent from a process of the installation, which reads
    none of its own files for a caller. Raises Unsupported."""
    if spec.load.trace is not None:
        raise Unsupported(
            "a trace is a file of your own machine, and the load is sent from the cluster",
            field="load.trace",
            hint="state a rate and lengths, or tune on your machine with `trimtab tune run`",
        )


def _refuse_energy(spec: TuningSpec) -> None:
    """A worker loads a pod over the network: what its node counts is not read."""
    from tuner.measure.energy import METRICS  # noqa: PLC0415 - numpy

    wanted = [(f"objectives[{i}].metric", one.metric) for i, one in enumerate(spec.objectives)]
    for field, metric in wanted + [(f"limits[{i}].metric", one.metric) for i, one in enumerate(spec.limits)]:
        if metric in METRICS:
            raise Unsupported(
                "energy is not measured in pods",
                field=field,
                value=metric,
                hint="tune for tokens per second, or measure it with `trimtab tune run` on the machine itself",
            )
