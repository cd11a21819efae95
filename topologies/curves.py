"""Measured collective curves: size to time, interpolated, never reduced to one number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .algorithms import Links
from .document import Curve

Floats = NDArray[np.float64]


def curve_seconds(
    curves: tuple[Curve, ...], op: str, size: Floats, links: Links, crowding: Floats, otherwise: Floats
) -> Floats:
    """Times from the curve of each group's shape, `otherwise` where no curve of that shape was measured.

    Between measured sizes log time is linear in log size, so a dip or a bump stays where it was measured. Below the
    first size the first time holds, above the last the last rate. A curve is of one group that runs alone:
    `crowding` is how much longer the model says it takes beside the other groups.
    """
    times = otherwise.copy()
    for curve in curves:
        here = (links.ranks == curve.ranks_per_domain) & (links.domains == curve.domains) & (size > 0)
        if curve.op == op and here.any():
            times[here] = interpolated(curve, size[here]) * np.maximum(crowding[here], 1.0)
    return times


def interpolated(curve: Curve, size: Floats) -> Floats:
    """Time of a curve at any sizes."""
    sizes, measured = np.array(curve.size_bytes), np.array(curve.time_s)
    times = np.exp(np.interp(np.log(size), np.log(sizes), np.log(measured)))
    return np.asarray(times * np.maximum(size / sizes[-1], 1.0))
