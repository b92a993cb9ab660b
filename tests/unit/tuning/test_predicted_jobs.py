"""TuningJobs whose target a predictor knows: what the operator stores is what a driver begins with."""

from __future__ import annotations

from typing import Any

from controlplane.model.tuning_job import CommandTarget, DeploymentTarget
from controlplane.tuning_desk import checking
from controlplane.tuning_jobs import sampler_of
from tests.unit.tuning.lab import Lab
from tests.unit.tuning.test_deployment_predicted import LOAD, deployment

RUN = {"model": "llama-3.1-8b", "accelerator": "h100", "devices": 8, "globalBatch": 64, "sequenceTokens": 4096}
NAMES = ("tensorParallel", "pipelineParallel", "microBatch", "recompute", "zeroStage")


def training(**run: Any) -> dict[str, Any]:
    command = ["train", *(f"--{name}={{{name}}}" for name in NAMES), "--replicas={dataParallel}"]
    target = {"kind": "command", "command": command, "image": "train:1", "training": RUN | run}
    return {"target": target, "space": None, "objectives": [{"metric": "step_s", "direction": "minimize"}]}


async def test_a_training_command(lab: Lab) -> None:
    lab.create(**training())
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running")
    spec = lab.job.spec
    assert isinstance(spec.target, CommandTarget) and spec.target.training is not None
    assert spec.space is not None and {one.name for one in spec.space.parameters} == set(NAMES)
    assert "predictions for training llama-3.1-8b" in sampler_of(spec).ask(0).reason


async def test_a_model_that_fits_in_no_setting_fails_with_the_bytes(lab: Lab) -> None:
    lab.create(**training(model="llama-3.1-405b"))
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Unsupported")
    assert "bytes on the fullest of 8 devices" in lab.status["message"]


async def test_a_deployment(lab: Lab) -> None:
    lab.desk.check = checking(lambda _namespace, _name: deployment())
    target = {"kind": "deployment", "name": "chat"}
    lab.create(target=target, space=None, load=LOAD, objectives=[{"metric": "output_tokens_per_s"}])
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running")
    spec = lab.job.spec
    assert isinstance(spec.target, DeploymentTarget) and spec.target.serves is not None
    assert "serves" not in lab.object["spec"]["target"]
    assert "predictions for qwen3-8b on h100-sxm-80gb" in sampler_of(spec).ask(1).reason
