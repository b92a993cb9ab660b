"""What the study relies on in a sampler; ours pass it, and so must any that is registered under `trimtab.samplers`.

Derive a test class and give it a fixture `factory`: the function that the entry point names.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from controlplane.model.errors import Refused
from controlplane.model.ports import Sampler
from controlplane.model.tuning import (
    ChoiceParameter,
    Condition,
    FloatParameter,
    IntParameter,
    Margin,
    Objective,
    SearchSpace,
    Setting,
    SpaceRule,
    Told,
    Verdict,
)
from tuner.search.question import Question, SamplerFactory
from tuner.search.space import compile_space

_TRIALS = 30
# An ask in a long study; a study of 10,000 trials is within reach of every sampler.
_LONG = 2000
_LONG_ASK_S = 2.0


def sample_space() -> SearchSpace:
    """Every kind of parameter, a condition, a rule and a margin."""
    return SearchSpace(
        parameters=[
            ChoiceParameter(name="tp", values=[1, 2, 4]),
            ChoiceParameter(name="policy", values=["fcfs", "lpm", "random"]),
            ChoiceParameter(name="split", values=[True, False]),
            IntParameter(name="seqs", low=1, high=512, log=True, when=[Condition(parameter="split", values=[False])]),
            IntParameter(name="tokens", low=64, high=4096, step=64),
            FloatParameter(name="share", low=0.5, high=0.99),
        ],
        rules=[SpaceRule(expression="seqs <= tokens", message="a request needs a token")],
        margins=[Margin(expression="24 * share - 16 / tp - tokens * 0.002", slack=1.0, message="no memory is left")],
        fixed={"engine": "x"},
    )


def question(
    *, space: SearchSpace | None = None, objectives: int = 1, seed: int = 0, first: Sequence[Setting] = ()
) -> Question:
    """A study of `sample_space`, unless told otherwise."""
    return Question(
        space=compile_space(space or sample_space()),
        objectives=tuple(Objective(metric=f"m{i}") for i in range(objectives)),
        seed=seed,
        first=tuple(first),
    )


def measure(setting: Setting, objectives: int = 1) -> Told:
    """What the trial found; `number` is for the caller to fill in. Some run out of memory, some break a limit."""
    tp, tokens, share = float(setting["tp"]), float(setting["tokens"]), float(setting["share"])
    if 24 * share < 16 / tp + tokens * 0.003:
        return Told(number=0, setting=setting, verdict=Verdict.INFEASIBLE)
    speed = tp**0.5 * (1 - math.exp(-tokens / 1000)) * share * (1.1 if setting["policy"] == "lpm" else 1.0)
    values = [100 * speed, 10 / tp, 5 * share][:objectives]
    return Told(number=0, setting=setting, verdict=Verdict.OK, values=values, violation=[tokens / 4096 - 0.9])


def studied(sampler: Sampler, trials: int, objectives: int = 1) -> list[Told]:
    """A study, one trial at a time."""
    told = []
    for number in range(trials):
        setting = sampler.ask(number).setting
        sampler.tell(Told(number=number, setting=setting))
        one = measure(setting, objectives).model_copy(update={"number": number})
        sampler.tell(one)
        told.append(one)
    return told


class SamplerContract:
    """The tests."""

    def test_proposals_belong_to_the_space(self, factory: SamplerFactory) -> None:
        asked = question()
        sampler = factory(asked)
        for number, told in enumerate(studied(sampler, _TRIALS)):
            assert asked.space.checked(told.setting) == told.setting, number
        assert 0 < len(sampler.ask(_TRIALS).reason) <= 512

    def test_rebuilt_from_its_history_it_asks_the_same(self, factory: SamplerFactory) -> None:
        sampler = factory(question())
        told = studied(sampler, _TRIALS)
        for upto in (0, 3, 11, _TRIALS):
            again = factory(question())
            for one in told[:upto]:
                again.tell(one)
            if upto < _TRIALS:
                assert again.ask(upto).setting == told[upto].setting, upto
            else:
                assert again.ask(upto) == sampler.ask(upto)

    def test_asking_twice_gives_the_same(self, factory: SamplerFactory) -> None:
        sampler = factory(question())
        studied(sampler, 14)
        assert sampler.ask(14) == sampler.ask(14)

    def test_telling_twice_replaces(self, factory: SamplerFactory) -> None:
        once, twice = factory(question()), factory(question())
        for one in studied(once, 15):
            twice.tell(Told(number=one.number, setting=one.setting))
            twice.tell(one)
            twice.tell(one)
        assert once.ask(15) == twice.ask(15)

    def test_dropped_trials_are_forgotten(self, factory: SamplerFactory) -> None:
        kept, dropped = factory(question()), factory(question())
        told = studied(kept, 15)
        for one in told:
            dropped.tell(one)
        lost = told[7].setting
        dropped.tell(Told(number=15, setting=lost))
        dropped.tell(Told(number=15, setting=lost, dropped=True))
        assert kept.ask(16) == dropped.ask(16)

    def test_what_was_cut_short_is_not_recommended(self, factory: SamplerFactory) -> None:
        asked = question()
        sampler = factory(asked)
        told = studied(sampler, 20)
        measured = sorted((one for one in told if one.verdict is Verdict.OK), key=lambda one: -one.values[0])
        for one in measured[: len(measured) // 2]:
            sampler.tell(one.model_copy(update={"short": True}))
        recommend = getattr(sampler, "recommend", None)
        if recommend is not None:
            cut = [one.setting for one in measured[: len(measured) // 2]]
            assert recommend() is None or recommend() not in cut
            for one in measured:
                sampler.tell(one.model_copy(update={"short": True}))
            assert recommend() is None
        assert asked.space.checked(sampler.ask(20).setting)

    def test_seeds_differ(self, factory: SamplerFactory) -> None:
        some = [factory(question(seed=seed)).ask(0).setting for seed in range(6)]
        assert len({tuple(sorted(one.items())) for one in some}) > 1

    def test_alike_in_every_process(self, factory: SamplerFactory) -> None:
        code = (
            "import importlib, sys\n"
            "from controlplane.testing.sampler_contract import question, studied\n"
            "factory = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])\n"
            "print([sorted(told.setting.items()) for told in studied(factory(question()), 16)])\n"
        )
        answers = set()
        for hash_seed in ("0", "77"):
            environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OPENBLAS_NUM_THREADS": "1"}
            arguments = [sys.executable, "-c", code, factory.__module__, factory.__name__]
            answers.add(subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True).stdout)
        assert len(answers) == 1

    def test_trials_under_way_are_not_asked_again(self, factory: SamplerFactory) -> None:
        sampler = factory(question())
        studied(sampler, 16)
        under_way: list[Setting] = []
        for number in range(16, 20):
            setting = sampler.ask(number).setting
            sampler.tell(Told(number=number, setting=setting))
            under_way.append(setting)
        assert len({tuple(sorted(one.items())) for one in under_way}) >= 3

    def test_given_settings_come_first(self, factory: SamplerFactory) -> None:
        given: Setting = {"tp": 4, "policy": "lpm", "split": True, "tokens": 640, "share": 0.75}
        sampler = factory(question(first=[given]))
        assert sampler.ask(0).setting == {**given, "engine": "x"}
        assert len(studied(sampler, 14)) == 14

    def test_nothing_ever_works(self, factory: SamplerFactory) -> None:
        sampler = factory(question())
        for number in range(14):
            setting = sampler.ask(number).setting
            sampler.tell(Told(number=number, setting=setting, verdict=Verdict.INFEASIBLE))
        assert sampler.ask(14).setting

    def test_several_objectives(self, factory: SamplerFactory) -> None:
        assert len(studied(factory(question(objectives=3)), 16, objectives=3)) == 16

    def test_values_of_any_size(self, factory: SamplerFactory) -> None:
        def scaled(by: Callable[[float], float]) -> None:
            sampler = factory(question())
            for number in range(16):
                told = measure(sampler.ask(number).setting)
                values = [by(value) for value in told.values]
                sampler.tell(told.model_copy(update={"number": number, "values": values}))

        scaled(lambda value: 1e12 * value)
        scaled(lambda value: 1e-12 * value)
        scaled(lambda value: -value)
        scaled(lambda value: 0.0)

    def test_spaces_of_one_setting(self, factory: SamplerFactory) -> None:
        one = SearchSpace(
            parameters=[
                ChoiceParameter(name="a", values=["x"]),
                IntParameter(name="b", low=3, high=3),
                FloatParameter(name="c", low=0.5, high=0.5),
            ]
        )
        sampler = factory(question(space=one))
        for number in range(14):
            try:
                setting = sampler.ask(number).setting
            except Refused as refused:
                assert refused.reason == "SpaceExhausted" and number > 0
                return
            assert setting == {"a": "x", "b": 3, "c": 0.5}
            sampler.tell(Told(number=number, setting=setting, verdict=Verdict.OK, values=[1.0 + number % 2]))

    def test_an_ask_in_a_long_study(self, factory: SamplerFactory) -> None:
        asked = question()
        sampler = factory(asked)
        rng_rows = asked.space.draw(np.random.default_rng(0), _LONG)
        for number in range(_LONG):
            told = measure(asked.space.setting(rng_rows, number))
            sampler.tell(told.model_copy(update={"number": number}))
        began = time.process_time()
        try:
            assert sampler.ask(_LONG).setting
        except Refused as refused:
            assert refused.reason == "SpaceExhausted"
        assert time.process_time() - began < _LONG_ASK_S
