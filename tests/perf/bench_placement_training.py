"""Layers of a pipeline over three classes of accelerators: how long the exact answer takes, and that it is the answer.

`s8_l96_ms`, `s16_l96_ms`, `s24_l128_ms`: split of 96 or 128 layers over 8, 16 or 24 stages (H100, A100, V100; 1.0,
2.6, 6.5 ms per layer; 80, 80, 32 GB at 2.2 GB per layer; 32, 64, 96 micro-batches), the targets being the solve times
of a plain threshold prototype. `..._objective_ms`: the iteration found, against the known optimum.
`widths_64_nodes_s`: number of stages, their width (1, 2 or 4 nodes) and layers on 16 + 16 + 32 nodes, any order.
`six_classes_64_nodes_s`: three accelerators behind two NIC classes, one width, any order of the six.
`order12_ms`: cheapest order of 12 classes, proven. `ranks_16384_ms`: rank map of 16,384 accelerators.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.perf.report import Emit, Figure, from_samples
from tuner.training.placement import NodeGroup, StageClass, Width, best_path, choose_stages, rank_map, split

CLASSES = (("h100", 1.0, 80.0), ("a100", 2.6, 80.0), ("v100", 6.5, 32.0))
HOP_MS = ((0.2, 0.8, 1.6), (0.8, 0.4, 1.6), (1.6, 1.6, 1.6))
# (figure, stages, layers, micro-batches, milliseconds of the prototype, optimum in ms)
INSTANCES = (
    ("s8_l96", 8, 96, 32, 0.5, 859.8),
    ("s16_l96", 16, 96, 64, 0.6, 932.7),
    ("s24_l128", 24, 128, 96, 0.65, 1303.8),
)
REPEATS = 200


def run(emit: Emit) -> None:
    for name, stages, layers, micro_batches, target_ms, optimum in INSTANCES:
        classes = _thirds(stages)
        _emit_ms(emit, f"{name}_ms", target_ms, lambda c=classes, n=layers, m=micro_batches: split(c, n, m, HOP_MS))
        found = split(classes, layers, micro_batches, HOP_MS).iteration_s
        emit(Figure("placement-training", f"{name}_objective_ms", found, "ms", optimum, "lower", 1))
    widths = [
        [
            Width(
                name=name, tp=8, nodes=nodes, layer_s=layer / nodes**0.9, memory_bytes=memory * nodes, layer_bytes=1.5,
                activation_bytes=0.1, last_s=layer / nodes,
            )
            for nodes in (1, 2, 4)
        ]
        for name, layer, memory in CLASSES
    ]  # fmt: skip
    seconds = [_seconds(lambda: choose_stages(widths, (16, 16, 32), 96, 64, HOP_MS)) for _ in range(5)]
    emit(from_samples("placement-training", "widths_64_nodes_s", seconds, "s", None, "lower"))
    six = [
        [
            Width(
                name=name + nic, tp=8, nodes=1, layer_s=layer * pace, memory_bytes=memory, layer_bytes=1.5,
                activation_bytes=0.1, last_s=layer,
            )
        ]
        for name, layer, memory in CLASSES
        for nic, pace in (("-ib", 1.0), ("-roce", 1.03))
    ]  # fmt: skip
    cross = [[0.2 + 0.3 * abs(one - two) + 0.5 * (one % 2 != two % 2) for two in range(6)] for one in range(6)]
    seconds = [_seconds(lambda: choose_stages(six, (8, 8, 8, 8, 16, 16), 96, 64, cross)) for _ in range(5)]
    emit(from_samples("placement-training", "six_classes_64_nodes_s", seconds, "s", None, "lower"))
    hops = [[float(abs(one * 7 % 12 - two * 7 % 12)) for two in range(12)] for one in range(12)]
    _emit_ms(emit, "order12_ms", None, lambda: best_path(hops), 10)
    groups = [NodeGroup(name="h100", nodes=2048, gpus_per_node=8, nic="ib-ndr-400")]
    stages_on = [[0]] * 16
    _emit_ms(emit, "ranks_16384_ms", None, lambda: rank_map(groups, stages_on, tp=8, dp=128), 20)


def _thirds(stages: int) -> list[StageClass]:
    return [
        StageClass(
            name=name, stages=stages // 3 + (index < stages % 3), layer_s=layer, memory_bytes=memory, layer_bytes=2.2
        )
        for index, (name, layer, memory) in enumerate(CLASSES)
    ]


def _emit_ms(emit: Emit, figure: str, target: float | None, call: Callable[[], object], repeats: int = REPEATS) -> None:
    call()
    samples = [_seconds(call) * 1000.0 for _ in range(repeats)]
    emit(from_samples("placement-training", figure, samples, "ms", target, "lower"))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
