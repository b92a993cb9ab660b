"""Jobs that an older version stored: read, listed and driven by this one, although it would not take them anew."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import update

from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_stored import stored_spec
from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from controlplane.store.steering import Steering
from controlplane.store.tables import jobs
from controlplane.store.trials import Trials

# As written before rounds of confirmation were at least three, pods had a section of their own and numbers had bounds.
OLD: dict[str, Any] = {
    "target": {"kind": "command", "command": ["true"], "image": None, "serviceAccount": None},
    "space": {
        "parameters": [{"kind": "float", "name": "a", "when": [], "changesOutput": False, "low": -1e19, "high": 2e30, "log": False}],
        "rules": [], "margins": [], "fixed": {},
    },
    "objectives": [{"metric": "value", "direction": "maximize"}],
    "limits": [{"metric": "ttft_p90_ms", "atMost": 1e20, "atLeast": None}],
    "budget": {"trials": 20, "hours": None},
    "measuring": {"confirmTop": 3, "confirmRuns": 2, "attempts": 3},
}  # fmt: skip
ENGINE = OLD | {"target": {"kind": "engine", "engine": "openvino", "model": "m", "shape": {}, "engineArgs": ["x"]}}


@pytest.mark.parametrize("old", [OLD, ENGINE])
def test_what_is_forbidden_by_now_is_read_as_the_nearest_that_is_not(old: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TuningSpec.model_validate(old)
    before = copy.deepcopy(old)
    found = stored_spec(old)
    assert old == before, "what was stored is left alone"
    assert found.measuring.confirm_runs == 3 and found.limits[0].at_most == 1e18
    assert found.space is not None
    (axis,) = found.space.parameters
    assert axis.kind == "float" and (axis.low, axis.high) == (-1e18, 1e18)
    assert TuningSpec.model_validate(found.model_dump(mode="json", by_alias=True)) == found


@pytest.mark.parametrize(
    "change",
    [
        {"objectives": []},
        {"target": {"kind": "teapot"}},
        {"measuring": {"runsMin": 5, "runsMax": 2}},
        {"budget": "all"},
    ],
)
def test_what_nobody_wrote_is_still_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        stored_spec(OLD | change)
    with pytest.raises(ValidationError):
        stored_spec(None)


def test_an_older_job_is_read_listed_cloned_and_driven(database: Database, spec: TuningSpec, now: datetime) -> None:
    for name in ("old", "new"):
        Jobs(database).create(name, tenant="t", name=name, spec=spec, now=now)
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == "old").values(spec=OLD))
    assert {one.id for one in Jobs(database).list(tenants=["t"])} == {"old", "new"}
    assert Jobs(database).get("old").spec.measuring.confirm_runs == 3
    assert Trials(database).spec("old").measuring.confirm_runs == 3
    assert Steering(database).pause("old", now=now).state.value == "paused"
    assert Jobs(database).clone("old", "copy", name="copy", now=now).spec == stored_spec(OLD)
