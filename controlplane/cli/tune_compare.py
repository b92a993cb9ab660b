"""`trimtab tune compare`: whether one configuration is faster or slower than another, or whether nothing can be said."""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.tune_place import JobPlace, output_option, place_of, place_options, server_of
from controlplane.cli.tune_run import stopped_by_signals
from controlplane.cli.tune_spec import spec_of, spec_options
from controlplane.model.errors import InvalidSpec, Refused

if TYPE_CHECKING:
    from controlplane.model.tuning import Setting
    from controlplane.model.tuning_job import TuningSpec
    from tuner.compare import Compared, Side

_SLOWER, _NOT_MEASURED = 1, 3
_BASELINE = "#baseline"
_ONE_JOB = "both are of one job, whose own decision takes the runs of a round as a pair and may see what this does not"


@click.command()
@click.argument("new")
@click.argument("old")
@spec_options
@click.option("--runs-max", type=click.IntRange(3, 1000), default=16, show_default=True, help="Pairs at most.")
@click.option(
    "--bound-pct",
    type=click.FloatRange(0, 1000, min_open=True),
    default=10.0,
    show_default=True,
    help="Whole width of the 90 % interval that is narrow enough, from 8 pairs on.",
)
@click.option("--beside-live", is_flag=True, help="Measure although engines serve on this host.")
@click.option("--others-pct", type=float, default=25.0, show_default=True, help="Share of the cores others may take.")
@place_options
@output_option
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def compare(
    new: str,
    old: str,
    runs_max: int,
    bound_pct: float,
    beside_live: bool,
    others_pct: float,
    server: str | None,
    namespace: str | None,
    state_dir: Path | None,
    output: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Compare NEW with OLD: faster, slower or no evidence, with the interval.

    Each is a setting (`maxNumSeqs=8,enablePrefixCaching=false`, `default` for the engine's own), whose target and load
    FILE or the options name; a job of the state directory, whose winner is meant; or a bundle or a list of measurements
    taken earlier (`FILE#baseline`: a bundle's configuration in use). Settings and jobs are measured here, in turn and in
    pairs. Files hold runs that were not taken side by side: a machine that changed meanwhile looks like a difference.
    With --server a job is one of that API, and stands for its bundle (JOB#baseline for what was in use): nothing is
    measured.

    Ends with 0 where nothing got worse (faster, or no evidence), 1 where NEW is slower or does not work, 2 for bad
    input, 3 where nothing could be measured.

    \b
    trimtab tune compare maxNumBatchedTokens=512 default --engine openvino --model ./tiny --objective output_tokens_per_s
    trimtab tune compare micro=8 micro=4 job.yaml --runs-max 20 --bound-pct 5
    trimtab tune compare after.tar.gz before.tar.gz -o json
    trimtab tune compare nightly nightly#baseline --server https://trimtab.example -n team
    """
    files = [word.removesuffix(_BASELINE) for word in (new, old)]
    there = server_of(server, state_dir) is not None
    recorded = [Path(word).is_file() or (there and not _is_setting(word)) for word in files]
    if server and not any(recorded):
        raise click.UsageError("settings are measured on this machine: leave --server out")
    try:
        if all(recorded):
            with ExitStack() as opened:
                place = opened.enter_context(place_of(server, namespace, state_dir)) if there else None
                found, metric = _recorded(new, old, options, place)
        elif any(recorded):
            raise click.UsageError("a file of earlier runs is compared with another such file alone")
        else:
            sides = _sides(new, old, options, state_dir)
            metric = sides[0].spec.objectives[0].metric
            found = _measured(sides, runs_max, bound_pct, beside_live, others_pct, state_dir, quiet=quiet)
    except Refused as refused:
        if refused.reason != "NotMeasured":
            raise
        click.echo(f"trimtab: {refused}", err=True)
        raise click.exceptions.Exit(_NOT_MEASURED) from None
    click.echo(json.dumps(_document(found, new, old, metric), indent=2) if output == "json" else _text(found))
    if found.word in {"slower", "broken"}:
        raise click.exceptions.Exit(_SLOWER)


def _recorded(new: str, old: str, options: dict[str, Any], place: JobPlace | None) -> tuple[Compared, str]:
    """`place`: where words that are no files are jobs."""
    from tuner.compare import recorded_apart  # noqa: PLC0415
    from tuner.tuning_recorded import read_runs  # noqa: PLC0415

    runs, jobs = [], []
    for word in (new, old):
        with ExitStack() as kept:
            path = Path(word.removesuffix(_BASELINE))
            if place is not None and not path.is_file():
                path = _fetched(place, path.name, Path(kept.enter_context(tempfile.TemporaryDirectory())))
            found, job = read_runs(path, baseline=word.endswith(_BASELINE))
        if not found:
            raise InvalidSpec("holds no confirmed run", field=word, hint="a job that was confirmed leaves some")
        runs.append(found)
        jobs += [] if job is None else [job]
    if options["objective"]:
        options = options | {"file": None, "engine": "openvino", "model": "recorded"}
        spec: TuningSpec = spec_of(options)[0]
    elif jobs:
        spec = jobs[0].spec
    else:
        raise click.UsageError("lists of measurements do not say what is wanted: --objective METRIC[:min]")
    judged = recorded_apart(spec, *runs, names=(new, old))
    if len(jobs) == 2 and jobs[0].id == jobs[1].id:
        told = [replace(one, message=f"{one.message}; {_ONE_JOB}") for one in judged.verdicts]
        judged = replace(judged, verdicts=tuple(told))
    return judged, spec.objectives[0].metric


def _fetched(place: JobPlace, word: str, folder: Path) -> Path:
    """A job's bundle, for as long as it is read."""
    path = folder / "job.tar.gz"
    path.write_bytes(place.bundle(place.find(word)))
    return path


def _sides(new: str, old: str, options: dict[str, Any], state_dir: Path | None) -> tuple[Side, Side]:
    from controlplane.cli.tune_local import on_this_machine  # noqa: PLC0415 - SQLAlchemy
    from controlplane.tuning_embedded import local_tuning, state_folder  # noqa: PLC0415
    from tuner.compare import Side  # noqa: PLC0415

    found = []
    for word, place in ((new, "NEW"), (old, "OLD")):
        setting = _setting(word, place)
        if setting is not None:
            spec = on_this_machine(spec_of(options)[0])
            found.append(Side(name=f"{place} ({word})", spec=spec, setting=setting | _checked(spec, setting, place)))
            continue
        with local_tuning(state_dir or state_folder(os.environ)) as local:
            record = local.find(word)
        best = (record.decision or {}).get("best")
        if best is None:
            raise InvalidSpec("the job has no confirmed winner", field=place, value=word, hint="name a setting instead")
        spec = on_this_machine(record.spec)
        found.append(Side(name=f"{place} (best of {word})", spec=spec, setting=best["setting"]))
    return found[0], found[1]


def _is_setting(word: str) -> bool:
    """Otherwise it names a job."""
    return word == "default" or "=" in word


def _setting(word: str, place: str) -> Setting | None:
    """None: it names a job."""
    import yaml  # noqa: PLC0415

    if not _is_setting(word):
        return None
    if word == "default":
        return {}
    out: Setting = {}
    for part in word.split(","):
        name, _, text = part.partition("=")
        try:
            value = yaml.safe_load(text) if len(text) <= 200 else None
        except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
            value = None
        finite = not isinstance(value, float) or math.isfinite(value)
        if not name.strip() or not finite or not isinstance(value, bool | int | float | str):
            raise InvalidSpec("is no NAME=VALUE", field=place, value=part[:80])
        out[name.strip()] = value
    return out


def _checked(spec: TuningSpec, setting: Setting, place: str) -> Setting:
    """What the job fixes beside it. Raises UnknownName or InvalidSpec for what the engine does not take."""
    from controlplane.catalog import load  # noqa: PLC0415
    from controlplane.model.tuning_job import EngineTarget  # noqa: PLC0415
    from tuner.measure.engine.launch import settings_of  # noqa: PLC0415

    fixed = {} if spec.space is None else {k: v for k, v in spec.space.fixed.items() if k not in setting}
    if isinstance(spec.target, EngineTarget):
        try:
            settings_of(load().engine(spec.target.engine, field="target.engine"), setting | fixed, spec.target.shape)
        except InvalidSpec as error:
            error.field = f"{place} {error.field}"
            raise
    return fixed


def _measured(
    sides: tuple[Side, Side],
    runs_max: int,
    bound_pct: float,
    beside_live: bool,
    others_pct: float,
    state_dir: Path | None,
    *,
    quiet: bool,
) -> Compared:
    from controlplane.tuning_embedded import launchers, state_folder  # noqa: PLC0415
    from tuner.compare import measured_in_turn  # noqa: PLC0415
    from tuner.measure.runner import MeasuringRunner  # noqa: PLC0415

    folder = (state_dir or state_folder(os.environ)) / "hardware"
    folder.mkdir(parents=True, exist_ok=True)
    runner = MeasuringRunner(
        folder, launchers(os.environ), others_pct_max=others_pct, beside_live=beside_live, commands=True
    )
    stop = threading.Event()
    stopped_by_signals(stop)

    def told(pair: int, new: float, old: float) -> None:
        if not quiet:
            click.echo(f"  pair {pair}: new {new:.5g}, old {old:.5g}", err=True)

    return measured_in_turn(runner, *sides, runs_max=runs_max, bound_pct=bound_pct, stop=stop, told=told)


def _document(found: Compared, new: str, old: str, metric: str) -> dict[str, Any]:
    return {
        "new": new,
        "old": old,
        "verdict": found.word,
        "metric": metric,
        "message": found.broken or found.verdicts[0].message,
        "pairs": None if found.pairs is None else [list(pair) for pair in found.pairs],
        "gains": [
            {"verdict": one.word, "message": one.message, "gainPct": None if one.gain_pct is None else one.gain_pct.model_dump(by_alias=True)}
            for one in found.verdicts
        ],
    }  # fmt: skip


def _text(found: Compared) -> str:
    return f"broken: {found.broken}" if found.broken else "\n".join(one.message for one in found.verdicts)
