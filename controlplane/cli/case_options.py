"""The options of one serving case, shared by the commands that predict: each is a field of the batch interface. The second
name of an option is the one `trimtab plan serving` has for it."""

from __future__ import annotations

import json
from typing import Any

import click

from controlplane.cli.option_group import Options, names_of, option_group

_OPTIONS: Options = (
    click.option("--model", help="Catalogue name or repository id."),
    click.option("--system", help="Accelerator: catalogue name, product name or a usual short name."),
    click.option("--backend", "--engine", "backend", help="vllm, sglang, trtllm or openvino."),
    click.option("--backend-version", help="Engine version. The newest measured one when absent."),
    click.option("--tp", type=int, help="Tensor parallel ranks."),
    click.option("--pp", type=int, help="Pipeline stages (1)."),
    click.option("--attention-dp", type=int, help="Attention data parallel ranks (1)."),
    click.option("--moe-tp", type=int, help="Ranks that split each expert."),
    click.option("--moe-ep", type=int, help="Ranks the experts are spread over."),
    click.option("--replicas", type=int, help="Engines behind one router (1)."),
    click.option("--router", help="random, round-robin, least-loaded, prefix-affinity or kv-aware (random)."),
    click.option("--gemm-quant", help="Weight format. The checkpoint's own when absent."),
    click.option("--moe-quant", help="Format of the experts."),
    click.option("--kv-quant", help="KV cache format."),
    click.option("--isl", "--input", "isl", type=int, help="Prompt tokens, the longest."),
    click.option("--osl", "--output-tokens", "osl", type=int, help="Output tokens, the longest."),
    click.option("--isl-range", type=float, help="Shortest prompt as a share of the longest (1)."),
    click.option("--osl-range", type=float, help="Shortest output as a share of the longest (1)."),
    click.option("--prefix", type=int, help="Leading prompt tokens that all requests share (0)."),
    click.option("--closed", type=int, metavar="CLIENTS", help="Clients that each keep one request open."),
    click.option("--poisson", "--rate", "poisson", type=float, metavar="RATE", help="Requests per second (Poisson)."),
    click.option("--requests", type=int, help="Requests to replay."),
    click.option("--knob", multiple=True, metavar="NAME=VALUE", help="Engine setting, for example max_num_seqs=256."),
    click.option("--cores", type=int, help="CPU cores of one rank, where the accelerator is a CPU."),
    click.option("--nic", help="NIC class between nodes."),
    click.option("--price", "price_per_accelerator_hour", type=float, help="Price of one accelerator for an hour."),
    click.option("--power-cap-w", type=float, help="Power limit set on each accelerator."),
    click.option("--seed", type=int, help="Seed of the simulated traffic (0)."),
)
CASE_FIELDS = names_of(_OPTIONS)

case_options = option_group(_OPTIONS)
"""Adds the options, in the order above."""


def case_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Removes the case's options from `options` and gives them as one line of the batch interface; only those given."""
    given = {name: options.pop(name) for name in list(options) if name in CASE_FIELDS}
    fields = {name: value for name, value in given.items() if value not in (None, ())}
    arrivals = {name: fields.pop(name) for name in ("closed", "poisson") if name in fields}
    if arrivals:
        fields["arrivals"] = arrivals
    knobs = fields.pop("knob", ())
    if knobs:
        fields["knobs"] = dict(_knob(text) for text in knobs)
    return fields


def check_complete(fields: dict[str, Any]) -> None:
    """Raises UsageError naming every option that the case still needs, in the words of the command line."""
    needed = ["model", "system", "backend", "tp"]
    if "trace" not in fields.get("arrivals", {}):
        needed += ["isl", "osl"]
    missing = [f"--{name}" for name in needed if name not in fields]
    if "arrivals" not in fields:
        missing.append("--closed or --poisson")
    if missing:
        raise click.UsageError(f"the case needs {', '.join(missing)}")
    if len(fields["arrivals"]) > 1:
        raise click.UsageError("give --closed or --poisson, not both")


def _knob(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--knob")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
