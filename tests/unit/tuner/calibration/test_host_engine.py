"""A step table fitted to what clients of an engine saw."""

from __future__ import annotations

import numpy as np
import pytest

from controlplane.model.errors import Unsupported
from tests.unit.tuner.calibration.host_synthetic import ENTRY_MS, play, step_ms
from tuner.serving.calibration.host_engine import fit, non_negative_least_squares
from tuner.serving.calibration.host_streams import Interval, Iteration, Stream, intervals_of
from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.requests import Requests
from tuner.serving.replay.rules import rules_with_knobs
from tuner.serving.replay.run import simulate
from tuner.serving.step.lookup import context_step_ms, decode_step_ms

SPLIT = rules_with_knobs("openvino", {"maxNumBatchedTokens": 128})
APART = rules_with_knobs("openvino", {"dynamicSplitFuse": False}, context_tokens=4096)


def observed(noise: float = 0.0) -> list[Interval]:
    found: list[Interval] = []
    for clients in (1, 4, 12):
        found += intervals_of(play(80, clients, budget=128, chunked=True, seed=clients, noise=noise), SPLIT)
    return found + intervals_of(play(80, 6, budget=4096, chunked=False, seed=9, noise=noise), APART)


def test_intervals_hold_what_the_engine_computed() -> None:
    streams = play(60, 5, budget=128, chunked=True, seed=1)
    found = intervals_of(streams, SPLIT)
    tokens = sum(len(stream.token_s) for stream in streams)
    told = sum(shape.decodes for interval in found for shape in interval.iterations)
    assert told > 0.6 * tokens
    for interval in found:
        if not interval.from_idle:
            want = sum(step_ms(s.context_tokens, s.context_pairs, s.decodes, s.decode_kv) for s in interval.iterations)
            # The first event of an iteration ends it: a sequence that has just ended moves it by an event's time.
            assert interval.duration_ms == pytest.approx(want, abs=0.3)


def test_a_prompt_over_the_budget_takes_iterations_that_nobody_sees() -> None:
    stream = Stream(0.0, 300, (0.1, 0.11))
    first, second = intervals_of([stream], SPLIT)
    assert first.from_idle and [shape.context_tokens for shape in first.iterations] == [128, 128, 44]
    assert first.iterations[2].context_pairs == 44 * (256 + 22)
    assert second.iterations == (Iteration(decodes=1, decode_kv=301),)


def test_what_contradicts_the_rules_is_left_out() -> None:
    # The second prompt was there first, and yet the first is answered before it: the rules say otherwise.
    streams = [Stream(0.010, 200, (0.2, 0.21)), Stream(0.0, 200, (0.4, 0.41))]
    assert all(not interval.iterations[0].context_tokens for interval in intervals_of(streams, SPLIT))


def test_the_fit_finds_the_costs() -> None:
    found = fit(observed(), source="synthetic")
    assert found.table.provenance.tier == "calibrated"
    assert found.error_pct < 2
    assert found.request_ms == pytest.approx(ENTRY_MS, rel=0.15)
    for sequences, kv in ((1, 100), (4, 200), (12, 150)):
        want = step_ms(0, 0.0, sequences, sequences * kv)
        assert decode_step_ms(found.table, sequences, kv) == pytest.approx(want, rel=0.05)
    for prompts, new, decodes in ((1, 120, 4), (2, 50, 8), (1, 40, 0)):
        want = step_ms(prompts * new, prompts * new * new / 2, decodes, decodes * 150)
        assert context_step_ms(found.table, prompts, new, 0, decodes, 150) == pytest.approx(want, rel=0.07)


def test_moments_without_the_cores_move_the_fit_little() -> None:
    calm = observed(noise=0.05)
    shaken = [
        Interval(interval.duration_ms * (30 if number % 40 == 0 else 1), interval.iterations, interval.from_idle)
        for number, interval in enumerate(calm)
    ]
    # One interval in forty takes thirty times as long: the mean rises by 73 %.
    before, after = fit(calm, source="calm"), fit(shaken, source="shaken")
    assert decode_step_ms(after.table, 8, 150) == pytest.approx(decode_step_ms(before.table, 8, 150), rel=0.25)


