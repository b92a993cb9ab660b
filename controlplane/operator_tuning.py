"""The operator's part of tuning: the TuningJob controller over the installation's database."""

from __future__ import annotations

from controlplane.kube import KubeClient, Resource
from controlplane.model.ports import TuningDesk
from controlplane.model.resource import GROUP, VERSION
from operators.runtime import EventRecorder, Informer, Manager, Writer
from operators.tuning.controller import TUNING_PROJECTION, TuningController

TUNING_JOBS = Resource(GROUP, VERSION, "tuningjobs", "TuningJob")


def desk_of(database_url: str | None) -> TuningDesk | None:
    """None: no database is set. Nothing is connected yet. Raises InvalidSpec for what is no database URL."""
    if database_url is None:
        return None
    # SQLAlchemy and the tuner: what an installation without a database does without.
    from controlplane.store.database import open_database  # noqa: PLC0415
    from controlplane.tuning_desk import StoreDesk  # noqa: PLC0415

    return StoreDesk(open_database(database_url))


def add_tuning(
    client: KubeClient, manager: Manager, desk: TuningDesk | None, recorder: EventRecorder
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
