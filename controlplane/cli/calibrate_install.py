"""`trimtab calibrate install` and `uninstall`: which calibration the cluster plans with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from controlplane.cli.option_group import Options, option_group

if TYPE_CHECKING:
    from tuner.serving.calibration.parameters import Calibration

_OPTIONS: Options = (
    click.option("--namespace", default="trimtab-system", show_default=True, help="Namespace of Trimtab's release."),
    click.option(
        "--config-map",
        default="trimtab-calibration",
        show_default=True,
        help="ConfigMap that the chart's planner.calibration.configMap names.",
    ),
    click.option("--kubeconfig", help="Kubeconfig file. The usual places when absent."),
)


target_options = option_group(_OPTIONS)
"""Adds the options that say where a calibration is installed."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@target_options
def install(file: Path, namespace: str, config_map: str, kubeconfig: str | None) -> None:
    """Let operator and API plan with the calibration in FILE.

    They take it up within about two minutes, without a restart. Deployments with spec.auto are planned anew, and moved
    only where the new plan is better by the usual margin.
    """
    from tuner.serving.calibration.parameters import load_calibration  # noqa: PLC0415 - numpy: not for --help

    for line in installed_lines(load_calibration(file), namespace, config_map, kubeconfig):
        click.echo(line)


@click.command()
@target_options
def uninstall(namespace: str, config_map: str, kubeconfig: str | None) -> None:
    """Let operator and API plan with the shipped calibration again."""
    door = _door()
    target = door.Target(namespace, config_map, kubeconfig)
    if asyncio.run(door.uninstall(target)):
        click.echo(f"removed {target}; operator and API plan with the shipped calibration within about two minutes")
    else:
        click.echo(f"there is no {target}; the shipped calibration is in use")


def installed_lines(calibration: Calibration, namespace: str, config_map: str, kubeconfig: str | None) -> list[str]:
    """Install it; what to tell of that."""
    from tuner.serving.calibration.parameters import digest_of  # noqa: PLC0415 - numpy: not for --help

    door = _door()
    target = door.Target(namespace, config_map, kubeconfig)
    warnings = asyncio.run(door.install(calibration, target))
    return [
        f"installed in {target} ({calibration.name}, {digest_of(calibration)}); operator and API take it up within about "
        "two minutes, `trimtab calibrate uninstall` takes it back",
        *(f"warning: {warning}" for warning in warnings),
    ]


def _door() -> ModuleType:
    """The Kubernetes client behind it: 0.4 s that other commands need not wait for, and an extra."""
    try:
        from controlplane.cli import install_calibration  # noqa: PLC0415
    except ImportError:
        from controlplane.model.errors import Unsupported  # noqa: PLC0415

        raise Unsupported(
            "reaching a cluster needs the Kubernetes client", field="install", hint="pip install 'trimtab[operator]'"
        ) from None
    return install_calibration
