"""Finds the fastest parallel plan that a framework can launch and that fits, with a proof or a bound.

Belongs here: the space, its bounds, the search and what explains its answer. Does not belong here: what a plan costs
(`iteration.py`, `memory.py`), command lines, HTTP.
"""

from tuner.training.planner.answer import Planner, TrainingAnswer
from tuner.training.planner.export import megatron_flags
from tuner.training.planner.question import PlanQuestion, read_question

__all__ = ["PlanQuestion", "Planner", "TrainingAnswer", "megatron_flags", "read_question"]
