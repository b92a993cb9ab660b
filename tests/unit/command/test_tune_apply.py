"""`trimtab tune apply`: a winner into a manifest, onto a cluster, through an API; and out again."""

from __future__ import annotations

import asyncio
import http.server
import json
import shlex
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from controlplane.main import cli
from controlplane.model.errors import InvalidSpec, Refused, TrimtabError
from controlplane.model.tuning_apply import TUNED_BEFORE, TUNED_BY
from controlplane.model.tuning_decision import Judged, TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.testing import FakeApiServer
from controlplane.tuning_embedded import TENANT, local_tuning

CHOICE = {"accelerator": "cpu-x86", "engine": "openvino", "knobs": {"maxNumSeqs": 2, "dynamicSplitFuse": False}}
DEPLOYMENT = {
    "apiVersion": "trimtab.dev/v1alpha1",
    "kind": "ServingDeployment",
    "metadata": {"name": "chat", "namespace": "team"},
    "spec": {"model": {"name": "tiny", "source": "image:/m/tiny.gguf"}, "explicit": {"choices": [CHOICE]}},
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEPLOYMENTS = "trimtab.dev/v1alpha1/servingdeployments"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    spec = {
        "target": {"kind": "engine", "engine": "openvino", "model": "/m/tiny.gguf"},
        "space": {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 16}]},
        "objectives": [{"metric": "output_tokens_per_s"}],
    }
    with local_tuning(tmp_path / "state") as local:
        for name, verdict in (("good", "better"), ("even", "no-evidence")):
            local.jobs.create(name, tenant=TENANT, name=name, spec=TuningSpec.model_validate(spec), now=NOW)
            best = Judged(number=1, setting={"maxNumSeqs": 14})
            found = TuningDecision(verdict=verdict, message="gain", best=best)  # type: ignore[arg-type]
            local.steering.decide(name, found.model_dump(mode="json", by_alias=True), now=NOW)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    (tmp_path / "chat.yaml").write_text(yaml.safe_dump_all([service, DEPLOYMENT]))
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["tune", "apply", *words])


def knobs(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"]["explicit"]["choices"][0]["knobs"]
    return found


def test_a_manifest_gets_the_winner_and_gives_it_back(here: Path) -> None:
    ran = call("good", "--to", "chat.yaml", "--canary", "1", "--out", "new.yaml")
    assert ran.exit_code == 0, ran.output
    assert "knobs.maxNumSeqs: 2 -> 14" in ran.stderr and "--undo" in ran.stderr
    service, changed = yaml.safe_load_all((here / "new.yaml").read_text())
    assert service["kind"] == "Service" and knobs(changed)["maxNumSeqs"] == 14
    assert changed["spec"]["rollout"]["canary"] == {"replicas": 1}
    assert changed["metadata"]["annotations"][TUNED_BY] == "good"
    assert call("good", "--to", "new.yaml", "--undo", "--out", "new.yaml").exit_code == 0
    _, again = yaml.safe_load_all((here / "new.yaml").read_text())
    assert knobs(again) == CHOICE["knobs"] and not again["metadata"]["annotations"] and not again["spec"]["rollout"]
    piped = call("good", "--to", "chat.yaml")
    assert knobs(list(yaml.safe_load_all(piped.stdout))[1])["maxNumSeqs"] == 14
    dry = call("good", "--to", "chat.yaml", "--dry-run", "-o", "json")
    assert json.loads(dry.stdout)["written"] is False and json.loads(dry.stdout)["namespace"] == "team"


def test_a_kubectl_command_says_the_same(here: Path) -> None:
    words = shlex.split(call("good", "--to", "chat.yaml", "-o", "kubectl").stdout)
    assert words[:5] == ["kubectl", "patch", "servingdeployment", "chat", "-n"]
    patch = json.loads(words[words.index("-p") + 1])
    assert patch["spec"]["explicit"]["choices"][0]["knobs"] == {**CHOICE["knobs"], "maxNumSeqs": 14}  # type: ignore[dict-item]


def test_refusals_name_what_is_wrong(here: Path) -> None:
    for words, said in (
        (["even", "--to", "chat.yaml"], "not shown to be better"),
        (["absent", "--to", "chat.yaml"], "no tuning job"),
        (["good", "--to", "chat.yaml", "--undo"], "nothing to take back"),
        (["good", "--to", "absent.yaml"], "cannot be read"),
    ):
        refused = call(*words)
        assert isinstance(refused.exception, TrimtabError) and said in str(refused.exception), refused.output
    (here / "two.yaml").write_text(yaml.safe_dump_all([DEPLOYMENT, DEPLOYMENT]))
    assert isinstance(call("good", "--to", "two.yaml").exception, InvalidSpec)
    assert call("good", "--to", "chat", "--out", "x.yaml").exit_code == 2
    assert call("even", "--to", "chat.yaml", "--force").exit_code == 0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[FakeApiServer, str]]:
    async with FakeApiServer() as server:
        kubeconfig = tmp_path / "config"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": server.url}}],
            "users": [{"name": "x", "user": {}}],
        }
        kubeconfig.write_text(yaml.safe_dump(config))
        server.storage.put(DEPLOYMENTS, DEPLOYMENT)
        yield server, str(kubeconfig)


