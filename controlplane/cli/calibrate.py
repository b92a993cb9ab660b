"""`trimtab calibrate`: what was measured here corrects what is predicted here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from controlplane.cli.calibrate_install import install, installed_lines, target_options, uninstall
from controlplane.cli.calibrate_observe import observe
from controlplane.cli.calibrate_training import training
from controlplane.cli.case_options import case_fields, case_options
from controlplane.cli.files import whole_file
from controlplane.cli.page_options import Pages, read_pages
from controlplane.cli.progress import Progress

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def calibrate() -> None:
    """Refit the predictor from your own measurements."""


for command in (training, observe, install, uninstall):
    calibrate.add_command(command)


@calibrate.command()
@click.option("--data", type=_FILE, multiple=True, help="Measured runs; --format names the kind.")
@click.option(
    "--format",
    "format_name",
    default="csv",
    show_default=True,
    help="csv, jsonl, silicon, tuning (a tuning job's bundle), or a plug-in's.",
)
@click.option("--vllm-bench", type=_FILE, multiple=True, help="Result of `vllm bench serve --save-result`.")
@click.option(
    "--metrics",
    multiple=True,
    metavar="AFTER[,before=BEFORE][,closed=N|rate=R][,isl=..]",
    help="The engine's metrics page after a load; the page before it (since the engine's start when absent) and what "
    "differs from the other loads may follow.",
)
@click.option("--metrics-before", type=_FILE, multiple=True, help="Pages before the loads, in the order of --metrics.")
@case_options
@click.option("--base", type=_FILE, help="Calibration to build on. The packaged one when absent.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("trimtab-calibration.json"),
    show_default=True,
    help="Where the calibration goes; prediction commands take it as --calibration.",
)
@click.option("--dry-run", is_flag=True, help="Fit and compare, write nothing.")
@click.option("--force", is_flag=True, help="Write it even where it predicts worse than before.")
@click.option("--install", "install_it", is_flag=True, help="Let operator and API of the cluster plan with it.")
@target_options
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def serving(
    data: tuple[Path, ...],
    format_name: str,
    vllm_bench: tuple[Path, ...],
    metrics: tuple[str, ...],
    metrics_before: tuple[Path, ...],
    base: Path | None,
    out: Path,
    dry_run: bool,
    force: bool,
    install_it: bool,
    namespace: str,
    config_map: str,
    kubeconfig: str | None,
    output: str,
    **case: Any,
) -> None:
    """Fit the corrections of the engines you measured, and compare before with after.

    Options of the case (--system, --tp, ...) say what a log does not know. At least three runs of each engine,
    accelerator and model are needed, at different loads. Where the fit predicts worse than before, nothing is written
    and the command ends with 1, unless --force.

    \b
    trimtab calibrate serving --vllm-bench c8.json --vllm-bench c32.json --vllm-bench c128.json \\
        --system h100 --backend vllm --tp 4
    trimtab calibrate serving --data runs.csv --out h100.json
    trimtab predict serving --calibration h100.json --model qwen3-32b --system h100 ...
    trimtab calibrate serving --metrics a.txt,closed=4 --metrics b.txt,before=a.txt,closed=16 \\
        --metrics c.txt,before=b.txt,closed=64 --model qwen3-32b --system h100 --backend vllm --tp 4 --install
    """
    from controlplane.cli.refit_table import refit_dict, refit_table  # noqa: PLC0415 - numpy: not for --help
    from tuner.serving.calibration.importers import find_importer  # noqa: PLC0415
    from tuner.serving.calibration.parameters import dump_calibration, load_calibration  # noqa: PLC0415
    from tuner.serving.calibration.refit import refit  # noqa: PLC0415
    from tuner.serving.predict import Predictor  # noqa: PLC0415

    fields = case_fields(case)
    pages = read_pages(metrics, metrics_before)
    files = [*data, *vllm_bench, *(path for one in pages for path in (one.before, one.after) if path is not None)]
    if not files:
        raise click.UsageError("name measured runs: --data, --vllm-bench or --metrics")
    if install_it and dry_run:
        raise click.UsageError("--dry-run writes nothing, so there is nothing to --install")
    runs = [run for path in data for run in find_importer(format_name)(path, fields)]
    runs += [run for path in vllm_bench for run in find_importer("vllm-bench")(path, fields)]
    runs += [_of_pages(one, fields) for one in pages]
    with Progress("predictions") as tell:
        found = refit(
            runs,
            load_calibration(base),
            lambda calibration: Predictor(calibration=calibration).answer,
            source=", ".join(dict.fromkeys(path.name for path in files))[:200],
            sha256=_sha256(files),
            progress=tell,
        )
    refused = found.harmful and not force
    if not dry_run and not refused:
        with whole_file(out) as partial:
            partial.write_text(dump_calibration(found.calibration), encoding="utf-8")
    written = None if dry_run or refused else out
    click.echo(json.dumps(refit_dict(found, written), indent=2) if output == "json" else refit_table(found, written))
    if refused:
        raise click.exceptions.Exit(1)
    if install_it:
        for line in installed_lines(found.calibration, namespace, config_map, kubeconfig):
            click.echo(line, err=output == "json")


def _of_pages(pages: Pages, fields: dict[str, Any]) -> Any:
    try:
        from controlplane.cli.measured_pages import measurement_of_pages  # noqa: PLC0415
    except ImportError:
        from controlplane.model.errors import Unsupported  # noqa: PLC0415

        raise Unsupported(
            "reading metrics pages needs prometheus-client", field="metrics", hint="pip install 'trimtab[operator]'"
        ) from None
    return measurement_of_pages(pages.after, pages.before, pages.case(fields))


def _sha256(files: list[Path]) -> str:
    """Of all files together, in the order given."""
    import hashlib  # noqa: PLC0415

    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
