"""Prices of elastic rules: each by hand, and what must hold among them."""

import math

import pytest

from controlplane.model.errors import InvalidSpec, Refused, UnknownName
from tuner.training.elastic import RULES, ElasticJob, bamboo, elaswave, oobleck, recycle, share
from tuner.training.resilience import Run


def job(**change):
    record = {
        "dp": 4,
        "pp": 8,
        "micro_batches": 16,
        "forward_s": 0.1,
        "backward_s": 0.1,
        "weight_s": 0.1,
        "state_bytes": 100e9,
        "copy_bytes_per_s": 20e9,
        "detect_s": 10.0,
    }
    return ElasticJob(**record | change)


def test_iteration_and_idle_share():
    assert job().iteration_s == pytest.approx(23 * 0.3)
    assert job().idle == pytest.approx(7 / 23)


def test_bamboo_pays_before_the_failure_and_doubles_one_stage_after_it():
    # 16 forwards of 0.1 s fit the 2.1 s bubble: nothing to pay; with 32 the redundant forward sticks out by 1.1 s.
    assert bamboo(job()).healthy_slowdown == 1.0
    assert bamboo(job(micro_batches=32)).healthy_slowdown == pytest.approx((39 * 0.3 + 1.1) / (39 * 0.3))
    assert bamboo(job()).slowdown == pytest.approx((8 + 15 * 2) / 23)
    assert bamboo(job()).recovery_s == pytest.approx(10.0 + 8 * 0.3)
    assert bamboo(job()).state_factor == 2.0
    assert bamboo(job(pp=1)).tolerates == 0


def test_oobleck_shares_the_batch_among_the_nodes_left():
    price = oobleck(job(), 2)
    assert price.slowdown == pytest.approx(32 / 30)
    assert price.recovery_s == pytest.approx(10.0 + 5.0 + 23 * 0.3 / 2)
    assert price.tolerates == 3
    assert oobleck(job(least_nodes=4)).tolerates == 7


def test_recycle_hides_the_work_in_bubbles_while_they_last():
    assert recycle(job()).slowdown == 1.0  # 4/3 x 16/23 < 1
    assert recycle(job(), 2).slowdown == pytest.approx(2 * 16 / 23)
    assert recycle(job(micro_batches=700)).slowdown == pytest.approx(4 / 3 * 700 / 707)
    assert recycle(job(dp=1)).slowdown == math.inf
    assert recycle(job()).tolerates == 3


def test_elaswave_raises_clocks_where_it_may():
    assert elaswave(job()).slowdown == pytest.approx(32 / 31)
    assert elaswave(job(clock_boost=1.1)).slowdown == 1.0
    assert elaswave(job()).recovery_s == pytest.approx(10.0 + 1.0 + 5.0)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_price_is_marked_and_sourced(rule):
    price = RULES[rule](job())
    assert price.estimate and "arXiv" in price.source and price.rule == rule


@pytest.mark.parametrize("rule", sorted(RULES))
def test_more_losses_are_never_faster(rule):
    prices = [RULES[rule](job(), lost).slowdown for lost in range(4)]
    assert prices == sorted(prices) and prices[0] >= 1.0


@pytest.mark.parametrize("rule", sorted(RULES))
def test_share_falls_with_the_failure_rate_and_is_whole_without_failures(rule):
    def at(rate):
        run = Run(nodes=32, failures_per_node_day=rate, checkpoint_s=30.0, restart_s=600.0)
        return share(rule, job(), run, 3600.0)

    assert at(0.0) == pytest.approx(1.0 / RULES[rule](job(), 0).healthy_slowdown)
    shares = [at(rate) for rate in (0.0, 1e-3, 1e-1, 1.0)]
    assert shares == sorted(shares, reverse=True) and 0.0 <= shares[-1] < shares[0]


def test_share_by_hand():
    # Mean of 0.1 nodes away; ReCycle loses nothing for one, 32/23 for two, stands still beyond three.
    run = Run(nodes=32, failures_per_node_day=0.1 / 32, checkpoint_s=30.0, restart_s=600.0)
    p = [math.exp(-0.1) * 0.1**k / math.factorial(k) for k in range(4)]
    rate = p[0] + p[1] + p[2] * 23 / 32 + p[3] * 23 / 64
    lost = (10.0 + 23 * 0.3 / 2) / run.mtbf_s
    assert share("recycle", job(), run, 86400.0) == pytest.approx(rate * (1 - lost))


def test_refusals():
    run = Run(nodes=31, failures_per_node_day=0.01, checkpoint_s=30.0, restart_s=600.0)
    with pytest.raises(InvalidSpec, match="nodes"):
        share("recycle", job(), run, 3600.0)
    with pytest.raises(UnknownName, match="bamboo"):
        share("magic", job(), run, 3600.0)
    with pytest.raises(Refused, match="31"):
        oobleck(job(), 32)
    with pytest.raises(InvalidSpec):
        job(forward_s=0.0)
    with pytest.raises(InvalidSpec):
        job(least_nodes=99)
    with pytest.raises(InvalidSpec):
        job(clock_boost=0.5)
