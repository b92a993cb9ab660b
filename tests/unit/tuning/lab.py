"""A fake API server, a real SQLite store, and operators that come and go."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model.errors import Refused
from controlplane.model.ports import TuningDesk
from controlplane.model.tuning import Measurement, Outcome, Verdict
from controlplane.model.tuning_records import Ask, SeenJob, TuningJobRecord
from controlplane.operator_tuning import add_tuning
from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.testing import FakeApiServer
from controlplane.tuning_desk import StoreDesk
from operators.runtime import EventRecorder, Manager
from tests.unit.tuning.cases import NAME, NAMESPACE, resource

RESOURCES = "trimtab.dev/v1alpha1/tuningjobs"
EVENTS = "events.k8s.io/v1/events"
_PATIENCE_S = 20.0


def utc_now() -> datetime:
    return datetime.now(UTC)


class Lab:
    """What a user and the API do, and what the test looks at."""

    def __init__(self, server: FakeApiServer, database: Database) -> None:
        self.server, self.database = server, database
        self.desk = StoreDesk(database)

    def create(self, **spec: Any) -> str:
        """Its uid."""
        made = self.server.storage.create(RESOURCES, NAMESPACE, resource(**spec))
        return str(made["metadata"]["uid"])

    def change(self, **spec: Any) -> None:
        self.server.storage.merge(RESOURCES, NAMESPACE, NAME, {"spec": spec}, status_only=False)

    def delete(self) -> None:
        self.server.storage.delete(RESOURCES, NAMESPACE, NAME, {})

    @property
    def there(self) -> bool:
        return bool(self.server.storage.objects(RESOURCES))

    @property
    def object(self) -> dict[str, Any]:
        return copy.deepcopy(self.server.storage.get(RESOURCES, NAMESPACE, NAME))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.object.get("status", {})) if self.there else {}

    def condition(self, kind: str = "Complete") -> tuple[str, str]:
        found = {item["type"]: (item["status"], item["reason"]) for item in self.status.get("conditions", ())}
        return found.get(kind, ("", ""))

    @property
    def reason(self) -> str:
        return self.condition()[1]

    @property
    def jobs(self) -> list[TuningJobRecord]:
        return Jobs(self.database).list()

    @property
    def job(self) -> TuningJobRecord:
        (found,) = self.jobs
        return found

    @property
    def events(self) -> list[str]:
        return [item["reason"] for item in self.server.storage.objects(EVENTS)]

    def lease(self, job: str, number: int) -> Any:
        """Ask a trial and take it."""
        ask = Ask(number=number, setting={"a": number + 1}, canonical=f"c{number}")
        assert Studies(self.database).append(job, [ask], now=utc_now())
        leased = Trials(self.database).lease(f"{job}/{number}", owner="w", seconds=30, now=utc_now())
        assert leased is not None
        return leased

    def measure(self, job: str, number: int, value: float, ttft_ms: float = 100.0) -> None:
        """A whole trial."""
        measured = Measurement(
            metrics={"value": value, "ttft_p90_ms": ttft_ms}, definitions="test", duration_s=1.0, seed=0
        )
        outcome = Outcome(verdict=Verdict.OK, measurement=measured)
        assert Trials(self.database).tell(self.lease(job, number), outcome, now=utc_now())

    async def until(self, done: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not done():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"did not settle: {json.dumps(self.status, indent=1)}") from None

    @asynccontextmanager
    async def operator(self, desk: TuningDesk | str | None = "own") -> AsyncIterator[Manager]:
        """One operator that leads. `desk` None: it has no database."""
        async with KubeClient(ClusterAccess(self.server.url), timeout_s=5.0) as client:
            manager = Manager(stop_grace_s=5.0)
            recorder = EventRecorder(client, "test")
            manager.add_background(recorder.run)
            used = self.desk if isinstance(desk, str) else desk
            add_tuning(client, manager, None if used is None else lambda: used, recorder)
            task = asyncio.create_task(manager.run())
            try:
                yield manager
            finally:
                manager.stop()
                await task


class FakeDesk:
    """The real desk until `dies_at` calls that change something: it does that one (or, `before`, does not), and from
    then on the store is away for this operator, and `dead` is called."""

    def __init__(self, desk: StoreDesk, dies_at: int, before: bool, dead: Callable[[], None] = lambda: None) -> None:
        self._desk, self._dies_at, self._before, self._dead = desk, dies_at, before, dead
        self.calls: list[str] = []
        self.gone = False

    def look(self, uid: str) -> SeenJob | None:
        self._away()
        return self._desk.look(uid)

    def open(self, uid: str, **more: Any) -> None:
        self._do("open", lambda: self._desk.open(uid, **more))

    def pause(self, uid: str) -> None:
        self._do("pause", lambda: self._desk.pause(uid))

    def resume(self, uid: str) -> None:
        self._do("resume", lambda: self._desk.resume(uid))

    def extend(self, uid: str, trials: int) -> None:
        self._do("extend", lambda: self._desk.extend(uid, trials))

    def cancel(self, uid: str) -> None:
        self._do("cancel", lambda: self._desk.cancel(uid))

    def delete(self, uid: str) -> None:
        self._do("delete", lambda: self._desk.delete(uid))

    def _away(self) -> None:
        if self.gone:
            raise Refused("the database does not answer", field="TRIMTAB_DATABASE_URL", code="StoreUnreachable")

    def _do(self, name: str, act: Callable[[], None]) -> None:
        self._away()
        self.calls.append(name)
        dies = len(self.calls) == self._dies_at
        if not (dies and self._before):
            act()
        if dies:
            self.gone = True
            self._dead()
            self._away()
