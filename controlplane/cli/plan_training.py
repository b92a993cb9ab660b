"""`trimtab plan training`: the fastest parallel plan that a framework can launch, before a GPU is booked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.files import whole_file
from controlplane.cli.plan_training_options import asked_of, training_options
from controlplane.cli.progress import Progress
from controlplane.model.errors import TrimtabError

if TYPE_CHECKING:
    from tuner.training.planner import Planner, TrainingAnswer
    from tuner.training.planner.answer import Ranked
    from tuner.training.planner.asked import Asked
    from tuner.training.planner.goodput import Failures
    from tuner.training.planner.whatif import Difference

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@training_options
@click.option("--top", type=int, default=3, help="Plans to show (3).")
@click.option(
    "--limit", "limit_s", type=click.FloatRange(0), default=30.0, metavar="S",
    help="Stop after so many seconds, with a bound (30; inf: never).",
)  # fmt: skip
@click.option("--constants", type=_FILE, help="Constants refitted by `trimtab calibrate training`.")
@click.option("--what-if", multiple=True, metavar="CHANGE", help="Plan again with a change and say what it makes.")
@click.option("--theoretical", is_flag=True, help="Show apart what papers describe and no framework launches.")
@click.option("--sizes", is_flag=True, help="The same job on fewer nodes: time, energy and cost.")
@click.option(
    "--failures", metavar="RATE", help="Say what failures cost: llama3, rsc-1, rsc-2, or so many per node and day."
)
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", help="(table)")
@click.option(
    "--export",
    type=click.Choice(["megatron", "torchtitan", "deepspeed", "zero-bubble"]),
    help="Print the winner's launch command.",
)
@click.option("--report", type=_NEW_FILE, metavar="FILE", help="Write an HTML report that needs no network.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def training(
    top: int,
    limit_s: float | None,
    constants: Path | None,
    what_if: tuple[str, ...],
    theoretical: bool,
    sizes: bool,
    failures: str | None,
    output: str,
    export: str | None,
    report: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Find the fastest parallel plan that can be launched, with a proof, and say why others lost.

    \b
    GPT-3 on 1024 A100:
      trimtab plan training --model gpt-3-175b --seq 2048 --global-batch 1536 --gpu a100 --gpus 1024 --nic hdr
    The same with choices already made, and a report:
      trimtab plan training --model gpt-3-175b --seq 2048 --global-batch 1536 --gpu a100 --gpus 1024 --nic hdr \\
          --tp 8 --recompute none --vpp 1,2 --report gpt3.html
    A shape of your own, as a command for Megatron-LM:
      trimtab plan training --model layers=48,hidden=6144,heads=48,vocab=51200 --seq 4096 --global-batch 512 \\
          --gpu h100 --gpus 64 --nic ndr --export megatron
    Two pools with prices, and what one of them alone would do:
      trimtab plan training --model llama-3.1-8b --seq 8192 --global-batch 256 \\
          --pool new=h100:32,nic=ndr,price=3.2 --pool old=a100:32,nic=hdr,price=1.6 --what-if without-pool=old

    Choices to fix: tp pp dp cp ep etp vpp micro_batch schedule recompute zero sp and more (a wrong name lists them);
    attention and overlap_tp are settings of the whole search (flash, false). What-if words: gpus, gpu,
    nic, power-cap, price, global-batch, seq, precision, framework, pool, without-pool, any choice, free=CHOICE.
    """
    from tuner.training.planner import Planner  # noqa: PLC0415 - numpy and the catalogue: not for --help
    from tuner.training.planner.asked import changed  # noqa: PLC0415
    from tuner.training.planner.beyond import check_beside  # noqa: PLC0415

    asked = asked_of(options, export)
    others = [(change, changed(asked, change)) for change in what_if]  # a typo is told before anything is planned
    failing = None if failures is None else _failures(failures)
    rests_on, predictor = _constants(constants)
    planner = Planner(rests_on, predictor)
    check_beside(asked.question(), theoretical=theoretical, sizes=sizes)
    answer = _plan(planner, asked, top, limit_s, quiet)
    differences = [(change, _difference(change, planner, answer, other, limit_s, quiet)) for change, other in others]
    rest = _Beyond(planner, asked, answer, theoretical, sizes, failing, limit_s)
    if report is not None:
        from tuner.training.planner.report import html_report  # noqa: PLC0415
        from tuner.training.planner.report_beside import beside  # noqa: PLC0415

        parts = beside([item for _, item in differences], rest.theoretical, rest.sizes, rest.failures)
        with whole_file(report) as partial:
            partial.write_text(html_report(answer, rests_on, asked.shown(), parts), encoding="utf-8")
    if export is not None:
        from tuner.training.planner.exports import case_of, launch_of, shell  # noqa: PLC0415

        winner = answer.best[0]
        for text in winner.predicted["warnings"]:
            click.echo(f"warning: {text}", err=True)
        click.echo(shell(launch_of(export, case_of(answer, winner), winner.plan)))
    elif output == "table":
        from controlplane.cli.plan_training_table import table, what_if_text  # noqa: PLC0415

        click.echo("\n\n".join([table(answer), *(what_if_text(change, found) for change, found in differences),
                                *rest.texts()]))  # fmt: skip
    else:
        found = answer.as_dict()
        for shown, item in zip(found["best"], answer.best, strict=True):
            shown.update(_launched(answer, item))
        if differences:
            found["what_if"] = [item.as_dict() for _, item in differences]
        found |= rest.documents()
        click.echo(_dumped(found, output))


