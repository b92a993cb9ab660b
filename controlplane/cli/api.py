"""`trimtab api`."""

from __future__ import annotations

import os

import click

from controlplane.settings import LOG_FORMATS, LOG_LEVELS, api_settings

_OPTIONS = {
    "kubeconfig": "TRIMTAB_KUBECONFIG",
    "host": "TRIMTAB_HOST",
    "port": "TRIMTAB_PORT",
    "namespace": "TRIMTAB_NAMESPACE",
    "audience": "TRIMTAB_API_AUDIENCE",
    "calibration": "TRIMTAB_CALIBRATION",
    "log_level": "TRIMTAB_LOG_LEVEL",
    "log_format": "TRIMTAB_LOG_FORMAT",
}


@click.command()
@click.option("--kubeconfig", help="Kubeconfig file. The usual places, or the cluster around us, when absent.")
@click.option("--host", help="Address to listen on (127.0.0.1).")
@click.option("--port", help="Port to listen on (8000).")
@click.option("--namespace", help="Namespace of the API's own pods (default).")
@click.option("--audience", help="Audience callers' tokens must be made for (trimtab); \"\" is the API server's own.")
@click.option(
    "--calibration", help="Corrections to plan with: a file, or a folder with a calibration.json; may come later."
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="(info)")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), help="(text)")
def api(**options: str | None) -> None:
    """Serve the API until SIGTERM. Options win over the environment (TRIMTAB_*).

    \b
    trimtab api --kubeconfig ~/.kube/config &
    curl -H "Authorization: Bearer $(kubectl create token me --audience trimtab)" localhost:8000/v1/pools
    """
    given = {_OPTIONS[name]: value for name, value in options.items() if value is not None}
    settings = api_settings({**os.environ, **given})
    from controlplane.api.process import serve  # noqa: PLC0415 - 500 ms of imports that `--help` can do without

    serve(settings)
