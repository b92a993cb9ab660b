"""Answers a training case: iteration time with an interval, utilisation, memory per stage, traffic, energy, warnings."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec
from controlplane.model.training import TrainingCase
from tuner.training.columns import columns, peaks
from tuner.training.constants import Constants, document, from_document, shipped
from tuner.training.energy import IterationEnergy, case_energy
from tuner.training.evaluate import times, waterfall
from tuner.training.flops import model_flops, recompute_flops
from tuner.training.memory import Waterfall
from tuner.training.networks import assumes_ethernet
from tuner.training.offload import host_bytes
from tuner.training.patterns import FITTED, pattern
from tuner.training.room import between, total_bytes, usable_bytes
from tuner.training.seats import seat_warnings, stage_pools, stands_on
from tuner.training.widths import widenings

_MOST_BYTES = 4 << 20  # of a constants file


class Predictor:
    """Holds the constants; one instance answers any number of cases."""

    def __init__(self, constants: Constants | None = None, half_widths: dict[str, float] | None = None) -> None:
        self._constants = shipped() if constants is None else constants
        intervals = document().get("intervals", {})
        self._widths: dict[str, float] = intervals.get("log_half_width", {}) if half_widths is None else half_widths

    @property
    def constants(self) -> Constants:
        """What the answers rest on."""
        return self._constants

    def answer(self, case: TrainingCase) -> dict[str, Any]:
        """The fields of one answer line; `lo` and `hi` bound 90 % of runs of this pattern."""
        found = times([case], self._constants)
        seconds, bubble, exposed, computing = (
            float(part[0]) for part in (found.seconds, found.bubble, found.exposed_comm_s, found.computing_s)
        )
        width = self.half_width(case)
        parts = waterfall(case, self._constants)
        stages = parts.total[0]
        limits = np.array([min(usable_bytes(case.pools[pool]) for pool in stands) for stands in stands_on(case)])
        totals = np.array([min(total_bytes(case.pools[pool]) for pool in stands) for stands in stands_on(case)])
        least, most = between(stages)
        ranks, batch = case.plan.ranks, case.plan.global_batch
        # A power cap lowers what is reached, not the peak it is told against.
        nominal = [
            peaks(load().accelerators[case.pools[pool].gpu], case.plan.precision)[0] for pool in stage_pools(case)
        ]
        capacity = seconds * ranks * float(np.mean(nominal))
        model = model_flops(case.model, batch)
        hardware = model + recompute_flops(case.model, case.plan)
        spare = limits - stages
        answer: dict[str, Any] = {
            "iteration_s": seconds,
            "lo": None if width is None else seconds * math.exp(-width),
            "hi": None if width is None else seconds * math.exp(width),
            "tokens_per_s": batch * case.model.seq / seconds,
            "mfu": model / capacity,
            "hfu": hardware / capacity,
            "memory_bytes": [round(float(value)) for value in stages],
            "memory_lo_bytes": [round(float(value)) for value in least],
            "memory_hi_bytes": [round(float(value)) for value in most],
            "memory_limit_bytes": [round(float(value)) for value in limits],
            "memory": _shown(parts),
            "bubble": bubble,
            "exposed_comm_s": exposed,
            **_energy(case_energy(case, seconds, computing, exposed, hardware / capacity), width),
            "energy_basis": "model",
            **_cost(case, seconds),
            "fits": bool((spare >= 0).all()),
            "tight": bool((spare >= 0).all() and (most > totals).any()),
            "pattern": pattern(case),
        }
        plan = case.plan
        if plan.optimizer_offload == "cpu" or plan.offload_layers:
            host = host_bytes(columns([(case, 0)], tuple(self._constants.accelerators)))
            answer["host_memory_bytes"] = round(float(host[0]))
        answer["warnings"] = self._warnings(case, spare, totals - most)
        return answer

    def half_width(self, case: TrainingCase) -> float | None:
        """Logarithmic half-width of the case's interval; None without a calibration."""
        width = self._widths.get(pattern(case), self._widths.get("other"))
        return None if width is None else max([width, *(item.half_width for item in widenings(case, width))])

    def _warnings(self, case: TrainingCase, spare: np.ndarray[Any, Any], sure: np.ndarray[Any, Any]) -> list[str]:
        found = []
        worst = int(np.argmin(spare))
        if spare[worst] < 0:
            found.append(
                f"stage {worst} needs {-spare[worst] / 2**30:.2f} GiB more than its accelerator has beside the reserve"
            )
        elif sure.min() < 0:
            tight = int(np.argmin(sure))
            found.append(
                f"memory is tight: where the model errs as far as it was seen to, stage {tight} needs "
                f"{-sure[tight] / 2**30:.2f} GiB more than its accelerator has; a larger reserve asks for leaner plans"
            )
        names = {load().accelerators[pool.gpu].architecture for pool in case.pools}
        unfitted = sorted(name for name in names if name.lower() not in FITTED)
        if unfitted:
            found.append(f"{', '.join(unfitted)}: constants of this architecture are not fitted to measurements")
        for pool in case.pools:
            tdp_w = load().accelerators[pool.gpu].tdp_w
            if pool.power_cap_w is not None and tdp_w is not None and pool.power_cap_w > tdp_w:
                found.append(f"a power cap of {pool.power_cap_w:g} W is above {pool.gpu}'s own {tdp_w:g} W: no cap")
        if pattern(case) not in self._widths:
            found.append(f"no measured runs of pattern {pattern(case)}: the interval is a guess, twice the pooled one")
        width = self._widths.get(pattern(case), self._widths.get("other"))
        found += [] if width is None else [f"wider interval: {item.reason}" for item in widenings(case, width)]
        if assumes_ethernet(tuple(case.pools[index] for index in sorted(set(stage_pools(case))))):
            found.append(
                "pools of unlike NICs: 25 Gb/s Ethernet per node between them is assumed; cross_gb_s says more"
            )
        found += seat_warnings(case)
        plan = case.plan
        gpus = {pool.gpu for pool in case.pools}
        narrow = sorted(gpu for gpu in gpus if load().accelerators[gpu].bf16_flop_per_s is None)
        if plan.precision == "bf16" and narrow:
            found.append(
                f"{', '.join(narrow)}: no bf16 in the data sheet, its fp16 rate is counted; fp16 is what runs there"
            )
        if plan.precision in ("fp8", "mxfp8", "nvfp4"):
            found.append(
                f"{plan.precision}: the layers' matrix products count at its peak with the 16-bit efficiency, attention "
                "and output in 16 bits; not fitted"
            )
        if plan.optimizer_offload != "none" or plan.offload_layers:
            found.append("offload: rates of host link, host memory and drives are priors; host memory is not checked")
        return found