class _Beyond:
    """What is shown beside the answer, made when it is shown."""

    def __init__(
        self, planner: Planner, asked: Asked, answer: TrainingAnswer, theoretical: bool, sizes: bool,
        failures: Failures | None, limit_s: float | None,
    ) -> None:  # fmt: skip
        from tuner.training.planner import beyond  # noqa: PLC0415

        question = asked.question()
        self.theoretical = beyond.beyond(planner, question, answer, limit_s=limit_s) if theoretical else None
        self.sizes = beyond.sizes(planner, question, answer, limit_s=limit_s) if sizes else None
        self.failures: dict[str, Any] | None = None
        if failures is not None:
            from tuner.training.planner.goodput import after_loss, under_failures  # noqa: PLC0415

            self.failures = under_failures(answer, answer.best[0], failures, planner.constants)
            self.failures["after_loss"] = after_loss(planner, question, answer.best[0], limit_s=limit_s)

    def texts(self) -> list[str]:
        """For the table."""
        from controlplane.cli.plan_training_beyond import sizes_text, theoretical_text  # noqa: PLC0415

        found = [] if self.theoretical is None else [theoretical_text(self.theoretical)]
        found += [] if self.sizes is None else [sizes_text(self.sizes)]
        if self.failures is not None:
            from controlplane.cli.plan_training_failures import failures_text  # noqa: PLC0415

            found.append(failures_text(self.failures, self.failures["after_loss"]))
        return found

    def documents(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {} if self.theoretical is None else {"theoretical": self.theoretical.as_dict()}
        found |= {} if self.sizes is None else {"sizes": [size.as_dict() for size in self.sizes]}
        return found if self.failures is None else {**found, "failures": self.failures}


def _launched(answer: TrainingAnswer, item: Ranked) -> dict[str, Any]:
    """Where ranks sit and how the plan is started; launch is null where its framework has no words for it."""
    from tuner.training.planner.exports import case_of, launch_plan  # noqa: PLC0415

    found = launch_plan(case_of(answer, item), item.plan).model_dump(mode="json")
    return {name: found[name] for name in ("stages", "rank_map", "launch")}


def _plan(planner: Planner, asked: Asked, top: int, limit_s: float | None, quiet: bool) -> TrainingAnswer:
    with Progress("") as progress:
        tell = None if quiet else lambda at: progress.say(_standing(at))
        return planner.plan(asked.question(), top=top, progress=tell, limit_s=limit_s)


def _difference(
    change: str, planner: Planner, before: TrainingAnswer, asked: Asked, limit_s: float | None, quiet: bool
) -> Difference:
    from tuner.training.planner.whatif import difference  # noqa: PLC0415

    try:
        after: TrainingAnswer | str = _plan(planner, asked, 1, limit_s, quiet)
    except TrimtabError as error:
        after = str(error)
    return difference(change, before, after)


def _failures(text: str) -> Failures:
    from tuner.training.planner.goodput import failures_of  # noqa: PLC0415

    return failures_of(text)


def _dumped(data: Any, output: str) -> str:
    if output == "json":
        return json.dumps(data, indent=2, allow_nan=False)
    import yaml  # noqa: PLC0415

    text: str = yaml.safe_dump(json.loads(json.dumps(data, allow_nan=False)), sort_keys=False)
    return text.rstrip("\n")


def _constants(path: Path | None) -> tuple[Any, Any]:
    from tuner.training.constants import shipped  # noqa: PLC0415
    from tuner.training.predict import Predictor, predictor_of  # noqa: PLC0415

    predictor = Predictor(shipped()) if path is None else predictor_of(path)
    return predictor.constants, predictor


def _standing(at: Any) -> str:
    if at.incumbent_s is None:
        return f"no plan that fits yet, {at.cells_left} groups of plans left"
    return f"{at.incumbent_s:.3g} s found, at least {at.bound_s:.3g} s, {at.cells_left} groups of plans left"
