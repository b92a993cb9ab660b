"""Power and energy of a deployment's accelerators, by phase of the work.

Prefill runs at the board's limit once an iteration has about a thousand tokens; decode draws less and grows with the
logarithm of the batch; a waiting accelerator idles. A power cap lowers the clock, which prefill feels in full and
decode, bound by memory, hardly at all. Every constant and its source stands in `data/energy.json`; `docs/energy.md`
says how far they are off. What is unknown is None, never 0 W.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from controlplane.catalog import Accelerator
from controlplane.model.errors import InvalidSpec

Phase = Literal["prefill", "decode", "idle"]

_DATA = Path(__file__).parent / "data" / "energy.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyEstimate:
    """Of all accelerators of a deployment over a span of time. `error_pct`: at least three quarters of the runs the
    constants come from lie within it (a unit test holds that)."""

    power_w: float
    joules: float
    joules_per_output_token: float | None
    error_pct: float
    notes: tuple[str, ...] = ()


def prefill_utilisation(tokens_per_iteration: float) -> float:
    """How far an iteration with this many context tokens fills the arithmetic units, in [0, 1]."""
    few, full = _phase("prefill_tokens_few"), _phase("prefill_tokens_full")
    return _clamp(math.log2(max(tokens_per_iteration, 1.0) / few) / math.log2(full / few))


def decode_utilisation(sequences: float) -> float:
    """How far a decode batch fills the accelerator, in [0, 1]."""
    return _clamp(math.log2(max(sequences, 1.0)) / math.log2(_phase("decode_sequences_full")))


def phase_power_w(
    accelerator: Accelerator, phase: Phase, utilisation: float = 1.0, *, cap_w: float | None = None
) -> float | None:
    """Mean power of one accelerator in a phase. None where its TDP is unknown. Raises InvalidSpec."""
    if not 0.0 <= utilisation <= 1.0:
        raise InvalidSpec("not a share", field="utilisation", value=utilisation, limit="0 to 1")
    if accelerator.tdp_w is None:
        return None
    _check_cap(accelerator, cap_w)
    power = accelerator.tdp_w * _share(accelerator, phase, utilisation)
    return power if cap_w is None else min(power, cap_w)


def clock_factors(
    accelerator: Accelerator,
    cap_w: float | None,
    *,
    prefill_at: float = 1.0,
    decode_at: float = 0.5,
) -> tuple[float, float] | None:
    """(prefill, decode) times under a power cap over those without, both at least 1. None where the TDP is unknown.

    A cap binds a phase only where it draws more. `prefill_at` and `decode_at` are utilisations. Raises InvalidSpec for
    a cap the accelerator cannot keep.
    """
    if cap_w is None:
        return 1.0, 1.0
    if accelerator.tdp_w is None:
        return None
    _check_cap(accelerator, cap_w)
    clock = _facts()["clock"]
    out = []
    for phase, at in (("prefill", prefill_at), ("decode", decode_at)):
        share = _share(accelerator, "prefill" if phase == "prefill" else "decode", at)
        ratio = clock_share(accelerator, cap_w, share)
        assert ratio is not None
        out.append(1.0 + float(clock[f"{phase}_sensitivity"]["value"]) * (1.0 / ratio - 1.0))
    return out[0], out[1]


def energy(
    accelerator: Accelerator,
    *,
    accelerators: int,
    prefill_s: float,
    decode_s: float,
    idle_s: float,
    output_tokens: float,
    prefill_tokens_per_iteration: float = 2048.0,
    decode_sequences: float = 64.0,
    cap_w: float | None = None,
) -> EnergyEstimate | None:
    """Energy of `accelerators` that spent these seconds in each phase together. Iterations that do both count as
    prefill. None where the TDP is unknown. Raises InvalidSpec."""
    seconds = {"prefill": prefill_s, "decode": decode_s, "idle": idle_s}
    for name, value in seconds.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise InvalidSpec("not a time", field=f"{name}_s", value=value, limit=">= 0")
    span_s = sum(seconds.values())
    if accelerators < 1 or span_s <= 0.0:
        raise InvalidSpec("no time or no accelerator to account for", field="accelerators", value=accelerators)
    prefill_w = phase_power_w(accelerator, "prefill", prefill_utilisation(prefill_tokens_per_iteration), cap_w=cap_w)
    decode_w = phase_power_w(accelerator, "decode", decode_utilisation(decode_sequences), cap_w=cap_w)
    idle_w = phase_power_w(accelerator, "idle", cap_w=cap_w)
    if prefill_w is None or decode_w is None or idle_w is None:
        return None
    joules = accelerators * (prefill_w * prefill_s + decode_w * decode_s + idle_w * idle_s)
    error, note = _error(accelerator)
    return EnergyEstimate(
        power_w=joules / span_s,
        joules=joules,
        joules_per_output_token=joules / output_tokens if output_tokens > 0 else None,
        error_pct=error,
        notes=("accelerators only: no host, fans or power supplies", *note),
    )


def _share(accelerator: Accelerator, phase: Phase, utilisation: float) -> float:
    """Share of TDP."""
    if phase == "idle":
        own = _facts()["idle_share_by_architecture"].get(accelerator.architecture)
        return float(own["value"]) if own is not None else _phase("idle_share")
    low, high = (
        ("prefill_share_few_tokens", "prefill_share_full")
        if phase == "prefill"
        else ("decode_share_one_sequence", "decode_share_full")
    )
    return _phase(low) + (_phase(high) - _phase(low)) * utilisation


def clock_share(accelerator: Accelerator, cap_w: float, wanted_share: float) -> float | None:
    """Clock over its maximum at which work that draws `wanted_share` of TDP uncapped draws `cap_w`: what exceeds idle
    goes with a power of the clock. None where the TDP is unknown. Raises InvalidSpec for a cap it cannot keep."""
    if accelerator.tdp_w is None:
        return None
    _check_cap(accelerator, cap_w)
    idle = _share(accelerator, "idle", 0.0)
    if wanted_share <= idle:
        return 1.0
    room = (cap_w / accelerator.tdp_w - idle) / (wanted_share - idle)
    clock = _facts()["clock"]
    ratio = float(max(room, 0.0) ** (1.0 / clock["power_exponent"]["value"]))
    return min(1.0, max(float(clock["least_clock_share"]["value"]), ratio))


def least_cap_w(accelerator: Accelerator) -> float | None:
    """The lowest power limit that an accelerator keeps: the vendor's, else what it draws idle. None: TDP unknown."""
    if accelerator.tdp_w is None:
        return None
    return accelerator.min_power_limit_w or accelerator.tdp_w * _share(accelerator, "idle", 0.0)


def _check_cap(accelerator: Accelerator, cap_w: float | None) -> None:
    if cap_w is None or accelerator.tdp_w is None:
        return
    least = least_cap_w(accelerator)
    if least is not None and cap_w < least:
        raise InvalidSpec(
            f"{accelerator.name} cannot be held below {least:g} W",
            field="power_cap_w",
            value=cap_w,
            limit=f"{least:g} to {accelerator.tdp_w:g} W",
        )


def _error(accelerator: Accelerator) -> tuple[float, tuple[str, ...]]:
    """Error in percent, and a note where the accelerator's generation was not among the measured ones."""
    errors = _facts()["error_pct"]
    if accelerator.vendor == "nvidia" and accelerator.architecture in errors:
        return float(errors[accelerator.architecture]["value"]), ()
    return float(errors["other"]["value"]), (f"no power measurement of {accelerator.architecture} behind this",)


def _phase(name: str) -> float:
    return float(_facts()["phases"][name]["value"])


def _clamp(value: float) -> float:
    return min(1.0, max(0.0, value))


@cache
def _facts() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_DATA.read_bytes())
    return loaded
