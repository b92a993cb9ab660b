"""Slot numbers: part of a pod's name, so never given to two replicas of a revision at once. Pure."""

from __future__ import annotations


def free_slot(occupied: dict[str, set[int]], revision: str) -> int:
    """The lowest slot of a revision whose names are free; it is occupied from now on."""
    taken = occupied.setdefault(revision, set())
    slot = 0
    while slot in taken:
        slot += 1
    taken.add(slot)
    return slot
