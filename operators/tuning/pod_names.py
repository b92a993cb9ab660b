"""Names and labels of trial pods. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from controlplane.model import labels

_PLAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,38}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a trial pod is the pod of."""

    job: str
    number: int
    attempt: int


def trial_pod_name(of: Attempt, *, in_use: bool = False) -> str:
    """The one name this attempt's pod can have: a repeated create collides instead of starting a second engine. `in_use`:
    its other pod's, with the configuration in use."""
    job = of.job if _PLAIN.fullmatch(of.job) else hashlib.sha256(of.job.encode()).hexdigest()[:16]
    return f"tune-{job}-{of.number}-{of.attempt}{'-in-use' if in_use else ''}"


def trial_labels(of: Attempt) -> dict[str, str]:
    """By these the pod is found again."""
    return {
        labels.TUNING_JOB: of.job,
        labels.TRIAL: str(of.number),
        labels.ATTEMPT: str(of.attempt),
        labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
    }


def attempt_of(found: dict[str, str]) -> Attempt | None:
    """What these labels say; None where they are not those of a trial pod."""
    job, number, attempt = (found.get(name, "") for name in (labels.TUNING_JOB, labels.TRIAL, labels.ATTEMPT))
    if not job or not (number.isascii() and number.isdigit()) or not (attempt.isascii() and attempt.isdigit()):
        return None
    return Attempt(job, int(number), int(attempt))
