"""Nothing fits: which constraint is nearest to fitting, and by how many layers and bytes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from controlplane.model.errors import Refused
from tuner.training.placement.problem import StageClass, Width


def check_fits(
    classes: Sequence[StageClass],
    stages: Sequence[int],
    held: Sequence[float],
    most: Sequence[int],
    layers: int,
    least: int,
) -> None:
    """Raises Refused that says which constraint is nearest to fitting, by how many layers and bytes."""
    count = len(stages)
    if count * least > layers:
        raise Refused(
            f"{count} stages of at least {least} layers need {count * least} layers",
            code="TooManyStages", field="stages", value=count, limit=f"at most {layers // least}",
            hint="give fewer stages",
        )  # fmt: skip
    for stage, index in enumerate(stages):
        if most[stage] < least:
            each, first, last = classes[index], stage == 0, stage == count - 1
            short = least * each.bytes_per_layer(held[stage]) - each.room_bytes(first, last)
            raise Refused(
                f"stage {stage} on {each.name} cannot hold {least} layers: {math.ceil(short)} bytes short per device",
                code="StageDoesNotFit", field=f"classes[{each.name}].memory_bytes", value=each.memory_bytes,
                limit=f"at least {math.ceil(each.memory_bytes + short)}",
                hint="recompute activations, raise the tensor parallel degree or leave this class out",
            )  # fmt: skip
    missing = layers - sum(most)
    if missing > 0:
        short, name = min(_short_bytes(classes, stages, held, most, missing, index) for index in set(stages))
        raise Refused(
            f"the stages hold {sum(most)} of {layers} layers, {missing} too few; nearest to fitting: {name} with "
            f"{math.ceil(short)} bytes more per device",
            code="LayersDoNotFit", field=f"classes[{name}].memory_bytes", value=sum(most), limit=f"{layers} layers",
            hint="recompute activations, shard optimizer states or give more stages",
        )  # fmt: skip


def _short_bytes(
    classes: Sequence[StageClass],
    stages: Sequence[int],
    held: Sequence[float],
    most: Sequence[int],
    missing: int,
    index: int,
) -> tuple[float, str]:
    """Bytes more on every device of one class that would make room for the missing layers, and the class's name."""
    each, count = classes[index], len(stages)
    own = [stage for stage in range(count) if stages[stage] == index]

    def needed(stage: int, layers: int) -> float:
        room = each.room_bytes(stage == 0, stage == count - 1)
        return layers * each.bytes_per_layer(held[stage]) - room

    # Always the stage whose next layer needs least; the last one taken decides.
    waiting = [(needed(stage, most[stage] + 1), stage, most[stage] + 1) for stage in own]
    heapq.heapify(waiting)
    short = 0.0
    for _ in range(missing):
        short, stage, layers = waiting[0]
        heapq.heapreplace(waiting, (needed(stage, layers + 1), stage, layers + 1))
    return short, each.name


def no_pipeline(
    widths: Sequence[Sequence[Width]], nodes: Sequence[int], layers: int, micro_batches: int, most_stages: int
) -> Refused:
    """What stands nearest to fitting: the width that needs the least more memory per device, were it used alone."""
    nearest: tuple[float, Width, int] | None = None
    for ways, count in zip(widths, nodes, strict=True):
        for way in ways:
            stages = min(count // way.nodes, most_stages, layers)
            if stages:
                each = math.ceil(layers / stages)
                ends = max(way.first_bytes, way.last_bytes) if stages > 1 else way.first_bytes + way.last_bytes
                need = each * way.bytes_per_layer(min(micro_batches, stages)) + ends + way.fixed_bytes
                if nearest is None or need - way.memory_bytes < nearest[0]:
                    nearest = need - way.memory_bytes, way, stages
    if nearest is None:
        return Refused(
            "no width of a stage fits the nodes of its class", code="NoStage", field="nodes", value=list(nodes),
            hint="give more nodes or narrower stages",
        )  # fmt: skip
    short, way, stages = math.ceil(nearest[0]), nearest[1], nearest[2]
    return Refused(
        f"no pipeline holds {layers} layers; nearest to fitting: {stages} stages on {way.name} with tensor parallel "
        f"{way.tp}, {short} bytes more per device",
        code="LayersDoNotFit", field="widths", value=way.memory_bytes, limit=f"{math.ceil(way.memory_bytes + short)}",
        hint="recompute activations, shard optimizer states or give more nodes",
    )  # fmt: skip
