"""Replay: a deterministic event simulation of engine iterations.

Belongs here: arrivals, admission rules of each engine as data, KV blocks, routers, the compiled kernel and its plain
Python oracle, per-request records. Does not belong here: how long a step takes (`step/`), what to deploy (`planner/`).
"""
