"""The mapping problem as arrays: neighbours, edges and groups of every term on the grid of positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Reduce = Literal["sum", "max"]


@dataclass(frozen=True, slots=True)
class Term:
    """What the lines along one axis of the grid cost: the worst line's sum, or worst, of `cost[item, next item]`.

    On a cyclic line the last position is followed by the first. `cost` is square over the items; its diagonal is not
    used.
    """

    axis: int
    cost: Floats
    cyclic: bool = False
    reduce: Reduce = "sum"


@dataclass(frozen=True, slots=True)
class MappingProblem:
    """Items to place on a grid: the order lists the item at each position, row-major, then the items left over.

    There may be more items than positions. `blocks` gives a label to every position (and left-over place): only items
    at places of the same label may change places; by default all may.
    """

    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    blocks: Ints | None = None

    def __post_init__(self) -> None:
        positions = int(np.prod(self.shape))
        if not self.terms or positions < 1:
            raise ValueError(f"a mapping problem needs terms and positions but has shape {self.shape}")
        for term in self.terms:
            if not 0 <= term.axis < len(self.shape):
                raise ValueError(f"a term's axis must be one of {len(self.shape)} but is {term.axis}")
            if term.cost.shape != (self.items, self.items) or self.items < positions:
                raise ValueError(
                    f"a term's cost must be square over at least {positions} items but is {term.cost.shape}"
                )
        if self.blocks is not None and self.blocks.shape != (self.items,):
            raise ValueError(f"blocks must label {self.items} places but have shape {self.blocks.shape}")

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.terms[0].cost)

    @property
    def positions(self) -> int:
        """Number of positions; the items beyond stay out."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of one term: for every place the next and the previous one on its line, and the line.

    A place without a next or a previous one points to itself; left-over places are on line `len(members)`. `cost` is
    flat, items × items; `members` lists the places of every line.
    """

    cost: Floats
    items: int
    next: Ints
    previous: Ints
    has_next: NDArray[np.bool_]
    has_previous: NDArray[np.bool_]
    line: Ints
    members: Ints
    adds: bool

    def edges(self, orders: Ints) -> Floats:
        """Cost from every place to the next, shape [..., items]; zero where there is none."""
        return np.where(self.has_next, self.cost[orders * self.items + orders[..., self.next]], 0.0)

    def groups(self, edges: Floats) -> Floats:
        """Sums over the lines, or the edges themselves: the term is the largest of them."""
        return np.asarray(edges[..., self.members].sum(axis=-1)) if self.adds else edges


def lines_of(problem: MappingProblem, term: Term) -> Lines:
    """Neighbours and lines of a term's axis."""
    places = np.arange(problem.items)
    grid = np.arange(problem.positions).reshape(problem.shape)
    members = np.moveaxis(grid, term.axis, -1).reshape(-1, problem.shape[term.axis])
    following, before = places.copy(), places.copy()
    following[members[:, :-1]], before[members[:, 1:]] = members[:, 1:], members[:, :-1]
    if term.cyclic:
        following[members[:, -1]], before[members[:, 0]] = members[:, 0], members[:, -1]
    line = np.full(problem.items, len(members))
    line[members] = np.arange(len(members))[:, None]
    return Lines(
        cost=np.ascontiguousarray(term.cost, dtype=np.float64).ravel(),
        items=problem.items,
        next=following,
        previous=before,
        has_next=following != places,
        has_previous=before != places,
        line=line,
        members=members,
        adds=term.reduce == "sum",
    )


def evaluate(problem: MappingProblem, orders: Ints) -> Floats:
    """Value of every order, shape [..., items] to [...]."""
    total = np.zeros(orders.shape[:-1])
    for term in problem.terms:
        lines = lines_of(problem, term)
        total += lines.groups(lines.edges(orders)).max(axis=-1)
    return total
