"""`trimtab tune pause|resume|cancel|extend|clone|delete`: jobs steered, here or at an API."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from controlplane.cli.tune_place import JobPlace, at_place, job_argument, output_option

if TYPE_CHECKING:
    from controlplane.model.tuning_records import TuningJobRecord


@click.command()
@job_argument
@at_place
@output_option
def pause(place: JobPlace, job: str, output: str) -> None:
    """Give out no more trials; the one under way ends. `tune resume` goes on.

    \b
    trimtab tune pause nightly
    """
    _said(place.pause(place.find(job).id), output)


@click.command()
@job_argument
@at_place
@output_option
def resume(place: JobPlace, job: str, output: str) -> None:
    """Give out trials again. A job of this machine also needs a process that measures: `tune run --resume`.

    \b
    trimtab tune resume nightly --server https://trimtab.example
    """
    _going(place, place.resume(place.find(job).id), output)


@click.command()
@job_argument
@at_place
@output_option
def cancel(place: JobPlace, job: str, output: str) -> None:
    """End a job; the trial under way is stopped. What was measured stays.

    \b
    trimtab tune cancel nightly
    """
    _said(place.cancel(place.find(job).id), output)


@click.command()
@job_argument
@click.argument("trials")
@at_place
@output_option
def extend(place: JobPlace, job: str, trials: str, output: str) -> None:
    """Give the search a budget of TRIALS in all, or of so many more with a plus. A job that was done goes on.

    \b
    trimtab tune extend nightly 60
    trimtab tune extend nightly +20
    """
    if not re.fullmatch(r"\+?[0-9]{1,9}", trials):
        raise click.BadParameter(f"{trials!r}: 60, or +20 for so many more", param_hint="TRIALS")
    record = place.find(job)
    more = record.budget if trials.startswith("+") else 0
    _going(place, place.extend(record.id, more + int(trials)), output)


@click.command()
@job_argument
@click.argument("name")
@at_place
@output_option
def clone(place: JobPlace, job: str, name: str, output: str) -> None:
    """Make a job NAME that asks for the same as JOB, from its beginning.

    \b
    trimtab tune clone nightly nightly-2
    """
    _going(place, place.clone(place.find(job).id, name), output)


@click.command()
@job_argument
@at_place
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(place: JobPlace, job: str, yes: bool) -> None:
    """Delete a job with everything it measured. One under way is cancelled.

    \b
    trimtab tune delete nightly --yes
    """
    record = place.find(job)
    if not yes:
        click.confirm(
            f"Delete {record.name} with {record.counts.asked} trial{'' if record.counts.asked == 1 else 's'}?",
            abort=True,
            err=True,
        )
    place.delete(record.id)
    click.echo(f"deleted {record.name}")


def _going(place: JobPlace, record: TuningJobRecord, output: str) -> None:
    """A job that trials are given out of: by whom."""
    _said(record, output)
    if record.state.value == "running":
        how = f"watch {record.name}" if place.remote else f"run --resume {record.name}"
        what = "follow it" if place.remote else "measure it here"
        click.echo(f"{what}: trimtab tune {how}{place.options}", err=True)


def _said(record: TuningJobRecord, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(record.model_dump(mode="json", by_alias=True), indent=2))
    else:
        click.echo(f"{record.name} is {record.state.value}")
