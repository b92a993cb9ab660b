"""Corrections reach the right parts of a table, and intervals widen with distance and tier."""

from dataclasses import replace

import numpy as np
import pytest

from controlplane.catalog import load
from controlplane.catalog.params import count_parameters
from controlplane.model.errors import InvalidSpec
from controlplane.model.plans import Provenance as TableProvenance
from controlplane.model.plans import Role
from tuner.serving.calibration.apply import LEAST_FACTOR, MOST_FACTOR, calibrate, interval, of_roles
from tuner.serving.calibration.light import light_of
from tuner.serving.calibration.parameters import (
    METRICS,
    Band,
    Calibration,
    Effect,
    Provenance,
    Support,
    dump_calibration,
    load_calibration,
)
from tuner.serving.case import EngineCase
from tuner.serving.step.table import StepTable

CASE = EngineCase(model="llama-3.1-70b", accelerator="h200-sxm-141gb", engine="vllm", tensor_parallel=8)


def table(tier: str = "measured") -> StepTable:
    axis = np.array([1.0, 2.0])
    cube = np.ones((2, 2, 2))
    return StepTable(
        context_tokens=axis, context_ms=np.array([10.0, 20.0]), decode_sequences=axis,
        decode_ms=np.array([5.0, 6.0]), context_attention_batch=axis, context_attention_new=axis,
        context_attention_past=axis, context_attention_ms=cube, decode_attention_sequences=axis,
        decode_attention_kv=axis, decode_attention_ms=np.ones((2, 2)),
        provenance=TableProvenance(tier=tier, source="made up"),
    )  # fmt: skip


def made(effects: list[Effect], bands: list[Band] | None = None, support: Support | None = None) -> Calibration:
    return Calibration(
        name="made up",
        effects=effects,
        bands=bands or [],
        support=support or Support(engine_system_models=[], engine_models=[], engine_systems=[]),
        provenance=Provenance(
            data="none", data_sha256="", rows=0, rows_answered=0, filters=[], method="by hand", shrinkage={}, checked={}
        ),
    )


def test_effects_of_matching_labels_add_up_and_others_do_not_apply() -> None:
    found = calibrate(
        CASE,
        table(),
        made(
            [
                Effect(when={"engine": "vllm"}, knob="prefill", value=0.1, rows=1),
                Effect(when={"engine": "vllm", "precision": "16-bit"}, knob="prefill", value=0.2, rows=1),
                Effect(when={"engine": "sglang"}, knob="prefill", value=5.0, rows=1),
                Effect(when={}, knob="decode", value=-0.1, rows=1),
                Effect(when={}, knob="request_ms", value=7.0, rows=1),
            ]
        ),
    )
    assert found.table.context_ms == pytest.approx(np.array([10.0, 20.0]) * np.exp(0.3))
    assert found.table.context_attention_ms == pytest.approx(np.full((2, 2, 2), np.exp(0.3)))
    assert found.table.decode_ms == pytest.approx(np.array([5.0, 6.0]) * np.exp(-0.1))
    assert (found.host_step_ms, found.host_sequence_ms, found.request_ms) == (0.0, 0.0, 7.0)
    assert found.notes[-1] in found.table.provenance.notes


def test_an_iteration_with_prompts_takes_its_launch_at_least_and_prompt_tokens_their_reading() -> None:
    effects = [
        Effect(when={"engine": "vllm"}, knob="launch_ms", value=15.0, rows=1),
        Effect(when={}, knob="entry_token_ms", value=0.002, rows=1),
    ]
    found = calibrate(CASE, table(), made(effects))
    assert found.table.context_ms.tolist() == [15.0, 20.0]
    assert found.table.decode_ms.tolist() == [5.0, 6.0]
    assert found.entry_token_ms == 0.002


def test_each_role_answers_for_its_own_metric() -> None:
    prefill, decode = (0.5, 1.1), (0.9, 3.0)
    apart: list[tuple[Role, tuple[float, float]]] = [("prefill", prefill), ("decode", decode)]
    assert of_roles(apart, "ttft") == prefill
    assert of_roles(apart, "tpot") == decode
    assert of_roles(apart, "e2e") == (0.5, 3.0)
    assert of_roles([("aggregated", prefill), ("aggregated", decode)], "ttft") == (0.5, 3.0)
    assert of_roles([], "ttft") is None


def test_identity_leaves_the_table_as_measured() -> None:
    before = table()
    found = calibrate(CASE, before, made([]))
    assert (found.table.context_ms == before.context_ms).all()
    assert (found.table.decode_attention_ms == before.decode_attention_ms).all()


def test_corrections_are_bounded() -> None:
    found = calibrate(
        CASE,
        table(),
        made(
            [
                Effect(when={}, knob="prefill", value=-9.0, rows=1),
                Effect(when={}, knob="step_ms", value=-3.0, rows=1),
            ]
        ),
    )
    assert found.table.context_ms[0] == pytest.approx(10.0 * LEAST_FACTOR)
    assert found.host_step_ms == 0.0


def test_no_correction_makes_a_table_faster_than_the_hardware() -> None:
    faster = made([Effect(when={}, knob=knob, value=-9.0, rows=1) for knob in ("prefill", "decode")])
    tokens = np.array([8192.0, 16384.0])
    before = replace(table(), context_tokens=tokens, context_ms=np.array([200.0, 400.0]))
    found = calibrate(CASE, before, faster)
    parameters = count_parameters(load().models[CASE.model])
    accelerator = load().accelerators[CASE.accelerator]
    peak, bandwidth = accelerator.bf16_flop_per_s, accelerator.memory_bandwidth_bytes_per_s
    assert peak is not None and bandwidth is not None
    least_ms = 2e3 * (parameters.attention + parameters.dense_ffn) * tokens / (8 * peak)
    assert found.table.context_ms == pytest.approx(least_ms)
    # all weights but the input table are read once a step
    assert found.table.decode_ms[0] == pytest.approx(1e3 * parameters.active * 2 / 8 / bandwidth, rel=1e-4)
    assert "prefill and decode: held at the speed of light" in found.table.provenance.notes[-1]


