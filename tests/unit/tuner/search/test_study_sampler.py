"""A job's space and its sampler."""

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.tuning_job import TuningSpec
from tuner.search.space import compile_space
from tuner.search.spaces.training import training_space
from tuner.search.study_sampler import sampler_of, space_of

SPACE = {
    "parameters": [
        {"kind": "int", "name": "tokens", "low": 32, "high": 512, "log": True},
        {"kind": "choice", "name": "precision", "values": ["f32", "bf16"], "changesOutput": True},
    ]
}


def spec(**more):
    base = {
        "target": {"kind": "engine", "engine": "openvino", "model": "m.gguf"},
        "objectives": [{"metric": "tokens_per_s"}],
    }
    return TuningSpec.model_validate({**base, **more})


def test_without_a_space_the_engines_own_is_searched():
    names = {one.name for one in space_of(spec()).parameters}
    assert {"maxNumBatchedTokens", "dynamicSplitFuse"} <= names


def test_a_command_needs_a_space():
    with pytest.raises(InvalidSpec) as error:
        space_of(spec(target={"kind": "command", "command": ["x"]}))
    assert error.value.field == "space"


def test_what_changes_answers_needs_the_users_word():
    with pytest.raises(InvalidSpec, match="mayChangeOutput") as error:
        space_of(spec(space=SPACE))
    assert error.value.field == "space.parameters[1]"
    assert len(space_of(spec(space=SPACE, mayChangeOutput=["precision"])).parameters) == 2


def test_the_baseline_and_earlier_winners_come_first():
    asked = spec(space=SPACE, mayChangeOutput=["precision"], baseline={"tokens": 64, "precision": "f32"})
    earlier = [
        {"tokens": 64, "precision": "f32"},  # the baseline again
        {"tokens": 9999, "precision": "f32"},  # out of range here
        {"tokens": 128, "precision": "bf16", "gone": 3},
    ]
    sampler = sampler_of(asked, space_of(asked), earlier)
    assert sampler.ask(0).setting == {"tokens": 64, "precision": "f32"}
    assert sampler.ask(1).setting == {"tokens": 128, "precision": "bf16"}
    assert sampler.ask(2).reason == "covers the space"


def test_a_wrong_baseline_and_an_unknown_sampler_name_their_field():
    with pytest.raises(InvalidSpec) as error:
        sampler_of(spec(baseline={"tokens": 1, "precision": "f32"}), compile_input())
    assert error.value.field == "baseline.tokens"
    with pytest.raises(UnknownName, match="tpe") as error:
        sampler_of(spec(sampler="tpee"), compile_input())
    assert error.value.field == "sampler"


def compile_input():
    return space_of(spec(space=SPACE, mayChangeOutput=["precision"]))


def test_training_runs_are_whole():
    space = training_space(devices=16, global_batch=64, model="llama-3.1-8b")
    compiled = compile_space(space)
    rows = compiled.draw(np.random.default_rng(0), 200)
    for i in range(200):
        one = compiled.setting(rows, i)
        assert one["tensorParallel"] * one["pipelineParallel"] * one["dataParallel"] == 16
        assert one["microBatch"] * one["accumulation"] * one["dataParallel"] == 64
        assert one["zeroStage"] == 0 or one["dataParallel"] > 1
        assert one["zeroStage"] < 2 or one["pipelineParallel"] == 1


def test_training_experts_and_bad_numbers():
    names = {one.name for one in training_space(devices=8, global_batch=8, model="mixtral-8x7b").parameters}
    assert "expertParallel" in names
    with pytest.raises(InvalidSpec):
        training_space(devices=0, global_batch=8)
