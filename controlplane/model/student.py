"""Student's t and ratios in percent, for all who state intervals."""

from __future__ import annotations

import math

# 95th percentiles of Student's t by degrees of freedom (any table); from 31 on the expansion below errs < 0.0002.
_T95 = (
    6.3138, 2.9200, 2.3534, 2.1318, 2.0150, 1.9432, 1.8946, 1.8595, 1.8331, 1.8125, 1.7959, 1.7823, 1.7709, 1.7613,
    1.7531, 1.7459, 1.7396, 1.7341, 1.7291, 1.7247, 1.7207, 1.7171, 1.7139, 1.7109, 1.7081, 1.7056, 1.7033, 1.7011,
    1.6991, 1.6973,
)  # fmt: skip
Z95 = 1.644854
# Of so wild values nothing is known but that: 5e23 %, where JSON and doubles still have a number.
_LOG_MOST = 50.0


def t95(freedom: float) -> float:
    """95th percentile of Student's t: half of a two-sided 90 % interval in standard errors. A part of a degree of freedom
    does not count."""
    whole = math.floor(freedom + 1e-6)  # sums of weights are hardly ever exact
    if whole <= len(_T95):
        return _T95[max(1, whole) - 1]
    return Z95 + (Z95**3 + Z95) / (4 * whole)


def percent_of(log_ratio: float) -> float:
    """How much more than 1 a ratio is, by its logarithm."""
    return 100.0 * math.expm1(min(log_ratio, _LOG_MOST))
