"""Time of equal stages as the papers state it: what the vectorised forms and the simulation are held against."""

from __future__ import annotations


def equal_stages(schedule: str, p: int, m: int, forward: float, inputs: float, weight: float, v: int = 1) -> float:
    """Time of m micro-batches on p equal stages without transfers: work plus the schedule's bubble."""
    work = forward + inputs + weight
    bubbles = {
        "gpipe": work,
        "1f1b": work,
        "interleaved": work / v,
        "zb-h1": forward + inputs - weight,
        "zb-h2": max(forward + inputs - 2.0 * weight, 0.0),
        "zb-v": max(inputs - weight, 0.0),  # with at least 2p - 1 micro-batches
    }
    return m * work + (p - 1) * bubbles[schedule]
