"""The compiled loop against the plain-Python oracle: every request, every counter, on mixed cases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tuner.replay.cases import mixed_case
from tuner.serving.replay.reference import simulate_slowly
from tuner.serving.replay.run import simulate

GAP = 1e-8  # relative: the target of 1e-6 %


def close(a: float, b: float) -> bool:
    return abs(a - b) <= GAP * max(1e-3, abs(a))


def check(number: int) -> None:
    fleet, requests, seed = mixed_case(number)
    oracle = simulate_slowly(fleet, requests, seed=seed)
    result = simulate(fleet, requests, seed=seed)
    for i, live in enumerate(oracle.lives):
        assert live.refused == result.refused[i]
        assert live.replica == result.replica[i]
        assert live.decoder == result.decode_replica[i]
        assert live.preemptions == result.preemptions[i]
        assert live.hit_tokens == result.prefix_hit_tokens[i]
        assert close(live.issued_s, result.arrival_s[i])
        if not live.refused:
            assert close(live.scheduled_s, result.scheduled_s[i])
            assert close(live.first_s, result.first_token_s[i])
            assert close(live.done_s, result.done_s[i])
    for engine, use in zip(oracle.engines, result.replicas, strict=True):
        assert engine.iterations == use.iterations
        assert (engine.context_tokens, engine.decode_tokens) == (use.context_tokens, use.decode_tokens)
        assert close(engine.phase_s["prefill"], use.prefill_s)
        assert close(engine.phase_s["mixed"], use.mixed_s)
        assert close(engine.phase_s["decode"], use.decode_s)
        if use.kv_fraction_peak is not None and engine.replica.kv_blocks is not None:
            peak = max(rank.peak for rank in engine.ranks)
            assert peak / engine.replica.kv_blocks == pytest.approx(use.kv_fraction_peak)
            assert peak <= engine.replica.kv_blocks


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_the_compiled_loop_and_the_oracle_agree(number: int) -> None:
    check(number)


def test_the_cases_reach_what_they_are_for() -> None:
    """A test that never preempts or hits proves nothing about either."""
    results = [(simulate(fleet, requests, seed=seed), fleet) for fleet, requests, seed in map(mixed_case, range(150))]
    assert sum(int(result.preemptions.sum()) for result, _ in results) > 30
    assert sum(int(result.prefix_hit_tokens.sum()) for result, _ in results) > 10_000
    assert sum(result.refused.any() for result, _ in results) > 5
    assert sum(bool((result.decode_replica >= 0).any()) for result, _ in results) > 10
    assert sum(any(r.attention_ranks > 1 for r in fleet.replicas) for _, fleet in results) > 10
    assert sum(any(r.pipeline_stages > 1 for r in fleet.replicas) for _, fleet in results) > 10
