"""The default sampler with a fitted simulator: soon there where it is right, little later where it is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from controlplane.model.tuning import Setting, Told, Verdict
from controlplane.tuning_jobs import space_of
from tests.unit.tuner.search.fitted_engine import (
    POISSON,
    FakeEngine,
    against_threads,
    sampler,
    spec_of,
    studied,
    trials_to,
)

SEEDS = range(4)


def test_it_begins_with_what_the_engine_runs_with_and_says_what_it_rests_on() -> None:
    told, why = studied(FakeEngine(spec_of()), 4)
    assert told[0].setting == {
        "dynamicSplitFuse": True, "maxNumBatchedTokens": 256, "enablePrefixCaching": False, "numThreads": 8,
    }  # fmt: skip
    assert why[0].startswith("what openvino runs with by itself")
    assert "target.accelerator is not named" in why[0]
    assert why[1].endswith("a simulator fitted to 1 trial") and "goodput_per_s" in why[1]
    assert "a simulator fitted to 2 trials, off by " in why[2] and "in the median" in why[2]


def test_a_knob_whose_default_nobody_knows_has_the_first_value_that_the_rules_allow_and_that_is_said() -> None:
    for values, taken in ((["bf16", "u8", "f32"], "u8"), (["f32", "bf16", "u8"], "f32")):
        space = {
            "parameters": [
                {"kind": "choice", "name": "maxNumBatchedTokens", "values": [64, 256, 1024]},
                {"kind": "choice", "name": "kvCachePrecision", "values": values},
            ],
            "fixed": {"dynamicSplitFuse": True, "inferencePrecision": "f32"},
            "rules": [{"expression": "kvCachePrecision != 'bf16' or inferencePrecision == 'bf16'", "message": "m"}],
        }
        first = sampler(spec_of(space=space)).ask(0)
        assert first.setting["kvCachePrecision"] == taken and first.setting["maxNumBatchedTokens"] == 256
        assert first.reason.startswith(
            f"what openvino runs with by itself; kvCachePrecision {taken} chosen, its default is unknown: a simulator"
        )


def test_nothing_is_said_to_run_by_itself_where_no_choice_is_allowed_beside_the_defaults() -> None:
    space = {
        "parameters": [
            {"kind": "choice", "name": "maxNumBatchedTokens", "values": [64, 256]},
            {"kind": "choice", "name": "kvCachePrecision", "values": ["u8", "f32"]},
        ],
        "rules": [{"expression": "maxNumBatchedTokens == 64", "message": "m"}],
    }
    assert sampler(spec_of(space=space)).ask(0).reason.startswith("covers the space")


def test_what_is_in_use_comes_first_where_it_is_known() -> None:
    used: Setting = {
        "dynamicSplitFuse": True, "maxNumBatchedTokens": 512, "enablePrefixCaching": False, "numThreads": 4,
    }  # fmt: skip
    told, why = studied(FakeEngine(spec_of(baseline=used)), 2)
    assert told[0].setting == used
    assert why[0].startswith("to start with") and why[1].endswith("a simulator fitted to 1 trial")


def test_where_it_is_right_a_few_trials_are_enough() -> None:
    fitted, alone = [], []
    for seed in SEEDS:
        engine = FakeEngine(spec_of(seed=seed))
        good = 0.95 * engine.best()
        fitted.append(trials_to(engine, good, 20))
        alone.append(trials_to(engine, good, 20, fitted=False))
    assert max(fitted) <= 6
    assert np.mean(fitted) < 0.5 * np.mean(alone)


def test_where_it_is_wrong_it_costs_a_few_trials() -> None:
    fitted, alone = [], []
    for seed in SEEDS:
        engine = FakeEngine(spec_of(seed=seed), against_threads)
        good = 0.95 * engine.best()
        fitted.append(trials_to(engine, good, 30))
        alone.append(trials_to(engine, good, 30, fitted=False))
    assert np.mean(fitted) <= np.mean(alone) + 4


def test_figures_that_have_nothing_to_do_with_the_setting_are_not_followed() -> None:
    spec = spec_of()
    engine, asked = FakeEngine(spec), sampler(spec)
    rng, why = np.random.default_rng(1), []
    for number in range(8):
        proposal = asked.ask(number)
        why.append(proposal.reason)
        told = engine.told(number, proposal.setting)
        lies = {name: value * float(np.exp(rng.normal(0, 2))) for name, value in told.figures.items()}
        asked.tell(told.model_copy(update={"figures": lies}))
    assert all("covers" in reason and "not followed" in reason for reason in why[3:])


def test_an_objective_that_goes_the_other_way_is_not_followed() -> None:
    spec = spec_of(objectives=[{"metric": "output_tokens_per_s"}], slo=None)
    engine, asked, why = FakeEngine(spec), sampler(spec), []
    for number in range(9):
        proposal = asked.ask(number)
        why.append(proposal.reason)
        told = engine.told(number, proposal.setting)
        asked.tell(told.model_copy(update={"values": [1e4 / told.values[0] ** 2]}))
    assert any("does not tell what is better: not followed" in reason for reason in why)


def test_it_keeps_limits() -> None:
    limited = spec_of(
        objectives=[{"metric": "output_tokens_per_s"}], slo=None, limits=[{"metric": "tpot_p90_ms", "atMost": 5.0}]
    )
    free = spec_of(objectives=[{"metric": "output_tokens_per_s"}], slo=None)
    kept, _ = studied(FakeEngine(limited), 8)
    tpot_ms = [one.figures["tpot_p90_ms"] for one in studied(FakeEngine(free), 8)[0]]
    assert sum(one.violation[0] <= 0 for one in kept) > sum(value <= 5.0 for value in tpot_ms)


def test_failures_are_kept_away_from_as_ever() -> None:
    spec = spec_of()
    engine, asked = FakeEngine(spec), sampler(spec)
    failed = 0
    for number in range(20):
        setting = asked.ask(number).setting
        if float(setting["maxNumBatchedTokens"]) > 700:
            failed += 1
            asked.tell(Told(number=number, setting=setting, verdict=Verdict.INFEASIBLE))
        else:
            asked.tell(engine.told(number, setting))
    assert failed <= 9


def test_trials_under_way_are_not_asked_again() -> None:
    spec = spec_of(parallel=4)
    engine, asked = FakeEngine(spec), sampler(spec)
    told = [engine.told(number, asked.ask(number).setting) for number in range(1)]
    asked.tell(told[0])
    settings = []
    for number in range(1, 5):
        settings.append(asked.ask(number).setting)
        asked.tell(Told(number=number, setting=settings[-1]))
    assert len({tuple(sorted(one.items())) for one in settings}) == 4


@pytest.mark.parametrize("load", [None, POISSON])
def test_rebuilt_from_its_trials_it_asks_the_same(load: dict[str, object] | None) -> None:
    spec = spec_of() if load is None else spec_of(load=load, slo={"ttftMs": 800, "tpotMs": 20})
    told, why = studied(FakeEngine(spec), 9)
    for upto in (1, 4, 8):
        again = sampler(spec)
        for one in reversed(told[:upto]):
            again.tell(one)
        asked = again.ask(upto)
        assert (asked.setting, asked.reason) == (told[upto].setting, why[upto])
        assert space_of(spec).checked(asked.setting) == asked.setting


def test_alike_in_every_process() -> None:
    code = (
        "from tests.unit.tuner.search.fitted_engine import FakeEngine, spec_of, studied\n"
        "told, why = studied(FakeEngine(spec_of()), 7)\n"
        "print([sorted(one.setting.items()) for one in told], why)\n"
    )
    answers = set()
    for hash_seed in ("0", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
        answers.add(done.stdout)
    assert len(answers) == 1
