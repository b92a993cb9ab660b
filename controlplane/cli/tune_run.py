"""`trimtab tune run`: a job from its first trial to its decision, or on from where it stopped; here or at an API."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from controlplane.cli.tune_place import JobPlace, namespace_in, output_option, place_of, place_options, server_of
from controlplane.cli.tune_spec import spec_of, spec_options
from controlplane.cli.tune_watch import INTERRUPTED, followed, told_how_to_follow
from controlplane.model.errors import InvalidSpec

if TYPE_CHECKING:
    from controlplane.model.tuning_job import TuningSpec
    from controlplane.model.tuning_records import TuningJobRecord
    from controlplane.tuning_embedded import LocalTuning


@click.command()
@spec_options
@click.option("--name", help="Name of the job (made up).")
@click.option("--resume", metavar="JOB", help="Go on with this job: name, id, or how its id begins.")
@click.option("--more-trials", type=int, metavar="N", help="With --resume: a budget of N trials in all.")
@click.option(
    "--beside-live", is_flag=True, help="Measure although engines serve on this host: they disturb each other."
)
@click.option("--others-pct", type=float, default=25.0, show_default=True, help="Share of the cores others may take.")
@click.option("--detach", is_flag=True, help="With --server: make the job and leave; `tune watch` follows it.")
@place_options
@output_option
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def run(
    name: str | None,
    resume: str | None,
    more_trials: int | None,
    beside_live: bool,
    others_pct: float,
    detach: bool,
    server: str | None,
    namespace: str | None,
    state_dir: Path | None,
    output: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Search, confirm the best against the configuration in use, and say what is gained.

    Engines and commands run as you, on this machine; Ctrl-C pauses the job, and nothing measured is lost, even after
    kill -9. With --server they run in pods of the namespace; Ctrl-C leaves the job running. Ends with 0 where the job
    is done, 1 where it ended otherwise, 2 for bad input, 130 after Ctrl-C.

    \b
    Throughput of the embedded engine at 8 clients, TTFT within 200 ms at the 90th percentile:
      trimtab tune run --engine openvino --model ./tiny --objective output_tokens_per_s \\
          --limit 'ttft_p90_ms<=200' --trials 30
    Goodput under an SLO, open loop:
      trimtab tune run --engine openvino --model ./tiny --objective goodput_per_s --slo ttft=100,tpot=20 --rate 12
    A command of your own that prints lines like step_ms=12.5 (see the tutorial for the file):
      trimtab tune run job.yaml --name nightly
    Go on after an interruption:
      trimtab tune run --resume nightly
    On a cluster:
      trimtab tune run job.yaml --name nightly --server https://trimtab.example -n team
    """
    there = server_of(server, state_dir) is not None
    if there and click.get_current_context().get_parameter_source("others_pct") is not ParameterSource.DEFAULT:
        raise click.UsageError("--others-pct is for this machine; pods are measured on nodes of their own")
    if detach and not there:
        raise click.UsageError("--detach goes with --server: on this machine nothing else would measure the job")
    namespace = namespace or (namespace_in(options["file"]) if there else None)
    with place_of(server, namespace, state_dir) as place:
        record = _resumed(place, resume, more_trials) if resume else _created(place, name, options, beside_live)
        if there:
            record = _left_to_run(place, record, detach=detach, quiet=quiet)
            _tell(record, output)
        else:
            record = _run_here(place, record, output, beside_live=beside_live, others_pct=others_pct, quiet=quiet)
        if record.state.value != "done" and not detach:
            raise click.exceptions.Exit(1)


def _created(place: JobPlace, name: str | None, options: dict[str, Any], beside_live: bool) -> TuningJobRecord:
    spec, own_name = spec_of(options)
    if place.remote and beside_live:
        spec = _beside_live(spec)
    made = place.create(name or own_name or f"tune-{secrets.token_hex(6)}", spec)
    click.echo(f"job {made.name} ({made.id}) in {place.where}", err=True)
    return made


def _beside_live(spec: TuningSpec) -> TuningSpec:
    """The same word for pods."""
    return spec.model_copy(update={"pods": spec.pods.model_copy(update={"beside_live": True})})


def _resumed(place: JobPlace, word: str, more_trials: int | None) -> TuningJobRecord:
    record = place.find(word)
    if more_trials is not None:
        record = place.extend(record.id, more_trials)
    if record.state.value == "paused":
        record = place.resume(record.id)
    if record.state.value != "running":
        raise InvalidSpec(
            f"the job is {record.state.value}: there is nothing to go on with",
            field="--resume",
            value=word,
            hint="a done job goes on with --more-trials",
        )
    return record


def _left_to_run(place: JobPlace, record: TuningJobRecord, *, detach: bool, quiet: bool) -> TuningJobRecord:
    """At an API: followed to its end, unless told not to."""
    if detach:
        click.echo(f"follow it: trimtab tune watch {record.name}{place.options}", err=True)
        return record
    with told_how_to_follow(place, record):
        return followed(place, record, quiet=quiet)


def _run_here(
    place: JobPlace, record: TuningJobRecord, output: str, *, beside_live: bool, others_pct: float, quiet: bool
) -> TuningJobRecord:
    from controlplane.cli.tune_local import LocalJobs  # noqa: PLC0415

    assert isinstance(place, LocalJobs)
    stop = threading.Event()
    stopped_by_signals(stop)
    record = _measured(place, place.local, record, stop, beside_live=beside_live, others_pct=others_pct, quiet=quiet)
    _tell(record, output)
    if stop.is_set() and record.state.value == "paused":
        click.echo(f"paused; go on with: trimtab tune run --resume {record.name}{place.options}", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    return record


def _measured(
    place: JobPlace,
    local: LocalTuning,
    record: TuningJobRecord,
    stop: threading.Event,
    *,
    beside_live: bool,
    others_pct: float,
    quiet: bool,
) -> TuningJobRecord:
    from controlplane.cli.tune_follow import Follower  # noqa: PLC0415
    from controlplane.tuning_embedded import launchers  # noqa: PLC0415
    from tuner.measure.runner import MeasuringRunner  # noqa: PLC0415

    follower = None if quiet else Follower(place, record)
    runner = MeasuringRunner(
        local.folder / "hardware",
        launchers(os.environ),
        others_pct_max=others_pct,
        beside_live=beside_live,
        commands=True,  # the caller is this user
    )

    def until() -> bool:
        if follower is not None:
            follower.tell()
        return stop.is_set()

    try:
        local.run(record.id, runner, until=until, stopping=stop)
    finally:
        if follower is not None:
            follower.tell()
            follower.close()
    if stop.is_set() and place.get(record.id).state.value == "running":
        place.pause(record.id)
    return place.get(record.id)


def stopped_by_signals(stop: threading.Event) -> None:
    """The first signal ends what is under way in order, the second at once."""

    def told(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        click.echo("ending the trial under way; once more to leave at once", err=True)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told)


def _tell(record: TuningJobRecord, output: str) -> None:
    from controlplane.cli.tune_text import ended_text  # noqa: PLC0415

    if output == "json":
        click.echo(json.dumps(record.model_dump(mode="json", by_alias=True), indent=2))
    else:
        click.echo(ended_text(record))
