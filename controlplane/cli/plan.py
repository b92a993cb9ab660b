"""`trimtab plan`: which deployment to run, before it is deployed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from controlplane.cli.plan_export import EXPORTS, check_export, exported
from controlplane.cli.plan_options import plan_options, request_of
from controlplane.cli.plan_training import training

if TYPE_CHECKING:
    from controlplane.model.plans import PlanRequest, ServingPlan

_SILENT_S = 2.0
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def plan() -> None:
    """Find the best deployment or parallel plan for the accelerators there are."""


plan.add_command(training)


@plan.command()
@plan_options
@click.option("-f", "--file", type=_FILE, help="A planning request as YAML or JSON; options come on top.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", help="(table)")
@click.option(
    "--export",
    type=click.Choice([*EXPORTS, "manifest", "kubernetes"]),
    help="Print the winner ready to be started: command lines, a ServingDeployment (manifest), or plain Deployments.",
)
@click.option("--source", help="Where the weights are, for --export: hf:ORG/REPO, pvc:CLAIM/PATH or image:/PATH.")
@click.option("--name", help="Name of the exported ServingDeployment. The model's when absent.")
@click.option("--calibration", type=_FILE, help="Corrections refitted by `trimtab calibrate serving`.")
@click.option("--what-if", multiple=True, metavar="CHANGE", help="Plan again with a change and say what it makes.")
@click.option("--daily", type=_FILE, metavar="TRACE", help="Replicas over a day, from a trace with this load.")
@click.option("--startup-s", type=float, default=600.0, help="Seconds until a new replica answers, for --daily (600).")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def serving(
    file: Path | None,
    output: str,
    export: str | None,
    source: str | None,
    name: str | None,
    calibration: Path | None,
    what_if: tuple[str, ...],
    daily: Path | None,
    startup_s: float,
    quiet: bool,
    **options: Any,
) -> None:
    """Rank the deployments of a model that meet an SLO on the given pools, with reasons.

    \b
    Eight requests a second on 32 H100, TTFT and TPOT promised at the 95th percentile:
      trimtab plan serving --model llama-3.1-70b --pool h100=h100-sxm-80gb:32 \\
          --rate 8 --input 1024 --output-tokens 256 --ttft-p95 500 --tpot-p95 40
    Two pools with prices, cheapest first, as a manifest for kubectl:
      trimtab plan serving --model qwen3-32b --pool a=h100-sxm-80gb:8,price=3.2 --pool b=l40s:16,price=0.9 \\
          --rate 4 --input 2000 --output-tokens 300 --tpot-p95 50 --objective goodput-per-cost \\
          --export manifest | kubectl apply -f -
    What would change with one more pool, a tighter promise, a power cap:
      trimtab plan serving -f request.yaml --what-if pool=c=h200-sxm-141gb:8 --what-if ttft-p95=300 \\
          --what-if power-cap=500
    Separate prefill and decode roles are advisory unless --split-roles, --kv-connector and --router say that this
    installation has what they need.
    """
    request = request_of(file, options)
    if export in EXPORTS and not request.allowed.engines:
        allowed = request.allowed.model_copy(update={"engines": [EXPORTS[export]]})
        request = request.model_copy(update={"allowed": allowed})
    changes = [(change, _changed(request, change)) for change in what_if]  # a typo is told before anything is planned
    check_export(source, name)
    if export is not None and (what_if or daily is not None):
        raise click.UsageError(
            "--export prints what is started, and nothing beside it: leave out --what-if and --daily"
        )
    planner = _planner(options, calibration)
    with _Told(quiet) as told:
        answer = planner.plan(request, progress=told)
    if export is not None:
        click.echo(exported(answer, export, source, name, _images(options)))
    else:
        _say(answer, planner, changes, daily, startup_s, output, quiet=quiet)
    if not answer.best:
        raise click.exceptions.Exit(1)


def _planner(options: dict[str, Any], calibration: Path | None) -> Any:
    from controlplane.model.routers import RouterName  # noqa: PLC0415
    from tuner.serving.calibration.parameters import load_calibration  # noqa: PLC0415
    from tuner.serving.planner import Installation, Planner  # noqa: PLC0415 - numpy and the catalogue: not for --help

    return Planner(
        calibration=None if calibration is None else load_calibration(calibration),
        installation=Installation(
            routers=frozenset(get_args(RouterName)),  # what is asked for is what is there
            split_roles=frozenset(options["split_roles"]),
            kv_connectors=frozenset(options["kv_connector"]),
            images=_images(options),
        ),
    )


def _images(options: dict[str, Any]) -> dict[str, str]:
    return dict(item.split("=", 1) for item in options["image"] if "=" in item)


def _changed(request: PlanRequest, change: str) -> PlanRequest:
    from tuner.serving.planner.whatif import changed  # noqa: PLC0415

    return changed(request, change)


def _say(
    answer: ServingPlan,
    planner: Any,
    changes: list[tuple[str, PlanRequest]],
    daily: Path | None,
    startup_s: float,
    output: str,
    *,
    quiet: bool,
) -> None:
    """Tables as soon as each is known; as JSON or YAML one document, also where the day turns out impossible."""
    from controlplane.cli.plan_beyond import day, document, what_if  # noqa: PLC0415

    table = output == "table"
    if table:
        from controlplane.cli.plan_table import plan_table  # noqa: PLC0415

        click.echo(plan_table(answer))
    said: list[Any] = []
    for change, other in changes:
        with _Told(quiet) as told:
            after = planner.plan(other, progress=told)
        said.append(what_if(answer, after, change, table=table))
        if table:
            click.echo(said[-1])
    found: Any = None
    try:
        if daily is not None:
            found = day(answer, daily, startup_s, table=table)
            if table:
                click.echo(found)
    finally:
        if not table:
            click.echo(_dumped(document(answer, said, found), output))


def _dumped(data: Any, output: str) -> str:
    if output == "json":
        return json.dumps(data, indent=2)
    import yaml  # noqa: PLC0415

    text: str = yaml.safe_dump(data, sort_keys=False)
    return text.rstrip("\n")


class _Told:
    """What the planner is doing, as one line on standard error after two silent seconds, and what it has found. No
    share: how much is left cannot be known."""

    def __init__(self, quiet: bool) -> None:
        from controlplane.cli.progress import Progress  # noqa: PLC0415

        self._progress = None if quiet else Progress("")
        self._started = time.monotonic()

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)

    def __call__(self, what: str, share: float) -> None:
        if self._progress is None:
            return
        if what.startswith("found: ") and time.monotonic() - self._started > _SILENT_S:
            click.echo(what, err=True)
        else:
            self._progress.say(what)
