"""Number of stages, width of each and layers: against every possibility on small clusters."""

import itertools
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec, Refused
from tuner.training.placement import StageClass, Width, choose_stages, split, widths_bound_s


def width(name="a", tp=8, nodes=1, layer_s=1.0, most=10, **more):
    return Width(name=name, tp=tp, nodes=nodes, layer_s=layer_s, memory_bytes=float(most), layer_bytes=1.0, **more)


def exhaustive(widths, nodes, layers, micro_batches, hops):
    """Every block-wise sequence of stages, each with every split."""
    best = math.inf
    for order in itertools.permutations(range(len(widths))):
        per_class = [list(sequences(widths[index], nodes[index])) for index in order]
        for parts in itertools.product(*per_class):
            stages = [(index, way) for index, part in zip(order, parts, strict=True) for way in part]
            if not 0 < len(stages) <= layers:
                continue
            classes = [
                StageClass(stages=1, **shape(way) | {"name": str(place)}) for place, (_, way) in enumerate(stages)
            ]
            matrix = [[hops[one][two] for two, _ in stages] for one, _ in stages]
            try:
                best = min(best, split(classes, layers, micro_batches, matrix).iteration_s)
            except Refused:
                continue
    return best


def shape(way):
    names = (
        "name", "layer_s", "memory_bytes", "layer_bytes", "activation_bytes", "fixed_bytes", "first_s", "last_s",
        "first_bytes", "last_bytes",
    )  # fmt: skip
    return {name: getattr(way, name) for name in names}


def sequences(ways, nodes):
    yield ()
    for way in ways:
        if way.nodes <= nodes:
            for rest in sequences(ways, nodes - way.nodes):
                yield (way, *rest)


one_width = st.builds(
    width,
    nodes=st.integers(1, 2),
    layer_s=st.sampled_from([0.5, 1.0, 1.7, 2.6]),
    most=st.integers(2, 8),
    first_s=st.sampled_from([0.0, 0.7]),
    last_s=st.sampled_from([0.0, 2.2]),
    activation_bytes=st.sampled_from([0.0, 0.4]),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.lists(one_width, min_size=1, max_size=2), st.integers(0, 3)), min_size=1, max_size=2),
    st.integers(1, 8),
    st.sampled_from([1, 3, 20]),
)
def test_no_other_pipeline_is_faster(classes, layers, micro_batches):
    widths, nodes = [each for each, _ in classes], [count for _, count in classes]
    hops = [[0.1 + 0.5 * abs(i - j) for j in range(len(nodes))] for i in range(len(nodes))]
    want = exhaustive(widths, nodes, layers, micro_batches, hops)
    if math.isinf(want):
        with pytest.raises(Refused):
            choose_stages(widths, nodes, layers, micro_batches, hops)
        return
    got = choose_stages(widths, nodes, layers, micro_batches, hops)
    assert got.exact
    assert got.iteration_s == pytest.approx(want)
    slowest, bound = widths_bound_s(widths, nodes, layers, micro_batches)
    assert slowest <= max(got.stage_s) * (1 + 1e-9) and bound <= want * (1 + 1e-9)
    assert sum(got.layers) == layers
    for index, count in enumerate(nodes):
        assert sum(w.nodes for c, w in zip(got.classes, got.widths, strict=True) if c == index) <= count


def test_agrees_with_the_given_stages_where_one_width_and_all_nodes_are_best():
    speed = (("h100", 1.0, 80.0), ("a100", 2.6, 80.0), ("v100", 6.5, 32.0))
    hops = [[0.2, 0.8, 1.6], [0.8, 0.4, 1.6], [1.6, 1.6, 1.6]]
    widths = [[Width(name=n, tp=8, nodes=1, layer_s=t, memory_bytes=m, layer_bytes=2.2)] for n, t, m in speed]
    got = choose_stages(widths, [3, 3, 2], 96, 32, hops)
    assert got.iteration_s == pytest.approx(859.8)
    assert got.layers in ((22, 22, 22, 8, 8, 8, 3, 3), (3, 3, 8, 8, 8, 22, 22, 22))  # the same either way round


