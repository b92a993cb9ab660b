"""What a tuning job asks, in the words of a reader: metrics with their units, limits, load, target."""

from __future__ import annotations

import re

from controlplane.catalog import load
from controlplane.model.errors import UnknownName
from controlplane.model.plans import Workload
from controlplane.model.tuning import Limit
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, RequestSlo, TuningSpec

_SHORT = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "end to end", "cpu": "CPU", "kv": "KV", "gpu": "GPU"}
# The end of a metric's name -> its unit.
_UNITS = {"_per_s": "per s", "_ms": "ms", "_pct": "%", "_mib": "MiB", "_gib": "GiB", "_bytes": "bytes", "_w": "W", "_j": "J", "_s": "s"}  # fmt: skip


def metric_words(metric: str) -> tuple[str, str]:
    """`ttft_p90_ms` is ("TTFT p90", "ms"): name and unit, which is empty where the name says none."""
    end = next((end for end in _UNITS if metric.endswith(end) and len(metric) > len(end)), "")
    words = [_SHORT.get(word, word) for word in metric.removesuffix(end).split("_") if word]
    return " ".join(words) or metric, _UNITS.get(end, "")


def metric_label(metric: str) -> str:
    """For an axis."""
    name, unit = metric_words(metric)
    return f"{name}, {unit}" if unit else name


def limit_words(limit: Limit) -> str:
    """`TTFT p90 at most 300 ms`."""
    name, unit = metric_words(limit.metric)
    how, bound = ("at most", limit.at_most) if limit.at_most is not None else ("at least", limit.at_least)
    return f"{name} {how} {bound:g}{f' {unit}' if unit else ''}"


def slo_words(slo: RequestSlo | None) -> list[str]:
    """What one request must keep."""
    if slo is None:
        return ["none"]
    parts = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("end to end", slo.e2e_ms))
    return [f"{name} at most {value:g} ms" for name, value in parts if value is not None]


def load_words(spec: TuningSpec) -> list[str]:
    """Requests that engines are measured with."""
    if isinstance(spec.target, CommandTarget):
        return ["none: a command brings its own"]
    one: Workload = spec.load
    if one.arrivals == "trace":
        return [f"trace {one.trace}"]
    out = [
        f"closed loop, {one.concurrency} clients"
        if one.arrivals == "closed"
        else f"{one.arrivals} arrivals, {one.rate_per_second:g} requests per s"
        + (f", variation {one.cv:g}" if one.arrivals == "gamma" else "")
    ]
    for what, lengths in (("prompt", one.input), ("output", one.output)):
        if lengths is not None:
            out.append(f"{what}: {lengths.tokens} tokens{_spread(lengths.range_ratio)}")
    if one.shared_prefix_tokens:
        out.append(f"shared prefix: {one.shared_prefix_tokens} tokens")
    return out


def target_words(spec: TuningSpec) -> list[str]:
    """What is tuned."""
    target = spec.target
    if isinstance(target, CommandTarget):
        image = [f"image {target.image}"] if target.image else []
        return [f"command: {' '.join(target.command)}", *image]
    if isinstance(target, DeploymentTarget):
        return [f"deployment {target.namespace}/{target.name}"]
    shape = [f"{name} {value}" for name, value in target.shape.items()]
    on = [f"on {target.accelerator}"] if target.accelerator else []
    return [f"{target.engine} with {target.model}", *on, *shape]


def parameter_unit(spec: TuningSpec, name: str) -> str:
    """As the engine's catalogue entry says; empty where there is none."""
    target = spec.target.serves if isinstance(spec.target, DeploymentTarget) else spec.target
    if target is None or isinstance(target, CommandTarget):
        return ""
    try:
        knob = load().engine(target.engine).knob(name)
    except UnknownName:
        return ""
    return "" if knob is None or knob.unit == "-" else knob.unit


def _spread(ratio: float) -> str:
    return "" if ratio == 1 else f" (the shortest {ratio:.0%} of the longest)"


def cut(text: str, most: int) -> str:
    """Short enough to stand in a figure; what is left out is shown to be."""
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
