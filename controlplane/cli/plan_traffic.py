"""The traffic options of `trimtab plan serving`: one kind of arrivals, and nothing beside it that it would ignore."""

from __future__ import annotations

from typing import Any

from controlplane.model.errors import InvalidSpec

# Which options each way to say the traffic leaves without an effect.
_IDLE_BESIDE: dict[str, tuple[str, ...]] = {
    "closed": ("trace", "rate", "arrivals", "cv"),
    "trace": ("rate", "arrivals", "cv", "input_tokens", "output_tokens", "range_ratio", "prefix"),
}
# How much comes, in the words of each kind of arrivals.
_OF_ARRIVALS = frozenset({"ratePerSecond", "concurrency", "trace"})
_OPTION = {
    "closed": "--closed",
    "trace": "--trace",
    "rate": "--rate",
    "arrivals": "--arrivals",
    "cv": "--cv",
    "input_tokens": "--input",
    "output_tokens": "--output-tokens",
    "range_ratio": "--range",
    "prefix": "--prefix",
}


def workload_of(options: dict[str, Any], before: str | None = None) -> dict[str, Any]:
    """The options given, as the request's workload in its camelCase. `before`: the arrivals of the request file they
    come on top of. Raises InvalidSpec where one option would silence another."""
    _check(options, before)
    out: dict[str, Any] = {}
    if options["closed"] is not None:
        out |= {"arrivals": "closed", "concurrency": options["closed"]}
    elif options["trace"] is not None:
        out |= {"arrivals": "trace", "trace": options["trace"]}
    elif options["arrivals"] is not None:
        out["arrivals"] = options["arrivals"]
    for option, field in (("rate", "ratePerSecond"), ("cv", "cv"), ("prefix", "sharedPrefixTokens")):
        if options[option] is not None:
            out[field] = options[option]
    ratio = {} if options["range_ratio"] is None else {"rangeRatio": options["range_ratio"]}
    for option, field in (("input_tokens", "input"), ("output_tokens", "output")):
        if options[option] is not None:
            out[field] = {"tokens": options[option], **ratio}
    return out


def without_silenced(before: dict[str, Any], workload: dict[str, Any]) -> dict[str, Any]:
    """The file's workload without what other arrivals on the command line leave no room for."""
    if "arrivals" not in workload:
        return before
    own = {"closed": "concurrency", "trace": "trace"}.get(workload["arrivals"], "ratePerSecond")
    return {name: value for name, value in before.items() if name == own or name not in _OF_ARRIVALS}


def missing_of(workload: dict[str, Any]) -> list[str]:
    """The options that a workload made of options alone still needs."""
    kind = workload.get("arrivals", "poisson")
    if kind == "trace":
        return []
    rate = [] if kind == "closed" or "ratePerSecond" in workload else ["--rate (or --closed, or --trace)"]
    lengths = (("input", "--input"), ("output", "--output-tokens"))
    return rate + [option for field, option in lengths if field not in workload]


def _check(options: dict[str, Any], before: str | None) -> None:
    given = [name for name in _OPTION if options[name] is not None]
    for kind in ("closed", "trace"):
        idle = [name for name in _IDLE_BESIDE[kind] if name in given]
        if kind in given and idle:
            raise _conflict(
                _OPTION[kind], idle[0], options[idle[0]], f"leave out {_OPTION[kind]} or {_OPTION[idle[0]]}"
            )
    if before in _IDLE_BESIDE and not {"closed", "trace", "arrivals"} & set(given):
        idle = [name for name in _IDLE_BESIDE[before] if name in given]
        if idle:
            hint = f"leave out {_OPTION[idle[0]]}, or say other arrivals: --arrivals poisson"
            raise _conflict(f"the file's {before} arrivals", idle[0], options[idle[0]], hint)
    if "cv" in given and (options["arrivals"] or before) != "gamma":
        raise InvalidSpec(
            f"has no effect on {options['arrivals'] or before or 'poisson'} arrivals",
            field="--cv",
            value=options["cv"],
            hint="add --arrivals gamma, or leave out --cv",
        )
    if "range_ratio" in given and not {"input_tokens", "output_tokens"} & set(given):
        raise InvalidSpec(
            "needs the lengths it is a share of",
            field="--range",
            value=options["range_ratio"],
            hint="give --input and --output-tokens with it",
        )


def _conflict(kind: str, idle: str, value: Any, hint: str) -> InvalidSpec:
    return InvalidSpec(f"has no effect beside {kind}", field=_OPTION[idle], value=value, hint=hint)
