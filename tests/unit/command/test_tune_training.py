"""`trimtab tune` of a training command: it begins with what the predictor expects to be best and ends with what is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.unit.command.tune_calls import QUIET, call, written

# Seconds by a formula of its own: replicas are cheap, stages idle, larger micro-batches use the matrix units better.
PROGRAM = """
import sys
tp, pp, mb, dp, acc, zero = map(int, sys.argv[1:7])
assert tp * pp * dp == {devices} and mb * acc * dp == {globalBatch}
seconds = (1 + 0.2 * (tp - 1)) * (1 + (pp - 1) / acc) * (1 + 0.3 / mb) * (1.3 if sys.argv[7] == 'true' else 1) + zero * 0.01
print('step_s=%f' % (seconds FACTOR))
"""
WORDS = ["{tensorParallel}", "{pipelineParallel}", "{microBatch}", "{dataParallel}", "{accumulation}", "{zeroStage}",
         "{recompute}"]  # fmt: skip
RUN = {"model": "qwen3-8b", "accelerator": "h200", "devices": 8, "globalBatch": 32, "sequenceTokens": 2048}


def job(factor: str = "", **changes: Any) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM.replace("FACTOR", factor), *WORDS]
    return {
        "target": {"kind": "command", "command": command, "training": RUN},
        "objectives": [{"metric": "step_s", "direction": "minimize"}],
        "budget": {"trials": 4},
        "measuring": {"confirmTop": 1, "confirmRuns": 3},
    } | changes


def test_the_first_trials_are_the_predicted_best_and_the_command_is_told_what_follows(here: Path) -> None:
    path = written(here, job())
    said = json.loads(call("check", path, "-o", "json").stdout)
    assert "predictions for training qwen3-8b on 8 x h200" in json.dumps(said)
    assert said["margins"][-1]["margin"] == "GiB left on the fullest device"
    ran = call("run", path, "--name", "train", "-o", "json", *QUIET)
    assert ran.exit_code == 0, ran.output
    trials = json.loads(call("trials", "train", "-o", "json").stdout)
    search = [one for one in trials if one["purpose"] == "search"]
    assert [one["setting"] for one in search] == [one["setting"] for one in said["first"][:4]]
    assert all(one["state"] == "done" for one in search) and search[0]["why"].startswith("best of the cheap level")
    text = call("check", path)
    assert "1. tensorParallel=" in text.stdout and text.exit_code == 0
