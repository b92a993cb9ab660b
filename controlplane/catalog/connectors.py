"""KV connectors: how the prefill and decode replicas of an engine hand over the cache. Facts, each with its document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Connector:
    """`args` by role. `host_variable`: told the address by which the other role finds this pod. `port`: where they
    meet; `port_variable` names it where no flag does. `port_annotation` tells it to a router, on prefill pods."""

    args: Mapping[str, tuple[str, ...]]
    port: int
    host_variable: str | None = None
    port_variable: str | None = None
    port_annotation: str | None = None


def _nixl(kv_role: str) -> tuple[str, ...]:
    return ("--kv-transfer-config", f'{{"kv_connector":"NixlConnector","kv_role":"{kv_role}"}}')


def _sglang(mode: str) -> tuple[str, ...]:
    return (
        *("--disaggregation-mode", mode, "--disaggregation-transfer-backend", "nixl"),
        *("--disaggregation-bootstrap-port", "8998"),
    )


CONNECTORS: Mapping[str, Connector] = MappingProxyType(
    {
        # vLLM documentation, "NixlConnector Usage Guide": both roles listen on VLLM_NIXL_SIDE_CHANNEL_PORT (5600, and one
        # more for each data parallel rank) and announce VLLM_NIXL_SIDE_CHANNEL_HOST, which is localhost unless set.
        "vllm": Connector(
            MappingProxyType({"Prefill": _nixl("kv_producer"), "Decode": _nixl("kv_consumer")}),
            port=5600,
            host_variable="VLLM_NIXL_SIDE_CHANNEL_HOST",
            port_variable="VLLM_NIXL_SIDE_CHANNEL_PORT",
        ),
        # SGLang documentation, "PD Disaggregation", and sglang/srt/server_args.py: the prefill server's bootstrap port is
        # 8998 unless set; the router names it beside the prefill server's URL, and reads it from this annotation of the
        # pods that it discovers (sglang-router 0.3.2, router_args.py, bootstrap_port_annotation).
        "sglang": Connector(
            MappingProxyType({"Prefill": _sglang("prefill"), "Decode": _sglang("decode")}),
            port=8998,
            port_annotation="sglang.ai/bootstrap-port",
        ),
    }
)
