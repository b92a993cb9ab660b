"""`trimtab calibrate install|uninstall`: into the ConfigMap that operator and API mount, and out of it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from controlplane.cli import install_calibration
from controlplane.main import cli
from controlplane.model.errors import InvalidSpec, Refused, TrimtabError
from controlplane.testing import FakeApiServer
from tuner.serving.calibration.installed import installed
from tuner.serving.calibration.parameters import digest_of, dump_calibration, load_calibration

SHIPPED = load_calibration()
MINE = SHIPPED.model_copy(update={"name": "sample + runs.jsonl", "effects": SHIPPED.effects[:5]})
NAMESPACE = "trimtab-system"
MAPS = "/v1/configmaps"


@dataclass
class Bench:
    server: FakeApiServer
    kubeconfig: Path
    file: Path

    async def call(self, *words: str) -> Result:
        arguments = ["calibrate", *words, "--kubeconfig", str(self.kubeconfig)]
        return await asyncio.to_thread(CliRunner().invoke, cli, arguments)

    @property
    def maps(self) -> list[dict[str, Any]]:
        return self.server.storage.objects(MAPS)

    def deploy(self, config_map: str) -> None:
        volume = {"name": "calibration", "configMap": {"name": config_map, "optional": True}}
        body = {
            "metadata": {
                "name": "trimtab-api",
                "namespace": NAMESPACE,
                "labels": {"app.kubernetes.io/name": "trimtab"},
            },
            "spec": {"template": {"spec": {"volumes": [{"name": "tmp", "emptyDir": {}}, volume]}}},
        }
        self.server.storage.put("apps/v1/deployments", body)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with FakeApiServer() as server:
        kubeconfig = tmp_path / "config"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me"}}],
            "clusters": [{"name": "it", "cluster": {"server": server.url}}],
            "users": [{"name": "me", "user": {"token": "x"}}],
        }
        kubeconfig.write_text(yaml.safe_dump(config))
        file = tmp_path / "mine.json"
        file.write_text(dump_calibration(MINE))
        yield Bench(server, kubeconfig, file)


async def test_in_and_out(bench: Bench, tmp_path: Path) -> None:
    bench.deploy("trimtab-calibration")
    said = await bench.call("install", str(bench.file))
    assert said.exit_code == 0, said.output
    assert (
        f"installed in ConfigMap {NAMESPACE}/trimtab-calibration (sample + runs.jsonl, {digest_of(MINE)})"
        in said.stdout
    )
    assert "warning" not in said.stdout
    (made,) = bench.maps
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == (NAMESPACE, "trimtab-calibration")
    assert made["metadata"]["annotations"]["trimtab.dev/digest"] == digest_of(MINE)
    # What a pod finds mounted is what was measured.
    folder = tmp_path / "mounted"
    folder.mkdir()
    for key, text in made["data"].items():
        (folder / key).write_text(text)
    assert installed(folder).calibration == MINE

    bench.file.write_text(dump_calibration(SHIPPED))
    assert (await bench.call("install", str(bench.file))).exit_code == 0
    assert bench.maps[0]["metadata"]["annotations"]["trimtab.dev/digest"] == digest_of(SHIPPED)

    said = await bench.call("uninstall")
    assert (said.exit_code, bench.maps) == (0, []), said.output
    assert "shipped calibration within about two minutes" in said.stdout
    assert "there is no ConfigMap" in (await bench.call("uninstall")).stdout


async def test_where_nothing_reads_it_a_warning_says_so(bench: Bench) -> None:
    bench.deploy("another")
    said = await bench.call("install", str(bench.file))
    assert said.exit_code == 0
    assert "warning: nothing of Trimtab in namespace trimtab-system reads it" in said.stdout
    assert "warning" not in (await bench.call("install", str(bench.file), "--config-map", "another")).stdout


async def test_what_somebody_else_wrote_is_not_taken_over(bench: Bench) -> None:
    theirs = {"metadata": {"name": "trimtab-calibration", "namespace": NAMESPACE}, "data": {"calibration.json": "{}"}}
    await asyncio.to_thread(_apply_as, bench, theirs, "somebody")
    said = await bench.call("install", str(bench.file))
    assert isinstance(said.exception, Refused)
    assert "kubectl delete configmap -n trimtab-system trimtab-calibration first" in str(said.exception)
    said = await bench.call("uninstall")
    assert isinstance(said.exception, Refused)
    assert "not removed: it is somebody else's" in str(said.exception)
    assert bench.maps[0]["data"] == {"calibration.json": "{}"}


def _apply_as(bench: Bench, body: dict[str, Any], manager: str) -> None:
    from controlplane.kube import CONFIG_MAPS, KubeClient, load_access

    async def run() -> None:
        async with KubeClient(await load_access(str(bench.kubeconfig))) as client:
            full = {"apiVersion": "v1", "kind": "ConfigMap", **body}
            await client.apply(CONFIG_MAPS, full, body["metadata"]["name"], NAMESPACE, field_manager=manager)

    asyncio.run(run())


async def test_only_a_calibration_that_fits_is_installed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.file.write_text('{"version": 1}')
    said = await bench.call("install", str(bench.file))
    assert isinstance(said.exception, InvalidSpec)
    assert "mine.json: name" in str(said.exception)
    bench.file.write_text(dump_calibration(MINE))
    monkeypatch.setattr(install_calibration, "MAX_DATA_BYTES", 100)
    said = await bench.call("install", str(bench.file))
    assert isinstance(said.exception, InvalidSpec)
    assert "allowed: 100 bytes" in str(said.exception)
    assert bench.maps == []


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(dump_calibration(MINE))
    said = CliRunner().invoke(cli, ["calibrate", "install", str(file), "--kubeconfig", str(tmp_path / "none")])
    assert isinstance(said.exception, TrimtabError)
    assert "no kubeconfig" in str(said.exception)


def test_a_dry_run_installs_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    runs.write_text("model\n")
    said = CliRunner().invoke(cli, ["calibrate", "serving", "--data", str(runs), "--dry-run", "--install"])
    assert said.exit_code == 2
    assert "nothing to --install" in said.output
