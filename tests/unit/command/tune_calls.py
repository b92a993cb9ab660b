"""Jobs of a command, and `trimtab tune` called in this process."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from controlplane.main import cli

QUIET = ["--others-pct", "100", "--beside-live", "--quiet"]


def command_job(program: str, **changes: Any) -> dict[str, Any]:
    """A job over `micro` that runs this Python program with `{micro}` and `{seed}` filled in."""
    return {
        "target": {"kind": "command", "command": [sys.executable, "-c", program]},
        "space": {"parameters": [{"kind": "int", "name": "micro", "low": 1, "high": 16}]},
        "objectives": [{"metric": "step_ms", "direction": "minimize"}],
        "baseline": {"micro": 1},
        "budget": {"trials": 3},
        "measuring": {"confirmTop": 1, "confirmRuns": 3},
    } | changes


def written(here: Path, body: dict[str, Any]) -> str:
    """The job's file."""
    path = here / "job.yaml"
    path.write_text(yaml.safe_dump(body))
    return str(path)


def call(*arguments: str) -> Result:
    """The command handles signals itself: what was there before comes back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return CliRunner().invoke(cli, ["tune", *arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
