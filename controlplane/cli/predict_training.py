"""`trimtab predict training`: iteration time and memory of parallel plans, before a GPU is booked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from controlplane.cli.progress import Progress


@click.command()
@click.argument("lines", type=click.File("rb"), default="-")
@click.option(
    "--constants",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Constants refitted by `trimtab calibrate training`.",
)
def training(lines: BinaryIO, constants: Path | None) -> None:
    """Predict iteration time, memory per stage and energy; one JSON object per line in and out, in order.

    \b
    trimtab predict training cases.jsonl > answers.jsonl
    echo '{"id": 1, "model": {"layers": 96, "hidden": 12288, "heads": 96, "vocab": 51200, "seq": 2048},
           "cluster": {"gpu": "a100-sxm-80gb", "gpus": 1024, "gpus_per_node": 8, "nic": "ib-hdr-200",
                       "nics_per_node": 8}, "tp": 8, "pp": 16, "dp": 8, "micro_batch": 1,
           "global_batch": 512, "recompute": "selective", "sp": true}' | tr -d '\\n' | trimtab predict training
    """
    from tuner.training import batch  # noqa: PLC0415 - numpy and the catalogue: not for --help
    from tuner.training.predict import Predictor, predictor_of  # noqa: PLC0415

    predictor = Predictor() if constants is None else predictor_of(constants)
    with Progress("lines") as tell:
        done, errors = batch.run(lines, sys.stdout, predictor, progress=tell)
    if errors:
        click.echo(f"{errors} of {done} lines have an error for an answer", err=True)
