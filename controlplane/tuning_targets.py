"""What a tuning job on a cluster needs beyond one on a laptop, alike for REST and for the TuningJob resource."""

from __future__ import annotations

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, TuningSpec


def check_for_cluster(spec: TuningSpec, namespace: str) -> None:
    """Raises InvalidSpec."""
    target = spec.target
    if isinstance(target, CommandTarget) and target.image is None:
        raise InvalidSpec(
            "a command runs in a pod of its own, and no image is named",
            field="target.image",
            hint="name the image that holds the command, or run it with `trimtab tune run` on a machine of your own",
        )
    if isinstance(target, DeploymentTarget) and target.namespace != namespace:
        raise InvalidSpec(
            "a job tunes deployments of its own namespace",
            field="target.namespace",
            value=target.namespace,
            limit=namespace,
            hint="make the job in the deployment's namespace",
        )
