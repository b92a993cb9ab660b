"""One JSON object to a training case: types, bounds and names are checked here, shapes against each other in `checks`."""

from __future__ import annotations

from typing import Any, cast

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec
from controlplane.model.training import (
    ATTENTIONS,
    CONTEXT_PARALLEL,
    FOLDED,
    FRAMEWORKS,
    OFFLOADS,
    OPTIMIZERS,
    PRECISIONS,
    RECOMPUTE,
    SCHEDULES,
    VOCABULARY_PARALLEL,
    ParallelPlan,
    TrainingCase,
    TrainingModel,
    TrainingPool,
)
from tuner.serving.energy import least_cap_w
from tuner.serving.fields import Fields
from tuner.serving.resolve import find_model
from tuner.training.checks import check
from tuner.training.names import gpu_id, nic_id
from tuner.training.room import MOST_RESERVE
from tuner.training.shapes import catalogue_shape

_MODEL = {
    "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq", "head_dim", "gated", "dropout", "tied", "experts", "top_k",
    "expert_ffn", "shared_ffn", "moe_layers", "route_nodes", "q_rank", "kv_rank", "rope_dim", "value_dim",
}  # fmt: skip
_POOL = {
    "gpu",
    "gpus",
    "gpus_per_node",
    "nic",
    "nics_per_node",
    "intra_gb_s",
    "inter_gb_s",
    "power_cap_w",
    "memory_reserve",
    "cross_gb_s",
    "price_per_accelerator_hour",
    "currency",
    "name",
}
_LINE = {
    "id", "model", "seq", "cluster", "tp", "pp", "dp", "cp", "ep", "etp", "vpp", "schedule", "micro_batch", "global_batch",
    "recompute", "zero", "sp", "vocab_parallel", "layers_per_stage", "precision", "framework", "attention",
    "gradient_bytes", "optimizer", "overlap_dp", "overlap_tp", "overlap_pp", "stage_pools", "recompute_layers",
    "cp_mode", "weight_group", "gradient_group", "secondary_group", "optimizer_offload", "offload_layers",
}  # fmt: skip
MAX_POOLS = 16
MAX_STAGES = 1024
_MAX_WIDTH = 1 << 22
_MAX_GPUS = 1 << 20


def parse_case(data: object) -> TrainingCase:
    """The case of one object. Raises InvalidSpec, UnknownName or Unsupported that name the field."""
    line = Fields(data, _LINE)
    identity = line.raw("id")
    if isinstance(identity, bool) or not (identity is None or isinstance(identity, str | int)):
        line.fail("id", "must be text or a whole number", "text, whole number")
    model = _model(line)
    pools = _pools(line)
    case = TrainingCase(
        id=identity, model=model, pools=pools, plan=_plan(line, model), stage_pools=_places(line, len(pools))
    )
    check(case)
    return case


def _model(line: Fields) -> TrainingModel:
    fields = _named(line) if isinstance(line.raw("model"), str) else line.inside("model", _MODEL)
    if fields is None:
        line.need("model")

    def width(name: str, default: int | None = None, low: int = 1) -> int:
        value = fields.whole(name, low, _MAX_WIDTH)
        if value is None:
            return fields.need(name) if default is None else default
        return value

    layers, hidden, heads = width("layers"), width("hidden"), width("heads")
    gated = fields.flag("gated") or False
    experts = width("experts", 0, 0)
    ffn = width("ffn", 4 * hidden)
    head_dim = fields.whole("head_dim", 1, _MAX_WIDTH)
    if head_dim is None:
        if hidden % heads:
            raise InvalidSpec(
                "does not divide by model.heads", field="model.hidden", value=hidden, limit=f"a multiple of {heads}",
                hint="or give model.head_dim",
            )  # fmt: skip
        head_dim = hidden // heads
    return TrainingModel(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=width("kv_heads", heads),
        ffn=ffn,
        vocab=width("vocab"),
        seq=width("seq"),
        head_dim=head_dim,
        gated=gated,
        dropout=fields.flag("dropout") is not False,
        tied=fields.flag("tied") if fields.has("tied") else not gated,  # type: ignore[arg-type]
        experts=experts,
        top_k=width("top_k", 1 if experts else 0, 0),
        expert_ffn=width("expert_ffn", ffn if experts else 0, 0),
        shared_ffn=width("shared_ffn", 0, 0),
        moe_layers=width("moe_layers", layers if experts else 0, 0),
        route_nodes=width("route_nodes", 0, 0),
        q_rank=width("q_rank", 0, 0),
        kv_rank=width("kv_rank", 0, 0),
        rope_dim=width("rope_dim", 0, 0),
        value_dim=width("value_dim", 0, 0),
    )


