"""The room that predicts, searches and measures.

Belongs here: latency and memory models, replay, calibration, planners, measurement. Does not belong here: anything
that changes a cluster or knows Kubernetes. Imports: the floor (`controlplane.model`, `controlplane.catalog`).
"""
