"""One question to the predictor: the batch interface's fields (docs/predict.md), checked and with units.

Names of models, systems and backends are still the user's words here; `tuner.serving.resolve` looks them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from controlplane.model.errors import InvalidSpec
from tuner.serving.fields import Fields, read_object, shown

MAX_DEGREE = 4096  # of any parallel degree
MAX_TOKENS = 2_000_000  # of a prompt or an answer: longer than any published context window
MAX_REQUESTS = 1_000_000
MAX_CLIENTS = 100_000
LEAST_RATE_PER_S = 1e-6  # one request in twelve days; rarer, arrival times lose their microseconds
OPEN_LOOP_REQUESTS = 2_000  # default of rate runs: 20 requests stand beyond the 99th percentile

ArrivalKind = Literal["closed", "poisson", "gamma", "burst", "trace"]
KnobValue = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Who sends when. closed: `clients` that each send the next request when the last is answered. poisson, gamma
    (with `cv`) and burst (`burst` requests at once): `rate_per_s`. trace: `path`."""

    kind: ArrivalKind
    clients: int = 0
    rate_per_s: float = 0.0
    cv: float = 1.0
    burst: int = 16
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Token counts, uniform over the whole numbers in [low, high]."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """Parallel degrees of one engine; 0 on the line is as absent. None: as usual for the model (docs/predict.md)."""

    tp: int
    pp: int = 1
    attention_dp: int = 1
    moe_tp: int | None = None
    moe_ep: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleShape:
    """One role of a disaggregated deployment. `system` None: the question's own; `max_batch`: per rank."""

    degrees: Degrees
    workers: int
    system: str | None
    max_batch: int | None
    knobs: Mapping[str, KnobValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is served, where, and the traffic. `degrees` is None when `prefill` and `decode` are given."""

    id: str | int | None
    model: str
    system: str
    backend: str
    backend_version: str | None
    degrees: Degrees | None
    prefill: RoleShape | None
    decode: RoleShape | None
    replicas: int
    router: str | None
    gemm_quant: str | None
    moe_quant: str | None
    kv_quant: str | None
    draft_tokens: int
    accepted_tokens: float  # of the drafted ones, mean per step
    nic: str | None
    nics_per_node: int | None
    accelerators_per_node: int | None
    cores: int | None  # CPU cores of one rank
    input: Span | None  # None: the trace says
    output: Span | None
    shared_prefix: int
    arrivals: Arrivals
    requests: int | None  # None: as many as the trace holds
    knobs: Mapping[str, KnobValue] = field(default_factory=dict)
    seed: int = 0
    price_per_accelerator_hour: float | None = None
    currency: str = "USD"
    power_cap_w: float | None = None
    remarks: tuple[str, ...] = ()  # fields without an effect


DEGREES = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")
FIELDS = frozenset(
    {
        *("id", "model", "system", "backend", "backend_version", *DEGREES),
        *("gemm_quant", "kv_quant", "moe_quant", "isl", "osl", "isl_range", "osl_range", "prefix"),
        *("arrivals", "requests", "knobs", "disagg", "replicas", "router", "seed"),
        *("draft_tokens", "accepted_tokens"),
        *("nic", "nics_per_node", "accelerators_per_node", "cores"),
        *("price_per_accelerator_hour", "currency", "power_cap_w"),
    }
)
_ROLE = frozenset({*DEGREES, "workers", "num_workers", "system", "max_batch", "batch_size", "knobs"})
_ARRIVALS = frozenset({"closed", "poisson", "gamma", "burst", "trace", "cv", "size"})


def parse_line(line: str | bytes) -> Question:
    """A question from one line of JSON. Raises InvalidSpec or UnknownName with the field at fault."""
    return parse_question(read_object(line))


def parse_question(data: object) -> Question:
    """A question from an object as JSON gives it. Raises InvalidSpec or UnknownName with the field at fault."""
    fields = Fields(data, FIELDS)
    identity = fields.raw("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int | None) or len(str(identity)) > 200:
        fields.fail("id", "must be text or a whole number", "up to 200 characters")
    arrivals = _arrivals(fields)
    traced = arrivals.kind == "trace"
    source, target = _span(fields, "isl", traced), _span(fields, "osl", traced)
    prefix = fields.whole("prefix", 0, MAX_TOKENS) or 0
    if source is not None and prefix >= source.low and prefix > 0:
        fields.fail("prefix", "must leave a token of the shortest prompt", f"0 to {source.low - 1}")
    degrees, prefill, decode = _shapes(fields)
    drafted = fields.whole("draft_tokens", 0, 16) or 0
    accepted = fields.number("accepted_tokens", 0, drafted)
    if drafted and accepted is None:
        fields.need("accepted_tokens", "needed beside draft_tokens: how many a step keeps depends on model and text")
    return Question(
        id=identity,
        model=fields.text("model", 200) or fields.need("model"),
        system=fields.text("system", 100) or fields.need("system"),
        backend=fields.text("backend", 60) or fields.need("backend"),
        backend_version=fields.text("backend_version", 60),
        degrees=degrees,
        prefill=prefill,
        decode=decode,
        replicas=fields.whole("replicas", 1, 1024) or 1,
        router=fields.text("router", 40),
        gemm_quant=fields.text("gemm_quant", 40),
        moe_quant=fields.text("moe_quant", 40),
        kv_quant=fields.text("kv_quant", 40),
        draft_tokens=drafted,
        accepted_tokens=accepted or 0.0,
        nic=fields.text("nic", 100),
        nics_per_node=fields.whole("nics_per_node", 0, 64),
        accelerators_per_node=fields.whole("accelerators_per_node", 1, 1024),
        cores=fields.whole("cores", 1, 4096),
        input=source,
        output=target,
        shared_prefix=prefix,
        arrivals=arrivals,
        requests=fields.whole("requests", 1, MAX_REQUESTS) or _default_requests(arrivals),
        knobs=_knobs(fields),
        seed=fields.whole("seed", 0, 2**63 - 1) or 0,
        price_per_accelerator_hour=fields.number("price_per_accelerator_hour", 0, 1e6),
        currency=fields.text("currency", 3) or "USD",
        power_cap_w=fields.number("power_cap_w", 0, 1e5, open_low=True),
        remarks=_passed_over(fields, traced),
    )


def closed_loop_requests(clients: int) -> int:
    """Requests of a closed loop: as InferenceX's load generator sends, 10 for each client; fewer above 64 clients,
    where a run is long enough with 2 to 5."""
    return 10 * clients if clients <= 64 else clients * min(5, max(2, 4096 // clients))


def _default_requests(arrivals: Arrivals) -> int | None:
    if arrivals.kind == "trace":
        return None
    return closed_loop_requests(arrivals.clients) if arrivals.kind == "closed" else OPEN_LOOP_REQUESTS


def _arrivals(fields: Fields) -> Arrivals:
    inside = fields.inside("arrivals", _ARRIVALS) or fields.need("arrivals", "needed: {closed: clients}, for example")
    kinds: list[ArrivalKind] = [kind for kind in ("closed", "poisson", "gamma", "burst", "trace") if inside.has(kind)]
    if len(kinds) != 1:
        raise InvalidSpec(
            "name exactly one kind of arrivals",
            field="arrivals",
            value=shown(fields.raw("arrivals")),
            limit="closed, poisson, gamma, burst or trace",
        )
    kind = kinds[0]
    for name, owner in (("cv", "gamma"), ("size", "burst")):
        if inside.has(name) and kind != owner:
            inside.fail(name, f"belongs to {owner} arrivals", "leave it out")
    if kind == "closed":
        return Arrivals(kind=kind, clients=inside.whole(kind, 1, MAX_CLIENTS) or 0)
    if kind == "trace":
        return Arrivals(kind=kind, path=inside.text(kind, 4096) or "")
    rate = inside.number(kind, LEAST_RATE_PER_S, 1e6) or 0.0
    return Arrivals(
        kind=kind,
        rate_per_s=rate,
        cv=inside.number("cv", 0.01, 100) or 1.0,
        burst=inside.whole("size", 1, MAX_CLIENTS) or 16,
    )


def _span(fields: Fields, name: str, traced: bool) -> Span | None:
    """Lengths: a longest one and, as `{name}_range`, the shortest as a share of it, or both ends in tokens."""
    longest, ends = fields.whole(name, 1, MAX_TOKENS), fields.raw(f"{name}_range")
    if traced:
        return None
    if longest is None:
        fields.need(name)
    if ends is None:
        return Span(low=longest, high=longest)
    limit = f"a share above 0 to 1, or [shortest, longest] of 1 to {MAX_TOKENS} tokens"
    if isinstance(ends, list):
        if (
            len(ends) != 2
            or not all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
            or not 1 <= ends[0] <= ends[1] <= MAX_TOKENS
        ):
            fields.fail(f"{name}_range", "must be two rising token counts", limit)
        return Span(low=ends[0], high=ends[1])
    if isinstance(ends, bool) or not isinstance(ends, int | float) or not 0 < ends <= 1:
        fields.fail(f"{name}_range", "must be a share of the longest", limit)
    return Span(low=max(1, int(ends * longest)), high=longest)


def _shapes(fields: Fields) -> tuple[Degrees | None, RoleShape | None, RoleShape | None]:
    roles = fields.inside("disagg", ("prefill", "decode"))
    if roles is None:
        return _degrees(fields), None, None
    return None, _role(roles, "prefill"), _role(roles, "decode")


def _passed_over(fields: Fields, traced: bool) -> tuple[str, ...]:
    """What stands on the line without an effect: exports fill every column."""
    found = []
    if traced:
        lengths = ("isl", "osl", "isl_range", "osl_range")
        found += [f"{name}: the trace's own lengths count" for name in lengths if fields.has(name)]
        if fields.has("prefix"):
            found.append("prefix: a trace shares prompts by its own sessions or hashes")
    if fields.has("disagg"):
        found += [
            f"{name}: the roles' own degrees and workers count" for name in (*DEGREES, "replicas") if fields.has(name)
        ]
    return tuple(found)


def _role(roles: Fields, name: str) -> RoleShape:
    inside = roles.inside(name, _ROLE) or roles.need(name)
    return RoleShape(
        degrees=_degrees(inside),
        workers=inside.whole("workers", 1, 1024) or inside.whole("num_workers", 1, 1024) or 1,
        system=inside.text("system", 100),
        max_batch=inside.whole("max_batch", 1, MAX_CLIENTS) or inside.whole("batch_size", 1, MAX_CLIENTS),
        knobs=_knobs(inside),
    )


def _degrees(fields: Fields) -> Degrees:
    return Degrees(
        tp=fields.whole("tp", 1, MAX_DEGREE) or fields.need("tp"),
        pp=fields.whole("pp", 1, MAX_DEGREE) or 1,
        attention_dp=fields.whole("attention_dp", 0, MAX_DEGREE) or 1,
        moe_tp=fields.whole("moe_tp", 0, MAX_DEGREE) or None,
        moe_ep=fields.whole("moe_ep", 0, MAX_DEGREE) or None,
    )


def _knobs(fields: Fields) -> dict[str, KnobValue]:
    """Engine settings as written: which exist, and their bounds, depends on the engine."""
    knobs = fields.raw("knobs")
    if knobs is None:
        return {}
    if not isinstance(knobs, Mapping) or len(knobs) > 64:
        fields.fail("knobs", "must be an object of settings", "up to 64 names")
    for name, value in knobs.items():
        if not isinstance(value, bool | int | float | str) or len(str(value)) > 200:
            raise InvalidSpec(
                "must be true or false, a number or text",
                field=f"{fields.at('knobs')}.{shown(name)}",
                value=shown(value),
            )
    return dict(knobs)
