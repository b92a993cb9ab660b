"""Where the numbers behind a training plan come from: constants with their basis, fits, catalogue, framework's limits."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.catalog import load
from controlplane.catalog.facts import Sourced
from controlplane.model.training import TrainingCase
from tuner.training.constants import Constants, accelerator_class, document, shipped
from tuner.training.planner.launchable import Launchable


@dataclass(frozen=True, slots=True)
class Source:
    """One number and its origin."""

    name: str
    value: str
    origin: str


def sources(case: TrainingCase, rules: Launchable, constants: Constants) -> list[Source]:
    """Every constant that a plan on these pools rests on, and where the hardware's figures were read."""
    found = [*_framework(rules), *_hardware(case), *_constants(case, constants)]
    fitted = document().get("fit", {})
    files = ", ".join(f"{name} ({record['rows']} rows)" for name, record in sorted(fitted.get("files", {}).items()))
    if files and constants == shipped():
        found.append(Source("rows that constants were fitted on", "", files))
    return found


def _framework(rules: Launchable) -> list[Source]:
    return [Source("what is launchable", f"{rules.framework} {rules.version}", rules.source)]


def _hardware(case: TrainingCase) -> list[Source]:
    found: list[Source] = []
    catalog = load()
    for gpu in dict.fromkeys(pool.gpu for pool in case.pools):
        record = catalog.accelerators[gpu]
        memory = "memory_bytes" if record.visible_memory_bytes is None else "visible_memory_bytes"
        for what, field, scale, unit in (
            ("memory to plan with", memory, 2**30, "GiB"),
            (f"peak, {case.plan.precision}", f"{case.plan.precision}_flop_per_s", 1e12, "TFLOP/s"),
            ("memory bandwidth", "memory_bandwidth_bytes_per_s", 1e12, "TB/s"),
            ("scale-up bandwidth", "scale_up_bandwidth_bytes_per_s_per_direction", 1e9, "GB/s per direction"),
            ("power limit", "tdp_w", 1, "W"),
        ):
            value = getattr(record, field, None)
            if value is not None:
                found.append(_read_at(record, f"{gpu}: {what}", field, f"{value / scale:.4g} {unit}"))
    for nic in dict.fromkeys(pool.nic for pool in case.pools if pool.nic is not None):
        rate = catalog.nics[nic].line_rate_bits_per_s
        if rate is not None:
            found.append(
                _read_at(catalog.nics[nic], f"{nic}: line rate", "line_rate_bits_per_s", f"{rate / 1e9:g} Gb/s")
            )
    return found


def _read_at(record: Sourced, name: str, field: str, value: str) -> Source:
    source = record.source_of(field)
    return Source(name, value, "unknown" if source is None else f"{source.title} ({source.publisher})")


def _constants(case: TrainingCase, constants: Constants) -> list[Source]:
    own = constants == shipped()
    said = document()
    links = {load().nics[pool.nic].protocol for pool in case.pools if pool.nic is not None}
    links |= {"xgmi" if load().accelerators[pool.gpu].vendor == "amd" else "nvlink" for pool in case.pools}
    classes = dict.fromkeys(accelerator_class(load().accelerators[pool.gpu].architecture) for pool in case.pools)
    records = [(name, constants.shared[name], said["global"].get(name)) for name in constants.shared]
    for group in classes:
        parts = constants.accelerators[group]
        records += [(f"{group}: {part}", parts[part], said["accelerators"].get(group, {}).get(part)) for part in parts]
    for link in sorted(links & constants.links.keys()):
        records.append((f"{link}: share of the line rate", constants.links[link], said["links"].get(link)))
    return [
        Source(name, f"{value:.4g}", record["basis"] if own and record is not None else "refitted")
        for name, value, record in records
    ]
