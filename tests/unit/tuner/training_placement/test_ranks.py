"""Ranks on nodes: what must stay together does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec, Refused
from tuner.training.placement import NodeGroup, rank_map

IB = NodeGroup(name="ib", nodes=4, gpus_per_node=8, nic="ib-hdr-200")
ROCE = NodeGroup(name="roce", nodes=4, gpus_per_node=8, nic="roce-200")


def test_by_hand():
    got = rank_map([IB, ROCE], [[0], [1]], tp=4, dp=2)
    assert got.group.tolist() == [0] * 8 + [1] * 8
    assert got.node.tolist() == [0] * 16
    assert got.gpu.tolist() == list(range(8)) * 2
    assert got.nodes_in_rank_order() == [(0, 0, 0, 8), (1, 0, 8, 8)]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.lists(st.sampled_from([0, 1]), min_size=1, max_size=4),
)
def test_every_group_stays_where_it_must(tp, dp, cp, stages):
    groups = [
        NodeGroup(name="a", nodes=32, gpus_per_node=8, nic="ib-hdr-200"),
        NodeGroup(name="b", nodes=32, gpus_per_node=12, nic="roce-200"),
    ]
    got = rank_map(groups, [[each] for each in stages], tp=tp, dp=dp, cp=cp)
    seats = set(zip(got.group.tolist(), got.node.tolist(), got.gpu.tolist(), strict=True))
    assert len(seats) == got.group.size == tp * dp * cp * len(stages)
    # Megatron-LM's order: tensor fastest, then context, data, pipeline.
    grid = np.arange(got.group.size).reshape(len(stages), dp, cp, tp)
    for ranks in grid.reshape(-1, tp):
        assert len(set(zip(got.group[ranks].tolist(), got.node[ranks].tolist(), strict=True))) == 1
    for stage, ranks in zip(stages, grid.reshape(len(stages), -1), strict=True):
        assert set(got.group[ranks].tolist()) == {stage}
    for index, each in enumerate(groups):
        assert (got.gpu[got.group == index] < each.gpus_per_node).all()
        assert (got.node[got.group == index] < each.nodes).all()


def test_replicas_of_a_stage_may_mix_accelerators_behind_one_nic_class():
    other = NodeGroup(name="ib-old", nodes=1, gpus_per_node=8, nic="ib-hdr-200")
    got = rank_map([other, IB], [[0, 1]], tp=8, dp=3)
    assert got.group.tolist() == [0] * 8 + [1] * 16


def test_data_parallel_across_nic_classes_is_refused():
    with pytest.raises(Refused) as caught:
        rank_map([IB, ROCE], [[0, 1]], tp=8, dp=8)
    assert caught.value.reason == "DataParallelCrossesNics"
    assert "ib-hdr-200" in caught.value.message and "pipeline stages" in caught.value.hint


def test_unknown_nics_are_equal_to_none():
    unknown = [NodeGroup(name=name, nodes=1, gpus_per_node=8, nic=None) for name in "ab"]
    with pytest.raises(Refused, match="unknown"):
        rank_map(unknown, [[0, 1]], tp=8, dp=2)


def test_tensor_parallel_larger_than_a_node():
    with pytest.raises(Refused) as caught:
        rank_map([IB], [[0]], tp=16, dp=1)
    assert caught.value.reason == "TensorParallelLeavesNode" and caught.value.limit == "8"


def test_nodes_that_do_not_suffice_say_by_how_many():
    with pytest.raises(Refused) as caught:
        rank_map([IB], [[0], [0], [0]], tp=8, dp=2)
    assert "stage 2 needs 16 accelerators more than ib has left" in caught.value.message


def test_a_remainder_of_a_node_stays_idle():
    six = NodeGroup(name="six", nodes=2, gpus_per_node=6, nic="eth-25")
    got = rank_map([six], [[0]], tp=4, dp=2)
    assert got.node.tolist() == [0] * 4 + [1] * 4
    with pytest.raises(Refused):
        rank_map([six], [[0]], tp=4, dp=3)


@pytest.mark.parametrize("stages", [[], [[]], [[7]], [[0, 0]]])
def test_stages_on_groups_that_are_not_there(stages):
    with pytest.raises(InvalidSpec):
        rank_map([IB], stages, tp=1, dp=1)
