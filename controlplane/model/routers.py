"""Routers: their names, how they pick a replica, and what an installation says of those it has. No pydantic: read at start."""

from dataclasses import dataclass
from typing import Literal

# What stands in front. service: kube-proxy, a ready replica at random. The routers are other people's programs:
# sglang-router (SGLang Model Gateway), vllm-router (a fork of it that also knows vLLM's prefill and decode roles), and
# the Gateway API inference extension, whose endpoint picker a gateway asks.
RouterName = Literal["service", "sglang-router", "vllm-router", "gateway-inference-extension"]

# By what a replica is picked; the replay has the same words.
RouterPolicy = Literal["random", "round-robin", "least-loaded", "prefix-affinity", "kv-aware"]

# What each offers, its default first. The endpoint picker's is fixed by its own configuration: as released it scores
# queue, KV cache use and cached prefix, which the replay's kv-aware stands for.
OFFERED: dict[RouterName, tuple[RouterPolicy, ...]] = {
    "service": ("random",),
    "sglang-router": ("prefix-affinity", "round-robin", "random"),
    "vllm-router": ("prefix-affinity", "round-robin", "random"),
    "gateway-inference-extension": ("kv-aware",),
}

# Routers that send a request to a prefill and then to a decode replica, and of which engine.
SPLITS: dict[RouterName, str] = {"sglang-router": "sglang", "vllm-router": "vllm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledRouter:
    """A router of this installation. `image` and `service_account` (one that may watch pods, in the deployment's own
    namespace) are those of a router that Trimtab starts; `gateway` (NAMESPACE/NAME) and `domain` (host names are made
    below it) are those of the inference extension. `missing`: why it cannot be used after all."""

    image: str | None = None
    service_account: str = "trimtab-router"
    gateway: str | None = None
    domain: str | None = None
    missing: str | None = None
