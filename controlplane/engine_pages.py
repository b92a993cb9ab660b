"""How an engine's metrics page is fetched and read, for everything that looks at running engines."""

import ipaddress
from collections.abc import Mapping
from functools import lru_cache

import aiohttp

from controlplane.catalog import load
from controlplane.catalog.engines import Engine
from controlplane.model.errors import UnknownName
from telemetry.collectors.engine import MAX_PAGE_BYTES

_TIMEOUT_S = 3.0


def page_url(engine_id: str, ip: str) -> str | None:
    """Where a pod's engine tells its metrics. None: no such engine, or no address of a pod's own."""
    if not reachable(ip):
        return None
    try:
        engine = load().engine(engine_id)
    except UnknownName:
        return None
    host = f"[{ip}]" if ":" in ip else ip
    return f"http://{host}:{engine.port}{engine.metrics.path}"


def reachable(ip: str) -> bool:
    """Whether it is a pod's address: a loopback or link-local one would be ours, or the node's."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast)


@lru_cache
def series_names(engine_id: str) -> Mapping[str, str]:
    """Our series name -> the engine's, for what the engine exports. Raises UnknownName."""
    return _series_names(load().engine(engine_id))


def _series_names(engine: Engine) -> Mapping[str, str]:
    theirs = engine.metrics
    kv_unit = "percent" if theirs.kv_usage_unit == "percent" else "ratio"
    ours = {
        "requests_running": theirs.running,
        "requests_waiting": theirs.waiting,
        f"kv_cache_use_{kv_unit}": theirs.kv_usage,
        "ttft_s": theirs.ttft,
        "inter_token_s": theirs.inter_token,
        "tpot_s": theirs.tpot,
        "e2e_s": theirs.e2e,
        "queue_s": theirs.queue_time,
        "prompt_tokens": theirs.prompt_tokens,
        "generation_tokens": theirs.generation_tokens,
        "preemptions": theirs.preemptions,
    }
    return {name: series for name, series in ours.items() if series}


async def fetch_page(session: aiohttp.ClientSession, url: str) -> bytes:
    """GET without redirects (an engine must not send us elsewhere), at most MAX_PAGE_BYTES + 1 bytes."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise OSError(f"{url} answered {response.status}")
            page = bytearray()
            # One read gives what has arrived so far, not the whole page.
            async for piece in response.content.iter_any():
                page += piece
                if len(page) > MAX_PAGE_BYTES:
                    break
            return bytes(page[: MAX_PAGE_BYTES + 1])
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error


def session() -> aiohttp.ClientSession:
    """Sends nothing but the GET, keeps no cookies, and unpacks nothing: a small page must not become a huge one."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
