"""`trimtab tune list|show|trials|best|pause|cancel|delete|report|bundle`: jobs of a state directory looked at and steered."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from controlplane.cli.files import whole_file
from controlplane.cli.tune_run import state_option

if TYPE_CHECKING:
    from controlplane.model.tuning_decision import TuningDecision
    from controlplane.model.tuning_records import TuningJobRecord
    from controlplane.tuning_embedded import LocalTuning

_output = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
_job = click.argument("job")
_STATES = ("waiting", "leased", "done", "infeasible", "failed", "cancelled")


def _looks(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (_output, state_option, _job):
        command = option(command)
    return command


@click.command("list")
@state_option
@_output
def list_jobs(state_dir: Path | None, output: str) -> None:
    """List jobs, newest first."""
    with _local(state_dir) as local:
        from controlplane.cli.tune_text import jobs_text  # noqa: PLC0415
        from controlplane.tuning_embedded import TENANT  # noqa: PLC0415

        found = local.jobs.list(tenants=[TENANT], limit=500)
    if output == "json":
        click.echo(_json([one.model_dump(mode="json", by_alias=True) for one in found]))
    else:
        click.echo(jobs_text(found))


@click.command()
@_looks
def show(job: str, state_dir: Path | None, output: str) -> None:
    """Show one job: what it asks, how far it is, what it decided."""
    with _local(state_dir) as local:
        record = local.find(job)
        decision = _decision(local, record)
    from controlplane.cli.tune_text import decision_text, job_text  # noqa: PLC0415

    if output == "json":
        click.echo(_json(record.model_dump(mode="json", by_alias=True)))
        return
    click.echo(job_text(record))
    if record.decision is not None:
        click.echo("\n" + decision_text(decision, [one.metric for one in record.spec.objectives]))


@click.command()
@_looks
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only trials in this state.")
@click.option("--sort", type=click.Choice(["number", "value", "-value"]), default="number", show_default=True)
@click.option("--limit", "most", type=click.IntRange(1, 500), default=100, show_default=True)
def trials(
    job: str,
    state_dir: Path | None,
    output: str,
    states: tuple[str, ...],
    sort: Literal["number", "value", "-value"],
    most: int,
) -> None:
    """List trials: setting, result, and why it was tried or why it failed."""
    from controlplane.cli.tune_text import trials_text  # noqa: PLC0415
    from controlplane.model.tuning import TrialState  # noqa: PLC0415

    with _local(state_dir) as local:
        record = local.find(job)
        wanted = [TrialState(state) for state in states]
        found = local.studies.page(record.id, states=wanted, order=sort, limit=most)
    if output == "json":
        click.echo(_json([one.model_dump(mode="json", by_alias=True) for one in found]))
    else:
        click.echo(trials_text(found, [one.metric for one in record.spec.objectives]))


@click.command()
@_looks
def best(job: str, state_dir: Path | None, output: str) -> None:
    """Show the best configuration with its interval and gain. Ends with 1 where none can be handed over."""
    from controlplane.cli.tune_text import decision_text  # noqa: PLC0415

    with _local(state_dir) as local:
        record = local.find(job)
        decision = _decision(local, record)
    if output == "json":
        click.echo(_json(decision.model_dump(mode="json", by_alias=True)))
    else:
        if record.decision is None:
            click.echo(f"the job is {record.state.value}: nothing is confirmed yet", err=True)
        click.echo(decision_text(decision, [one.metric for one in record.spec.objectives]))
    if decision.best is None:
        raise click.exceptions.Exit(1)


@click.command()
@_looks
def pause(job: str, state_dir: Path | None, output: str) -> None:
    """Give out no more trials; the one under way ends. `tune run --resume` goes on."""
    from controlplane.tuning_embedded import utc_now  # noqa: PLC0415

    with _local(state_dir) as local:
        _said(local.steering.pause(local.find(job).id, now=utc_now()), output)


@click.command()
@_looks
def cancel(job: str, state_dir: Path | None, output: str) -> None:
    """End a job; the trial under way is stopped."""
    from controlplane.tuning_embedded import utc_now  # noqa: PLC0415

    with _local(state_dir) as local:
        _said(local.steering.cancel(local.find(job).id, now=utc_now()), output)


@click.command()
@_job
@state_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(job: str, state_dir: Path | None, yes: bool) -> None:
    """Delete a job with everything it measured."""
    from controlplane.tuning_embedded import utc_now  # noqa: PLC0415

    with _local(state_dir) as local:
        record = local.find(job)
        if not yes:
            click.confirm(f"Delete {record.name} with {record.counts.asked} trials?", abort=True, err=True)
        local.steering.delete(record.id, now=utc_now())
    click.echo(f"deleted {record.name}")


@click.command()
@_job
@state_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File (JOB.html).")
def report(job: str, state_dir: Path | None, out: Path | None) -> None:
    """Write the report: one HTML file without scripts or outside files."""
    from controlplane.tuning_files import report_of  # noqa: PLC0415

    with _local(state_dir) as local:
        record = local.find(job)
        text = report_of(local.database, record)
    path = out or Path(f"{record.name}.html")
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    click.echo(str(path))


@click.command()
@_job
@state_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File (JOB.tar.gz).")
def bundle(job: str, state_dir: Path | None, out: Path | None) -> None:
    """Write everything needed to measure best and baseline again elsewhere, with the raw samples."""
    from controlplane.tuning_files import bundle_of  # noqa: PLC0415

    with _local(state_dir) as local:
        record = local.find(job)
        body = bundle_of(local.database, record)
    path = out or Path(f"{record.name}.tar.gz")
    with whole_file(path) as partial:
        partial.write_bytes(body)
    click.echo(str(path))


@contextmanager
def _local(state_dir: Path | None) -> Iterator[LocalTuning]:
    from controlplane.tuning_embedded import local_tuning, state_folder  # noqa: PLC0415 - SQLAlchemy: not for --help

    with local_tuning(state_dir or state_folder(os.environ)) as local:
        yield local


def _decision(local: LocalTuning, record: TuningJobRecord) -> TuningDecision:
    """As kept, or as it would be now."""
    from controlplane.tuning_files import decision_of  # noqa: PLC0415

    return decision_of(local.database, record)


def _said(record: TuningJobRecord, output: str) -> None:
    if output == "json":
        click.echo(_json(record.model_dump(mode="json", by_alias=True)))
    else:
        click.echo(f"{record.name} is {record.state.value}")


def _json(body: Any) -> str:
    return json.dumps(body, indent=2)
