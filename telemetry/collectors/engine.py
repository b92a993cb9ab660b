"""Reads the metrics page of an inference engine into one sample under engine-neutral names.

Each engine calls its series differently; the catalogue maps our names to the engine's. Counters and gauges become one
column each; a histogram becomes `<name>_sum`, `<name>_count` and `<name>_bucket:<upper bound>`.
"""

from collections.abc import Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

MAX_PAGE_BYTES = 4 << 20  # an engine's page is some 10 KB; a runaway page is refused, not parsed


class BadMetricsPage(ValueError):
    """The page is too large or not in Prometheus text format."""


def parse(page: bytes, names: Mapping[str, str]) -> dict[str, float]:
    """One sample from a metrics page. `names` maps our series name to the engine's.

    Values of the same series under several label sets (data-parallel ranks) are added: running requests, tokens and
    histogram counts are sums; a ratio is averaged by the caller's choice of series. Series the engine does not report
    are absent from the sample. Raises BadMetricsPage.
    """
    if len(page) > MAX_PAGE_BYTES:
        raise BadMetricsPage(f"metrics page of {len(page)} bytes; allowed: {MAX_PAGE_BYTES}")
    wanted = {theirs: ours for ours, theirs in names.items()}
    sample: dict[str, float] = {}
    ratio_counts: dict[str, int] = {}
    try:
        for family in text_string_to_metric_families(page.decode()):
            for item in family.samples:
                column = _column(item.name, item.labels, wanted)
                if column is None:
                    continue
                if column.endswith(("_ratio", "_percent")):
                    ratio_counts[column] = ratio_counts.get(column, 0) + 1
                sample[column] = sample.get(column, 0.0) + float(item.value)
    except (ValueError, KeyError, IndexError) as error:  # the parser indexes into lines it takes for well-formed
        raise BadMetricsPage(f"not a Prometheus text page: {error}") from error
    for column, count in ratio_counts.items():
        sample[column] /= count
    return sample


def _column(series: str, labels: Mapping[str, str], wanted: Mapping[str, str]) -> str | None:
    if series in wanted:
        return wanted[series]
    for suffix in ("_sum", "_count", "_bucket", "_total"):
        base = series.removesuffix(suffix)
        if base != series and base in wanted:
            if suffix == "_total":
                return wanted[base]
            if suffix == "_bucket":
                return f"{wanted[base]}_bucket:{float(labels['le'])}"
            return f"{wanted[base]}{suffix}"
    return None


def buckets(columns: Iterable[str], name: str) -> dict[float, str]:
    """The columns of histogram `name`'s cumulative buckets: upper bound -> column."""
    prefix = f"{name}_bucket:"
    return {float(column[len(prefix) :]): column for column in columns if column.startswith(prefix)}
