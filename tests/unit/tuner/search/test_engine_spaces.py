"""Spaces of the engines: everything drawn from them is something the engine accepts."""

import numpy as np
import pytest

from controlplane.catalog import load
from controlplane.catalog.knobs import check_knobs
from controlplane.model.errors import InvalidSpec, UnknownName, Unsupported
from tuner.search.space import compile_space
from tuner.search.spaces.engine import EngineFacts, engine_space

ENGINES = ["openvino", "vllm", "sglang", "trtllm-serve"]
PARALLEL = {"tensorParallel", "pipelineParallel", "dataParallel", "expertParallel"}
PRECISION = {
    "openvino": ["inferencePrecision", "kvCachePrecision"],
    "vllm": ["kvCacheDtype"],
    "sglang": ["kvCacheDtype"],
    "trtllm-serve": ["kvCacheDtype"],
}


def facts(engine, **more):
    gpu = {} if engine == "openvino" else {"model": "llama-3.1-8b", "accelerator": "h100-sxm-80gb", "devices": 4}
    return EngineFacts(engine=engine, **{**gpu, **more})


def drawn(space, n=300):
    compiled = compile_space(space)
    rows = compiled.draw(np.random.default_rng(0), n)
    return [compiled.setting(rows, i) for i in range(n)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", [False, True])
def test_the_engine_accepts_what_is_drawn(engine, precision):
    may = PRECISION[engine] if precision else []
    space = engine_space(facts(engine, may_change_output=may, cores=4))
    for setting in drawn(space):
        knobs = {name: value for name, value in setting.items() if name not in PARALLEL}
        shape = {name: value for name, value in setting.items() if name in PARALLEL}
        assert check_knobs(load().engine(engine), knobs, shape) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_what_changes_answers_is_left_out_unless_allowed(engine):
    names = {one.name for one in engine_space(facts(engine)).parameters}
    assert not names & set(PRECISION[engine])
    allowed = engine_space(facts(engine, may_change_output=PRECISION[engine])).parameters
    assert {one.name for one in allowed if one.changes_output} == set(PRECISION[engine])


def test_an_allowance_for_something_else_is_refused():
    with pytest.raises(InvalidSpec, match="kvCacheDtype") as error:
        engine_space(facts("vllm", may_change_output=["maxNumSeqs"]))
    assert error.value.field == "mayChangeOutput[0]"


def test_unknown_engine_names_the_nearest():
    with pytest.raises(UnknownName, match="vllm"):
        engine_space(EngineFacts(engine="vlm"))


def test_degrees_keep_to_the_devices_and_the_model():
    for setting in drawn(engine_space(facts("vllm", devices=8))):
        assert setting["tensorParallel"] * setting["pipelineParallel"] * setting["dataParallel"] <= 8
    one = {p.name for p in engine_space(facts("vllm", devices=1)).parameters}
    assert not one & PARALLEL


def test_experts_are_spread_over_all_ranks_or_none():
    moe = next(m.id for m in load().models.values() if m.moe is not None and m.moe.experts == 8)
    space = engine_space(facts("vllm", model=moe, devices=8))
    assert "expertParallel" in {one.name for one in space.parameters}
    for setting in drawn(space):
        assert setting["expertParallel"] in (1, setting["tensorParallel"] * setting["dataParallel"])


def test_fixed_knobs_are_not_searched_and_rules_keep_to_them():
    space = engine_space(facts("openvino", fixed={"dynamicSplitFuse": False, "maxNumBatchedTokens": 8}))
    assert all(setting["maxNumSeqs"] <= 8 for setting in drawn(space))
    whole = engine_space(facts("openvino", fixed={"dynamicSplitFuse": True}))
    assert "maxNumSeqs" not in {one.name for one in whole.parameters}


def test_whole_prompts_need_a_budget():
    for setting in drawn(engine_space(facts("openvino", longest_tokens=1000))):
        assert setting["dynamicSplitFuse"] or setting["maxNumBatchedTokens"] >= 1000


def test_bfloat16_needs_a_processor_that_has_it():
    (precision,) = [
        one
        for one in engine_space(facts("openvino", may_change_output=["inferencePrecision"])).parameters
        if one.name == "inferencePrecision"
    ]
    assert precision.values == ["f32"]


def test_the_memory_model_is_a_margin():
    space = engine_space(facts("vllm", model="llama-3.1-70b", devices=4))
    assert len(space.margins) == 1
    compiled = compile_space(space)
    assert not any(s["tensorParallel"] * s["pipelineParallel"] == 1 for s in drawn(space))
    # 70.6 billion parameters of 2 bytes: two devices of 80 GB hold them barely, four with room.
    rows = compiled.rows_of([s for s in drawn(space) if s["tensorParallel"] == 4][:20])
    assert (compiled.margin_values(rows) > 0).all()


def test_a_model_that_fits_nowhere_is_refused_with_the_bytes():
    with pytest.raises(Unsupported, match="bytes of weights") as error:
        engine_space(facts("vllm", model="llama-3.1-70b", devices=1))
    assert error.value.field == "target.model"
