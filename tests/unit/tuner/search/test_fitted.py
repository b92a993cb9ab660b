"""The fitted simulator: its figures are a measurement's, it learns an engine from a few trials, and says how well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controlplane.model.errors import Unsupported
from controlplane.model.tuning import Setting, Told, Verdict
from controlplane.model.tuning_job import RequestSlo, TuningSpec
from controlplane.tuning_jobs import sampler_of, space_of
from tests.unit.tuner.search.fitted_engine import CLOSED, COSTS, POISSON, FakeEngine, spec_of, studied, threaded
from tuner.measure.definitions import metrics_of
from tuner.measure.loadgen.job import Sample
from tuner.search.fitted import Simulator, simulator_of
from tuner.search.fitted_costs import costs_of
from tuner.search.fitted_fit import FITTED_MOST
from tuner.search.fitted_replay import Replayer, Run, known_figure

SPLIT: Setting = {"dynamicSplitFuse": True, "maxNumBatchedTokens": 256, "enablePrefixCaching": False, "numThreads": 8}
WHOLE: Setting = {**SPLIT, "dynamicSplitFuse": False, "maxNumBatchedTokens": 1024, "maxNumSeqs": 4}


def simulator(spec: TuningSpec) -> Simulator:
    found = simulator_of(spec, space_of(spec))
    assert isinstance(found, Simulator)
    return found


@pytest.mark.parametrize("load", [None, POISSON])
@pytest.mark.parametrize("setting", [SPLIT, WHOLE])
def test_figures_are_those_of_a_measurement(load: dict[str, Any] | None, setting: Setting) -> None:
    spec = spec_of(**({} if load is None else {"load": load, "slo": {"ttftMs": 400, "e2EMs": 2000}}))
    setting = {**setting, "maxNumBatchedTokens": max(int(setting["maxNumBatchedTokens"]), 1056)}
    run = Replayer(spec).run(setting, COSTS, 5)
    metrics = metrics_of(samples_of(run), spec.slo)
    compared = [name for name in metrics if known_figure(name)]
    assert {"goodput_per_s", "attainment", "ttft_p90_ms", "tpot_mean_ms", "e2e_p99_ms", "requests_per_s"} <= {*compared}
    for name in compared:
        assert run.figure(name, spec.slo) == pytest.approx(metrics[name]), name
    assert run.asked == 60
    assert float(run.shares.sum()) == pytest.approx(1.0)


def samples_of(run: Run) -> list[Sample]:
    """As a client would have written them."""
    count = run.whole_s.size
    rows = zip(run.intended_s, run.first_s, run.whole_s, strict=True)
    return [
        Sample(i, float(at), float(at), float(at + first), float(at + whole), run.prompt_tokens // count,
               run.output_tokens // count)
        for i, (at, first, whole) in enumerate(rows)
    ]  # fmt: skip


def test_a_slower_pace_and_a_blur_move_figures_as_they_should() -> None:
    spec = spec_of()
    run = Replayer(spec).run(SPLIT, COSTS, 0)
    fast, slow = run.figure("ttft_mean_ms", None), run.figure("ttft_mean_ms", None, 2.0)
    assert fast is not None and slow == pytest.approx(2 * fast)
    assert run.figure("requests_per_s", None, 2.0) == pytest.approx((run.figure("requests_per_s", None) or 0) / 2)
    near = RequestSlo(ttft_ms=float(run.first_s.max()) * 1e3)
    assert run.figure("attainment", near) == 1.0
    assert 0.5 < (run.figure("attainment", near, 1.0, 0.1) or 0) < 1.0
    assert run.figure("energy_j", None) is None and run.figure("goodput_per_s", None) is None


def test_after_a_few_trials_it_knows_the_engine() -> None:
    spec = spec_of()
    engine, fitted = FakeEngine(spec, noise=0.0), simulator(spec)
    half: Setting = {**SPLIT, "numThreads": 4}
    told = [engine.told(i, setting) for i, setting in enumerate((SPLIT, WHOLE, half))]
    fit = fitted.fit(told)
    assert fit is not None and fit.trials == 3 and fit.off is not None and fit.off < 0.15
    for setting in ({**SPLIT, "maxNumBatchedTokens": 64}, {**WHOLE, "maxNumSeqs": 2}, {**half, "numThreads": 2}):
        costs = fitted._costs.costs(fitted._costs.rows(setting), fit.unknowns)
        real, expected = engine.told(9, setting).figures, Replayer(spec).run(setting, costs, 9)
        for name in ("ttft_mean_ms", "tpot_mean_ms", "requests_per_s"):
            assert expected.figure(name, None) == pytest.approx(real[name], rel=0.15), (setting, name)


def test_what_it_has_not_seen_it_is_less_sure_of() -> None:
    spec = spec_of(objectives=[{"metric": "output_tokens_per_s"}])
    engine, fitted = FakeEngine(spec, noise=0.0), simulator(spec)
    fitted.fit([engine.told(0, SPLIT)])
    alike, other = fitted.expects({**SPLIT, "maxNumBatchedTokens": 200}), fitted.expects({**SPLIT, "numThreads": 2})
    assert alike is not None and other is not None

    def width(values: tuple[float, ...]) -> float:
        return (max(values) - min(values)) / values[0]

    assert width(other.values) > 2 * width(alike.values)


def test_a_disturbed_trial_counts_less() -> None:
    spec = spec_of()
    engine, fitted = FakeEngine(spec, noise=0.0), simulator(spec)
    settings = [SPLIT, WHOLE, {**SPLIT, "numThreads": 4}, {**SPLIT, "maxNumBatchedTokens": 64}]
    told = [engine.told(i, setting) for i, setting in enumerate(settings)]
    slowed = {name: value / 5 if name.endswith("_per_s") else value * 5 for name, value in told[1].figures.items()}
    fit = fitted.fit([told[0], told[1].model_copy(update={"figures": slowed}), *told[2:]])
    assert fit is not None
    costs = fitted._costs.costs(fitted._costs.rows(SPLIT), fit.unknowns)
    assert Replayer(spec).run(SPLIT, costs, 0).figure("tpot_mean_ms", None) == pytest.approx(
        told[0].figures["tpot_mean_ms"], rel=0.2
    )


def test_the_same_trials_give_the_same_fit_at_once_or_one_by_one() -> None:
    spec = spec_of(load=POISSON, slo={"ttftMs": 800, "tpotMs": 20})
    told, _ = studied(FakeEngine(spec), 8)
    step_by_step, at_once = simulator(spec), simulator(spec)
    for count in range(1, len(told) + 1):
        last = step_by_step.fit(told[:count])
    whole = at_once.fit(told)
    assert last is not None and whole is not None
    assert np.array_equal(last.unknowns, whole.unknowns) and last.off == whole.off
    # One that was still under way comes in between: begun again, it is the same.
    late = simulator(spec)
    late.fit([*told[:3], *told[4:]])
    found = late.fit(told)
    assert found is not None and np.array_equal(found.unknowns, whole.unknowns)


def test_a_long_study_costs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of()
    engine = FakeEngine(spec)
    told, _ = studied(engine, 12)
    more = [told[i % 12].model_copy(update={"number": i}) for i in range(12, 600)]
    replays = []
    run = Replayer.run

    def counted(self: Replayer, *args: Any) -> Run:
        replays.append(1)
        return run(self, *args)

    monkeypatch.setattr(Replayer, "run", counted)
    asked = sampler_of(spec)
    for one in (*told, *more):
        asked.tell(one)
    asked.ask(600)
    begun = len(replays)
    assert begun < 25 * FITTED_MOST + 150
    asked.tell(told[0].model_copy(update={"number": 600}))
    asked.ask(601)
    assert len(replays) - begun < 150


def test_what_is_kept_and_replayed_is_bounded() -> None:
    spec = spec_of(measuring={"requests": 100_000})
    fitted = simulator(spec)
    runs = [fitted._replayer.run(SPLIT, COSTS, seed) for seed in range(300)]
    assert len(fitted._replayer._drawn) <= 128 and {run.asked for run in runs} == {240}
    again = fitted._replayer.run(SPLIT, COSTS, 0)
    assert np.array_equal(again.first_s, runs[0].first_s), "drawn again they are the same"
    for tokens, asked in ((32_000, 240), (64_000, 115), (2_000_000, 32)):
        long = spec_of(measuring={"requests": 100_000}, load={**CLOSED, "input": {"tokens": tokens}})
        assert Replayer(long).run(SPLIT, COSTS, 0).asked == asked, tokens


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"ttft_mean_ms": 0.0, "requests_per_s": -1.0},
        {"unheard_of": 3.0},
        {"ttft_mean_ms": 1e300, "tpot_mean_ms": 1e-300, "requests_per_s": 1e18},
    ],
)
def test_nonsense_is_no_reason_to_fail(figures: dict[str, float]) -> None:
    spec = spec_of()
    asked = sampler_of(spec)
    for number in range(6):
        setting = asked.ask(number).setting
        assert space_of(spec).checked(setting) == setting
        asked.tell(Told(number=number, setting=setting, verdict=Verdict.OK, values=[1.0 + number], figures=figures))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"objectives": [{"metric": "joule_per_output_token", "direction": "minimize"}]}, "a replay has no joule"),
        ({"objectives": [{"metric": "goodput_per_s"}, {"metric": "ttft_p90_ms", "direction": "minimize"}]}, "several"),
        ({"load": {"arrivals": "trace", "trace": "t.jsonl"}}, "trace arrivals"),
        (
            {
                "target": {"kind": "command", "command": ["x", "{a}"]},
                "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 9}]},
            },
            "knows what is tuned",
        ),
    ],
)
def test_it_says_why_there_is_none(more: dict[str, Any], why: str) -> None:
    spec = spec_of(**more)
    found = simulator_of(spec, space_of(spec))
    assert isinstance(found, str) and why in found
    assert sampler_of(spec).ask(0).setting


def test_costs_follow_what_the_space_has() -> None:
    space = {
        "parameters": [
            {"kind": "choice", "name": "maxNumBatchedTokens", "values": [64, 256]},
            {"kind": "choice", "name": "numThreads", "values": [1, 2, 4]},
            {"kind": "choice", "name": "inferencePrecision", "values": ["f32", "bf16"]},
            {"kind": "int", "name": "maxWaiting", "low": 1, "high": 1000},
        ]
    }
    spec = spec_of(space=space)
    costs = costs_of(space_of(spec))
    assert costs.mean.size == 4 + 2 + 1 + 1  # the budget is the admission rules' own
    setting: Setting = {"maxNumBatchedTokens": 64, "numThreads": 1, "inferencePrecision": "bf16", "maxWaiting": 1}
    rows = costs.rows(setting)
    fastest = costs.rows({**setting, "numThreads": 4})
    slower = costs.costs(rows, costs.mean) / costs.costs(fastest, costs.mean)
    assert slower[1] == pytest.approx(4**0.8) and 1 < slower[0] < slower[1]
    assert rows[:, 6].tolist() == [1.0] * 4
    assert not costs.rows({**setting, "inferencePrecision": "f32"})[:, 6].any()
    assert rows[0, 7] < 0 < costs.rows({**setting, "maxWaiting": 1000})[0, 7]
    assert np.array_equal(costs.rows({}), costs.rows({"maxNumBatchedTokens": 256}))


def test_threads_are_learnt() -> None:
    spec = spec_of()
    engine, fitted = FakeEngine(spec, lambda setting: threaded(setting) ** 1.0, noise=0.0), simulator(spec)
    settings = [SPLIT, {**SPLIT, "numThreads": 4}, {**SPLIT, "numThreads": 2}]
    fit = fitted.fit([engine.told(i, one) for i, one in enumerate(settings)])
    assert fit is not None
    rows = [fitted._costs.rows({**SPLIT, "numThreads": threads}) for threads in (8, 1)]
    fast, slow = (fitted._costs.costs(one, fit.unknowns) for one in rows)
    assert slow[1] / fast[1] == pytest.approx(8**0.6, rel=0.2)


def test_what_cannot_be_replayed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of()
    engine, fitted = FakeEngine(spec, noise=0.0), simulator(spec)
    told = [engine.told(i, setting) for i, setting in enumerate((SPLIT, WHOLE))]
    run = Replayer.run

    def broken(self: Replayer, setting: Setting, *args: Any) -> Run:
        if not setting["dynamicSplitFuse"]:
            raise Unsupported("the replay needs its compiler", field="tuner.serving.replay")
        return run(self, setting, *args)

    monkeypatch.setattr(Replayer, "run", broken)
    fit = fitted.fit(told)
    assert fit is not None and fit.trials == 1
    assert fitted.expects(WHOLE) is None and fitted.expects(SPLIT) is not None
    assert simulator(spec).fit(told[1:]) is None
    asked = sampler_of(spec)
    asked.tell(told[1])
    assert asked.ask(1).reason.startswith("covers")
