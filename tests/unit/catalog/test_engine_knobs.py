"""Engines: knob maps, checks and rendering."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog import Engine, Knob, load
from controlplane.catalog.knobs import check_knobs, merge, render_knobs, render_shape, validate_knobs
from controlplane.model.errors import InvalidSpec, UnknownName

ENGINES = list(load().engines.values())
SHAPE_FIELDS = {"tensorParallel", "pipelineParallel", "dataParallel", "expertParallel", "quantization"}


def by_id(engine: Engine) -> str:
    return engine.id


@pytest.mark.parametrize("engine", ENGINES, ids=by_id)
def test_fields_and_flags_are_unique(engine: Engine) -> None:
    knobs = [*engine.shape, *engine.knobs]
    fields = Counter(knob.field for knob in knobs)
    words = Counter(
        word for knob in knobs for word in (knob.flag, knob.false_flag, knob.config_path) if word is not None
    )
    assert [name for name, count in (fields + words).items() if count > 1] == []
    own = {engine.launch.host_flag, engine.launch.port_flag, engine.launch.served_name_flag, engine.launch.model_flag}
    assert not own & set(words)


@pytest.mark.parametrize("engine", ENGINES, ids=by_id)
def test_knobs_are_well_formed(engine: Engine) -> None:
    catalog = load()
    assert {knob.field for knob in engine.shape} <= SHAPE_FIELDS
    for knob in (*engine.shape, *engine.knobs):
        assert re.fullmatch(r"[a-z][a-zA-Z0-9]*", knob.field), knob.field
        assert knob.source in catalog.sources
        assert any((knob.flag, knob.false_flag, knob.config_path, knob.with_config)), knob.field
        if knob.type in ("int", "float") and knob.minimum is not None and knob.maximum is not None:
            assert knob.minimum < knob.maximum
        if knob.type == "bool" and knob.config_path is None and (knob.flag is None or knob.false_flag is None):
            # The value that writes nothing must be what the engine does by itself.
            assert knob.default is (knob.flag is None), knob.field
        if knob.default is not None:
            assert check_knobs(engine, {knob.field: knob.default}, {}) == [] or knob in engine.shape, knob.field
    for rule in engine.rules:
        for name in filter(None, (rule.field, rule.other, *rule.others, *rule.when)):
            assert engine.knob(name) is not None, f"{rule.message}: {name}"


@pytest.mark.parametrize("engine", ENGINES, ids=by_id)
def test_engines_say_how_to_start_watch_and_stop_them(engine: Engine) -> None:
    assert engine.launch.command and 1024 <= engine.port < 65536
    for path in (engine.health_path, engine.models_path, engine.metrics.path, engine.liveness_path):
        assert path is not None and path.startswith("/")
    assert engine.metrics.running and engine.metrics.waiting and engine.metrics.kv_usage
    assert engine.metrics.ttft and engine.metrics.e2e and engine.metrics.generation_tokens
    assert engine.drain.notes
    assert engine.capabilities.multi_node == (engine.multi_node is not None)
    assert (engine.image is None) == (engine.id == "openvino")
    if engine.image is not None:
        assert engine.image.endswith(engine.version), "image tag and version are one pin"


def values_of(knob: Knob) -> st.SearchStrategy[Any]:
    if knob.type == "bool":
        return st.booleans()
    if knob.type == "str":
        return st.sampled_from(knob.allowed) if knob.allowed else st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
    low, high = knob.minimum or 0, knob.maximum if knob.maximum is not None else 2**40
    if knob.type == "int":
        step = knob.multiple_of or 1
        return st.integers(-(-int(low) // step), int(high) // step).map(lambda count: count * step)
    return st.floats(low, high, allow_nan=False)


@st.composite
def settings_of(draw: st.DrawFn) -> tuple[Engine, dict[str, Any]]:
    engine = draw(st.sampled_from(ENGINES))
    chosen = draw(st.lists(st.sampled_from(engine.knobs), unique_by=lambda knob: knob.field, max_size=8))
    return engine, {knob.field: draw(values_of(knob)) for knob in chosen}


def read_back(engine: Engine, args: tuple[str, ...], config: Any) -> dict[str, Any]:
    """What an argument parser of the engine would understand."""
    values: dict[str, Any] = {}
    words = list(args)
    flags = {knob.flag: knob for knob in engine.knobs if knob.flag}
    false_flags = {knob.false_flag: knob for knob in engine.knobs if knob.false_flag}
    while words:
        word = words.pop(0)
        if word in false_flags:
            values[false_flags[word].field] = False
        elif flags[word].type == "bool":
            values[flags[word].field] = True
        else:
            kind = {"int": int, "float": float, "str": str}[flags[word].type]
            values[flags[word].field] = kind(words.pop(0))
    for knob in engine.knobs:
        node = config
        for part in (knob.config_path or "").split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            values[knob.field] = (not node) if knob.config_inverted else node
    return values


@given(settings_of())
def test_valid_settings_render_and_read_back(case: tuple[Engine, dict[str, Any]]) -> None:
    engine, settings = case
    if check_knobs(engine, settings):
        return  # a combination a rule refuses
    rendered = render_knobs(engine, settings)
    back = read_back(engine, rendered.args, rendered.config)
    for name, value in settings.items():
        knob = engine.knob(name)
        assert knob is not None
        silent = (
            isinstance(value, bool) and knob.config_path is None and (knob.flag if value else knob.false_flag) is None
        )
        assert (
            name not in back
            if silent
            else back[name] == pytest.approx(value)
            if knob.type == "float"
            else back[name] == value
        )
    assert render_knobs(engine, dict(reversed(settings.items()))) == rendered


@given(settings_of(), st.text(max_size=20))
def test_only_known_knobs_pass(case: tuple[Engine, dict[str, Any]], name: str) -> None:
    engine, settings = case
    if name in {knob.field for knob in engine.knobs}:
        return
    errors = check_knobs(engine, {**settings, name: 1})
    assert any(isinstance(error, UnknownName) and error.value == name for error in errors)
    with pytest.raises(UnknownName):
        render_knobs(engine, {**settings, name: 1})


@pytest.mark.parametrize(
    ("engine", "name", "nearest"),
    [
        ("vllm", "max_num_seqs", "maxNumSeqs"),
        ("vllm", "maxNumSeq", "maxNumSeqs"),
        ("vllm", "gpu-memory-utilization", "gpuMemoryUtilization"),
        ("sglang", "chunkedPrefilSize", "chunkedPrefillSize"),
        ("openvino", "numKvBlock", "numKvBlocks"),
        ("trtllm-serve", "freeGpuMemFraction", "freeGpuMemoryFraction"),
    ],
)
def test_an_unknown_knob_names_the_nearest(engine: str, name: str, nearest: str) -> None:
    (error,) = check_knobs(load().engine(engine), {name: 1}, field="spec.explicit.choices[2].knobs")
    assert error.field == f"spec.explicit.choices[2].knobs.{name}"
    assert error.hint is not None and nearest in error.hint


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("maxNumSeqs", 0, "1 to 65536 requests"),
        ("maxNumSeqs", -5, "1 to 65536 requests"),
        ("maxNumSeqs", 10**12, "1 to 65536 requests"),
        ("maxNumSeqs", 10**400, "1 to 65536 requests"),
        ("maxNumSeqs", float("inf"), "1 to 65536 requests"),
        ("maxNumSeqs", 1.5, "1 to 65536 requests"),
        ("maxNumSeqs", True, "1 to 65536 requests"),
        ("maxNumSeqs", "many", "1 to 65536 requests"),
        ("gpuMemoryUtilization", 1.01, "0.01 to 1 fraction of device memory"),
        ("gpuMemoryUtilization", float("nan"), "0.01 to 1 fraction of device memory"),
        ("enforceEager", 1, "true, false"),
        ("schedulingPolicy", "lifo", "fcfs, priority"),
        ("attentionBackend", "--api-key", "1 to 256 characters, no leading dash"),
        ("attentionBackend", "a\nb", "1 to 256 characters, no leading dash"),
    ],
)
def test_bad_values_name_the_limit(name: str, value: Any, limit: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        validate_knobs(load().engine("vllm"), {name: value})
    assert caught.value.field == f"knobs.{name}" and caught.value.limit == limit


def test_a_special_value_outside_the_range_is_allowed() -> None:
    sglang = load().engine("sglang")
    assert check_knobs(sglang, {"chunkedPrefillSize": -1}) == []
    (error,) = check_knobs(sglang, {"chunkedPrefillSize": -2})
    assert error.limit is not None and error.limit.endswith("or -1")


def test_openvino_combinations() -> None:
    engine = load().engine("openvino")
    off = {"dynamicSplitFuse": False}
    (error,) = check_knobs(engine, {**off, "maxNumSeqs": 64, "maxNumBatchedTokens": 32})
    assert "must not exceed maxNumBatchedTokens" in error.message and error.field == "knobs.maxNumSeqs"
    assert check_knobs(engine, {**off, "maxNumSeqs": 32, "maxNumBatchedTokens": 32}) == []
    (error,) = check_knobs(engine, {"maxNumSeqs": 32})
    assert "no effect with dynamicSplitFuse" in error.message
    (error,) = check_knobs(engine, {"cacheSizeGb": 1, "numKvBlocks": 64})
    assert "size of the KV cache" in error.message
    assert check_knobs(engine, {"numKvBlocks": 64}) == []
    (error,) = check_knobs(engine, {"useCacheEviction": True, "enablePrefixCaching": True})
    assert "exclude each other" in error.message
    (error,) = check_knobs(engine, {"useCacheEviction": True, "cacheEvictionStartTokens": 640})
    assert error.message.startswith("cacheEvictionMaxTokens must be above")
    (error,) = check_knobs(engine, {"kvCachePrecision": "bf16"})
    assert "needs inferencePrecision bf16" in error.message
    assert check_knobs(engine, {"kvCachePrecision": "bf16", "inferencePrecision": "bf16"}) == []
    assert check_knobs(engine, {"kvCachePrecision": "u8"}) == []
    (error,) = check_knobs(engine, {"cacheEvictionStartTokens": 33})
    assert error.limit is not None and "a multiple of 32" in error.limit


def test_a_precision_the_cpu_does_not_promise_is_refused() -> None:
    engine, plain, amx = (
        load().engine("openvino"), load().accelerator("cpu-x86"), load().accelerator("cpu-x86-amx")
    )  # fmt: skip
    (error,) = check_knobs(engine, {"inferencePrecision": "bf16"}, accelerator=plain)
    assert "amx_bf16" in error.message and error.limit == "f32"
    assert check_knobs(engine, {"inferencePrecision": "bf16"}, accelerator=amx) == []
    assert check_knobs(engine, {"inferencePrecision": "f32"}, accelerator=plain) == []


def test_shape_rules() -> None:
    vllm, sglang, trtllm, openvino = (load().engine(id) for id in ("vllm", "sglang", "trtllm-serve", "openvino"))
    path = "spec.explicit.choices[0].knobs"
    (error,) = check_knobs(vllm, {}, {"tensorParallel": 4, "dataParallel": 2, "expertParallel": 4}, field=path)
    assert error.field == "spec.explicit.choices[0].expertParallel"
    assert check_knobs(vllm, {}, {"tensorParallel": 4, "dataParallel": 2, "expertParallel": 8}) == []
    assert check_knobs(sglang, {}, {"tensorParallel": 8, "expertParallel": 4}) == []
    assert len(check_knobs(sglang, {}, {"tensorParallel": 8, "expertParallel": 3})) == 1
    assert len(check_knobs(trtllm, {}, {"tensorParallel": 4, "dataParallel": 2})) == 1
    (error,) = check_knobs(openvino, {}, {"tensorParallel": 2})
    assert error.message == "openvino has no tensorParallel"
    assert check_knobs(openvino, {}, {"tensorParallel": 1, "expertParallel": 1}) == []
    (error,) = check_knobs(vllm, {"enableEplb": True}, {"expertParallel": 1})
    assert "expertParallel above 1" in error.message


def test_rendered_command_lines() -> None:
    vllm, sglang, trtllm = (load().engine(id) for id in ("vllm", "sglang", "trtllm-serve"))
    shape = {"tensorParallel": 4, "pipelineParallel": 2, "dataParallel": 2, "expertParallel": 8}
    assert render_shape(vllm, shape).args == (
        "--tensor-parallel-size", "4", "--pipeline-parallel-size", "2", "--data-parallel-size", "2",
        "--enable-expert-parallel",
    )  # fmt: skip
    # SGLang counts all ranks of an attention-data-parallel group in its TP size.
    assert render_shape(sglang, shape).args == (
        "--tp-size", "8", "--pp-size", "2", "--dp-size", "2", "--enable-dp-attention", "--ep-size", "8",
    )  # fmt: skip
    rendered = render_shape(trtllm, {"tensorParallel": 1, "dataParallel": 8, "expertParallel": 8})
    assert rendered.args == ("--tp_size", "8", "--ep_size", "8")
    assert rendered.config == {"enable_attention_dp": True}
    assert render_shape(vllm, {"tensorParallel": 1, "quantization": None}).args == ()
    knobs = {"maxNumSeqs": 64, "enablePrefixCaching": False, "gpuMemoryUtilization": 0.9}
    assert render_knobs(vllm, knobs).args == (
        "--max-num-seqs", "64", "--no-enable-prefix-caching", "--gpu-memory-utilization", "0.9",
    )  # fmt: skip
    assert render_knobs(sglang, {"enablePrefixCaching": False, "maxNumSeqs": 64}).args == (
        "--max-running-requests", "64", "--disable-radix-cache",
    )  # fmt: skip
    both = merge(
        rendered, render_knobs(trtllm, {"enablePrefixCaching": False, "kvCacheDtype": "fp8", "overlapScheduler": False})
    )
    assert both.config == {
        "enable_attention_dp": True,
        "kv_cache_config": {"enable_block_reuse": False, "dtype": "fp8"},
        "disable_overlap_scheduler": True,
    }


def test_where_an_engine_runs() -> None:
    catalog = load()
    assert catalog.engine("openvino").why_not_on(catalog.accelerator("cpu-x86")) is None
    assert catalog.engine("vllm").why_not_on(catalog.accelerator("h100-sxm-80gb")) is None
    assert "gpu" in (catalog.engine("openvino").why_not_on(catalog.accelerator("t4")) or "")
    assert "nvidia" in (catalog.engine("trtllm-serve").why_not_on(catalog.accelerator("mi300x-192gb")) or "")
    assert "compute capability" in (catalog.engine("trtllm-serve").why_not_on(catalog.accelerator("t4")) or "")


@pytest.mark.parametrize("engine", ENGINES, ids=by_id)
def test_a_prompt_limit_speaks_of_knobs_there_are(engine: Engine) -> None:
    limit = engine.prompt_limit
    if limit is None:
        assert engine.longest_prompt({"maxNumBatchedTokens": 64}) is None
        return
    knob = engine.knob(limit.knob)
    assert knob is not None and knob.type == "int" and limit.source in load().sources
    assert all(engine.knob(name) is not None for name in limit.when)


def test_the_embedded_engine_takes_no_prompt_above_a_budget_that_it_does_not_split() -> None:
    engine = load().engine("openvino")
    assert engine.longest_prompt({"maxNumBatchedTokens": 64, "dynamicSplitFuse": False}) == 64
    assert engine.longest_prompt({"maxNumBatchedTokens": 64}) is None  # split where nothing else is said
    assert engine.longest_prompt({"dynamicSplitFuse": False}) is None
