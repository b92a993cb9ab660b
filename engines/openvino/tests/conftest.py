"""Fixtures: the model made once, and one server shared by the tests that do not harm it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Server
from hypothesis import HealthCheck, settings

from trimtab_engine.makemodel import ModelShape, write_model

# The same examples on every run; time never decides a test.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers: loads in half a second, schedules like a large one."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path, ModelShape(hidden=256, layers=2))
    return path


@pytest.fixture(scope="session")
def server(model: Path) -> Iterator[Server]:
    """A server with default flags. Tests must leave it idle."""
    with Server(model) as running:
        yield running
