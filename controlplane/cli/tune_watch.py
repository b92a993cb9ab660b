"""`trimtab tune watch`: a job followed until it has ended."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from controlplane.cli.tune_place import JobPlace, at_place, job_argument, output_option
from controlplane.model.errors import TrimtabError

if TYPE_CHECKING:
    from controlplane.model.tuning_records import TuningJobRecord

INTERRUPTED = 130
_OPEN = {"running", "paused"}
_TOKEN_OVER = {"TokenEnded", "Unauthorized"}
_WAIT_S = 1.0
_LOOK_S = 5.0  # at the job itself, where no event says that it has ended


@click.command()
@job_argument
@at_place
@output_option
def watch(place: JobPlace, job: str, output: str) -> None:
    """Follow a job until it has ended. Ctrl-C ends the watching, not the job.

    Ends with 0 where the job is done, 1 where it failed or was cancelled, 130 after Ctrl-C. -o json: one event a line.

    \b
    trimtab tune watch nightly
    trimtab tune watch nightly --server https://trimtab.example -n team -o json
    """
    from controlplane.cli.tune_text import ended_text  # noqa: PLC0415

    record = place.find(job)
    if not place.remote and record.state.value == "running" and not record.counts.leased:
        hint = f"trimtab tune run --resume {record.name}{place.options}"
        click.echo(f"no trial is under way; if no other process works on it: {hint}", err=True)
    with told_how_to_follow(place, record):
        record = followed(place, record, json_lines=output == "json")
    if output == "table":
        click.echo(ended_text(record))
    if record.state.value != "done":
        raise click.exceptions.Exit(1)


def followed(
    place: JobPlace, record: TuningJobRecord, *, quiet: bool = False, json_lines: bool = False
) -> TuningJobRecord:
    """The job as it ended."""
    from controlplane.cli.tune_follow import Follower  # noqa: PLC0415

    follower = None if quiet or json_lines else Follower(place, record)
    seen, look_s = record.events, 0.0
    try:
        while True:
            if follower is not None:
                events = follower.tell(_WAIT_S)
            else:
                events, _ = place.happened(record.id, seen, _WAIT_S)
            for event in events:
                seen = event.id
                if json_lines:
                    click.echo(json.dumps(event.model_dump(mode="json", by_alias=True)))
            if not events and time.monotonic() >= look_s:
                look_s = time.monotonic() + _LOOK_S
                found = _looked(place, record)
                if found.state.value not in _OPEN and found.events <= seen:
                    return found
            elif events:
                look_s = 0.0
    finally:
        if follower is not None:
            follower.close()


def _looked(place: JobPlace, record: TuningJobRecord) -> TuningJobRecord:
    """As it was, while an API does not answer."""
    from controlplane.cli.tune_http import PASSING  # noqa: PLC0415
    from controlplane.model.errors import Refused  # noqa: PLC0415

    try:
        return place.get(record.id)
    except Refused as refused:
        if refused.reason not in PASSING:
            raise
        return record


@contextlib.contextmanager
def told_how_to_follow(place: JobPlace, record: TuningJobRecord) -> Iterator[None]:
    """Ctrl-C, or a token that runs out, leaves the job as it is: how to come back to it is said."""
    again = f"follow it: trimtab tune watch {record.name}{place.options}"
    try:
        yield
    except KeyboardInterrupt:
        click.echo(
            f"\n{record.name} goes on; {again}\nend it: trimtab tune cancel {record.name}{place.options}", err=True
        )
        raise click.exceptions.Exit(INTERRUPTED) from None
    except TrimtabError as error:
        if error.reason in _TOKEN_OVER:
            click.echo(f"with a new token, {again}", err=True)
        raise
