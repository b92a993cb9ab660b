"""`trimtab predict`: what a deployment will do, before it is deployed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from controlplane.cli.case_options import case_fields, case_options, check_complete
from controlplane.cli.predict_training import training
from controlplane.cli.progress import FIRST_TIME, Progress, told_when_slow

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def predict() -> None:
    """Predict latency, throughput, energy and cost before deploying."""


predict.add_command(training)


@predict.command()
@click.argument("lines", required=False, type=click.File("rb"))
@case_options
@click.option("--calibration", type=_FILE, help="Corrections refitted by `trimtab calibrate serving`.")
@click.option("--raw", is_flag=True, help="No correction: step tables and replay as they are.")
@click.option("--per-request", is_flag=True, help="Also each request's arrival, TTFT, TPOT and end-to-end time.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), help="(table for one case, json for lines)")
def serving(
    lines: BinaryIO | None, calibration: Path | None, raw: bool, per_request: bool, output: str | None, **case: Any
) -> None:
    """Predict TTFT and TPOT percentiles of one case, or answer JSON lines from LINES (`-`: standard input).

    \b
    One case:
      trimtab predict serving --model llama-3.1-70b --system h200_sxm --backend vllm --tp 8 \\
          --isl 1024 --osl 256 --closed 64
    Many, one JSON object per line in and out, each answered in order (docs/predict.md lists the fields):
      trimtab predict serving cases.jsonl > answers.jsonl
      echo '{"id": 1, "model": "qwen3-32b", "system": "h100", "backend": "sglang", "tp": 2,
             "isl": 2000, "osl": 500, "arrivals": {"poisson": 2.5}}' | tr -d '\\n' | trimtab predict serving -
    """
    fields = case_fields(case)
    if lines is None and not fields and not sys.stdin.isatty():
        lines = sys.stdin.buffer
    if lines is not None and fields:
        raise click.UsageError("give LINES, or the options of one case, not both")
    if lines is None and not fields:
        raise click.UsageError("name a case (--model, --system, ...) or a file of JSON lines; --help has examples")
    if lines is None:
        check_complete(fields)
    from tuner.serving.predict import Predictor  # noqa: PLC0415 - numpy and the catalogue: not for --help

    name = getattr(lines, "name", None)
    beside = Path(name).parent if isinstance(name, str) and Path(name).is_file() else None
    predictor = Predictor(calibration=calibration, raw=raw, traces=beside)
    if lines is not None:
        _answer_lines(lines, predictor, per_request, output)
        return
    from tuner.serving.question import parse_question  # noqa: PLC0415

    with told_when_slow(FIRST_TIME):
        answer = predictor.answer(parse_question(fields), per_request=per_request)
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
    else:
        from controlplane.cli.answer_table import answer_table  # noqa: PLC0415

        click.echo(answer_table(answer))


def _answer_lines(lines: BinaryIO, predictor: Any, per_request: bool, output: str | None) -> None:
    from tuner.serving import batch  # noqa: PLC0415

    if output == "table":
        raise click.UsageError("lines are answered with lines: leave -o out, or take one case")
    with told_when_slow(FIRST_TIME), Progress("lines") as tell:
        done, errors = batch.run(lines, sys.stdout, predictor, per_request=per_request, progress=tell)
    if errors:
        click.echo(f"{errors} of {done} lines have an error for an answer", err=True)
