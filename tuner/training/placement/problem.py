"""What is placed: classes of equal stages with their speed and memory, and the answer.

One micro-batch takes `layer_s` per layer on a stage (forward and backward together). A stage holds as many layers as
its memory takes: states, and activations of every micro-batch in flight there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from controlplane.model.errors import InvalidSpec

MAX_STAGES = 1024
MAX_LAYERS = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShape:
    """One pipeline stage on one device class. Bytes are of the fullest device of the stage."""

    name: str
    layer_s: float
    memory_bytes: float
    layer_bytes: float  # weights, gradients and optimizer of one layer
    activation_bytes: float = 0.0  # of one layer and one micro-batch
    fixed_bytes: float = 0.0  # driver context, communication buffers
    first_s: float = 0.0  # embedding, where the pipeline begins on this class
    last_s: float = 0.0  # output layer and loss, where it ends
    first_bytes: float = 0.0
    last_bytes: float = 0.0

    def extra_s(self, first: bool, last: bool) -> float:
        """Time of a stage before its first layer."""
        return self.first_s * first + self.last_s * last

    def room_bytes(self, first: bool, last: bool) -> float:
        """What is left for layers; below 0 where the ends alone do not fit."""
        return self.memory_bytes - self.fixed_bytes - self.first_bytes * first - self.last_bytes * last

    def bytes_per_layer(self, in_flight: float) -> float:
        """One layer with the activations of its micro-batches in flight."""
        return self.layer_bytes + in_flight * self.activation_bytes

    def most_layers(self, in_flight: float, first: bool, last: bool) -> int:
        """Layers that fit, -1 where even the ends do not."""
        room = self.room_bytes(first, last)
        if room < 0.0:
            return -1
        each = self.bytes_per_layer(in_flight)
        return MAX_LAYERS if each <= 0.0 else min(MAX_LAYERS, math.floor(room / each * (1.0 + 1e-12)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageClass(StageShape):
    """`stages` equal pipeline stages of one device class, behind one another."""

    stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Stages in pipeline order. `iteration_s` = every stage once, the slowest m - 1 times more, twice the hops;
    `bound_s` is what no order and no split of the same stages can beat."""

    classes: tuple[str, ...]  # class of each stage
    layers: tuple[int, ...]
    stage_s: tuple[float, ...]
    hops_s: float  # one way, all hops
    iteration_s: float
    bound_s: float
    exact: bool  # no other placement of these stages is faster

    @property
    def gap(self) -> float:
        """How far the answer may be from the best, as a share of it."""
        return 0.0 if self.exact or self.bound_s <= 0.0 else self.iteration_s / self.bound_s - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Width(StageShape):
    """One way to build a stage on a class: times and sizes at this tensor parallel degree, and the nodes it takes.
    Several replicas inside a stage share its micro-batch, so `layer_s` is already the shared time."""

    tp: int
    dp: int = 1
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Stages in pipeline order. `exact`: no block-wise order of classes, width or split is faster; `bound_s` is what
    none can beat."""

    classes: tuple[int, ...]  # index into the question's classes
    widths: tuple[Width, ...]
    layers: tuple[int, ...]
    stage_s: tuple[float, ...]
    hops_s: float
    iteration_s: float
    bound_s: float
    exact: bool

    @property
    def gap(self) -> float:
        """How far the answer may be from the best, as a share of it."""
        return 0.0 if self.exact or self.bound_s <= 0.0 else self.iteration_s / self.bound_s - 1.0


def one_f_one_b(stages: int, micro_batches: int) -> tuple[int, ...]:
    """Micro-batches in flight on each stage under 1F1B."""
    return tuple(min(micro_batches, stages - stage) for stage in range(stages))


def check_problem(classes: Sequence[StageClass], layers: int, micro_batches: int) -> None:
    """Raises InvalidSpec for what cannot be a question."""
    check_sizes(layers, micro_batches)
    if not classes:
        raise InvalidSpec("no class of stages", field="classes", value=[], limit="at least one")
    if len({each.name for each in classes}) != len(classes):
        raise InvalidSpec("two classes of one name", field="classes", value=[each.name for each in classes])
    for each in classes:
        path = f"classes[{each.name}]"
        if not 1 <= each.stages <= MAX_STAGES:
            raise InvalidSpec("out of range", field=f"{path}.stages", value=each.stages, limit=f"1 to {MAX_STAGES}")
        check_shape(each, path)


def check_sizes(layers: int, micro_batches: int) -> None:
    """Raises InvalidSpec for impossible counts."""
    for name, value, most in (("layers", layers, MAX_LAYERS), ("micro_batches", micro_batches, 1 << 24)):
        if not 1 <= value <= most:
            raise InvalidSpec("out of range", field=name, value=value, limit=f"1 to {most}")


def check_shape(each: StageShape, path: str) -> None:
    """Raises InvalidSpec for times and sizes that cannot be."""
    for item in fields(StageShape)[1:]:
        value = getattr(each, item.name)
        positive = item.name in ("layer_s", "memory_bytes", "layer_bytes")
        if not math.isfinite(value) or value < 0.0 or (positive and value == 0.0):
            limit = "a finite number above 0" if positive else "a finite number, 0 or more"
            raise InvalidSpec("not a size or time", field=f"{path}.{item.name}", value=value, limit=limit)


def check_hops(hop_s: Sequence[Sequence[float]], classes: int) -> None:
    """Raises InvalidSpec unless the matrix is classes x classes of times."""
    if len(hop_s) != classes or any(len(row) != classes for row in hop_s):
        raise InvalidSpec("wrong shape", field="hop_s", value=len(hop_s), limit=f"{classes} x {classes}")
    for row in hop_s:
        for value in row:
            if not math.isfinite(value) or value < 0.0:
                raise InvalidSpec("not a time", field="hop_s", value=value, limit="a finite number, 0 or more")
