"""`trimtab tune report|bundle`: what a job leaves behind, as files."""

from __future__ import annotations

from pathlib import Path

import click

from controlplane.cli.files import whole_file
from controlplane.cli.tune_place import JobPlace, at_place, job_argument


@click.command()
@job_argument
@at_place
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File (JOB.html).")
def report(place: JobPlace, job: str, out: Path | None) -> None:
    """Write the report: one HTML file without scripts or outside files.

    \b
    trimtab tune report nightly --out nightly.html
    """
    record = place.find(job)
    text = place.report(record)
    path = out or Path(f"{Path(record.name).name}.html")  # here, whatever a server calls it
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    click.echo(str(path))


@click.command()
@job_argument
@at_place
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File (JOB.tar.gz).")
def bundle(place: JobPlace, job: str, out: Path | None) -> None:
    """Write everything needed to measure best and baseline again elsewhere, with the raw samples.

    \b
    trimtab tune bundle nightly && tar xzf nightly.tar.gz && nightly/run-again.sh
    """
    record = place.find(job)
    body = place.bundle(record)
    path = out or Path(f"{Path(record.name).name}.tar.gz")
    with whole_file(path) as partial:
        partial.write_bytes(body)
    click.echo(str(path))
