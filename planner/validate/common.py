"""Checks that every kind of plan must pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..plan.base import Beyond, Optimality

TOLERANCE = 1e-6


def close(left: float, right: float, tolerance: float = TOLERANCE) -> bool:
    """Equal within a relative tolerance."""
    return math.isclose(left, right, rel_tol=tolerance, abs_tol=1e-12)


def optimality_problems(claim: Optimality, value: float, covers: str = "", beyond: str = "") -> Iterator[str]:
    """The claim of proof against itself, what it may cover, and its value against the one that the plan predicts."""
    if claim.covers != covers:
        yield f"optimality.covers must be {covers!r} but is {claim.covers!r:.80}"
    if claim.beyond is not None and claim.beyond.covers != beyond:
        yield f"optimality.beyond.covers must be {beyond!r} but is {claim.beyond.covers!r:.80}"
    if not all(math.isfinite(number) for number in (claim.value, claim.bound, claim.gap)):
        yield "optimality: value, bound and gap must be finite"
        return
    if not close(claim.value, value):
        yield f"optimality.value is {claim.value:.6g} but the plan predicts {value:.6g}"
    excess = claim.bound - claim.value if claim.sense == "min" else claim.value - claim.bound
    if excess > TOLERANCE * abs(claim.value):
        yield f"optimality.bound {claim.bound:.6g} is on the wrong side of the value {claim.value:.6g}"
    gap = abs(claim.value - claim.bound) / abs(claim.value) if claim.value else 0.0
    if not math.isclose(claim.gap, gap, rel_tol=1e-3, abs_tol=1e-9):
        yield f"optimality.gap is {claim.gap:.6g} but value and bound are {gap:.6g} apart"
    if claim.status == "optimal" and gap > 1e-4:
        yield f"optimality.status is optimal but the gap is {gap:.3g}"
    if claim.beyond is not None:
        yield from _beyond_problems(claim, claim.beyond)


def _beyond_problems(claim: Optimality, wider: Beyond) -> Iterator[str]:
    """A larger space can only have better plans."""
    if not (math.isfinite(wider.bound) and math.isfinite(wider.gap)):
        yield "optimality.beyond: bound and gap must be finite"
        return
    excess = wider.bound - claim.bound if claim.sense == "min" else claim.bound - wider.bound
    if excess > TOLERANCE * abs(claim.value):
        yield f"optimality.beyond.bound {wider.bound:.6g} is better than the bound {claim.bound:.6g} of less"
    gap = abs(claim.value - wider.bound) / abs(claim.value) if claim.value else 0.0
    if not math.isclose(wider.gap, gap, rel_tol=1e-3, abs_tol=1e-9):
        yield f"optimality.beyond.gap is {wider.gap:.6g} but value and bound are {gap:.6g} apart"
