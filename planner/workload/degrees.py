"""The range of every parallel degree."""

from __future__ import annotations

from ..errors import InputError

MOST_DEGREE = 1_048_576
"""Devices of the largest topology that is read; products of all degrees then stay whole numbers of Python."""


def check_degree(name: str, value: int) -> None:
    """Raise InputError for a number that no degree, batch or period has."""
    if value < 1:
        raise InputError(f"{name} must be at least 1 but got {value}")
    if value > MOST_DEGREE:
        raise InputError(f"{name} must be at most {MOST_DEGREE} but got {value}")
