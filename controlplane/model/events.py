"""What happened, for audit log, event stream and timeline alike."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one object, as published on the bus.

    `namespace` is None for cluster-scoped kinds. `body` is the JSON document of the event's data, encoded once so
    that a hundred subscribers cost one encoding.
    """

    type: Literal["added", "modified", "deleted", "event"]
    kind: str
    namespace: str | None
    name: str
    body: bytes
