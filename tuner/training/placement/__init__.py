"""Pipeline stages on unlike devices: order of the classes, the slowest stage at least, ranks on nodes.

`order` (which class comes first), `bound` (what no split of layers can beat), `ranks` (who sits where). Belongs here:
pure functions of times and sizes. Does not belong here: where those come from (`memory`, `compute`), layers per stage
(`planner.mixed` steps through every plan), reading a cluster, launching.
"""

from tuner.training.placement.bound import least_bottleneck
from tuner.training.placement.order import Links, best_path, hop_matrix
from tuner.training.placement.ranks import NodeGroup, RankMap, rank_map

__all__ = ["Links", "NodeGroup", "RankMap", "best_path", "hop_matrix", "least_bottleneck", "rank_map"]
