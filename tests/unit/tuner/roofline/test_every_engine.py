"""Every accelerator of the catalogue gets a finite table or a clear refusal; nothing goes the wrong way."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName, Unsupported
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline import Roofline, engine_of, roofline_table
from tuner.serving.step.roofline_attention import context_attention_ms, decode_attention_ms

CATALOG = load()
MODELS = ("llama-3.1-8b", "deepseek-v3", "gpt-oss-120b", "qwen3.5-35b-a3b", "opt-350m", "gemma-3-27b")
GRIDS = ("context_ms", "decode_ms", "context_attention_ms", "decode_attention_ms")
AXES = (
    "context_tokens",
    "decode_sequences",
    "context_attention_batch",
    "context_attention_new",
    "context_attention_past",
    "decode_attention_sequences",
    "decode_attention_kv",
)


@pytest.mark.parametrize("accelerator", sorted(CATALOG.accelerators))
def test_a_finite_table_or_a_clear_refusal(accelerator):
    answered = 0
    for model in MODELS:
        case = EngineCase(model=model, accelerator=accelerator, engine="vllm")
        try:
            table = roofline_table(case)
        except Unsupported as error:
            assert error.field in ("system", "gemm_quant", "moe_quant")
            assert error.hint
            continue
        answered += 1
        assert table.provenance.tier == "roofline"
        for name in GRIDS:
            grid = getattr(table, name)
            assert np.isfinite(grid).all()
            assert (grid > 0).all()
            for axis in range(grid.ndim):
                assert (np.diff(grid, axis=axis) >= -1e-9 * grid.max()).all(), (model, name, axis)
        for name in AXES:
            axis = getattr(table, name)
            assert axis.dtype == np.float64
            assert len(axis) >= 2
            assert (np.diff(axis) > 0).all()
    assert answered or CATALOG.accelerators[accelerator].bf16_flop_per_s is None


def test_every_model_builds_a_table():
    for model in CATALOG.models.values():
        table = roofline_table(EngineCase(model=model.id, accelerator="mi355x-288gb", engine="sglang"))
        assert all(np.isfinite(getattr(table, name)).all() for name in GRIDS)


def test_notes_say_what_was_substituted():
    def notes(**more):
        return " ".join(roofline_table(EngineCase(engine="vllm", **more)).provenance.notes)

    assert "fp16" in notes(model="llama-3.1-8b", accelerator="t4")
    assert "fp8_block weights, bf16" in notes(model="deepseek-v3", accelerator="a100-sxm-80gb")
    assert "PCI Express" in notes(model="llama-3.1-8b", accelerator="l4", tensor_parallel=2)
    assert "network between nodes unknown" in notes(
        model="llama-3.1-405b", accelerator="h100-sxm-80gb", tensor_parallel=16
    )
    assert "GHz" in notes(model="qwen3-0.6b", accelerator="cpu-x86")


def test_formats_the_hardware_cannot_multiply():
    with pytest.raises(Unsupported) as error:
        roofline_table(EngineCase(model="llama-3.1-8b", accelerator="v100-sxm2-32gb", engine="vllm", gemm_quant="fp8"))
    assert error.value.field == "gemm_quant"
    with pytest.raises(Unsupported):
        roofline_table(EngineCase(model="deepseek-v3", accelerator="a100-sxm-80gb", engine="trtllm-serve"))
    weight_only = EngineCase(model="llama-3.1-8b", accelerator="v100-sxm2-32gb", engine="vllm", gemm_quant="int4_wo")
    plain = dataclasses.replace(weight_only, gemm_quant=None)
    assert roofline_table(weight_only).decode_ms[0] < roofline_table(plain).decode_ms[0]
    assert roofline_table(weight_only).context_ms[-1] > roofline_table(plain).context_ms[-1]


@pytest.mark.parametrize(
    ("more", "error", "field"),
    [
        ({"model": "llama-9"}, UnknownName, "model"),
        ({"accelerator": "h900"}, UnknownName, "system"),
        ({"tensor_parallel": 7}, InvalidSpec, "tensorParallel"),
        ({"tensor_parallel": 0}, InvalidSpec, "tp"),
        ({"model": "deepseek-v3", "tensor_parallel": 8, "kv_quant": "fp8"}, InvalidSpec, "moe_ep"),
        ({"gemm_quant": "fp9"}, UnknownName, "gemm_quant"),
        ({"nic": "carrier-pigeon"}, UnknownName, "nic"),
    ],
)
def test_what_cannot_work_is_named(more, error, field):
    fields = {"model": "llama-3.1-8b", "accelerator": "h100-sxm-80gb", "engine": "vllm"} | more
    with pytest.raises(error) as caught:
        Roofline().table(EngineCase(**fields))
    assert caught.value.field == field


def test_more_cores_are_faster_until_the_channels_are_full():
    def table(cores):
        case = EngineCase(model="qwen3-0.6b", accelerator="cpu-x86-amx", engine="openvino", cores=cores)
        return roofline_table(case)

    one, eight, many, more = (table(cores) for cores in (1, 8, 24, 48))
    assert 4 < one.decode_ms[0] / eight.decode_ms[0] <= 8
    assert many.decode_ms[0] == pytest.approx(more.decode_ms[0], rel=0.1)
    assert many.context_ms[-1] > 1.5 * more.context_ms[-1]


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(("llama-3.1-70b", "qwen3-30b-a3b", "gemma-3-27b", "deepseek-v2-lite")),
    accelerator=st.sampled_from(("h100-sxm-80gb", "rtx-4090", "mi300x-192gb", "v100-sxm2-32gb", "gaudi-3")),
    tp=st.sampled_from((1, 2, 4)),
    faster=st.sampled_from(("bandwidth", "flops", "links")),
    factor=st.floats(1.01, 8.0),
    tokens=st.floats(1, 100_000),
    kv=st.floats(0, 100_000),
)
def test_better_hardware_is_never_slower(model, accelerator, tp, faster, factor, tokens, kv):
    moe = tp if CATALOG.models[model].moe is not None else 1
    base = engine_of(
        EngineCase(model=model, accelerator=accelerator, engine="vllm", tensor_parallel=tp, moe_tensor_parallel=moe)
    )
    hardware, links = base.hardware, base.links
    if faster == "bandwidth":
        hardware = dataclasses.replace(hardware, bandwidth_bytes_per_s=hardware.bandwidth_bytes_per_s * factor)
    elif faster == "flops":
        peaks = {name: peak * factor for name, peak in hardware.peaks_flop_per_s.items()}
        hardware = dataclasses.replace(hardware, peaks_flop_per_s=peaks)
    else:
        near = dataclasses.replace(links.near, bytes_per_s=links.near.bytes_per_s * factor)
        links = dataclasses.replace(links, near=near)
    better = dataclasses.replace(base, hardware=hardware, links=links)
    some, many, cached = (np.array([value]) for value in (tokens, tokens * 1.5, kv))
    one = np.array([1.0])
    for time in (
        lambda engine, t: engine.rest_ms(t, decode=False),
        lambda engine, t: engine.rest_ms(t, decode=True),
        lambda engine, t: context_attention_ms(engine, one, t, cached),
        lambda engine, t: decode_attention_ms(engine, t, cached),
    ):
        assert time(better, some)[0] <= time(base, some)[0] * (1 + 1e-12)
        assert time(base, many)[0] >= time(base, some)[0] * (1 - 1e-12)


def test_no_table_beats_the_datasheet():
    for accelerator in ("h100-sxm-80gb", "l40s", "mi300x-192gb"):
        entry = CATALOG.accelerators[accelerator]
        table = roofline_table(EngineCase(model="llama-3.1-8b", accelerator=accelerator, engine="vllm"))
        parameters = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336) + 4096 * 128256
        assert table.decode_ms[0] > parameters * 2 / entry.memory_bandwidth_bytes_per_s * 1e3
        tokens = table.context_tokens[-1]
        flops = 2 * tokens * (parameters - 4096 * 128256)
        assert table.context_ms[-1] > flops / entry.bf16_flop_per_s * 1e3


def test_a_group_beyond_its_domain_pays_the_network():
    def table(**more):
        return roofline_table(
            EngineCase(model="llama-3.1-405b", accelerator="h100-sxm-80gb", engine="vllm", tensor_parallel=16, **more)
        )

    fast, slow = table(nic="ib-ndr-400", nics_per_node=8), table(nic="eth-25", nics_per_node=1)
    assert (slow.context_ms > fast.context_ms).all()
    assert slow.context_ms[-1] > 10 * fast.context_ms[-1]
    half = roofline_table(
        EngineCase(
            model="llama-3.1-70b",
            accelerator="h100-sxm-80gb",
            engine="vllm",
            tensor_parallel=8,
            accelerators_per_node=4,
            nic="eth-100",
            nics_per_node=1,
        )
    )
    whole = roofline_table(
        EngineCase(model="llama-3.1-70b", accelerator="h100-sxm-80gb", engine="vllm", tensor_parallel=8)
    )
    assert (half.context_ms > whole.context_ms).all()


def test_a_refusal_carries_the_way_out():
    with pytest.raises(TrimtabError) as error:
        roofline_table(EngineCase(model="llama-3.1-8b", accelerator="max-1550-128gb", engine="vllm"))
    assert error.value.hint


def test_straight_lines_between_knots_follow_the_formulas():
    case = EngineCase(model="gpt-oss-120b", accelerator="mi300x-192gb", engine="vllm")
    table, engine = roofline_table(case), engine_of(case)
    draws = np.random.default_rng(0)
    tokens, sequences, kv = (np.exp(draws.uniform(0, np.log(top), 300)).round() for top in (1e5, 2e3, 5e5))
    rows = [
        np.interp(tokens, table.context_tokens, table.context_ms) / engine.rest_ms(tokens, decode=False),
        np.interp(sequences, table.decode_sequences, table.decode_ms) / engine.rest_ms(sequences, decode=True),
        np.interp(kv, table.decode_attention_kv, table.decode_attention_ms[0])
        / decode_attention_ms(engine, np.ones(1), kv),
        np.interp(tokens, table.context_attention_new, table.context_attention_ms[0, :, 0])
        / context_attention_ms(engine, np.ones(1), tokens, np.zeros(1)),
    ]
    for ratio in rows:
        miss = np.abs(ratio - 1)
        assert np.median(miss) < 1e-3
        assert np.quantile(miss, 0.99) < 2e-2
