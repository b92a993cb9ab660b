"""Options of `trimtab plan training`, and the question that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.option_group import Options, option_group
from controlplane.model.errors import InvalidSpec, UnknownName

if TYPE_CHECKING:
    from tuner.training.planner.asked import Asked

# Choices with an option of their own; --fix takes all of them.
_CHOICES = {
    "tp": "Tensor parallel degree", "pp": "Pipeline stages", "dp": "Data parallel degree",
    "cp": "Context parallel degree", "ep": "Expert parallel degree", "vpp": "Virtual stages",
    "micro_batch": "Sequences of a micro-batch", "schedule": "Pipeline schedule", "recompute": "Recomputation",
    "zero": "ZeRO level", "sp": "Sequence parallelism, true or false",
}  # fmt: skip
_OPTIONS: Options = (
    click.option("--model", help="A catalogue name, or a shape: layers=96,hidden=12288,heads=96,vocab=51200."),
    click.option("--seq", type=int, help="Tokens per sequence. Needed with a catalogue name."),
    click.option("--global-batch", type=int, help="Sequences per iteration."),
    click.option("--gpu", help="Accelerator, by catalogue id or short name."),
    click.option("--gpus", type=int, help="How many; a plan takes all of them."),
    click.option("--gpus-per-node", type=int, help="(as the accelerator is usually built)"),
    click.option("--nic", help="NIC class between nodes."),
    click.option("--nics-per-node", type=int, help="(as many as accelerators)"),
    click.option("--power-cap", type=float, metavar="W", help="Power limit set on each accelerator."),
    click.option("--price", type=float, help="Of one accelerator for an hour; plans then say what they cost."),
    click.option("--currency", help="ISO 4217 code of the price (USD)."),
    click.option(
        "--pool",
        multiple=True,
        metavar="NAME=GPU:COUNT[,nic=..]",
        help="Instead of --gpu, --gpus and so on; repeat it. More words: nics, per-node, price, currency, cap (W).",
    ),
    click.option(
        "--cross", type=float, metavar="GB/S", help="Of a node towards pools with other NICs (Ethernet, 3.1)."
    ),
    click.option(
        "--reserve",
        type=float,
        metavar="SHARE",
        help="Of the memory that plans leave free (0.05, the model's own error).",
    ),
    click.option("--pools", metavar="NAME[,NAME]", help="Take only these of the pools."),
    click.option("--precision", help="(bf16; fp16 where an accelerator has no bf16)"),
    click.option("--framework", help="What is to launch it (megatron-lm, or what --export is for)."),
    *(
        click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE[,VALUE]", help=f"{text}: only this.")
        for name, text in _CHOICES.items()
    ),
    click.option("--fix", multiple=True, metavar="NAME=VALUE", help="Any choice already made; repeat it."),
)


training_options = option_group(_OPTIONS)
"""Adds the options, in order."""


def asked_of(options: dict[str, Any], export: str | None = None) -> Asked:
    """The question of the options; what is to be exported says the framework unless told. Raises UsageError for what is missing, InvalidSpec or UnknownName for the rest."""
    from tuner.training.planner.asked import Asked, training_pool, with_nics  # noqa: PLC0415 - numpy: not for --help

    single = {name: options.pop(name) for name in (*_SINGLE, "gpu", "gpus")}
    given, chosen, cross = options.pop("pool"), options.pop("pools"), options.pop("cross")
    missing = [f"--{name.replace('_', '-')}" for name in ("model", "global_batch") if options[name] is None]
    if not given:
        missing += [f"--{name}" for name in ("gpu", "gpus") if single[name] is None]
    if missing:
        raise click.UsageError(f"say {', '.join(missing)}{'' if given else ' (or --pool)'}; --help has examples")
    if given:
        from tuner.serving.planner.pooltext import parse_pool  # noqa: PLC0415
        from tuner.training.names import gpu_id  # noqa: PLC0415

        said = [f"--{name.replace('_', '-')}" for name, value in single.items() if value is not None]
        if said:
            raise InvalidSpec("says the pool twice", field=", ".join(said), hint="say it inside --pool")
        pools = [training_pool(parse_pool(text, field="--pool", find=gpu_id)) for text in given]
    else:
        named = {_SINGLE.get(name, name): value for name, value in single.items() if value is not None}
        pools = [with_nics(named)]
    reserve = options.pop("reserve")
    if reserve is not None:
        pools = [{**pool, "memory_reserve": reserve} for pool in pools]
    if cross is not None:
        pools = [{**pool, "cross_gb_s": cross} for pool in pools]
    fix = [f"{name}={value}" for name in _CHOICES if (value := options.pop(name)) is not None]
    return Asked(
        model=options["model"], pools=tuple(_only(pools, chosen)), global_batch=options["global_batch"],
        seq=options["seq"], precision=options["precision"], framework=options["framework"] or _FRAMEWORKS.get(export or "", "megatron-lm"),
        fix=(*fix, *options["fix"]),
    )  # fmt: skip


_FRAMEWORKS = {"torchtitan": "fsdp", "deepspeed": "megatron-deepspeed", "zero-bubble": "megatron-zero-bubble"}
# Options of the one pool, and their names in a question.
_SINGLE = {
    "gpus_per_node": "gpus_per_node", "nic": "nic", "nics_per_node": "nics_per_node", "power_cap": "power_cap_w",
    "price": "price_per_accelerator_hour", "currency": "currency",
}  # fmt: skip


def _only(pools: list[dict[str, Any]], chosen: str | None) -> list[dict[str, Any]]:
    if chosen is None:
        return pools
    names = {str(pool.get("name")): pool for pool in pools}
    wanted = [name.strip() for name in chosen.split(",")]
    for name in wanted:
        if name not in names:
            raise UnknownName("no such pool", field="--pools", value=name[:60], hint=f"known: {', '.join(names)}")
    return [names[name] for name in dict.fromkeys(wanted)]
