"""Raw requests to the cluster's API server as its administrator: a kubectl process per look would cost 50 times more."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

from devcluster.cluster import Cluster

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
T = TypeVar("T")


class Refused(AssertionError):
    """An answer other than 2xx."""

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"{what}: {status} {message}")
        self.status = status
        self.message = message


class Rest:
    """One connection per thread, opened anew after a failure. Raises Refused, OSError or HTTPException."""

    def __init__(self, cluster: Cluster) -> None:
        parts = urlsplit(cluster.plan.api_url)
        self.url = cluster.plan.api_url
        self.host, self.port = parts.hostname or "", parts.port or 443
        folder = cluster.plan.state / "pki"
        self.context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self.token = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))["admin"]
        self._mine = threading.local()

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        connection: http.client.HTTPSConnection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self._open(20.0)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if answer.status >= 300:
            raise Refused(f"{method} {path}", answer.status, text.decode(errors="replace")[:2000])
        return json.loads(text)

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def find(self, path: str) -> Any:
        """None when it is not there."""
        try:
            return self.get(path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str) -> list[Any]:
        found: list[Any] = self.get(path)["items"]
        return found

    def create(self, path: str, body: Any) -> Any:
        return self.call("POST", path, body)

    def merge(self, path: str, body: Any) -> Any:
        return self.call("PATCH", path, body, MERGE)

    def delete(self, path: str) -> None:
        """Also fine when it is gone already."""
        try:
            self.call("DELETE", path)
        except Refused as error:
            if error.status != 404:
                raise

    def watch(self, path: str, version: str, timeout_s: int) -> Iterator[Any]:
        """Events until the server ends the stream."""
        connection = self._open(timeout_s + 5.0)
        try:
            query = f"?watch=1&resourceVersion={version}&timeoutSeconds={timeout_s}"
            connection.request("GET", path + query, headers={"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise Refused(f"WATCH {path}", answer.status, answer.read().decode(errors="replace")[:300])
            while line := answer.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def close(self) -> None:
        """The connection of this thread."""
        connection: http.client.HTTPSConnection | None = getattr(self._mine, "connection", None)
        if connection is not None:
            connection.close()
            self._mine.connection = None

    def _open(self, timeout_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=self.context)


def eventually(look: Callable[[], T], patience_s: float, what: str | Callable[[], str]) -> T:
    """The first true answer of `look`. A server that does not answer counts as not yet."""
    until = time.monotonic() + patience_s
    while True:
        try:
            found = look()
            if found:
                return found
        except (OSError, http.client.HTTPException):
            pass
        except Refused as error:
            if error.status < 500:
                raise
        if time.monotonic() > until:
            raise AssertionError(f"waited {patience_s:g} s for {what if isinstance(what, str) else what()}")
        time.sleep(0.1)
