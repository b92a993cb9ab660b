"""Brings a database to the tables of this version, once, however many processes start at the same time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from controlplane.model.errors import Refused
from controlplane.model.ports import STORE_DOWN
from controlplane.store.database import Database

log = logging.getLogger(__name__)

# A number of our own for PostgreSQL's advisory lock: "trimtab" in base 36 would not fit, its start does.
_LOCK = 0x7472_696D
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0


def upgrade(database: Database) -> None:
    """To the newest version. Raises Refused for a database that a newer Trimtab has written."""
    with database.write() as connection:
        if not database.embedded:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        _refuse_newer(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def upgrade_when_up(database: Database, pause: Callable[[float], None] = time.sleep) -> None:
    """The same, waiting for a database that is still starting or away: a process that ended instead would be started
    again ever more slowly. Raises Refused for a database that a newer Trimtab has written."""
    for pause_s in pauses_s():
        try:
            upgrade(database)
            return
        except Refused as error:
            if error.reason not in STORE_DOWN:
                raise
            log.warning("%s; again in %g s", error, pause_s)
        pause(pause_s)


def pauses_s() -> Iterator[float]:
    """Seconds to wait before each further look at a database that is away."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def current(database: Database) -> str | None:
    """Version of the database's tables; None before the first upgrade."""
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest() -> str | None:
    """Version of the tables that this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _refuse_newer(connection: Connection) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found is not None and found not in known:
        raise Refused(
            "a newer version has written this database",
            field="TRIMTAB_DATABASE_URL",
            value=found,
            limit=", ".join(sorted(known)),
            hint="update this process, or give it a database of its own",
            code="StoreTooNew",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
