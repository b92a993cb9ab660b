"""The one decorator of the compiled functions."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Machine code, kept on disk. Arithmetic stays IEEE: results are the same in every process."""
    return cast(F, numba.njit(cache=True, error_model="numpy", boundscheck=False)(function))
