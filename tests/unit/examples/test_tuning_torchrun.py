"""The training command of examples/tuning-torchrun: a job that can be, and where PyTorch is, one that runs for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from controlplane.main import cli

ROOT = Path(__file__).resolve().parents[3]
JOB = ROOT / "examples" / "tuning-torchrun" / "job.yaml"


def test_the_job_can_be_and_names_its_script() -> None:
    checked = CliRunner().invoke(cli, ["tune", "check", str(JOB), "-o", "json"])
    assert checked.exit_code == 0, checked.output
    command = yaml.safe_load(JOB.read_text())["spec"]["target"]["command"]
    compile((ROOT / command[3]).read_text(), command[3], "exec")


def test_two_ranks_train_over_gloo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("torchrun") is None:
        pytest.skip("no torchrun on the PATH (package torch)")
    monkeypatch.chdir(ROOT)
    job = yaml.safe_load(JOB.read_text())
    job["spec"] |= {"budget": {"trials": 2}, "measuring": {"confirmTop": 1, "confirmRuns": 3, "timeoutS": 300}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    words = ["--state-dir", str(tmp_path / "state"), "--others-pct", "100", "--beside-live", "--quiet", "-o", "json"]
    ran = CliRunner().invoke(cli, ["tune", "run", str(tmp_path / "job.yaml"), *words])
    assert ran.exit_code == 0, ran.output
    # Noise may leave no winner; the configuration in use was measured in any case.
    assert json.loads(ran.stdout)["decision"]["baseline"]["objectives"][0]["mean"] > 0
