"""From a trace to request classes and hours: Mélange's buckets of sizes, each at its mean."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..workload.serving import LengthBin, Trace

EDGES = (25, 100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000)
"""Upper ends of the buckets of Griggs et al. 2024 (section 5.2), continued for longer requests."""
HOUR_S = 3600.0


def lengths_of_trace(trace: Trace) -> tuple[LengthBin, ...]:
    """One length per bucket of prompt and output tokens that has requests, at its means, weighted by their number."""
    rows = np.searchsorted(EDGES, trace.prompt_tokens)
    columns = np.searchsorted(EDGES, trace.output_tokens)
    found = []
    for row, column in sorted(set(zip(rows.tolist(), columns.tolist(), strict=True))):
        mine = (rows == row) & (columns == column)
        found.append(
            LengthBin(
                isl=max(1, round(float(trace.prompt_tokens[mine].mean()))),
                osl=max(1, round(float(trace.output_tokens[mine].mean()))),
                weight=float(mine.sum()),
            )
        )
    return tuple(found)


def hours_of_trace(trace: Trace) -> tuple[float, tuple[tuple[str, float], ...]]:
    """Requests per second in the busiest whole hour, and every hour as a multiple of it.

    Raises InputError for a trace shorter than two hours, which has no hours to follow.
    """
    hours = int(trace.duration_s // HOUR_S)
    if hours < 2:
        raise InputError(f"trace {trace.name}: lasts {trace.duration_s / HOUR_S:.2g} h, --hourly needs at least 2 h")
    counts = np.bincount((trace.arrival_s // HOUR_S).astype(int), minlength=hours)[:hours]
    busiest = float(counts.max())
    return busiest / HOUR_S, tuple((str(at), count / busiest) for at, count in enumerate(counts.tolist()))
