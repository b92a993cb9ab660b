"""The roofline beside the measured operator tables, where both exist: a drift of the constants shows here."""

import numpy as np
import pytest

from tuner.serving.case import EngineCase
from tuner.serving.step.roofline import engine_of
from tuner.serving.step.roofline_attention import context_attention_ms, decode_attention_ms

pytest.importorskip("aiconfigurator_core", reason="the measured step tables are not installed")

from tuner.serving.step.aiconfigurator import Query, compile_query

LLAMA_70B = ("llama-3.1-70b", "meta-llama/Meta-Llama-3.1-70B")
QWEN_32B = ("qwen3-32b", "Qwen/Qwen3-32B")
QWEN_MOE = ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B")
ENGINES = [
    (LLAMA_70B, "h200-sxm-141gb", "h200_sxm", 8),
    (QWEN_32B, "a100-sxm-80gb", "a100_sxm", 2),
    (QWEN_32B, "l40s", "l40s", 2),
    (QWEN_MOE, "h100-sxm-80gb", "h100_sxm", 1),
]


@pytest.mark.parametrize(("model", "accelerator", "system", "tp"), ENGINES)
def test_steps_agree_within_a_fifth_in_the_median(model, accelerator, system, tp):
    ours, theirs = model
    moe = tp if ours == "qwen3-30b-a3b" else 1
    engine = engine_of(
        EngineCase(model=ours, accelerator=accelerator, engine="vllm", tensor_parallel=tp, moe_tensor_parallel=moe)
    )
    parts = compile_query(
        Query(model=theirs, system=system, backend="vllm", tensor_parallel=tp, moe_tensor_parallel=moe)
    )

    def one(value):
        return np.array([float(value)])

    errors = []
    for sequences, kv in ((1, 1024), (16, 1024), (64, 4096), (128, 2048), (256, 1024)):
        got = engine.rest_ms(one(sequences), decode=True) + decode_attention_ms(engine, one(sequences), one(kv))
        errors.append(got[0] / (parts.decode_ms(sequences) + parts.decode_attention_ms(sequences, kv)) - 1)
    for batch, new, past in ((1, 512, 0), (1, 2048, 0), (4, 1024, 0), (1, 2048, 8192)):
        got = engine.rest_ms(one(batch * new), decode=False)
        got = got + context_attention_ms(engine, one(batch), one(new), one(past))
        want = parts.context_ms(batch * new) + parts.context_attention_ms(batch, new, past)
        errors.append(got[0] / want - 1)
    assert np.median(np.abs(errors)) < 0.2
    assert abs(np.mean(errors)) < 0.2