def _named(line: Fields) -> Fields:
    """The shape of a model of the catalogue, with the line's own `seq`."""
    name, seq = line.text("model", 200), line.raw("seq")
    if seq is None:
        raise InvalidSpec(
            "is missing", field="seq", limit=f"1 to {_MAX_WIDTH}", hint="tokens per sequence, beside a model's name"
        )
    return Fields({**catalogue_shape(find_model(load(), name or "")), "seq": seq}, _MODEL, "model")


def _pools(line: Fields) -> tuple[TrainingPool, ...]:
    value = line.raw("cluster")
    if value is None:
        line.need("cluster")
    items = value if isinstance(value, list) else [value]
    if not 1 <= len(items) <= MAX_POOLS:
        line.fail("cluster", "wrong number of pools", f"1 to {MAX_POOLS}")
    several = isinstance(value, list)
    return tuple(_pool(item, f"cluster[{index}]" if several else "cluster") for index, item in enumerate(items))


def _pool(item: object, path: str) -> TrainingPool:
    fields = Fields(item, _POOL, path)
    gpu, gpus = fields.text("gpu", 63), fields.whole("gpus", 1, _MAX_GPUS)
    if gpu is None:
        fields.need("gpu")
    if gpus is None:
        fields.need("gpus")
    nic = fields.text("nic", 63)
    accelerator = load().accelerators[gpu_id(gpu, field=fields.at("gpu"))]
    least, cap_w = least_cap_w(accelerator), fields.number("power_cap_w", 0, 1e4, open_low=True)
    if cap_w is not None and least is not None and cap_w < least:
        raise InvalidSpec(
            f"{accelerator.id} cannot be held so low", field=fields.at("power_cap_w"), value=cap_w,
            limit=f"{least:g} to {accelerator.tdp_w:g} W", hint="raise it or leave it out",
        )  # fmt: skip
    return TrainingPool(
        gpu=accelerator.id,
        gpus=gpus,
        gpus_per_node=fields.whole("gpus_per_node", 1, 1024) or min(gpus, accelerator.accelerators_per_node or 8),
        nic=None if nic is None else nic_id(nic, field=fields.at("nic")),
        nics_per_node=fields.whole("nics_per_node", 1, 64),
        intra_gb_s=fields.number("intra_gb_s", 0, 1e5, open_low=True),
        inter_gb_s=fields.number("inter_gb_s", 0, 1e5, open_low=True),
        power_cap_w=cap_w,
        price_per_accelerator_hour=fields.number("price_per_accelerator_hour", 0, 1e6),
        currency=_currency(fields),
        name=fields.text("name", 63),
        cross_gb_s=fields.number("cross_gb_s", 0, 1e5, open_low=True),
        memory_reserve=fields.number("memory_reserve", 0, MOST_RESERVE),
    )


def _currency(fields: Fields) -> str:
    text = fields.text("currency", 3)
    if text is None:
        return "USD"
    if not (len(text) == 3 and text.isascii() and text.isalpha() and text.isupper()):
        fields.fail("currency", "is no currency code", "three capital letters of ISO 4217")
    return text


