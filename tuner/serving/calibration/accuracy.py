"""Predictions against measured rows: every row asked as a user would ask it, then scored in every direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from controlplane.model.errors import TrimtabError
from tuner.serving.calibration.baseline import compare
from tuner.serving.calibration.rows import row_question
from tuner.serving.calibration.score import Point, Score, by_label, macro_median_pct, score
from tuner.serving.calibration.silicon import SiliconRow, distinct, load_silicon, sample_path, sha256_of
from tuner.serving.calibration.split import HELD_EXPORT, HELD_MODELS, HELD_SYSTEMS, split
from tuner.serving.question import Question

Metric = Literal["ttft", "tpot"]
METRICS: tuple[Metric, ...] = ("ttft", "tpot")
DIRECTIONS = ("tier", "backend", "system", "model", "held")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One row and what was predicted for it: an answer of the batch interface, or why there is none."""

    row: SiliconRow
    answer: Mapping[str, Any] | None
    error: TrimtabError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReport:
    """Scores of one metric. `by` maps a direction (tier, backend, ...) to a score of each of its values; rows without
    an answer have no tier and stand under "none". `distinct` counts each measurement once."""

    overall: Score
    distinct: Score
    macro_median_pct: float | None
    by: Mapping[str, Mapping[str, Score]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyReport:
    """`metrics` by mode (agg, disagg) and metric; `misses` counts the reasons for rows without an answer by mode."""

    rows: int
    metrics: Mapping[str, Mapping[str, MetricReport]]
    misses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self)


def ask(
    rows: Iterable[SiliconRow],
    answer: Callable[[Question], Mapping[str, Any]],
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Answered]:
    """Every row's answer, in order. A row that cannot be answered keeps its reason."""
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(Answered(row=row, answer=answer(row_question(row))))
        except TrimtabError as error:
            found.append(Answered(row=row, answer=None, error=error))
        if progress is not None:
            progress(number)
    return found


def report(answered: Iterable[Answered]) -> AccuracyReport:
    """Aggregated and disaggregated rows apart: most of the latter do not say how they were split."""
    items = list(answered)
    metrics: dict[str, dict[str, MetricReport]] = {}
    misses: dict[str, dict[str, int]] = {}
    for mode in sorted({item.row.mode for item in items}):
        chosen = [item for item in items if item.row.mode == mode]
        once = set(map(id, distinct(item.row for item in chosen)))
        metrics[mode] = {metric: _metric(chosen, once, metric) for metric in METRICS}
        reasons = Counter(_reason(item.error) for item in chosen if item.error is not None)
        if reasons:
            misses[mode] = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
    return AccuracyReport(rows=len(items), metrics=metrics, misses=misses)


def points(answered: Iterable[Answered], metric: Metric) -> list[Point]:
    """Means against means: the rows hold no percentiles."""
    return [_point(item, metric) for item in answered]


def _metric(items: list[Answered], once: set[int], metric: Metric) -> MetricReport:
    found = points(items, metric)
    return MetricReport(
        overall=score(found),
        distinct=score(point for point, item in zip(found, items, strict=True) if id(item.row) in once),
        macro_median_pct=macro_median_pct(found),
        by={direction: by_label(found, direction) for direction in DIRECTIONS},
    )


def _point(item: Answered, metric: Metric) -> Point:
    row = item.row
    latency = None if item.answer is None else item.answer[f"{metric}_ms"]
    labels = {
        "tier": "none" if item.answer is None else str(item.answer["tier"]),
        "backend": row.backend,
        "system": row.system,
        "model": row.model,
        "held": _held(row),
    }
    return Point(
        measured=row.ttft_ms if metric == "ttft" else row.tpot_ms,
        predicted=None if latency is None else latency["mean"],
        lo=None if latency is None else latency.get("lo"),
        hi=None if latency is None else latency.get("hi"),
        labels=tuple(labels.items()),
    )


def _held(row: SiliconRow) -> str:
    """Why a row is held out: A its export, B its accelerator, C its model; none where it is not."""
    held = (
        ("A", row.export == HELD_EXPORT),
        ("B", row.system in HELD_SYSTEMS),
        ("C", row.model in HELD_MODELS),
    )
    return "".join(letter for letter, true in held if true) or "none"


def _reason(error: TrimtabError) -> str:
    place = "" if error.field is None else f" ({error.field.rpartition(', ')[2]})"
    return f"{error.reason}: {error.message}{place}"[:160]


def score_file(
    path: Path | None,
    split_name: str,
    answer: Callable[[Question], Mapping[str, Any]],
    *,
    baseline: bool = True,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Scores of one file's split (fit, test, all) as JSON shows them. Raises InvalidSpec for an unusable file."""
    file = sample_path() if path is None else path
    rows = load_silicon(file)
    parts = split(rows)
    chosen = {"fit": parts.fit_clean, "test": parts.test, "all": rows}[split_name]
    answered = ask(chosen, answer, progress=progress)
    found = {
        "data": file.name,
        "data_sha256": sha256_of(file),
        "split": split_name,
        **report(answered).as_dict(),
    }
    agg = [item for item in answered if item.row.mode == "agg"]
    if baseline and agg:
        ours: dict[str, list[Point]] = {metric: points(agg, metric) for metric in METRICS}
        found["baseline"] = compare([item.row for item in agg], ours, progress=progress)
    return found
