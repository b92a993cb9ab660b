"""p(ok | x): a Gaussian process classifier learned from what worked and what ran out of memory.

Laplace's approximation (Rasmussen and Williams 2006, algorithms 3.1 and 3.2). The kernel is a bump plus a plane: most
limits are nearly a plane in the (logarithmic) parameters, and the plane is what extrapolates from a few failures; the
bump bends it. Kernel sizes come from a small grid, weighted by their approximate evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import InvalidSpec

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# (height of the bump, its length, height of the plane)
_GRID = tuple((bump, length, plane) for bump in (3.0, 30.0) for length in (0.7, 1.5) for plane in (30.0, 300.0))
_KERNELS = 6
_LEAST_WEIGHT = 0.02
_NEWTON = 12
# pi / 8: the logistic of a Gaussian variable is about the logistic of its mean, shrunk (MacKay 1992).
_SHRINK = math.pi / 8


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """One kernel's belief."""

    kernel: tuple[float, float, float]
    slope: Floats
    scaled: Floats  # inverse of the triangle of B, times the root of the weights

    def ok(self, squares: Floats, plane: Floats, own: Floats) -> Floats:
        """From squared distances and plane products to the points seen, and each point's product with itself."""
        cross = _kernel(squares, plane, self.kernel)
        mean = cross @ self.slope
        solved = self.scaled @ cross.T
        variance = np.maximum(self.kernel[0] + self.kernel[2] * own - np.sum(solved * solved, axis=0), 0.0)
        return np.asarray(_logistic(mean / np.sqrt(1.0 + _SHRINK * variance)), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Feasibility:
    """What is believed after the outcomes seen: kernels weighted by their evidence."""

    x: Floats
    fitted: tuple[tuple[float, _Fitted], ...]

    def ok(self, x: Floats) -> Floats:
        """Probability of success at each row."""
        squares, plane = _parts(x, self.x)
        own = 1.0 + np.sum((x - 0.5) ** 2, axis=1)
        return np.asarray(sum(weight * one.ok(squares, plane, own) for weight, one in self.fitted), np.float64)


def learn(x: Floats, ok: Bools) -> Feasibility:
    """`x`: (n, features in [0, 1]); n >= 1. Raises InvalidSpec for nothing to learn from."""
    if not len(ok):
        raise InvalidSpec("no outcome to learn from", field="ok", limit="one or more")
    target = np.where(ok, 1.0, -1.0)
    squares, plane = _parts(x, x)
    found = [_laplace(_kernel(squares, plane, size), target, size) for size in _GRID]
    best = max(evidence for evidence, _ in found)
    weighed = [(math.exp(evidence - best), one) for evidence, one in found]
    kept = sorted((pair for pair in weighed if pair[0] > _LEAST_WEIGHT), key=lambda pair: -pair[0])[:_KERNELS]
    total = sum(weight for weight, _ in kept)
    return Feasibility(x, tuple((weight / total, one) for weight, one in kept))


def _laplace(kernel: Floats, target: Floats, size: tuple[float, float, float]) -> tuple[float, _Fitted]:
    n = len(target)
    latent = a = np.zeros(n)
    root, b_matrix = np.zeros(n), np.eye(n)
    for _ in range(_NEWTON):
        p = _logistic(latent)
        weight = np.maximum(p * (1 - p), 1e-10)
        root = np.sqrt(weight)
        b_matrix = np.eye(n) + root[:, None] * kernel * root[None, :]
        b = weight * latent + (target + 1) / 2 - p
        a = b - root * np.linalg.solve(b_matrix, root * (kernel @ b))
        moved = kernel @ a
        change = float(np.max(np.abs(moved - latent)))
        latent = moved
        if change < 1e-3:
            break
    lower = np.asarray(np.linalg.cholesky(b_matrix), np.float64)
    evidence = (
        -0.5 * float(latent @ a)
        - float(np.sum(np.logaddexp(0.0, -target * latent)))
        - float(np.sum(np.log(np.diag(lower))))
    )
    slope = (target + 1) / 2 - _logistic(latent)
    return evidence, _Fitted(size, slope, np.linalg.inv(lower) * root[None, :])


def _parts(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Squared distances, and products of the plane."""
    squares = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1)[None, :] - 2 * a @ b.T
    return np.maximum(squares, 0.0), np.asarray(1.0 + (a - 0.5) @ (b - 0.5).T, np.float64)


def _kernel(squares: Floats, plane: Floats, size: tuple[float, float, float]) -> Floats:
    bump, length, slope = size
    return np.asarray(bump * np.exp(-0.5 / length**2 * squares) + slope * plane, np.float64)


def _logistic(value: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * value)), np.float64)