def _plan(line: Fields, model: TrainingModel) -> ParallelPlan:
    def degree(name: str, default: int = 1, most: int = _MAX_GPUS) -> int:
        value = line.whole(name, 1, most)
        return default if value is None else value

    def word(name: str, known: tuple[str, ...], default: str) -> Any:
        value = line.text(name, 63)
        if value is not None and value not in known:
            line.fail(name, "is not one of the known words", ", ".join(known))
        return default if value is None else value

    batch = line.whole("global_batch", 1, 1 << 24)
    if batch is None:
        line.need("global_batch")
    schedule = word("schedule", SCHEDULES, "interleaved" if (line.whole("vpp", 1, _MAX_GPUS) or 1) > 1 else "1f1b")
    vpp = degree("vpp", 2 if schedule in FOLDED else 1)
    framework = word("framework", FRAMEWORKS, "megatron-lm")
    vocab = line.raw("vocab_parallel")
    if isinstance(vocab, bool):
        vocab_parallel = "vocab-2" if vocab else "none"
    else:
        vocab_parallel = word("vocab_parallel", VOCABULARY_PARALLEL, "none")
    zero = line.whole("zero", 0, 3)
    if zero is None:
        zero = 3 if framework.startswith("fsdp") else 0
    recompute = line.raw("recompute")
    if isinstance(recompute, bool):
        recompute = "full" if recompute else "none"
    else:
        recompute = word("recompute", RECOMPUTE, "none")
    overlap_pp = line.flag("overlap_pp")
    return ParallelPlan(
        tp=degree("tp"),
        pp=degree("pp", most=MAX_STAGES),
        dp=degree("dp"),
        cp=degree("cp"),
        ep=degree("ep"),
        etp=degree("etp"),
        vpp=vpp,
        schedule=schedule,
        micro_batch=degree("micro_batch"),
        global_batch=batch,
        recompute=recompute,
        zero=zero,
        sp=line.flag("sp") or False,
        vocab_parallel=cast(Any, vocab_parallel),
        layers_per_stage=_whole_list(line, "layers_per_stage", 0, model.layers + 2),
        precision=word("precision", PRECISIONS, "bf16"),
        framework=framework,
        attention=word("attention", ATTENTIONS, "flash"),
        gradient_bytes=_gradient_bytes(line) or (2 if zero >= 2 else 4),
        optimizer=word("optimizer", OPTIMIZERS, "adam"),
        overlap_dp=line.flag("overlap_dp") or False,
        overlap_tp=line.flag("overlap_tp") or False,
        overlap_pp=schedule == "interleaved" and vpp > 1 if overlap_pp is None else overlap_pp,
        recompute_layers=line.whole("recompute_layers", 0, model.layers) or 0,
        cp_mode=word("cp_mode", CONTEXT_PARALLEL, "ring"),
        weight_group=line.whole("weight_group", 0, _MAX_GPUS) or 0,
        gradient_group=line.whole("gradient_group", 0, _MAX_GPUS) or 0,
        secondary_group=line.whole("secondary_group", 0, _MAX_GPUS) or 0,
        optimizer_offload=word("optimizer_offload", OFFLOADS, "none"),
        offload_layers=line.whole("offload_layers", 0, model.layers) or 0,
    )


def _gradient_bytes(line: Fields) -> int | None:
    value = line.whole("gradient_bytes", 2, 4)
    if value == 3:
        line.fail("gradient_bytes", "is no number format", "2, 4")
    return value


def _places(line: Fields, pools: int) -> tuple[int, ...]:
    return _whole_list(line, "stage_pools", 0, pools - 1)


def _whole_list(line: Fields, name: str, low: int, high: int) -> tuple[int, ...]:
    value = line.raw(name)
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_STAGES:
        line.fail(name, "must be a list", f"up to {MAX_STAGES} whole numbers")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
            line.fail(name, "must hold whole numbers", f"{low} to {high}")
    return tuple(value)
