"""`trimtab calibrate observe`: two scrapes of a deployment's replicas become a line that a refit reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from controlplane.catalog import load
from controlplane.cli import observed_runs
from controlplane.cli.measured_pages import page_names
from controlplane.cli.observed_runs import Observed
from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model.errors import InvalidSpec, Refused, TrimtabError, Unsupported
from controlplane.testing import FakeApiServer
from tuner.serving.calibration.measurement import read_measurement

CHOICE = {"accelerator": "cpu-x86-amx", "engine": "openvino", "cpuMillicores": 2000, "knobs": {"maxNumSeqs": 16}}
NAMES = page_names(load().engine("openvino"))


def page(requests: int, ttft_s: float = 0.04, tpot_s: float = 0.008) -> str:
    """What the embedded engine shows after so many requests of 60 tokens in and 30 out."""
    lines = []
    for name, mean, count in (("ttft", ttft_s, requests), ("inter_token", tpot_s, 29 * requests)):
        series = NAMES[name]
        lines += [f"# TYPE {series} histogram"]
        lines += [f'{series}_bucket{{le="{bound}"}} {share * count}' for bound, share in ((0.1, 0.9), ("+Inf", 1))]
        lines += [f"{series}_sum {count * mean}", f"{series}_count {count}"]
    for name, tokens in (("prompt_tokens", 60), ("generation_tokens", 30)):
        series = NAMES[name].removesuffix("_total")
        lines += [f"# TYPE {series} counter", f"{series}_total {tokens * requests}"]
    return "\n".join(lines) + "\n"


class Bench:
    """A deployment on a fake API server; `pages` are answered in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: FakeApiServer) -> None:
        self.server = server
        self.pages: Iterator[str] = iter(())
        self.asked: list[str] = []
        self.told: list[str] = []
        monkeypatch.setattr(observed_runs, "load_access", self._access)
        request = KubeClient.request

        async def proxied(client: Any, method: str, path: str, **options: Any) -> bytes:
            if "/proxy" not in path:
                return await request(client, method, path, **options)
            self.asked.append(path)
            return next(self.pages).encode()

        monkeypatch.setattr(KubeClient, "request", proxied)

    async def _access(self, _: str | None) -> ClusterAccess:
        return ClusterAccess(self.server.url)

    def deploy(self, *choices: Mapping[str, Any], **spec: Any) -> None:
        body = {
            "metadata": {"name": "tiny", "namespace": "default"},
            "spec": {
                "model": {"name": "tiny-random-llama", "source": "image:/m"},
                "explicit": {"choices": choices},
                **spec,
            },
        }
        self.server.storage.put("trimtab.dev/v1alpha1/servingdeployments", body)

    def pod(self, name: str, accelerator: str = "cpu-x86-amx", ready: str = "True") -> None:
        marks = {"deployment": "tiny", "leader": "true", "engine": "openvino", "accelerator": accelerator}
        body = {
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {f"trimtab.dev/{key}": value for key, value in marks.items()},
            },
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }
        self.server.storage.put("/v1/pods", body)

    async def observe(self, windows: int = 1, **case: Any) -> list[dict[str, Any]]:
        return await observed_runs.observed_runs(Observed("tiny", "default"), case, 0.05, windows, self.told.append)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    async with FakeApiServer() as server:
        yield Bench(monkeypatch, server)


async def test_each_window_is_a_run_of_what_really_runs(bench: Bench) -> None:
    bench.deploy(CHOICE)
    bench.pod("tiny-0")
    bench.pod("tiny-1", ready="False")
    bench.pages = iter([page(100), page(110), page(150, 0.04)])
    one, two = await bench.observe(2)
    assert bench.asked == ["/api/v1/namespaces/default/pods/tiny-0%3A8000/proxy/metrics"] * 3
    assert bench.told[0].startswith("window 1 of 2: ")
    case = {"model": "tiny-random-llama", "system": "cpu-x86-amx", "backend": "openvino", "tp": 1, "cores": 2}
    assert case.items() <= one.items()
    assert (one["id"], one["knobs"]) == ("tiny-1", {"maxNumSeqs": 16})
    assert (one["requests"], one["isl"], one["osl"]) == (10, 60, 30)
    assert two["requests"] == 40
    assert two["measured"]["ttft_ms"]["mean"] == pytest.approx(40)
    assert two["measured"]["tpot_ms"] == {"mean": 8.0}, "gaps between tokens say nothing of requests' percentiles"
    # A fraction of a second passed: the rate is of what was really waited.
    assert 40 < one["arrivals"]["poisson"] < 10 / 0.05
    for line in (one, two):
        read_measurement({key: value for key, value in json.loads(json.dumps(line)).items() if key != "id"}, "x")


