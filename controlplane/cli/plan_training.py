"""`trimtab plan training`: the fastest parallel plan that a framework can launch, before a GPU is booked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from controlplane.cli.progress import Progress

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--model", required=True, help="A catalogue name, or a shape: layers=96,hidden=12288,heads=96,vocab=51200."
)
@click.option("--seq", type=int, help="Tokens per sequence. Needed with a catalogue name.")
@click.option("--global-batch", type=int, required=True, help="Sequences per iteration.")
@click.option("--gpu", required=True, help="Accelerator, by catalogue id or short name.")
@click.option("--gpus", type=int, required=True, help="How many; a plan takes all of them.")
@click.option("--gpus-per-node", type=int, help="(as the accelerator is usually built)")
@click.option("--nic", help="NIC class between nodes.")
@click.option("--nics-per-node", type=int, help="(as many as accelerators)")
@click.option("--power-cap", type=float, help="Watts set on each accelerator.")
@click.option("--precision", default="bf16", help="(bf16)")
@click.option("--framework", default="megatron-lm", help="(megatron-lm)")
@click.option("--fix", multiple=True, metavar="NAME=VALUE", help="A choice already made; may be given several times.")
@click.option("--top", type=int, default=3, help="Plans to show (3).")
@click.option("--limit", "limit_s", type=click.FloatRange(0), help="Stop after so many seconds, with a bound.")
@click.option("--constants", type=_FILE, help="Constants refitted by `trimtab calibrate training`.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="(table)")
@click.option("--export", type=click.Choice(["megatron"]), help="Print the winner's launch arguments.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def training(
    model: str,
    seq: int | None,
    global_batch: int,
    precision: str,
    framework: str,
    fix: tuple[str, ...],
    top: int,
    limit_s: float | None,
    constants: Path | None,
    output: str,
    export: str | None,
    quiet: bool,
    **pool: Any,
) -> None:
    """Find the fastest parallel plan for one pool of equal nodes, with a proof, and say why others lost.

    \b
    GPT-3 on 1024 A100:
      trimtab plan training --model gpt-3-175b --seq 2048 --global-batch 1536 --gpu a100 --gpus 1024 --nic hdr
    The same with choices already made:
      trimtab plan training --model gpt-3-175b --seq 2048 --global-batch 1536 --gpu a100 --gpus 1024 --nic hdr \\
          --fix tp=8 --fix recompute=none --fix vpp=1,2
    A shape of your own, as arguments for Megatron-LM:
      trimtab plan training --model layers=48,hidden=6144,heads=48,vocab=51200 --seq 4096 --global-batch 512 \\
          --gpu h100 --gpus 64 --nic ndr --export megatron

    Choices to fix: tp pp dp cp ep etp vpp micro_batch schedule recompute zero sp; attention, overlap_dp and overlap_tp
    are settings of the whole search (flash, true, false).
    """
    from tuner.training.planner import Planner, megatron_flags, read_question  # noqa: PLC0415 - not for --help

    question = read_question(
        model, _cluster(pool), global_batch=global_batch, seq=seq, precision=precision, fix=fix, framework=framework
    )
    planner = Planner() if constants is None else Planner(*_refitted(constants))
    with Progress("") as progress:
        tell = None if quiet else lambda at: progress.say(_standing(at))
        answer = planner.plan(question, top=top, progress=tell, limit_s=limit_s)
    if export is not None:
        click.echo(" \\\n".join(megatron_flags(question.case, answer.best[0].plan)))
    elif output == "json":
        click.echo(json.dumps(answer.as_dict(), indent=2, allow_nan=False))
    else:
        from controlplane.cli.plan_training_table import table  # noqa: PLC0415

        click.echo(table(answer))


def _cluster(pool: dict[str, Any]) -> dict[str, Any]:
    cluster = {name: pool[name] for name in ("gpu", "gpus", "gpus_per_node", "nic") if pool[name] is not None}
    if pool["power_cap"] is not None:
        cluster["power_cap_w"] = pool["power_cap"]
    if pool["nics_per_node"] is not None:
        cluster["nics_per_node"] = pool["nics_per_node"]
    elif pool["nic"] is not None:
        from controlplane.catalog import load  # noqa: PLC0415
        from tuner.training.names import gpu_id  # noqa: PLC0415

        usual = load().accelerators[gpu_id(pool["gpu"], field="gpu")].accelerators_per_node or 8
        cluster["nics_per_node"] = pool["gpus_per_node"] or max(min(pool["gpus"], usual), 1)
    return cluster


def _refitted(constants: Path) -> tuple[Any, Any]:
    from tuner.training.predict import predictor_of  # noqa: PLC0415

    predictor = predictor_of(constants)
    return predictor.constants, predictor


def _standing(at: Any) -> str:
    if at.incumbent_s is None:
        return f"no plan that fits yet, {at.cells_left} groups of plans left"
    return f"{at.incumbent_s:.3g} s found, at least {at.bound_s:.3g} s, {at.cells_left} groups of plans left"
