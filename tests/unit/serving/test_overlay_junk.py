"""Every part of a podTemplate, filled with what does not belong there: refused with its field, or rendered. No other end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.model.cluster import PoolToleration
from operators.serving.overlay_fields import ENGINE_FIELDS, POD_FIELDS
from operators.serving.render import pod, replica_template
from operators.serving.validate import validate
from tests.unit.serving.cases import CATALOG
from tests.unit.serving.simulation import L40S, SETTINGS, World, choice, deployment

_OTHER = {"name": "x", "image": "a"}
JUNK: tuple[Any, ...] = (
    *(1, "x", True, 1.5, [], {}, [1], ["x"], [{}], {"a": 1}, [[1]], [None], {"name": "x"}),
    *([{"name": "x"}], [{"name": 3}], [{"key": 5}], [{"ip": 5}], [{"mountPath": "/x"}], [{"devicePath": 1}]),
    *([{"key": "a", "effect": "Sometimes"}], [{"key": "a", "operator": "Exists", "value": 3}], [{"key": "no key!"}]),
    *([{"key": "a", "value": "x" * 64}], [{"key": "a", "operator": "In"}], [{"value": "b"}], [{"operator": "Exists"}]),
    *({"limits": 3}, {"limits": {"cpu": 3}}, {"limits": {"cpu": "x"}, "requests": [3]}, {"claims": [3]}),
    *([{"name": "x", "emptyDir": 3}], [{"name": "shm", "emptyDir": 3}], [{"name": "x", "projected": {"sources": [3]}}]),
    *([{**_OTHER, field: 3}] for field in ("securityContext", "ports", "env", "resources", "volumeMounts")),
    *([{**_OTHER, field: [3]}] for field in ("ports", "env", "volumeMounts")),
    *([{**_OTHER, "securityContext": {"capabilities": value}}] for value in (3, {"add": 3}, {"add": "x"})),
    *({key: 3} for key in ("capabilities", "seccompProfile", "appArmorProfile", "seLinuxOptions", "sysctls")),
)


def templates(field: str) -> list[dict[str, Any]]:
    part, name = field.split(".")
    if part == "engine":
        return [{"spec": {"containers": [{"name": "engine", name: junk}]}} for junk in JUNK]
    return [{part: {name: junk}} for junk in JUNK]


@pytest.mark.parametrize(
    "field",
    [
        *(f"spec.{name}" for name in sorted(POD_FIELDS)),
        *(f"engine.{name}" for name in sorted(ENGINE_FIELDS - {"name"})),
        *("metadata.labels", "metadata.annotations"),
    ],
)
def test_junk_is_refused_or_rendered(field: str) -> None:
    shapes = (choice(L40S), choice(L40S, tensorParallel=8, pipelineParallel=2))
    for number, template in enumerate(templates(field)):
        wanted = deployment(shapes[number % 2], podTemplate=template)
        errors = validate(wanted, CATALOG, SETTINGS.render)
        if errors:
            assert all(error.field and error.field.startswith("spec.podTemplate") for error in errors), template
            continue
        rendered = replica_template(wanted, 0, CATALOG, SETTINGS.render)
        json.dumps(pod(rendered, wanted, 0, 0, "node", "pool", [PoolToleration(key="a")]))
        world = World()
        world.add_nodes(L40S, 2, 8)
        world.apply(wanted)
        world.step()
