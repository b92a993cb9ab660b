"""Gaussian process regression over features in [0, 1]: Matern 5/2, one length per feature, learned noise.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1 and equation 5.9; the maximum of
posterior density is climbed with Rprop (Riedmiller and Braun 1993), which needs signs of the slope only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_CLIMBS = 40
# A length known to 2 % is known well enough.
_FINE = 0.02
_JITTER = 1e-8
# Priors of log length, log signal variance and log noise variance of standardised values: mean and deviation. Lengths
# of about half the axis: one parameter alone rarely has two peaks.
_LENGTH = (math.log(0.5), 1.0)
_SIGNAL = (0.0, 1.0)
_NOISE = (math.log(1e-2), 1.5)
_LOWEST = math.log(0.05)
_HIGHEST = math.log(20.0)


@dataclass(frozen=True, slots=True, eq=False)
class Regression:
    """What is believed after the values seen."""

    x: Floats
    target: Floats  # values seen, standardised
    mean: float
    scale: float
    lengths: Floats
    signal: float
    noise: float
    solver: Floats  # inverse of the kernel's triangle
    alpha: Floats

    def left_out(self) -> Floats:
        """What is predicted of each value seen from all the others (Rasmussen and Williams 2006, equation 5.12)."""
        precision = np.sum(self.solver * self.solver, axis=0)
        return np.asarray(self.mean + self.scale * (self.target - self.alpha / precision), np.float64)

    def at(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation of the noise-free value at each row."""
        cross = self.signal * _matern(_distance(x / self.lengths, self.x / self.lengths))
        mean = self.mean + self.scale * (cross @ self.alpha)
        solved = self.solver @ cross.T
        variance = np.maximum(self.signal - np.sum(solved * solved, axis=0), 1e-12)
        return np.asarray(mean, np.float64), self.scale * np.sqrt(variance)


