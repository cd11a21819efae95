"""Stages of one strategy fitted to each rank's memory where a pipeline rank holds several: interleaved 1F1B, ZB-V and
DualPipe.

What a rank keeps is a sum over stages that lie apart in the chain, so that the cut is a constraint program
(`solvers.shared_partition`). All stages of a rank have as many layers as each other or one more, and recompute alike:
only of such rounds do the closed forms of these schedules say what the event walk says. The last one, which holds the
head, may be shorter. Every rank has a layer, and room for what the largest of all kinds of layers needs for a while.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from shardwright.solvers import Status
from shardwright.solvers.shared_partition import Effort, SharedPartition, SharedProblem, Weights, filled, solve

from ..costs.footprint import largest_temporary
from ..costs.keys import Floats
from ..costs.rows import DUALPIPE, SELECTIVE, Rows
from ..costs.sharding import state_memory
from ..costs.stages import live_microbatches, placed
from ..costs.step import TrainingCosts
from ..strategy import RECOMPUTE_MODULES, RECOMPUTES, SCHEDULES
from ..workload.strategy_table import StrategyTable, table_of
from .fitting import FULL, Way
from .paces import pace_of
from .shared_bounds import Filling, recomputed, some_rows


@dataclass(frozen=True, slots=True)
class SharedCut:
    """A strategy with fitted stages, None where none was found; seconds that no cut takes less than; and the work."""

    table: StrategyTable | None
    least_s: float
    work: int


class SharedFitting:
    """The ways to cut one strategy that recomputes nothing, whose ranks hold several stages, to fit a capacity."""

    def __init__(
        self, costs: TrainingCosts, table: StrategyTable, capacity_bytes: float, ways: Sequence[Way] = (FULL,)
    ) -> None:
        self.costs, self.table, self.ways = costs, table, tuple(ways)
        self.capacity_bytes = capacity_bytes
        columns = table.take(np.zeros(1 + len(self.ways), np.int64))
        codes, bits = (np.array([0, *(way[i] for way in self.ways)], np.int64) for i in (0, 1))
        self.rows = costs.rows(replace(columns, recompute=codes, recompute_modules=bits))
        self.pace = pace_of(costs, self.rows)
        redone = [recomputed(some_rows(self.rows, np.array([1 + i])), way) for i, way in enumerate(self.ways)]
        self.filling = Filling(costs, some_rows(self.rows, np.array([0])), capacity_bytes, redone)

    def least_s(self) -> float:
        """Seconds that no cut takes less than."""
        return self.pace.slowest * float(self.slowest.min()) + self.pace.beyond_s

    @functools.cached_property
    def slowest(self) -> Floats:
        """Seconds of a micro-batch that some rank takes at least, by way of recomputing."""
        return self.filling.slowest_s(np.zeros(1, np.int64))[:, 0]

    def built(self) -> list[StrategyTable]:
        """Cuts made by filling ranks one layer at a time, one for every way of recomputing in which it comes out."""
        found = []
        for way, number in enumerate(self.filling.filled(0)):
            problem = self._problem(way)
            cuts = (filled(problem, number, shorter) for shorter in (False, True))
            found += [self._strategy(way, cut) for cut in cuts if cut is not None]
        return found

    def best(self, limit_s: float, work: int) -> SharedCut:
        """The cut that takes least, of those that take less than a limit by their bound."""
        pace = self.pace
        share = 0.5 if int(self.table.schedule[0]) == DUALPIPE else 1.0
        weights = Weights(pace.slowest, pace.total, pace.rounds, share)
        best: StrategyTable | None = None
        least_s, spent = np.inf, 0
        slowest = self.slowest
        for way in np.argsort(slowest, kind="stable").tolist():
            cutoff = limit_s - pace.beyond_s
            if cutoff <= pace.slowest * slowest[way]:
                return SharedCut(best, min(least_s, limit_s), spent)
            effort = Effort(cutoff=cutoff, slowest=float(slowest[way]), work=work)
            solution = solve(self._problem(way), weights, effort)
            spent += solution.work
            least_s = min(least_s, limit_s if solution.status is Status.INFEASIBLE else solution.bound + pace.beyond_s)
            if solution.point is not None:
                best, limit_s = self._strategy(way, solution.point), solution.value + pace.beyond_s
        return SharedCut(best, least_s, spent)

    def _strategy(self, way: int, cut: SharedPartition) -> StrategyTable:
        again = cut.lightened
        code, bits = self.ways[way]
        modules = tuple(name for bit, name in enumerate(RECOMPUTE_MODULES) if bits >> bit & 1)
        strategy = msgspec.structs.replace(
            self.table.row(0),
            stage_layers=tuple(cut.sizes.tolist()),
            recompute=RECOMPUTES[code] if again.any() else "none",
            recompute_modules=modules if again.any() else (),
            stage_recompute=tuple(again.tolist()) if again.any() else None,
        )
        return table_of([strategy], len(self.costs.chain.layers))

    def _problem(self, way: int) -> SharedProblem:
        rows, chain, costs = self.rows, self.costs.chain, self.costs
        schedule, pp, vpp = SCHEDULES[int(self.table.schedule[0])], int(self.table.pp[0]), int(self.table.vpp[0])
        pieces = int(self.table.virtual_stages[0])
        kinds = np.flatnonzero(np.bincount(chain.layers, minlength=len(chain.blocks)) + chain.beside.sum(axis=0))
        own = np.zeros(len(chain.blocks), bool)
        own[chain.layers] = True
        values = _PerBlock.of(rows, costs, way)
        owned = placed(np.arange(pieces), schedule, pp).T
        alive = live_microbatches(schedule, pp, vpp, int(rows.microbatches[0])).T.astype(np.float64)
        ends = np.zeros((pieces, len(chain.blocks)))
        ends[0] += chain.first
        ends[-1] += chain.last
        slowness, tightness = chain.ranks.of_stages(pp)
        framework = costs.device.coefficients.framework
        room = (self.capacity_bytes / tightness - framework.context_bytes) / (1 + framework.allocator_fraction)
        held = ends[owned] @ values.states + ((ends @ values.saved)[owned] * alive)
        busy = (ends @ values.both) > 0
        free = busy & (np.arange(pieces) == pieces - 1)
        least = np.where(busy | (schedule == "interleaved"), 0, 1)
        parts = np.eye(len(chain.blocks), dtype=np.int64)[chain.layers] + chain.beside
        return SharedProblem(
            parts=parts[:, kinds],
            cost=values.both[kinds],
            extra=np.where(own, values.redone, 0.0)[kinds],
            once=values.states[kinds],
            kept=values.saved[kinds],
            spared=np.where(own, values.spared, 0.0)[kinds],
            load=chain.weight[kinds],
            fixed_cost=ends @ values.both,
            fixed_load=ends @ chain.weight,
            least=least,
            free=free,
            round=np.arange(pieces) // pp,
            owned=owned,
            alive=alive,
            fixed=held.sum(axis=1) + framework.workspace_bytes + largest_temporary(rows, costs.states, chain.layers),
            working=0.0 if self.ways[way][0] == SELECTIVE else 2 * float(values.saved[chain.layers].max()),
            room=room,
            speed=slowness,
            least_owned=np.ones(pp, np.int64),
        )


@dataclass(frozen=True, slots=True)
class _PerBlock:
    """Of every block: seconds of a micro-batch, bytes of states, bytes that a micro-batch keeps, and by one way of
    recomputing the seconds it takes and the bytes it spares."""

    both: Floats
    states: Floats
    saved: Floats
    redone: Floats
    spared: Floats

    @classmethod
    def of(cls, rows: Rows, costs: TrainingCosts, way: int) -> _PerBlock:
        both = rows.gathered(rows.costs.forward_s + rows.costs.backward_s)[0]
        dense, expert = rows.dense_parameters(), rows.gathered(rows.costs.expert_parameters)
        states = np.asarray(sum(part[0] for part in state_memory(rows.table, dense, expert, costs.states)))
        row, saved = way + 1, rows.saved_bytes[0]
        if not rows.table.recompute[row]:
            return cls(both, states, saved, np.zeros_like(both), np.zeros_like(both))
        selective = rows.table.recompute[row] == SELECTIVE
        redone = rows.again_s[row] if selective else rows.redone_s[row]
        kept = rows.saved_bytes[row] if selective else rows.kept_bytes[row]
        return cls(both, states, saved, redone, np.maximum(saved - kept, 0.0))
