"""Layers per stage: the optimum, against brute force and HiGHS."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec, Refused
from tuner.training.placement import StageClass, split

# Three classes: milliseconds and gigabytes keep the numbers as readable as seconds and bytes would be.
SPEED = {"h100": (1.0, 80.0), "a100": (2.6, 80.0), "v100": (6.5, 32.0)}
HOPS = [[0.2, 0.8, 1.6], [0.8, 0.4, 1.6], [1.6, 1.6, 1.6]]


def thirds(stages):
    counts = [stages // 3 + (index < stages % 3) for index in range(3)]
    return [
        StageClass(name=name, stages=count, layer_s=layer_s, memory_bytes=memory, layer_bytes=2.2)
        for (name, (layer_s, memory)), count in zip(SPEED.items(), counts, strict=True)
    ]


def simple(name="a", stages=1, layer_s=1.0, most=10, **more):
    return StageClass(name=name, stages=stages, layer_s=layer_s, memory_bytes=float(most), layer_bytes=1.0, **more)


def cost(classes, layers_per_stage, micro_batches, hops):
    stages = [index for index, each in enumerate(classes) for _ in range(each.stages)]
    last = len(stages) - 1
    times = [
        classes[index].extra_s(place == 0, place == last) + classes[index].layer_s * count
        for place, (index, count) in enumerate(zip(stages, layers_per_stage, strict=True))
    ]
    p2p = sum(hops[one][two] for one, two in itertools.pairwise(stages))
    return sum(times) + (micro_batches - 1) * max(times) + 2 * p2p


def brute_force(classes, layers, micro_batches, hops):
    stages = [each for each in classes for _ in range(each.stages)]
    count = len(stages)
    best = math.inf
    ranges = []
    for place, each in enumerate(stages):
        most = each.most_layers(min(micro_batches, count - place), place == 0, place == count - 1)
        ranges.append(range(1, min(most, layers) + 1))
    for counts in itertools.product(*ranges):
        if sum(counts) == layers:
            best = min(best, cost(classes, counts, micro_batches, hops))
    return best


@pytest.mark.parametrize(
    ("stages", "layers", "micro_batches", "want"), [(8, 96, 32, 859.8), (16, 96, 64, 932.7), (24, 128, 96, 1303.8)]
)
def test_mixed_h100_a100_v100(stages, layers, micro_batches, want):
    got = split(thirds(stages), layers, micro_batches, HOPS)
    assert got.iteration_s == pytest.approx(want, abs=0.05)
    assert sum(got.layers) == layers
    assert got.iteration_s == pytest.approx(cost(thirds(stages), got.layers, micro_batches, HOPS))
    assert got.exact and got.gap == 0.0


def test_equal_stages_give_the_textbook_formula():
    got = split([simple(stages=4, most=24)], 96, 12, [[0.0]])
    assert got.layers == (24, 24, 24, 24)
    assert got.iteration_s == pytest.approx((12 + 4 - 1) * 24.0)


def test_ends_take_layers_away_from_the_first_and_last_stage():
    got = split([simple(stages=4, most=99, first_s=2.0, last_s=6.0)], 32, 64, [[0.0]])
    assert got.layers == (8, 10, 10, 4)


def test_one_stage_carries_both_ends():
    got = split([simple(stages=1, most=99, first_s=2.0, last_s=6.0)], 5, 3, [[0.0]])
    assert got.stage_s == (13.0,) and got.iteration_s == 39.0


def test_activations_in_flight_shrink_the_front():
    each = StageClass(name="a", stages=4, layer_s=1.0, memory_bytes=60.0, layer_bytes=2.0, activation_bytes=1.0)
    got = split([each], 40, 2, [[0.0]])
    assert got.layers[0] <= 15 and got.iteration_s == brute_force([each], 40, 2, [[0.0]])
    deep = split([each], 44, 100, [[0.0]])
    assert deep.layers[0] <= 10 and max(deep.layers) == 12


class_ = st.builds(
    simple,
    stages=st.integers(1, 2),
    layer_s=st.sampled_from([0.5, 1.0, 1.7, 2.6, 6.5]),
    most=st.integers(1, 7),
    first_s=st.sampled_from([0.0, 0.6]),
    last_s=st.sampled_from([0.0, 2.1]),
    activation_bytes=st.sampled_from([0.0, 0.25]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(class_, min_size=1, max_size=3), st.integers(1, 9), st.sampled_from([1, 2, 8, 40]))
def test_brute_force_agrees(classes, layers, micro_batches):
    classes = [
        StageClass(**{name: getattr(each, name) for name in FIELDS} | {"name": str(index)})
        for index, each in enumerate(classes)
    ]
    hops = [[0.1 + abs(i - j) for j in range(len(classes))] for i in range(len(classes))]
    want = brute_force(classes, layers, micro_batches, hops)
    if math.isinf(want):
        with pytest.raises(Refused):
            split(classes, layers, micro_batches, hops)
    else:
        assert split(classes, layers, micro_batches, hops).iteration_s == pytest.approx(want, rel=1e-9)


FIELDS = (
    "name", "stages", "layer_s", "memory_bytes", "layer_bytes", "activation_bytes", "fixed_bytes", "first_s", "last_s",
    "first_bytes", "last_bytes",
)  # fmt: skip


def test_highs_agrees():
    optimize = pytest.importorskip("scipy.optimize")
    classes, layers, micro_batches = thirds(5), 24, 8
    stages = [each for each in classes for _ in range(each.stages)]
    count = len(stages)
    speed = np.array([each.layer_s for each in stages])
    most = np.array([each.most_layers(0.0, False, False) for each in stages])
    bottleneck = np.hstack([np.diag(speed), -np.ones((count, 1))])
    result = optimize.milp(
        np.append(speed, micro_batches - 1),
        integrality=np.append(np.ones(count), 0),
        bounds=optimize.Bounds(np.append(np.ones(count), 0.0), np.append(most, np.inf)),
        constraints=[
            optimize.LinearConstraint(bottleneck, -np.inf, 0.0),
            optimize.LinearConstraint(np.append(np.ones(count), 0.0), layers, layers),
        ],
    )
    assert result.success
    p2p = sum(HOPS[0][0:1]) + HOPS[0][1] + HOPS[1][1] + HOPS[1][2]
    assert split(classes, layers, micro_batches, HOPS).iteration_s == pytest.approx(result.fun + 2 * p2p, rel=1e-6)


def test_too_few_layers_of_room_says_which_class_is_nearest():
    classes = [simple("big", 2, 1.0, 10), simple("small", 4, 1.0, 3)]
    with pytest.raises(Refused) as caught:
        split(classes, 36, 8, [[0.0, 0.0], [0.0, 0.0]])
    assert caught.value.reason == "LayersDoNotFit"
    # Room for 32 of 36: one layer more on each of the four, or two on each of the two.
    assert "4 too few" in caught.value.message
    assert "small with 1 bytes more per device" in caught.value.message


def test_the_bytes_named_are_enough_and_no_fewer():
    with pytest.raises(Refused) as caught:
        split([simple("a", 3, 1.0, 10, activation_bytes=0.5)], 30, 8, [[0.0]])
    short = int(caught.value.message.split(" with ")[1].split(" bytes")[0])
    assert split([simple("a", 3, 1.0, 10 + short, activation_bytes=0.5)], 30, 8, [[0.0]]).layers
    with pytest.raises(Refused):
        split([simple("a", 3, 1.0, 10 + short - 1, activation_bytes=0.5)], 30, 8, [[0.0]])


def test_a_stage_without_room_for_one_layer_is_named():
    with pytest.raises(Refused) as caught:
        split([simple("a", 2, 1.0, 10), simple("b", 1, 1.0, 10, last_bytes=9.5)], 6, 8, [[0.0, 0.0], [0.0, 0.0]])
    assert caught.value.reason == "StageDoesNotFit"
    assert "stage 2 on b" in caught.value.message and "1 bytes short" in caught.value.message


def test_more_stages_than_layers():
    with pytest.raises(Refused, match="fewer stages"):
        split([simple(stages=5)], 4, 8, [[0.0]])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layer_s": 0.0}, "layer_s"),
        ({"layer_s": math.nan}, "layer_s"),
        ({"stages": 0}, "stages"),
        ({"memory_bytes": -1.0}, "memory_bytes"),
    ],
)
def test_impossible_numbers_name_the_field(change, field):
    record = {"name": "a", "stages": 1, "layer_s": 1.0, "memory_bytes": 9.0, "layer_bytes": 1.0} | change
    with pytest.raises(InvalidSpec) as caught:
        split([StageClass(**record)], 4, 8, [[0.0]])
    assert field in caught.value.field


def test_end_stages_may_hold_no_layer_where_that_is_allowed():
    got = split([simple(stages=3, most=20, last_s=30.0)], 16, 8, [[0.0]], least_layers=0)
    assert got.layers[2] == 0 and got.iteration_s == 16 + 30 + 7 * 30


def test_a_hop_matrix_of_the_wrong_shape():
    with pytest.raises(InvalidSpec, match="1 x 1"):
        split([simple()], 4, 8, [[0.0, 1.0]])
