"""Phase power, caps and energy: the measured anchors, unknown stays unknown, and what must be monotone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec
from tuner.serving.energy import clock_factors, decode_utilisation, energy, phase_power_w, prefill_utilisation

CATALOG = load()
A100 = CATALOG.accelerators["a100-sxm-80gb"]
H100 = CATALOG.accelerators["h100-sxm-80gb"]
B200 = CATALOG.accelerators["b200-sxm-180gb"]

# Mean W per GPU of chat serving by batch size (ML.ENERGY leaderboard v3).
H100_CHAT = {
    "llama-3.1-8b": {8: 486, 32: 560, 128: 669, 512: 688},
    "llama-3.1-70b": {8: 441, 64: 500, 256: 589, 1024: 637},
    "qwen3-235b-a22b fp8": {8: 450, 128: 484, 512: 495},
}
B200_CHAT = {
    "llama-3.1-8b": {8: 639, 32: 576, 128: 449, 512: 577},
    "llama-3.1-70b": {8: 849, 64: 905, 256: 971, 1024: 969},
}
# Power of a prompt as a share of TDP, BLOOM-176B on A100-80GB (splitwise-sim).
A100_PROMPT = {128: 0.69, 256: 0.72, 512: 0.88, 1024: 1.01, 2048: 1.02, 4096: 1.02, 8192: 1.03}


def errors_pct(accelerator, rows):
    return [
        abs(phase_power_w(accelerator, "decode", decode_utilisation(batch)) / watts - 1) * 100
        for model in rows.values()
        for batch, watts in model.items()
    ]


def test_stated_error_holds_for_the_runs_it_comes_from():
    for accelerator, rows in ((H100, H100_CHAT), (B200, B200_CHAT)):
        estimate = energy(accelerator, accelerators=1, prefill_s=0, decode_s=1, idle_s=0, output_tokens=1)
        found = sorted(errors_pct(accelerator, rows))
        within = sum(error <= estimate.error_pct for error in found) / len(found)
        assert within >= 0.75
    assert sorted(errors_pct(H100, H100_CHAT))[len(errors_pct(H100, H100_CHAT)) // 2] < 10


def test_prompt_power_follows_prompt_size():
    for tokens, share in A100_PROMPT.items():
        got = phase_power_w(A100, "prefill", prefill_utilisation(tokens)) / A100.tdp_w
        assert got == pytest.approx(share, rel=0.12)


def test_a_deep_cap_slows_prompts_and_spares_tokens():
    # Splitwise, ISCA 2024: half the power leaves the token phase of an H100 as it was
    prefill, decode = clock_factors(H100, 350.0, decode_at=0.0)
    assert 1.15 < prefill < 1.35
    assert decode < 1.02


def test_a_cap_above_what_is_drawn_costs_nothing():
    assert clock_factors(H100, 700.0) == (1.0, 1.0)
    assert clock_factors(H100, None) == (1.0, 1.0)


def test_a_cap_that_cannot_be_kept_is_refused():
    with pytest.raises(InvalidSpec) as error:
        clock_factors(A100, 50.0)
    assert error.value.field == "power_cap_w"
    assert "100 to 400 W" in str(error.value)


def test_unknown_tdp_gives_no_number():
    cpu = CATALOG.accelerators["cpu-x86"]
    assert phase_power_w(cpu, "decode", 0.5) is None
    assert clock_factors(cpu, 100.0) is None
    assert energy(cpu, accelerators=4, prefill_s=1, decode_s=1, idle_s=1, output_tokens=10) is None


def test_every_accelerator_is_known_or_none_never_zero():
    for accelerator in CATALOG.accelerators.values():
        for phase in ("prefill", "decode", "idle"):
            watts = phase_power_w(accelerator, phase, 0.5)
            assert watts is None or 0.05 * accelerator.tdp_w < watts <= accelerator.tdp_w


def test_energy_by_hand():
    got = energy(
        H100,
        accelerators=8,
        prefill_s=10.0,
        decode_s=80.0,
        idle_s=10.0,
        output_tokens=100_000,
        prefill_tokens_per_iteration=4096,
        decode_sequences=1024,
    )
    joules = 8 * 700 * (10 * 0.97 + 80 * 0.91 + 10 * 0.107)
    assert got.joules == pytest.approx(joules)
    assert got.power_w == pytest.approx(joules / 100)
    assert got.joules_per_output_token == pytest.approx(joules / 100_000)
    assert any("host" in note for note in got.notes)


def test_no_tokens_no_energy_per_token():
    assert (
        energy(H100, accelerators=1, prefill_s=0, decode_s=0, idle_s=5, output_tokens=0).joules_per_output_token is None
    )


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_times_are_checked(bad):
    with pytest.raises(InvalidSpec):
        energy(H100, accelerators=1, prefill_s=bad, decode_s=0, idle_s=0, output_tokens=1)


def test_an_unmeasured_generation_says_so():
    got = energy(
        CATALOG.accelerators["mi300x-192gb"], accelerators=1, prefill_s=1, decode_s=1, idle_s=0, output_tokens=1
    )
    assert got.error_pct == 50
    assert any("CDNA 3" in note for note in got.notes)


@given(
    low=st.floats(150, 690),
    more=st.floats(0, 300),
    sequences=st.floats(1, 4096),
    tokens=st.floats(1, 65_536),
)
def test_more_power_is_never_slower_and_more_work_never_draws_less(low, more, sequences, tokens):
    tight, loose = clock_factors(H100, low), clock_factors(H100, low + more)
    assert all(a >= b >= 1.0 for a, b in zip(tight, loose, strict=True))
    assert decode_utilisation(sequences * 2) >= decode_utilisation(sequences)
    assert prefill_utilisation(tokens * 2) >= prefill_utilisation(tokens)
    assert phase_power_w(H100, "prefill", cap_w=low) <= low
