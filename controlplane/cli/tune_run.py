"""`trimtab tune run`: a job from its first trial to its decision, or on from where it stopped."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.tune_spec import spec_of, spec_options
from controlplane.model.errors import InvalidSpec, Unsupported

if TYPE_CHECKING:
    from controlplane.model.tuning_job import TuningSpec
    from controlplane.model.tuning_records import TuningJobRecord
    from controlplane.tuning_embedded import LocalTuning

_INTERRUPTED = 130

state_option = click.option(
    "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Where jobs are kept (TRIMTAB_STATE_DIR)."
)


@click.command()
@spec_options
@click.option("--name", help="Name of the job (made up).")
@click.option("--resume", metavar="JOB", help="Go on with this job: name, id, or how its id begins.")
@click.option("--more-trials", type=int, metavar="N", help="With --resume: a budget of N trials in all.")
@click.option(
    "--beside-live", is_flag=True, help="Measure although engines serve on this host: they disturb each other."
)
@click.option("--others-pct", type=float, default=25.0, show_default=True, help="Share of the cores others may take.")
@state_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def run(
    name: str | None,
    resume: str | None,
    more_trials: int | None,
    beside_live: bool,
    others_pct: float,
    state_dir: Path | None,
    output: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Search, confirm the best against the configuration in use, and say what is gained.

    Engines and commands run as you. Ctrl-C pauses the job; nothing measured is lost, even after kill -9.

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
    """
    from controlplane.tuning_embedded import local_tuning, state_folder  # noqa: PLC0415 - SQLAlchemy: not for --help

    with local_tuning(state_dir or state_folder(os.environ)) as local:
        record = _resumed(local, resume, more_trials) if resume else _created(local, name, options)
        stop = threading.Event()
        stopped_by_signals(stop)
        record = _run(local, record, stop, beside_live=beside_live, others_pct=others_pct, quiet=quiet)
        _tell(record, output)
        if stop.is_set() and record.state.value == "paused":
            click.echo(f"paused; go on with: trimtab tune run --resume {record.name}", err=True)
            raise click.exceptions.Exit(_INTERRUPTED)
        if record.state.value != "done":
            raise click.exceptions.Exit(1)


def _created(local: LocalTuning, name: str | None, options: dict[str, Any]) -> TuningJobRecord:
    from controlplane.tuning_embedded import TENANT, utc_now  # noqa: PLC0415
    from controlplane.tuning_history import with_earlier  # noqa: PLC0415
    from controlplane.tuning_jobs import completed  # noqa: PLC0415
    from tuner.measure.machine import fingerprint  # noqa: PLC0415

    spec, own_name = spec_of(options)
    spec = on_this_machine(completed(spec, cores=len(os.sched_getaffinity(0))))
    spec = with_earlier(local.database, TENANT, spec, host=fingerprint())
    job = secrets.token_hex(6)
    made, _ = local.jobs.create(job, tenant=TENANT, name=name or own_name or f"tune-{job}", spec=spec, now=utc_now())
    click.echo(f"job {made.name} ({made.id}) in {local.folder}", err=True)
    return made


def on_this_machine(spec: TuningSpec) -> TuningSpec:
    """Raises InvalidSpec or Unsupported for what cannot be started here."""
    from controlplane.model.tuning_job import EngineTarget  # noqa: PLC0415
    from controlplane.tuning_embedded import launchers  # noqa: PLC0415

    if not isinstance(spec.target, EngineTarget):
        return spec
    _check_energy(spec)
    if spec.target.engine not in launchers(os.environ):
        name = spec.target.engine.upper().replace("-", "_")
        raise Unsupported(
            f"{spec.target.engine} is not installed here",
            field="target.engine",
            value=spec.target.engine,
            limit=", ".join(sorted(launchers(os.environ))) or "none is",
            hint=f"name the Python of its environment: TRIMTAB_{name}_PYTHON",
        )
    if spec.target.engine == "openvino" and not Path(spec.target.model).exists():
        raise InvalidSpec(
            "no such file or folder",
            field="target.model",
            value=spec.target.model,
            hint="a GGUF file, or a model folder",
        )
    if not Path(spec.target.model).exists():
        return spec
    target = spec.target.model_copy(update={"model": str(Path(spec.target.model).resolve())})
    return spec.model_copy(update={"target": target})


def _check_energy(spec: TuningSpec) -> None:
    """Raises Unsupported where a metric of energy is wanted and nothing here counts it."""
    from tuner.measure.energy import METRICS, EnergyMeter  # noqa: PLC0415

    wanted = [(f"objectives[{i}].metric", one.metric) for i, one in enumerate(spec.objectives)]
    wanted += [(f"limits[{i}].metric", one.metric) for i, one in enumerate(spec.limits)]
    for field, metric in wanted:
        why = EnergyMeter().why_not() if metric in METRICS else None
        if why is not None:
            raise Unsupported(
                f"cannot be measured here: {why}", field=field, value=metric, hint="tune for tokens per second instead"
            )


def _resumed(local: LocalTuning, word: str, more_trials: int | None) -> TuningJobRecord:
    from controlplane.tuning_embedded import utc_now  # noqa: PLC0415

    record = local.find(word)
    if more_trials is not None:
        record = local.steering.extend(record.id, trials=more_trials, now=utc_now())
    if record.state.value == "paused":
        record = local.steering.resume(record.id, now=utc_now())
    if record.state.value != "running":
        raise InvalidSpec(
            f"the job is {record.state.value}: there is nothing to go on with",
            field="--resume",
            value=word,
            hint="a done job goes on with --more-trials",
        )
    return record


def _run(
    local: LocalTuning,
    record: TuningJobRecord,
    stop: threading.Event,
    *,
    beside_live: bool,
    others_pct: float,
    quiet: bool,
) -> TuningJobRecord:
    from controlplane.cli.tune_follow import Follower  # noqa: PLC0415
    from controlplane.tuning_embedded import launchers, utc_now  # noqa: PLC0415
    from tuner.measure.runner import MeasuringRunner  # noqa: PLC0415

    follower = None if quiet else Follower(local, record.id)
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
    if stop.is_set() and local.jobs.get(record.id).state.value == "running":
        local.steering.pause(record.id, now=utc_now())
    return local.jobs.get(record.id)


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
    from controlplane.cli.tune_text import decision_text, job_text  # noqa: PLC0415
    from controlplane.model.tuning_decision import TuningDecision  # noqa: PLC0415

    if output == "json":
        click.echo(json.dumps(record.model_dump(mode="json", by_alias=True), indent=2))
        return
    click.echo(job_text(record))
    if record.decision is not None:
        metrics = [one.metric for one in record.spec.objectives]
        click.echo("\n" + decision_text(TuningDecision.model_validate(record.decision), metrics))
