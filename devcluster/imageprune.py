"""Forget images of former trees, so that caches do not grow with every edit."""

from __future__ import annotations

import json
from pathlib import Path

from devcluster.paths import write_atomic
from devcluster.shell import succeeds

KEPT = 3  # newest of each name, of up to a gigabyte each: a rollback to one of them starts without a build


def remember(history: Path, reference: str, remove_command: list[str]) -> list[str]:
    """Note in the file `history` that `reference` is in use now; remove what has fallen out. Returns what was removed.

    `remove_command` deletes the references appended to it. One that refuses (a running container uses it) is tried
    again the next time.
    """
    name = reference.rpartition(":")[0]
    known = _read(history)
    order = [other for other in known.get(name, []) if other != reference] + [reference]
    old, kept = order[:-KEPT], order[-KEPT:]
    removed = [other for other in old if succeeds([*remove_command, other])]
    known[name] = [other for other in old if other not in removed] + kept
    write_atomic(history, json.dumps(known, indent=1) + "\n")
    return removed


def _read(history: Path) -> dict[str, list[str]]:
    try:
        known = json.loads(history.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return (
        {str(name): [str(item) for item in items] for name, items in known.items()} if isinstance(known, dict) else {}
    )
