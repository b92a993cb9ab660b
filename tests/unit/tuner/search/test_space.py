"""Spaces: conditions, rules, margins, and the way from settings to points and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.tuning import (
    ChoiceParameter,
    Condition,
    FloatParameter,
    IntParameter,
    Margin,
    SearchSpace,
    SpaceRule,
)
from tuner.search.space import compile_space

SPLIT = ChoiceParameter(name="split", values=[True, False])
SEQS = IntParameter(name="seqs", low=1, high=512, log=True, when=[Condition(parameter="split", values=[False])])
TOKENS = IntParameter(name="tokens", low=32, high=4096, step=32)
SHARE = FloatParameter(name="share", low=0.5, high=0.99)
MODE = ChoiceParameter(name="mode", values=["lpm", "fcfs", "random"])
RULE = SpaceRule(expression="seqs <= tokens", message="every request needs a token: lower seqs")


def space(*parameters, **more):
    return compile_space(SearchSpace(parameters=list(parameters), **more))


FULL = space(SPLIT, SEQS, TOKENS, SHARE, MODE, rules=[RULE], fixed={"engine": "x", "cards": 2})


def drawn(compiled, n=200, seed=0):
    rows = compiled.draw(np.random.default_rng(seed), n)
    return [compiled.setting(rows, i) for i in range(n)]


def test_what_is_drawn_is_allowed_and_complete():
    for setting in drawn(FULL):
        assert ("seqs" in setting) == (setting["split"] is False)
        assert setting["engine"] == "x" and setting["cards"] == 2
        assert setting.get("seqs", 0) <= setting["tokens"]
        assert setting["tokens"] % 32 == 0
        assert isinstance(setting["split"], bool) and isinstance(setting["tokens"], int)
        assert FULL.checked(setting) == setting


def test_a_setting_survives_the_unit_cube():
    for setting in drawn(FULL, seed=1):
        rows = FULL.rows_of([setting])
        again = FULL.setting(rows, 0)
        assert {k: v for k, v in again.items() if k != "share"} == {k: v for k, v in setting.items() if k != "share"}
        assert again["share"] == pytest.approx(setting["share"], rel=1e-12)


@given(value=st.floats(0.5, 0.99))
@settings(max_examples=200, deadline=None)
def test_checked_keeps_the_last_digit(value):
    assert space(SHARE).checked({"share": value}) == {"share": value}


@given(low=st.integers(1, 50), width=st.integers(0, 1000), step=st.integers(1, 7), at=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_whole_numbers_keep_their_place(low, width, step, at):
    for parameter in (
        IntParameter(name="a", low=low, high=low + width, step=step),
        IntParameter(name="a", low=low, high=low + width, log=True),
    ):
        compiled = space(parameter)
        value = low + (at % (width // parameter.step + 1)) * parameter.step
        assert compiled.setting(compiled.rows_of([{"a": value}]), 0) == {"a": value}


def test_every_value_of_an_axis_is_reached():
    compiled = space(IntParameter(name="a", low=3, high=11, step=4), ChoiceParameter(name="b", values=[8, "x", 2.5]))
    seen = {(s["a"], s["b"]) for s in drawn(compiled, 400)}
    assert seen == {(a, b) for a in (3, 7, 11) for b in (8, "x", 2.5)}


def test_a_chain_of_conditions_falls_together():
    inner = IntParameter(name="inner", low=1, high=2, when=[Condition(parameter="seqs", values=[1, 2])])
    compiled = space(SPLIT, IntParameter(name="seqs", low=1, high=4, when=SEQS.when), inner)
    for setting in drawn(compiled):
        assert ("inner" in setting) == (setting.get("seqs", 9) <= 2)


def test_a_condition_may_name_a_fixed_value():
    compiled = space(SEQS, fixed={"split": True})
    assert drawn(compiled, 2) == [{"split": True}] * 2


def test_a_rule_about_an_absent_parameter_does_not_apply():
    tight = SpaceRule(expression="seqs > 600", message="never")
    assert all(setting["split"] for setting in drawn(space(SPLIT, SEQS, rules=[tight])))


def test_margins_refuse_far_out_and_let_the_doubtful_in():
    margin = Margin(expression="2 - share * cards", slack=0.2, message="no memory is left")
    compiled = space(SHARE, fixed={"cards": 3}, margins=[margin])
    shares = [setting["share"] for setting in drawn(compiled)]
    assert max(shares) <= 2.2 / 3 < 0.99
    assert max(shares) > 2 / 3
    with pytest.raises(InvalidSpec, match="no memory is left") as error:
        compiled.checked({"share": 0.9}, field="baseline")
    assert error.value.field == "baseline"


def test_a_margin_that_is_no_number_says_nothing():
    compiled = space(SHARE, margins=[Margin(expression="0 / (share - share)", slack=0.0, message="?")])
    assert len(drawn(compiled, 5)) == 5


@pytest.mark.parametrize(
    ("setting", "field", "error"),
    [
        ({"split": True, "tokens": 64, "share": 0.6, "mode": "lmp"}, "baseline.mode", InvalidSpec),
        ({"split": True, "tokens": 65, "share": 0.6, "mode": "lpm"}, "baseline.tokens", InvalidSpec),
        ({"split": True, "tokens": 64, "share": 2.0, "mode": "lpm"}, "baseline.share", InvalidSpec),
        ({"split": 1, "tokens": 64, "share": 0.6, "mode": "lpm"}, "baseline.split", InvalidSpec),
        ({"split": True, "tokens": True, "share": 0.6, "mode": "lpm"}, "baseline.tokens", InvalidSpec),
        ({"split": True, "tokens": 64, "share": float("nan"), "mode": "lpm"}, "baseline.share", InvalidSpec),
        ({"split": True, "tokens": 64, "share": 0.6}, "baseline.mode", InvalidSpec),
        ({"split": False, "tokens": 64, "share": 0.6, "mode": "lpm"}, "baseline.seqs", InvalidSpec),
        ({"split": False, "seqs": 65, "tokens": 64, "share": 0.6, "mode": "lpm"}, "baseline", InvalidSpec),
        ({"tokns": 64}, "baseline.tokns", UnknownName),
        ({"cards": 3}, "baseline.cards", InvalidSpec),
    ],
)
def test_wrong_settings_name_their_field(setting, field, error):
    with pytest.raises(error) as raised:
        FULL.checked(setting, field="baseline")
    assert raised.value.field == field


def test_inactive_values_are_left_out():
    setting = FULL.checked({"split": True, "seqs": 8, "tokens": 64, "share": 0.6, "mode": "lpm"})
    assert "seqs" not in setting


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"parameters": [SHARE, SHARE]}, "space.parameters[1].name"),
        ({"parameters": [SHARE], "fixed": {"share": 0.5}}, "space.parameters[0].name"),
        ({"parameters": [SEQS, SPLIT]}, "space.parameters[0].when"),
        (
            {"parameters": [SHARE], "rules": [SpaceRule(expression="shar > 1", message="m")]},
            "space.rules[0].expression",
        ),
        ({"parameters": [MODE], "rules": [SpaceRule(expression="mode * 2", message="m")]}, "space.rules[0].expression"),
        (
            {
                "parameters": [ChoiceParameter(name="a", values=[1, "auto", 3, 4])],
                "rules": [SpaceRule(expression="a < 4", message="m")],
            },
            "space.rules[0].expression",
        ),
        ({"parameters": [SHARE], "rules": [SpaceRule(expression="share > 1", message="m")]}, "space.rules"),
        (
            {"parameters": [SHARE], "margins": [Margin(expression="share - 9", slack=1, message="m")]},
            "space.rules",
        ),
        ({"parameters": [ChoiceParameter(name="a", values=[1, True])]}, "space.parameters[0].values[1]"),
        (
            {
                "parameters": [
                    SPLIT,
                    IntParameter(name="n", low=1, high=2, when=[Condition(parameter="split", values=["no"])]),
                ]
            },
            "space.parameters[1].when[0].values",
        ),
    ],
)
def test_spaces_that_cannot_work_name_their_field(spec, field):
    with pytest.raises((InvalidSpec, UnknownName)) as error:
        compile_space(SearchSpace(**spec))
    assert error.value.field == field


def test_a_thin_space_is_found():
    thin = SpaceRule(expression="share > 0.985", message="m")
    assert all(setting["share"] > 0.985 for setting in drawn(space(SHARE, rules=[thin]), 50))


def test_features_know_words_from_numbers():
    compiled = space(MODE, SHARE, SPLIT, SEQS)
    rows = compiled.rows_of(
        [{"mode": "lpm", "share": 0.5, "split": True}, {"mode": "random", "share": 0.99, "split": False, "seqs": 1}]
    )
    x = compiled.features(rows)
    assert x.shape == (2, 6)
    assert np.linalg.norm(x[0, :3] - x[1, :3]) == pytest.approx(1.0)
    assert x[:, 3].tolist() == [0.0, 1.0]
    assert x[:, 5].tolist() == [0.5, 0.0]
