"""A question's traffic as the replay's requests."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from controlplane.model.errors import InvalidSpec
from tuner.serving.fields import shown
from tuner.serving.question import Question, Span
from tuner.serving.replay.requests import (
    Requests,
    burst_times,
    closed_loop,
    gamma_times,
    open_loop,
    poisson_times,
)


def requests_of(question: Question, folder: Path | None = None) -> Requests:
    """Arrivals and lengths, drawn from the question's seed. A trace's path counts from the working directory, else
    from `folder`. Raises InvalidSpec for a trace that cannot be read."""
    arrivals, count = question.arrivals, question.requests
    if question.input is None or question.output is None or count is None:
        path = Path(arrivals.path)
        try:
            if folder is not None and not path.exists():
                path = folder / path
            changed_ns = path.stat().st_mtime_ns if path.is_file() else None
        except OSError:  # a name too long, a folder that may not be read
            changed_ns = None
        if changed_ns is None:
            raise InvalidSpec("is no file", field="arrivals.trace", value=shown(arrivals.path))
        return _trace(path, changed_ns, count)
    (isl, isl_range), (osl, osl_range) = _ratio(question.input), _ratio(question.output)
    if arrivals.kind == "closed":
        return closed_loop(
            arrivals.clients,
            count,
            isl=isl,
            osl=osl,
            isl_range=isl_range,
            osl_range=osl_range,
            shared_prefix=question.shared_prefix,
            seed=question.seed,
        )
    if arrivals.kind == "poisson":
        times = poisson_times(arrivals.rate_per_s, count, seed=question.seed)
    elif arrivals.kind == "gamma":
        times = gamma_times(arrivals.rate_per_s, arrivals.cv, count, seed=question.seed)
    else:
        times = burst_times(arrivals.rate_per_s, arrivals.burst, count)
    return open_loop(
        times,
        isl=isl,
        osl=osl,
        isl_range=isl_range,
        osl_range=osl_range,
        shared_prefix=question.shared_prefix,
        seed=question.seed,
    )


@lru_cache(maxsize=4)
def _trace(path: Path, changed_ns: int, limit: int | None) -> Requests:
    """Lines of one batch often replay the same trace; `changed_ns` makes a rewritten file a new one."""
    from tuner.serving.replay.traces import read_trace  # noqa: PLC0415 - only traces need it

    return read_trace(path, limit=limit)


def _ratio(span: Span) -> tuple[int, float]:
    """The longest, and a share whose product with it rounds down to the shortest."""
    share = span.low / span.high
    while int(share * span.high) < span.low:
        share = math.nextafter(share, math.inf)
    return span.high, share
