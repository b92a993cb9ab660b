"""Step tables, fleets and requests of the replay's tests: small, odd, and mixed."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from controlplane.model.plans import Provenance
from tuner.serving.replay.fleet import Fleet, KvLink, Replica
from tuner.serving.replay.requests import Requests
from tuner.serving.replay.rules import EngineRules, default_rules
from tuner.serving.step.table import StepTable

ENGINES = ("vllm", "sglang", "trtllm-serve", "openvino")
ROUTERS = ("random", "round-robin", "least-loaded", "prefix-affinity", "kv-aware")


def axis(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


def table(scale: float = 1.0) -> StepTable:
    """Shaped like a 70B model on eight accelerators; the knots are few, so that runs cross them."""
    t = axis(1, 16, 64, 256, 1024, 2048, 4096, 8192, 16384)
    g = axis(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    b = axis(1, 2, 4, 8, 16)
    n = axis(1, 16, 128, 1024, 4096, 16384)
    p = axis(0, 1024, 8192, 65536)
    k = axis(16, 37, 128, 512, 1024, 2048, 4096, 8192, 16384, 65536)
    context = b[:, None, None] * n[None, :, None] * (p[None, None, :] + n[None, :, None] / 2)
    return StepTable(
        context_tokens=t,
        context_ms=scale * (9 + 0.035 * t),
        decode_sequences=g,
        decode_ms=scale * (9 + 0.01 * g + 0.2 * np.sqrt(g)),
        context_attention_batch=b,
        context_attention_new=n,
        context_attention_past=p,
        context_attention_ms=scale * (0.1 + 1e-6 * context),
        decode_attention_sequences=g,
        decode_attention_kv=k,
        decode_attention_ms=scale * (0.2 + 3e-6 * g[:, None] * k[None, :] ** 1.02),
        provenance=Provenance(tier="roofline", source="test"),
    )


def one(rules: EngineRules | None = None, **settings: object) -> Fleet:
    """A fleet of one replica."""
    return Fleet(replicas=(Replica(table=table(), rules=rules or default_rules("vllm"), **settings),))  # type: ignore[arg-type]


def mixed_case(number: int) -> tuple[Fleet, Requests, int]:
    """A fleet and requests drawn from everything the replay knows. The same number, the same case."""
    r = random.Random(number)
    requests = mixed_requests(r)
    if r.random() < 0.25:
        roles = ["prefill"] * r.randint(1, 2) + ["decode"] * r.randint(1, 2)
    else:
        roles = ["aggregated"] * r.choice((1, 1, 2, 3))
    longest = int((requests.isl + requests.osl).max())
    fleet = Fleet(
        replicas=tuple(mixed_replica(r, role, longest) for role in roles),
        router=r.choice(ROUTERS),  # type: ignore[arg-type]
        decode_router=r.choice(("random", "round-robin", "least-loaded")),  # type: ignore[arg-type]
        link=KvLink(bytes_per_token=131072.0, bytes_per_s=r.choice((1e9, 5e10)), latency_s=0.001)
        if "decode" in roles
        else None,
    )
    return fleet, requests, r.randint(0, 1000)


def mixed_replica(r: random.Random, role: str, longest: int) -> Replica:
    engine = r.choice(ENGINES)
    rules = default_rules(engine)  # type: ignore[arg-type]
    rules = replace(
        rules,
        token_budget=r.choice((64, 256, 2048)) if rules.chunked else max(2048, longest),
        prefill_budget=r.choice((64, 512, 2048)) if rules.chunked else max(2048, longest),
        max_sequences=r.choice((3, 16, 64)),
        block_tokens=r.choice((1, 16, 32)) if engine != "vllm" else 16,
        prefix_caching=r.random() < 0.6,
        watermark=r.choice((0.0, 0.01)),
        priorities=r.random() < 0.3,
        long_prompt_tokens=r.choice((None, None, 48)) if rules.chunked else None,
        max_partial_prefills=r.choice((None, 1, 2)) if rules.chunked else None,
        host_overlapped=r.random() < 0.2,
        planned_ahead=r.random() < 0.5,
        receive_every=r.choice((1, 1, 1, 10)),
        wait_iterations=r.choice((0, 0, 0, 5)),
        wait_tokens=1000,
        balance_iterations=r.choice((0, 0, 4)),
    )
    draft = r.choice((0, 0, 0, 3))
    tight = -(-(longest + 8) // rules.block_tokens)  # blocks of the longest request
    return Replica(
        table=table(r.uniform(0.5, 2.0)),
        rules=rules,
        kv_blocks=r.choice((None, tight + r.randint(0, tight), 4 * tight, max(1, tight // 2))),
        role=role,  # type: ignore[arg-type]
        attention_ranks=r.choice((1, 1, 1, 2, 3)),
        pipeline_stages=r.choice((1, 1, 1, 2)),
        draft_tokens=draft,
        accepted_tokens=draft * r.choice((0.0, 0.4, 1.0)),
        host_step_ms=r.choice((0.0, 0.7)),
        host_sequence_ms=r.choice((0.0, 0.01)),
        request_ms=r.choice((0.0, 0.0, 12.5)),
        entry_token_ms=r.choice((0.0, 0.0, 0.02)),
        weight=r.choice((1.0, 2.0)),
    )


def mixed_requests(r: random.Random) -> Requests:
    n = r.randint(1, 70)
    rng = np.random.default_rng(r.randint(0, 1 << 30))
    longest_in, longest_out = r.choice((8, 200, 1500)), r.choice((1, 30, 200))
    isl = rng.integers(1, longest_in + 1, n, dtype=np.int64)
    osl = rng.integers(1, longest_out + 1, n, dtype=np.int64)
    clients = r.choice((None, 1, 4, 32))
    arrival = np.sort(rng.random(n) * r.choice((0.0, 1.0, 20.0)))
    extra: dict[str, object] = {}
    if r.random() < 0.5:
        isl, extra = with_segments(r, isl, osl)
    return Requests(
        arrival_s=arrival, isl=isl, osl=osl, clients=clients,
        priority=rng.integers(0, 3, n) if r.random() < 0.5 else None, **extra,  # type: ignore[arg-type]
    )  # fmt: skip


def with_segments(
    r: random.Random, isl: NDArray[np.int64], osl: NDArray[np.int64]
) -> tuple[NDArray[np.int64], dict[str, object]]:
    """A few shared system prompts; behind them sessions whose turns build on each other."""
    heads = [r.randint(1, 300) for _ in range(r.randint(1, 3))]
    ends, parents = list(heads), [-1] * len(heads)
    sessions: dict[int, list[int]] = {}
    offsets, ids, own, groups, lengths = [0], [], [], [], []
    for i in range(isl.size):
        session = r.randint(0, max(1, isl.size // 3))
        head = session % len(heads)
        chain = sessions.setdefault(session, [head])
        lengths.append(max(1, ends[chain[-1]] + int(isl[i]) % 90))
        ids += chain
        offsets.append(len(ids))
        groups.append(head)
        ends.append(lengths[-1] + int(osl[i]) - 1)
        parents.append(chain[-1])
        own.append(len(ends) - 1)
        sessions[session] = [*chain, own[-1]]
    whole = np.int64
    return np.array(lengths, whole), {
        "group": np.array(groups, whole), "segment_offsets": np.array(offsets, whole),
        "segment_ids": np.array(ids, whole), "segment_ends": np.array(ends, whole),
        "segment_parents": np.array(parents, whole), "own_segment": np.array(own, whole),
    }  # fmt: skip
