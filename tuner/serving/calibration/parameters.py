"""What a calibration is: effects on the parts of a step, what it was fitted on, how wrong it was on what it had not seen.

The file is JSON and meant to be read: every effect says for which engines it holds, what it changes, by how much and
from how many rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controlplane.model.errors import InvalidSpec

# prefill, decode: ln of a factor on the step table's context and decode parts. step_ms, sequence_ms: host time of each
# iteration and of each sequence in it. request_ms: from a client's sending to the engine's queue, entry_token_ms of it for
# each prompt token, one prompt after the other. launch_ms: host time of launching an iteration with prompts, which no
# captured graph shortens: hidden where the accelerator takes longer.
Knob = Literal["prefill", "decode", "step_ms", "sequence_ms", "request_ms", "entry_token_ms", "launch_ms"]
Metric = Literal["ttft", "tpot", "e2e"]
# How far a case is from what was fitted, nearest first.
Distance = Literal["known", "known-model", "known-engine", "unknown"]

KNOBS: tuple[Knob, ...] = (
    "prefill", "decode", "step_ms", "sequence_ms", "request_ms", "entry_token_ms", "launch_ms",
)  # fmt: skip
FACTORS: tuple[Knob, ...] = ("prefill", "decode")
METRICS: tuple[Metric, ...] = ("ttft", "tpot", "e2e")
DISTANCES: tuple[Distance, ...] = ("known", "known-model", "known-engine", "unknown")
MAX_FILE_BYTES = 4 * 2**20
_DIGEST_DIGITS = 12


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Effect(_Part):
    """`value` is added to the knob for every case whose labels contain `when`."""

    when: dict[str, str] = Field(max_length=8)
    knob: Knob
    value: float = Field(ge=-1000, le=1000, allow_inf_nan=False)
    rows: int = Field(ge=0, description="Measured rows the effect was fitted on.")


class Band(_Part):
    """Quantiles of measured / predicted over groups that the fit had not seen."""

    tier: str
    distance: Distance
    metric: Metric
    lo: float = Field(gt=0, le=1)
    hi: float = Field(ge=1, le=1e6, allow_inf_nan=False)  # a latency times this is still a number
    rows: int = Field(ge=0, description="Rows behind the quantiles; 0: assumed, not measured.")


class Support(_Part):
    """Where the fit has been: combinations that it has seen, joined by a slash."""

    engine_system_models: list[str]
    engine_models: list[str]
    engine_systems: list[str]


class Provenance(_Part):
    """What was fitted, on what, and by which choices."""

    data: str
    data_sha256: str
    rows: int
    rows_answered: int
    filters: list[str]
    method: str
    shrinkage: dict[str, float]
    checked: dict[str, float] = Field(description="Errors and coverages on held-out groups, percent.")


class Calibration(_Part):
    """`base` None: fitted on nothing but `effects` (a user's own rows come on top of the packaged fit)."""

    version: Literal[1] = 1
    name: str = Field(max_length=200)
    effects: list[Effect] = Field(max_length=10_000)
    bands: list[Band] = Field(max_length=10_000)
    support: Support
    provenance: Provenance


def digest_of(calibration: Calibration) -> str:
    """Names what it says, however the file is laid out: equal digests correct alike."""
    said = json.dumps(calibration.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:_DIGEST_DIGITS]


def load_calibration(path: Path | None = None) -> Calibration:
    """The packaged calibration, or a user's file. Raises InvalidSpec naming what is wrong with the file."""
    return _packaged() if path is None else _parsed(path.name, _read(path))


def dump_calibration(calibration: Calibration) -> str:
    """One line per effect and band: diffs of a refit can be read."""
    data = calibration.model_dump()
    lists = {name: data.pop(name) for name in ("effects", "bands")}
    head = json.dumps(data, indent=1, sort_keys=True).rstrip("}\n ")
    parts = [
        f' "{name}": [\n  ' + ",\n  ".join(json.dumps(item, sort_keys=True) for item in items) + "\n ]"
        for name, items in lists.items()
    ]
    return head + ",\n" + ",\n".join(parts) + "\n}\n"


@lru_cache(maxsize=1)
def _packaged() -> Calibration:
    file = resources.files("tuner.serving") / "data" / "calibration.json"
    return _parsed("calibration.json", file.read_text(encoding="utf-8"))


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidSpec("file too large", field=str(path), value=size, limit=f"{MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot be read: {error}", field=str(path)) from error


def _parsed(name: str, text: str) -> Calibration:
    try:
        return Calibration.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidSpec(f"not a calibration: {first['msg']}", field=f"{name}: {place}" if place else name) from error


def matching(calibration: Calibration, labels: Mapping[str, str]) -> dict[Knob, float]:
    """Sum of the effects that hold for a case, by knob. An engine the fit has never seen, and a table that was fitted to
    this very machine, take only effects that name the engine: what others share says nothing about them. Factors were
    fitted to what measured tables get wrong: a roofline takes only those that name its tier."""
    engine = labels.get("engine", "")
    engines = {key.split("/")[0] for key in calibration.support.engine_systems}
    foreign = (bool(engines) and engine not in engines) or labels.get("tier") == "calibrated"
    found: dict[Knob, float] = dict.fromkeys(KNOBS, 0.0)
    for effect in calibration.effects:
        if foreign and effect.when.get("engine") != engine:
            continue
        if labels.get("tier") == "roofline" and effect.knob in FACTORS and effect.when.get("tier") != "roofline":
            continue
        if all(labels.get(name) == value for name, value in effect.when.items()):
            found[effect.knob] += effect.value
    return found
