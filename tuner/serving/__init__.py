"""Serving: predict percentiles before deploying, and plan the deployment.

Belongs here: step times (`step/`), the replay of engine iterations (`replay/`), calibration and intervals
(`calibration/`), energy and cost, memory, the planner (`planner/`). Does not belong here: Kubernetes, HTTP, command
lines. Heavy libraries (numba, the table package) are imported where they are called, never at import time.
"""
