"""Every replica shape worth asking about, pool by pool, and why the rest is not.

What divides comes from the catalogue; what spans nodes needs an engine that can. Degrees are powers of two, and the
node size itself: the only ones that engines' collectives and measured tables know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.catalog import Accelerator, Catalog, Engine, ModelShape
from controlplane.catalog.params import check_parallel
from controlplane.model.plans import PlannablePool, PlanRequest
from tuner.serving.case import EngineCase
from tuner.serving.planner.installation import Installation
from tuner.serving.planner.packing import largest_block, most_replicas, node_size, pod_units
from tuner.serving.planner.precision import Precision, precisions
from tuner.serving.planner.shape import Shape
from tuner.serving.resolve import find_model, formats_of_name

# A replica larger than this is beyond what the step tables describe (the largest expert-parallel group measured).
MAX_RANKS = 128
_MAX_STAGES = 8
_CORES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Something that was weighed and lost before it was replayed. `nearness` orders losses: larger is nearer."""

    label: str
    pool: str
    reason: str
    message: str
    shape: Shape | None = None
    engine: str | None = None  # None: whichever
    nearness: float = 0.0


def shapes(request: PlanRequest, catalog: Catalog, installation: Installation) -> tuple[list[Shape], list[Loss]]:
    """Shapes that divide and whose pools have room, in a fixed order, and what was lost on the way."""
    model = find_model(catalog, request.model)
    own = formats_of_name(request.model)
    found: list[Shape] = []
    lost: list[Loss] = []
    for pool in request.pools:
        accelerator = catalog.accelerator(pool.accelerator)
        if request.allowed.accelerators and pool.accelerator not in request.allowed.accelerators:
            lost.append(Loss(label=pool.name, pool=pool.name, reason="NotAllowed", message=_not_allowed(pool)))
            continue
        for engine in _engines(request, catalog, installation):
            why_not = engine.why_not_on(accelerator)
            label = f"{engine.id} on {pool.name}"
            if why_not is not None:
                lost.append(
                    Loss(
                        label=label, pool=pool.name, engine=engine.id, reason="EngineNotOnAccelerator", message=why_not
                    )
                )
                continue
            formats, refused = precisions(model, engine, request.allowed, own)
            lost += [
                Loss(
                    label=label,
                    pool=pool.name,
                    engine=engine.id,
                    reason="PrecisionNotOffered",
                    message=text,
                    nearness=0.5,
                )
                for text in refused
            ]
            for precision in formats:
                _add(pool, accelerator, engine, model, precision, found, lost)
    return sorted(found, key=lambda shape: shape.key), lost


def _add(
    pool: PlannablePool,
    accelerator: Accelerator,
    engine: Engine,
    model: ModelShape,
    precision: Precision,
    found: list[Shape],
    lost: list[Loss],
) -> None:
    for units, tp, pp, dp, ep in _degrees(pool, accelerator, engine, model):
        shape = Shape(
            pool=pool,
            accelerator=accelerator,
            engine=engine,
            model=model,
            precision=precision,
            units=units,
            case=EngineCase(
                model=model.id,
                accelerator=accelerator.id,
                engine=engine.id,  # type: ignore[arg-type]  # the catalogue's ids are EngineName's words
                tensor_parallel=tp,
                pipeline_parallel=pp,
                attention_data_parallel=dp,
                moe_tensor_parallel=tp * dp // ep if model.is_moe else 1,
                moe_expert_parallel=ep,
                gemm_quant=precision.gemm_quant,
                moe_quant=precision.moe_quant,
                kv_quant=precision.kv_quant,
                nic=pool.nic,
                nics_per_node=pool.nics_per_node,
                accelerators_per_node=node_size(pool, accelerator),
                cores=units if accelerator.kind == "cpu" else None,
            ),
        )
        errors = check_parallel(model, tensor_parallel=tp, pipeline_parallel=pp, expert_parallel=ep)
        if errors:
            lost.append(_loss(shape, "DoesNotDivide", str(errors[0]), 1.0))
        elif units > pool.free:
            short = f"one replica needs {units}, pool {pool.name} has {pool.free} free"
            lost.append(_loss(shape, "PoolTooSmall", short, 2.0 + pool.free / units))
        elif (scattered := _scattered(shape)) is not None:
            lost.append(scattered)
        else:
            found.append(shape)


