"""What-if: the same question with one change, and what the change makes of the answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from controlplane.model.choice import LatencyTarget
from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.plans import PlannablePool, PlanRequest, ServingCandidate, ServingPlan
from tuner.serving.planner.pooltext import parse_pool

_WORDS = "pool=NAME=ACCELERATOR:COUNT[,price=..], without-pool=NAME, ttft-p95=MS (any percentile, tpot too), power-cap=W, rate=R"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The best plans before and after a change; None where nothing keeps the promise."""

    change: str
    before: str | None
    after: str | None
    accelerators: tuple[int | None, int | None]
    score: tuple[float | None, float | None]
    power_w: tuple[float | None, float | None]
    cost_per_million_output_tokens: tuple[float | None, float | None]
    message: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self)


def changed(request: PlanRequest, change: str) -> PlanRequest:
    """The request after a change written as WORD=VALUE. Raises InvalidSpec or UnknownName."""
    word, equals, value = change.partition("=")
    if not equals or not value:
        raise InvalidSpec(f"{change[:80]!r} is not a change", field="what-if", value=change[:80], limit=_WORDS)
    if word == "pool":
        return _more(request, value)
    if word == "without-pool":
        return _without(request, value)
    if word == "rate":
        if request.workload.arrivals in ("closed", "trace"):
            raise InvalidSpec(
                f"{change[:80]}: {request.workload.arrivals} arrivals have no rate to change",
                field="what-if",
                value=change[:80],
                hint="plan with poisson, gamma or burst arrivals",
            )
        workload = request.workload.model_copy(update={"rate_per_second": _number(change, value)})
        return request.model_copy(update={"workload": workload})
    if word == "power-cap":
        cap = _number(change, value)
        pools = [pool.model_copy(update={"power_cap_w": cap}) for pool in request.pools]
        return request.model_copy(update={"pools": pools})
    metric, _, point = word.partition("-")
    if metric in ("ttft", "tpot") and point in LatencyTarget.model_fields:
        name = f"{metric}_ms"
        target = getattr(request.slo, name) or LatencyTarget()
        slo = request.slo.model_copy(update={name: target.model_copy(update={point: _number(change, value)})})
        return request.model_copy(update={"slo": slo})
    raise UnknownName(f"unknown change {word[:40]!r}", field="what-if", value=change[:80], hint=f"known: {_WORDS}")


def difference(change: str, before: ServingPlan, after: ServingPlan) -> Difference:
    """The winners side by side."""
    one, two = (plan.best[0] if plan.best else None for plan in (before, after))
    return Difference(
        change=change,
        before=None if one is None else label(one),
        after=None if two is None else label(two),
        accelerators=(None if one is None else one.accelerators, None if two is None else two.accelerators),
        score=(None if one is None else one.score, None if two is None else two.score),
        power_w=(_of(one, "power_w"), _of(two, "power_w")),
        cost_per_million_output_tokens=(
            _of(one, "cost_per_million_output_tokens"),
            _of(two, "cost_per_million_output_tokens"),
        ),
        message=_message(one, two, after),
    )


def label(candidate: ServingCandidate) -> str:
    """`4 x vllm TP4 on h100`, roles joined by `+`."""
    parts = []
    for role in candidate.roles:
        choice = role.choice
        degrees = [
            f"{word}{value}"
            for word, value in (
                ("TP", choice.tensor_parallel),
                ("PP", choice.pipeline_parallel),
                ("DP", choice.data_parallel),
                ("EP", choice.expert_parallel),
            )
            if value > 1
        ]
        if choice.cpu_millicores is not None:
            degrees = [f"{choice.cpu_millicores // 1000} cores"]
        shape = " ".join(degrees or ["TP1"])
        as_role = "" if role.role == "aggregated" else f" {role.role}"
        precision = f" {choice.quantization}" if choice.quantization else ""
        parts.append(f"{role.replicas} x {choice.engine} {shape}{precision} on {role.pool}{as_role}")
    return " + ".join(parts)


def _more(request: PlanRequest, text: str) -> PlanRequest:
    """One more pool, or another size of one that is there (which keeps what is not said anew)."""
    said = parse_pool(text, field="what-if")
    same = next((pool for pool in request.pools if pool.name == said["name"]), None)
    known = same.model_dump() if same is not None and same.accelerator == said["accelerator"] else {}
    try:
        pool = PlannablePool.model_validate({**known, **said})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidSpec(
            f"pool={text[:80]}: {first['msg'].removeprefix('Value error, ')}",
            field=f"what-if.{first['loc'][0]}",
            value=text[:80],
        ) from None
    return request.model_copy(update={"pools": [*(item for item in request.pools if item.name != pool.name), pool]})


def _without(request: PlanRequest, name: str) -> PlanRequest:
    kept = [pool for pool in request.pools if pool.name != name]
    if len(kept) == len(request.pools):
        raise UnknownName(
            f"no pool {name[:60]!r}",
            field="what-if",
            value=name[:60],
            hint=f"known: {', '.join(pool.name for pool in kept)}",
        )
    if not kept:
        raise InvalidSpec(f"without-pool={name[:60]} would leave no pool", field="what-if", value=name[:60])
    return request.model_copy(update={"pools": kept})


def _number(change: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise InvalidSpec(f"{change[:80]} needs a number above 0", field="what-if", value=change[:80])
    return value


def _of(candidate: ServingCandidate | None, name: str) -> float | None:
    if candidate is None or candidate.prediction is None:
        return None
    value: float | None = getattr(candidate.prediction, name)
    return value


def _message(one: ServingCandidate | None, two: ServingCandidate | None, after: ServingPlan) -> str:
    if two is None:
        return f"nothing keeps the promise then: {after.why_not[0].message if after.why_not else 'nothing fits'}"
    if one is None:
        return f"now the promise can be kept: {label(two)}, {two.accelerators} accelerators"
    if label(one) == label(two):
        return f"the same deployment: {label(two)}"
    more = two.accelerators - one.accelerators
    words = "as many accelerators" if more == 0 else f"{abs(more)} accelerators {'more' if more > 0 else 'fewer'}"
    return f"{label(two)} instead of {label(one)}: {words}"
