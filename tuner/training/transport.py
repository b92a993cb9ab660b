"""What a NIC's line rate leaves for collectives: a share, or for protocols that the host's kernel carries less and less
of it, because the host's work per byte does not shrink with the wire's."""

from __future__ import annotations

import numpy as np

from tuner.training.columns import Array

BY_HOST = ("tcp",)
_SHARE_AT_BYTES_PER_S = 6.25e9  # 50 Gb/s: the rate at which the share of a host-carried protocol is meant


def achieved_bytes_per_s(line: Array | float, share: Array | float, by_host: Array | bool) -> Array:
    """Bytes per second and direction that are left of a node's line rate."""
    rate = np.asarray(line, dtype=np.float64)
    per_byte = 1.0 / rate + (1.0 / np.asarray(share) - 1.0) / _SHARE_AT_BYTES_PER_S
    return np.asarray(np.where(by_host, 1.0 / per_byte, rate * share))
