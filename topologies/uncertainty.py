"""The same topology with every bandwidth somewhat other than was thought."""

from __future__ import annotations

from typing import Any

import numpy as np

from .topology import Topology, parse_topology

_GIVEN = ("nodes", "networks", "links")
_MATRICES = ("node_bandwidth", "device_bandwidth", "fabric_bandwidth")


def uncertain(document: dict[str, Any], random: np.random.Generator, spread: float) -> Topology:
    """The topology of a document with every bandwidth in it off by a factor of its own, from 1 - spread to 1 + spread.

    A nominal figure moves for all the links it speaks of; of a measured matrix every entry moves alone, and of a
    measured curve all times together. Latencies stay.
    """

    def moved(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: moved(each, key) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [moved(each) for each in value]
        if name.endswith("bytes_per_s") and isinstance(value, int | float):
            return value * float(random.uniform(1 - spread, 1 + spread))
        return value

    changed = document | {name: moved(document[name]) for name in _GIVEN if document.get(name)}
    measured = document.get("measured")
    if measured:
        sections = {name: _section(measured[name], random, spread) for name in _MATRICES if measured.get(name)}
        curves = [_curve(each, float(random.uniform(1 - spread, 1 + spread))) for each in measured.get("curves", ())]
        changed["measured"] = measured | sections | ({"curves": curves} if curves else {})
    return parse_topology(changed)


def _section(section: dict[str, Any], random: np.random.Generator, spread: float) -> dict[str, Any]:
    rates = np.array([[np.nan if each is None else each for each in row] for row in section["matrix"]], dtype=float)
    rates *= random.uniform(1 - spread, 1 + spread, rates.shape)
    np.fill_diagonal(rates, 0.0)
    return section | {"matrix": rates.tolist()}


def _curve(curve: dict[str, Any], factor: float) -> dict[str, Any]:
    return curve | {"time_s": [each / factor for each in curve["time_s"]]}
