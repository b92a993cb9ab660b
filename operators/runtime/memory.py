"""Memory settings for a process that holds large caches for months."""

from __future__ import annotations

import contextlib
import ctypes
import gc

# Cached rows are invisible to the collector; what remains is small and short-lived, so collect rarely.
_GC_THRESHOLDS = (50_000, 20, 50)


def settle_memory() -> None:
    """After the caches are filled: collect, move what lives for ever out of the collector's sight, and give the
    memory of the list pages back to the system (glibc keeps it otherwise)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    with contextlib.suppress(OSError, AttributeError):  # musl and others have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
