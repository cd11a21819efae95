"""Which node holds which layers of a chain, and how much then flows from source to sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESOLUTION = 1e6
"""Flow units per unit of throughput: maximum flow is solved in whole units, rounded down."""
UNLIMITED = 1e9


@dataclass(frozen=True, slots=True)
class ChainFlow:
    """A chain of `layers` to be held by nodes in intervals, so that most flows from a source to a sink.

    `throughput[i, k-1]` is what node i passes when it holds k consecutive layers (zero: it cannot hold k). `link[a, b]`
    is what the link from a to b passes, zero where there is none; row and column n are the source, n+1 the sink. Flow
    may go from i to j when j's interval begins where i's ends, from the source to an interval that begins at layer 0,
    and to the sink from one that ends at the last layer (Helix, Mei et al. 2025, section 4.2, without partial
    inference). A path may visit at most `max_hops` nodes.

    Raises ValueError when shapes disagree or a number is out of range.
    """

    layers: int
    throughput: Floats
    link: Floats
    max_hops: int | None = None

    def __post_init__(self) -> None:
        nodes = len(self.throughput)
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1 but got {self.layers}")
        if self.throughput.ndim != 2 or nodes < 1:
            raise ValueError("throughput must have one row per node")
        if self.link.shape != (nodes + 2, nodes + 2):
            raise ValueError(f"link must have shape {(nodes + 2, nodes + 2)} but has {self.link.shape}")
        for name, values in (("throughput", self.throughput), ("link", self.link)):
            if not np.isfinite(values).all() or (values < 0).any():
                raise ValueError(f"{name} must be finite and not negative")
        if self.max_hops is not None and self.max_hops < 1:
            raise ValueError(f"max_hops must be at least 1 but got {self.max_hops}")

    @property
    def nodes(self) -> int:
        """Number of nodes, source and sink not counted."""
        return len(self.throughput)

    def most_layers(self, node: int) -> int:
        """The largest interval a node can hold, zero when it can hold none."""
        held = np.flatnonzero(self.throughput[node])
        return int(held[-1]) + 1 if len(held) else 0


@dataclass(frozen=True, slots=True)
class Stage:
    """Nodes that hold the same interval of `size` layers."""

    size: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """The interval [start, end) of every node (equal when it holds nothing), and the flow it carries.

    `edges` are (from, to, flow) with n for the source and n+1 for the sink.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    edges: tuple[tuple[int, int, float], ...]
    hops: int


def place(problem: ChainFlow, stages: list[Stage]) -> Placement:
    """The placement that stages in chain order stand for, with its maximum flow."""
    start, end, at = [0] * problem.nodes, [0] * problem.nodes, 0
    for stage in stages:
        for node in stage.members:
            start[node], end[node] = at, at + stage.size
        at += stage.size
    edges = maximum_flow(problem, start, end)
    return Placement(tuple(start), tuple(end), edges, len(stages))


def value(problem: ChainFlow, placement: Placement) -> float:
    """What leaves the source."""
    return sum(flow for source, _, flow in placement.edges if source == problem.nodes)


def maximum_flow(problem: ChainFlow, start: list[int], end: list[int]) -> tuple[tuple[int, int, float], ...]:
    """The edges of a maximum flow through given intervals, each node's own throughput respected."""
    network = FlowNetwork(problem)
    network.load(np.asarray(start), np.asarray(end))
    return network.edges()


class FlowNetwork:
    """Maximum flow of one placement after the other; every node is split into an entry and an exit."""

    def __init__(self, problem: ChainFlow) -> None:
        from ortools.graph.python import max_flow

        self._solver_type: Any = max_flow.SimpleMaxFlow
        self.problem = problem
        n = problem.nodes
        self.link = np.minimum(problem.link, UNLIMITED)
        self.ends = (2 * n, 2 * n + 1)
        self.solver: Any = None

    def load(self, start: NDArray[Any], end: NDArray[Any]) -> float:
        """Maximum flow of these intervals."""
        n = self.problem.nodes
        held = end > start
        size = np.maximum(end - start, 1)
        through = np.minimum(np.where(held, self.problem.throughput[np.arange(n), size - 1], 0.0), UNLIMITED)
        after = (end[:, None] == start) & held[:, None] & held & (self.link[:n, :n] > 0)
        source, target = np.nonzero(after)
        first = np.flatnonzero(held & (start == 0) & (self.link[n, :n] > 0))
        last = np.flatnonzero(held & (end == self.problem.layers) & (self.link[:n, n + 1] > 0))
        own = np.flatnonzero(held)
        tails = np.concatenate([own, source + n, np.full(len(first), self.ends[0]), last + n])
        heads = np.concatenate([own + n, target, first, np.full(len(last), self.ends[1])])
        room = np.concatenate([through[own], self.link[source, target], self.link[n, first], self.link[last, n + 1]])
        self.solver = self._solver_type()
        self.room = np.floor(room * RESOLUTION).astype(np.int64)
        self.solver.add_arcs_with_capacity(tails, heads, self.room)
        self.tails, self.heads, self.within = tails, heads, len(own)
        if not len(first) or not len(last):
            self.solver = None
            return 0.0
        self.solver.solve(*self.ends)
        return float(self.solver.optimal_flow()) / RESOLUTION

    def edges(self) -> tuple[tuple[int, int, float], ...]:
        """The edges that carry flow, source and sink as n and n+1."""
        if self.solver is None:
            return ()
        n = self.problem.nodes
        flows = np.asarray(self.solver.flows(np.arange(len(self.tails)))) / RESOLUTION
        found = []
        for tail, head, flow in zip(
            self.tails[self.within :], self.heads[self.within :], flows[self.within :], strict=True
        ):
            if flow > 0:
                source = n if tail == self.ends[0] else int(tail) - n
                found.append((source, n + 1 if head == self.ends[1] else int(head), float(flow)))
        return tuple(found)
