"""`trimtab`: one command, subcommands loaded when they are called, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import sys

import click

from controlplane.model.errors import TrimtabError

# name -> (module:attribute, one line of help). The modules import clients and frameworks: not before they are needed.
_COMMANDS: dict[str, tuple[str, str]] = {
    "api": ("controlplane.cli.api:api", "Serve the REST API and event streams."),
    "operator": ("controlplane.cli.operator:operator", "Run the operator: pools, placement, serving deployments."),
    "plan": (
        "controlplane.cli.plan:plan",
        "Rank serving deployments, or parallel plans for training, on the accelerators there are.",
    ),
    "predict": ("controlplane.cli.predict:predict", "Predict a serving deployment or a training plan before it runs."),
    "simulate": ("controlplane.cli.simulate:simulate", "Replay a trace against a deployment; table and HTML report."),
    "accuracy": ("controlplane.cli.accuracy:accuracy", "Score predictions against measured runs."),
    "catalog": ("controlplane.cli.catalog:catalog", "List the models, accelerators, NICs and engines that are known."),
    "tune": (
        "controlplane.cli.tune:tune",
        "Search settings on real measurements: engines and commands, on this machine.",
    ),
    "worker": ("controlplane.cli.worker:worker", "Measure trials of tuning jobs, or drive the jobs, over Redis."),
    "calibrate": ("controlplane.cli.calibrate:calibrate", "Refit the predictor from your own measurements."),
}


class _Lazy(click.Group):
    """A group that knows its commands' names and help, and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        known = _COMMANDS.get(name)
        if known is None:
            return None
        module, attribute = known[0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 - 30 ms that only --version needs

        click.echo(f"trimtab {version('trimtab')}")
        ctx.exit()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version.")
def cli() -> None:
    """Plan, deploy, tune, watch and power-cap LLM serving and training on mixed GPU pools under Kubernetes."""


def main() -> None:
    """Entry point. Errors a person can act on end with one line and exit code 2."""
    try:
        cli()
    except TrimtabError as error:
        click.echo(f"trimtab: {error}", err=True)
        sys.exit(2)
