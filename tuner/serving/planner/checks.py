"""What is wrong with a planning question, before anything is computed."""

from __future__ import annotations

from itertools import pairwise

from controlplane.catalog import Catalog, ModelShape
from controlplane.model.choice import LatencyTarget
from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.plans import PlanRequest
from controlplane.model.routers import OFFERED
from tuner.serving.planner.installation import Installation
from tuner.serving.planner.static import limits
from tuner.serving.resolve import find_model

_PERCENTILES = ("p50", "p90", "p95", "p99")


def check(request: PlanRequest, catalog: Catalog, installation: Installation) -> ModelShape:
    """The model's shape. Raises UnknownName or InvalidSpec with field, value, limit and way out."""
    model = find_model(catalog, request.model)
    _check_pools(request, catalog)
    _check_allowed(request, catalog, installation)
    _check_routing(request, installation)
    for name, target in (("ttftMs", request.slo.ttft_ms), ("tpotMs", request.slo.tpot_ms)):
        if target is not None:
            _check_target(name, target)
    _check_lengths(request, model)
    if request.objective == "goodput-per-cost" or request.allowed.max_cost_per_hour is not None:
        _check_prices(request)
    return model


def _check_pools(request: PlanRequest, catalog: Catalog) -> None:
    seen: dict[str, int] = {}
    for index, pool in enumerate(request.pools):
        catalog.accelerator(pool.accelerator, field=f"pools[{index}].accelerator")
        if pool.nic is not None:
            catalog.nic(pool.nic, field=f"pools[{index}].nic")
        if pool.name in seen:
            raise InvalidSpec(
                f"pool {pool.name} is listed twice (also pools[{seen[pool.name]}])",
                field=f"pools[{index}].name",
                value=pool.name,
                hint="add up what is free, or name the second one differently",
            )
        seen[pool.name] = index
    if not any(pool.free for pool in request.pools):
        raise InvalidSpec(
            "no pool has a free accelerator",
            field="pools[0].free",
            value=0,
            limit="at least 1 in one pool",
            hint="free some, or ask what a pool of a given size would do by giving it as free",
        )


def _check_routing(request: PlanRequest, installation: Installation) -> None:
    routing = request.routing
    if routing.policy is not None and routing.policy not in OFFERED[routing.router]:
        raise InvalidSpec(
            f"{routing.router} does not pick replicas so",
            field="routing.policy",
            value=routing.policy,
            limit=", ".join(OFFERED[routing.router]),
        )
    if routing.router not in installation.routers:
        raise Unsupported(
            f"{routing.router} is not part of this installation",
            field="routing.router",
            value=routing.router,
            limit=", ".join(sorted(installation.routers)),
            hint="plan with one that is there, or install it and name it in the chart's value routers",
        )


def _check_allowed(request: PlanRequest, catalog: Catalog, installation: Installation) -> None:
    allowed = request.allowed
    for index, name in enumerate(allowed.accelerators):
        catalog.accelerator(name, field=f"allowed.accelerators[{index}]")
    here = {pool.accelerator for pool in request.pools}
    if allowed.accelerators and not here & set(allowed.accelerators):
        raise InvalidSpec(
            "no pool has an accelerator that is allowed",
            field="allowed.accelerators",
            value=allowed.accelerators,
            limit=", ".join(sorted(here)),
            hint="leave the list empty to allow every pool's",
        )
    for index, engine in enumerate(allowed.engines):
        if installation.engines is not None and engine not in installation.engines:
            raise InvalidSpec(
                f"{engine} is not installed here",
                field=f"allowed.engines[{index}]",
                value=engine,
                limit=", ".join(sorted(installation.engines)),
            )


def _check_target(name: str, target: LatencyTarget) -> None:
    """A lower percentile can not be above a higher one, so a limit that says otherwise is a slip of the pen."""
    given = [(point, value) for point in _PERCENTILES if (value := getattr(target, point)) is not None]
    for (low, low_ms), (high, high_ms) in pairwise(given):
        if low_ms > high_ms:
            raise InvalidSpec(
                f"the limit of {low} is above that of {high} ({high_ms:g} ms), which already implies it",
                field=f"slo.{name}.{low}",
                value=low_ms,
                limit=f"at most {high_ms:g}",
                hint="swap them, or leave one out",
            )


def _check_lengths(request: PlanRequest, model: ModelShape) -> None:
    workload = request.workload
    if workload.input is None or workload.output is None:
        return  # a trace: its lengths are checked when it is read
    check_context(model, workload.input.tokens, workload.output.tokens, field="workload.input.tokens")
    check_tpot(request, workload.output.tokens)
    if workload.shared_prefix_tokens >= workload.input.tokens > 0 and workload.shared_prefix_tokens > 0:
        raise InvalidSpec(
            f"prompts have at most {workload.input.tokens} tokens, and some must differ",
            field="workload.sharedPrefixTokens",
            value=workload.shared_prefix_tokens,
            limit=f"0 to {workload.input.tokens - 1}",
        )


def check_tpot(request: PlanRequest, longest_output: int) -> None:
    """Raises InvalidSpec where a limit is set on the time between output tokens and no output has two."""
    if longest_output <= 1 and request.slo.tpot_ms is not None and limits(request.slo.tpot_ms):
        raise InvalidSpec(
            "every output is one token, and the time between output tokens (TPOT) needs two",
            field="slo.tpotMs",
            value=request.slo.tpot_ms.model_dump(by_alias=True, exclude_none=True),
            hint="drop the TPOT limit: TTFT is all that such requests wait for",
        )


def check_context(model: ModelShape, input_tokens: int, output_tokens: int, *, field: str) -> None:
    """Raises InvalidSpec where a request is longer than the model's context."""
    limit = model.max_context_tokens
    if limit is not None and input_tokens + output_tokens > limit:
        raise InvalidSpec(
            f"{input_tokens} input and {output_tokens} output tokens are {input_tokens + output_tokens}; {model.id} "
            f"reads at most {limit}",
            field=field,
            value=input_tokens,
            limit=f"input plus output of at most {limit} tokens",
            hint="shorten the lengths, or plan a model with a longer context",
        )


def _check_prices(request: PlanRequest) -> None:
    priced = [pool for pool in request.pools if pool.price_per_accelerator_hour is not None]
    if not priced:
        raise InvalidSpec(
            "cost needs a price, and no pool has one",
            field="pools[0].pricePerAcceleratorHour",
            value=None,
            hint="give pools a price, or choose the objective goodput-per-accelerator",
        )
    currencies = sorted({pool.currency for pool in priced})
    if len(currencies) > 1:
        raise InvalidSpec(
            f"prices are in {' and '.join(currencies)}; they cannot be compared",
            field="pools[0].currency",
            value=currencies[0],
            hint="state all prices in one currency",
        )
