"""A server that streams tokens on a clock and misbehaves on demand: `python -m controlplane.testing.fake_engine --port 0`.

It computes nothing. It speaks as much of the OpenAI protocol and of the embedded engine's metrics as a client needs, so
that whoever measures engines can be tested against one that stalls, dies, lies or will not end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

_PREFIX = "trimtab_engine_"
_TOKEN = b'data: {"choices": [{"index": 0, "text": "x", "finish_reason": null}]}\n\n'


@dataclass
class _Stream:
    transport: asyncio.Transport
    want: int
    arrived_s: float
    sent: int = 0
    last_s: float = 0.0


@dataclass
class _Server:
    options: argparse.Namespace
    started_s: float = field(default_factory=time.monotonic)
    live: dict[_Connection, None] = field(default_factory=dict)  # in the order of their arrival
    seen: int = 0
    sums: dict[str, float] = field(default_factory=lambda: {"ttft": 0.0, "itl": 0.0, "e2e": 0.0})
    counts: dict[str, int] = field(default_factory=lambda: {"ttft": 0, "itl": 0, "e2e": 0, "tokens": 0, "steps": 0})

    def stalled(self, now_s: float) -> bool:
        since_s = now_s - self.started_s - self.options.stall_at
        return bool(self.options.stall_at >= 0 and 0 <= since_s < self.options.stall_for)

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(self.options.interval)
            now_s = time.monotonic()
            if self.stalled(now_s):
                continue
            self.counts["steps"] += bool(self.live)
            for connection in list(self.live)[: self.options.capacity]:
                connection.advance(now_s)

    def metrics(self) -> bytes:
        names = {"ttft": "time_to_first_token", "itl": "time_per_output_token", "e2e": "request_latency"}
        lines = []
        for key, name in names.items():
            lines.append(f'{_PREFIX}{name}_seconds_sum{{model_name="m"}} {self.sums[key] * self.options.lie}')
            lines.append(f'{_PREFIX}{name}_seconds_count{{model_name="m"}} {self.counts[key]}')
        lines.append(f'{_PREFIX}generation_tokens_total{{model_name="m"}} {self.counts["tokens"]}')
        lines.append(f'{_PREFIX}steps_total{{model_name="m"}} {self.counts["steps"]}')
        lines.append(f'{_PREFIX}restarts_total{{model_name="m"}} 0')
        return "\n".join(lines).encode() + b"\n"


def _greedy(asked: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Tokens that follow from the last four; with another precision every tenth of them is another."""
    ids, context = [], list(asked["prompt"])
    for _ in range(asked["max_tokens"]):
        token = 300 + (7 * sum(context[-4:]) + len(context)) % 3000
        if options.inference_precision == "bf16" and token % 10 == 0:
            token += 1
        ids.append(token)
        context.append(token)
    gap = 0.25 if options.inference_precision == "bf16" else 0.0
    logprobs = None if options.no_logprobs else {"token_logprobs": [-1.0 - gap] * len(ids)}
    return {"token_ids": None if options.no_token_ids else ids, "logprobs": logprobs}


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._buffer = b""
        self._stream: _Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.live.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        if len(body) < length:
            return
        self._buffer = body[length:]
        self._answer(head.split(b" ", 2)[1].decode(), body[:length])

    def _answer(self, path: str, body: bytes) -> None:
        server, options = self._server, self._server.options
        now_s = time.monotonic()
        if path == "/health":
            ready = not options.never_ready and now_s - server.started_s >= options.ready_after
            self._plain(b"200 OK" if ready else b"503 Service Unavailable", b"{}")
        elif path == "/metrics":
            self._plain(b"200 OK", server.metrics())
        elif path == "/v1/completions":
            server.seen += 1
            if options.die_after and server.seen >= options.die_after:
                sys.stdout.write(f"{options.last_words}\n")
                sys.stdout.flush()
                if options.die_with < 0:
                    os.kill(os.getpid(), -options.die_with)
                os._exit(options.die_with)
            if options.refuse:
                self._plain(b"400 Bad Request", json.dumps({"error": {"message": options.refuse}}).encode())
                return
            asked = json.loads(body)
            if asked.get("return_token_ids"):
                self._plain(b"200 OK", json.dumps({"choices": [_greedy(asked, options)]}).encode())
                return
            self._stream = _Stream(self._transport, int(asked["max_tokens"]), now_s)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            self._transport.write(head)
            server.live[self] = None
        else:
            self._plain(b"404 Not Found", b"{}")

    def _plain(self, status: bytes, body: bytes) -> None:
        self._transport.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    def advance(self, now_s: float) -> None:
        """Send the next token where it is due."""
        stream, server = self._stream, self._server
        if stream is None or (stream.sent == 0 and now_s - stream.arrived_s < server.options.ttft):
            return
        if stream.sent == 0:
            server.sums["ttft"] += now_s - stream.arrived_s
            server.counts["ttft"] += 1
        else:
            server.sums["itl"] += now_s - stream.last_s
            server.counts["itl"] += 1
        server.counts["tokens"] += 1
        stream.sent, stream.last_s = stream.sent + 1, now_s
        self._chunk(_TOKEN)
        if stream.sent >= stream.want:
            server.sums["e2e"] += now_s - stream.arrived_s
            server.counts["e2e"] += 1
            usage = json.dumps({"choices": [], "usage": {"completion_tokens": stream.sent}})
            self._chunk(f"data: {usage}\n\n".encode())
            self._chunk(b"data: [DONE]\n\n")
            self._transport.write(b"0\r\n\r\n")
            self._stream = None
            server.live.pop(self, None)

    def _chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--host", default="127.0.0.1")
    add("--model", default="m")
    add("--served-model-name", default="m")
    add("--ttft", type=float, default=0.005, help="seconds to the first token")
    add("--interval", type=float, default=0.002, help="seconds between tokens")
    add("--capacity", type=int, default=100_000, help="requests at once; the others wait")
    add("--ready-after", type=float, default=0.0, help="seconds")
    add("--never-ready", action="store_true")
    add("--die-after", type=int, default=0, help="requests; 0: never")
    add("--die-with", type=int, default=1, help="exit status, or minus a signal")
    add("--die-at-start", action="store_true")
    add("--last-words", default="")
    add("--refuse", default="", help="answer every request with this error")
    add("--inference-precision", default="f32")
    add("--no-logprobs", action="store_true")
    add("--no-token-ids", action="store_true")
    add("--lie", type=float, default=1.0, help="factor on the sums of the latencies")
    add("--stall-at", type=float, default=-1.0, help="seconds after the start; below 0: never")
    add("--stall-for", type=float, default=0.0)
    add("--ignore-term", action="store_true")
    add("--daemon", action="store_true", help="leave a process in a session of its own")
    return parser.parse_known_args()[0]


async def _serve(options: argparse.Namespace) -> None:
    server = _Server(options)
    listening = await asyncio.get_running_loop().create_server(
        lambda: _Connection(server), options.host, options.port, backlog=1024
    )
    sys.stderr.write(f"listening on {options.host}:{listening.sockets[0].getsockname()[1]}\n")
    await server.tick()


def main() -> int:
    options = _options()
    print(json.dumps({"event": "config", "serve": {"engine": {"interval": options.interval}}}), flush=True)
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.daemon:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if options.die_at_start:
        sys.stderr.write(f"{options.last_words}\n")
        return int(options.die_with)
    asyncio.run(_serve(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
