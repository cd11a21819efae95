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
    """What the lines along some axes of the grid cost: the worst line's sum, or worst, of `cost[item, next item]`.

    A line runs through the positions that differ in this axis only, or in these, the last named fastest; on a cyclic
    line the last position is followed by the first. `cost` is square over the items, not negative, its diagonal not
    used.
    """

    axis: int | tuple[int, ...]
    cost: Floats
    cyclic: bool = False
    reduce: Reduce = "sum"

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes a line runs through."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)


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
            if not term.axes or not set(term.axes) <= set(range(len(self.shape))):
                raise ValueError(f"a term's axes must be some of {len(self.shape)} but are {term.axes}")
            if term.cost.shape != (self.items, self.items) or self.items < positions:
                raise ValueError(f"a term's cost must be square over {positions} items or more, not {term.cost.shape}")
            off = term.cost[~np.eye(self.items, dtype=bool)]
            if off.size and not (np.isfinite(off).all() and off.min() >= 0):
                raise ValueError("a term's cost must be finite and not negative off the diagonal")
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

    def members(self, axes: tuple[int, ...]) -> Ints:
        """Positions of every line along some axes, shape [lines, length]."""
        grid = np.arange(self.positions).reshape(self.shape)
        length = int(np.prod([self.shape[axis] for axis in axes]))
        return np.moveaxis(grid, axes, range(-len(axes), 0)).reshape(-1, length)


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
    members = problem.members(term.axes)
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
