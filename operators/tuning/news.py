"""What of a changed status is worth a Kubernetes event. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from operators.tuning.row import COMPLETE

# Reasons that a person should look at.
_BAD = {
    "TrialsFail",
    "WaitingForAccount",
    "WaitingForDeployment",
    "WaitingForDriver",
    "WaitingForHardware",
    "WaitingForPool",
    "Paused",
    "Cancelled",
    "JobDeleted",
    "NoDatabase",
}
_QUIET = {"Accepted", "Deleting"}


@dataclass(frozen=True, slots=True)
class News:
    """One event."""

    reason: str
    message: str
    bad: bool = False


def news(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[News]:
    """Made, another best, another dominant reason."""
    out = []
    if after.get("jobId") and not before.get("jobId"):
        out.append(News("Created", f"tuning job {after['jobId']} begun: {_trials(int(after['counts']['budget']))}"))
    best, known = after.get("best"), before.get("best") or {}
    if best and not best.get("confirmed") and best.get("trial") != known.get("trial"):
        out.append(News("BestFound", f"trial {best['trial']}: {best['text']}"))
    was, now = _complete(before), _complete(after)
    if now.get("reason") != was.get("reason") and now.get("reason") not in _QUIET:
        failed = any(item["type"] == "Failed" and item["status"] == "True" for item in after["conditions"])
        bad = failed or now["status"] == "Unknown" or now["reason"] in _BAD
        out.append(News(now["reason"], now["message"] or now["reason"], bad))
    return out


def _complete(status: Mapping[str, Any]) -> Mapping[str, Any]:
    found = [item for item in status.get("conditions") or () if item.get("type") == COMPLETE]
    return found[0] if found else {}


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
