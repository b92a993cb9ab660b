"""The operator's part of tuning: the TuningJob controller over the installation's database."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from controlplane.kube import KubeClient, Resource
from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.ports import TuningDesk
from controlplane.model.resource import GROUP, VERSION
from controlplane.model.serving import ServingDeployment, ServingDeploymentSpec
from operators.runtime import EventRecorder, Informer, Manager, Writer
from operators.runtime.store import Store
from operators.serving.prepared import deployment_of, status_of
from operators.serving.rows import DeploymentRow
from operators.tuning.controller import TUNING_PROJECTION, TuningController

TUNING_JOBS = Resource(GROUP, VERSION, "tuningjobs", "TuningJob")


def desk_of(
    database_url: str | None, deployment: Callable[[str, str], ServingDeployment | None]
) -> Callable[[], TuningDesk] | None:
    """How to make the desk; None: no database is set. `deployment`: by namespace and name, as the cache has it."""
    if database_url is None:
        return None

    def make() -> TuningDesk:
        # SQLAlchemy and the tuner, 25 MB: a standby, and an installation without jobs, do without.
        from controlplane.store.database import open_database  # noqa: PLC0415
        from controlplane.tuning_desk import StoreDesk, checking  # noqa: PLC0415

        try:
            database = open_database(database_url)
        except InvalidSpec as error:  # the installation's fault, not the job's
            raise Refused(
                error.message, field=error.field, limit=error.limit, hint=error.hint, code="StoreUnreachable"
            ) from error
        return StoreDesk(database, checking(deployment))

    return make


def deployment_in(store: Store[DeploymentRow], namespace: str, name: str) -> ServingDeployment | None:
    """A cached deployment as the floor's type; None where there is none or its spec does not parse."""
    row = store.get(f"{namespace}/{name}")
    if row is None:
        return None
    try:
        spec = ServingDeploymentSpec.model_validate_json(row.spec or b"{}")
    except ValidationError:
        return None
    return deployment_of(row, spec, status_of(row)[1])


def add_tuning(
    client: KubeClient, manager: Manager, desk: Callable[[], TuningDesk] | None, recorder: EventRecorder
) -> TuningController:
    """Wire it into the manager."""
    resources = Informer(client, TUNING_JOBS, TUNING_PROJECTION)
    manager.add_informer(resources)
    tuning = TuningController(
        resources,
        desk,
        Writer(client, "trimtab-tuning", manager.fence.check),
        manager.fence,
        recorder=recorder,
        metrics=manager.metrics.controller("tuningjob"),
    )
    manager.add_controller(tuning.controller)
    return tuning
