"""aiconfigurator's own estimates of the same rows, repaired like ours: what the predictions must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from controlplane.model.errors import TrimtabError
from tuner.serving.calibration.rows import row_fields
from tuner.serving.calibration.score import Point, score
from tuner.serving.calibration.silicon import SiliconRow
from tuner.serving.resolve import engine_case
from tuner.serving.step import aiconfigurator
from tuner.serving.step.ladder import rungs
from tuner.serving.step.query import Miss


def estimate(row: SiliconRow) -> tuple[float, float] | None:
    """(TTFT, TPOT) in ms from measured tables of the current release; None: no answer, or a disaggregated row."""
    if row.shape is None or row.concurrency is None:
        return None
    try:
        case = engine_case(row_fields(row))
        query = next((query for _, query in rungs(replace(case, engine_version=None))), None)
        if query is None:
            return None
        batch = row.batch_per_rank or max(1, row.concurrency // row.shape.attention_data_parallel)
        return aiconfigurator.estimate_ms(query, isl=row.isl, osl=row.osl, batch=batch)
    except (Miss, TrimtabError):
        return None


def compare(
    rows: Sequence[SiliconRow],
    ours: Mapping[str, Sequence[Point]],
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores by metric: `all` rows as the package answers them, and both of us on the rows that both answer.

    `ours` holds one point for each row. Empty where the package is not installed.
    """
    if not aiconfigurator.installed():
        return {}
    found = []
    for number, row in enumerate(rows, 1):
        found.append(estimate(row))
        if progress is not None:
            progress(number)
    scores: dict[str, dict[str, Any]] = {}
    for index, metric in enumerate(("ttft", "tpot")):
        theirs = [
            replace(point, predicted=None if pair is None else pair[index], lo=None, hi=None)
            for point, pair in zip(ours[metric], found, strict=True)
        ]
        common = [
            (mine, other)
            for mine, other in zip(ours[metric], theirs, strict=True)
            if mine.predicted is not None and other.predicted is not None
        ]
        scores[metric] = {
            "all": asdict(score(theirs)),
            "common": asdict(score(other for _, other in common)),
            "ours_common": asdict(score(mine for mine, _ in common)),
        }
    return scores
