"""Linear algebra on one thread while a sampler thinks.

Its matrices have a hundred rows. On more threads they take longer (they wait for each other), and the machine may be
measuring something else meanwhile.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import ThreadpoolController


@functools.cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()  # looks through the libraries of the process: a few milliseconds


def one_thread() -> AbstractContextManager[Any]:
    """For a `with` block."""
    return _pools().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]
