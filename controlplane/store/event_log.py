"""What happened to a job, in order: what an event stream continues from after `Last-Event-ID`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from controlplane.model.tuning_records import TuningEvent
from controlplane.store.database import Database
from controlplane.store.rows import event_of
from controlplane.store.tables import events

PAGE_MAX = 1000


@dataclass(frozen=True, slots=True)
class EventLog:
    """Ids of a job's events are 1, 2, 3, ... in the order they were committed: none appears later between two that
    were seen."""

    database: Database

    def after(self, job: str, last: int, *, limit: int = PAGE_MAX) -> list[TuningEvent]:
        """Events with an id above `last`."""
        query = (
            select(events)
            .where(events.c.job == job, events.c.id > last)
            .order_by(events.c.id)
            .limit(min(limit, PAGE_MAX))
        )
        with self.database.read() as connection:
            return [event_of(row) for row in connection.execute(query)]
