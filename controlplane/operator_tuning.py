"""The operator's part of tuning: the TuningJob controller over the installation's database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from controlplane.kube import KubeClient, KubeError, NotFound, Resource
from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.ports import TuningDesk
from controlplane.model.resource import GROUP, VERSION
from controlplane.model.serving import ServingDeployment, ServingDeploymentSpec
from controlplane.tuning_places import Places
from operators.runtime import EventRecorder, Informer, Manager, Writer
from operators.runtime.store import Store
from operators.serving.prepared import deployment_of, status_of
from operators.serving.rows import DeploymentRow
from operators.tuning.controller import TUNING_PROJECTION, TuningController

log = logging.getLogger(__name__)

SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
# Beyond what the client allows a request with its repetitions.
_ASKED_S = 60.0

TUNING_JOBS = Resource(GROUP, VERSION, "tuningjobs", "TuningJob")


class CachedPlaces:
    """Fulfils `Places`: pools as the cache has them, accounts as the API server says. Made in the event loop of `client`,
    asked from threads."""

    def __init__(self, client: KubeClient, pools: Informer[Any, Any]) -> None:
        self._client, self._pools, self._loop = client, pools, asyncio.get_running_loop()

    def pools(self) -> list[str] | None:
        return [row.name for row in self._pools.store.values()] if self._pools.synced else None

    def has_account(self, namespace: str, name: str) -> bool | None:
        asked = asyncio.run_coroutine_threadsafe(self._client.get(SERVICE_ACCOUNTS, name, namespace), self._loop)
        try:
            asked.result(_ASKED_S)
        except NotFound:
            return False
        except (KubeError, TimeoutError) as error:
            asked.cancel()
            log.warning("service account %s/%s could not be read: %s", namespace, name, error)
            return None
        return True


def desk_of(
    database_url: str | None, deployment: Callable[[str, str], ServingDeployment | None], places: Places
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
        return StoreDesk(database, checking(deployment, places))

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
