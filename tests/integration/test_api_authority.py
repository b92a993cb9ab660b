"""The API on a real API server: real tokens, real RBAC, real watches.

A reader of one namespace sees nothing of another, on any route or stream; a writer's token, and nothing else, decides
what is written.
"""

import base64
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.integration.conftest import ROOT, Kubectl

pytestmark = pytest.mark.cluster

AUDIENCE = "trimtab"
SPEC: dict[str, Any] = {
    "model": {"name": "tiny-random-llama", "source": "image:/models/m.gguf"},
    # A name no pool has: these objects are read and written here, never placed.
    "explicit": {"choices": [{"accelerator": "cpu-x86", "engine": "openvino", "pools": ["no-such-pool"]}]},
}


@dataclass
class Reader:
    """A ServiceAccount's token, good for the API server and for our audience."""

    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@pytest.fixture(scope="module")
def api(cluster_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log_path = tmp_path_factory.mktemp("api") / "log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "controlplane", "api", f"--port={port}", f"--audience={AUDIENCE}"],
            env=cluster_env,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise AssertionError(f"the API did not become ready: {log_path.read_text()[-2000:]}")
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)


def audience_of_the_api_server(kubectl: Kubectl) -> str:
    claims = kubectl("create", "token", "default", "-n", "default").split(".")[1]
    audiences: list[str] = json.loads(base64.urlsafe_b64decode(claims + "=="))["aud"]
    return audiences[0]


@pytest.fixture
def reader_of(kubectl: Kubectl) -> Callable[..., Reader]:
    def make(namespace: str, *verbs: str, audiences: tuple[str, ...] | None = None) -> Reader:
        kubectl("create", "serviceaccount", "reader", "-n", namespace)
        resources = "servingdeployments.trimtab.dev,servingdeployments.trimtab.dev/scale,pods,events"
        kubectl("create", "role", "reader", "-n", namespace, f"--verb={','.join(verbs)}", f"--resource={resources}")
        kubectl(
            "create", "rolebinding", "reader", "-n", namespace, "--role=reader", f"--serviceaccount={namespace}:reader"
        )
        wanted = audiences or (AUDIENCE, audience_of_the_api_server(kubectl))
        flags = [f"--audience={audience}" for audience in wanted]
        return Reader(kubectl("create", "token", "reader", "-n", namespace, *flags).strip())

    return make


def deployment(namespace: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ServingDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": SPEC,
    }


