"""What is the built-in samplers' own, beside the contract they all keep."""

from dataclasses import replace

import numpy as np
import pytest

from controlplane.model.errors import Refused, UnknownName
from controlplane.model.tuning import (
    ChoiceParameter,
    Condition,
    FloatParameter,
    IntParameter,
    Margin,
    Objective,
    SearchSpace,
    SpaceRule,
    Told,
    Verdict,
)
from tuner.search.question import SAMPLERS, Question, make_sampler
from tuner.search.samplers.default import DefaultSampler
from tuner.search.samplers.grid import GridSampler
from tuner.search.space import compile_space

SPLIT = ChoiceParameter(name="split", values=[True, False])
SEQS = IntParameter(name="seqs", low=1, high=512, log=True, when=[Condition(parameter="split", values=[False])])
TOKENS = IntParameter(name="tokens", low=32, high=4096, step=32)


def question(*parameters, objectives=("maximize",), seed=0, **more):
    space = compile_space(SearchSpace(parameters=list(parameters), **more))
    return Question(
        space=space,
        objectives=tuple(Objective(metric=f"m{i}", direction=way) for i, way in enumerate(objectives)),
        seed=seed,
    )


def test_names_and_the_nearest():
    assert set(SAMPLERS.names()) >= {"default", "random", "grid", "tpe", "nsga2"}
    with pytest.raises(UnknownName, match="did you mean nsga2") as error:
        make_sampler("nsga", question(SPLIT), field="spec.sampler")
    assert error.value.field == "spec.sampler"


def test_a_grid_proposes_everything_once():
    sampler = GridSampler(question(SPLIT, SEQS, ChoiceParameter(name="mode", values=["a", "b", "c"])))
    seen = []
    with pytest.raises(Refused) as error:
        for number in range(1000):
            seen.append(tuple(sorted(sampler.ask(number).setting.items())))
    assert error.value.reason == "SpaceExhausted"
    assert len(seen) == len(set(seen)) == 3 + 5 * 3
    assert {dict(one).get("seqs") for one in seen} >= {None, 1, 512}


def test_a_grid_leaves_out_what_was_measured_before_it_began():
    parameters = (SPLIT, SEQS, FloatParameter(name="share", low=0.1, high=0.7))
    alone, every = GridSampler(question(*parameters)), []
    with pytest.raises(Refused):
        while True:
            every.append(alone.ask(len(every)).setting)
    outside = {**every[3], "share": 0.123}
    asked = replace(question(*parameters), first=(every[7], outside, every[2]))
    sampler, seen = GridSampler(asked), []
    with pytest.raises(Refused, match=f"all {len(every) - 2} settings of the grid that were not started with") as error:
        while True:
            seen.append(sampler.ask(len(seen)).setting)
    assert error.value.reason == "SpaceExhausted" and error.value.limit == str(len(seen)) == str(len(every) + 1)
    assert seen == [every[7], outside, every[2], *(one for one in every if one not in (every[7], every[2]))]
    assert GridSampler(asked).ask(9).setting == seen[9], "rebuilt it asks the same"


def test_a_grid_covers_early_and_keeps_rules():
    rule = SpaceRule(expression="tokens >= 1024", message="m")
    sampler = GridSampler(question(SPLIT, TOKENS, FloatParameter(name="share", low=0.1, high=0.9), rules=[rule]))
    first = [sampler.ask(number).setting for number in range(12)]
    assert {one["split"] for one in first} == {True, False}
    assert len({one["tokens"] for one in first}) >= 3
    assert min(one["tokens"] for one in first) >= 1024


def test_a_grid_of_astronomical_size_answers():
    many = [FloatParameter(name=f"p{i}", low=0.0, high=1.0) for i in range(64)]
    sampler = GridSampler(question(*many))
    assert sampler.size == 5**64
    assert sampler.ask(0).setting != sampler.ask(1).setting


def run(name, asked, measure, trials, violation=None):
    sampler, told = make_sampler(name, asked), []
    for number in range(trials):
        setting = sampler.ask(number).setting
        values = measure(setting)
        verdict = Verdict.INFEASIBLE if values is None else Verdict.OK
        limits = [] if values is None or violation is None else violation(setting)
        one = Told(number=number, setting=setting, verdict=verdict, values=values or [], violation=limits)
        sampler.tell(one)
        told.append(one)
    return told


# A genetic algorithm needs generations, a model does not.
TRIALS = {"default": 48, "tpe": 96, "nsga2": 288}

X = FloatParameter(name="x", low=0.0, high=1.0)
Y = FloatParameter(name="y", low=0.0, high=1.0)


@pytest.mark.parametrize("name", ["default", "tpe", "nsga2"])
def test_learns_where_the_best_is(name):
    told = run(name, question(X, Y), lambda s: [1 / (0.05 + (s["x"] - 0.3) ** 2 + (s["y"] - 0.8) ** 2)], TRIALS[name])
    late = np.median([one.values[0] for one in told[-30:]])
    early = np.median([one.values[0] for one in told[:10]])
    assert late > 1.4 * early


