"""API: a list of 1,000 deployments, and 1,000 events to 50 event streams.

The server is the real application under uvicorn in a process of its own, over loopback HTTP. Its caches are fed by
hand and its reviews answered from a table: lists and streams never ask the API server, so the figures hold on a
cluster too once a caller's reviews are cached. Not included: TLS, and the first review of a new caller.
"""

import asyncio
import json
import multiprocessing
import time
from multiprocessing.connection import Connection

import httpx
import uvicorn

from tests.perf.report import Emit, from_samples
from tests.unit.api.fakes import Setup

DEPLOYMENTS = 1_000
CLIENTS = 50
EVENTS = 1_000
_HEADERS = {"Authorization": "Bearer alice"}
_SPEC = {
    "model": {"name": "llama-3.1-70b", "source": "hf:meta-llama/Llama-3.1-70B-Instruct"},
    "slo": {"ttftMs": {"p95": 500}, "tpotMs": {"p95": 50}},
    "explicit": {
        "choices": [
            {"accelerator": "h100-sxm-80gb", "engine": "vllm", "tensorParallel": 4, "knobs": {"maxNumSeqs": 256}},
            {"accelerator": "l40s", "engine": "vllm", "tensorParallel": 8, "quantization": "fp8"},
        ]
    },
    "replicas": 2,
}
_STATUS = {
    "observedGeneration": 1,
    "replicas": 2,
    "readyReplicas": 2,
    "accelerator": "h100-sxm-80gb",
    "reason": "ReplicasReady",
    "choices": [{"index": 0, "accelerator": "h100-sxm-80gb", "replicas": 2, "reason": "Chosen"}],
    "endpoints": [{"url": "http://chat.team.svc.cluster.local:8000", "servedModel": "llama-3.1-70b"}],
}


def _serve(pipe: Connection) -> None:
    async def main() -> None:
        setup = Setup(log_capacity=10_000)
        setup.cluster.users["alice"] = "alice"
        for plural in ("servingdeployments", "gpupools", "events"):
            setup.cluster.allow("alice", plural, "", "list", "watch", "get")
        for number in range(DEPLOYMENTS):
            setup.put("ServingDeployment", f"chat-{number:04}", f"team-{number % 20}", spec=_SPEC, status=_STATUS)
        server = uvicorn.Server(uvicorn.Config(setup.app(), port=0, log_level="error", access_log=False))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        pipe.send(server.servers[0].sockets[0].getsockname()[1])
        loop = asyncio.get_running_loop()
        round_number = 10
        while await loop.run_in_executor(None, pipe.recv) == "burst":
            round_number += 1
            for number in range(EVENTS):
                name = f"chat-{number % DEPLOYMENTS:04}"
                namespace = f"team-{number % DEPLOYMENTS % 20}"
                setup.put("ServingDeployment", name, namespace, str(round_number), spec=_SPEC, status=_STATUS)
                if number % 50 == 49:
                    await asyncio.sleep(0)  # changes arrive from watches between other work
        server.should_exit = True
        await serving

    asyncio.run(main())


async def _list_ms(url: str, repeats: int) -> list[float]:
    samples: list[float] = []
    async with httpx.AsyncClient(headers=_HEADERS) as client:
        for _ in range(repeats):
            started_s = time.perf_counter()
            answer = await client.get(f"{url}/v1/serving-deployments")
            samples.append((time.perf_counter() - started_s) * 1e3)
            assert len(json.loads(answer.content)["items"]) == DEPLOYMENTS
    return samples


async def _reader(port: int, ready: asyncio.Queue[None], done: asyncio.Queue[None]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(b"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n\r\n")
    seen = 0
    synced = False
    tail = b""
    while chunk := await reader.read(1 << 18):
        # A word can be cut by a chunk boundary: keep enough of the end to complete it, too little to count it twice.
        text = tail + chunk
        if not synced and b"event: synced" in text:
            synced = True
            text = text[text.index(b"event: synced") :]
            ready.put_nowait(None)
        seen += text.count(b"event: modified\n") if synced else 0
        tail = text[-15:]
        if seen >= EVENTS:
            seen -= EVENTS
            done.put_nowait(None)
    writer.close()


async def _sse_s(port: int, pipe: Connection, repeats: int) -> list[float]:
    ready: asyncio.Queue[None] = asyncio.Queue()
    done: asyncio.Queue[None] = asyncio.Queue()
    readers = [asyncio.create_task(_reader(port, ready, done)) for _ in range(CLIENTS)]
    for _ in range(CLIENTS):
        await ready.get()
    samples: list[float] = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        pipe.send("burst")
        async with asyncio.timeout(60):
            for _ in range(CLIENTS):
                await done.get()
        samples.append(time.perf_counter() - started_s)
    for task in readers:
        task.cancel()
    return samples


def run(emit: Emit) -> None:
    """Emit list1000_ms and sse_1000x50_s."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        port = ours.recv()
        asyncio.run(_list_ms(f"http://127.0.0.1:{port}", 5))
        emit(
            from_samples("api", "list1000_ms", asyncio.run(_list_ms(f"http://127.0.0.1:{port}", 50)), "ms", 50, "lower")
        )
        emit(from_samples("api", "sse_1000x50_s", asyncio.run(_sse_s(port, ours, 5)), "s", 1, "lower"))
    finally:
        ours.send("stop")
        server.join(10)
        server.kill()
