"""Energy of an iteration: by hand, under caps, and never where the TDP is unknown."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec
from tuner.training.energy import (
    PoolPhases,
    compute_power_w,
    iteration_energy,
    slowdown_under_cap,
    under_cap,
)

A100 = load().accelerator("a100-sxm-80gb")
H100 = load().accelerator("h100-sxm-80gb")
UNKNOWN = load().accelerator("mi250x-gcd-64gb")
IDLE = 0.157  # of an A100's 400 W


def pool(accelerator=A100, **change):
    record = {
        "accelerators": 8, "compute_s": 7.0, "communication_s": 1.0, "bubble_s": 2.0, "utilisation": 0.5,
    }  # fmt: skip
    return PoolPhases(accelerator=accelerator, **record | change)


def test_by_hand():
    got = iteration_energy([pool()], pue=1.25)
    compute = 400 * (IDLE + (1 - IDLE) * 0.5**0.8)
    want = 8 * (compute * 7 + 200 * 1 + 400 * IDLE * 2) * 1.25
    assert got.joules == pytest.approx(want)
    assert got.mean_power_w == pytest.approx(want / 10)
    assert got.phases_joules["communication"] == pytest.approx(8 * 200 * 1.25)
    assert sum(got.phases_joules.values()) == pytest.approx(got.joules)


def test_it_says_that_it_is_a_model_and_how_wide_the_unknown_is():
    got = iteration_energy([pool()])
    assert got.basis == "model"
    assert got.joules_low < got.joules < got.joules_high


def test_full_utilisation_draws_the_tdp():
    assert compute_power_w(H100, 1.0) == pytest.approx(700.0)
    assert compute_power_w(A100, 0.0) == pytest.approx(400 * IDLE)


def test_pools_add_up():
    one, two = pool(), pool(H100, accelerators=4)
    assert iteration_energy([one, two]).joules == pytest.approx(
        iteration_energy([one]).joules + iteration_energy([two]).joules
    )


def test_an_unknown_tdp_is_unknown_energy():
    assert UNKNOWN.tdp_w is None
    assert compute_power_w(UNKNOWN, 0.5) is None
    assert slowdown_under_cap(UNKNOWN, 0.5, 200.0) is None
    assert iteration_energy([pool(), pool(UNKNOWN)]) is None
    assert under_cap([pool(), pool(UNKNOWN)], [None, 200.0]) is None


def test_a_cap_above_what_is_drawn_changes_nothing():
    assert slowdown_under_cap(A100, 0.5, 400.0) == 1.0
    assert iteration_energy([pool(cap_w=400.0)]) == iteration_energy([pool()])


def test_a_cap_slows_by_the_root_of_what_is_left_above_idle():
    drawn = IDLE + (1 - IDLE) * 0.8**0.8
    want = ((drawn - IDLE) / (0.5 - IDLE)) ** (1 / 3.5)
    assert slowdown_under_cap(A100, 0.8, 200.0) == pytest.approx(want)
    assert slowdown_under_cap(A100, 0.8, 200.0, case="low") < want < slowdown_under_cap(A100, 0.8, 200.0, case="high")


@given(st.floats(0.05, 1.0), st.floats(100.0, 400.0), st.floats(100.0, 400.0))
def test_lower_caps_are_never_faster_and_never_draw_more(utilisation, one, two):
    low, high = sorted((one, two))
    assert slowdown_under_cap(A100, utilisation, low) >= slowdown_under_cap(A100, utilisation, high) >= 1.0
    assert compute_power_w(A100, utilisation, cap_w=low) <= compute_power_w(A100, utilisation, cap_w=high) <= high


def test_uniform_caps_stretch_compute_and_bubble_alike():
    factor = slowdown_under_cap(A100, 0.5, 150.0)
    (got,) = under_cap([pool()], [150.0])
    assert got.compute_s == pytest.approx(7 * factor)
    assert got.bubble_s == pytest.approx(2 * factor)
    assert got.communication_s == 1.0 and got.cap_w == 150.0


def test_one_capped_pool_makes_the_others_wait():
    first, second = under_cap([pool(), pool()], [150.0, None])
    assert second.compute_s == 7.0
    total = first.compute_s + first.communication_s + first.bubble_s
    assert second.compute_s + second.communication_s + second.bubble_s == pytest.approx(total)
    assert total > 10.0


def test_a_moderate_cap_saves_energy_and_costs_time():
    (capped,) = under_cap([pool(utilisation=0.9)], [250.0])
    assert iteration_energy([capped]).joules < iteration_energy([pool(utilisation=0.9)]).joules
    assert capped.compute_s > 7.0


def test_a_cap_below_the_lowest_limit_is_refused():
    with pytest.raises(InvalidSpec, match="100"):
        slowdown_under_cap(A100, 0.5, 50.0)
    with pytest.raises(InvalidSpec, match="100"):
        iteration_energy([pool(cap_w=50.0)])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"compute_s": -1.0}, "compute_s"),
        ({"bubble_s": math.nan}, "bubble_s"),
        ({"utilisation": 1.5}, "utilisation"),
        ({"accelerators": 0}, "accelerators"),
    ],
)
def test_impossible_phases_name_the_field(change, field):
    with pytest.raises(InvalidSpec) as caught:
        pool(**change)
    assert caught.value.field == field


def test_impossible_questions():
    with pytest.raises(InvalidSpec):
        iteration_energy([])
    with pytest.raises(InvalidSpec):
        iteration_energy([pool()], pue=0.9)
    with pytest.raises(InvalidSpec):
        iteration_energy([dataclasses.replace(pool(), compute_s=0.0, communication_s=0.0, bubble_s=0.0)])
    with pytest.raises(InvalidSpec):
        under_cap([pool()], [])
