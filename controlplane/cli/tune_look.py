"""`trimtab tune list|show|trials|best|why`: jobs looked at, here or at an API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.tune_place import JOBS_MAX, JobPlace, Order, at_place, job_argument, output_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.model.resource import Part

_TRIAL_STATES = ("waiting", "leased", "done", "infeasible", "failed", "cancelled")
_JOB_STATES = ("running", "paused", "done", "failed", "cancelled")
_REASONS_OF = 500  # trials that are read to say what went wrong most


@click.command("list")
@at_place
@click.option("--state", "states", multiple=True, type=click.Choice(_JOB_STATES), help="Only jobs in this state.")
@output_option
def list_jobs(place: JobPlace, states: tuple[str, ...], output: str) -> None:
    """List jobs, newest first.

    \b
    trimtab tune list --state running
    trimtab tune list --server https://trimtab.example -n team
    """
    from controlplane.cli.tune_text import jobs_text  # noqa: PLC0415
    from controlplane.model.tuning import JobState  # noqa: PLC0415

    found = place.jobs([JobState(state) for state in states])
    if output == "json":
        click.echo(_listed(found))
    elif found:
        click.echo(jobs_text(found, namespaces=place.remote))
        if len(found) == JOBS_MAX:
            click.echo(f"the newest {JOBS_MAX}; --state leaves some out", err=True)
    else:
        click.echo(f"no jobs in {place.where}", err=True)


@click.command()
@job_argument
@at_place
@output_option
def show(place: JobPlace, job: str, output: str) -> None:
    """Show one job: what it asks, how far it is, what it decided.

    \b
    trimtab tune show nightly
    trimtab tune show nightly -o json | jq .decision.best.setting
    """
    from controlplane.cli.tune_text import ended_text  # noqa: PLC0415

    record = place.find(job)
    click.echo(_one(record) if output == "json" else ended_text(record))


@click.command()
@job_argument
@at_place
@output_option
@click.option("--state", "states", multiple=True, type=click.Choice(_TRIAL_STATES), help="Only trials in this state.")
@click.option("--sort", type=click.Choice(["number", "value", "-value"]), default="number", show_default=True)
@click.option("--limit", "most", type=click.IntRange(1, 500), default=100, show_default=True)
def trials(place: JobPlace, job: str, output: str, states: tuple[str, ...], sort: Order, most: int) -> None:
    """List trials: setting, result, and why it was tried or why it failed.

    \b
    trimtab tune trials nightly --sort=-value --limit 5
    trimtab tune trials nightly --state infeasible --state failed
    """
    from controlplane.cli.tune_text import trials_text  # noqa: PLC0415
    from controlplane.model.tuning import TrialState  # noqa: PLC0415

    record = place.find(job)
    found = place.trials(record.id, states=[TrialState(state) for state in states], order=sort, limit=most)
    if output == "json":
        click.echo(_listed(found))
    else:
        click.echo(trials_text(found, [one.metric for one in record.spec.objectives]))


@click.command()
@job_argument
@at_place
@output_option
def best(place: JobPlace, job: str, output: str) -> None:
    """Show the best configuration with its interval and gain. Ends with 1 where none can be handed over.

    \b
    trimtab tune best nightly
    trimtab tune best nightly -o json | jq .best.setting
    """
    from controlplane.cli.tune_text import decision_text  # noqa: PLC0415

    record = place.find(job)
    decision = place.decision(record)
    if output == "json":
        click.echo(_one(decision))
    else:
        if record.decision is None:
            click.echo(f"the job is {record.state.value}: nothing is confirmed yet", err=True)
        click.echo(decision_text(decision, [one.metric for one in record.spec.objectives]))
    if decision.best is None:
        raise click.exceptions.Exit(1)


@click.command()
@job_argument
@click.argument("trial", required=False, type=click.IntRange(min=0))
@at_place
@output_option
def why(place: JobPlace, job: str, trial: int | None, output: str) -> None:
    """Say why a job stands where it does, or why one of its trials was tried and what became of it.

    \b
    trimtab tune why nightly
    trimtab tune why nightly 12
    """
    from controlplane.cli.tune_why import job_why, reasons, trial_why  # noqa: PLC0415
    from controlplane.model.tuning import TrialState  # noqa: PLC0415

    record = place.find(job)
    if trial is not None:
        found, measured = place.trial(record.id, trial)
        if output == "json":
            body = {"trial": _plain(found), "measured": [_plain(one) for one in measured]}
            click.echo(json.dumps(body, indent=2))
        else:
            click.echo(trial_why(record, found, measured))
        return
    bad = place.trials(record.id, states=[TrialState.INFEASIBLE, TrialState.FAILED], limit=_REASONS_OF)
    if output == "json":
        told = {"state": record.state.value, "reason": record.reason, "message": record.message}
        click.echo(json.dumps(told | {"trials": reasons(bad)}, indent=2))
    else:
        click.echo(job_why(record, bad))


def _plain(body: Part) -> Any:
    return body.model_dump(mode="json", by_alias=True)


def _one(body: Part) -> str:
    return json.dumps(_plain(body), indent=2)


def _listed(bodies: Sequence[Part]) -> str:
    return json.dumps([_plain(one) for one in bodies], indent=2)