async def test_the_cluster_of_the_kubeconfig_is_written(here: Path, cluster: tuple[FakeApiServer, str]) -> None:
    server, kubeconfig = cluster
    place = ["--to", "chat", "-n", "team", "--kubeconfig", kubeconfig]
    ran = await asyncio.to_thread(call, "good", *place, "--canary", "1", "-o", "json")
    assert ran.exit_code == 0, ran.output
    stored = server.storage.objects(DEPLOYMENTS)[0]
    assert knobs(stored)["maxNumSeqs"] == 14 and TUNED_BEFORE in stored["metadata"]["annotations"]
    undone = await asyncio.to_thread(call, "good", *place, "--undo")
    assert undone.exit_code == 0, undone.output
    assert knobs(server.storage.objects(DEPLOYMENTS)[0]) == CHOICE["knobs"]
    absent = await asyncio.to_thread(call, "good", "--to", "absent", "-n", "team", "--kubeconfig", kubeconfig)
    assert isinstance(absent.exception, Refused) and "team/absent" in str(absent.exception)


class Answering(http.server.BaseHTTPRequestHandler):
    """An API that says what it is told to."""

    answer: tuple[int, dict[str, Any]] = (200, {})
    seen: list[tuple[str, str | None, dict[str, Any]]]
    job: dict[str, Any]

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.job).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers["Authorization"], body))
        status, answer = self.answer
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def api(here: Path) -> Iterator[str]:
    Answering.seen = []
    with local_tuning(here / "state") as local:
        Answering.job = local.jobs.get("good").model_dump(mode="json", by_alias=True) | {"id": "j1"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_job_of_an_api_is_applied_there(here: Path, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["j1", "--to", "chat", "--server", api, "--canary", "2"]
    assert isinstance(call(*words).exception, InvalidSpec)  # no token
    monkeypatch.setenv("TRIMTAB_TOKEN", "t0")
    change = {"field": "f", "before": 1, "after": 2}
    done = {"job": "j1", "namespace": "n", "deployment": "chat", "written": True, "changes": [change], "warnings": ["w"], "undo": "u"}  # fmt: skip
    monkeypatch.setattr(Answering, "answer", (200, done))
    ran = call(*words)
    assert ran.exit_code == 0 and "f: 1 -> 2" in ran.stderr and "warning: w" in ran.stderr
    sent = {"deployment": "chat", "force": False, "dryRun": False, "everyChoice": False, "canary": {"replicas": 2}}
    assert Answering.seen == [("/v1/tuning-jobs/j1/apply", "Bearer t0", sent)]
    assert f"trimtab tune apply j1 --to chat --undo --server {api}" in ran.stderr
    assert "take it back" not in call("j1", "--to", "chat", "--server", api, "--undo").stderr
    no = {"detail": "not shown to be better; force it", "hint": "force it", "code": "NotBetter"}
    monkeypatch.setattr(Answering, "answer", (409, no))
    refused = call("j1", "--to", "chat", "--server", api, "--undo").exception
    assert isinstance(refused, Refused) and refused.reason == "NotBetter" and str(refused).count("force it") == 1
    assert Answering.seen[-1][0].endswith("/undo")
    monkeypatch.setattr(Answering, "answer", (307, {}))
    asked = len(Answering.seen)
    assert isinstance(call(*words).exception, Refused) and len(Answering.seen) == asked + 1
    assert isinstance(call("j1", "--to", "chat", "--server", "file:///etc").exception, InvalidSpec)
