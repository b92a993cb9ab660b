"""Which rank sits on which accelerator: tensor parallel groups inside a node, data parallel groups inside one NIC class.

Ranks count as in Megatron-LM: tensor parallel fastest, then context, data and pipeline parallel. Stages take the nodes
of their groups in order, so neighbours in a group are neighbours in the list, and a list sorted by rack or block keeps
them close. A ring of unlike NICs runs at its slowest link, which is why a data-parallel group that would cross NIC
classes is refused (Holmes, arXiv 2312.03549); the pipeline crosses them instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.model.errors import InvalidSpec, Refused

MAX_RANKS = 1 << 20
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Equal nodes in the order in which they are to be taken. `nic` None: unknown, equal to no other group's."""

    name: str
    nodes: int
    gpus_per_node: int
    nic: str | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RankMap:
    """Per rank: the group, the node in that group and the accelerator in that node."""

    group: _Ints
    node: _Ints
    gpu: _Ints

    def nodes_in_rank_order(self) -> list[tuple[int, int, int, int]]:
        """(group, node, first rank, ranks) of every run of ranks on one node: the order in which to start hosts."""
        places = np.stack((self.group, self.node), axis=1)
        starts = np.flatnonzero(np.any(places[1:] != places[:-1], axis=1)) + 1
        bounds = [0, *starts.tolist(), self.group.size]
        return [
            (int(self.group[low]), int(self.node[low]), low, high - low) for low, high in itertools.pairwise(bounds)
        ]


def rank_map(
    groups: Sequence[NodeGroup], stage_groups: Sequence[Sequence[int]], *, tp: int, dp: int, cp: int = 1
) -> RankMap:
    """Ranks of `len(stage_groups)` stages; the replicas of stage i take nodes of the groups `stage_groups[i]` in that
    order. Raises InvalidSpec, and Refused where a tensor parallel group would leave its node, a data-parallel group
    its NIC class, or the nodes do not suffice."""
    pp = len(stage_groups)
    _check(groups, stage_groups, tp, dp, cp)
    free = [each.nodes * (each.gpus_per_node // tp) for each in groups]  # tensor parallel groups that still fit
    taken = [0] * len(groups)
    group, slot = np.empty(pp * dp * cp, dtype=np.int64), np.empty(pp * dp * cp, dtype=np.int64)
    for stage, wanted in enumerate(stage_groups):
        at = stage * dp * cp
        missing = dp * cp
        for index in wanted:
            count = min(missing, free[index] - taken[index])
            group[at : at + count] = index
            slot[at : at + count] = np.arange(taken[index], taken[index] + count)
            taken[index] += count
            at, missing = at + count, missing - count
        if missing:
            names = ", ".join(groups[index].name for index in wanted)
            raise Refused(
                f"stage {stage} needs {missing * tp} accelerators more than {names} has left",
                code="NotEnoughAccelerators", field=f"stage_groups[{stage}]", value=dp * cp * tp,
                limit=f"{(dp * cp - missing) * tp}", hint="give fewer stages to this group, or a lower degree",
            )  # fmt: skip
    per_node = np.array([each.gpus_per_node // tp for each in groups])[group]
    ranks = np.arange(pp * dp * cp * tp)
    unit, local = ranks // tp, ranks % tp
    return RankMap(group=group[unit], node=(slot // per_node)[unit], gpu=(slot % per_node)[unit] * tp + local)


def _check(groups: Sequence[NodeGroup], stage_groups: Sequence[Sequence[int]], tp: int, dp: int, cp: int) -> None:
    for name, value in (("tp", tp), ("dp", dp), ("cp", cp), ("pp", len(stage_groups))):
        if value < 1:
            raise InvalidSpec("below 1", field=name, value=value, limit="1 or more")
    if tp * dp * cp * len(stage_groups) > MAX_RANKS:
        raise InvalidSpec("too many ranks", field="dp", value=tp * dp * cp * len(stage_groups), limit=str(MAX_RANKS))
    for index, each in enumerate(groups):
        if each.nodes < 0 or each.gpus_per_node < 1:
            raise InvalidSpec("not a group of nodes", field=f"groups[{index}]", value=(each.nodes, each.gpus_per_node))
    for stage, wanted in enumerate(stage_groups):
        path = f"stage_groups[{stage}]"
        known = all(0 <= index < len(groups) for index in wanted)
        if not wanted or not known or len(set(wanted)) != len(wanted):
            raise InvalidSpec("not groups of the list", field=path, value=list(wanted), limit=f"0 to {len(groups) - 1}")
        for index in wanted:
            if tp > groups[index].gpus_per_node:
                raise Refused(
                    f"a tensor parallel group of {tp} leaves its node in {groups[index].name}",
                    code="TensorParallelLeavesNode", field="tp", value=tp, limit=f"{groups[index].gpus_per_node}",
                    hint="lower the tensor parallel degree and raise the pipeline's",
                )  # fmt: skip
        if dp * cp > 1 and not _one_class(groups, wanted):
            raise Refused(
                f"the data-parallel group of stage {stage} would cross NIC classes: "
                + ", ".join(f"{groups[index].name} ({groups[index].nic or 'unknown'})" for index in wanted),
                code="DataParallelCrossesNics", field=path, value=list(wanted), limit="groups of one NIC class",
                hint="put the classes behind one another as pipeline stages",
            )  # fmt: skip


def _one_class(groups: Sequence[NodeGroup], wanted: Sequence[int]) -> bool:
    return len(set(wanted)) == 1 or len({groups[index].nic or index for index in wanted}) == 1
