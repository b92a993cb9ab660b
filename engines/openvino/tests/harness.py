"""A real server process for tests, and clients that see HTTP as it is on the wire."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 240.0  # how long a test waits for something that must happen; only a failure takes that long


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return False
    return state not in "ZX"


class Server:
    """`trimtab-engine serve` as a process."""

    def __init__(self, model: Path, *flags: str, env: dict[str, str] | None = None, wait: bool = True) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), **(env or {})}
        if env is None or "TRIMTAB_API_KEY" not in env:
            environment.pop("TRIMTAB_API_KEY", None)
        argv = [sys.executable, "-m", "trimtab_engine.cli", "serve", "--model", str(model)]
        argv += ["--served-model-name", "tiny", "--port", "0", *flags]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._config = self.process.stdout.readline()
        self.port = 0
        if wait:
            try:
                self.wait_listening()
                self.wait_ready()
            except BaseException:
                self.__exit__()
                raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def _read_log(self) -> None:
        for line in self.process.stderr:
            self.log.append(line.rstrip())

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self._config)

    def wait_listening(self) -> None:
        line = wait_until(lambda: next((x for x in self.log if x.startswith("listening")), None), "listening")
        self.port = int(line.rsplit(":", 1)[1])

    def wait_ready(self) -> None:
        wait_until(lambda: self.process.poll() is not None or self.health() == 200, "ready")
        assert self.process.poll() is None, "\n".join(self.log)

    def wait_exit(self) -> int:
        status = self.process.wait(PATIENCE_S)
        self._reader.join()
        return status

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def child_pid(self) -> int:
        """The engine process of the moment."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(text.split()[0])

    def kill_child(self, number: int = signal.SIGKILL) -> int:
        pid = self.child_pid
        os.kill(pid, number)
        return pid

    # requests

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            found = {key.lower(): value for key, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()

    def health(self) -> int | None:
        try:
            return self.request("GET", "/health")[0]
        except OSError:
            return None

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        status, _, data = self.request("POST", path, body, headers)
        return status, json.loads(data)

    def complete(self, **body: Any) -> dict[str, Any]:
        status, answer = self.post("/v1/completions", {"temperature": 0, "ignore_eos": True, **body})
        assert status == 200, answer
        return answer

    def error(self, path: str = "/v1/completions", **body: Any) -> tuple[int, dict[str, Any]]:
        status, answer = self.post(path, body)
        return status, answer["error"]

    def metrics(self) -> dict[str, float]:
        """Samples by name; the model label is dropped, other labels are kept as in `name{outcome="completed"}`."""
        text = self.request("GET", "/metrics")[2].decode()
        found = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                key, value = line.rsplit(" ", 1)
                key = re.sub(r'model_name="[^"]*",?', "", key).replace("{}", "")
                found[key.removeprefix("trimtab_engine_")] = float(value)
        return found

    def stream(self, path: str = "/v1/completions", **body: Any) -> Stream:
        return Stream(self.port, path, body)


class Stream:
    """One streamed request on its own connection, read event by event."""

    def __init__(self, port: int, path: str, body: dict[str, Any]) -> None:
        defaults = {"stream": True, "temperature": 0, "ignore_eos": True}
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        self.connection.request("POST", path, json.dumps({**defaults, **body}).encode())
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        """Waits for the head, which comes with the first token."""
        if self._response is None:
            self._response = self.connection.getresponse()
        return self._response

    def next(self) -> dict[str, Any] | str | None:
        """The next event's object, the string "[DONE]", or None at the end."""
        while True:
            line = self.response.readline()
            if not line:
                return None
            if line.startswith(b"data: "):
                text = line[6:].strip().decode()
                return text if text == "[DONE]" else json.loads(text)

    def rest(self) -> list[dict[str, Any] | str]:
        """All remaining events."""
        events = []
        while (event := self.next()) is not None:
            events.append(event)
        self.close()
        return events

    def close(self) -> None:
        """Hang up, whether or not an answer has begun."""
        if self._response is not None:
            self._response.close()
        elif self.connection.sock is not None:
            self.connection.sock.close()
        self.connection.close()


def stream_text(events: list[Any]) -> str:
    """The text of a stream's events, completions or chat."""
    parts = []
    for event in events:
        if isinstance(event, dict) and event.get("choices"):
            choice = event["choices"][0]
            parts.append(choice["text"] if "text" in choice else choice["delta"].get("content", ""))
    return "".join(parts)


def raw(port: int, data: bytes, timeout_s: float = PATIENCE_S) -> bytes:
    """Everything the server sends back for `data` until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(1 << 16):
            received += chunk
        return received
