"""The terminal view of a Pareto front: what more of one objective costs of the other."""

from __future__ import annotations

from ..plan.frontier import Frontier
from .objectives import NAMES, objective_text
from .text import console, count, table


def print_frontier(front: Frontier) -> None:
    """Print every compromise, best in the first objective first."""
    out = console()
    first, second = front.objectives
    out.print(f"{front.model}: {NAMES[first]} against {NAMES[second]}", style="bold", markup=False)
    claim = (
        "no strategy of even stages is better in one without losing in the other" if front.proven else "stopped early"
    )
    if front.proven and front.gap > 0:
        claim = (
            f"no strategy of even stages is better than each of these by more than {front.gap:.2%} in one or the other"
        )
    out.print(f"Proof      {claim}; {count(front.candidates)} candidates\n", markup=False)
    rows = (
        (point.cluster, objective_text(first, point.first), objective_text(second, point.second), point.label)
        for point in front.points
    )
    out.print(table("Compromises", ("cluster", NAMES[first], NAMES[second], "what"), rows))
