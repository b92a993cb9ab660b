"""The planner: which deployment to run.

Belongs here: the space of deployments, memory limits, the static prefilter, goodput search over replays, reasons, Pareto
fronts. Does not belong here: prediction itself, Kubernetes, placement on nodes.
"""

from tuner.serving.planner.installation import Installation
from tuner.serving.planner.plan import Planner, plan

__all__ = ["Installation", "Planner", "plan"]
