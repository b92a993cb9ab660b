"""What configurations in use answered. Fulfils `controlplane.model.ports.ReferenceStore`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from controlplane.model.errors import InvalidSpec
from controlplane.store.database import Database
from controlplane.store.tables import references

# One takes about 15 kB; the newest are kept, an older one is decoded again where it is still needed.
_KEPT = 256
_TEXT_MAX = 1 << 18
_HARDWARE_MAX = 256


@dataclass(frozen=True, slots=True)
class References:
    """`ReferenceStore` on a database."""

    database: Database

    def found(self, answering: str) -> dict[str, str]:
        """By the hardware on which they were decoded."""
        query = select(references.c.hardware, references.c.answers).where(references.c.answering == answering)
        with self.database.read() as connection:
            return {row.hardware: row.answers for row in connection.execute(query)}

    def keep(self, answering: str, hardware: str, text: str, *, now: datetime) -> str:
        """The one that stands: this, or what another worker kept first. Raises InvalidSpec for one that is too long."""
        if len(text) > _TEXT_MAX:
            raise InvalidSpec(
                "too long to be kept", field="reference", value=len(text), limit=f"{_TEXT_MAX} characters"
            )
        hardware = hardware[:_HARDWARE_MAX]
        here = (references.c.answering == answering) & (references.c.hardware == hardware)
        row = {"answering": answering, "hardware": hardware, "answers": text, "at": now}
        with self.database.write() as connection:
            try:
                with connection.begin_nested():
                    connection.execute(insert(references).values(row))
            except IntegrityError:
                return str(connection.execute(select(references.c.answers).where(here)).scalar_one())
            newest = select(references.c.at).order_by(references.c.at.desc()).offset(_KEPT).limit(1)
            last = connection.execute(newest).scalar_one_or_none()
            if last is not None:
                connection.execute(delete(references).where(references.c.at <= last))
        return text
