"""What is asked of the planner: model, pools of equal nodes, batch, and which choices are already made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.catalog import load, nearest
from controlplane.model.errors import InvalidSpec, UnknownName, Unsupported
from controlplane.model.training import (
    ATTENTIONS,
    CONTEXT_PARALLEL,
    OFFLOADS,
    RECOMPUTE,
    SCHEDULES,
    VOCABULARY_PARALLEL,
    TrainingCase,
)
from tuner.serving.resolve import find_model
from tuner.training.names import gpu_id
from tuner.training.planner.launchable import Launchable, launchable
from tuner.training.planner.launched_choices import check_framework_name, check_launched
from tuner.training.planner.startable import check_startable, usual_attention, usual_precision
from tuner.training.question import parse_case
from tuner.training.shapes import catalogue_shape

NUMBERS = ("tp", "pp", "dp", "cp", "ep", "etp", "vpp", "micro_batch", "zero", "recompute_layers", "offload_layers")
FLAGS = ("sp", "overlap_dp", "overlap_tp")
WORDS: dict[str, tuple[str, ...]] = {
    # zb-1p and zb-2p are what a search for zb-h1 and zb-h2 finds under their memory, and cost the same here.
    "schedule": tuple(name for name in SCHEDULES if name not in ("zb-1p", "zb-2p")),
    "recompute": RECOMPUTE, "attention": ATTENTIONS, "cp_mode": CONTEXT_PARALLEL, "optimizer_offload": OFFLOADS,
    "vocab_parallel": VOCABULARY_PARALLEL, "sharding_groups": ("none", "hpz", "three-level"),
}  # fmt: skip
SINGLE = ("attention", "overlap_tp")  # set for the whole search, not searched
_FROM_ZERO = ("zero", "recompute_layers", "offload_layers")
MOST_GPUS = 1 << 17
MOST_BATCH = 1 << 17
_TRUTHS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
_SHAPE_FLAGS = ("gated", "dropout", "tied")


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """`case` holds the model, the pools, the batch and the settings that are not searched. `fixed`: allowed values of a
    choice, by its name."""

    case: TrainingCase
    rules: Launchable
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def free(self, name: str, value: Any) -> bool:
        """Whether a choice may have this value."""
        return name not in self.fixed or value in self.fixed[name]


def read_question(
    model: str, cluster: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, global_batch: int, seq: int | None = None, precision: str | None = None,
    fix: Sequence[str] = (), framework: str = "megatron-lm",
) -> PlanQuestion:  # fmt: skip
    """The question in a user's words. `model`: a catalogue name, or `layers=96,hidden=12288,heads=96,vocab=51200`;
    `fix`: `tp=8`, `recompute=none`, `tp=4,8`. Without a precision it is bf16, or fp16 where an accelerator has no bf16;
    attention is flash where its kernels run. Raises InvalidSpec, UnknownName or Unsupported naming the field."""
    check_framework_name(framework)
    fixed = fixes(fix)
    settings = {name: values[0] for name, values in fixed.items() if name in SINGLE}
    gpus = _accelerators(cluster)
    if precision is None:
        precision = usual_precision(gpus)
    settings.setdefault("attention", usual_attention(framework, gpus))
    case = parse_case({
        "model": _model(model, seq), "cluster": dict(cluster) if isinstance(cluster, Mapping) else list(map(dict, cluster)),
        "global_batch": global_batch, "precision": precision,
        "framework": framework, "gradient_bytes": 4, "overlap_dp": fixed.get("overlap_dp") != (False,), **settings,
    })  # fmt: skip
    ranks = sum(pool.gpus for pool in case.pools)
    for name, value, most in (("gpus", ranks, MOST_GPUS), ("global_batch", global_batch, MOST_BATCH)):
        if value > most:
            raise InvalidSpec("too many to search", field=name, value=value, limit=f"up to {most}")
    for pool in case.pools:
        if ranks > pool.gpus_per_node and pool.nic is None and pool.inter_gb_s is None:
            raise InvalidSpec(
                "how nodes reach each other is not said", field="nic", limit="a NIC class or a rate",
                hint="for example ib-ndr-400, and how many a node has",
            )  # fmt: skip
    searched = {name: values for name, values in fixed.items() if name not in SINGLE}
    rules = launchable(framework)
    check_startable(rules, case.pools, case.plan.precision, case.plan.attention)
    if not rules.recompute.get(case.plan.attention):
        raise Unsupported(
            f"{rules.version} has no such attention", field="fix.attention", value=case.plan.attention,
            limit=", ".join(name for name, modes in rules.recompute.items() if modes),
        )  # fmt: skip
    if case.model.experts and not rules.experts:
        raise Unsupported(
            f"{framework} has no expert layers", field="model.experts", value=case.model.experts, limit="0"
        )
    if case.model.tied and not rules.tied_embeddings:
        raise Unsupported(
            f"{framework} keeps embedding and output apart", field="model.tied", value=True, limit="false",
            hint="give a shape with tied=false",
        )  # fmt: skip
    check_launched(rules, searched, case.plan.attention)
    return PlanQuestion(case, rules, searched)


def _accelerators(cluster: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[str]:
    """Catalogue ids of the pools that name one; what is wrong with the others is told when they are read."""
    pools = [cluster] if isinstance(cluster, Mapping) else cluster
    return [gpu_id(name, field="cluster.gpu") for pool in pools if isinstance(name := pool.get("gpu"), str)]


def fixes(items: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """`name=value[,value]` items by name. Raises UnknownName or InvalidSpec."""
    found: dict[str, tuple[Any, ...]] = {}
    known = (*NUMBERS, *FLAGS, *WORDS)
    for item in items:
        name, equals, text = item.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"
            raise UnknownName(f"{name[:60]!r} is no choice of a plan", field="fix", value=item[:60], hint=hint)
        values = tuple(dict.fromkeys(_value(name, part.strip().lower()) for part in text.split(",")))
        if not equals or (name in SINGLE and len(values) > 1):
            raise InvalidSpec("must be name=value", field="fix", value=item[:60], limit="tp=8, tp=4,8, recompute=none")
        found[name] = values
    return found


def _value(name: str, text: str) -> Any:
    if name in FLAGS and text in _TRUTHS:
        return _TRUTHS[text]
    if name in WORDS and text in WORDS[name]:
        return text
    low = 0 if name in _FROM_ZERO else 1
    if name in NUMBERS and text.isascii() and text.isdigit() and len(text) < 8 and int(text) >= low:
        return int(text)
    limit = "true, false" if name in FLAGS else ", ".join(WORDS.get(name, (f"whole numbers from {low}",)))
    raise InvalidSpec("is no value of this choice", field=f"fix.{name}", value=text[:60], limit=limit)


def _model(text: str, seq: int | None) -> dict[str, Any]:
    if "=" in text:
        shape: dict[str, Any] = {}
        for item in text[:2000].split(","):
            name, _, value = item.partition("=")
            name, value = name.strip(), value.strip().lower()
            if name in _SHAPE_FLAGS and value in _TRUTHS:
                shape[name] = _TRUTHS[value]
            elif value.isascii() and value.isdigit() and len(value) < 9:
                shape[name] = int(value)
            else:
                raise InvalidSpec("must be a whole number", field=f"model.{name[:60]}", value=value[:60])
    else:
        shape = catalogue_shape(find_model(load(), text))
    if seq is not None:
        shape["seq"] = seq
    return shape
