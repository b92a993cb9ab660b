"""Routers, figures of a result, rules from knobs, generators, determinism, and how the kernel is found."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.serving import LatencyTarget, Slo
from tests.unit.tuner.replay.cases import mixed_case, one, table
from tuner.serving.replay import load
from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.fleet import Fleet, KvLink, Replica
from tuner.serving.replay.pack import pack
from tuner.serving.replay.requests import burst_times, closed_loop, gamma_times, open_loop, poisson_times
from tuner.serving.replay.rules import default_rules, rules_with_knobs
from tuner.serving.replay.run import simulate

ROOT = Path(__file__).parents[4]


def pair(router: str, **second: object) -> Fleet:
    first = Replica(table=table(), rules=default_rules("vllm"))
    return Fleet(replicas=(first, replace(first, **second)), router=router)  # type: ignore[arg-type]


def test_round_robin_alternates() -> None:
    result = simulate(pair("round-robin"), open_loop(poisson_times(5, 10), isl=100, osl=5))
    assert result.replica.tolist() == [0, 1] * 5


def test_random_spreads_by_its_seed_alone() -> None:
    requests = open_loop(poisson_times(5, 1000), isl=100, osl=5)
    a, b, c = (simulate(pair("random"), requests, seed=seed).replica for seed in (1, 1, 2))
    assert (a == b).all() and (a != c).any()
    assert 400 < a.sum() < 600


def test_least_loaded_keeps_away_from_the_slow_and_minds_the_weights() -> None:
    requests = open_loop(poisson_times(8, 400), isl=1000, osl=100)
    slow = simulate(pair("least-loaded", table=table(3.0)), requests).replica
    assert 0.05 < slow.mean() < 0.4
    heavy = simulate(pair("least-loaded", weight=4.0), requests).replica
    assert heavy.mean() > 0.6


def test_prefix_routers_send_a_group_where_its_head_is_cached() -> None:
    requests = open_loop(poisson_times(1, 60), isl=2000, osl=5, shared_prefix=1600)
    home = simulate(pair("prefix-affinity"), requests)
    assert len(set(home.replica.tolist())) == 1
    assert home.prefix_hit_tokens.sum() == 59 * 1600
    aware = simulate(pair("kv-aware"), requests)  # goes elsewhere when the wait is longer than the prefix
    assert 0.0 < aware.replica.mean() < 0.2
    assert aware.prefix_hit_tokens.sum() == 58 * 1600


def test_same_result_in_other_processes_whatever_the_hash_seed() -> None:
    code = (
        "import hashlib\n"
        "from tests.unit.tuner.replay.cases import mixed_case\n"
        "from tuner.serving.replay.run import simulate\n"
        "h = hashlib.sha256()\n"
        "for n in range(20):\n"
        "    f, r, s = mixed_case(n)\n"
        "    h.update(simulate(f, r, seed=s).done_s.tobytes())\n"
        "print(h.hexdigest())\n"
    )
    outs = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    here = hashlib.sha256()
    for n in range(20):
        fleet, requests, seed = mixed_case(n)
        here.update(simulate(fleet, requests, seed=seed).done_s.tobytes())
    assert outs == {here.hexdigest()}


def test_goodput_and_promise() -> None:
    result = simulate(one(), open_loop(poisson_times(3, 200), isl=1000, osl=50))
    easy = Slo(ttft_ms=LatencyTarget(p99=1e6), tpot_ms=LatencyTarget(p50=1e6))
    hard = Slo(ttft_ms=LatencyTarget(p50=float(np.median(result.ttft_ms)) * 1.01, p99=1.0))
    assert result.meets(easy) and result.goodput_per_s(easy) == pytest.approx(result.requests_per_s)
    assert not result.meets(hard) and result.goodput_per_s(hard) == 0.0
    assert result.meets(Slo())


def test_phases_and_idle_time_fill_the_span() -> None:
    result = simulate(one(), open_loop(poisson_times(2, 50), isl=1000, osl=50))
    use = result.replicas[0]
    assert use.prefill_s + use.mixed_s + use.decode_s + use.idle_s == pytest.approx(result.span_s)
    assert use.idle_s > 0 and use.prefill_s > 0 and use.decode_s > 0
    assert (np.diff(use.timeline.time_s) >= 0).all()


def test_knobs_change_the_rules() -> None:
    vllm = rules_with_knobs("vllm", {"maxNumBatchedTokens": 2048, "maxNumSeqs": 32, "schedulingPolicy": "priority"})
    assert (vllm.token_budget, vllm.max_sequences, vllm.priorities) == (2048, 32, True)
    sglang = rules_with_knobs("sglang", {"chunkedPrefillSize": -1, "maxPrefillTokens": 4096, "enableMixedChunk": True})
    assert (sglang.chunked, sglang.prefill_budget, sglang.mixed) == (False, 4096, True)
    assert rules_with_knobs("trtllm-serve", {"enableChunkedPrefill": True}).chunked
    fused = rules_with_knobs("openvino", {"maxNumSeqs": 4})
    assert fused.max_sequences == default_rules("openvino").max_sequences  # split-fuse does not look at it
    apart = rules_with_knobs("openvino", {"dynamicSplitFuse": False, "maxNumSeqs": 4}, context_tokens=4096)
    assert (apart.mixed, apart.chunked, apart.max_sequences, apart.token_budget) == (False, False, 4, 4096)
    with pytest.raises(InvalidSpec, match="maxNumSeqs"):
        rules_with_knobs("vllm", {"maxNumSeqs": "many"})
    with pytest.raises(UnknownName, match="vllm"):
        default_rules("vlllm")  # type: ignore[arg-type]


def test_generators_hold_their_rates_and_ranges() -> None:
    times = gamma_times(4.0, 3.0, 100_000, seed=5)
    gaps = np.diff(times)
    assert 1 / gaps.mean() == pytest.approx(4.0, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(3.0, rel=0.05)
    assert burst_times(2.0, 4, 6).tolist() == [0, 0, 0, 0, 2, 2]
    lengths = closed_loop(1, 20_000, isl=1000, osl=10, isl_range=0.8).isl
    assert lengths.min() == 800 and lengths.max() == 1000


def test_fleets_that_cannot_be() -> None:
    replica = Replica(table=table(), rules=default_rules("vllm"))
    with pytest.raises(InvalidSpec, match="link"):
        Fleet(replicas=(replace(replica, role="prefill"), replace(replica, role="decode")))
    with pytest.raises(InvalidSpec, match="roles"):
        Fleet(replicas=(replica, replace(replica, role="decode")), link=KvLink(bytes_per_token=1, bytes_per_s=1))
    with pytest.raises(InvalidSpec, match="accepted"):
        replace(replica, accepted_tokens=1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_number_is_refused_by_name(value: float) -> None:
    replica = Replica(table=table(), rules=default_rules("vllm"))
    for name in ("host_step_ms", "host_sequence_ms", "request_ms", "entry_token_ms", "accepted_tokens", "weight"):
        with pytest.raises(InvalidSpec) as caught:
            replace(replica, **{name: value})
        assert caught.value.field == name
    link = KvLink(bytes_per_token=1, bytes_per_s=1)
    for name in ("bytes_per_token", "bytes_per_s", "latency_s"):
        with pytest.raises(InvalidSpec) as caught:
            replace(link, **{name: value})
        assert caught.value.field == f"link.{name}"


def test_the_engine_room_is_entered_when_a_replay_runs_and_not_before() -> None:
    code = "import sys, tuner.serving.replay.run, tuner.serving.replay.traces; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_machine_code_goes_where_it_is_told_or_to_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "told"))
    assert load.cache_folder().parent == tmp_path / "told"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    shipped = tmp_path / "tree" / "__pycache__" / f"replay-{load.sources_digest()}"
    monkeypatch.setattr(load, "usable", lambda folder: str(folder).startswith(str(tmp_path / "home")))
    monkeypatch.setattr(load, "HERE", tmp_path / "tree")
    (tmp_path / "tree" / "compiled").mkdir(parents=True)
    assert load.cache_folder().is_relative_to(tmp_path / "home")  # nothing shipped, tree not writable
    shipped = tmp_path / "tree" / "__pycache__" / f"replay-{load.sources_digest()}"
    shipped.mkdir(parents=True)
    (shipped / "code").write_text("x")
    alone = load.cache_folder()  # shipped read-only: a copy for this process
    assert (alone / "code").read_text() == "x" and not alone.is_relative_to(tmp_path / "tree")


def test_what_the_loop_would_follow_unchecked_is_checked_before() -> None:
    requests = closed_loop(1, 3, isl=100, osl=5, shared_prefix=64)
    with pytest.raises(InvalidSpec, match="segments"):
        replace(requests, segment_ids=np.array([0, 7, 0]))
    with pytest.raises(InvalidSpec, match="segments"):
        replace(requests, segment_parents=np.array([0]))
    bad = replace(table(), decode_attention_ms=np.zeros((2, 2)))
    with pytest.raises(InvalidSpec, match="axes"):
        simulate(Fleet(replicas=(Replica(table=bad, rules=default_rules("vllm")),)), requests)


@pytest.mark.parametrize("slot", [at.SIGN_AT, at.INTS, at.FLOATS])
def test_the_loop_refuses_arenas_that_were_laid_out_for_other_code(slot: int) -> None:
    packed = pack(one(), closed_loop(1, 2, isl=5, osl=3), seed=0)
    packed.m[slot] += 1
    assert load.compiled_replay()(packed.m, packed.f) == at.FOREIGN
    assert load.compiled_replay()(packed.m[: at.HEADER - 1].copy(), packed.f) == at.FOREIGN


def test_replays_beyond_memory_or_the_clock_are_refused() -> None:
    crowd = Replica(table=table(), rules=replace(default_rules("vllm"), block_tokens=8192), attention_ranks=4096)
    with pytest.raises(InvalidSpec, match="memory"):
        pack(Fleet(replicas=(replace(crowd, pipeline_stages=64),)), closed_loop(1, 2, isl=5, osl=3), seed=0)
    with pytest.raises(InvalidSpec, match="output tokens"):
        closed_loop(1, 100_000, isl=5, osl=10_000_000)


def test_tenants_are_told_apart() -> None:
    requests = replace(
        open_loop(poisson_times(5, 10), isl=100, osl=5), tenant=np.arange(10, dtype=np.int64) % 2, tenants=("a", "b")
    )
    result = simulate(one(), requests)
    assert result.of_tenant("b").tolist() == [False, True] * 5
    with pytest.raises(UnknownName, match="a, b"):
        result.of_tenant("c")
