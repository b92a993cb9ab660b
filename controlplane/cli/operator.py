"""`trimtab operator`."""

from __future__ import annotations

import os

import click

from controlplane.settings import LOG_FORMATS, LOG_LEVELS, operator_settings

_OPTIONS = {
    "kubeconfig": "TRIMTAB_KUBECONFIG",
    "host": "TRIMTAB_HOST",
    "port": "TRIMTAB_PORT",
    "namespace": "TRIMTAB_NAMESPACE",
    "workers": "TRIMTAB_WORKERS",
    "leader_election": "TRIMTAB_LEADER_ELECTION",
    "engine_images": "TRIMTAB_ENGINE_IMAGES",
    "calibration": "TRIMTAB_CALIBRATION",
    "routers": "TRIMTAB_ROUTERS",
    "log_level": "TRIMTAB_LOG_LEVEL",
    "log_format": "TRIMTAB_LOG_FORMAT",
}


@click.command()
@click.option("--kubeconfig", help="Kubeconfig file. The usual places, or the cluster around us, when absent.")
@click.option("--host", help="Address for /metrics, /healthz and /readyz (127.0.0.1).")
@click.option("--port", help="Port for them (8080).")
@click.option("--namespace", help="Namespace of the leader lease (default).")
@click.option("--workers", help="Concurrent reconciles (8).")
@click.option("--leader-election", type=click.Choice(["true", "false"]), help="Whether to hold a lease (true).")
@click.option("--engine-images", help='JSON: engine or engine/vendor -> image, as {"openvino": "registry/engine:1"}.')
@click.option(
    "--calibration", help="Corrections to plan with: a file, or a folder with a calibration.json; may come later."
)
@click.option("--routers", help='JSON: router -> what it needs, as {"sglang-router": {"image": "registry/router:1"}}.')
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="(info)")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), help="(text)")
def operator(**options: str | None) -> None:
    """Run the operator until SIGTERM. Options win over the environment (TRIMTAB_*)."""
    given = {_OPTIONS[name]: value for name, value in options.items() if value is not None}
    settings = operator_settings({**os.environ, **given})
    from controlplane.operator_process import run  # noqa: PLC0415 - 300 ms of imports that `--help` can do without

    run(settings)