def eventually(check: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


class Stream:
    """Collects an event stream in the background."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self._client = httpx.Client(timeout=httpx.Timeout(10, read=60))
        self._thread = threading.Thread(target=self._read, args=(f"{url}/v1/events", headers), daemon=True)
        self._thread.start()

    def _read(self, url: str, headers: dict[str, str]) -> None:
        fields: dict[str, str] = {}
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                assert response.status_code == 200, response.status_code
                for line in response.iter_lines():
                    key, _, value = line.partition(": ")
                    if line == "" and "event" in fields:
                        self.events.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
                        fields = {}
                    elif key:
                        fields[key] = value
        except httpx.TransportError:
            return

    def kinds(self) -> list[str]:
        return [event for event, _, _ in self.events]

    def seen(self) -> list[str]:
        return [
            f"{d['metadata'].get('namespace', '')}/{d['metadata']['name']}"
            for _, _, d in self.events
            if "metadata" in d
        ]

    def close(self) -> None:
        self._client.close()


def test_a_reader_of_one_namespace_sees_nothing_of_another(
    api: str, kubectl: Kubectl, make_namespace: Callable[[str], str], reader_of: Callable[..., Reader]
) -> None:
    mine, theirs = make_namespace("mine"), make_namespace("theirs")
    reader = reader_of(mine, "get", "list", "watch")
    kubectl.apply(deployment(mine, "open"), deployment(theirs, "secret"))
    stream = Stream(api, reader.headers)
    try:
        with httpx.Client(base_url=api, headers=reader.headers) as http:

            def names() -> list[str]:
                items = http.get("/v1/serving-deployments").json()["items"]
                return [item["metadata"]["name"] for item in items]

            eventually(lambda: names() == ["open"], "the list shows the reader's own object, and only it")
            assert http.get(f"/v1/namespaces/{mine}/serving-deployments/open").status_code == 200
            for path in (
                f"/v1/namespaces/{theirs}/serving-deployments",
                f"/v1/namespaces/{theirs}/serving-deployments/secret",
                f"/v1/namespaces/{theirs}/serving-deployments/absent",
                f"/v1/namespaces/{theirs}/serving-deployments/secret/placement",
                f"/v1/namespaces/{theirs}/serving-deployments/secret/metrics",
                "/v1/pools",
            ):
                assert http.get(path).status_code == 403, path
            body = {"metadata": {"name": "x"}, "spec": SPEC}
            assert http.post(f"/v1/namespaces/{theirs}/serving-deployments", json=body).status_code == 403
            assert http.delete(f"/v1/namespaces/{theirs}/serving-deployments/secret").status_code == 403
            # The reader may read its own namespace, not write to it: the API adds no right of its own.
            assert http.post(f"/v1/namespaces/{mine}/serving-deployments", json=body).status_code == 403
        eventually(lambda: "synced" in stream.kinds(), "the stream has sent the full state")
        kubectl("label", "servingdeployment", "secret", "-n", theirs, "touched=yes")
        kubectl("label", "servingdeployment", "open", "-n", mine, "touched=yes")
        eventually(lambda: "modified" in stream.kinds(), "the stream shows the change the reader may see")
        assert set(stream.seen()) == {f"{mine}/open"}
    finally:
        stream.close()


def test_writes_are_made_as_the_caller_and_judged_by_the_cluster(
    api: str, kubectl: Kubectl, namespace: str, reader_of: Callable[..., Reader]
) -> None:
    writer = reader_of(namespace, "get", "list", "watch", "create", "update", "patch", "delete")
    path = f"/v1/namespaces/{namespace}/serving-deployments"
    with httpx.Client(base_url=api, headers=writer.headers) as http:
        made = http.post(path, json={"metadata": {"name": "chat"}, "spec": SPEC})
        assert made.status_code == 201, made.text
        again = http.post(path, json={"metadata": {"name": "chat"}, "spec": SPEC})
        assert (again.status_code, again.json()["code"]) == (409, "AlreadyExists")
        bad = SPEC | {"model": {"name": "m", "source": "hostPath:/etc"}}
        refused = http.post(path, json={"metadata": {"name": "bad"}, "spec": bad})
        assert refused.status_code == 422
        assert "host paths and URLs are not accepted" in refused.json()["detail"]
        version = kubectl.json("get", "servingdeployment", "chat", "-n", namespace)["metadata"]["resourceVersion"]
        change = {"metadata": {"name": "chat", "labels": {"team": "a"}}, "spec": SPEC | {"replicas": 0}}
        done = http.put(f"{path}/chat", json=change, headers={"If-Match": version})
        assert done.status_code == 200, done.text
        stale = http.put(f"{path}/chat", json=change, headers={"If-Match": version})
        assert (stale.status_code, stale.json()["code"]) == (409, "Conflict")
        scaled = http.put(f"{path}/chat/scale", json={"replicas": 2})
        assert scaled.json()["spec"]["replicas"] == 2, scaled.text
        managers = kubectl.json("get", "servingdeployment", "chat", "-n", namespace, "--show-managed-fields")[
            "metadata"
        ]
        assert "trimtab-api" in {entry["manager"] for entry in managers["managedFields"]}
        assert http.delete(f"{path}/chat").status_code == 202
    eventually(lambda: not kubectl.json("get", "servingdeployments", "-n", namespace)["items"], "the object is deleted")


def test_tokens_for_another_audience_are_refused(
    api: str, kubectl: Kubectl, namespace: str, reader_of: Callable[..., Reader]
) -> None:
    plain = reader_of(namespace, "list", audiences=(audience_of_the_api_server(kubectl),))
    assert httpx.get(f"{api}/v1/serving-deployments", headers=plain.headers).status_code == 401


def test_a_withdrawn_right_stops_a_stream_within_a_minute(
    api: str, kubectl: Kubectl, namespace: str, reader_of: Callable[..., Reader]
) -> None:
    reader = reader_of(namespace, "get", "list", "watch")
    kubectl.apply(deployment(namespace, "open"))
    stream = Stream(api, reader.headers)
    try:
        eventually(lambda: f"{namespace}/open" in stream.seen(), "the stream shows the object")
        kubectl("delete", "rolebinding", "reader", "-n", namespace)
        withdrawn_s = time.monotonic()
        touches = 0

        def silent() -> bool:
            nonlocal touches
            touches += 1
            before = len(stream.events)
            kubectl("label", "--overwrite", "servingdeployment", "open", "-n", namespace, f"touched=n{touches}")
            time.sleep(2)  # long enough for a change to have arrived: what is tested is that it does not
            return len(stream.events) == before

        eventually(silent, "changes are no longer shown", timeout_s=75)
        assert time.monotonic() - withdrawn_s < 75
    finally:
        stream.close()


def test_streams_resume_where_they_stopped(
    api: str, kubectl: Kubectl, namespace: str, reader_of: Callable[..., Reader]
) -> None:
    reader = reader_of(namespace, "get", "list", "watch")
    kubectl.apply(deployment(namespace, "one"))
    first = Stream(api, reader.headers)
    eventually(lambda: "synced" in first.kinds(), "the first stream is in step")
    last_id = first.events[-1][1]
    first.close()
    kubectl.apply(deployment(namespace, "two"))
    resumed = Stream(api, reader.headers | {"Last-Event-ID": last_id})
    try:
        eventually(lambda: f"{namespace}/two" in resumed.seen(), "the missed change arrives")
        assert "gap" not in resumed.kinds()
        assert "state" not in resumed.kinds()
    finally:
        resumed.close()
    lost = Stream(api, reader.headers | {"Last-Event-ID": "00000000-7"})
    try:
        eventually(lambda: "synced" in lost.kinds(), "the full state follows the gap")
        assert lost.kinds()[0] == "gap"
    finally:
        lost.close()
