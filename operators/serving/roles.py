"""Prefill and decode replicas: what each engine's own KV connector needs on the command line and around it. Pure.

Rendered, not run here: the wire between the two roles needs accelerators. The requests' way through both is a router's
business, which finds the pods of both by their labels (`routers.py`).
"""

from __future__ import annotations

from typing import Any

from controlplane.catalog import Engine
from controlplane.catalog.connectors import CONNECTORS
from controlplane.model.errors import TrimtabError, Unsupported
from controlplane.model.roles import ReplicaRole


def role_args(engine: Engine, role: ReplicaRole) -> tuple[str, ...]:
    """Flags of a role; none for an aggregated replica."""
    return () if role == "Aggregated" else CONNECTORS[engine.id].args[role]


def role_env(engine: Engine, role: ReplicaRole) -> list[dict[str, Any]]:
    """Variables of a role's engine container."""
    if role == "Aggregated":
        return []
    connector = CONNECTORS[engine.id]
    env: list[dict[str, Any]] = []
    if connector.host_variable is not None:
        address = {"fieldRef": {"fieldPath": "status.podIP"}}
        env.append({"name": connector.host_variable, "valueFrom": address})
    if connector.port_variable is not None:
        env.append({"name": connector.port_variable, "value": str(connector.port)})
    return env


def role_ports(engine: Engine, role: ReplicaRole) -> list[dict[str, Any]]:
    """Ports of a role's engine container beside the API's."""
    if role == "Aggregated":
        return []
    return [{"name": "kv", "containerPort": CONNECTORS[engine.id].port, "protocol": "TCP"}]


def role_annotations(engine: Engine, role: ReplicaRole) -> dict[str, str]:
    """What a router reads off a role's pods."""
    if role != "Prefill" or CONNECTORS[engine.id].port_annotation is None:
        return {}
    return {str(CONNECTORS[engine.id].port_annotation): str(CONNECTORS[engine.id].port)}


def check_role(role: ReplicaRole, engine: Engine, pods: int, path: str) -> list[TrimtabError]:
    """Why this choice cannot take the role."""
    if role == "Aggregated":
        return []
    if engine.id not in CONNECTORS:
        return [
            Unsupported(
                f"{engine.id} replicas of role {role} are not rendered",
                field=f"{path}.engine",
                value=engine.id,
                limit=", ".join(sorted(CONNECTORS)),
                hint="choose one of these, or aggregated replicas: spec.explicit",
            )
        ]
    if pods > 1:
        return [
            Unsupported(
                f"a {role} replica of {pods} pods is not rendered",
                field=path,
                limit="one pod",
                hint="use smaller parallel degrees, or aggregated replicas: spec.explicit",
            )
        ]
    return []
