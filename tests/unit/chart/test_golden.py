"""What the chart renders: compared with the committed renderings, and refused where it must be."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from operators.crds.definitions import all_definitions
from tests.unit.chart.rendering import CASES, CHART, Case, render, rendered


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_renders_what_is_committed(helm: str, case: Case) -> None:
    assert rendered(helm, case.values) == case.path.read_text(), "python -m tests.unit.chart.regold, then read the diff"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_lint_finds_nothing(helm: str, case: Case, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(case.values))
    done = subprocess.run(
        [helm, "lint", "--strict", "--quiet", str(CHART), "--values", str(values)],
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_definitions_are_rendered_as_generated_and_marked_to_stay(helm: str) -> None:
    documents = yaml.safe_load_all(rendered(helm, {"crds": {"install": True}}))
    found = {d["metadata"]["name"]: d for d in documents if d and d["kind"] == "CustomResourceDefinition"}
    assert found == {d["metadata"]["name"]: d for d in all_definitions().values()}
    assert all(d["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for d in found.values())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"operatr": {"replicas": 1}}, "operatr"),
        ({"operator": {"replica": 1}}, "replica"),
        ({"operator": {"replicas": "two"}}, "replicas"),
        ({"api": {"service": {"nodePort": 30080}}}, "nodePort"),
        ({"engineImages": {"openvno": "registry.example/x:1"}}, "openvno"),
    ],
    ids=str,
)
def test_helm_refuses_values_it_does_not_know(helm: str, values: dict[str, Any], words: str) -> None:
    done = render(helm, values)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize("release", ["trimtab", "prod-trimtab", "prod", "p" * 53])
def test_names_fit_and_say_trimtab(helm: str, release: str) -> None:
    documents = [d for d in yaml.safe_load_all(rendered(helm, {"crds": {"install": False}}, release=release)) if d]
    for document in documents:
        name = document["metadata"]["name"]
        assert len(name) <= 63
        assert "trimtab" in name
    assert len({(d["kind"], d["metadata"]["name"]) for d in documents}) == len(documents)
