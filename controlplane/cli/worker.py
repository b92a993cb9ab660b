"""`trimtab worker`."""

from __future__ import annotations

import os

import click

from controlplane.settings import LOG_FORMATS, LOG_LEVELS, worker_settings

_OPTIONS = {
    "database": "TRIMTAB_DATABASE_URL",
    "broker": "TRIMTAB_BROKER_URL",
    "hardware_dir": "TRIMTAB_HARDWARE_DIR",
    "others_pct": "TRIMTAB_OTHERS_PCT",
    "beside_live": "TRIMTAB_BESIDE_LIVE",
    "log_level": "TRIMTAB_LOG_LEVEL",
    "log_format": "TRIMTAB_LOG_FORMAT",
}


@click.command()
@click.argument("role", type=click.Choice(["trials", "driver"]))
@click.option("--database", help="postgresql://USER@HOST/DATABASE; for a single machine sqlite:///FILE.")
@click.option("--broker", help="redis://HOST:6379/0. Carries ids only, and may lose them.")
@click.option("--hardware-dir", help="Locks of this host's hardware, shared by all that measures on it (/run/trimtab).")
@click.option("--others-pct", help="Share of the cores that others may take during a measurement (25).")
@click.option("--beside-live", type=click.Choice(["true", "false"]), help="Measure on a host that serves (false).")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="(info)")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), help="(text)")
def worker(role: str, **options: str | None) -> None:
    """Measure trials (`trials`) beside the hardware, or drive tuning jobs (`driver`; one is enough), until SIGTERM.

    Options win over the environment (TRIMTAB_*). The database's tables are made or brought up to date at the start.
    """
    given = {_OPTIONS[name]: value for name, value in options.items() if value is not None}
    settings = worker_settings({**os.environ, **given})
    from controlplane.tuning_process import serve_jobs, serve_trials  # noqa: PLC0415 - a second of imports

    (serve_trials if role == "trials" else serve_jobs)(settings)
