"""Compile the few inner loops that cannot be array operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The function as machine code, kept beside its source; the first call on a machine compiles it (about 1 s).

    Modules that use this decorator load numba and are imported only by the functions that need them.
    """
    import numba

    return cast(F, numba.njit(cache=True)(function))
