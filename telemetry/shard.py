"""Who looks after which key, agreed without talking: rendezvous hashing over the present members."""

import hashlib
from collections.abc import Iterable


def owner(key: str, members: Iterable[str]) -> str | None:
    """The member responsible for `key`; None without members.

    Highest random weight (Thaler and Ravishankar, 1998): when a member comes or goes only its own keys move.
    """
    return max(members, key=lambda member: _weight(key, member), default=None)


def _weight(key: str, member: str) -> bytes:
    return hashlib.blake2b(f"{member}\0{key}".encode(), digest_size=8).digest()
