"""`trimtab accuracy training`: how far predictions of training runs are from published measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from controlplane.cli.progress import Progress

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FOLDER, required=True, help="Folder of published tables (docs/training-tables.md).")
@click.option(
    "--refit", is_flag=True, help="Judge fitted tables by constants that never saw a row's group (half a minute)."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def training(data: Path, refit: bool, output: str) -> None:
    """Errors per size and pattern, rank correlation and regret, interval coverage; next to what other tools reach.

    \b
    trimtab accuracy training --data tables/ -o json
    trimtab accuracy training --data tables/ --refit
    """
    from tuner.training.accuracy import score_folder  # noqa: PLC0415 - numpy: not for --help

    with Progress("refits") as tell:
        found = score_folder(data, refit=refit, progress=tell)
    click.echo(json.dumps(found, indent=2) if output == "json" else _table(found))


def _table(found: dict[str, Any]) -> str:
    lines = [f"{'table':<14} {'what':<7} {'n':>4} {'MAPE':>7} {'median':>7} {'p90':>7} {'bias':>7} {'in 90 %':>8}"]
    for report in found["tables"]:
        for what in ("time", "memory"):
            if what not in report:
                continue
            e = report[what]
            covered = f"{report['interval']['coverage_pct']:8.1f}" if what == "time" else f"{'':>8}"
            lines.append(
                f"{report['table']:<14} {what:<7} {e['n']:>4} {e['mape_pct']:>7.2f} {e['median_pct']:>7.2f} "
                f"{e['p90_pct']:>7.2f} {e['bias_pct']:>+7.2f} {covered}"
            )
        for group, rank in report.get("ranking", {}).items():
            lines.append(
                f"  {group}: Spearman {rank['spearman']} in {rank['spearman_95']}, regret {rank['regret_pct']} %"
            )
        if report["dropped"]:
            lines.append(f"  {report['dropped']} rows dropped, the reasons with -o json")
    lines += [f"not read: {text}" for text in found["unknown_files_lack"]]
    lines.append(f"constants: {found['constants']}; errors in percent")
    return "\n".join(lines)
