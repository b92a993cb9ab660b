"""Renders the chart with the real helm, and reads what was rendered."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from devcluster import build, versions

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm"
GOLDEN = Path(__file__).parent / "golden"
RELEASE, NAMESPACE = "trimtab", "trimtab-system"


_MADE_UP = re.compile(r"^(  (?:postgresql|redis)-password: ).*$", re.MULTILINE)


def find_helm() -> str | None:
    """helm as the development cluster built it, else one on PATH, else None."""
    built = build.binary_dir(versions.load())
    return shutil.which("helm", path=os.pathsep.join([str(built), os.environ.get("PATH", "")]))


@dataclass(frozen=True)
class Case:
    """One set of values and the file that holds what they render to. Definitions have a test of their own."""

    name: str
    values: dict[str, Any]

    @property
    def path(self) -> Path:
        return GOLDEN / f"{self.name}.yaml"

    def documents(self) -> list[dict[str, Any]]:
        """The committed rendering, parsed."""
        return [document for document in yaml.safe_load_all(self.path.read_text()) if document]


DEFAULT = Case("default", {"crds": {"install": False}})
EVERYTHING = Case(
    "everything",
    {
        "image": {"repository": "registry.example/trimtab", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "engineImages": {
            "openvino": "registry.example/engine-openvino:1.2.3",
            "vllm/amd": "registry.example/vllm:rocm",
        },
        "routers": {
            "sglang-router": {"image": "registry.example/sglang-router:0.3.2"},
            "gateway-inference-extension": {"gateway": "gateways/inference", "domain": "llm.example"},
        },
        "priorityClassName": "system-cluster-critical",
        "logLevel": "debug",
        "logFormat": "text",
        "clusterDomain": "cluster.example",
        "crds": {"install": False},
        "operator": {
            "replicas": 3,
            "nodeSelector": {"role": "system"},
            "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
        },
        "api": {
            "replicas": 2,
            "audience": "",
            "service": {"type": "NodePort", "port": 8080, "nodePort": 30080},
            "nodeSelector": {"role": "system"},
            "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
        },
        "planner": {"calibration": {"configMap": "measured-here"}},
        "tuning": {
            "enabled": True,
            "namespaces": ["team-a", "team-b"],
            "worker": {"replicas": 4, "nodeSelector": {"role": "load"}, "tolerations": []},
            "driver": {"nodeSelector": {"role": "system"}},
            "database": {"urlSecret": {"name": "our-database", "key": "uri"}, "port": 5433},
            "broker": {"urlSecret": {"name": "our-redis"}, "port": 6380},
        },
        "serviceMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
        "networkPolicy": {"enabled": True, "apiServerPorts": [16443]},
    },
)
WITHOUT_TUNING: dict[str, Any] = {"tuning": {"enabled": False}}
CASES = (DEFAULT, EVERYTHING)


def render(
    helm: str, values: dict[str, Any], *, release: str = RELEASE, chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    """`helm template` without a cluster."""
    return subprocess.run(
        [helm, "template", release, str(chart), "--namespace", NAMESPACE, "--values", "-"],
        input=yaml.safe_dump(values),
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def rendered(helm: str, values: dict[str, Any], **options: Any) -> str:
    """The same, as text, without the passwords that every rendering makes anew. Raises AssertionError with helm's words
    when it refuses."""
    done = render(helm, values, **options)
    assert done.returncode == 0, done.stderr
    return _MADE_UP.sub(r"\1bWFkZS11cA==", done.stdout)