def test_two_odd_iterations_do_not_make_the_slope_beyond_what_was_seen() -> None:
    calm = observed(noise=0.02)
    largest = max(shape.context_tokens for interval in calm for shape in interval.iterations)
    # The two largest iterations of all, each twice as long as its size asks for.
    pairs = (largest + 100) ** 2 / 2
    odd = Interval(
        2 * step_ms(largest + 100, pairs, 0, 0), (Iteration(context_tokens=largest + 100, context_pairs=pairs),), False
    )
    found = fit([*calm, odd, odd], source="synthetic")
    assert context_step_ms(found.table, 8, 256, 0, 0, 0) == pytest.approx(step_ms(2048, 8 * 256**2 / 2, 0, 0), rel=0.5)


@pytest.mark.parametrize(("budget", "chunked", "clients"), [(128, True, 3), (64, True, 9), (4096, False, 7)])
def test_a_replay_with_the_fitted_table_meets_other_loads(budget: int, chunked: bool, clients: int) -> None:
    found = fit(observed(), source="synthetic")
    knobs = {"maxNumBatchedTokens": budget} if chunked else {"dynamicSplitFuse": False}
    rules = rules_with_knobs("openvino", knobs, context_tokens=4096)
    streams = sorted(play(200, clients, budget=budget, chunked=chunked, seed=77), key=lambda one: one.issued_s)
    requests = Requests(
        arrival_s=np.zeros(len(streams)),
        isl=np.array([one.prompt_tokens for one in streams], np.int64),
        osl=np.array([len(one.token_s) for one in streams], np.int64),
        clients=clients,
    )
    replica = Replica(table=found.table, rules=rules, request_ms=found.request_ms)
    said = simulate(Fleet(replicas=(replica,)), requests)
    ttft_ms = [(one.token_s[0] - one.issued_s) * 1e3 for one in streams]
    tpot_ms = [(one.token_s[-1] - one.token_s[0]) * 1e3 / (len(one.token_s) - 1) for one in streams]
    assert np.median(said.ttft_ms) == pytest.approx(np.median(ttft_ms), rel=0.1)
    assert np.percentile(said.ttft_ms, 95) == pytest.approx(np.percentile(ttft_ms, 95), rel=0.15)
    assert np.median(said.tpot_ms) == pytest.approx(np.median(tpot_ms), rel=0.05)


def test_a_dip_at_the_end_of_the_decode_curve_does_not_go_on() -> None:
    dip = [
        Interval(2.0 + 0.3 * g - (0.5 if g == 8 else 0.0), (Iteration(decodes=g, decode_kv=0),), False)
        for g in range(1, 9)
        for _ in range(40)
    ]
    prompts = [Interval(1.5 + 0.05 * n, (Iteration(1, n, n * n / 2),), True) for n in range(20, 120)]
    found = fit(dip + prompts, source="a dip")
    assert decode_step_ms(found.table, 8, 0) < decode_step_ms(found.table, 7, 0)
    times = [decode_step_ms(found.table, g, 0) for g in range(8, 200)]
    assert times == sorted(times)


def test_without_an_idle_engine_nobody_knows_how_long_requests_are_under_way() -> None:
    busy = [interval for interval in observed() if not interval.from_idle]
    with pytest.raises(Unsupported, match="idle engine"):
        fit(busy, source="busy")


def test_too_little_is_refused_with_a_way_out() -> None:
    with pytest.raises(Unsupported, match="intervals"):
        fit([Interval(5.0, (Iteration(decodes=1, decode_kv=10),), False)] * 200, source="decodes only")


@pytest.mark.parametrize("seed", range(20))
def test_non_negative_least_squares_is_optimal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(30, 6)), rng.normal(size=30)
    x = non_negative_least_squares(a, b)
    slope = a.T @ (b - a @ x)
    assert (x >= 0).all()
    assert (slope <= 1e-8).all()  # nothing that is held at zero would help
    assert np.abs(slope[x > 0]).max(initial=0.0) < 1e-8
