"""The values and their schema say the same; what the schema refuses."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from controlplane.model.serving import EngineName
from tests.unit.chart.rendering import CASES, CHART, Case

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def errors(values: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(values)]


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """As Helm merges: maps by key, everything else replaced."""
    out = dict(values)
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def schema_paths(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        child = SCHEMA["definitions"][child["$ref"].rsplit("/", 1)[1]] if "$ref" in child else child
        yield f"{path}{name}"
        yield from schema_paths(child, f"{path}{name}.")


def value_paths(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, child in values.items():
        yield f"{path}{name}"
        if isinstance(child, dict):
            yield from value_paths(child, f"{path}{name}.")


def test_the_schema_is_one_and_takes_the_defaults() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert errors(VALUES) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_schema_takes_what_is_rendered(case: Case) -> None:
    assert errors(merged(VALUES, case.values)) == []


def test_values_and_schema_name_the_same_settings() -> None:
    # Helm sets `global`; quantities are an open map of resource names.
    said = {path for path in schema_paths(SCHEMA) if path != "global"}
    held = {path for path in value_paths(VALUES) if not re.search(r"\.(requests|limits)\.", path)}
    assert said == held


def test_every_map_in_the_schema_is_closed() -> None:
    def walk(schema: dict[str, Any], path: str) -> Iterator[str]:
        if "properties" in schema and path != "$.then" and schema.get("additionalProperties") is not False:
            yield path
        for name, child in {**schema.get("properties", {}), **schema.get("definitions", {})}.items():
            yield from walk(child, f"{path}.{name}")

    assert list(walk(SCHEMA, "$")) == []


def test_engine_images_are_keyed_by_the_engines_there_are() -> None:
    (pattern,) = SCHEMA["properties"]["engineImages"]["patternProperties"]
    for engine in get_args(EngineName):
        assert re.fullmatch(pattern, engine)
        assert re.fullmatch(pattern, f"{engine}/amd")
    assert not re.fullmatch(pattern, "tgi")


@pytest.mark.parametrize(
    "changes",
    [
        {"operatr": {}},
        {"image": {"digest": "sha256:0"}},
        {"image": {"repository": ""}},
        {"image": {"repository": "registry.example/x y"}},
        {"image": {"tag": "a b"}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"engineImages": {"openvino": ""}},
        {"engineImages": {"tgi": "registry.example/tgi:1"}},
        {"routers": {"nginx": {"image": "registry.example/nginx:1"}}},
        {"routers": {"sglang-router": {}}},
        {"routers": {"gateway-inference-extension": {"gateway": "no-namespace", "domain": "llm.example"}}},
        {"operator": {"replicas": -1}},
        {"operator": {"replicas": 1.5}},
        {"operator": {"resources": {"request": {}}}},
        {"api": {"service": {"type": "ExternalName"}}},
        {"api": {"service": {"port": 0}}},
        {"api": {"service": {"port": 65536}}},
        {"api": {"service": {"type": "ClusterIP", "nodePort": 30080}}},
        {"api": {"audience": None}},
        {"crds": {"install": "yes"}},
        {"planner": {"calibration": {"configMap": "Not_A_Name"}}},
        {"planner": {"calibration": {"file": "mine.json"}}},
        {"serviceMonitor": {"interval": "fast"}},
        {"networkPolicy": {"apiServerPorts": []}},
        {"imagePullSecrets": ["registry"]},
        {"logLevel": "trace"},
    ],
    ids=str,
)
def test_the_schema_refuses(changes: dict[str, Any]) -> None:
    assert errors(merged(VALUES, changes))
