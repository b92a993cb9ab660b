"""Training: predict iteration time and memory of a parallel plan.

Belongs here: memory, compute, collectives, schedules and their join (`iteration.py`), calibration on published runs
(`calibration/`). Does not belong here: Kubernetes, HTTP, command lines. Every formula takes numpy columns, one element
per configuration, so that one question and a million candidates run the same code.
"""
