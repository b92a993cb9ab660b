"""The fake API server as a process: `python -m tests.perf.fake_cluster_process PORT TOKEN`. Who has TOKEN may do all."""

from __future__ import annotations

import asyncio
import sys

from controlplane.testing.fake_api_server import FakeApiServer, FakeReviews


async def main(port: int, token: str) -> None:
    server = FakeApiServer()
    server.port = port
    server.reviews = FakeReviews({token: "chaos"})
    async with server:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