async def test_replicas_are_added_up_and_what_is_given_wins(bench: Bench) -> None:
    bench.deploy(CHOICE)
    bench.pod("tiny-0")
    bench.pod("tiny-1")
    bench.pages = iter([page(0), page(5), page(20), page(15)])
    (line,) = await bench.observe(arrivals={"closed": 4}, cores=1)
    assert (line["requests"], line["replicas"], line["cores"], line["arrivals"]) == (30, 2, 1, {"closed": 4})


async def test_a_replica_that_began_anew_is_not_hidden_by_the_others(bench: Bench) -> None:
    bench.deploy(CHOICE)
    bench.pod("tiny-0")
    bench.pod("tiny-1")
    bench.pages = iter([page(100), page(100), page(3), page(400)])
    with pytest.raises(InvalidSpec, match=r"metrics page of tiny-0: .*restarted"):
        await bench.observe()


async def test_a_plan_in_force_says_what_runs(bench: Bench) -> None:
    plan = {
        "model": "tiny-random-llama", "objective": "goodput-per-accelerator", "requestRevision": "a",
        "poolsRevision": "b", "roomRevision": "c", "plannedTime": "2026-11-01T00:00:00Z",
        "weighedTime": "2026-11-01T00:00:00Z", "weighed": 1, "replayed": 1, "elapsedS": 1,
        "candidates": [{"choices": [{"role": "aggregated", "pool": "cpu", "replicas": 1, "choice": CHOICE}],
                        "accelerators": 1, "reason": "Chosen"}],
    }  # fmt: skip
    traffic = {"ratePerSecond": 1, "input": {"tokens": 64}, "output": {"tokens": 32}}
    bench.deploy(explicit=None, auto={}, workload=traffic)
    stored = bench.server.storage.get("trimtab.dev/v1alpha1/servingdeployments", "default", "tiny")
    bench.server.storage.put("trimtab.dev/v1alpha1/servingdeployments", {**stored, "status": {"plan": plan}})
    bench.pod("tiny-0")
    bench.pages = iter([page(0), page(5)])
    (line,) = await bench.observe()
    assert (line["knobs"], line["cores"]) == ({"maxNumSeqs": 16}, 2)


@pytest.mark.parametrize(
    ("pods", "choices", "pages", "kind", "says"),
    [
        ([], [CHOICE], [], Refused, "no replica is ready"),
        (["cpu-x86-amx", "cpu-x86"], [CHOICE], [], Unsupported, "several kinds"),
        (["cpu-x86"], [CHOICE], [], Unsupported, "cannot be told; say it: --tp"),
        (["cpu-x86-amx"], [CHOICE, {**CHOICE, "cpuMillicores": 4000}], [], Unsupported, "cannot be told"),
        (["cpu-x86-amx"], [CHOICE], [page(9), page(9)], InvalidSpec, "no ttft was observed"),
        (["cpu-x86-amx"], [CHOICE], [page(9), page(3)], InvalidSpec, "restarted"),
        (["cpu-x86-amx"], [CHOICE], ["{ not a page", ""], InvalidSpec, "metrics page of tiny-0: cannot be read"),
    ],
)
async def test_what_cannot_be_measured_says_why(
    bench: Bench, pods: list[str], choices: list[Any], pages: list[str], kind: type[TrimtabError], says: str
) -> None:
    bench.deploy(*choices)
    for number, accelerator in enumerate(pods):
        bench.pod(f"tiny-{number}", accelerator)
    bench.pages = iter(pages)
    with pytest.raises(kind, match=says):
        await bench.observe()


async def test_no_such_deployment(bench: Bench) -> None:
    with pytest.raises(Refused, match="ServingDeployment default/tiny: cannot be observed"):
        await bench.observe()


def test_the_command_prints_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from controlplane.main import cli

    async def runs(what: Observed, case: Any, seconds: float, windows: int, tell: Any) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        return [{"of": what.name, "in": what.namespace, "case": case, "s": seconds}] * windows

    monkeypatch.setattr(observed_runs, "observed_runs", runs)
    words = ["calibrate", "observe", "chat", "--namespace", "prod", "--closed", "4", "--windows", "2", "--seconds", "5"]
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 0, said.output
    first, second = map(json.loads, said.stdout.splitlines())
    assert first == second == {"of": "chat", "in": "prod", "case": {"arrivals": {"closed": 4}}, "s": 5.0}