def test_a_wide_stage_where_memory_is_short_narrow_ones_where_it_is_not():
    # One node holds 3 layers; two nodes together 8, each layer a little slower per node than alone.
    ways = [width(tp=8, nodes=1, layer_s=1.0, most=3), width(tp=16, nodes=2, layer_s=0.6, most=8)]
    assert {w.tp for w in choose_stages([ways], [2], 8, 4, [[0.0]]).widths} == {16}
    assert {w.tp for w in choose_stages([ways], [2], 6, 40, [[0.0]]).widths} == {8}


def test_a_time_in_hand_is_beaten_or_the_answer_is_none():
    ways = [[width("a", layer_s=1.0)], [width("b", layer_s=2.0)]]
    hops = [[0.1, 0.3], [0.3, 0.1]]
    best = choose_stages(ways, [2, 2], 12, 8, hops)
    assert choose_stages(ways, [2, 2], 12, 8, hops, beat_s=best.iteration_s * 1.001) == best
    assert choose_stages(ways, [2, 2], 12, 8, hops, beat_s=best.iteration_s) is None
    assert choose_stages(ways, [2, 2], 12, 8, hops, beat_s=1.0) is None


def test_four_classes_in_any_order():
    ways = [[width(str(index), layer_s=1.0 + index / 4, last_s=index / 2, most=7)] for index in range(4)]
    hops = [[0.1 + (one * 5 + two * 3) % 7 / 3 for two in range(4)] for one in range(4)]
    got = choose_stages(ways, [1, 2, 1, 1], 20, 8, hops)
    assert got.exact and got.gap == 0.0
    assert got.iteration_s == pytest.approx(exhaustive(ways, [1, 2, 1, 1], 20, 8, hops))


def test_in_a_given_order_the_bound_and_the_gap_are_stated(monkeypatch):
    ways = [[width(str(index), layer_s=1.0 + index / 4, last_s=index / 2)] for index in range(5)]
    hops = [[0.1 + abs(one - two) / 10 for two in range(5)] for one in range(5)]
    best = choose_stages(ways, [1] * 5, 20, 8, hops)
    monkeypatch.setattr("tuner.training.placement.stages._EVERY_ORDER", 4)
    got = choose_stages(ways, [1] * 5, 20, 8, hops)
    assert not got.exact
    assert got.bound_s <= best.iteration_s <= got.iteration_s * (1 + 1e-12)
    assert got.gap == pytest.approx(got.iteration_s / got.bound_s - 1)


def test_slow_nodes_stay_idle_where_they_only_hold_the_others_up():
    widths = [[width("fast", layer_s=1.0, most=99)], [width("slow", layer_s=50.0, most=99)]]
    got = choose_stages(widths, [2, 2], 8, 100, [[0.0, 0.0], [0.0, 0.0]])
    assert got.classes == (0, 0)


def test_nothing_fits_names_the_nearest_and_its_bytes():
    widths = [[width("a", most=3)], [width("b", most=4)]]
    with pytest.raises(Refused) as caught:
        choose_stages(widths, [2, 1], 20, 8, [[0.0, 0.0], [0.0, 0.0]])
    assert caught.value.reason == "LayersDoNotFit"
    assert "2 stages on a" in caught.value.message and "7 bytes more" in caught.value.message


def test_stages_wider_than_the_class():
    with pytest.raises(Refused, match="narrower"):
        choose_stages([[width(nodes=4)]], [2], 4, 8, [[0.0]])


@pytest.mark.parametrize("nodes", [[], [1, 1], [-1]])
def test_impossible_nodes(nodes):
    with pytest.raises(InvalidSpec):
        choose_stages([[width()]], nodes, 4, 8, [[0.0]])


def test_the_same_plan_under_any_hash_seed():
    code = (
        "from tuner.training.placement import *;"
        "w=[[Width(name=n,tp=8,nodes=k,layer_s=t/k**.9,memory_bytes=9.*k,layer_bytes=1.) for k in (1,2)]"
        " for n,t in (('a',1.),('b',1.),('c',2.))];"
        "p=choose_stages(w,[3,3,3],24,8,[[.1]*3]*3);print(p.classes,p.layers,[x.tp for x in p.widths],p.iteration_s)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(seen) == 1
