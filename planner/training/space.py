"""The space of training strategies as a table of nodes and their leaves.

A node fixes what one block costs and how the world is divided: tp, sp, cp, pp, dp, ep, etp, mbs. Its leaves choose how
dp is split and sharded (ZeRO), the virtual stages, the schedule, the layer layout and the recompute.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..costs.stages import Chain, layouts_of
from ..strategy import CONTEXT_COMMS, RECOMPUTES, SCHEDULES, Constraints, Schedule
from ..workload.legality import Facts, legal
from ..workload.strategy_table import ALL_LAYERS, Ints, StrategyTable, module_bits, table_of_columns

DEFAULT_SCHEDULES: tuple[Schedule, ...] = ("1f1b", "interleaved")
NODE_FIELDS = ("tp", "sp", "cp", "pp", "ep", "etp", "mbs", "cp_comm")


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

    def __len__(self) -> int:
        return len(self.tp)

    def table(self) -> StrategyTable:
        """The nodes as strategies with everything replicated and nothing recomputed."""
        columns = {name: getattr(self, name) for name in NODE_FIELDS}
        return table_of_columns(columns | {"dp_replicate": self.dp, "zero": 0}, len(self))


@functools.lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*low, *(number // d for d in low)}))


class Space:
    """Every legal strategy of a job under its constraints.

    `scores_saved` says that attention keeps its scores for backward, so that recomputing it alone frees memory.
    """

    def __init__(self, model: Chain, given: Facts, constraints: Constraints, scores_saved: bool = False) -> None:
        self.chain = model
        self.scores_saved = scores_saved
        self.facts = given
        self.constraints = constraints
        self._grids: dict[tuple[int, int, bool, bool], Ints] = {}

    def nodes(self) -> Nodes:
        """All nodes that can have a legal leaf."""
        f, c = self.facts, self.constraints
        rows: list[tuple[int, ...]] = []
        for tp in self._kept("tp", divisors(f.devices)):
            if any(heads % tp for heads in f.heads):
                continue
            for cp in self._kept("cp", divisors(f.devices // tp)):
                if cp > 1 and (f.scans or f.sequence % (2 * cp)):
                    continue
                for pp in self._kept("pp", divisors(f.devices // (tp * cp))):
                    dp = f.devices // (tp * cp * pp)
                    if pp <= f.layers + 2 and f.gbs % dp == 0:
                        rows += [(tp, cp, pp, dp, mbs) for mbs in self._kept("mbs", divisors(f.gbs // dp))]
        grid = np.array(rows, np.int64).reshape(len(rows), 5)
        tp, cp, _, dp, _ = grid.T
        parts: list[Ints] = []
        ranks = tp * cp * dp
        for sp in (0, 1):
            for ep in self._kept("ep", _common_divisors(f.experts)):
                for etp in self._kept("etp", _expert_tensor(tp, f)):
                    for comm in self._kept("cp_comm", CONTEXT_COMMS[:1], CONTEXT_COMMS):
                        keep = (ranks % (ep * etp) == 0) & (tp % etp == 0)
                        keep &= (tp > 1) == bool(sp) if c.sp is None and f.experts else (tp > 1) | (sp == 0)
                        keep &= (cp > 1) | (comm == 0)
                        if c.sp is not None:
                            keep &= (sp == int(c.sp)) | (tp == 1)
                        chosen = grid[keep]
                        extra = np.broadcast_to(np.array([sp, ep, etp, comm]), (len(chosen), 4))
                        parts.append(np.concatenate([chosen, extra], axis=1))
        everything = np.concatenate(parts) if parts else np.zeros((0, 9), np.int64)
        names = ("tp", "cp", "pp", "dp", "mbs", "sp", "ep", "etp", "cp_comm")
        nodes = Nodes(**dict(zip(names, everything.T, strict=True)))
        balanced = table_of_columns(
            {name: getattr(nodes, name) for name in NODE_FIELDS} | {"dp_replicate": nodes.dp, "zero": 0, "layout": 1},
            len(nodes),
        )
        keep = legal(balanced, self.facts)
        return Nodes(**{name: getattr(nodes, name)[keep] for name in names})

    def leaves(self, nodes: Nodes, chosen: NDArray[np.int64]) -> tuple[StrategyTable, NDArray[np.int64]]:
        """All legal leaves of the chosen nodes, and the node of each."""
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
        table = table_of_columns({name: np.concatenate(parts) for name, parts in columns.items()})
        keep = legal(table, self.facts)
        return table.take(keep), np.concatenate(origin)[keep]

    def count(self, nodes: Nodes) -> int:
        """Leaves of all nodes, before the few that only legality of a whole strategy rules out."""
        return sum(len(members) * len(grid) for members, grid in self._grids_of(nodes, np.arange(len(nodes))))

    def _grids_of(self, nodes: Nodes, chosen: NDArray[np.int64]) -> Iterator[tuple[Ints, Ints]]:
        """The chosen nodes in groups that share one grid of leaf choices, with the grid."""
        microbatches = self.facts.gbs // (nodes.dp[chosen] * nodes.mbs[chosen])
        whole = (microbatches % nodes.pp[chosen] == 0).astype(np.int64)
        several = (nodes.cp[chosen] > 1).astype(np.int64)
        shape = np.stack([nodes.pp[chosen], nodes.dp[chosen], several, whole], axis=1)
        shapes, inverse = np.unique(shape, axis=0, return_inverse=True)
        for index, (pp, dp, several_cp, whole_rounds) in enumerate(shapes.tolist()):
            members = chosen[inverse.reshape(-1) == index]
            yield members, self._leaf_grid(pp, dp, bool(several_cp), bool(whole_rounds))

    def _leaf_grid(self, pp: int, dp: int, sharded_cp: bool, whole_rounds: bool) -> Ints:
        """Every leaf choice, one a row, in LEAF_FIELDS."""
        key = (pp, dp, sharded_cp, whole_rounds)
        if key in self._grids:
            return self._grids[key]
        shards = self._shardings(pp, dp, sharded_cp)
        rows = []
        for vpp, schedule, layout in self.pipelines(pp):
            if vpp > 1 and not whole_rounds:
                continue
            per_chunk = -(-self.facts.layers // (pp * vpp))
            for recompute, layers, bits in self._recomputes(per_chunk):
                rows += [(*shard, vpp, schedule, layout, recompute, layers, bits) for shard in shards]
        self._grids[key] = np.array(rows, np.int64).reshape(len(rows), len(LEAF_FIELDS))
        return self._grids[key]

    def _shardings(self, pp: int, dp: int, sharded_cp: bool) -> list[tuple[int, int, int]]:
        """(dp_replicate, dp_shard, zero): nothing sharded, or each way to shard over part of dp."""
        result = []
        for zero in self._kept("zero", (0, 1, 2, 3)):
            if zero == 0:
                options = [(dp, 1)]
            elif zero >= 2 and pp > 1:
                continue
            else:
                options = [(dp // shard, shard) for shard in divisors(dp) if shard > 1 or sharded_cp]
            for replicate, shard in options:
                if self._allows("dp_replicate", replicate) and self._allows("dp_shard", shard):
                    result.append((replicate, shard, zero))
        return result

    def pipelines(self, pp: int) -> list[tuple[int, int, int]]:
        """(vpp, schedule, layout). A vpp must divide the layers, counting the embedding and the head as one each or
        not at all; without interleaving any balanced layout goes."""
        result = []
        layers = self.facts.layers
        for schedule in self.constraints.schedule or DEFAULT_SCHEDULES:
            if schedule != "interleaved":
                options: Sequence[int] = (1,)
            elif pp == 1:
                continue
            else:
                options = [
                    vpp
                    for vpp in range(2, (layers + 2) // pp + 1)
                    if any((layers + k) % (pp * vpp) == 0 for k in (0, 1, 2))
                ]
            for vpp in options:
                if self._allows("vpp", vpp):
                    result += [
                        (vpp, SCHEDULES.index(schedule), layout) for layout in layouts_of(self.chain, schedule, pp, vpp)
                    ]
        return result

    def _recomputes(self, per_chunk: int) -> list[tuple[int, int, int]]:
        """(recompute, recompute_layers, recompute_modules): nothing, each useful set of modules, or whole layers."""
        result = []
        for name in self._kept("recompute", RECOMPUTES):
            code = RECOMPUTES.index(name)
            if name == "none":
                result.append((code, ALL_LAYERS, 0))
            elif name == "selective":
                result += [(code, ALL_LAYERS, bits) for bits in self.module_sets()]
            else:
                counts = [n for n in LAYER_COUNTS if n < per_chunk]
                result += [(code, n, 0) for n in (*counts, ALL_LAYERS)]
        return result

    def module_sets(self) -> tuple[int, ...]:
        """Sets of recompute modules worth trying: from the cheapest per byte freed to the whole of an MLP."""
        have = set(self.facts.modules)
        wanted: list[tuple[str, ...]] = [("core_attention",)] if self.scores_saved else []
        wanted.append(("norm",))
        if "experts" in have:
            wanted += [("activation",), ("norm", "activation"), ("norm", "experts")]
        else:
            wanted += [("mlp",), ("norm", "mlp")]
        if "mla_up" in have:
            wanted += [("mla_up",), ("mla_up", "mlp"), ("mla_up", "norm", "activation"), ("mla_up", "norm", "experts")]
        sets = [module_bits(each) for each in wanted if set(each) <= have]
        return tuple(dict.fromkeys(sets))

    def _kept(self, name: str, values: Sequence, allowed: Sequence | None = None) -> list:  # type: ignore[type-arg]
        """The values a constraint leaves; a constraint may name values outside the default ones."""
        wanted = getattr(self.constraints, name)
        if not wanted:
            return list(range(len(values))) if allowed is not None else list(values)
        if allowed is not None:
            return [allowed.index(value) for value in wanted]
        return [value for value in values if value in wanted]

    def _allows(self, name: str, value: int) -> bool:
        wanted = getattr(self.constraints, name)
        return not wanted or value in wanted


LEAF_FIELDS = (
    "dp_replicate",
    "dp_shard",
    "zero",
    "vpp",
    "schedule",
    "layout",
    "recompute",
    "recompute_layers",
    "recompute_modules",
)
LAYER_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96)


def _common_divisors(counts: tuple[int, ...]) -> tuple[int, ...]:
    if not counts:
        return (1,)
    return tuple(d for d in divisors(counts[0]) if all(count % d == 0 for count in counts))


def _expert_tensor(tp: Ints, f: Facts) -> tuple[int, ...]:
    if not f.experts:
        return (1,)
    return tuple(sorted({d for each in np.unique(tp).tolist() for d in divisors(each)}))
