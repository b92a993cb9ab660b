"""A cheap level helps where it is right and is given up where it is wrong."""

import numpy as np

from controlplane.model.tuning import FloatParameter, Objective, SearchSpace, Told, Verdict
from tuner.search.question import Question, make_sampler
from tuner.search.space import compile_space
from tuner.search.transfer import cheap_level

OBJECTIVES = (Objective(metric="m"),)
SPACE = compile_space(
    SearchSpace(parameters=[FloatParameter(name=name, low=0.0, high=1.0) for name in ("x", "y", "z", "w")])
)


def peak(setting, at):
    return float(10 * np.exp(-8 * sum((setting[name] - place) ** 2 for name, place in zip("xyzw", at, strict=True))))


def trials(at, n=60):
    rows = SPACE.draw(np.random.default_rng(3), n)
    settings = [SPACE.setting(rows, i) for i in range(n)]
    return tuple(
        Told(number=i, setting=one, verdict=Verdict.OK, values=[0.3 * peak(one, at) + 1e-3])
        for i, one in enumerate(settings)
    )


HERE, ELSEWHERE = (0.2, 0.8, 0.3, 0.7), (0.8, 0.2, 0.7, 0.3)


def best_of(cheap, count, seed):
    sampler = make_sampler("default", Question(space=SPACE, objectives=OBJECTIVES, seed=seed, cheap=cheap))
    best = 0.0
    for number in range(count):
        setting = sampler.ask(number).setting
        value = peak(setting, HERE)
        best = max(best, value)
        sampler.tell(Told(number=number, setting=setting, verdict=Verdict.OK, values=[value + 1e-3]))
    return best


def test_a_level_that_is_right_saves_trials():
    alone = np.mean([best_of((), 8, seed) for seed in range(4)])
    helped = np.mean([best_of(trials(HERE), 8, seed) for seed in range(4)])
    assert helped > 1.3 * alone
    assert helped > 6


def test_a_level_that_misleads_is_given_up():
    misled = np.mean([best_of(trials(ELSEWHERE), 30, seed) for seed in range(3)])
    assert misled > 7


def test_the_weight_follows_what_is_measured():
    level = cheap_level(SPACE, OBJECTIVES, trials(HERE))
    rows = SPACE.draw(np.random.default_rng(5), 20)
    expected = level.at(rows)
    assert level.weight(rows, 2.0 + expected) > 0.95
    assert level.weight(rows, 2.0 - expected) == 0.0
    assert 0.3 < level.weight(rows, 2.0 + 0.4 * expected) < 0.6


def test_little_is_nothing():
    assert cheap_level(SPACE, OBJECTIVES, trials(HERE)[:3]) is None