def test_factors_fitted_on_measured_tables_do_not_scale_a_roofline() -> None:
    effects = [
        Effect(when={"engine": "vllm"}, knob="prefill", value=0.4, rows=1),
        Effect(when={"engine": "vllm"}, knob="step_ms", value=1.5, rows=1),
        Effect(when={"engine": "vllm", "tier": "roofline"}, knob="decode", value=0.2, rows=1),
    ]
    found = calibrate(CASE, table("roofline"), made(effects))
    assert (found.table.context_ms == table().context_ms).all()
    assert found.table.decode_ms == pytest.approx(table().decode_ms * np.exp(0.2))
    assert found.host_step_ms == 1.5
    assert calibrate(CASE, table(), made(effects)).table.context_ms[0] == pytest.approx(10.0 * np.exp(0.4))


def test_where_no_peak_is_known_a_correction_stands() -> None:
    faster = made([Effect(when={}, knob="decode", value=-9.0, rows=1)])
    for case in (replace(CASE, accelerator="cpu-x86"), replace(CASE, accelerator="not-in-the-catalogue")):
        found = calibrate(case, table(), faster)
        assert found.table.decode_ms[0] == pytest.approx(5.0 * LEAST_FACTOR)
        assert len(found.notes) == 1


def test_experts_of_one_token_are_the_least_that_is_read() -> None:
    light = light_of(replace(CASE, model="qwen3-235b-a22b", tensor_parallel=4, moe_tensor_parallel=4))
    parameters = count_parameters(load().models["qwen3-235b-a22b"])
    bandwidth = load().accelerators[CASE.accelerator].memory_bandwidth_bytes_per_s
    assert light is not None and bandwidth is not None
    bytes_per_weight = light.head.form.bytes_per_weight
    least_ms = 1e3 * parameters.active * bytes_per_weight / 4 / bandwidth
    assert light.decode_ms(np.array([1.0]))[0] == pytest.approx(least_ms, rel=1e-3)


def test_distance_follows_the_support() -> None:
    def at(**support: list[str]) -> str:
        empty: dict[str, list[str]] = {"engine_system_models": [], "engine_models": [], "engine_systems": []}
        return calibrate(CASE, table(), made([], support=Support(**{**empty, **support}))).distance

    assert at() == "unknown"
    assert at(engine_systems=["vllm/h200-sxm-141gb"]) == "known-engine"
    assert at(engine_models=["vllm/llama-3.1-70b"], engine_systems=["vllm/h200-sxm-141gb"]) == "known-model"
    assert at(engine_system_models=["vllm/h200-sxm-141gb/llama-3.1-70b"]) == "known"


def test_a_tier_without_a_band_gets_the_widest() -> None:
    bands = [
        Band(tier="measured", distance="known", metric="ttft", lo=0.8, hi=1.2, rows=10),
        Band(tier="roofline", distance="unknown", metric="ttft", lo=0.2, hi=6.0, rows=10),
    ]
    assert interval(made([], bands), "measured", "known", "ttft") == (0.8, 1.2)
    assert interval(made([], bands), "sibling", "unknown", "ttft") == (0.2, 6.0)
    assert interval(made([], bands), "sibling", "unknown", "tpot") == (0.1, 10.0)


def test_round_trip_through_a_file(tmp_path) -> None:
    before = load_calibration()
    path = tmp_path / "mine.json"
    path.write_text(dump_calibration(before), encoding="utf-8")
    assert load_calibration(path) == before


@pytest.mark.parametrize(
    ("text", "place"),
    [("{", "mine.json"), ('{"version": 2}', "version"), ("[]", "mine.json")],
)
def test_a_broken_file_is_named(tmp_path, text: str, place: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidSpec, match="not a calibration") as found:
        load_calibration(path)
    assert place in str(found.value.field)


def test_the_packaged_intervals_hold_their_prediction() -> None:
    packaged = load_calibration()
    for tier in ("measured", "borrowed", "roofline", "never-heard-of"):
        for metric in METRICS:
            low, high = interval(packaged, tier, "unknown", metric)
            assert 0 < low <= 1 <= high


def test_an_engine_the_fit_has_not_seen_keeps_its_table() -> None:
    seen = Support(engine_system_models=[], engine_models=[], engine_systems=["sglang/h200-sxm-141gb"])
    effects = [Effect(when={}, knob="decode", value=0.5, rows=1), Effect(when={}, knob="step_ms", value=1.0, rows=1)]
    found = calibrate(CASE, table(), made(effects, support=seen))
    assert (found.table.decode_ms == table().decode_ms).all()
    assert found.host_step_ms == 0.0
    own = [*effects, Effect(when={"engine": "vllm"}, knob="step_ms", value=0.3, rows=1)]
    assert calibrate(CASE, table(), made(own, support=seen)).host_step_ms == 0.3


def test_effects_that_add_up_beyond_any_number_stop_at_the_bounds() -> None:
    """A file may hold such effects and is a calibration all the same: predicting with it must not fail."""
    huge = [Effect(when={}, knob="prefill", value=1000, rows=1), Effect(when={}, knob="decode", value=-1000, rows=1)]
    found = calibrate(CASE, table(), made([*huge[:1], *huge]))
    assert f"prefill x{MOST_FACTOR:.2f}, decode x{LEAST_FACTOR:.2f}" in found.notes[0]
