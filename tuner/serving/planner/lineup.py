"""Which candidates enter the search: every shape alone, mixes of pools, and prefill/decode pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from controlplane.model.errors import TrimtabError
from controlplane.model.plans import Role
from tuner.serving.planner.candidate import Candidate, Part
from tuner.serving.planner.evaluator import Evaluator
from tuner.serving.planner.installation import Installation
from tuner.serving.planner.shape import Shape

# Shapes of one pool (and engine) that enter mixes and pairs.
_BEST_OF_POOL = 4
# Pools that enter mixes of two, three and four, and pairs of roles. Of 64 pools there would be 700,000 mixes: a gigabyte
# before the first is weighed. Most questions have fewer pools than this.
_POOLS_OF_MIX = {2: 24, 3: 16, 4: 12}
_POOLS_OF_PAIR = 12


def line_up(shapes: Sequence[Shape], evaluator: Evaluator, installation: Installation) -> list[Candidate]:
    """Candidates in a fixed order. Shapes without step times are left to fail on their own."""
    out = [
        Candidate(
            parts=(Part("aggregated", shape),),
            evaluator=evaluator,
            advisory=installation.why_not_image(shape.engine, shape.accelerator),
        )
        for shape in shapes
    ]
    out += _mixes(shapes, evaluator, installation)
    if evaluator.request.allowed.disaggregated:
        out += _pairs(shapes, evaluator, installation)
    return out


def _mixes(shapes: Sequence[Shape], evaluator: Evaluator, installation: Installation) -> list[Candidate]:
    """One shape in each of two or more pools, behind one endpoint. Engines may differ: clients see the same API."""
    best = _best_by_pool(shapes, evaluator, "aggregated", by_engine=False)
    pools = _most_useful(best, evaluator, "aggregated")
    groups = [names for count, most in _POOLS_OF_MIX.items() for names in combinations(sorted(pools[:most]), count)]
    out: list[Candidate] = []
    for names in groups:
        choices = [[shape for shape in best if shape.pool.name == name] for name in names]
        picks: list[tuple[Shape, ...]] = [()]
        for options in choices:
            kept = options if len(names) == 2 else options[:1]
            picks = [(*pick, shape) for pick in picks for shape in kept]
        for pick in picks:
            why_not = next(
                (why for shape in pick if (why := installation.why_not_image(shape.engine, shape.accelerator))), None
            )
            parts = tuple(Part("aggregated", shape) for shape in pick)
            out.append(Candidate(parts=parts, evaluator=evaluator, advisory=why_not))
    return out


def _pairs(shapes: Sequence[Shape], evaluator: Evaluator, installation: Installation) -> list[Candidate]:
    """Prefill replicas of one shape and decode replicas of another: same engine and precision, any pools."""
    prefills, decodes = (_of_useful_pools(shapes, evaluator, role) for role in ("prefill", "decode"))
    out = []
    for prefill in prefills:
        for decode in decodes:
            if prefill.engine.id != decode.engine.id or prefill.precision != decode.precision:
                continue
            if not prefill.engine.capabilities.pd_split:
                continue
            why_not = (
                installation.why_not_image(prefill.engine, prefill.accelerator)
                or installation.why_not_image(decode.engine, decode.accelerator)
                or installation.why_not_split(prefill.engine, decode.engine, evaluator.request.routing.router)
            )
            parts = (Part("prefill", prefill), Part("decode", decode))
            out.append(Candidate(parts=parts, evaluator=evaluator, advisory=why_not))
    return out


def _of_useful_pools(shapes: Sequence[Shape], evaluator: Evaluator, role: Role) -> list[Shape]:
    best = _best_by_pool(shapes, evaluator, role, by_engine=True)
    pools = set(_most_useful(best, evaluator, role)[:_POOLS_OF_PAIR])
    return [shape for shape in best if shape.pool.name in pools]


def _most_useful(best: Sequence[Shape], evaluator: Evaluator, role: Role) -> list[str]:
    """All pools, by turns the one whose accelerators carry most and the one that carries most as a whole."""
    rated: dict[str, tuple[float, float]] = {}
    for shape in best:
        pool, limit = shape.pool, evaluator.limit(shape, role)
        dense, whole = rated.get(pool.name, (0.0, 0.0))
        rated[pool.name] = max(dense, limit / shape.units), max(whole, limit * evaluator.most(shape))
    dense_first = sorted(rated, key=lambda name: (-rated[name][0], name))
    whole_first = sorted(rated, key=lambda name: (-rated[name][1], name))
    return list(dict.fromkeys(name for turn in zip(dense_first, whole_first, strict=True) for name in turn))


def _best_by_pool(shapes: Sequence[Shape], evaluator: Evaluator, role: Role, *, by_engine: bool) -> list[Shape]:
    """The few shapes of each pool (and engine) that could be of use together with others, by the bounds: none of the
    rest carries more per accelerator and as much per replica (replicas behind one Service get equal shares)."""
    rated: dict[tuple[str, str], list[tuple[float, float, tuple[str, ...], Shape]]] = {}
    for shape in shapes:
        try:
            limit = evaluator.limit(shape, role)
        except TrimtabError:
            continue
        if limit > 0:
            where = (shape.pool.name, shape.engine.id if by_engine else "")
            rated.setdefault(where, []).append((-limit / shape.units, -limit, shape.key, shape))
    out: list[Shape] = []
    for where in sorted(rated):
        most, kept = 0.0, 0
        for _, limit, _, shape in sorted(rated[where], key=lambda one: one[:3]):
            if -limit > most and kept < _BEST_OF_POOL:
                most, kept = -limit, kept + 1
                out.append(shape)
    return out
