"""A job's space and its sampler."""

import pytest

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning_job import StartPoint, TuningSpec
from tuner.search.question import Question, make_sampler
from tuner.search.space import compile_space
from tuner.search.study_sampler import EARLIER_MOST, carried_over, space_of

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


def test_earlier_winners_come_first_where_the_space_has_them():
    asked = spec(space={**SPACE, "fixed": {"cards": 2}}, mayChangeOutput=["precision"])
    space = compile_space(space_of(asked))
    earlier = [
        {"tokens": 64, "precision": "f32", "cards": 1},
        {"tokens": 64, "precision": "f32"},  # the same once more
        {"tokens": 9999, "precision": "f32"},  # out of range here
        {"tokens": 128},  # says too little
        {"tokens": 128, "precision": "bf16", "gone": 3},
    ]
    points = carried_over(space, [StartPoint(setting=one, origin=f"job {i}") for i, one in enumerate(earlier)])
    assert [(point.setting, point.origin) for point in points] == [
        ({"tokens": 64, "precision": "f32", "cards": 2}, "job 0"),
        ({"tokens": 128, "precision": "bf16", "cards": 2}, "job 4"),
    ]
    question = Question(
        space=space, objectives=tuple(asked.objectives), seed=0, first=tuple(point.setting for point in points),
        origins=("job 0",), cheap_note="nobody predicts",
    )  # fmt: skip
    sampler = make_sampler("default", question)
    assert [sampler.ask(number).setting for number in range(2)] == [point.setting for point in points]
    assert [sampler.ask(number).reason for number in range(4)] == [
        "to start with: job 0", "to start with: given", "covers the space (nobody predicts)", "covers the space",
    ]  # fmt: skip
    many = [StartPoint(setting={"tokens": 64 + i, "precision": "f32"}) for i in range(50)]
    assert len(carried_over(space, many)) == EARLIER_MOST
