"""The real cluster for tests marked `cluster`: the one TRIMTAB_CLUSTER or KUBECONFIG names, else `dev`."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Kubectl:
    """kubectl on the test cluster. Output as text or decoded JSON; a failure shows kubectl's own words."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def run(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", *args], env=self.env, input=stdin, text=True, capture_output=True, timeout=120, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr or done.stdout}")
        return done

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self.run(*args, stdin=stdin).stdout

    def json(self, *args: str) -> Any:
        return json.loads(self(*args, "-o", "json"))

    def apply(self, *documents: dict[str, Any], server_side: bool = True) -> None:
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
        flags = ["--server-side", "--force-conflicts", "--field-manager=test"] if server_side else []
        self("apply", *flags, "-f", "-", stdin=body)


@pytest.fixture(scope="session")
def cluster_env() -> dict[str, str]:
    """Environment with KUBECONFIG and PATH for the test cluster; skips with the reason when there is none."""
    name = os.environ.get("TRIMTAB_CLUSTER", "dev")
    shown = subprocess.run(
        [sys.executable, "-m", "devcluster", "env", "--name", name],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    env = dict(os.environ)
    for line in shown.stdout.splitlines():
        key, _, value = line.removeprefix("export ").partition("=")
        env[key] = value.replace("$PATH", env["PATH"]).strip("'\"")
    answer = subprocess.run(
        ["kubectl", "get", "--raw", "/readyz"], env=env, text=True, capture_output=True, check=False
    )
    if answer.returncode != 0:
        pytest.skip(f"no development cluster {name!r}; start one with `make up` ({answer.stderr.strip()[:200]})")
    return env


@pytest.fixture(scope="session")
def kubectl(cluster_env: dict[str, str]) -> Kubectl:
    return Kubectl(cluster_env)


@pytest.fixture
def make_namespace(kubectl: Kubectl) -> Iterator[Callable[[str], str]]:
    """Makes namespaces that go with the test."""
    made: list[str] = []

    def make(prefix: str) -> str:
        name = f"{prefix}-{secrets.token_hex(3)}"
        kubectl("create", "namespace", name)
        made.append(name)
        return name

    yield make
    if made:
        kubectl("delete", "namespace", "--wait=false", *made)


@pytest.fixture
def namespace(make_namespace: Callable[[str], str]) -> str:
    return make_namespace("t")
