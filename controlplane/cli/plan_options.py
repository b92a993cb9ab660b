"""Options of `trimtab plan serving`, and the planning request they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from controlplane.cli.option_group import Options, option_group
from controlplane.cli.plan_traffic import missing_of, without_silenced, workload_of
from controlplane.model.errors import InvalidSpec
from controlplane.model.routers import OFFERED, RouterName, RouterPolicy

if TYPE_CHECKING:
    from controlplane.model.plans import PlanRequest

_PERCENTILES = ("p50", "p90", "p95", "p99")
_OBJECTIVES = ("goodput-per-accelerator", "goodput-per-watt", "goodput-per-cost")
_ROUTERS = get_args(RouterName)
_POLICIES = [policy for policy in get_args(RouterPolicy) if any(policy in offered for offered in OFFERED.values())]
_FILE_BYTES_MAX = 1 << 20
_NEEDED = (
    ("model", "--model"),
    ("pools", "--pool"),
    ("workload", "the traffic: --rate, --input and --output-tokens (or --closed, or --trace)"),
)
_OPTIONS: Options = (
    click.option("--model", help="Catalogue name or repository id."),
    click.option(
        "--pool",
        multiple=True,
        metavar="NAME=ACCELERATOR:COUNT[,price=..]",
        help="Accelerators that may be used; repeat it. More words: currency, nic, nics, per-node, cap (W).",
    ),
    click.option("--rate", "--poisson", "rate", type=float, help="Requests per second."),
    click.option("--closed", type=int, metavar="CLIENTS", help="Clients that each keep one request open, instead."),
    click.option("--arrivals", type=click.Choice(["poisson", "gamma", "burst"]), help="How requests arrive (poisson)."),
    click.option("--cv", type=float, help="Coefficient of variation of the gaps, for gamma."),
    click.option("--trace", help="Trace file with arrivals and lengths, instead of a rate."),
    click.option("--input", "--isl", "input_tokens", type=int, help="Prompt tokens, the longest."),
    click.option("--output-tokens", "--osl", "output_tokens", type=int, help="Output tokens, the longest."),
    click.option("--range", "range_ratio", type=float, help="Shortest length as a share of the longest (1)."),
    click.option("--prefix", type=int, help="Leading prompt tokens that all requests share (0)."),
    *(
        click.option(f"--{metric}-{point}", type=float, metavar="MS", help=f"Promised {metric.upper()} {point}, ms.")
        for metric in ("ttft", "tpot")
        for point in _PERCENTILES
    ),
    click.option("--objective", type=click.Choice(_OBJECTIVES), help="What better means (goodput-per-accelerator)."),
    click.option(
        "--engine", "--backend", "engine", multiple=True, help="Engine that may be used; repeat it. All when absent."
    ),
    click.option("--quantization", multiple=True, help="Weight format that may be used beside none; repeat it."),
    click.option("--kv-quantization", multiple=True, help="KV cache format that may be used; repeat it."),
    click.option("--disaggregated", is_flag=True, help="Also separate prefill and decode roles."),
    click.option("--max-accelerators", type=int, help="Budget in accelerators."),
    click.option("--max-watts", type=float, help="Budget in watts."),
    click.option("--max-cost-per-hour", type=float, help="Budget in the pools' currency."),
    click.option("--top", type=int, help="Deployments to rank (3)."),
    click.option("--seed", type=int, help="Seed of the simulated traffic (0)."),
    click.option("--router", type=click.Choice(_ROUTERS), help="What stands in front of the replicas (service)."),
    click.option("--router-policy", type=click.Choice(_POLICIES), help="How it picks; each router has a default."),
    click.option(
        "--split-roles", multiple=True, metavar="ENGINE", help="Engine whose roles this installation renders."
    ),
    click.option("--kv-connector", multiple=True, metavar="ENGINE", help="Engine whose KV connector is set up here."),
    click.option(
        "--image",
        multiple=True,
        metavar="ENGINE[/VENDOR]=IMAGE",
        help="Image of an engine, for one vendor's accelerators, or of a router.",
    ),
)


plan_options = option_group(_OPTIONS)
"""Adds the options, in order."""


def request_of(file: Path | None, options: dict[str, Any]) -> PlanRequest:
    """The request of a file with the options on top. Raises InvalidSpec or UnknownName with the field at fault."""
    from pydantic import ValidationError  # noqa: PLC0415 - 60 ms that --help can do without

    from controlplane.model.plans import PlanRequest  # noqa: PLC0415

    data: dict[str, Any] = {} if file is None else _read(file)
    _put(data, options)
    missing = [words for field, words in _NEEDED if field not in data]
    if file is None and "workload" in data:
        missing += missing_of(data["workload"])
    if missing:
        raise click.UsageError(f"say {'; '.join(missing)} (or give a request with -f); --help has examples")
    if options["arrivals"] == "gamma" and "cv" not in data["workload"]:
        raise InvalidSpec(
            "gamma arrivals without --cv have one of 1, which is Poisson",
            field="--arrivals",
            value="gamma",
            hint="say how much the gaps vary: --cv 2 for bursts, --cv 0.5 for a steadier stream",
        )
    try:
        return PlanRequest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(_step(part) for part in first["loc"]).lstrip(".")
        raise InvalidSpec(
            first["msg"].removeprefix("Value error, "), field=place or None, value=_short(first.get("input"))
        ) from None


def _step(part: int | str) -> str:
    """One step into a request, as fields are named everywhere: `[0]`, `.pricePerAcceleratorHour`."""
    from pydantic.alias_generators import to_camel  # noqa: PLC0415

    return f"[{part}]" if isinstance(part, int) else f".{to_camel(part) if '_' in part else part}"


def _read(file: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415

    if file.stat().st_size > _FILE_BYTES_MAX:
        raise InvalidSpec("file too large", field="--file", value=str(file), limit=f"{_FILE_BYTES_MAX} bytes")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSpec(f"is not YAML: {str(error)[:200]}", field="--file", value=str(file)) from None
    if not isinstance(data, dict):
        raise InvalidSpec(
            "must be an object", field="--file", value=str(file), limit="model, slo, workload, pools, ..."
        )
    asked = data.get("request")
    if isinstance(asked, dict) and "best" in data:
        return asked  # a whole answer: the question that it repeats
    return data


def _put(data: dict[str, Any], options: dict[str, Any]) -> None:
    """Options into the request's fields, in its camelCase."""
    for option, field in (("model", "model"), ("objective", "objective"), ("top", "top"), ("seed", "seed")):
        if options[option] is not None:
            data[field] = options[option]
    if options["pool"]:
        data["pools"] = [_pool(text) for text in options["pool"]]
    before = _mapping(data.get("workload"), "workload")
    workload = workload_of(options, before.get("arrivals"))
    if workload:
        data["workload"] = {**without_silenced(before, workload), **workload}
    slo = _mapping(data.get("slo"), "slo")
    for metric in ("ttft", "tpot"):
        given = {point: value for point in _PERCENTILES if (value := options[f"{metric}_{point}"]) is not None}
        if given:
            slo[f"{metric}Ms"] = {**_mapping(slo.get(f"{metric}Ms"), f"slo.{metric}Ms"), **given}
    if slo:
        data["slo"] = slo
    allowed = _mapping(data.get("allowed"), "allowed")
    if options["engine"]:
        allowed["engines"] = [_engine(name) for name in options["engine"]]
    for option, field in (("quantization", "quantizations"), ("kv_quantization", "kvQuantizations")):
        if options[option]:
            allowed[field] = list(options[option])
    if options["disaggregated"]:
        allowed["disaggregated"] = True
    for option, field in (
        ("max_accelerators", "maxAccelerators"),
        ("max_watts", "maxWatts"),
        ("max_cost_per_hour", "maxCostPerHour"),
    ):
        if options[option] is not None:
            allowed[field] = options[option]
    if allowed:
        data["allowed"] = allowed
    if options["router"] or options["router_policy"]:
        routing = _mapping(data.get("routing"), "routing")
        named = {"router": options["router"], "policy": options["router_policy"]}
        data["routing"] = {**routing, **{field: value for field, value in named.items() if value}}


def _pool(text: str) -> dict[str, Any]:
    from tuner.serving.planner.pooltext import parse_pool  # noqa: PLC0415

    return parse_pool(text, field="--pool")


def _engine(name: str) -> str:
    from tuner.serving.resolve import find_engine  # noqa: PLC0415

    return find_engine(name, field="--engine")


def _mapping(value: Any, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidSpec("must be an object", field=field, value=_short(value))
    return dict(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
