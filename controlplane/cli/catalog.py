"""`trimtab catalog`: the names that predictions and plans know."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from controlplane.catalog import Catalog

_KINDS = ("models", "accelerators", "nics", "engines")


@click.command()
@click.argument("kind", type=click.Choice(_KINDS))
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def catalog(kind: str, output: str) -> None:
    """List the models, accelerators, NICs or engines that are known, by the name that every command takes."""
    from controlplane.catalog import load  # noqa: PLC0415 - reads the data files: not for --help
    from controlplane.cli.answer_table import aligned  # noqa: PLC0415

    rows = _ROWS[kind](load())
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [["-" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()]
             for row in rows]  # fmt: skip
    click.echo("\n".join(aligned([list(rows[0]), *cells])))


def _models(known: Catalog) -> list[dict[str, Any]]:
    return [
        {"name": item.id, "repository": item.hf_repo, "context_tokens": item.max_context_tokens}
        for item in sorted(known.models.values(), key=lambda one: one.id)
    ]


def _accelerators(known: Catalog) -> list[dict[str, Any]]:
    return [
        {"name": item.id, "product": item.name, "vendor": item.vendor, "memory_bytes": item.memory_bytes}
        for item in sorted(known.accelerators.values(), key=lambda one: one.id)
    ]


def _nics(known: Catalog) -> list[dict[str, Any]]:
    """Classes between nodes; fabrics inside them belong to the accelerator."""
    return [
        {"name": item.id, "product": item.name, "protocol": item.protocol,
         "line_rate_gbit_per_s": None if item.line_rate_bits_per_s is None else round(item.line_rate_bits_per_s / 1e9)}
        for item in sorted(known.nics.values(), key=lambda one: one.id) if item.kind == "scale-out"
    ]  # fmt: skip


def _engines(known: Catalog) -> list[dict[str, Any]]:
    return [
        {"name": item.id, "version": item.version, "vendors": ", ".join(item.accelerator_vendors)}
        for item in sorted(known.engines.values(), key=lambda one: one.id)
    ]


_ROWS: dict[str, Callable[[Catalog], list[dict[str, Any]]]] = {
    "models": _models,
    "accelerators": _accelerators,
    "nics": _nics,
    "engines": _engines,
}
