"""The same jobs in a state directory and behind an API, and `trimtab tune` called for either."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import uvicorn

from controlplane.model.tuning import JobState, Measurement, Outcome, Setting, TrialPurpose, Verdict
from controlplane.model.tuning_decision import Interval, Judged, TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask
from controlplane.store.database import Database, open_database
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from tests.unit.api.fakes import Setup

Where = Literal["local", "server"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = {"local": "local", "server": "team"}
SPEC: dict[str, Any] = {
    "target": {"kind": "command", "command": ["prog", "{micro}"], "image": "registry/prog:1"},
    "space": {"parameters": [{"kind": "int", "name": "micro", "low": 1, "high": 16}]},
    "objectives": [{"metric": "step_ms", "direction": "minimize"}],
    "limits": [{"metric": "loss", "atMost": 2}],
    "baseline": {"micro": 1},
    "budget": {"trials": 4},
}


@dataclass(frozen=True)
class Filled:
    """A store with jobs, and how a command gets there."""

    where: Where
    database: Database
    options: list[str]
    env: dict[str, str]


@contextmanager
def filled(where: Where, folder: Path) -> Iterator[Filled]:
    """`nightly` is decided, `open` runs and is half measured, `nightly-2` has not begun."""
    folder.mkdir(parents=True)
    database = open_database(f"sqlite:///{folder}/tuning.db")
    upgrade(database)
    tenant = TENANT[where]
    for i, (job, name) in enumerate((("aa11", "nightly"), ("ab22", "open"), ("cc33", "nightly-2"))):
        now = NOW + timedelta(minutes=i)
        Jobs(database).create(job, tenant=tenant, name=name, spec=TuningSpec.model_validate(SPEC), now=now)
    measure(database, "aa11", [30.0, None, 20.0, 10.0])
    measure(database, "ab22", [30.0, 25.0])
    best = Judged(
        number=3, setting={"micro": 4}, objectives=[Interval(mean=10.0, lo=9.0, hi=11.0, runs=3)],
        gain_pct=Interval(mean=40.0, lo=20.0, hi=60.0, runs=3),
    )  # fmt: skip
    decision = TuningDecision(verdict="better", message="40 % better", best=best, confirmed=[best])
    Steering(database).decide("aa11", decision.model_dump(mode="json", by_alias=True), now=NOW)
    Steering(database).end("aa11", JobState.DONE, reason="Done", message="40 % better", now=NOW)
    try:
        if where == "local":
            yield Filled(where, database, ["--state-dir", str(folder)], {"TRIMTAB_STATE_DIR": str(folder)})
            return
        with served(database) as url:
            yield Filled(where, database, ["--server", url], {"TRIMTAB_SERVER": url, "TRIMTAB_TOKEN": "alice-token"})
    finally:
        database.close()


def measure(
    database: Database,
    job: str,
    values: list[float | None],
    *,
    first: int = 0,
    micro: int | None = None,
    purpose: TrialPurpose = TrialPurpose.SEARCH,
) -> None:
    """`micro`: of all of them, else each its own."""
    for number, value in enumerate(values, first):
        setting: Setting = {"micro": number + 1 if micro is None else micro}
        ask = Ask(
            number=number, setting=setting, canonical=f"c{setting['micro']}", seed=number, why="covers the space",
            purpose=purpose,
        )  # fmt: skip
        assert Studies(database).append(job, [ask], now=NOW)
        leased = Trials(database).lease(f"{job}/{number}", owner="w", seconds=30, now=NOW)
        assert leased is not None
        metrics = {"step_ms": value, "loss": 1.0 if number != 0 else 3.0}
        measured = Measurement(metrics=metrics, definitions="1", duration_s=1.0, host="h")
        bad = Outcome(verdict=Verdict.INFEASIBLE, reason="Traceback\nout of memory")
        told = bad if value is None else Outcome(verdict=Verdict.OK, measurement=measured)
        Trials(database).tell(leased, told, now=NOW + timedelta(seconds=10))


@contextmanager
def served(database: Database) -> Iterator[str]:
    """An API over the store that alice may use in the namespace `team`."""
    setup = Setup(tuning=database)
    setup.cluster.users |= {"alice-token": "alice", "bob-token": "bob"}
    setup.cluster.allow("alice", "tuningjobs", "", "create", "list", "get", "update", "delete")
    setup.cluster.allow("alice", "pods", "", "create")
    setup.cluster.allow("alice", "serviceaccounts", "", "get", name="default")
    setup.cluster.allow("bob", "tuningjobs", "team", "list", "get")
    setup.cluster.stored["default"] = {"metadata": {"name": "default"}}
    server = uvicorn.Server(
        uvicorn.Config(setup.app(), host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline_s:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
