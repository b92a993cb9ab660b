"""The packaged calibration: fitted on the measured sample, checked on what each fold leaves out.

`python -m tuner.serving.calibration.package --data FILE --out FILE` makes it again: same sample, same file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner.serving.calibration.bands import COVERAGE, Residual, bands_of
from tuner.serving.calibration.fit import Fit, Level, fit, knobs_of
from tuner.serving.calibration.labels import distance_to, support_key
from tuner.serving.calibration.observations import Floats, Observation, log_errors, observe
from tuner.serving.calibration.parameters import Band, Calibration, Distance, Effect, Metric, Provenance, Support
from tuner.serving.calibration.silicon import SiliconRow, load_silicon, sample_path, sha256_of
from tuner.serving.calibration.split import folds, split
from tuner.serving.step.store import TableStore

# Spreads were chosen on held-out (engine, accelerator, model) groups and on held-out models, not on configurations:
# docs/calibration.md has what was compared. The host times of an engine are free; factors on its step tables are not.
_GROUP = ("engine", "accelerator", "model")
LEVELS = (
    Level((), {"request_ms": 15.0, "step_ms": 0.3, "entry_token_ms": 0.003}),
    Level(("engine",), {"prefill": 0.06, "decode": 0.03, "step_ms": 0.2, "sequence_ms": 0.002, "request_ms": 4.0}),
    Level(
        _GROUP,
        {"prefill": 0.25, "decode": 0.15, "step_ms": 0.5, "sequence_ms": 0.005, "request_ms": 10.0, "launch_ms": 30.0},
    ),
    Level((*_GROUP, "precision", "tier"), {"prefill": 0.1, "decode": 0.08}),
    Level((*_GROUP, "precision", "shape"), {"prefill": 0.15, "decode": 0.08, "request_ms": 5.0}),
)
SHRINKAGE = 1.0
GROUP_FOLDS, MODEL_FOLDS, CONFIGURATION_FOLDS = 8, 6, 5


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """Errors, ln(predicted / measured) of TTFT and TPOT, of runs that the fit had not seen, and how far they were."""

    errors: Floats
    distances: tuple[Distance, ...]


def fit_rows(rows: Sequence[SiliconRow]) -> list[SiliconRow]:
    """Rows that may be fitted: aggregated, and sharing neither measurement nor configuration with the test split."""
    return [row for row in split(rows).fit_clean if row.mode == "agg"]


def configuration_folds(observations: Sequence[Observation]) -> list[int]:
    """Folds by configuration: rows that share a measurement or all but the concurrency stay together."""
    return folds([item.row for item in observations], CONFIGURATION_FOLDS)


def group_folds(observations: Sequence[Observation]) -> list[int]:
    """Folds by (engine, accelerator, model)."""
    return _folds([item.group for item in observations], GROUP_FOLDS)


def model_folds(observations: Sequence[Observation]) -> list[int]:
    """Folds by model."""
    return _folds([item.group[2:] for item in observations], MODEL_FOLDS)


def checked(found: Fit, fold_of: Sequence[int]) -> Checked:
    """Each fold replayed under the effects of a fit without it."""
    observations = found.observations
    errors = np.zeros((len(observations), 2))
    distances: list[Distance] = ["unknown"] * len(observations)
    for fold in sorted(set(fold_of)):
        left_out = [own == fold for own in fold_of]
        at = [i for i, out in enumerate(left_out) if out]
        left = [observations[i] for i in at]
        errors[at] = log_errors(left, knobs_of(left, found.without(left_out)))
        support = support_of([item for item, out in zip(observations, left_out, strict=True) if not out])
        for i, item in zip(at, left, strict=True):
            distances[i] = distance_to(support, *item.group)
    return Checked(errors, tuple(distances))


def residuals(observations: Sequence[Observation], found: Checked) -> list[Residual]:
    """For the bands: measured over predicted, end-to-end time included."""
    items = []
    for item, errors, distance in zip(observations, found.errors, found.distances, strict=True):
        predicted = [measured * float(np.exp(error)) for measured, error in zip(item.measured, errors, strict=True)]
        tokens = item.row.osl - 1
        e2e = (item.measured[0] + tokens * item.measured[1]) / (predicted[0] + tokens * predicted[1])
        values: dict[Metric, float] = {
            "ttft": -float(errors[0]), "tpot": -float(errors[1]), "e2e": float(np.log(e2e)),
        }  # fmt: skip
        items.append(Residual(item.tier, distance, item.group, values))
    return items


def coverage_of(items: Sequence[Residual], fold_of: Sequence[int]) -> tuple[dict[Metric, float], dict[Metric, float]]:
    """(share covered, median half-width of ln) by metric, of bands that had not seen the run's fold."""
    inside: dict[Metric, list[bool]] = {"ttft": [], "tpot": [], "e2e": []}
    widths: dict[Metric, list[float]] = {"ttft": [], "tpot": [], "e2e": []}
    for fold in sorted(set(fold_of)):
        bands = {
            (band.tier, band.distance, band.metric): band
            for band in bands_of([item for item, own in zip(items, fold_of, strict=True) if own != fold])
        }
        for item, own in zip(items, fold_of, strict=True):
            if own != fold:
                continue
            for metric, value in item.values.items():
                band: Band = bands[item.tier, item.distance, metric]
                inside[metric].append(bool(np.log(band.lo) <= value <= np.log(band.hi)))
                widths[metric].append(float(np.log(band.hi / band.lo) / 2))
    shares = {metric: float(np.mean(values)) for metric, values in inside.items()}
    return shares, {metric: float(np.median(values)) for metric, values in widths.items()}


