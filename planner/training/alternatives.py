"""The next best strategies and what each loses on."""

from __future__ import annotations

from ..costs.breakdown import breakdown
from ..costs.step import TrainingCosts
from ..plan.base import Alternative, Term
from .search import Found, Search

ALTERNATIVES = 5


def alternatives(costs: TrainingCosts, found: Search) -> tuple[Alternative, ...]:
    """The best strategies of other shapes, best first, each with the terms that make it slower than the winner."""
    best, *others = found.outcome.best[: ALTERNATIVES + 1]
    reference = _terms(costs, best.point)
    result = []
    for other in others:
        terms = _terms(costs, other.point)
        slower = other.value / best.value - 1
        result.append(
            Alternative(
                label=other.point.table.row(0).label(),
                value=other.value,
                why=f"{slower:.2%} slower: {_difference(reference, terms)}",
            )
        )
    return tuple(result)


def _terms(costs: TrainingCosts, point: Found) -> tuple[Term, ...]:
    rows = costs.rows(point.table)
    return breakdown(costs, rows, costs.step(rows))


def _difference(reference: tuple[Term, ...], terms: tuple[Term, ...]) -> str:
    """The two largest losses and the largest gain against the reference."""
    changes = sorted((b.value - a.value, a.name) for a, b in zip(reference, terms, strict=True))
    losses = [f"{name} +{change:.3g} s" for change, name in reversed(changes[-2:]) if change > 0]
    gain, name = changes[0]
    return ", ".join(losses or ["equal terms"]) + (f" (but {name} {gain:.3g} s)" if gain < 0 else "")
