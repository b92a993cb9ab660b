"""Server-sent events: one bounded log, many readers, each shown only what it may see.

A reader that resumes with an id the log still holds gets exactly what followed. With an older or unknown id it gets an
explicit `gap` event and then the full state, and goes on from there: it may have missed changes, and is told.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.api.auth import RECHECK_S, Authority, Identity
from controlplane.api.problem import Problem
from controlplane.bus import Entry, EventLog
from controlplane.kube import KubeError, Resource

HEARTBEAT_S = 15.0
# Changes sent in one write: large enough that a burst costs few writes, small enough to keep the loop responsive.
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Streamed:
    """A kind that is streamed: which right shows it, and its present state as (namespace, JSON) pairs."""

    resource: Resource
    state: Callable[[], AsyncIterator[tuple[str | None, bytes]]]


def frame(event: str, data: bytes, event_id: str | None = None) -> bytes:
    """One event in the text/event-stream format. `data` must be a single line (compact JSON is)."""
    head = f"id: {event_id}\nevent: {event}\ndata: " if event_id else f"event: {event}\ndata: "
    return head.encode() + data + b"\n\n"


class _View:
    """What one reader may see, remembered for as long as a review holds."""

    def __init__(self, authority: Authority, identity: Identity, kinds: Mapping[str, Streamed]) -> None:
        self._authority = authority
        self._identity = identity
        self._kinds = kinds
        self._allowed: dict[tuple[str, str | None], bool] = {}

    async def sees(self, kind: str, namespace: str | None) -> bool:
        known = self._allowed.get((kind, namespace))
        if known is not None:
            return known
        streamed = self._kinds.get(kind)
        allowed = False
        if streamed is not None:
            # One review answers for all namespaces where the caller is cluster-wide.
            allowed = await self._everywhere(kind, streamed) or (
                namespace is not None
                and await self._authority.allows(self._identity, "watch", streamed.resource, namespace)
            )
        self._allowed[(kind, namespace)] = allowed
        return allowed

    def forget(self) -> None:
        self._allowed.clear()

    async def _everywhere(self, kind: str, streamed: Streamed) -> bool:
        key = (kind, None)
        if key not in self._allowed:
            self._allowed[key] = await self._authority.allows(self._identity, "watch", streamed.resource, None)
        return self._allowed[key]


async def follow(
    log: EventLog,
    authority: Authority,
    identity: Identity,
    kinds: Mapping[str, Streamed],
    last_event_id: str | None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[bytes]:
    """The event stream of one reader, until its token ends, is revoked, or the reader goes away."""
    view = _View(authority, identity, kinds)
    position = log.last if last_event_id is None else log.position(last_event_id)
    recheck_at_s = now() + RECHECK_S
    yield b"retry: 2000\n\n"
    if last_event_id is None or position is None:
        if last_event_id is not None:
            yield frame("gap", b'{"reason":"EventsLost"}', log.id_of(log.last))
        position = log.last
        async for chunk in _full_state(view, kinds):
            yield chunk
        yield frame("synced", b"{}", log.id_of(position))
    while True:
        if now() >= recheck_at_s:
            view.forget()
            recheck_at_s = now() + RECHECK_S
            if not await _still_known(authority, identity):
                yield frame("end", b'{"reason":"TokenRevoked"}')
                return
        if identity.ended(now()):
            yield frame("end", b'{"reason":"TokenEnded"}')
            return
        entries = log.after(position)
        if entries is None:
            yield frame("gap", b'{"reason":"ReaderTooSlow"}', log.id_of(log.last))
            position = log.last
            async for chunk in _full_state(view, kinds):
                yield chunk
            yield frame("synced", b"{}", log.id_of(position))
        elif entries:
            batch = entries[:_BATCH]
            shown = await _shown(log, view, batch)
            position = batch[-1].number
            if shown:
                yield shown
        else:
            ends_in_s = identity.ends_at_s - now() if identity.ends_at_s is not None else HEARTBEAT_S
            try:
                await asyncio.wait_for(log.wait_beyond(position), max(0.0, min(HEARTBEAT_S, ends_in_s)))
            except TimeoutError:
                yield b": still here\n\n"


async def _full_state(view: _View, kinds: Mapping[str, Streamed]) -> AsyncIterator[bytes]:
    for kind, streamed in kinds.items():
        async for namespace, document in streamed.state():
            if await view.sees(kind, namespace):
                yield frame("state", document)


async def _shown(log: EventLog, view: _View, entries: Sequence[Entry]) -> bytes:
    parts: list[bytes] = []
    for entry in entries:
        change = entry.change
        if await view.sees(change.kind, change.namespace):
            parts.append(frame(change.type, change.body, log.id_of(entry.number)))
    return b"".join(parts)


async def _still_known(authority: Authority, identity: Identity) -> bool:
    """False once the cluster refuses the token; being held up says nothing about it."""
    try:
        await authority.identify(f"Bearer {identity.token}")
    except Problem as problem:
        return problem.status != 401
    except KubeError:
        # The API server is away: what the reader sees cannot change meanwhile either. The next recheck decides.
        return True
    return True
