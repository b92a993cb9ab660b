"""The cells of `bench_engine_fidelity`: settings of the engine, and loads. Lengths are short, so that a cell is quick."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from controlplane.model.serving import KnobValue
from tests.perf.fidelity_load import Asked
from tuner.serving.replay.requests import Requests, poisson_times

REQUESTS = 240
PROMPT_TOKENS = (32, 256)
OUTPUT_TOKENS = (8, 48)
_VOCAB = 4096


@dataclass(frozen=True, slots=True)
class Knobs:
    """`flags` start the engine; `fields` are the same settings in the catalogue's words."""

    name: str
    flags: tuple[str, ...] = ()
    fields: Mapping[str, KnobValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """`clients` that always have a request open, or Poisson arrivals at `share` of what the engine answered per second
    in its calibration run."""

    clients: int | None = None
    share: float = 0.0

    @property
    def name(self) -> str:
        return f"open-{self.share:g}" if self.clients is None else f"closed-{self.clients}"


@dataclass(frozen=True, slots=True)
class Group:
    """One start of the engine: a calibration run, then the cells that are predicted."""

    knobs: Knobs
    calibration: Load
    cells: tuple[Load, ...]


def _split(tokens: int) -> Knobs:
    return Knobs(f"split-{tokens}", ("--max-num-batched-tokens", str(tokens)), {"maxNumBatchedTokens": tokens})


_APART = Knobs(
    "apart-8",
    ("--no-dynamic-split-fuse", "--max-num-seqs", "8"),
    {"dynamicSplitFuse": False, "maxNumSeqs": 8},
)

# Loads of the calibration runs differ, so that few and many sequences are seen, full and half-full iterations, and an
# idle engine that a request finds; no cell repeats one of them.
GROUPS = (
    Group(_split(256), Load(clients=8), (Load(clients=3), Load(clients=12), Load(share=0.6))),
    Group(_split(64), Load(clients=16), (Load(clients=6), Load(clients=10), Load(share=0.5))),
    Group(_split(512), Load(clients=6), (Load(clients=4), Load(clients=14), Load(share=0.7))),
    Group(_APART, Load(clients=1), (Load(clients=2), Load(clients=8), Load(share=0.6))),
)


def asked(load: Load, seed: int, rate_per_s: float | None = None) -> list[Asked]:
    """The same requests for the same seed. `rate_per_s`: what the engine can answer, for an open load."""
    chooser = random.Random(seed)
    times: list[float | None] = [None] * REQUESTS
    if load.clients is None:
        if rate_per_s is None:
            raise ValueError(f"{load.name}: the engine's rate is needed")
        times = [float(time_s) for time_s in poisson_times(rate_per_s * load.share, REQUESTS, seed=seed)]
    return [
        Asked(
            tuple(chooser.randrange(3, _VOCAB) for _ in range(chooser.randint(*PROMPT_TOKENS))),
            chooser.randint(*OUTPUT_TOKENS),
            time_s,
        )
        for time_s in times
    ]


def every_length(most: int) -> list[Asked]:
    """One prompt of each length, a single token each."""
    chooser = random.Random(0)
    return [Asked(tuple(chooser.randrange(3, _VOCAB) for _ in range(length)), 1) for length in range(1, most + 1)]


def replayed(load: Load, requests: list[Asked]) -> Requests:
    """The same requests for the replay."""
    return Requests(
        arrival_s=np.array([one.arrival_s or 0.0 for one in requests]),
        isl=np.array([len(one.prompt) for one in requests], np.int64),
        osl=np.array([one.output_tokens for one in requests], np.int64),
        clients=load.clients,
    )
