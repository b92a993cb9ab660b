"""The space of a training run: every draw is a whole run, of the model and of the framework."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.tuning_job import CommandTarget
from tuner.search.space import compile_space
from tuner.search.spaces.training import training_space
from tuner.search.spaces.training_words import fields_of, words_of

MODELS = ("llama-3.1-8b", "gpt-3-175b", "mixtral-8x7b", "qwen3-8b")


def draws(count: int = 200, **asked: Any) -> list[dict[str, Any]]:
    compiled = compile_space(training_space(**asked))
    rows = compiled.draw(np.random.default_rng(0), count)
    return [compiled.setting(rows, i) for i in range(count)]


def test_every_draw_is_a_whole_run_of_any_question() -> None:
    chance = random.Random(6)
    seen = 0
    for _ in range(60):
        devices, batch = chance.choice((1, 2, 6, 8, 12, 16, 64, 96)), chance.choice((1, 3, 8, 12, 48, 256, 1536))
        model = load().model(chance.choice(MODELS))
        asked = {"devices": devices, "global_batch": batch, "model": model.id}
        try:
            settings = draws(40, **asked)
        except InvalidSpec as error:  # no divisor of the devices divides the batch
            assert error.field == "space.rules"
            continue
        for one in settings:
            tp, pp = one["tensorParallel"], one["pipelineParallel"]
            replicas, left = divmod(devices, tp * pp)
            assert not left and batch % (one["microBatch"] * replicas) == 0
            assert model.heads % tp == 0 and model.layers % pp == 0
            assert one.get("zeroStage", 0) == 0 or replicas > 1
            assert one.get("zeroStage", 0) < 2 or pp == 1
            assert (replicas * tp) % one.get("expertParallel", 1) == 0
            seen += 1
    assert seen > 1000


def test_parameters_go_by_model_and_framework() -> None:
    def names(**more: Any) -> set[str]:
        return {one.name for one in training_space(devices=8, global_batch=8, **more).parameters}

    assert "expertParallel" in names(model="mixtral-8x7b") and "expertParallel" not in names(model="qwen3-8b")
    assert names(framework="eager") == {"microBatch", "recompute"}  # it splits no model
    assert names(framework="megatron-zero-bubble") > {"zeroStage"}
    deepspeed = draws(devices=16, global_batch=64, model="llama-3.1-8b", framework="megatron-deepspeed")
    assert all(one["tensorParallel"] == 1 or one["pipelineParallel"] == 1 for one in deepspeed)
    fsdp = training_space(devices=8, global_batch=8, framework="fsdp")
    assert next(one for one in fsdp.parameters if one.name == "zeroStage").values == [0, 2, 3]  # type: ignore[union-attr]
    alone = training_space(devices=1, global_batch=4)
    assert alone.fixed == {"tensorParallel": 1, "pipelineParallel": 1}
    for wrong in ({"devices": 0}, {"global_batch": 0}):
        with pytest.raises(TrimtabError):
            training_space(**({"devices": 8, "global_batch": 8} | wrong))


def test_what_follows_from_a_setting_fills_a_command_s_places() -> None:
    run = {
        "model": "llama-3.1-8b",
        "accelerator": "h100",
        "devices": 16,
        "globalBatch": 64,
        "sequenceTokens": 4096,
        "nic": "ndr",
    }
    target = CommandTarget.model_validate({"command": ["x"], "training": run})
    words = words_of(target, {"tensorParallel": 2, "pipelineParallel": 2, "microBatch": 4, "lr": 0.1})
    assert (words["dataParallel"], words["accumulation"], words["devices"], words["globalBatch"]) == (4, 4, 16, 64)
    assert words["sequenceTokens"] == 4096 and words["lr"] == 0.1
    # What the setting says itself stands; what does not divide is left out.
    assert words_of(target, {"data_parallel": 8, "devices": 3})["devices"] == 3
    assert "dataParallel" not in words_of(target, {"tp": 3})
    assert "accumulation" not in words_of(target, {"tp": 2, "micro_batch": 3})
    plain = CommandTarget(command=["x"])
    assert words_of(plain, {"tp": 3}) == {"tp": 3}
    assert fields_of({"tensor_parallel": 2, "TP": 4, "lr": 1}) == {"tp": 4}
