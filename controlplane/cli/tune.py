"""`trimtab tune`: search an engine's or a command's settings by real measurements, on this machine and with no server."""

from __future__ import annotations

from typing import Any

import click

from controlplane.cli.tune_apply import apply
from controlplane.cli.tune_compare import compare
from controlplane.cli.tune_look import (
    best,
    bundle,
    cancel,
    delete,
    list_jobs,
    pause,
    report,
    show,
    trials,
)
from controlplane.cli.tune_run import run
from controlplane.cli.tune_spec import spec_of, spec_options


@click.group()
def tune() -> None:
    """Tune an engine or a command on real measurements.

    Jobs live in a state directory (--state-dir, TRIMTAB_STATE_DIR, ~/.local/state/trimtab) and survive whatever ends
    the process. Engines and commands run as you, on this machine.
    """


@tune.command()
@spec_options
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(output: str, **options: Any) -> None:
    """Check a job without measuring: what rules and known limits take away from its space.

    \b
    trimtab tune check job.yaml
    trimtab tune check --engine openvino --model ./tiny --objective output_tokens_per_s
    """
    from controlplane.cli.tune_check import checked_text, space_check  # noqa: PLC0415

    spec, _ = spec_of(options)
    found = space_check(spec)
    if output == "json":
        import json  # noqa: PLC0415

        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(checked_text(found))
    if found["error"]:
        click.echo(f"trimtab: {found['error']}", err=True)
        raise click.exceptions.Exit(1)


for _command in (run, compare, list_jobs, show, trials, best, pause, cancel, delete, report, bundle, apply):
    tune.add_command(_command)
