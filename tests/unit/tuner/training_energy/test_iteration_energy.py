"""Energy of an iteration: by hand, under caps, and never where the TDP is unknown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec
from tests.unit.tuner.training.cases import case
from tuner.training.energy import PoolPhases, case_energy, iteration_energy

A100 = load().accelerator("a100-sxm-80gb")
H100 = load().accelerator("h100-sxm-80gb")
UNKNOWN = load().accelerator("mi250x-gcd-64gb")
IDLE = 0.157  # of an A100's 400 W


def pool(accelerator=A100, **change):
    record = {
        "accelerators": 8, "compute_s": 7.0, "communication_s": 1.0, "waiting_s": 2.0, "utilisation": 0.5,
    }  # fmt: skip
    return PoolPhases(accelerator=accelerator, **record | change)


def test_by_hand():
    compute = 400 * (IDLE + (1 - IDLE) * 0.5**0.8)
    want = 8 * (compute * 7 + 200 * 1 + 400 * IDLE * 2)
    assert iteration_energy([pool()]).joules == pytest.approx(want)


def test_it_says_how_wide_the_unknown_is():
    got = iteration_energy([pool()])
    assert got.low < got.joules < got.high
    low = 8 * 400 * ((IDLE + (1 - IDLE) * 0.5) * 7 + 0.2 * 1 + IDLE * 2)
    high = 8 * 400 * ((IDLE + (1 - IDLE) * 0.5**0.6) * 7 + 0.75 * 1 + 0.5 * 2)
    assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))


def test_full_utilisation_draws_the_tdp_and_idling_the_idle_share():
    alone = {"communication_s": 0.0, "waiting_s": 0.0, "compute_s": 1.0, "accelerators": 1}
    assert iteration_energy([pool(H100, **alone, utilisation=1.0)]).joules == pytest.approx(700.0)
    assert iteration_energy([pool(**alone, utilisation=0.0)]).joules == pytest.approx(400 * IDLE)


def test_pools_add_up():
    one, two = pool(), pool(H100, accelerators=4)
    assert iteration_energy([one, two]).joules == pytest.approx(
        iteration_energy([one]).joules + iteration_energy([two]).joules
    )


def test_an_unknown_tdp_is_unknown_energy():
    assert UNKNOWN.tdp_w is None
    assert iteration_energy([pool(), pool(UNKNOWN)]) is None


def test_a_cap_at_the_tdp_changes_nothing():
    assert iteration_energy([pool(cap_w=400.0)]) == iteration_energy([pool()])


def test_a_cap_takes_as_much_from_the_power_above_idle_as_from_the_tdp():
    got = iteration_energy([pool(cap_w=300.0, communication_s=0.0, waiting_s=0.0)])
    assert got.joules == pytest.approx(8 * 7 * 400 * (IDLE + (1 - IDLE) * 0.5**0.8 * 0.75))


@given(st.floats(0.0, 1.0), st.floats(70.0, 400.0), st.floats(70.0, 400.0))
def test_lower_caps_never_draw_more_and_no_cap_is_exceeded(utilisation, one, two):
    low, high = (iteration_energy([pool(utilisation=utilisation, cap_w=cap)]) for cap in sorted((one, two)))
    assert low.low <= high.low and low.joules <= high.joules and low.high <= high.high
    assert high.high <= 8 * 10.0 * max(one, two) * (1 + 1e-12)


def test_a_case_counts_every_accelerator_in_all_of_its_time():
    asked = case()
    nothing = case_energy(asked, 10.0, 0.0, 0.0, 0.0)
    assert nothing.joules == pytest.approx(64 * 10.0 * 400 * IDLE)
    # 40 % of the peak over the iteration is 50 % while it computes; waiting is what is left.
    assert case_energy(asked, 10.0, 8.0, 1.0, 0.4) == iteration_energy(
        [pool(accelerators=64, compute_s=8.0, communication_s=1.0, waiting_s=1.0, utilisation=0.5)]
    )


def test_the_stages_of_a_case_draw_what_their_pool_draws():
    half = {"gpus": 32, "gpus_per_node": 8, "nic": "ib-hdr-200", "nics_per_node": 8}
    mixed = case(cluster=[{**half, "gpu": "a100-sxm-80gb"}, {**half, "gpu": "h100-sxm-80gb", "power_cap_w": 350.0}])
    got = case_energy(mixed, 10.0, 8.0, 1.0, 0.4)
    phases = {"accelerators": 32, "compute_s": 8.0, "communication_s": 1.0, "waiting_s": 1.0}
    clock = 0.5 ** (1 / 3)
    alone = [pool(**phases), pool(H100, **phases, utilisation=0.5 / clock, cap_w=350.0)]
    assert got.joules == pytest.approx(iteration_energy(alone).joules)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"compute_s": -1.0}, "compute_s"),
        ({"waiting_s": math.nan}, "waiting_s"),
        ({"utilisation": 1.5}, "utilisation"),
        ({"accelerators": 0}, "accelerators"),
    ],
)
def test_impossible_phases_name_the_field(change, field):
    with pytest.raises(InvalidSpec) as caught:
        pool(**change)
    assert caught.value.field == field
