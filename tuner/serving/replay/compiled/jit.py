"""The one decorator of the compiled functions."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


_njit: Any = numba.njit  # its type stubs leave out the options that begin with no_ and _
_OPTIONS = {"cache": True, "error_model": "numpy", "boundscheck": False, "_nrt": False}


def compiled(function: F) -> F:
    """A function that only compiled functions call; its machine code is kept on disk.

    Arithmetic stays IEEE: results are the same in every process. `_nrt=False`: no reference counts. The functions
    allocate nothing and hand on two arrays that outlive them; the atomic counts would cost as much as the work.
    """
    return cast(F, _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function))


def entry(function: F) -> F:
    """As `compiled`, for the function that Python calls."""
    return cast(F, _njit(**_OPTIONS)(function))
