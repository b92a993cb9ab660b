"""`trimtab simulate`: a trace or drawn traffic against a deployment, request by request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from controlplane.cli.case_options import case_fields, case_options, check_complete
from controlplane.cli.files import whole_file
from controlplane.cli.progress import FIRST_TIME, told_when_slow

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--trace", type=_FILE, help="Requests to replay: Azure or Mooncake format, or lines of arrival_s, isl, osl."
)
@case_options
@click.option("--csv", "csv_path", type=_OUT, help="Write one row per request.")
@click.option("--parquet", "parquet_path", type=_OUT, help="The same as Parquet (needs pyarrow).")
@click.option("--html", "html_path", type=_OUT, help="Write a report with plots, one file without outside parts.")
@click.option("--calibration", type=_FILE, help="Corrections refitted by `trimtab calibrate serving`.")
@click.option("--raw", is_flag=True, help="No correction: step tables and replay as they are.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def simulate(
    trace: Path | None,
    csv_path: Path | None,
    parquet_path: Path | None,
    html_path: Path | None,
    calibration: Path | None,
    raw: bool,
    output: str,
    **case: Any,
) -> None:
    """Replay a trace, or drawn traffic, against a deployment and keep what every request experienced.

    \b
    trimtab simulate --trace calls.csv --model llama-3.1-70b --system h100 --backend vllm --tp 8 \\
        --replicas 4 --router least-loaded --csv requests.csv --html report.html
    trimtab simulate --model qwen3-32b --system h200 --backend sglang --tp 2 \\
        --isl 4000 --osl 500 --poisson 2 --html report.html
    """
    fields = case_fields(case)
    if trace is not None:
        if "arrivals" in fields:
            raise click.UsageError("--trace brings its own arrivals: leave out --closed and --poisson")
        fields["arrivals"] = {"trace": str(trace)}
    elif "arrivals" not in fields:
        raise click.UsageError("say what to replay: --trace, or --closed or --poisson with --isl and --osl")
    check_complete(fields)
    from tuner.serving.predict import Predictor  # noqa: PLC0415 - numpy and the catalogue: not for --help
    from tuner.serving.question import parse_question  # noqa: PLC0415
    from tuner.serving.records import write_csv, write_parquet  # noqa: PLC0415

    question = parse_question(fields)
    with told_when_slow(FIRST_TIME):
        found = Predictor(calibration=calibration, raw=raw).predict(question)
    for path, write in ((csv_path, write_csv), (parquet_path, write_parquet)):
        if path is not None:
            with whole_file(path) as partial:
                write(found.result, partial)
    if html_path is not None:
        from tuner.serving.report import html_report  # noqa: PLC0415
        from tuner.serving.run_report import run_of  # noqa: PLC0415

        title = f"{question.model} on {question.system}, {question.backend}"
        with whole_file(html_path) as partial:
            partial.write_text(html_report(run_of(found, fields, title)), encoding="utf-8")
    if output == "json":
        click.echo(json.dumps(found.answer, indent=2))
    else:
        from controlplane.cli.answer_table import answer_table  # noqa: PLC0415

        click.echo(answer_table(found.answer))
