"""Open-loop load on an OpenAI endpoint: `python -m tests.perf.serving_load URL --rate 2 --duration-s 60`.

Requests are sent at their intended times whether or not earlier ones have been answered, and latencies count from
those times: a stall shows in every request it delays. Each request uses its own connection, as a fleet of clients
behind a Service does; `--keep-alive` reuses connections instead. SIGTERM ends the sending early. Prints one JSON object
with a record per request once the last answer is there.

Standard library only: it is run inside the cluster's network namespace, where ClusterIPs answer.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit


@dataclass
class Record:
    """One request. `error` is empty when every token asked for arrived and the stream ended properly."""

    intended_s: float
    ttft_s: float | None = None
    end_s: float | None = None
    tokens: int = 0
    error: str = ""


class Connections:
    """Idle connections to one address, for --keep-alive."""

    def __init__(self, host: str, port: int, keep: bool) -> None:
        self._address = (host, port)
        self._keep = keep
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)

    def give_back(self, pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], reusable: bool) -> None:
        if self._keep and reusable:
            self._idle.append(pair)
        else:
            pair[1].close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status_line = await reader.readline()
    if not status_line:
        raise ConnectionError("closed before an answer")
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return int(status_line.split()[1]), headers


async def _one(connections: Connections, path: str, host: str, body: bytes, want: int, started_s: float) -> Record:
    record = Record(started_s)
    pair = await connections.take()
    reader, writer = pair
    reusable = False
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        status, headers = await _head(reader)
        if status != 200:
            record.error = f"HTTP {status}"
            return record
        done = False
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        while not done:
            if chunked:
                size = int((await reader.readline()).split(b";")[0] or b"0", 16)
                block = await reader.readexactly(size) if size else b""
                await reader.readline()
                if size == 0:
                    break
            else:
                block = await reader.readline()
                if not block:
                    break
            for line in block.split(b"\n"):
                if not line.startswith(b"data: "):
                    continue
                if line.strip() == b"data: [DONE]":
                    done = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    record.error = f"error event: {event['error']}"[:300]
                    return record
                if event.get("usage"):
                    record.tokens = event["usage"]["completion_tokens"]
                if event.get("choices") and record.ttft_s is None:
                    record.ttft_s = time.time() - started_s
        if chunked and done:
            reusable = (await reader.readline()).strip() == b"0"
            await reader.readline()
        reusable = reusable and headers.get("connection", "").lower() != "close"
        if not done:
            record.error = "the stream ended early"
        elif record.tokens != want:
            record.error = f"{record.tokens} of {want} tokens"
        record.end_s = time.time() - started_s
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        record.error = f"{type(error).__name__}: {error}"
    finally:
        connections.give_back(pair, reusable)
    return record


async def load(
    url: str,
    model: str,
    rate_per_s: float,
    duration_s: float,
    in_tokens: int,
    out_tokens: int,
    keep_alive: bool,
    seed: int,
) -> list[Record]:
    """Send for `duration_s` or until SIGTERM, then wait for the last answers."""
    parts = urlsplit(url)
    assert parts.hostname
    connections = Connections(parts.hostname, parts.port or 80, keep_alive)
    rng = random.Random(seed)
    tasks: list[asyncio.Task[Record]] = []
    enough = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, enough.set)
    start_s = time.time()
    for number in range(int(rate_per_s * duration_s)):
        intended_s = start_s + number / rate_per_s
        await asyncio.sleep(max(0.0, intended_s - time.time()))
        if enough.is_set():
            break
        body = json.dumps(
            {
                "model": model,
                "prompt": [rng.randrange(300, 1300) for _ in range(in_tokens)],
                "max_tokens": out_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()

        async def guarded(body: bytes = body, intended_s: float = intended_s) -> Record:
            try:
                async with asyncio.timeout(120):
                    return await _one(connections, "/v1/completions", parts.netloc, body, out_tokens, intended_s)
            except TimeoutError:
                return Record(intended_s, error="no complete answer within 120 s")
            except OSError as error:
                return Record(intended_s, error=f"{type(error).__name__}: {error}")

        tasks.append(asyncio.create_task(guarded()))
    return list(await asyncio.gather(*tasks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rate", type=float, default=2.0, help="requests per second")
    parser.add_argument("--duration-s", type=float, default=60.0)
    parser.add_argument("--in-tokens", type=int, default=64)
    parser.add_argument("--out-tokens", type=int, default=16)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    records = asyncio.run(
        load(
            given.url,
            given.model,
            given.rate,
            given.duration_s,
            given.in_tokens,
            given.out_tokens,
            given.keep_alive,
            given.seed,
        )
    )
    json.dump([asdict(record) for record in records], sys.stdout)


if __name__ == "__main__":
    main()
