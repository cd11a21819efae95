"""Quantities in topology files: plain SI numbers, or numbers with a unit (`450 GB/s`, `200 Gb/s`, `2 us`)."""

from __future__ import annotations

import re
from typing import Final

from .errors import TopologyError

BYTES_PER_S: Final = {
    "bytes/s": 1.0,
    "B/s": 1.0,
    "kB/s": 1e3,
    "MB/s": 1e6,
    "GB/s": 1e9,
    "TB/s": 1e12,
    "Mb/s": 1e6 / 8,
    "Gb/s": 1e9 / 8,
    "Tb/s": 1e12 / 8,
    "MiB/s": 2.0**20,
    "GiB/s": 2.0**30,
}
SECONDS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
BYTES: Final = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

LEAST: Final = 1e-9
MOST: Final = 1e21
MOST_SECONDS: Final = 1e6
"""Rates, sizes, counts and times beyond these are slips of the pen; products of them stay within a float."""

_QUANTITY = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-zµ/]*)\s*")
_MAX_DEPTH = 12


def check_positive(what: str, value: float) -> None:
    """Raise TopologyError for a number that no rate, size or count has."""
    if not LEAST <= value <= MOST:
        raise TopologyError(f"{what} must be a positive number from {LEAST:g} to {MOST:g} but got {value}")


def check_seconds(what: str, value: float) -> None:
    """Raise TopologyError for a number that no latency has."""
    if not 0 <= value <= MOST_SECONDS:
        raise TopologyError(f"{what} must be a number of seconds from 0 to {MOST_SECONDS:g} but got {value}")


def si_quantities(value: object, path: str = "$", depth: int = 0) -> object:
    """The document with every quantity written as text (`450 GB/s`, or YAML's unquoted `450e9`) made a number.

    Only fields whose name ends in `_bytes_per_s`, `_bytes` or `_s` may be written so.
    """
    if depth > _MAX_DEPTH:
        raise TopologyError(f"{path}: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {key: _field(key, each, f"{path}.{key}", depth) for key, each in value.items()}
    if isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value[:1]):
        return [si_quantities(each, f"{path}[{i}]", depth + 1) for i, each in enumerate(value)]
    return value


def _field(key: object, value: object, path: str, depth: int) -> object:
    if not isinstance(value, str):
        return si_quantities(value, path, depth + 1)
    name = str(key)
    for suffix, units in (("_bytes_per_s", BYTES_PER_S), ("_bytes", BYTES), ("_s", SECONDS)):
        if name.endswith(suffix):
            return _number(value, units, path)
    return value


def _number(text: str, units: dict[str, float], path: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise TopologyError(f"{path}: expected a number, or a number with one of {', '.join(units)}, but got {text!r}")
    unit = match[2]
    if unit and unit not in units:
        raise TopologyError(f"{path}: unknown unit {unit!r}; known: {', '.join(units)}")
    try:
        return float(match[1]) * (units[unit] if unit else 1.0)
    except ValueError:
        raise TopologyError(f"{path}: not a number: {text!r}") from None
