"""What the replay simulates: replicas, the router in front of them, the link between prefill and decode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from controlplane.model.errors import InvalidSpec
from controlplane.model.plans import Role
from tuner.serving.replay.rules import EngineRules
from tuner.serving.step.table import StepTable

Router = Literal["random", "round-robin", "least-loaded", "prefix-affinity", "kv-aware"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Replica:
    """One engine. `kv_blocks` and `rules` hold for each attention-data-parallel rank; None: KV memory without end.

    A decode iteration makes 1 + `accepted_tokens` tokens per sequence (mean) and puts 1 + `draft_tokens` through the
    layers. Host time: `host_step_ms` per iteration and `host_sequence_ms` for each sequence in it; `request_ms` passes
    between a client's sending and the request's reaching the engine's queue, so it is part of TTFT and a closed loop's
    next request meets an engine that is already busy. Before that the front-end reads prompts one after the other,
    `entry_token_ms` for each of their tokens. `weight`: relative capacity, for routers that look at load.
    """

    table: StepTable
    rules: EngineRules
    kv_blocks: int | None = None
    role: Role = "aggregated"
    attention_ranks: int = 1
    pipeline_stages: int = 1
    draft_tokens: int = 0
    accepted_tokens: float = 0.0
    host_step_ms: float = 0.0
    host_sequence_ms: float = 0.0
    request_ms: float = 0.0
    entry_token_ms: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (
            ("attention_ranks", 1), ("pipeline_stages", 1), ("draft_tokens", 0), ("accepted_tokens", 0.0),
            ("host_step_ms", 0.0), ("host_sequence_ms", 0.0), ("request_ms", 0.0), ("entry_token_ms", 0.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not math.isfinite(value):
                raise InvalidSpec("is no number", field=name, value=value, limit=f"{least} or more")
            if value < least:
                raise InvalidSpec("too small", field=name, value=value, limit=f"{least} or more")
        for name, most in (("attention_ranks", 4096), ("pipeline_stages", 1024), ("draft_tokens", 256)):
            value = getattr(self, name)
            if value > most:
                raise InvalidSpec("too large", field=name, value=value, limit=f"up to {most}")
        if self.kv_blocks is not None and self.kv_blocks < 1:
            raise InvalidSpec("no KV memory", field="kv_blocks", value=self.kv_blocks, limit="1 or more")
        if self.accepted_tokens > self.draft_tokens:
            raise InvalidSpec(
                "more tokens accepted than drafted", field="accepted_tokens", value=self.accepted_tokens,
                limit=f"up to {self.draft_tokens}",
            )  # fmt: skip
        if not 0 < self.weight < math.inf:
            raise InvalidSpec("no capacity", field="weight", value=self.weight, limit="above 0, finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLink:
    """What carries KV from a prefill replica: each has one such link and sends one prompt at a time."""

    bytes_per_token: float
    bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("bytes_per_token", "latency_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InvalidSpec("out of range", field=f"link.{name}", value=value, limit="0 or more, finite")
        if not 0 < self.bytes_per_s < math.inf:
            raise InvalidSpec(
                "a link must carry something", field="link.bytes_per_s", value=self.bytes_per_s, limit="above 0, finite"
            )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Fleet:
    """Replicas behind a router. With prefill and decode roles, prompts go to the prefill replicas (by `router`) and,
    with their KV, over `link` to the decode replicas (by `decode_router`); aggregated replicas then take none."""

    replicas: tuple[Replica, ...]
    router: Router = "random"
    decode_router: Router = "least-loaded"
    link: KvLink | None = None

    def __post_init__(self) -> None:
        roles = {replica.role for replica in self.replicas}
        if not self.replicas:
            raise InvalidSpec("no replicas", field="replicas", limit="1 or more")
        if roles not in ({"aggregated"}, {"prefill", "decode"}):
            raise InvalidSpec(
                "roles do not go together", field="replicas", value=sorted(roles),
                limit="all aggregated, or prefill and decode",
            )  # fmt: skip
        if "prefill" in roles and self.link is None:
            raise InvalidSpec("prefill and decode replicas need a link for the KV cache", field="link")
