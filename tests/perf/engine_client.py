"""A streaming client with little CPU of its own, for `bench_engine`: raw sockets, one selector, no JSON per token.

Reads one JSON job per line, answers with one JSON line, like `engine_bare`.
"""

import json
import selectors
import socket
import sys
import time
from typing import Any

TOKEN = b'"choices": [{'
END = b"\r\n0\r\n\r\n"  # the chunk that ends a response


class Worker:
    """One keep-alive connection that sends the next prompt when an answer is complete."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_s = 0.0
        self.first = False
        self.tail = b""

    def send(self, request: bytes) -> None:
        self.first = True
        self.tail = b""
        self.sent_s = time.perf_counter()
        self.socket.sendall(request)


def request_bytes(prompt: list[int], max_tokens: int) -> bytes:
    body = json.dumps(
        {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    ).encode()
    return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def drive(port: int, job: dict[str, Any]) -> dict[str, Any]:
    """Run `prompts` with at most `concurrency` at a time; wall and CPU seconds, and seconds to each first token."""
    waiting = [request_bytes(prompt, job["max_tokens"]) for prompt in job["prompts"]][::-1]
    workers = [Worker(port) for _ in range(min(job["concurrency"], len(waiting)))]
    selector = selectors.EpollSelector()
    ttft_s: list[float] = []
    tokens = 0
    cpu_s = time.process_time()
    start_s = time.perf_counter()
    for worker in workers:
        selector.register(worker.socket, selectors.EVENT_READ, worker)
        worker.send(waiting.pop())
    left = len(workers)
    while left:
        for key, _ in selector.select():
            worker = key.data
            data = worker.socket.recv(1 << 16)
            if not data:
                raise RuntimeError("the server closed a connection")
            if worker.first:
                worker.first = False
                ttft_s.append(time.perf_counter() - worker.sent_s)
                if not data.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(data[:400].decode())
            tokens += data.count(TOKEN)
            joined = worker.tail + data
            if END in joined:
                if waiting:
                    worker.send(waiting.pop())
                else:
                    left -= 1
                    selector.unregister(worker.socket)
            else:
                worker.tail = joined[-len(END) :]
    result = {
        "wall_s": time.perf_counter() - start_s,
        "cpu_s": time.process_time() - cpu_s,
        "tokens": tokens,
        "ttft_s": ttft_s,
    }
    for worker in workers:
        worker.socket.close()
    return result


def main() -> None:
    port = int(sys.argv[1])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(drive(port, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
