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
    mean: float
    scale: float
    lengths: Floats
    signal: float
    noise: float
    lower: Floats
    alpha: Floats

    @property
    def noise_sd(self) -> float:
        """Deviation of one measurement from the truth, in the unit of the values."""
        return math.sqrt(self.noise) * self.scale

    def at(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation of the noise-free value at each row."""
        cross = self.signal * _matern(_distance(x / self.lengths, self.x / self.lengths))
        mean = self.mean + self.scale * (cross @ self.alpha)
        solved = np.linalg.solve(self.lower, cross.T)
        variance = np.maximum(self.signal - np.sum(solved * solved, axis=0), 1e-12)
        return np.asarray(mean, np.float64), self.scale * np.sqrt(variance)


def fit(x: Floats, y: Floats) -> Regression:
    """`x`: (n, features), `y`: (n,), finite, n >= 1. Deterministic."""
    mean, scale = float(np.mean(y)), max(float(np.std(y)), 1e-9)
    target = (y - mean) / scale
    squares = np.ascontiguousarray(((x[:, None, :] - x[None, :, :]) ** 2).reshape(-1, x.shape[1]))
    theta = np.concatenate((np.full(x.shape[1], _LENGTH[0]), [_SIGNAL[0], _NOISE[0]]))
    if len(y) > 1:
        theta = _climb(theta, squares, target)
    lengths, signal, noise = np.exp(theta[:-2]), math.exp(theta[-2]), math.exp(theta[-1])
    kernel = signal * _matern(_distance(x / lengths, x / lengths))
    kernel[np.diag_indices_from(kernel)] += noise + _JITTER
    lower = np.asarray(np.linalg.cholesky(kernel), np.float64)
    alpha = np.asarray(np.linalg.solve(lower.T, np.linalg.solve(lower, target)), np.float64)
    return Regression(x, mean, scale, lengths, signal, noise, lower, alpha)


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
        if float(np.max(np.abs(slope))) < 1e-2:
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
