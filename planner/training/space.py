"""The space of training strategies as a table of nodes and their leaves.

A node fixes what one block costs and how the world is divided: tp, sp, cp, pp, dp, ep, etp, mbs and how their transfers
overlap. Its leaves choose how dp is split and sharded (ZeRO), the virtual stages, the schedule, the layer layout, the
recompute and what leaves the device.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..costs.stages import Chain
from ..workload.legality import Facts, legal
from ..workload.strategy_table import BALANCED, FIELDS, Ints, StrategyTable, concatenate, table_of_columns
from .choices import DOMAIN, LEAF_FIELDS, Choices, Scope, divisors

NODE_FIELDS = ("tp", "sp", "cp", "pp", "ep", "etp", "mbs", "cp_comm", "tp_overlap", "ep_overlap")


@dataclass(frozen=True, slots=True)
class Nodes:
    """Columns of the nodes; `dp` is dp_shard × dp_replicate, which leaves split."""

    tp: Ints
    sp: Ints
    cp: Ints
    pp: Ints
    dp: Ints
    ep: Ints
    etp: Ints
    mbs: Ints
    cp_comm: Ints
    tp_overlap: Ints
    ep_overlap: Ints

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Nodes:
        """The nodes picked by an index or a mask."""
        return Nodes(**{name: getattr(self, name)[rows] for name in (*NODE_FIELDS, "dp")})

    def table(self, layout: int = 0, vocab_parallel: Ints | int = 0) -> StrategyTable:
        """The nodes as strategies with everything replicated and nothing recomputed."""
        columns = {name: getattr(self, name) for name in NODE_FIELDS}
        given = {"dp_replicate": self.dp, "zero": 0, "layout": layout, "vocab_parallel": vocab_parallel}
        return table_of_columns(columns | given, len(self))


class Space:
    """Every legal strategy within a scope."""

    def __init__(self, model: Chain, given: Facts, scope: Scope) -> None:
        self.chain = model
        self.facts = given
        self.scope = scope
        self.choices = Choices(model, given, scope)

    def nodes(self) -> Nodes:
        """All nodes that can have a legal leaf."""
        worlds = self._worlds()
        tp, cp, dp = worlds[:, 0], worlds[:, 1], worlds[:, 3]
        ranks = tp * cp * dp
        parts: list[Ints] = [np.zeros((0, 11), np.int64)]
        for choice in product(*self.choices.of_nodes(tp)):
            sp, ep, etp, comm, tp_overlap, ep_overlap = choice
            keep = (ranks % (ep * etp) == 0) & (tp % etp == 0)
            keep &= (tp > 1) | ((sp == 0) & (tp_overlap == 0))
            keep &= (cp > 1) | (comm == 0)
            keep &= (ep > 1) | (ep_overlap == 0)
            if not self.scope.constraints.etp:  # experts whole, or divided as attention is
                keep &= (etp == 1) | (tp == etp)
            if self.scope.constraints.sp is not None:
                keep &= (sp == int(self.scope.constraints.sp)) | (tp == 1)
            chosen = worlds[keep]
            parts.append(np.concatenate([chosen, np.broadcast_to(np.array(choice), (len(chosen), 6))], axis=1))
        names = ("tp", "cp", "pp", "dp", "mbs", "sp", "ep", "etp", "cp_comm", "tp_overlap", "ep_overlap")
        nodes = Nodes(**dict(zip(names, np.concatenate(parts).T, strict=True)))
        # interleaving alone may make a node legal that needs it, so what only leaves decide is left to them
        table = nodes.table(BALANCED)
        return nodes.take(legal(table, self.facts, undecided=("expert overlap",)))

    def _worlds(self) -> Ints:
        """(tp, cp, pp, dp, mbs) of every division of the devices that the batch and the shapes allow."""
        f, kept = self.facts, self.choices.kept
        rows: list[tuple[int, ...]] = []
        for tp in kept("tp", divisors(f.devices)):
            if any(heads % tp for heads in f.heads):
                continue
            for cp in kept("cp", divisors(f.devices // tp)):
                if cp > 1 and (f.scans or f.sequence % (2 * cp)):
                    continue
                for pp in kept("pp", divisors(f.devices // (tp * cp))):
                    dp = f.devices // (tp * cp * pp)
                    if pp <= f.layers + 2 and f.gbs % dp == 0:
                        rows += [(tp, cp, pp, dp, mbs) for mbs in kept("mbs", divisors(f.gbs // dp))]
        return np.array(rows, np.int64).reshape(len(rows), 5)

    def leaves(self, nodes: Nodes, chosen: NDArray[np.int64]) -> tuple[StrategyTable, NDArray[np.int64]]:
        """All legal leaves of the chosen nodes, and the node of each."""
        table, origin = self.first_leaves(nodes, chosen)
        further, parent = self.further_leaves(table, np.arange(len(table)))
        return concatenate([table, further]), np.concatenate([origin, origin[parent]])

    def further_leaves(self, table: StrategyTable, rows: NDArray[np.int64]) -> tuple[StrategyTable, NDArray[np.int64]]:
        """The leaves that divide gradients, or weights as well, as the given rows divide optimizer states alone; and
        the row of each."""
        rows = rows[(table.zero[rows] == 1) & (table.pp[rows] > 1)]
        options = np.array(self.choices.further(2), np.int64).reshape(-1, 3)
        parent = np.repeat(rows, len(options))
        columns = {name: table.column(name)[parent] for name in FIELDS}
        for name, values in zip(("zero", "weight_shard", "gradient_shard"), options.T, strict=True):
            columns[name] = np.tile(values, len(rows))
        keep = self._resolve_partitions(columns)
        made = table_of_columns(columns)
        keep &= legal(made, self.facts)
        return made.take(keep), parent[keep]

    def first_leaves(self, nodes: Nodes, chosen: NDArray[np.int64]) -> tuple[StrategyTable, NDArray[np.int64]]:
        """The legal leaves of the chosen nodes but for those that `further_leaves` makes of them."""
        empty = np.zeros(0, np.int64)
        origin = [empty]
        columns = {name: [empty] for name in (*NODE_FIELDS, *LEAF_FIELDS)}
        for members, grid in self._grids_of(nodes, chosen):
            count = len(grid)
            origin.append(np.repeat(members, count))
            for name in NODE_FIELDS:
                columns[name].append(np.repeat(getattr(nodes, name)[members], count))
            for name, column in zip(LEAF_FIELDS, grid.T, strict=True):
                columns[name].append(np.tile(column, len(members)))
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        keep = self._resolve_partitions(joined)
        table = table_of_columns(joined)
        keep &= legal(table, self.facts)
        return table.take(keep), np.concatenate(origin)[keep]

    def _resolve_partitions(self, columns: dict[str, Ints]) -> NDArray[np.bool_]:
        """Turn partitions over a domain into numbers of ranks; false where that is no partition of its own."""
        ranks = columns["cp"] * columns["dp_shard"]
        inside = np.gcd(ranks, np.maximum(self.scope.domain // columns["tp"], 1))
        keep: NDArray[np.bool_] = np.ones(len(ranks), bool)
        for name in ("weight_shard", "gradient_shard"):
            over_domain = columns[name] == DOMAIN
            keep &= ~over_domain | ((inside > 1) & (inside < ranks))
            columns[name] = np.where(over_domain, inside, columns[name])
        return keep

    def count(self, nodes: Nodes) -> int:
        """Leaves of all nodes, before the few that only legality of a whole strategy rules out."""
        total, zero = 0, LEAF_FIELDS.index("zero")
        for members, grid in self._grids_of(nodes, np.arange(len(nodes))):
            further = len(self.choices.further(int(nodes.pp[members[0]])))
            total += len(members) * (len(grid) + further * int(np.count_nonzero(grid[:, zero] == 1)))
        return total

    def _grids_of(self, nodes: Nodes, chosen: NDArray[np.int64]) -> Iterator[tuple[Ints, Ints]]:
        """The chosen nodes in groups that share one grid of leaf choices, with the grid."""
        microbatches = self.facts.gbs // (nodes.dp[chosen] * nodes.mbs[chosen])
        whole = (microbatches % nodes.pp[chosen] == 0).astype(np.int64)
        several = (nodes.cp[chosen] > 1).astype(np.int64)
        shape = np.stack([nodes.pp[chosen], nodes.dp[chosen], several, whole], axis=1)
        shapes, inverse = np.unique(shape, axis=0, return_inverse=True)
        for index, (pp, dp, several_cp, whole_rounds) in enumerate(shapes.tolist()):
            members = chosen[inverse.reshape(-1) == index]
            yield members, self._grid(pp, dp, bool(several_cp), bool(whole_rounds))

    @functools.cached_property
    def _grids(self) -> dict[tuple[int, int, bool, bool], Ints]:
        return {}

    def _grid(self, pp: int, dp: int, sharded_cp: bool, whole_rounds: bool) -> Ints:
        key = (pp, dp, sharded_cp, whole_rounds)
        if key not in self._grids:
            self._grids[key] = self.choices.of_leaves(pp, dp, sharded_cp, whole_rounds)
        return self._grids[key]
