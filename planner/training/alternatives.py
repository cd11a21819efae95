"""The next best strategies and what each loses on."""

from __future__ import annotations

from collections.abc import Sequence

from ..costs.breakdown import breakdown
from ..plan.base import Alternative, Term
from ..workload.training import Objective
from .objectives import shown
from .search import Candidate

ALTERNATIVES = 5


WORSE: dict[Objective, str] = {
    "step_s": "slower",
    "tokens_per_s_per_device": "slower",
    "days": "slower",
    "usd": "dearer",
    "energy_j": "more energy",
    "peak_memory_bytes": "more memory",
}


def alternatives(candidates: Sequence[Candidate], objective: Objective = "step_s") -> tuple[Alternative, ...]:
    """The candidates after the first, best first, each with the terms that make it worse than the first."""
    best, *others = candidates[: ALTERNATIVES + 1]
    reference = _terms(best) if others else ()
    return tuple(
        Alternative(
            label=other.table.row(0).label(),
            value=shown(objective, other.value),
            why=f"{other.value / best.value - 1:.2%} {WORSE[objective]}: {_difference(reference, _terms(other))}",
        )
        for other in others
    )


def _terms(candidate: Candidate) -> tuple[Term, ...]:
    rows = candidate.costs.rows(candidate.table)
    return breakdown(candidate.costs, rows, candidate.costs.step(rows))


def _difference(reference: tuple[Term, ...], terms: tuple[Term, ...]) -> str:
    """The two largest losses and the largest gain against the reference."""
    changes = sorted((b.value - a.value, a.name) for a, b in zip(reference, terms, strict=True))
    losses = [f"{name} +{change:.3g} s" for change, name in reversed(changes[-2:]) if change > 0]
    gain, name = changes[0]
    return ", ".join(losses or ["equal terms"]) + (f" (but {name} {gain:.3g} s)" if gain < 0 else "")
