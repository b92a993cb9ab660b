"""`trimtab accuracy`: how good the predictions are, on rows that were measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.accuracy_training import training
from controlplane.cli.progress import Progress

if TYPE_CHECKING:
    from tuner.serving.calibration.parameters import Calibration

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_WARNING = (
    "The test rows judge a release. Every look at them makes the next judgement weaker: score them once per release, "
    "never to choose or tune. This run is written to {path}."
)


@click.group()
def accuracy() -> None:
    """Score predictions against measured runs."""


accuracy.add_command(training)


@accuracy.command()
@click.option("--data", type=_FILE, help="CSV in the silicon_sample.csv schema. The installed sample when absent.")
@click.option(
    "--split",
    type=click.Choice(["fit", "test", "all"]),
    default="fit",
    show_default=True,
    help="fit: rows that corrections may be fitted on. test: held-out exports, accelerators and models.",
)
@click.option("--calibration", type=_FILE, help="Corrections refitted by `trimtab calibrate serving`.")
@click.option("--raw", is_flag=True, help="No correction: step tables and replay as they are.")
@click.option(
    "--baseline/--no-baseline", default=True, help="Also score aiconfigurator's own estimate, where installed."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def serving(data: Path | None, split: str, calibration: Path | None, raw: bool, baseline: bool, output: str) -> None:
    """Errors, coverage and intervals of TTFT and TPOT, per tier, backend, accelerator and model.

    \b
    trimtab accuracy serving                                   # the sample's rows that may be fitted on
    trimtab accuracy serving --data mine.csv --split all -o json
    """
    from tuner.serving.calibration.accuracy import score_file  # noqa: PLC0415 - numpy: not for --help
    from tuner.serving.predict import Predictor  # noqa: PLC0415

    if split == "test":
        click.echo(_WARNING.format(path=_log_path()), err=True)
    predictor = Predictor(calibration=calibration, raw=raw)
    with Progress("rows") as tell:
        found = score_file(data, split, predictor.answer, baseline=baseline, progress=tell)
    found["calibration"] = _about(predictor.calibration, found)
    if split == "test":
        _log(found)
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        from controlplane.cli.accuracy_table import accuracy_table  # noqa: PLC0415

        click.echo(accuracy_table(found))


def _about(calibration: Calibration | None, found: dict[str, Any]) -> dict[str, Any] | None:
    """Which corrections were used, and whether they have seen the rows they are scored on."""
    if calibration is None:
        return None
    source = calibration.provenance
    return {
        "name": calibration.name,
        "fitted_on_these_rows": source.data_sha256 == found["data_sha256"] and found["split"] != "test",
        "held_out_groups": source.checked,
    }


def _log_path() -> Path:
    from tuner.serving.step.store import cache_folder  # noqa: PLC0415

    return cache_folder() / "accuracy-test.jsonl"


def _log(found: dict[str, Any]) -> None:
    """One line for each look at the test rows."""
    from datetime import UTC, datetime  # noqa: PLC0415

    kept = {name: found[name] for name in ("data", "data_sha256", "split", "rows")}
    heads = {
        f"{mode}_{metric}_median_pct": report["overall"]["median_pct"]
        for mode, metrics in found["metrics"].items()
        for metric, report in metrics.items()
    }
    path = _log_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **kept, **heads}) + "\n")
