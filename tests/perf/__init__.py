"""Benchmarks. One module `bench_<name>` per bench, each with `run(emit)`; they report and never judge.

`python -m tests.perf NAME` prints one JSON object per figure and line. Targets come from the issue that asked
for the figure and are repeated in each line so that a reader needs no second source.
"""