def support_of(observations: Sequence[Observation]) -> Support:
    """Where the observations have been."""
    groups = sorted({item.group for item in observations})
    return Support(
        engine_system_models=[support_key(*group) for group in groups],
        engine_models=sorted({support_key(engine, model) for engine, _, model in groups}),
        engine_systems=sorted({support_key(engine, system) for engine, system, _ in groups}),
    )


def median_pct(errors: Floats, missed: int = 0) -> float:
    """Median |predicted / measured - 1| in percent; runs without an answer count as infinitely wrong."""
    sizes = np.concatenate([np.abs(np.exp(errors) - 1) * 100, np.full(missed, np.inf)])
    return float(np.median(sizes))


def make(
    data: Path | None = None, *, store: TableStore | None = None, progress: Callable[[str], None] | None = None
) -> Calibration:
    """Fit, check on folds, take bands from what the folds got wrong."""
    tell = progress or (lambda _: None)
    path = sample_path() if data is None else data
    rows = fit_rows(load_silicon(path))
    observations, missed = observe(rows, store=store)
    tell(f"{len(observations)} of {len(rows)} runs can be replayed")
    found = fit(observations, LEVELS, shrinkage=SHRINKAGE)
    effects: list[Effect] = found.effects
    tell(f"{len(effects)} effects")
    by_configuration, by_group = configuration_folds(observations), group_folds(observations)
    near, far = checked(found, by_configuration), checked(found, by_group)
    models = checked(found, model_folds(observations))
    near_items, far_items = residuals(observations, near), residuals(observations, far)
    figures: dict[str, float] = {}
    for name, held in (("configuration", near), ("group", far), ("model", models)):
        for at, metric in enumerate(("ttft", "tpot")):
            figures[f"{name}_{metric}_median_pct"] = round(median_pct(held.errors[:, at], len(missed)), 2)
    for name, items, fold_of in (("configuration", near_items, by_configuration), ("group", far_items, by_group)):
        shares, widths = coverage_of(items, fold_of)
        for metric, share in shares.items():
            figures[f"{name}_{metric}_coverage_pct"] = round(100 * share, 2)
            figures[f"{name}_{metric}_half_width_ln"] = round(widths[metric], 3)
    return Calibration(
        name="silicon-sample-1",
        effects=effects,
        bands=bands_of([*near_items, *far_items]),
        support=support_of(observations),
        provenance=Provenance(
            data="silicon_sample.csv of aiconfigurator-core 0.12.0",
            data_sha256=sha256_of(path),
            rows=len(rows),
            rows_answered=len(observations),
            filters=["aggregated", "FIT_CLEAN: no measurement or configuration of the test split"],
            method=f"effects inside the replay, robust Gauss-Newton; {COVERAGE:.0%} bands from folds left out",
            shrinkage={
                "factor": SHRINKAGE,
                **{
                    f"{'/'.join(level.labels)}: {knob}": width
                    for level in LEVELS
                    for knob, width in level.spread.items()
                },
            },
            checked=figures,
        ),
    )


def _folds(keys: Sequence[tuple[str, ...]], count: int) -> list[int]:
    """Equal keys share a fold. Keys are dealt in the order of their checksums: the same in every process."""
    order = sorted(set(keys), key=lambda key: (zlib.crc32("/".join(key).encode()), key))
    fold = {key: number % count for number, key in enumerate(order)}
    return [fold[key] for key in keys]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    import argparse  # noqa: PLC0415
    import sys  # noqa: PLC0415

    from tuner.serving.calibration.parameters import dump_calibration  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a CSV in the sample's schema (default: the installed wheel's)")
    parser.add_argument("--out", type=Path, required=True, help="where the calibration is written")
    options = parser.parse_args(arguments)
    made = make(options.data, progress=lambda text: print(text, file=sys.stderr, flush=True))
    options.out.write_text(dump_calibration(made), encoding="utf-8")


if __name__ == "__main__":
    main()
