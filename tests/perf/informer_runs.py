"""Runs the measured informer process against the stub server; shared by `bench_cache` and `bench_watch`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.perf.stub_api_server import StubApiServer


async def _run(pods: int, events: int) -> dict[str, Any]:
    async with StubApiServer(pods, events) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.perf.informer_process", str(server.port), str(pods), str(events)),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"the measured process ended with {process.returncode}")
        report: dict[str, Any] = json.loads(output)
        if report["pods"] != pods:
            raise RuntimeError(f"the cache holds {report['pods']} of {pods} pods")
        return report


def informer_run(pods: int, events: int = 0) -> dict[str, Any]:
    """One run in a fresh process: what its cache weighs and what its events cost."""
    return asyncio.run(_run(pods, events))
