"""Effective training time, checkpoint intervals and spares: by hand, against simulation, against each other."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec
from tuner.training.resilience import (
    PUBLISHED_RATES,
    Run,
    best_interval_s,
    daly_interval_s,
    ettr,
    goodput_tokens_per_s,
    spare_nodes,
)

# One failure per hour: 24 a day over 2048 nodes.
HOURLY = Run(nodes=2048, failures_per_node_day=24 / 2048, checkpoint_s=20.0, restart_s=300.0)


def run(**change):
    record = {"nodes": 2048, "failures_per_node_day": 24 / 2048, "checkpoint_s": 20.0, "restart_s": 300.0}
    return Run(**record | change)


def test_llama_3_stopped_nearly_four_times_per_thousand_node_days():
    assert PUBLISHED_RATES["llama3"].per_node_day == pytest.approx(3.79e-3, rel=1e-3)
    assert not PUBLISHED_RATES["llama3"].estimate and PUBLISHED_RATES["rsc-1"].estimate


def young_interval_s(case):
    """First order, sqrt(2 C M) (Young 1974)."""
    return math.sqrt(2.0 * case.checkpoint_s * case.mtbf_s)


def test_daly_by_hand():
    assert HOURLY.mtbf_s == pytest.approx(3600.0)
    half = 20 / 7200
    want = math.sqrt(2 * 20 * 3600) * (1 + math.sqrt(half) / 3 + half / 9) - 20
    assert daly_interval_s(HOURLY) == pytest.approx(want)
    assert daly_interval_s(run(checkpoint_s=7200.0)) == pytest.approx(3600.0)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-4, 0.5), st.floats(0.1, 1000.0), st.floats(0.0, 3600.0))
def test_best_interval_beats_its_neighbours_and_the_approximations(rate, checkpoint_s, restart_s):
    case = run(failures_per_node_day=rate, checkpoint_s=checkpoint_s, restart_s=restart_s)
    best = best_interval_s(case)
    top = ettr(case, best)
    others = (best * 0.98, best * 1.02, young_interval_s(case), max(1e-3, daly_interval_s(case)))
    assert all(top >= ettr(case, other) * (1 - 1e-9) for other in others)
    if checkpoint_s < case.mtbf_s / 2:
        assert daly_interval_s(case) == pytest.approx(best, rel=0.02)


def test_first_and_exact_form_meet_where_failures_are_rare():
    rare = run(failures_per_node_day=1e-5, checkpoint_s=5.0, restart_s=60.0)
    at = young_interval_s(rare)
    # 1 - (R + D/2)/M - C/D, the form of Kokolis et al. 2024 (arXiv 2410.21680)
    assert ettr(rare, at) == pytest.approx(1.0 - (60.0 + at / 2.0) / rare.mtbf_s - 5.0 / at, abs=1e-3)


def test_exact_form_against_simulation():
    pick = random.Random(5)
    case, interval = run(checkpoint_s=60.0, restart_s=400.0), 900.0
    clock = kept = 0.0
    while kept < 4000 * interval:
        # A failure may strike in work and checkpoint; then restarts until one is not hit.
        until = pick.expovariate(1 / case.mtbf_s)
        if until >= interval + 60.0:
            clock, kept = clock + interval + 60.0, kept + interval
            continue
        clock += until
        while (hit := pick.expovariate(1 / case.mtbf_s)) < 400.0:
            clock += hit
        clock += 400.0
    assert ettr(case, interval) == pytest.approx(kept / clock, rel=0.02)


def test_without_failures_only_checkpoints_cost():
    calm = run(failures_per_node_day=0.0)
    assert ettr(calm, 980.0) == pytest.approx(0.98)
    assert best_interval_s(calm) == math.inf and ettr(calm, math.inf) == 1.0


def test_a_job_that_never_reaches_a_checkpoint():
    assert ettr(run(failures_per_node_day=1e3), 1e6) == 0.0


def test_more_nodes_more_failures_longer_restarts_train_less():
    for one, two in itertools.pairwise([run(nodes=n) for n in (64, 512, 4096)]):
        assert ettr(one, best_interval_s(one)) > ettr(two, best_interval_s(two))
    assert ettr(run(restart_s=30.0), 600.0) > ettr(run(restart_s=3000.0), 600.0)


def test_goodput():
    assert goodput_tokens_per_s(4e6, 10.0, 0.9) == pytest.approx(3.6e5)
    with pytest.raises(InvalidSpec):
        goodput_tokens_per_s(4e6, 0.0, 0.9)
    with pytest.raises(InvalidSpec):
        goodput_tokens_per_s(4e6, 1.0, 1.1)


def test_spares_are_the_smallest_that_suffice():
    stats = pytest.importorskip("scipy.stats")
    rate, repair = 6.5e-3, 3 * 86400.0
    load = rate * 3
    away = load / (1 + load)
    for nodes in (8, 128, 2048):
        got = spare_nodes(nodes, rate, repair, confidence=0.99)
        assert stats.binom.cdf(got, nodes + got, away) >= 0.99
        assert got == 0 or stats.binom.cdf(got - 1, nodes + got - 1, away) < 0.99


def test_spares_of_a_large_rarely_failing_cluster_are_nearly_poisson():
    # Poisson of mean 1: P(<= 3) = 0.981, P(<= 4) = 0.9963
    assert abs(spare_nodes(10_000, 1e-4, 86400.0) - 4) <= 1


def test_no_failures_or_no_repair_time_need_no_spares():
    assert spare_nodes(100, 0.0, 86400.0) == 0
    assert spare_nodes(100, 0.01, 0.0) == 0


def test_a_node_that_is_always_in_repair():
    with pytest.raises(InvalidSpec) as caught:
        spare_nodes(100, 1.0, 2 * 86400.0)
    assert caught.value.field == "repair_s" and caught.value.limit == "86400"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nodes": 0}, "nodes"),
        ({"checkpoint_s": 0.0}, "checkpoint_s"),
        ({"restart_s": -1.0}, "restart_s"),
        ({"failures_per_node_day": math.inf}, "failures_per_node_day"),
    ],
)
def test_impossible_runs_name_the_field(change, field):
    with pytest.raises(InvalidSpec) as caught:
        run(**change)
    assert caught.value.field == field


@pytest.mark.parametrize("interval", [0.0, -1.0, math.nan])
def test_impossible_intervals(interval):
    with pytest.raises(InvalidSpec):
        ettr(HOURLY, interval)
