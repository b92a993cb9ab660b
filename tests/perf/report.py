"""One figure of a benchmark, and how it is printed."""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` is the median of `n` repeats; `spread` is [min, max] of them."""

    bench: str
    figure: str
    value: float | None
    unit: str
    target: float | None
    better: Literal["lower", "higher"]
    n: int
    spread: tuple[float, float] | None = None


Emit = Callable[[Figure], None]


def emit_json_line(figure: Figure) -> None:
    sys.stdout.write(json.dumps(asdict(figure)) + "\n")
    sys.stdout.flush()


def from_samples(
    bench: str,
    figure: str,
    samples: Sequence[float],
    unit: str,
    target: float | None,
    better: Literal["lower", "higher"],
) -> Figure:
    """The figure of repeated measurements: their median and range. Raises ValueError without samples."""
    if not samples:
        raise ValueError(f"{bench}.{figure}: no samples")
    return Figure(
        bench,
        figure,
        statistics.median(samples),
        unit,
        target,
        better,
        len(samples),
        (min(samples), max(samples)),
    )
