"""Replays whose outcome can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.tuner.replay.cases import axis, one, table
from tuner.serving.replay.fleet import Fleet, KvLink, Replica
from tuner.serving.replay.reference_table import step_ms
from tuner.serving.replay.requests import Requests, closed_loop, open_loop, poisson_times
from tuner.serving.replay.rules import default_rules
from tuner.serving.replay.run import simulate
from tuner.serving.step.lookup import decode_step_ms
from tuner.serving.step.table import StepTable


def prefill_ms(tokens: int, past: int = 0) -> float:
    return step_ms(table(), context=tokens, prompts=1, past=past, decodes=0, tokens_each=1, kv=0)


def decode_ms(g: int, kv: int) -> float:
    """As the planner reads the same table: `kv` tokens in all are cached when the iteration starts."""
    return decode_step_ms(table(), g, kv / g)


def flat(step: float) -> StepTable:
    """Every iteration takes this long, ms."""
    knots, nothing = axis(1, 2), np.zeros((2, 2))
    return replace(
        table(), context_tokens=knots, context_ms=axis(step, step), decode_sequences=knots,
        decode_ms=axis(step, step), context_attention_batch=knots, context_attention_new=knots,
        context_attention_past=knots, context_attention_ms=np.zeros((2, 2, 2)), decode_attention_sequences=knots,
        decode_attention_kv=knots, decode_attention_ms=nothing,
    )  # fmt: skip


def test_one_client_waits_for_its_prefill_and_then_for_each_decode() -> None:
    result = simulate(one(), closed_loop(1, 5, isl=1000, osl=200))
    assert result.ttft_ms == pytest.approx(prefill_ms(1000))
    mean = np.mean([decode_ms(1, 1000 + made) for made in range(199)])
    assert result.tpot_ms == pytest.approx(mean)
    assert result.iterations == 5 * 200


def test_host_time_is_added_to_every_iteration_and_once_to_the_request() -> None:
    fleet = one(host_step_ms=2.0, host_sequence_ms=0.5, request_ms=7.0)
    result = simulate(fleet, closed_loop(1, 3, isl=1000, osl=10))
    assert result.ttft_ms == pytest.approx(prefill_ms(1000) + 2.5 + 7.0)
    assert result.tpot_ms == pytest.approx(np.mean([decode_ms(1, 1000 + k) for k in range(9)]) + 2.5)


def test_a_front_end_reads_prompts_one_after_the_other() -> None:
    """The second of two prompts sent at once is read when the first is: by then the engine has begun with the first."""
    fleet = one(replace(default_rules("vllm"), planned_ahead=False), entry_token_ms=0.01)
    result = simulate(fleet, open_loop(np.zeros(2), isl=1000, osl=1))
    assert result.ttft_ms == pytest.approx([10 + prefill_ms(1000), 10 + 2 * prefill_ms(1000)])
    rested = simulate(fleet, open_loop(np.array([0.0, 100.0]), isl=1000, osl=1))
    assert rested.ttft_ms == pytest.approx([10 + prefill_ms(1000)] * 2)


def test_a_long_prompt_is_computed_in_chunks_at_their_true_past() -> None:
    fleet = one(replace(default_rules("vllm"), token_budget=2048))
    result = simulate(fleet, closed_loop(1, 1, isl=5000, osl=1))
    wanted = prefill_ms(2048) + prefill_ms(2048, 2048) + prefill_ms(904, 4096)
    assert result.ttft_ms[0] == pytest.approx(wanted)


def test_saturated_decode_runs_at_the_full_batch() -> None:
    result = simulate(one(), closed_loop(64, 64, isl=16, osl=2000))
    assert result.tpot_ms == pytest.approx(np.mean([decode_ms(64, 64 * (16 + k)) for k in range(1999)]))


def test_waiting_time_of_constant_service_at_random_arrivals() -> None:
    """M/D/1: one request at a time, each 10 ms, load 0.6: mean wait rho / (2 (1 - rho)) x 10 ms = 7.5 ms."""
    fleet = Fleet(replicas=(Replica(table=flat(10.0), rules=replace(default_rules("vllm"), max_sequences=1)),))
    result = simulate(fleet, open_loop(poisson_times(60.0, 200_000, seed=1), isl=8, osl=1))
    assert np.mean(result.scheduled_s - result.arrival_s) * 1e3 == pytest.approx(7.5, rel=0.05)


def test_kv_memory_bounds_the_batch() -> None:
    """100 blocks of 16, 20 blocks a request from its admission to its end: five run at a time, whoever waits."""
    rules = replace(default_rules("trtllm-serve"), block_tokens=16)
    fleet = Fleet(replicas=(Replica(table=flat(10.0), rules=rules, kv_blocks=100),))
    result = simulate(fleet, closed_loop(50, 500, isl=160, osl=160))
    assert result.preemptions.sum() == 0
    assert result.replicas[0].timeline.running.max() == 5
    assert result.requests_per_s == pytest.approx(5 / (160 * 0.010), rel=0.01)
    assert result.kv_fraction_peak == 1.0


def test_tokens_are_conserved() -> None:
    """What was computed is what was asked for plus what preemption made compute again; nothing is lost."""
    requests = closed_loop(40, 200, isl=100, osl=80, isl_range=0.3, osl_range=0.3, seed=3)
    calm = simulate(one(kv_blocks=10_000), requests)
    assert calm.replicas[0].context_tokens == requests.isl.sum()
    assert calm.replicas[0].decode_tokens == (requests.osl - 1).sum()
    tight = simulate(one(kv_blocks=40), requests)
    assert tight.preemptions.sum() > 0
    assert tight.replicas[0].context_tokens > requests.isl.sum()
    assert tight.answered == 200


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm-serve", "openvino"])
def test_nobody_starves(engine: str) -> None:
    rules = replace(default_rules(engine), block_tokens=16)  # type: ignore[arg-type]
    requests = open_loop(np.zeros(300), isl=300, osl=100, isl_range=0.01, osl_range=0.01, seed=2)
    result = simulate(one(rules, kv_blocks=60), requests)
    assert result.answered == 300
    assert np.isfinite(result.done_s).all()


def test_the_more_important_class_goes_first() -> None:
    rules = replace(default_rules("vllm"), priorities=True, max_sequences=4)
    requests = replace(open_loop(np.zeros(40), isl=100, osl=20), priority=np.arange(40, dtype=np.int64) % 2)
    result = simulate(one(rules), requests)
    first, second = result.ttft_ms[requests.priority == 0], result.ttft_ms[requests.priority == 1]
    assert first.max() < second.min()
    ignored = simulate(one(replace(rules, priorities=False)), requests)
    assert (np.diff(ignored.first_token_s) >= 0).all()


def test_attention_ranks_wait_for_the_slowest() -> None:
    fleet = one(attention_ranks=2)
    requests = Requests(arrival_s=np.zeros(2), isl=np.array([4000, 10]), osl=np.array([5, 5]))
    assert simulate(fleet, requests).ttft_ms == pytest.approx(prefill_ms(4000))


def test_pipeline_stages_overlap_different_requests() -> None:
    alone = simulate(one(pipeline_stages=2), closed_loop(1, 1, isl=100, osl=100))
    both = simulate(one(pipeline_stages=2), closed_loop(2, 2, isl=100, osl=100))
    assert both.span_s < 1.2 * alone.span_s
    assert alone.tpot_ms[0] == pytest.approx(simulate(one(), closed_loop(1, 1, isl=100, osl=100)).tpot_ms[0])


def test_drafted_tokens_divide_the_steps() -> None:
    plain = simulate(one(), closed_loop(1, 1, isl=100, osl=101))
    drafted = simulate(one(draft_tokens=3, accepted_tokens=1.5), closed_loop(1, 1, isl=100, osl=101))
    assert plain.iterations == 101
    assert drafted.iterations == 1 + 40  # 100 tokens, 2.5 in each iteration


def test_prefill_and_decode_apart_add_the_transfer() -> None:
    link = KvLink(bytes_per_token=1000.0, bytes_per_s=1e7, latency_s=0.002)
    replicas = tuple(Replica(table=table(), rules=default_rules("vllm"), role=role) for role in ("prefill", "decode"))
    result = simulate(Fleet(replicas=replicas, link=link), open_loop(np.zeros(2), isl=1000, osl=11))
    together = step_ms(table(), context=2000, prompts=2, past=0, decodes=0, tokens_each=1, kv=0)
    assert result.ttft_ms[0] == pytest.approx(together + 100.0 + 2.0)
    assert result.ttft_ms[1] >= together + 200.0 + 2.0 - 1e-6  # the link carries one prompt at a time
    assert (result.replica == 0).all() and (result.decode_replica == 1).all()


def test_a_shared_prefix_is_computed_once() -> None:
    requests = closed_loop(1, 10, isl=1000, osl=5, shared_prefix=800)
    result = simulate(one(kv_blocks=1000), requests)
    assert result.prefix_hit_tokens.tolist() == [0] + [800] * 9
    assert result.ttft_ms[1:] == pytest.approx(prefill_ms(200, 800))
    assert simulate(one(replace(default_rules("vllm"), prefix_caching=False)), requests).prefix_hit_tokens.sum() == 0


def test_what_fits_nowhere_is_refused_and_the_rest_goes_on() -> None:
    requests = Requests(arrival_s=np.zeros(3), isl=np.array([100, 5000, 100]), osl=np.array([10, 10, 10]))
    result = simulate(one(kv_blocks=100), requests)
    assert result.refused.tolist() == [False, True, False]
    assert np.isnan(result.done_s[1]) and result.answered == 2
