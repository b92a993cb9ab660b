"""What a load process is asked to do and what it answers, and their JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Saturation:
    """When an open loop is stopped because the engine falls behind for good. The rule and its numbers are those of
    GuideLLM 0.8.1: slopes of requests under way and of TTFT over time are both surely above 0."""

    after_s: float = 30.0
    window_s: float = 120.0
    window_share: float = 0.75  # of the requests so far
    margin: float = 2.0  # half-width of a slope's interval, in slopes
    ttft_s: float = 2.5  # no stop while first tokens come sooner than this
    points: int = 5


@dataclass(frozen=True, slots=True)
class LoadJob:
    """`requests`: (seconds from the start, prompt tokens, output tokens) in their order; the first `warm_up` of them are
    sent and not measured, and the measured ones follow without a pause. `clients`: a closed loop of that many, which
    ignores the seconds. Prompts are token ids from [`low_id`, `high_id`), drawn from `seed` and the request's number.
    `api_key`: sent with each request where it is not empty. `look_at`: so many measured requests are told of as soon as
    all of them are answered, while the others go on."""

    host: str
    port: int
    model: str
    requests: tuple[tuple[float, int, int], ...]
    path: str = "/v1/completions"
    api_key: str = field(default="", repr=False)
    clients: int | None = None
    warm_up: int = 0
    shared_prefix: int = 0
    seed: int = 0
    low_id: int = 300
    high_id: int = 4000
    timeout_s: float = 120.0
    numbers: tuple[int, ...] = ()  # of the requests, where this is one part of a larger job
    saturation: Saturation | None = field(default_factory=Saturation)
    look_at: int = 0

    @property
    def looked(self) -> frozenset[int]:
        """Numbers of the requests of this part that are told of early."""
        early = range(self.warm_up, self.warm_up + self.look_at)
        return frozenset(number for number in self.numbers or range(len(self.requests)) if number in early)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> LoadJob:
        fields: dict[str, Any] = json.loads(text)
        fields["requests"] = tuple(tuple(row) for row in fields["requests"])
        fields["numbers"] = tuple(fields["numbers"])
        if fields["saturation"] is not None:
            fields["saturation"] = Saturation(**fields["saturation"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Sample:
    """One request; seconds from the common start. `first_s` and `last_s`: first and last event with tokens. `error` is
    empty when the answer came whole; `status` is the HTTP status, 0 where there was none."""

    number: int
    intended_s: float
    sent_s: float | None
    first_s: float | None
    last_s: float | None
    prompt_tokens: int
    output_tokens: int
    events: int = 0
    gap_max_s: float | None = None
    status: int = 0
    error: str = ""
    warm_up: bool = False


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Samples in the order of their numbers. `cpu_s`: CPU seconds of the load processes while they sent and received.
    `cut`: a look at the first ones was enough, later ones were not sent."""

    samples: tuple[Sample, ...]
    cpu_s: float
    processes: int = 1
    saturated: bool = False
    cut: bool = False

    def to_json(self) -> str:
        rows = [list(asdict(sample).values()) for sample in self.samples]
        return json.dumps({"samples": rows, "cpu_s": self.cpu_s, "saturated": self.saturated}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> LoadResult:
        fields = json.loads(text)
        return cls(tuple(Sample(*row) for row in fields["samples"]), fields["cpu_s"], 1, fields["saturated"])
