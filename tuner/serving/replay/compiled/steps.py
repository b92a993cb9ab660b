"""Time of one iteration: the interpolation contract of `step/table.py`, on the kernel's arenas."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def cell(m: Ints, f: Floats, axis: int, x: float) -> int:
    """Lower knot of the cell that x is in; the last cell goes on. `axis`: where m has the address of the knots in f,
    their number, and the cell that was found last, which is looked at first."""
    begin, last = m[axis], m[axis + 1] - 2
    low = m[axis + 2]
    if f[begin + low] <= x and (low == last or x < f[begin + low + 1]):
        return int(low)
    low, high = 0, last + 1
    while high - low > 1:
        middle = (low + high) >> 1
        if f[begin + middle] <= x:
            low = middle
        else:
            high = middle
    m[axis + 2] = low
    return int(low)


@compiled
def weight(f: Floats, begin: int, low: int, x: float) -> float:
    """How far x is through its cell: 0 below the first knot, above 1 beyond the last."""
    first = f[begin + low]
    return float(max((x - first) / (f[begin + low + 1] - first), 0.0))


@compiled
def line(m: Ints, f: Floats, axis: int, values: int, x: float) -> float:
    low = cell(m, f, axis, x)
    w = weight(f, m[axis], low, x)
    return float((1.0 - w) * f[values + low] + w * f[values + low + 1])


@compiled
def decode_attention(m: Ints, f: Floats, t: int, g: float, k: float) -> float:
    i = cell(m, f, t + at.S_AT, g)
    j = cell(m, f, t + at.K_AT, k)
    u = weight(f, m[t + at.S_AT], i, g)
    v = weight(f, m[t + at.K_AT], j, k)
    n = m[t + at.K_N]
    p = m[t + at.SK_MS] + i * n + j
    low = (1.0 - v) * f[p] + v * f[p + 1]
    high = (1.0 - v) * f[p + n] + v * f[p + n + 1]
    return float((1.0 - u) * low + u * high)


@compiled
def context_attention(m: Ints, f: Floats, t: int, b: float, new: float, past: float) -> float:
    i = cell(m, f, t + at.B_AT, b)
    j = cell(m, f, t + at.N_AT, new)
    k = cell(m, f, t + at.P_AT, past)
    u = weight(f, m[t + at.B_AT], i, b)
    v = weight(f, m[t + at.N_AT], j, new)
    w = weight(f, m[t + at.P_AT], k, past)
    rows, columns = m[t + at.N_N], m[t + at.P_N]
    total = 0.0
    for di in range(2):
        wi = u if di else 1.0 - u
        for dj in range(2):
            wj = v if dj else 1.0 - v
            p = m[t + at.BNP_MS] + ((i + di) * rows + j + dj) * columns + k
            total += wi * wj * ((1.0 - w) * f[p] + w * f[p + 1])
    return total


@compiled
def step_time(m: Ints, f: Floats, t: int, c: int, b: int, past: int, g: int, tokens_each: int, sum_kv: int) -> float:
    """c context tokens of b prompts that have `past` tokens cached in all, g decodes that have `sum_kv` in all; each
    decode puts `tokens_each` tokens through the layers."""
    total = 0.0
    if c > 0:
        total += line(m, f, t + at.T_AT, m[t + at.T_MS], float(c + g * tokens_each))
        total += context_attention(m, f, t, float(b), c / b, past / b)
    elif g > 0:
        total += line(m, f, t + at.G_AT, m[t + at.G_MS], float(g))
    if g > 0:
        total += decode_attention(m, f, t, float(g), sum_kv / g)
    return total


@compiled
def run_time(
    m: Ints, f: Floats, t: int, g: int, sum_kv: int, host: float, most: int, start: float, horizon: float
) -> tuple[int, float]:
    """A run of pure decode iterations, one token each, nobody joining or leaving: how many of `most` are launched
    before `horizon`, and when the last ends. Inside a KV cell their times are an arithmetic series, summed at once."""
    fixed = line(m, f, t + at.G_AT, m[t + at.G_MS], float(g)) + host
    i = cell(m, f, t + at.S_AT, float(g))
    u = weight(f, m[t + at.S_AT], i, float(g))
    n_k = m[t + at.K_N]
    k_at = m[t + at.K_AT]
    first_row = m[t + at.SK_MS] + i * n_k
    k0 = sum_kv / g
    done = 0
    now = start
    while done < most:
        k = k0 + done
        j = cell(m, f, t + at.K_AT, k)
        low_k = f[k_at + j]
        high_k = f[k_at + j + 1]
        p = first_row + j
        low = (1.0 - u) * f[p] + u * f[p + n_k]
        high = (1.0 - u) * f[p + 1] + u * f[p + n_k + 1]
        count = most - done
        if k < low_k:  # below the first knot: constant
            slope = 0.0
            value = low
            count = min(count, int(np.floor(low_k - k)) + 1)
        else:
            slope = (high - low) / (high_k - low_k)
            value = low + slope * (k - low_k)
            if j < n_k - 2:
                count = min(count, int(np.floor(high_k - k)) + 1)
        value += fixed
        if now + (count - 1) * (value + 0.5 * slope * (count - 2)) >= horizon:
            low_n, high_n = 1, count  # low_n iterations may be launched, high_n may not
            while high_n - low_n > 1:
                middle = (low_n + high_n) >> 1
                if now + (middle - 1) * (value + 0.5 * slope * (middle - 2)) < horizon:
                    low_n = middle
                else:
                    high_n = middle
            return done + low_n, now + low_n * (value + 0.5 * slope * (low_n - 1))
        now += count * (value + 0.5 * slope * (count - 1))
        done += count
        if now >= horizon:
            break
    return done, now