def predictor_of(path: Path) -> Predictor:
    """A predictor with the constants of a file that a refit wrote. Raises InvalidSpec where it is none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        data = json.loads(path.read_bytes())
        widths = {name: float(value) for name, value in data["intervals"]["log_half_width"].items()}
        found = from_document(data)
        shares = [*found.links.values(), *(share for each in found.accelerators.values() for share in each.values())]
        if not all(0.0 < share <= 1.0 for share in shares):
            raise ValueError("a share is not above 0 and up to 1")
        if not all(math.isfinite(value) and value >= 0.0 for value in (*found.shared.values(), *widths.values())):
            raise ValueError("a value is not finite, 0 or more")
        return Predictor(found, widths)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec(
            f"is no file of constants: {type(error).__name__} {str(error)[:80]}", field="constants", value=path.name,
            hint="write one with `trimtab calibrate training`",
        ) from None  # fmt: skip


def _energy(found: IterationEnergy | None, width: float | None) -> dict[str, float | None]:
    """Low: the least power in the shortest iteration; high: the most in the longest."""
    if found is None:
        return {"energy_j": None, "energy_lo_j": None, "energy_hi_j": None}
    return {
        "energy_j": found.joules,
        "energy_lo_j": None if width is None else found.low * math.exp(-width),
        "energy_hi_j": None if width is None else found.high * math.exp(width),
    }


def _cost(case: TrainingCase, seconds: float) -> dict[str, Any]:
    """What the accelerators cost while an iteration runs; absent without prices, or with prices in two currencies."""
    pools = [case.pools[index] for index in stage_pools(case)]
    prices = [pool.price_per_accelerator_hour for pool in pools]
    if None in prices or len({pool.currency for pool in pools}) > 1:
        return {}
    hourly = sum(price for price in prices if price is not None) * case.plan.ranks / case.plan.pp
    cost = hourly * seconds / 3600.0
    tokens = case.plan.global_batch * case.model.seq
    return {
        "cost_per_iteration": cost, "cost_per_billion_tokens": cost / tokens * 1e9, "currency": pools[0].currency,
    }  # fmt: skip


def _shown(parts: Waterfall) -> dict[str, list[int]]:
    return {item.name: [round(float(value)) for value in getattr(parts, item.name)[0]] for item in fields(Waterfall)}