@pytest.mark.parametrize("name", ["default", "tpe"])
def test_learns_where_nothing_works(name):
    told = run(name, question(X, Y), lambda s: None if s["x"] > 0.5 else [1 + s["y"]], TRIALS[name])
    assert sum(one.verdict is Verdict.INFEASIBLE for one in told[-30:]) <= 8


def test_finds_the_best_beside_an_edge():
    told = run("default", question(X, Y), lambda s: None if s["x"] + s["y"] > 0.8 else [1 + s["x"]], 48)
    failed = [one.verdict is Verdict.INFEASIBLE for one in told]
    assert sum(failed[-30:]) <= 14  # 68 % of the space fails
    assert max(one.values[0] for one in told if one.values) > 1.7


@pytest.mark.parametrize("name", ["default", "tpe", "nsga2"])
def test_keeps_limits(name):
    told = run(name, question(X, Y), lambda s: [1 + s["x"]], TRIALS[name], violation=lambda s: [s["x"] - 0.5])
    held = [one.violation[0] <= 0 for one in told[-30:]]
    assert sum(held) >= 18


@pytest.mark.parametrize("name", ["default", "tpe", "nsga2"])
def test_two_objectives_make_a_front(name):
    asked = question(X, Y, objectives=("maximize", "minimize"))
    told = run(name, asked, lambda s: [1 + s["x"], 1 + s["x"] ** 2 + s["y"]], TRIALS[name])
    late = told[-30:]
    assert np.median([one.setting["y"] for one in late]) < 0.35
    assert np.ptp([one.setting["x"] for one in late]) > 0.4


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_rules_bind_optuna_too(name):
    thin = SpaceRule(expression="x + y > 1.9", message="m")
    told = run(name, question(X, Y, rules=[thin]), lambda s: [1 + s["x"]], 40)
    assert all(one.setting["x"] + one.setting["y"] > 1.9 for one in told)


def default(asked):
    return DefaultSampler(asked)


def test_recommends_nothing_before_something_worked():
    sampler = default(question(X, Y))
    assert sampler.recommend() is None
    sampler.tell(Told(number=0, setting={"x": 0.1, "y": 0.1}, verdict=Verdict.INFEASIBLE))
    assert sampler.recommend() is None


def test_recommends_within_limits_only():
    sampler = default(question(X, Y))
    for number, x in enumerate((0.2, 0.4, 0.6, 0.8, 0.95)):
        told = Told(number=number, setting={"x": x, "y": 0.5}, verdict=Verdict.OK, values=[1 + x], violation=[x - 0.7])
        sampler.tell(told)
    assert sampler.recommend() == {"x": 0.6, "y": 0.5}


def test_a_lucky_measurement_is_not_recommended():
    sampler, rng = default(question(X, Y)), np.random.default_rng(0)
    for number in range(30):
        x = 0.9 if number % 2 else float(rng.random())
        value = 1 + x + float(rng.normal(0, 0.1))
        sampler.tell(Told(number=number, setting={"x": x, "y": 0.5}, verdict=Verdict.OK, values=[value]))
    sampler.tell(Told(number=30, setting={"x": 0.55, "y": 0.5}, verdict=Verdict.OK, values=[1.95]))
    assert sampler.recommend()["x"] > 0.8


def test_the_best_are_measured_again_but_not_forever():
    sampler, again = default(question(FloatParameter(name="x", low=0.0, high=1.0))), []
    for number in range(40):
        asked = sampler.ask(number)
        if "measured again" in asked.reason:
            again.append(asked.setting["x"])
        sampler.tell(Told(number=number, setting=asked.setting, verdict=Verdict.OK, values=[5.0]))
    assert 2 <= len(again) <= 12


def test_margins_keep_trials_from_failing():
    margin = Margin(expression="0.75 - x - y", slack=0.1, message="no memory is left")

    def wasted(**more):
        told = run("default", question(X, Y, **more), lambda s: None if s["x"] + s["y"] > 0.8 else [1 + s["x"]], 30)
        return sum(one.verdict is Verdict.INFEASIBLE for one in told)

    assert wasted(margins=[margin]) < 0.6 * wasted()


def noisy_study(seed, trials):
    """Of 24 settings whose runs differ by 30 %: the proposals, in their order."""
    tokens = ChoiceParameter(name="tokens", values=[32, 64, 128, 256, 512, 1024], ordered=True)
    threads = ChoiceParameter(name="threads", values=[1, 2, 3, 4])
    sampler, noise = DefaultSampler(question(tokens, threads, seed=seed)), np.random.default_rng(seed)
    proposals = []
    for number in range(trials):
        proposals.append(sampler.ask(number))
        value = (proposals[-1].setting["threads"] + 1) * float(np.exp(noise.normal(0, 0.3)))
        sampler.tell(
            Told(number=number, setting=proposals[-1].setting, verdict=Verdict.OK, values=[value], violation=[])
        )
    return proposals


@pytest.mark.parametrize("seed", range(4))
def test_where_there_are_few_settings_none_is_asked_twice_but_to_know_the_best(seed):
    seen = []
    for proposal in noisy_study(seed, 20):
        assert proposal.setting not in seen or "measured again" in proposal.reason
        seen.append(proposal.setting)


def test_more_trials_than_settings_end_in_no_error():
    assert len(noisy_study(0, 34)) == 34
