"""The pre-stop hooks do what they promise: they are run here as the kubelet would run them, against real sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from operators.serving.probes import leader_hook, worker_hook
from tests.unit.serving.cases import CATALOG


class Pages:
    """An engine's metrics page that says each of `pages` once, then the last one for ever."""

    def __init__(self, pages: list[str]) -> None:
        self.pages = pages
        self.served = 0
        self.enough = threading.Event()

    def next(self) -> str:
        page = self.pages[min(self.served, len(self.pages) - 1)]
        self.served += 1
        if self.served >= len(self.pages) + 1:
            self.enough.set()
        return page


@contextmanager
def serving(pages: Pages) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.next().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hook(command: list[str]) -> list[str]:
    """The command as it would run, only polling faster."""
    assert command[0] == "python3"
    return [sys.executable, "-I", *(part.replace("time.sleep(1)", "time.sleep(0.02)") for part in command[1:])]


def idle_hook(port: int) -> list[str]:
    """The hook of an engine that would cut its requests, without the wait for the Service and on another port."""
    made = leader_hook(CATALOG.engine("trtllm-serve"), 0)["preStop"]["exec"]["command"]
    return hook([part.replace(f":{CATALOG.engine('trtllm-serve').port}/", f":{port}/") for part in made])


def page(running: float, waiting: float) -> str:
    return (
        "# HELP trtllm_num_requests_running x\n# TYPE trtllm_num_requests_running gauge\n"
        f'trtllm_num_requests_running{{model_name="a b"}} {running}\n'
        f"trtllm_num_requests_waiting {waiting}\ntrtllm_num_requests_running_other 7\n"
    )


def test_an_engine_that_cuts_requests_is_held_until_idle() -> None:
    pages = Pages([page(2, 1), page(1, 0), page(0, 3), page(0, 0)])
    with serving(pages) as port:
        subprocess.run(idle_hook(port), check=True, timeout=60)
    assert pages.served == 4


def test_a_page_without_the_metrics_is_not_idleness() -> None:
    pages = Pages(["up 1\n", "up 1\n"])
    with serving(pages) as port:
        process = subprocess.Popen(idle_hook(port))
        try:
            assert pages.enough.wait(60)
            assert process.poll() is None, "must hold while the number is unknown"
        finally:
            process.kill()
            process.wait()


def test_a_dead_engine_is_not_waited_for() -> None:
    with serving(Pages([""])) as port:
        pass
    subprocess.run(idle_hook(port), check=True, timeout=60)


def test_workers_stay_until_the_leader_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as leader:
        port = leader.getsockname()[1]
        command = worker_hook(CATALOG.engine("vllm"), "127.0.0.1")["preStop"]["exec"]["command"]
        process = subprocess.Popen(hook([*command[:-1], str(port)]))
        leader.settimeout(60)
        for _ in range(5):
            leader.accept()[0].close()
            assert process.poll() is None, "must hold while the leader answers"
    assert process.wait(60) == 0


def test_engines_that_drain_by_themselves_only_leave_the_service_first() -> None:
    for name in ("openvino", "vllm", "sglang"):
        assert leader_hook(CATALOG.engine(name), 7) == {"preStop": {"sleep": {"seconds": 7}}}
