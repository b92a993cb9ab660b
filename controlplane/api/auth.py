"""Who is calling, and what they may see.

TokenReview says who; SubjectAccessReview says what. Both answers are cached for half a minute at most, never beyond the
token's own end, under a hash of the token: the token itself is only kept for the request that carries it. Refusals have
a small cache of their own and unknown tokens a rate, so that guesses neither push out callers nor flood the API server.
"""

import asyncio
import base64
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import msgspec

from controlplane.api.problem import too_many_unknown, unauthorized
from controlplane.kube import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS, KubeClient, Resource

# Twice this is the longest a withdrawn right can still show: a minute.
RECHECK_S = 30.0
_REFUSED_RECHECK_S = 5.0
_MAX_TOKEN_CHARS = 16_384
_MAX_CACHED_TOKENS = 4_096
_MAX_CACHED_REFUSALS = 1_024
_UNKNOWN_TOKENS_PER_S = 20.0
_UNKNOWN_TOKENS_BURST = 40.0
_MAX_CACHED_REVIEWS = 65_536
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated caller. `ends_at_s` is the Unix time the token ends, None when it does not say."""

    user: str
    uid: str
    groups: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...]]
    ends_at_s: float | None
    token_hash: str
    token: str = field(repr=False)

    def ended(self, now_s: float) -> bool:
        return self.ends_at_s is not None and now_s >= self.ends_at_s


class _Expiring(Generic[V]):
    """A bounded cache whose entries have their own end; concurrent misses of one key ask once."""

    def __init__(self, capacity: int, now: Callable[[], float]) -> None:
        self._entries: OrderedDict[Any, tuple[float, V]] = OrderedDict()
        self._asking: dict[Any, asyncio.Task[tuple[float, V]]] = {}
        self._capacity = capacity
        self._now = now

    def __contains__(self, key: Any) -> bool:
        """Whether an answer is held, be it past its end: its asker is known."""
        return key in self._entries

    def live(self, key: Any) -> bool:
        """Whether an answer is held that has not ended."""
        held = self._entries.get(key)
        return held is not None and held[0] > self._now()

    def forget(self, key: Any) -> None:
        self._entries.pop(key, None)

    async def get(self, key: Any, ask: Callable[[], Awaitable[tuple[float, V]]]) -> V:
        held = self._entries.get(key)
        if held is not None and held[0] > self._now():
            self._entries.move_to_end(key)
            return held[1]
        task = self._asking.get(key)
        if task is None:
            task = asyncio.ensure_future(ask())
            self._asking[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        # Shielded: a caller that hangs up must not cancel the answer others wait for.
        return (await asyncio.shield(task))[1]

    def put(self, key: Any, entry: tuple[float, V]) -> None:
        """Hold (end, answer); the entry used longest ago makes room."""
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def _answered(self, key: Any, task: asyncio.Task[tuple[float, V]]) -> None:
        # Held even when every caller has hung up: they will be back, and must not ask the API server anew each time.
        self._asking.pop(key, None)
        if not task.cancelled() and task.exception() is None:
            self.put(key, task.result())


class _TokenBucket:
    """Allows `rate_per_s` on average and `burst` at once."""

    def __init__(self, rate_per_s: float, burst: float, now: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._now = now
        self._left = burst
        self._at_s = now()

    def take(self) -> float | None:
        """None when allowed, else the seconds until the next one is."""
        now_s = self._now()
        self._left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._rate_per_s)
        self._at_s = now_s
        if self._left < 1:
            return (1 - self._left) / self._rate_per_s
        self._left -= 1
        return None


class _Refused(Exception):
    """The cluster does not take the token."""


class Authority:
    """Answers both questions for the API. Raises Problem (401) for tokens the cluster does not accept, 429 when too many
    unknown tokens come at once; callers it has seen are not held up by that.

    `audience` must be among the token's audiences; None asks for the API server's own audience.
    """

    def __init__(self, client: KubeClient, audience: str | None, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._audience = audience
        self._now = now
        self._identities: _Expiring[Identity] = _Expiring(_MAX_CACHED_TOKENS, now)
        self._refusals: _Expiring[None] = _Expiring(_MAX_CACHED_REFUSALS, now)
        self._unknown = _TokenBucket(_UNKNOWN_TOKENS_PER_S, _UNKNOWN_TOKENS_BURST, now)
        self._reviews: _Expiring[bool] = _Expiring(_MAX_CACHED_REVIEWS, now)

    async def identify(self, authorization: str | None) -> Identity:
        """The caller behind an Authorization header. Raises Problem 401 or 429."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise unauthorized("No bearer token.")
        if len(token) > _MAX_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
            raise unauthorized("The bearer token is malformed.")
        token_hash = hashlib.sha256(token.encode()).hexdigest()
        refused = unauthorized("The cluster does not accept this token for this API, or it has ended.")
        if self._refusals.live(token_hash):
            raise refused
        try:
            identity = await self._identities.get(token_hash, lambda: self._review_token(token, token_hash))
        except _Refused:
            raise refused from None
        if identity.ended(self._now()):
            raise refused
        return replace(identity, token=token)

    async def allows(
        self, identity: Identity, verb: str, resource: Resource, namespace: str | None, name: str = ""
    ) -> bool:
        """Whether the cluster lets this caller do `verb`; `namespace` None means all namespaces."""
        key = (identity.token_hash, verb, resource.group, resource.plural, namespace, name)
        return await self._reviews.get(key, lambda: self._review_access(identity, verb, resource, namespace, name))

    async def _review_token(self, token: str, token_hash: str) -> tuple[float, Identity]:
        wait_s = None if token_hash in self._identities else self._unknown.take()
        if wait_s is not None:
            raise too_many_unknown(wait_s)
        spec: dict[str, Any] = {"token": token}
        if self._audience:
            spec["audiences"] = [self._audience]
        body = {"apiVersion": TOKEN_REVIEWS.api_version, "kind": TOKEN_REVIEWS.kind, "spec": spec}
        answer = msgspec.json.decode(await self._client.create(TOKEN_REVIEWS, body))
        now_s = self._now()
        status = answer.get("status", {})
        if not status.get("authenticated") or (
            # An API server that ignores audiences answers without them; such an answer proves nothing.
            self._audience and self._audience not in status.get("audiences", [])
        ):
            self._identities.forget(token_hash)
            self._refusals.put(token_hash, (now_s + _REFUSED_RECHECK_S, None))
            raise _Refused
        user = status.get("user", {})
        identity = Identity(
            user=user.get("username", ""),
            uid=user.get("uid", ""),
            groups=tuple(user.get("groups", ())),
            extra={key: tuple(values) for key, values in user.get("extra", {}).items()},
            ends_at_s=_token_end_s(token),
            token_hash=token_hash,
            token="",  # this one is cached; each request gets a copy with the token it brought
        )
        return min(now_s + RECHECK_S, identity.ends_at_s or float("inf")), identity

    async def _review_access(
        self, identity: Identity, verb: str, resource: Resource, namespace: str | None, name: str
    ) -> tuple[float, bool]:
        attributes = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "namespace": namespace or "",
            "name": name,
        }
        spec = {
            "user": identity.user,
            "uid": identity.uid,
            "groups": list(identity.groups),
            "extra": {key: list(values) for key, values in identity.extra.items()},
            "resourceAttributes": attributes,
        }
        body = {"apiVersion": SUBJECT_ACCESS_REVIEWS.api_version, "kind": SUBJECT_ACCESS_REVIEWS.kind, "spec": spec}
        answer = msgspec.json.decode(await self._client.create(SUBJECT_ACCESS_REVIEWS, body))
        return self._now() + RECHECK_S, bool(answer.get("status", {}).get("allowed"))


def _token_end_s(token: str) -> float | None:
    """The `exp` claim of a JWT (RFC 7519), or None. Read only after the cluster vouched for the token."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError):
        return None
