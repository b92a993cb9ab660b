"""From a workload to the requests of one run. Pure: the same workload, count and seed give the same requests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.plans import Workload
from tuner.serving.replay.requests import Requests, closed_loop, gamma_times, open_loop
from tuner.serving.replay.traces import read_trace

Rows = tuple[tuple[float, int, int], ...]


def rows_of(load: Workload, count: int, seed: int) -> Rows:
    """`count` requests: (seconds from the start, prompt tokens, output tokens). A trace gives its first `count`; its
    times are its own. Raises InvalidSpec or Unsupported with the field of the workload."""
    requests = requests_of(load, count, seed)
    times = requests.arrival_s - (requests.arrival_s[0] if load.arrivals == "trace" else 0.0)
    return tuple(
        (float(at_s), int(isl), int(osl))
        for at_s, isl, osl in zip(times, requests.isl, requests.osl, strict=True)
    )  # fmt: skip


def run_seed(trial_seed: int, run: int) -> int:
    """Trials with one seed send the same requests in their first run, the same in their second, and so on: pairs."""
    return int.from_bytes(hashlib.sha256(f"{trial_seed}:{run}".encode()).digest()[:4], "little") >> 1


def requests_of(load: Workload, count: int, seed: int) -> Requests:
    """The same requests for the replay. Raises as `rows_of`."""
    if load.arrivals == "trace":
        assert load.trace is not None
        trace = read_trace(Path(load.trace), limit=count)
        if len(trace) < count:
            raise InvalidSpec(
                "the trace is shorter than a run", field="load.trace", value=len(trace), limit=f"{count} requests or more",
                hint="lower measuring.requests or give a longer trace",
            )  # fmt: skip
        return trace
    assert load.input is not None and load.output is not None
    lengths = {
        "isl": load.input.tokens, "osl": load.output.tokens,
        "isl_range": load.input.range_ratio, "osl_range": load.output.range_ratio,
        "shared_prefix": load.shared_prefix_tokens, "seed": seed,
    }  # fmt: skip
    if load.arrivals == "closed":
        assert load.concurrency is not None
        return closed_loop(load.concurrency, count, **lengths)  # type: ignore[arg-type]
    assert load.rate_per_second is not None
    if load.arrivals == "burst":
        raise Unsupported(
            "burst arrivals have no burst size here", field="load.arrivals", value="burst",
            limit="constant, poisson, gamma, closed, trace", hint="use gamma with a cv above 1",
        )  # fmt: skip
    cv = 1.0 if load.arrivals == "poisson" else load.cv
    return open_loop(gamma_times(load.rate_per_second, cv, count, seed=seed), **lengths)  # type: ignore[arg-type]


def constant_rows(rate_per_s: float, count: int, prompt_tokens: int, output_tokens: int) -> Rows:
    """Evenly spaced requests of one size."""
    return tuple((index / rate_per_s, prompt_tokens, output_tokens) for index in range(count))


def digest(rows: Rows, load: Workload, seed: int) -> str:
    """Names the requests of a run: the same digest, the same bytes were sent."""
    text = json.dumps([np.asarray(rows).tolist(), load.model_dump(mode="json"), seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
