"""An auto deployment as the rest of the controller sees it: the plan in force stands where explicit choices would."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from controlplane.model.canary import ACTIVE
from controlplane.model.errors import Unsupported
from controlplane.model.serving import ServingDeployment, ServingDeploymentSpec
from operators.serving.plan_adopt import in_force
from operators.serving.planning import Planning
from operators.serving.prepared import Prepared, Preparer
from operators.serving.reasons import Reason
from operators.serving.rows import DeploymentRow
from operators.serving.snapshot import Outlook
from operators.workloads.podview import PodView


def with_plan(
    planning: Planning,
    preparer: Preparer,
    row: DeploymentRow,
    prepared: Prepared,
    deployment: ServingDeployment,
    pods: Iterable[PodView],
) -> tuple[Prepared, ServingDeployment, Outlook | None]:
    """What is prepared, the deployment with the choices of its plan, and what is said of that plan; both as they are
    where nothing is planned. Looks at the plan on the way, which may ask the planner. `pods`: the deployment's."""
    if deployment.spec.auto is None:
        planning.forget(row.key)
        return prepared, deployment, None
    known = list(pods)
    canary, kept = deployment.status.canary, deployment.status.plan
    asked_for = deployment.metadata.generation == deployment.status.observed_generation
    if prepared.plannable and asked_for and kept is not None and canary is not None and canary.phase in ACTIVE:
        # Another plan would be another change, and end the comparison under way.
        planning.seen(row.key)
        said = Outlook(kept, "True", Reason.PLANNED, "the plan stays in force while its canary is watched")
        spec = in_force(deployment.spec, kept)
        return preparer.prepare(row, kept), deployment.model_copy(update={"spec": spec}), said
    if not prepared.plannable:
        planning.seen(row.key)
        word = prepared.errors[0] if prepared.errors else None
        said = Outlook(deployment.status.plan, "False", Reason.PLAN_FAILED, str(word))
        spec = _without_loss(in_force(deployment.spec, said.plan), deployment.metadata.uid, known)
        return prepared, deployment.model_copy(update={"spec": spec}), said
    outlook = planning.look(row.key, deployment, known)
    spec = _without_loss(in_force(deployment.spec, outlook.plan), deployment.metadata.uid, known)
    if spec.choices:
        prepared = preparer.prepare(row, outlook.plan)
    else:
        why = Unsupported(outlook.message, field="spec.auto", code=outlook.reason.value)
        prepared = replace(prepared, errors=(why,), templates=())
    return prepared, deployment.model_copy(update={"spec": spec}), outlook


def _without_loss(spec: ServingDeploymentSpec, uid: str, pods: Iterable[PodView]) -> ServingDeploymentSpec:
    """Where no plan says how many replicas there should be, as many as there are: `spec.replicas` is the least that is
    wanted, and what serves now may be more, of another spec or of a plan that cannot be read any more."""
    if spec.choices or not spec.replicas:
        return spec
    leaders = [pod for pod in pods if pod.owner_uid == uid and pod.rank == 0 and not pod.terminal and not pod.deleting]
    return spec.model_copy(update={"replicas": max(spec.replicas, len(leaders))})