@dataclass(frozen=True, slots=True, eq=False)
class Averaged:
    """Several regressions that the values seen leave possible, believed alike."""

    members: tuple[Regression, ...]

    def at(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation of the noise-free value at each row; where the members differ, that is deviation too."""
        found = [member.at(x) for member in self.members]
        means = np.stack([mean for mean, _ in found])
        spreads = np.stack([deviation for _, deviation in found])
        mean = means.mean(axis=0)
        return mean, np.sqrt((spreads**2).mean(axis=0) + ((means - mean) ** 2).mean(axis=0))


def fit(x: Floats, y: Floats) -> Regression:
    """The likeliest one. `x`: (n, features), `y`: (n,), finite, n >= 1. Deterministic."""
    mean, scale, target, squares = _standard(x, y)
    theta = _climb(_start(x), squares, target) if len(y) > 1 else _start(x)
    return _at(theta, x, target, mean, scale)


def fit_averaged(x: Floats, y: Floats, pairs: int = 3) -> Averaged:
    """Averaged over lengths, signal and noise: Laplace's approximation of their density around the likeliest ones,
    `pairs` of draws on either side of it. With few values many lengths are possible, and the likeliest alone is sure
    of what it has not seen (Snoek, Larochelle and Adams 2012). The draws are the same every time."""
    mean, scale, target, squares = _standard(x, y)
    if len(y) < 2 or pairs == 0:
        return Averaged((fit(x, y),))
    theta = _climb(_start(x), squares, target)
    root = _spread(theta, squares, target)
    draws = np.random.default_rng(0x5EED).standard_normal((pairs, theta.size))
    thetas = [theta]
    for draw in draws:
        for sign in (1.0, -1.0):
            moved = theta + sign * root @ draw
            moved[:-2] = np.clip(moved[:-2], _LOWEST, _HIGHEST)
            thetas.append(moved)
    return Averaged(tuple(_at(one, x, target, mean, scale) for one in thetas))


def _standard(x: Floats, y: Floats) -> tuple[float, float, Floats, Floats]:
    mean, scale = float(np.mean(y)), max(float(np.std(y)), 1e-9)
    squares = np.ascontiguousarray(((x[:, None, :] - x[None, :, :]) ** 2).reshape(-1, x.shape[1]))
    return mean, scale, (y - mean) / scale, squares


def _start(x: Floats) -> Floats:
    return np.concatenate((np.full(x.shape[1], _LENGTH[0]), [_SIGNAL[0], _NOISE[0]]))


def _at(theta: Floats, x: Floats, target: Floats, mean: float, scale: float) -> Regression:
    lengths, signal, noise = np.exp(theta[:-2]), math.exp(theta[-2]), math.exp(theta[-1])
    kernel = signal * _matern(_distance(x / lengths, x / lengths))
    kernel[np.diag_indices_from(kernel)] += noise + _JITTER
    solver = np.asarray(np.linalg.inv(np.linalg.cholesky(kernel)), np.float64)
    alpha = np.asarray(solver.T @ (solver @ target), np.float64)
    return Regression(x, target, mean, scale, lengths, signal, noise, solver, alpha)


def _spread(theta: Floats, squares: Floats, target: Floats) -> Floats:
    """A root of the covariance of theta: the inverse of the density's curvature, by differences of its slope; nowhere
    wider than the priors."""
    priors = np.concatenate((np.full(theta.size - 2, _LENGTH[1]), [_SIGNAL[1], _NOISE[1]]))
    curvature = np.empty((theta.size, theta.size))
    for i in range(theta.size):
        step = np.zeros(theta.size)
        step[i] = 0.1
        up, down = _density(theta + step, squares, target)[1], _density(theta - step, squares, target)[1]
        curvature[i] = (down - up) / 0.2
    scaled = priors[:, None] * 0.5 * (curvature + curvature.T) * priors[None, :]
    values, vectors = np.linalg.eigh(scaled)
    return np.asarray(priors[:, None] * vectors / np.sqrt(np.maximum(values, 1.0)), np.float64)


def _climb(theta: Floats, squares: Floats, target: Floats) -> Floats:
    steps, before = np.full(theta.size, 0.3), np.zeros(theta.size)
    best, best_value = theta, -math.inf
    for _ in range(_CLIMBS):
        value, slope = _density(theta, squares, target)
        if value > best_value:
            best, best_value = theta, value
        same = slope * before
        steps = np.clip(np.where(same > 0, steps * 1.3, np.where(same < 0, steps * 0.5, steps)), 1e-3, 1.0)
        before = np.where(same < 0, 0.0, slope)
        theta = theta + np.sign(before) * steps
        theta[:-2] = np.clip(theta[:-2], _LOWEST, _HIGHEST)
        if float(np.max(np.abs(slope))) < 1e-2 or float(np.max(steps)) < _FINE:
            break
    return best


def _density(theta: Floats, squares: Floats, target: Floats) -> tuple[float, Floats]:
    """Log posterior density and its slope."""
    n = target.size
    inverse = np.exp(-2.0 * theta[:-2])
    signal, noise = math.exp(theta[-2]), math.exp(theta[-1])
    distance = np.sqrt(squares @ inverse).reshape(n, n)
    decay = np.exp(-math.sqrt(5) * distance)
    shape = (1 + math.sqrt(5) * distance + 5 / 3 * distance**2) * decay
    kernel = signal * shape
    kernel[np.diag_indices_from(kernel)] += noise + _JITTER
    try:
        lower = np.linalg.cholesky(kernel)
    except np.linalg.LinAlgError:
        return -math.inf, -np.ones(theta.size)
    inverted = np.linalg.inv(kernel)
    alpha = inverted @ target
    weights = np.outer(alpha, alpha) - inverted
    value = -0.5 * float(target @ alpha) - float(np.sum(np.log(np.diag(lower))))
    slope = np.empty(theta.size)
    by_distance = (weights * (signal * (5 / 3) * (1 + math.sqrt(5) * distance) * decay)).ravel()
    slope[:-2] = 0.5 * (by_distance @ squares) * inverse
    slope[-2] = 0.5 * float(np.sum(weights * shape)) * signal
    slope[-1] = 0.5 * float(np.trace(weights)) * noise
    for at, (middle, spread) in ((slice(0, -2), _LENGTH), (slice(-2, -1), _SIGNAL), (slice(-1, None), _NOISE)):
        away = (theta[at] - middle) / spread
        value -= 0.5 * float(np.sum(away * away))
        slope[at] -= away / spread
    return value, slope


def _distance(a: Floats, b: Floats) -> Floats:
    squares = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1)[None, :] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)), np.float64)


def _matern(distance: Floats) -> Floats:
    scaled = math.sqrt(5) * distance
    return np.asarray((1 + scaled + scaled * scaled / 3) * np.exp(-scaled), np.float64)


def cumulative(z: Floats) -> Floats:
    """Normal distribution (Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7)."""
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = 1 - tail * np.exp(-x * x)
    return np.asarray(0.5 * (1 + np.sign(z) * erf), np.float64)
