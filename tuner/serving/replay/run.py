"""Replay requests against a fleet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controlplane.model.errors import Unsupported
from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.fleet import Fleet
from tuner.serving.replay.load import compiled_replay
from tuner.serving.replay.pack import Packed, pack
from tuner.serving.replay.requests import Requests
from tuner.serving.replay.result import ReplayResult, ReplicaUse, Timeline


def simulate(fleet: Fleet, requests: Requests, *, seed: int = 0) -> ReplayResult:
    """What each request experiences. Pure: the same arguments give the same result in every process. `seed` is the
    random router's."""
    packed = pack(fleet, requests, seed=seed)
    left = compiled_replay()(packed.m, packed.f)
    if left == at.FOREIGN:
        raise Unsupported(
            "the replay's machine code was compiled from other sources", field="tuner.serving.replay",
            hint="start the process again; if that does not help, empty the folder that NUMBA_CACHE_DIR names",
        )  # fmt: skip
    if left:
        raise AssertionError(f"replay ended with {left} requests neither answered nor refused")
    return _result(fleet, requests, packed)


def _result(fleet: Fleet, requests: Requests, packed: Packed) -> ReplayResult:
    rows, times = packed.requests, packed.times
    refused = rows[:, at.STATE] == at.REJECTED
    end = times[:, at.DONE]
    if refused.any():
        times[refused, at.FIRST : at.DONE + 1] = np.nan
        times[times[:, at.SCHEDULED] == at.FAR, at.SCHEDULED] = np.nan
    span_s = float(np.nanmax(end)) if not refused.all() else 0.0
    uses = []
    for r, replica in enumerate(fleet.replicas):
        row, spent = packed.replicas[r], packed.rates[r]
        busy = float(spent[at.PREFILL_TIME] + spent[at.MIXED_TIME] + spent[at.DECODE_TIME])
        line = packed.timelines[r, : row[at.LINE_N]].copy()
        uses.append(
            ReplicaUse(
                iterations=int(row[at.ITERATIONS]), prefill_s=float(spent[at.PREFILL_TIME]),
                mixed_s=float(spent[at.MIXED_TIME]), decode_s=float(spent[at.DECODE_TIME]),
                idle_s=max(0.0, span_s - busy), context_tokens=int(row[at.CONTEXT_TOKENS]),
                decode_tokens=int(row[at.DECODE_TOKENS]),
                kv_fraction_peak=None if replica.kv_blocks is None else float(row[at.PEAK] / row[at.BLOCKS]),
                timeline=Timeline(line[:, 0], line[:, 1], line[:, 2], line[:, 3]),
            )
        )  # fmt: skip
    return ReplayResult(
        isl=requests.isl, osl=requests.osl, arrival_s=times[:, at.ISSUED].copy(),
        scheduled_s=times[:, at.SCHEDULED].copy(), first_token_s=times[:, at.FIRST].copy(), done_s=end.copy(),
        replica=_index(rows[:, at.REPLICA], packed), decode_replica=_index(rows[:, at.DECODER], packed),
        preemptions=rows[:, at.PREEMPTED].copy(), prefix_hit_tokens=rows[:, at.HIT].copy(), refused=refused,
        replicas=tuple(uses), span_s=span_s,
        tenant=requests.tenant,
        tenants=requests.tenants,
    )  # fmt: skip


def _index(addresses: NDArray[np.int64], packed: Packed) -> NDArray[np.int64]:
    """Replica numbers from their addresses; -1 stays."""
    return np.where(addresses < 0, -1, (addresses - packed.m[at.REPLICAS_AT]) // at.REPLICA_INTS)
