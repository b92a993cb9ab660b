"""Options of `trimtab tune run` and `check`, and the job they make."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.model.errors import InvalidSpec

if TYPE_CHECKING:
    from controlplane.model.tuning_job import TuningSpec

_FILE_BYTES_MAX = 2**20
_LIMIT = re.compile(r"^\s*([A-Za-z][A-Za-z0-9_]*)\s*(<=|>=)\s*([-+0-9.eE]+)\s*$")
_SLO = {"ttft": "ttftMs", "tpot": "tpotMs", "e2e": "e2eMs"}

_OPTIONS = (
    click.argument(
        "file", required=False, metavar="[FILE]", type=click.Path(exists=True, dir_okay=False, path_type=Path)
    ),
    click.option("--engine", help="Engine to tune: openvino, vllm, ..."),
    click.option("--model", help="Model folder or name, as the engine takes it."),
    click.option("--objective", multiple=True, metavar="METRIC[:min]", help="What to maximise; `:min` to minimise."),
    click.option("--limit", multiple=True, metavar="METRIC<=N", help="What must hold on average: 'ttft_p90_ms<=200'."),
    click.option("--slo", metavar="ttft=MS,tpot=MS", help="What one request must keep to count as good."),
    click.option("--concurrency", type=int, help="Clients of a closed loop (8)."),
    click.option("--rate", type=float, help="Requests a second instead, Poisson arrivals."),
    click.option("--input", "input_tokens", type=int, help="Prompt tokens (256)."),
    click.option("--output-tokens", type=int, help="Output tokens (64)."),
    click.option("--requests", type=int, help="Requests of one run (200)."),
    click.option("--trials", type=int, help="Trials of the search (40)."),
    click.option("--hours", type=float, help="Longest search."),
    click.option("--sampler", help="default, random, grid, tpe, nsga2 or a plug-in's."),
    click.option("--seed", type=int, help="Same seed, same questions (0)."),
    click.option("--may-change-output", multiple=True, metavar="KNOB", help="Search a knob that may change answers."),
)


def spec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is tuned."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def spec_of(options: dict[str, Any]) -> tuple[TuningSpec, str | None]:
    """The job as asked for, options on top of the file, and its name if the file has one. A file is a spec, or a
    TuningJob object with one. Raises InvalidSpec or UsageError."""
    from pydantic import ValidationError  # noqa: PLC0415 - 60 ms that --help can do without

    from controlplane.model.tuning_job import TuningSpec  # noqa: PLC0415

    file: Path | None = options["file"]
    data, name = ({}, None) if file is None else _read(file)
    if file is None and not (options["engine"] and options["model"]):
        raise click.UsageError("name a FILE, or --engine and --model; --help has examples")
    _put(data, options)
    if not data.get("objectives"):
        raise click.UsageError("say what is wanted: --objective output_tokens_per_s (or goodput_per_s with --slo)")
    try:
        return TuningSpec.model_validate(data), name
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        given = first.get("input")
        raise InvalidSpec(
            first["msg"].removeprefix("Value error, "),
            field=place or None,
            value=given if isinstance(given, int | float | bool | None) else str(given)[:80],
        ) from None


def document_of(file: Path) -> dict[str, Any]:
    """As written. Raises InvalidSpec for what is no YAML object."""
    import yaml  # noqa: PLC0415

    if file.stat().st_size > _FILE_BYTES_MAX:
        raise InvalidSpec("file too large", field="FILE", value=str(file), limit=f"{_FILE_BYTES_MAX} bytes")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSpec(f"is not YAML: {str(error)[:200]}", field="FILE", value=str(file)) from None
    if not isinstance(data, dict):
        raise InvalidSpec("must be an object", field="FILE", value=str(file), limit="target, objectives, space, ...")
    return data


def _read(file: Path) -> tuple[dict[str, Any], str | None]:
    data = document_of(file)
    if "kind" in data and "spec" in data:
        if data["kind"] != "TuningJob" or not isinstance(data["spec"], dict):
            raise InvalidSpec("is no TuningJob", field="kind", value=str(data["kind"])[:80], limit="TuningJob")
        metadata = data.get("metadata")
        data["spec"].pop("suspend", None)  # a cluster's word: whoever runs it here wants it run
        return dict(data["spec"]), str(metadata["name"]) if isinstance(metadata, dict) and "name" in metadata else None
    return data, None


def _put(data: dict[str, Any], options: dict[str, Any]) -> None:
    if options["engine"]:
        data["target"] = {"kind": "engine", "engine": options["engine"], "model": options["model"] or ""}
    if options["objective"]:
        data["objectives"] = [_objective(text) for text in options["objective"]]
    if options["limit"]:
        data["limits"] = [_limit(text) for text in options["limit"]]
    if options["slo"]:
        data["slo"] = _slo(options["slo"])
    _put_load(data, options)
    for option, part, field in (
        ("requests", "measuring", "requests"),
        ("trials", "budget", "trials"),
        ("hours", "budget", "hours"),
    ):
        if options[option] is not None:
            data[part] = {**(data.get(part) or {}), field: options[option]}
    for option in ("sampler", "seed"):
        if options[option] is not None:
            data[option] = options[option]
    if options["may_change_output"]:
        data["mayChangeOutput"] = list(options["may_change_output"])


def _put_load(data: dict[str, Any], options: dict[str, Any]) -> None:
    if options["rate"] is not None and options["concurrency"] is not None:
        raise click.UsageError("--rate and --concurrency: one of them")
    given = [options[name] for name in ("rate", "concurrency", "input_tokens", "output_tokens")]
    if all(value is None for value in given):
        return
    load = dict(data.get("load") or {"arrivals": "closed", "concurrency": 8, "input": {"tokens": 256}, "output": {"tokens": 64}})  # fmt: skip
    if options["rate"] is not None:
        load.pop("concurrency", None)
        load |= {"arrivals": "poisson", "ratePerSecond": options["rate"]}
    if options["concurrency"] is not None:
        load.pop("ratePerSecond", None)
        load |= {"arrivals": "closed", "concurrency": options["concurrency"]}
    if options["input_tokens"] is not None:
        load["input"] = {"tokens": options["input_tokens"]}
    if options["output_tokens"] is not None:
        load["output"] = {"tokens": options["output_tokens"]}
    data["load"] = load


def _objective(text: str) -> dict[str, Any]:
    metric, _, way = text.partition(":")
    if way not in {"", "min", "max"}:
        raise click.BadParameter(f"{text!r}: METRIC, METRIC:min or METRIC:max", param_hint="--objective")
    return {"metric": metric, "direction": "minimize" if way == "min" else "maximize"}


def _limit(text: str) -> dict[str, Any]:
    match = _LIMIT.match(text)
    if match is None:
        raise click.BadParameter(f"{text!r}: METRIC<=NUMBER or METRIC>=NUMBER", param_hint="--limit")
    try:
        bound = float(match[3])
    except ValueError:
        raise click.BadParameter(f"{match[3]!r} is no number", param_hint="--limit") from None
    return {"metric": match[1], "atMost" if match[2] == "<=" else "atLeast": bound}


def _slo(text: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in _SLO:
            raise click.BadParameter(f"{name!r} is none of {', '.join(_SLO)}", param_hint="--slo")
        try:
            out[_SLO[name]] = float(value.removesuffix("ms"))
        except ValueError:
            raise click.BadParameter(f"{value!r} is no number of milliseconds", param_hint="--slo") from None
    return out
