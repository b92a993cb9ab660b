"""`trimtab calibrate observe`: a running deployment's own traffic, as lines that a refit reads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from controlplane.cli.case_options import case_fields, case_options
from controlplane.cli.progress import Progress


@click.command()
@click.argument("deployment")
@click.option("--namespace", default="default", show_default=True, help="Namespace of the ServingDeployment.")
@click.option("--kubeconfig", help="Kubeconfig file. The usual places when absent.")
@click.option(
    "--seconds", type=click.FloatRange(1, 86_400), default=60.0, show_default=True, help="Length of one window."
)
@click.option("--windows", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs to measure in turn.")
@case_options
def observe(deployment: str, namespace: str, kubeconfig: str | None, seconds: float, windows: int, **case: Any) -> None:
    """Measure a running ServingDeployment under the traffic that it has.

    Prints one line for each window: what ran (model, accelerator, engine, degrees, settings), the load that was seen
    and the latencies that the engines report. Options of the case say it better where you know better: --closed for a
    fixed number of clients (requests are taken to come at random otherwise), --tp where choices cannot be told apart.
    Times are the engines' own: what lies between client and engine is not in them.

    \b
    for load in 1 2 4 8; do
      drive_load $load & trimtab calibrate observe chat --seconds 60 --closed $load; wait
    done > runs.jsonl
    trimtab calibrate serving --data runs.jsonl --format jsonl --install
    """
    fields = case_fields(case)
    door = _door()
    with Progress("") as progress:
        lines = asyncio.run(
            door.observed_runs(door.Observed(deployment, namespace, kubeconfig), fields, seconds, windows, progress.say)
        )
    for line in lines:
        click.echo(json.dumps(line))


def _door() -> Any:
    try:
        from controlplane.cli import observed_runs  # noqa: PLC0415 - the client and the predictor: not for --help
    except ImportError:
        from controlplane.model.errors import Unsupported  # noqa: PLC0415

        raise Unsupported(
            "observing a deployment needs the Kubernetes client and prometheus-client",
            field="observe",
            hint="pip install 'trimtab[operator]'",
        ) from None
    return observed_runs
