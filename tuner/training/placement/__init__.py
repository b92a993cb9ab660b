"""Pipeline stages on unlike devices: layers per stage, order of the classes, width of each stage, ranks on nodes.

`split` (given stages), `order` (which class comes first), `stages` (how many stages and how wide), `ranks` (who sits
where), `bound` (what no placement can beat). Belongs here: pure functions of times and sizes. Does not belong here:
where those come from (`memory`, `compute`), reading a cluster, launching.
"""

from tuner.training.placement.bound import lower_bounds_s, widths_bound_s
from tuner.training.placement.order import Links, best_path, hop_matrix, place
from tuner.training.placement.problem import Placement, StageClass, StagePlan, Width
from tuner.training.placement.ranks import NodeGroup, RankMap, rank_map
from tuner.training.placement.split import split
from tuner.training.placement.stages import choose_stages

__all__ = [
    "Links",
    "NodeGroup",
    "Placement",
    "RankMap",
    "StageClass",
    "StagePlan",
    "Width",
    "best_path",
    "choose_stages",
    "hop_matrix",
    "lower_bounds_s",
    "place",
    "rank_map",
    "split",
    "widths_bound_s",
]
