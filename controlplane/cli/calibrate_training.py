"""`trimtab calibrate training`: the training model's constants fitted again, on your own tables as well."""

from __future__ import annotations

import json
from pathlib import Path

import click

from controlplane.cli.progress import Progress


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of tables in the published schemas (docs/training-tables.md), yours beside the published ones.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("trimtab-training-constants.json"),
    show_default=True,
    help="Where the constants go; `predict training` takes them as --constants.",
)
def training(data: Path, out: Path) -> None:
    """Fit the constants on a folder of measured iterations and keep them with files, filters and held-out errors."""
    from tuner.training.calibration.refit import refit  # noqa: PLC0415 - numpy: not for --help

    with Progress("refits") as tell:
        found = refit(data, tell)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    interval = found["intervals"]
    click.echo(
        f"{interval['rows']} rows, {interval['coverage_pct']} % inside their 90 % intervals when held out; {out}"
    )
