"""`trimtab tune` refuses what the API refuses, with the same fields, and starts nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from controlplane.main import cli
from controlplane.model.errors import TrimtabError
from tests.unit.api.bad_jobs import BY_FACTS, BY_SCHEMA, GOOD
from tuner.measure import energy


def check(here: Path, changes: dict[str, Any]) -> Result:
    (here / "job.yaml").write_text(yaml.safe_dump(GOOD | changes))
    return CliRunner().invoke(cli, ["tune", "check", "job.yaml"])


def test_refusals_are_those_of_the_api(here: Path) -> None:
    for changes, field in BY_SCHEMA:
        error = check(here, changes).exception
        assert isinstance(error, TrimtabError), changes
        named = str(error.field).replace("target.engine.engine", "target.engine").replace(".0.int", ".0")
        assert named == field, (named, field)
    for changes, field, words in BY_FACTS:
        if field == "space.rules":
            continue  # `check` shows what each rule takes instead (test_tune_command.py)
        error = check(here, changes).exception
        assert isinstance(error, TrimtabError) and error.field == field, (changes, error)
        assert all(word in str(error) for word in words), error
    assert check(here, {}).exit_code == 0


def test_a_file_of_ten_megabytes_is_no_job(here: Path) -> None:
    (here / "job.yaml").write_text("a: " + "x" * 10 * 2**20)
    error = CliRunner().invoke(cli, ["tune", "check", "job.yaml"]).exception
    assert isinstance(error, TrimtabError) and "1048576 bytes" in str(error)


def test_energy_is_refused_where_nothing_counts_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.EnergyMeter, "why_not", lambda self: "no counter here")
    (here / "job.yaml").write_text(yaml.safe_dump(GOOD | {"objectives": [{"metric": "joule_per_output_token", "direction": "minimize"}]}))  # fmt: skip
    error = CliRunner().invoke(cli, ["tune", "run", "job.yaml"]).exception
    assert isinstance(error, TrimtabError) and error.field == "objectives[0].metric"
    assert "no counter here" in str(error)
