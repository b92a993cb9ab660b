"""A deployment read, validated and rendered as far as it can be without a placement; kept while its spec stays."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from pydantic import ValidationError

from controlplane.catalog import Catalog
from controlplane.model.auto import PlanStatus
from controlplane.model.canary import StableRevision
from controlplane.model.choice import AcceleratorChoice
from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.resource import ObjectMeta
from controlplane.model.serving import ServingDeployment, ServingDeploymentSpec, ServingDeploymentStatus
from operators.placement import GangRequest
from operators.serving.plan_adopt import choices_of, in_force
from operators.serving.render import RenderSettings, ReplicaTemplate, replica_template
from operators.serving.rows import DeploymentRow
from operators.serving.snapshot import Stable
from operators.serving.stable import recorded, with_stable
from operators.serving.validate import validate

log = logging.getLogger(__name__)

_KEPT = 1_024
_ERRORS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """`spec` None: it does not parse, `problem` says why. `templates` is empty when there are `errors`, and for an auto
    deployment without a plan; `planned` are the choices they were rendered from. `plannable`: an auto deployment whose
    spec has no errors of its own. `record`: what the templates were rendered from, for the status."""

    generation: int
    uid: str
    spec: ServingDeploymentSpec | None
    problem: str
    errors: tuple[TrimtabError, ...]
    templates: tuple[ReplicaTemplate, ...]
    planned: tuple[AcceleratorChoice, ...] = ()
    plannable: bool = False
    record: StableRevision | None = None


class Preparer:
    """Remembers the latest `_KEPT` deployments: the rendered base of a pod is tens of kilobytes."""

    def __init__(self, catalog: Catalog, settings: RenderSettings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._kept: OrderedDict[str, Prepared] = OrderedDict()
        self._stable: dict[
            str, tuple[tuple[int, str], tuple[tuple[ReplicaTemplate, ...], tuple[TrimtabError, ...]]]
        ] = {}

    def prepare(self, row: DeploymentRow, plan: PlanStatus | None = None) -> Prepared:
        """What the row's generation asks for, by `plan` where it is an auto deployment: without one, by the plan of the
        last call. Never raises."""
        known = self._kept.get(row.uid)
        if known is not None and known.generation == row.generation:
            self._kept.move_to_end(row.uid)
            if plan is None or known.spec is None or known.planned == choices_of(plan):
                return known
        prepared = self._prepare(row, plan)
        self._kept[row.uid] = prepared
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return prepared

    def forget(self, uid: str) -> None:
        """The deployment is gone."""
        self._kept.pop(uid, None)
        self._stable.pop(uid, None)

    def stable(self, row: DeploymentRow, deployment: ServingDeployment, record: StableRevision | None) -> Stable | None:
        """The revision that a canary is compared with, rendered. None: nothing is tried by canaries, or what runs is
        what the spec says. Never raises."""
        now, spec = deployment.status.stable, deployment.spec
        if spec.rollout.canary is None or now is None or (record is not None and record.spec == now.spec):
            self._stable.pop(row.uid, None)
            return None
        templates: list[ReplicaTemplate] = []
        before = frozenset(now.revisions)
        try:
            held = with_stable(spec, now)
            known = self._stable.get(row.uid)
            if known is not None and known[0] == (row.generation, now.spec):
                return Stable(held, *known[1], before)
            wanted = deployment_of(row, held, ServingDeploymentStatus())
            errors = validate(wanted, self._catalog, self._settings)
            if not errors:
                count = len(wanted.spec.choices)
                templates = [replica_template(wanted, at, self._catalog, self._settings) for at in range(count)]
        except TrimtabError as error:
            held, errors, templates = spec, [error], []
        except Exception as error:
            log.exception("%s: its stable revision cannot be rendered", row.key)
            said = f"cannot be rendered ({type(error).__name__}: {error}); the operator's log has the details"
            held, errors, templates = spec, [InvalidSpec(said, field="status.stable.spec")], []
        found = (tuple(templates), tuple(errors))
        self._stable[row.uid] = ((row.generation, now.spec), found)
        return Stable(held, *found, before)

    def _prepare(self, row: DeploymentRow, plan: PlanStatus | None) -> Prepared:
        try:
            spec = ServingDeploymentSpec.model_validate_json(row.spec or b"{}")
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[:_ERRORS_SHOWN]
            problem = "; ".join(f"spec.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in found)
            return Prepared(row.generation, row.uid, None, problem, (), ())
        wanted = deployment_of(row, in_force(spec, plan), ServingDeploymentStatus())
        errors: list[TrimtabError] = []
        templates: list[ReplicaTemplate] = []
        try:
            errors = validate(wanted, self._catalog, self._settings)
            if not errors:
                for index in range(len(wanted.spec.choices)):
                    template = replica_template(wanted, index, self._catalog, self._settings)
                    GangRequest(template.accelerator, template.pods, template.units_per_pod)
                    templates.append(template)
        except TrimtabError as error:
            errors, templates = [error], []
        except Exception as error:
            # A spec that our checks should have named: its author hears of it, and nobody else's object suffers.
            log.exception("%s cannot be rendered", row.key)
            problem = f"cannot be rendered ({type(error).__name__}: {error}); the operator's log has the details"
            errors, templates = [InvalidSpec(problem, field="spec")], []
        record = recorded(wanted.spec, (template.revision for template in templates)) if templates else None
        if spec.auto is None:
            return Prepared(row.generation, row.uid, spec, "", tuple(errors), tuple(templates), record=record)
        plannable = not errors or not self._own_errors(row, spec)
        return Prepared(
            row.generation, row.uid, spec, "", tuple(errors), tuple(templates), choices_of(plan), plannable, record
        )

    def _own_errors(self, row: DeploymentRow, spec: ServingDeploymentSpec) -> bool:
        """Whether the spec is wrong whatever is planned."""
        try:
            return bool(validate(deployment_of(row, spec, ServingDeploymentStatus()), self._catalog, self._settings))
        except Exception:
            return True  # `_prepare` has logged it


def deployment_of(
    row: DeploymentRow, spec: ServingDeploymentSpec, status: ServingDeploymentStatus
) -> ServingDeployment:
    """The row as the floor's type. Its parts are validated already."""
    metadata = ObjectMeta.model_construct(
        name=row.name,
        namespace=row.namespace,
        uid=row.uid,
        resource_version=row.resource_version,
        generation=row.generation,
        creation_timestamp=None if row.created is None else datetime.fromisoformat(row.created),
        deletion_timestamp=None,
        labels={},
        annotations={},
        finalizers=[],
    )
    return ServingDeployment.model_construct(metadata=metadata, spec=spec, status=status)


def status_of(row: DeploymentRow) -> tuple[dict[str, Any], ServingDeploymentStatus]:
    """The stored status as JSON and as type; what cannot be read counts as empty and is written anew."""
    try:
        stored = msgspec.json.decode(row.status or b"{}")
    except msgspec.DecodeError:
        stored = {}
    if not isinstance(stored, dict):
        return {}, ServingDeploymentStatus()
    try:
        return stored, ServingDeploymentStatus.model_validate(stored)
    except ValidationError:
        return stored, ServingDeploymentStatus()
