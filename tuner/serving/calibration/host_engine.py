"""A step table of an engine on this very machine, fitted to iterations that a client saw (`host_streams`).

The time of an iteration is a sum of non-negative parts: everything but attention, rising with the tokens of an
iteration with prompts, or by the sequences of a pure decode (which need not rise: the matrix kernels of CPUs are faster
at full tiles, eight sequences took less time than seven), and attention in proportion to the token pairs it looks at.
Least squares with those signs; the engine's host time is inside the parts, so a replay adds none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.model.errors import Unsupported
from controlplane.model.plans import Provenance
from tuner.serving.calibration.host_streams import Interval
from tuner.serving.step.table import Floats, StepTable

# Knots of the fitted parts; those beyond what was seen are left out.
CONTEXT_KNOTS = (1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
DECODE_KNOTS = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64, 96, 128)
# A size that was hardly seen lies on the line between its neighbours, and the last slope is not that of two or three
# odd iterations (it goes on beyond what was seen): a bend weighs as much as this many intervals that are off by its
# whole height.
_BEND_INTERVALS = 3.0
# Attention is proportional to pairs: any grid with these ends holds it exactly but for the square of a prompt's
# length, which is the reason for the knots between.
_ATTENTION_SEQUENCES = (1, 256)
_ATTENTION_KV = (1, 8192)
_ATTENTION_BATCH = (1, 64)
_ATTENTION_NEW = (1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
_ATTENTION_PAST = (0, 4096)

MIN_INTERVALS = 50
# Only an interval that begins with a request to an idle engine tells how long requests are under way; one or two of
# them would make that figure of whatever happened just then.
MIN_FROM_IDLE = 10
# The decode curve goes on this far past what was seen, at its mean slope: its last one may be a dip.
_BEYOND = 4.0
# Another process that takes the cores for a moment makes single intervals many times longer. They count, for requests
# wait through them, but no more than this multiple of what the others say.
_MOST_TIMES_LONGER = 4.0
_ROUNDS = 8


@dataclass(frozen=True, slots=True, eq=False)
class HostFit:
    """`request_ms`: between a client's send and the engine's queue, and back. `error_pct`: median of what the fit
    misses an interval by."""

    table: StepTable
    request_ms: float
    intervals: int
    error_pct: float


def fit(intervals: Sequence[Interval], *, source: str) -> HostFit:
    """Raises Unsupported when there are too few intervals, too few from idle, none of prompts or none of decodes alone."""
    shapes = [iteration for interval in intervals for iteration in interval.iterations]
    contexts = [shape.context_tokens + shape.decodes for shape in shapes if shape.context_tokens]
    decodes = [shape.decodes for shape in shapes if not shape.context_tokens]
    if len(intervals) < MIN_INTERVALS or not contexts or not decodes:
        raise Unsupported(
            f"{len(intervals)} intervals, {len(contexts)} iterations with prompts and {len(decodes)} without",
            field="intervals",
            limit=f"{MIN_INTERVALS} or more, with both kinds",
            hint="record a longer run, or one at a lower load",
        )
    from_idle = sum(interval.from_idle for interval in intervals)
    if from_idle < MIN_FROM_IDLE:
        raise Unsupported(
            f"{from_idle} intervals begin with a request to an idle engine",
            field="intervals",
            limit=f"{MIN_FROM_IDLE} or more",
            hint="record a run with one client, too",
        )
    context_knots = _knots(CONTEXT_KNOTS, min(contexts), max(contexts))
    decode_knots = _knots(DECODE_KNOTS, min(decodes), max(decodes))
    rows = np.array([_row(interval, context_knots, decode_knots) for interval in intervals])
    durations = np.array([interval.duration_ms for interval in intervals])
    bends = np.zeros((context_knots.size + decode_knots.size - 4, rows.shape[1]))
    bends[: context_knots.size - 2, 3 : 3 + context_knots.size] = _bends_of_rises(context_knots)
    bends[context_knots.size - 2 :, 3 + context_knots.size :] = _bends(decode_knots)
    solution = _robust(rows, durations, bends)
    predicted = rows @ solution
    error_pct = float(np.median(np.abs(predicted - durations) / np.maximum(durations, 1e-3)) * 100)
    request_ms, pair_ms, kv_ms = (float(value) for value in solution[:3])
    split = 3 + context_knots.size
    provenance = Provenance(
        tier="calibrated",
        source=source,
        notes=[f"fitted to {len(intervals)} intervals between tokens, median error {error_pct:.1f} %"],
    )
    batch, new, past = (np.array(axis, np.float64) for axis in (_ATTENTION_BATCH, _ATTENTION_NEW, _ATTENTION_PAST))
    sequences, kv = np.array(_ATTENTION_SEQUENCES, np.float64), np.array(_ATTENTION_KV, np.float64)
    table = StepTable(
        context_tokens=context_knots,
        context_ms=np.cumsum(solution[3:split]),
        decode_sequences=np.append(decode_knots, decode_knots[-1] * _BEYOND),
        decode_ms=np.append(solution[split:], _beyond(decode_knots, solution[split:])),
        context_attention_batch=batch,
        context_attention_new=new,
        context_attention_past=past,
        context_attention_ms=pair_ms * batch[:, None, None] * new[:, None] * (past + new[:, None] / 2),
        decode_attention_sequences=sequences,
        decode_attention_kv=kv,
        decode_attention_ms=kv_ms * sequences[:, None] * kv,
        provenance=provenance,
    )
    return HostFit(table, request_ms, len(intervals), error_pct)


def _beyond(knots: Floats, values: Floats) -> float:
    slope = max(0.0, float(values[-1] - values[0]) / float(knots[-1] - knots[0]))
    return float(values[-1] + slope * knots[-1] * (_BEYOND - 1.0))


def _knots(knots: Sequence[int], least: int, most: int) -> Floats:
    """From the last knot below what was seen to the first above it, at least two."""
    first = max([0, *(i for i, knot in enumerate(knots) if knot <= least)])
    last = min([len(knots) - 1, *(i for i, knot in enumerate(knots) if knot >= most)])
    first, last = (first - 1, last) if first == last > 0 else (first, max(last, first + 1))
    return np.array(knots[first : last + 1], np.float64)


def _row(interval: Interval, context_knots: Floats, decode_knots: Floats) -> Floats:
    """What each unknown contributes: request, token pairs, KV of decodes, rises of the context curve, values of the
    decode curve."""
    context, decode = np.zeros(context_knots.size), np.zeros(decode_knots.size)
    pairs = kv = 0.0
    for shape in interval.iterations:
        pairs += shape.context_pairs
        kv += shape.decode_kv
        if shape.context_tokens:
            context += _rises(context_knots, shape.context_tokens + shape.decodes)
        else:
            decode += _shares(decode_knots, shape.decodes)
    return np.concatenate(([float(interval.from_idle), pairs, kv], context, decode))


def _rises(knots: Floats, x: float) -> Floats:
    """Share of each rise between knots that lies below `x`; the first is the value at the first knot. The last slope
    goes on."""
    shares = np.clip((x - knots[:-1]) / np.diff(knots), 0.0, 1.0)
    shares[-1] = max(0.0, (x - knots[-2]) / (knots[-1] - knots[-2]))
    return np.concatenate(([1.0], shares))


def _shares(knots: Floats, x: float) -> Floats:
    """Weights of the knots around `x`."""
    shares = np.zeros(knots.size)
    i = min(max(int(np.searchsorted(knots, x, side="right")) - 1, 0), knots.size - 2)
    part = (x - knots[i]) / (knots[i + 1] - knots[i])
    shares[i], shares[i + 1] = 1.0 - part, part
    return shares


def _bends(knots: Floats) -> Floats:
    """Row by row how far a knot lies from the line between its neighbours."""
    out = np.zeros((knots.size - 2, knots.size))
    for j in range(1, knots.size - 1):
        out[j - 1, j] = 1.0
        out[j - 1, [j - 1, j + 1]] = -_shares(knots[[j - 1, j + 1]], knots[j])
    return out


def _bends_of_rises(knots: Floats) -> Floats:
    """As `_bends`, for a curve given by its first value and its rises."""
    sums: Floats = np.tril(np.ones((knots.size, knots.size)))
    return np.asarray(_bends(knots) @ sums, np.float64)


def _robust(rows: Floats, durations: Floats, bends: Floats) -> Floats:
    """Relative errors count, few large ones little while the fit is found; then all do, up to a limit."""
    soft = bends * math.sqrt(_BEND_INTERVALS) / max(float(np.median(durations)), 0.1)

    def solve(weights: Floats, wanted: Floats) -> Floats:
        return non_negative_least_squares(
            np.vstack((rows * weights[:, None], soft)), np.concatenate((wanted * weights, np.zeros(len(soft))))
        )

    solution = solve(1.0 / np.maximum(durations, 0.1), durations)
    for _ in range(_ROUNDS):
        predicted = np.maximum(rows @ solution, 0.1)
        miss = np.abs(durations - predicted) / predicted
        scale = max(float(np.median(miss)), 1e-6) * 2.0
        solution = solve(np.sqrt(np.minimum(1.0, scale / np.maximum(miss, 1e-12))) / predicted, durations)
    predicted = np.maximum(rows @ solution, 0.1)
    return solve(1.0 / predicted, np.minimum(durations, predicted * _MOST_TIMES_LONGER))


def non_negative_least_squares(a: Floats, b: Floats) -> Floats:
    """x >= 0 that minimises |a x - b|: the active set method of Lawson and Hanson (Solving Least Squares Problems,
    1974, chapter 23)."""
    lengths = np.linalg.norm(a, axis=0)
    lengths[lengths == 0] = 1.0
    gram, right = (a / lengths).T @ (a / lengths), (a / lengths).T @ b
    n = gram.shape[0]
    x = np.zeros(n)
    free = np.zeros(n, bool)
    tolerance = 1e-10 * max(1.0, float(np.abs(right).max(initial=0.0)))
    for _ in range(10 * n):
        slope = right - gram @ x
        slope[free] = -np.inf
        best = int(np.argmax(slope))
        if slope[best] <= tolerance:
            break
        free[best] = True
        while True:
            trial = np.zeros(n)
            trial[free] = np.linalg.lstsq(gram[np.ix_(free, free)], right[free], rcond=None)[0]
            bad = free & (trial <= 0)
            if not bad.any():
                x = trial
                break
            step = float(np.min(x[bad] / np.maximum(x[bad] - trial[bad], 1e-300)))
            x = x + step * (trial - x)
            stuck = free & (x <= 1e-15)
            stuck[np.flatnonzero(bad)[np.argmin(x[bad])]] = True
            free &= ~stuck
            x[~free] = 0.0
            if not free.any():
                break
    return np.asarray(x / lengths, np.float64)
