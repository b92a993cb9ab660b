"""A store on each database there is, and a job to try."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from controlplane.model.tuning_job import TuningSpec
from tests.stores import database, server

__all__ = ["database", "server"]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = TuningSpec.model_validate(
    {
        "target": {"kind": "command", "command": ["true"]},
        "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 100}]},
        "objectives": [{"metric": "value"}],
        "limits": [{"metric": "ttft_p90_ms", "atMost": 200}],
        "budget": {"trials": 20},
        "measuring": {"attempts": 3},
    }
)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def spec() -> TuningSpec:
    return SPEC
