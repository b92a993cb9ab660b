"""Units as replicas of the replay, and the drawn traffic as its requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from controlplane.catalog import load
from controlplane.catalog.params import kv_bytes_of_request
from controlplane.model.plans import Role
from tuner.serving.memory import MemoryBudget, memory_budget
from tuner.serving.planner.load import Draws, Floats
from tuner.serving.planner.schedulers import is_small
from tuner.serving.planner.shape import Scheduler, Shape, Unit
from tuner.serving.replay.fleet import KvLink
from tuner.serving.replay.requests import Requests
from tuner.serving.replay.rules import EngineRules, rules_with_knobs
from tuner.serving.step.roofline_formats import resolve_formats
from tuner.serving.step.roofline_links import links_of
from tuner.serving.step.table import StepTable

# Requests of a replay. At least so many that a percentile has some 20 beyond it, and several times as many as run at
# once: a replay starts from an empty engine, and the filling must not be what is measured.
_LEAST = 1_000
_LEAST_P99 = 2_000
_TURNS = 5.0
_OPENVINO_CACHE_BYTES = 2**30  # the embedded engine's cache when no setting sizes it


def memory_of(shape: Shape, scheduler: Scheduler, sequence_tokens: int) -> MemoryBudget:
    """Memory of one rank with the engine's default share of the device. Raises TrimtabError."""
    return memory_budget(
        shape.case, max_num_tokens=scheduler.max_num_batched_tokens, sequence_tokens=max(sequence_tokens, 1)
    )


def kv_tokens_of(shape: Shape, budget: MemoryBudget) -> float | None:
    """Tokens that the KV cache of one rank holds; None where the device's memory is unknown."""
    if shape.case.engine == "openvino":
        return _OPENVINO_CACHE_BYTES / budget.kv_bytes_per_token
    return None if budget.kv_tokens is None else float(budget.kv_tokens)


def rules_of(unit: Unit) -> EngineRules:
    """Admission rules of one rank with the unit's settings."""
    scheduler = unit.scheduler
    rules = rules_with_knobs(unit.shape.case.engine, {}, small_device=is_small(unit.shape.accelerator))
    chunked = rules.chunked if scheduler.chunked is None else scheduler.chunked
    tokens = scheduler.max_num_batched_tokens
    sequences = rules.max_sequences if unit.shape.case.engine == "openvino" else scheduler.max_num_seqs
    return replace(rules, token_budget=tokens, prefill_budget=tokens, max_sequences=sequences, chunked=chunked)


def link_of(prefill: Shape, tokens: int) -> KvLink:
    """What carries KV away from a prefill replica: the network between nodes, each accelerator with its share."""
    catalog = load()
    links = links_of(prefill.case, prefill.accelerator, catalog)
    formats = resolve_formats(
        prefill.model,
        prefill.accelerator,
        prefill.case.engine,
        gemm=prefill.case.gemm_quant,
        moe=prefill.case.moe_quant,
        kv=prefill.case.kv_quant,
    )
    return KvLink(
        bytes_per_token=kv_bytes_of_request(prefill.model, tokens, formats.kv_bytes) / tokens,
        bytes_per_s=links.far.bytes_per_s * prefill.case.accelerators,
        latency_s=links.far.latency_ms / 1e3,
    )


def no_time(table: StepTable) -> StepTable:
    """The same table with next to no time in it: stands in for the role that is not looked at."""
    return replace(
        table,
        context_ms=table.context_ms * 1e-6,
        decode_ms=table.decode_ms * 1e-6,
        context_attention_ms=table.context_attention_ms * 1e-6,
        decode_attention_ms=table.decode_attention_ms * 1e-6,
    )


def requests_of(draws: Draws, load_: float, running: float, *, tail: bool, role: Role = "aggregated") -> Requests:
    """The first requests of the drawn traffic at a load. `running`: requests that run at once, about; `tail`: whether a
    99th percentile is asked for."""
    least = _LEAST_P99 if tail else _LEAST
    drawn = len(draws.input_tokens)
    if draws.clients is not None:
        count = min(drawn, max(least, int(_TURNS * load_)))
        return _some(draws, np.arange(count), None, clients=max(1, int(load_)), role=role)
    assert draws.at is not None and draws.rate_per_second is not None
    count = max(least, int(_TURNS * running))
    if draws.in_turns:
        every = max(1, round(draws.rate_per_second / load_))
        turns = np.arange(0, drawn, every)[:count]
        return _some(draws, turns, draws.at[turns] / (every * load_), clients=None, role=role)
    if draws.thin is None:
        count = min(drawn, count)
        return _some(draws, np.arange(count), draws.at[:count] / load_, clients=None, role=role)
    share = min(1.0, load_ / draws.rate_per_second)
    kept = np.flatnonzero(draws.thin < share)[:count]
    if len(kept) == 0:
        kept = np.arange(1)
    return _some(draws, kept, draws.at[kept] * (share / load_), clients=None, role=role)


def whole_trace(draws: Draws) -> Requests:
    """Every request of a trace at its own time."""
    assert draws.at is not None and draws.rate_per_second is not None
    rows = np.arange(len(draws.input_tokens))
    return _some(draws, rows, draws.at / draws.rate_per_second, clients=None, role="aggregated")


def _some(draws: Draws, rows: NDArray[np.intp], at: Floats | None, *, clients: int | None, role: Role) -> Requests:
    isl, osl = draws.input_tokens[rows], draws.output_tokens[rows]
    if role == "prefill":
        osl = np.ones_like(osl)  # its part ends with the first token
    arrival = np.zeros(len(rows)) if at is None else np.ascontiguousarray(at)
    if draws.shared_prefix <= 0 or role == "decode":
        return Requests(arrival_s=arrival, isl=isl, osl=osl, clients=clients)
    covers = isl > draws.shared_prefix
    return Requests(
        arrival_s=arrival,
        isl=isl,
        osl=osl,
        clients=clients,
        group=np.where(covers, 0, -1).astype(np.int64),
        segment_offsets=np.concatenate(([0], np.cumsum(covers))).astype(np.int64),
        segment_ids=np.zeros(int(covers.sum()), np.int64),
        segment_ends=np.array([draws.shared_prefix], np.int64),
        segment_parents=np.array([-1], np.int64),
    )
