"""Quantiles from Prometheus histogram buckets."""

from collections.abc import Mapping


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """The q-quantile (0 < q < 1) of observations counted in cumulative `buckets` (upper bound -> count).

    Linear inside a bucket, as Prometheus' `histogram_quantile`. None when nothing was observed; when the quantile
    lies in the open last bucket the largest finite bound is returned, which is a lower limit of the truth.
    Raises ValueError for q outside (0, 1).
    """
    if not 0 < q < 1:
        raise ValueError(f"q: {q}; allowed: between 0 and 1")
    bounds = sorted(buckets)
    if not bounds:
        return None
    total = buckets[bounds[-1]]
    if total <= 0:
        return None
    rank = q * total
    lower_bound, lower_count = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank:
            if bound == float("inf"):
                return lower_bound if lower_bound > 0 else None
            share = (rank - lower_count) / (count - lower_count) if count > lower_count else 1.0
            return lower_bound + (bound - lower_bound) * share
        lower_bound, lower_count = bound, count
    return lower_bound