def _scattered(shape: Shape) -> Loss | None:
    """The loss of a shape whose pods find no nodes with room for them, though the pool's sum is enough."""
    pool, block = shape.pool, largest_block(shape.pool)
    one = pod_units(shape.units, pool, shape.accelerator)
    if block is not None and one > block:
        short = f"one pod needs {one} on one node, pool {pool.name} has at most {block} free on one"
        return _loss(shape, "PoolTooSmall", short, 2.0 + block / one)
    if most_replicas(shape) < 1:
        short = (
            f"one replica needs {shape.units // one} pods of {one}, pool {pool.name} has room on its nodes for fewer"
        )
        return _loss(shape, "PoolTooSmall", short, 2.9)
    return None


def _degrees(
    pool: PlannablePool, accelerator: Accelerator, engine: Engine, model: ModelShape
) -> Iterator[tuple[int, int, int, int, int]]:
    """(units, tensor, pipeline, data, expert) of one replica. Shapes above the pool's room are given once, the
    smallest of each kind, so that the answer can say how much room they would need."""
    if accelerator.kind == "cpu":
        yield from ((cores, 1, 1, 1, 1) for cores in _CORES if cores <= (pool.per_node or pool.free))
        return
    node = node_size(pool, accelerator)
    spans = engine.multi_node is not None
    room = min(MAX_RANKS, 2 * max(pool.free, 1)) if spans else node
    domain = accelerator.scale_up_domain_accelerators or node  # tensor parallel ranks stay where the fabric is fast
    widths = [width for width in _powers(max(node, min(domain, 16))) if width <= node or spans]
    for tp in widths:
        for pp in _powers(_MAX_STAGES):
            if tp * pp <= max(room, node) and (tp * pp <= node or spans):
                for ep in sorted({1, tp}) if model.is_moe and pp == 1 else (1,):
                    yield tp * pp, tp, pp, 1, ep
    if not model.is_moe:
        return  # data parallel ranks of a dense model are what replicas are for
    for group in _powers(room):
        for dp in _powers(group)[1:]:
            tp = group // dp
            if tp > node or (engine.tensor_flag_counts_data_parallel and not model.is_moe and model.mla is None):
                continue
            if tp > 1 and _whole_group_only(engine):
                continue
            for ep in sorted({1, group}):
                yield group, tp, 1, dp, ep


def _whole_group_only(engine: Engine) -> bool:
    """Whether attention data parallelism takes the whole group, so that tensor parallel ranks cannot be beside it."""
    return any(rule.kind == "excludes" and rule.field == "dataParallel" for rule in engine.rules)


def _engines(request: PlanRequest, catalog: Catalog, installation: Installation) -> list[Engine]:
    installed = catalog.engines if installation.engines is None else installation.engines
    wanted: list[str] = [*request.allowed.engines] or sorted(installed)
    return [catalog.engine(name, field="allowed.engines") for name in dict.fromkeys(wanted)]


def _powers(limit: int) -> list[int]:
    out, value = [], 1
    while value <= limit:
        out.append(value)
        value *= 2
    return out


def _loss(shape: Shape, reason: str, message: str, nearness: float) -> Loss:
    return Loss(
        label=shape.label,
        pool=shape.pool.name,
        reason=reason,
        message=message,
        shape=shape,
        engine=shape.engine.id,
        nearness=nearness,
    )


def _not_allowed(pool: PlannablePool) -> str:
    return f"{pool.accelerator} of pool {pool.name} is not in allowed.accelerators"
