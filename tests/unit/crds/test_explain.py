"""What `kubectl explain` shows beyond types: defaults, and the names of metrics."""

from __future__ import annotations

import re
from typing import Any

from controlplane.model.tuning import METRIC_NAMES
from controlplane.tuning_jobs import engine_metrics
from operators.crds.definitions import all_definitions, tuning_job
from tests.unit.crds.test_schema import nodes, root


def _field(*path: str) -> dict[str, Any]:
    node = root(tuning_job())["properties"]["spec"]
    for name in path:
        node = (node.get("items") or node)["properties"][name]
    return dict(node)


def test_every_default_is_said() -> None:
    for definition in all_definitions().values():
        for path, node in nodes(root(definition)["properties"]["spec"]):
            default = node.get("default")
            if default is not None and not isinstance(default, dict | list) and "description" in node:
                assert node["description"].endswith("."), path
                assert re.search(r" Default: \S.*\.$", node["description"]), path
    assert _field("budget", "trials")["description"].endswith(" Default: 40.")
    assert _field("measuring", "timeoutS")["description"].endswith(" Default: 900.")
    assert _field("pods", "serviceAccount")["description"].endswith(" Default: default.")
    assert "Default" not in _field("target", "namespace")["description"]


def test_metrics_are_named() -> None:
    said = METRIC_NAMES
    for metric in engine_metrics():
        stem = re.fullmatch(r"(ttft_|tpot_|e2e_|gap_max_)(\w+)", metric)
        assert (metric in said) if stem is None else (stem[1] in said and stem[2] in said), metric
    for field in (("objectives", "metric"), ("limits", "metric")):
        assert said in _field(*field)["description"]
    assert "token_agreement, logprob_gap_mean" in _field("limits", "metric")["description"]
