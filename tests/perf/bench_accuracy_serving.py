"""Accuracy of the serving predictor on the fitted rows of the measured sample: every figure from a fold that its fit had
not seen; rows without an answer count as infinitely wrong. The test split is not touched (`bench_accuracy_serving_test`).
"""

import math

from tests.perf.report import Emit, Figure
from tuner.serving.calibration import package
from tuner.serving.calibration.fit import fit
from tuner.serving.calibration.observations import observe
from tuner.serving.calibration.parameters import Metric
from tuner.serving.calibration.silicon import load_silicon

BENCH = "accuracy-serving"
METRICS: tuple[Metric, ...] = ("ttft", "tpot")  # in the order of the errors
TARGETS_PCT = {"fit_ttft": 12.0, "fit_tpot": 6.0, "bsm_ttft": 27.0, "bsm_tpot": 14.0}


def run(emit: Emit) -> None:
    rows = load_silicon()
    wanted = package.fit_rows(rows)
    observations, missed = observe(wanted)
    found = fit(observations, package.LEVELS, shrinkage=package.SHRINKAGE)
    folds = {"fit": package.configuration_folds(observations), "bsm": package.group_folds(observations)}
    held = {name: package.checked(found, fold_of) for name, fold_of in folds.items()}
    for name, checked in held.items():
        for at, metric in enumerate(METRICS):
            value = package.median_pct(checked.errors[:, at], len(missed))
            _emit(emit, f"{name}_{metric}_median_pct", value, TARGETS_PCT[f"{name}_{metric}"], "lower", len(wanted))
    residuals = {name: package.residuals(observations, checked) for name, checked in held.items()}
    pooled: list[float] = []
    for name, items in residuals.items():
        shares, widths = package.coverage_of(items, folds[name])
        pooled += [shares["ttft"], shares["tpot"]]
        for metric in METRICS:
            _emit(emit, f"{name}_{metric}_interval_coverage_pct", 100 * shares[metric], 90.0, "higher", len(items))
            half_width = 100 * (math.exp(widths[metric]) - 1)
            _emit(emit, f"{name}_{metric}_interval_half_width_pct", half_width, None, "lower", len(items))
    _emit(emit, "interval_coverage_pct", 100 * sum(pooled) / len(pooled), 90.0, "higher", 4 * len(observations))
    aggregated = [row for row in rows if row.mode == "agg"]
    answered, _ = observe(aggregated)
    roofline = sum(item.tier == "roofline" for item in answered)
    _emit(emit, "agg_coverage_pct", 100 * len(answered) / len(aggregated), 95.0, "higher", len(aggregated))
    _emit(emit, "roofline_share_pct", 100 * roofline / len(aggregated), 8.0, "lower", len(aggregated))


def _emit(emit: Emit, figure: str, value: float, target: float | None, better: str, n: int) -> None:
    emit(Figure(bench=BENCH, figure=figure, value=round(value, 3), unit="%", target=target, better=better, n=n))  # type: ignore[arg-type]
