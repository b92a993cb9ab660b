"""Pareto fronts, selection, and what mattered."""

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import FloatParameter, Objective, SearchSpace, Told, Verdict
from tuner.search.front import pareto_front, select
from tuner.search.importance import importance
from tuner.search.space import compile_space

BOTH = [Objective(metric="a"), Objective(metric="b", direction="minimize")]


def ok(number, *values, violation=()):
    return Told(number=number, setting={"x": 0.5}, verdict=Verdict.OK, values=list(values), violation=list(violation))


def test_front_by_hand():
    trials = [ok(0, 1, 1), ok(1, 2, 2), ok(2, 2, 3), ok(3, 3, 5), ok(4, 9, 9, violation=[1.0]), ok(5, 1, 1)]
    trials.append(Told(number=6, setting={"x": 1.0}, verdict=Verdict.INFEASIBLE))
    assert [told.number for told in pareto_front(trials, BOTH)] == [0, 1, 3, 5]
    assert pareto_front([], BOTH) == []


def test_front_against_all_pairs():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 12, (120, 2))
    trials = [ok(i, float(a), float(b)) for i, (a, b) in enumerate(values)]

    def beaten(i):
        a, b = values[i]
        return any(c >= a and d <= b and (c, d) != (a, b) for c, d in values)

    assert [t.number for t in pareto_front(trials, BOTH)] == [i for i in range(120) if not beaten(i)]


def test_select_prefers_what_works_then_what_breaks_least():
    failed = Told(number=9, setting={"x": 0.1}, verdict=Verdict.INFEASIBLE)
    trials = [failed, ok(1, 5, 1, violation=[0.4]), ok(2, 5, 1, violation=[0.1]), ok(3, 1, 5), ok(4, 2, 4)]
    assert [told.number for told in select(trials, BOTH, 4)] == [4, 3, 2, 1]


def test_select_keeps_the_ends_of_a_front():
    trials = [ok(i, float(i), float(i)) for i in range(11)]
    assert {0, 10} <= {told.number for told in select(trials, BOTH, 3)}


def study(value, trials=60):
    parameters = [FloatParameter(name=name, low=0.0, high=1.0) for name in ("x", "y", "z")]
    space = compile_space(SearchSpace(parameters=parameters))
    rows = space.draw(np.random.default_rng(1), trials)
    settings = [space.setting(rows, i) for i in range(trials)]
    noise = np.random.default_rng(2).normal(0, 0.02, trials)
    told = [
        Told(number=i, setting=one, verdict=Verdict.OK, values=[float(value(one) + noise[i])])
        for i, one in enumerate(settings)
    ]
    return space, told


def test_what_mattered_is_found():
    # Variances of 2x, y and nothing: 4/12, 1/12, 0.
    space, told = study(lambda s: 5 + 2 * s["x"] + s["y"])
    found = importance(space, [Objective(metric="m")], told)
    shares = dict(found.shares)
    assert [name for name, _ in found.shares] == ["x", "y", "z"]
    assert shares["x"] == pytest.approx(0.8, abs=0.08)
    assert shares["y"] == pytest.approx(0.2, abs=0.06)
    assert shares["z"] < 0.03
    assert found.explained > 0.95
    assert found == importance(space, [Objective(metric="m")], told)


def test_noise_explains_nothing():
    space, told = study(lambda s: 5.0)
    assert importance(space, [Objective(metric="m")], told).explained < 0.3


def test_too_few_trials_say_so():
    space, told = study(lambda s: 5 + s["x"], trials=7)
    with pytest.raises(InvalidSpec, match="7 trials"):
        importance(space, [Objective(metric="m")], told)
