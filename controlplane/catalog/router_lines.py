"""Command lines of routers, as their own argument parsers take them: sglang-router 0.3.2, vllm-router 0.1.17. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.model.routers import RouterName, RouterPolicy

ROUTER_PORT = 8000
_COMMANDS: Mapping[RouterName, tuple[str, ...]] = {
    "sglang-router": ("python3", "-m", "sglang_router.launch_router"),
    "vllm-router": ("vllm-router",),
}
_SPLIT_FLAGS: Mapping[RouterName, str] = {
    "sglang-router": "--pd-disaggregation",
    "vllm-router": "--vllm-pd-disaggregation",
}
_POLICIES: Mapping[RouterPolicy, str] = {
    "prefix-affinity": "cache_aware",
    "round-robin": "round_robin",
    "random": "random",
}
# Of two decode replicas at random the one with less to do: what vLLM's router documents for decode replicas.
_DECODE_POLICY = "power_of_two"


def router_args(name: RouterName, policy: RouterPolicy, *, split: bool, workers: tuple[str, ...]) -> list[str]:
    """Arguments of a router's program: where it listens, how it picks, and `workers`, how it finds replicas."""
    out = ["--host", "0.0.0.0", "--port", str(ROUTER_PORT)]  # noqa: S104 - a pod's own address
    if not split:
        return [*out, "--policy", _POLICIES[policy], *workers]
    picks = ["--prefill-policy", _POLICIES[policy], "--decode-policy", _DECODE_POLICY]
    return [*out, _SPLIT_FLAGS[name], *picks, *workers]


def router_program(name: RouterName) -> tuple[str, ...]:
    """How the router is started."""
    return _COMMANDS[name]
