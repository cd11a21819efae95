"""Stages of one strategy fitted to each one's memory: which layers a stage holds, and how many of them it recomputes.

In 1F1B the first stages keep the most micro-batches alive, so the strategy that is fastest where memory allows fails
there first. An exact partition gives every stage as many layers, and as few recomputed, as suit its place (AdaPipe,
Sun et al. 2024, with the exact dynamic program of `solvers.partition`). Here are the schedules in which a pipeline rank
holds one stage: 1F1B, GPipe and ZB-H1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwright.solvers.partition import BOTTLENECK_FIRST, Partition, PartitionProblem, least_value, solve

from ..costs.footprint import largest_temporary
from ..costs.keys import Floats
from ..costs.rows import SELECTIVE, Rows
from ..costs.sharding import state_memory
from ..costs.stages import Chain, live_microbatches
from ..costs.step import TrainingCosts
from ..strategy import RECOMPUTE_MODULES, RECOMPUTES, SCHEDULES
from ..workload.strategy_table import Ints, StrategyTable, table_of
from .paces import pace_of
from .search import Candidate

LONGEST = 4
ROUNDING = 1e-12

Way = tuple[int, int]
"""How a stage may recompute some of its layers: a position in RECOMPUTES, and the modules' bits."""

NONE: Way = (RECOMPUTES.index("none"), 0)
FULL: Way = (RECOMPUTES.index("full"), 0)


@dataclass(frozen=True, slots=True)
class Views:
    """Costs that strategies are judged by, and those of links as fast as any, by which they are bounded."""

    costs: TrainingCosts
    bounding: TrainingCosts


@dataclass(frozen=True, slots=True)
class Fitted:
    """Strategies with fitted stages that beat what was known, best first, and what none goes below."""

    candidates: list[Candidate]
    bound: float


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Sums over the layers before each, [layers + 1]: seconds, bytes of states, and of what a micro-batch keeps; and
    [ways, layers + 1]: seconds of recomputing and bytes that it spares. Per stage: `fixed_s`, `fixed_bytes`, `live`
    micro-batches, `room` in bytes, `slowness`. `working` are bytes that recomputing anything takes, [ways], and
    `filled` those that any layer does."""

    seconds: Floats
    states: Floats
    saved: Floats
    redone_s: Floats
    spared: Floats
    fixed_s: Floats
    fixed_bytes: Floats
    live: Floats
    room: Floats
    slowness: Floats
    working: Floats
    filled: float


@dataclass(frozen=True, slots=True)
class Held:
    """Seconds of a micro-batch and bytes that it keeps, [rows, blocks], of layers and of all other blocks, recomputed
    as the row says of all its layers; and whether it recomputes them whole, [rows]."""

    layer_s: Floats
    layer_bytes: Floats
    other_s: Floats
    other_bytes: Floats
    whole: NDArray[np.bool_]

    def working(self, chain: Chain) -> Floats:
        """Bytes that a layer takes while it is recomputed whole, [rows]."""
        return np.where(self.whole, 2 * self.other_bytes[:, chain.layers].max(axis=1), 0.0)


def held_layers(rows: Rows) -> Held:
    """What blocks take and hold; rows that recompute whole layers do so with all of them."""
    other_s = rows.gathered(rows.costs.forward_s + rows.costs.backward_s) + rows.again_s
    whole = rows.table.recompute == FULL[0]
    layer_s = other_s + np.where(whole[:, None], rows.redone_s, 0.0)
    return Held(layer_s, np.where(whole[:, None], rows.kept_bytes, rows.saved_bytes), other_s, rows.saved_bytes, whole)


class Fitting:
    """The ways to cut one strategy into stages, one a rank, that fit a capacity.

    What the strategy recomputes all its layers do. Where it recomputes nothing a stage may do so for its first few
    layers in one of the `ways`, the same on all stages.
    """

    def __init__(
        self, costs: TrainingCosts, table: StrategyTable, capacity_bytes: float, ways: Sequence[Way] = (FULL,)
    ) -> None:
        self.costs, self.table, self.ways = costs, table, tuple(ways)
        columns = table.take(np.zeros(1 + len(self.ways), np.int64))
        own = (int(table.recompute[0]), int(table.recompute_modules[0]))
        codes, bits = (np.array([own[i], *(way[i] for way in self.ways)], np.int64) for i in (0, 1))
        rows = costs.rows(replace(columns, recompute=codes, recompute_modules=bits))
        self.pace = pace_of(costs, rows)
        self.pieces = _pieces(costs, rows, capacity_bytes)

    @functools.cached_property
    def again(self) -> Ints:
        """Fewest layers that a stage of layers i to j recomputes, [ways, stages, i, j]; -1 where it never fits."""
        return _least_recompute(self.pieces)

    @functools.cached_property
    def cost(self) -> Floats:
        """Seconds of a micro-batch on such a stage, infinite where it may not be."""
        return _stage_seconds(self.pieces, self.again)

    @property
    def size(self) -> int:
        """Entries of the tables it is made of: what it costs to look at."""
        return len(self.ways) * len(self.pieces.live) * len(self.pieces.seconds) ** 2

    def least_s(self) -> float:
        """Seconds that no cut takes less than."""
        return self._seconds(least_value(PartitionProblem(self.cost.min(axis=0)), self._weight))

    def best(self) -> tuple[StrategyTable | None, float]:
        """The strategy with the layers and the recompute of every stage fitted, None where nothing fits; and the
        seconds that no cut takes less than."""
        best: tuple[StrategyTable | None, float] = (None, np.inf)
        for way in range(len(self.ways)):
            solution = solve(PartitionProblem(self.cost[way]), weight=self._weight)
            if solution.point is not None and self._seconds(solution.value) < best[1]:
                best = (self._strategy(way, solution.point), self._seconds(solution.value))
        return best

    @property
    def _weight(self) -> float:
        """Of the slowest stage, as a share of all stages': infinite where only it counts."""
        return self.pace.slowest / self.pace.total if self.pace.total else BOTTLENECK_FIRST

    def _seconds(self, value: float) -> float:
        """Of a step, at least, for a value of the partition."""
        return (self.pace.total or self.pace.slowest) * value + self.pace.beyond_s

    def _strategy(self, way: int, partition: Partition) -> StrategyTable:
        begins = partition.ends - partition.sizes
        redone = self.again[way, np.arange(len(begins)), begins, partition.ends]
        code, bits = self.ways[way]
        strategy = msgspec.structs.replace(self.table.row(0), stage_layers=tuple(partition.sizes.tolist()))
        if redone.any():
            strategy = msgspec.structs.replace(
                strategy,
                recompute=RECOMPUTES[code],
                recompute_modules=tuple(name for bit, name in enumerate(RECOMPUTE_MODULES) if bits >> bit & 1),
                stage_recompute=tuple(redone.tolist()),
            )
        return table_of([strategy], len(self.costs.chain.layers))


def _pieces(costs: TrainingCosts, rows: Rows, capacity_bytes: float) -> _Pieces:
    """Row 0 of `rows` is the strategy, row 1 + i recomputes everything in way i."""
    chain, pp = costs.chain, int(rows.table.pp[0])
    framework = costs.device.coefficients.framework
    own = np.eye(len(chain.blocks))[chain.layers]

    def sums(values: Floats, beside: Floats | None = None) -> Floats:
        extra = 0.0 if beside is None else chain.beside @ beside
        return np.concatenate([[0.0], np.cumsum(own @ values + extra)])

    held = held_layers(rows)
    dense, expert = rows.dense_parameters(), rows.gathered(rows.costs.expert_parameters)
    parts = state_memory(rows.table, dense, expert, costs.states)
    states, saved = np.asarray(sum(part[0] for part in parts)), held.other_bytes[0]
    selective = (rows.table.recompute == SELECTIVE)[1:, None]
    redone = np.where(selective, rows.again_s[1:], rows.redone_s[1:])
    kept = np.where(selective, rows.saved_bytes[1:], rows.kept_bytes[1:])
    kept[rows.table.recompute[1:] == 0] = saved
    spared = np.stack([sums(np.maximum(saved - each, 0.0)) for each in kept]) if len(kept) else np.zeros((0, 1))
    ends = np.zeros((pp, len(chain.blocks)))
    ends[0] += chain.first
    ends[-1] += chain.last
    schedule = SCHEDULES[int(rows.table.schedule[0])]
    live = live_microbatches(schedule, pp, 1, int(rows.microbatches[0]))[0].astype(np.float64)
    slowness, tightness = chain.ranks.of_stages(pp)
    temporary = framework.workspace_bytes + largest_temporary(rows, costs.states, chain.layers)
    return _Pieces(
        seconds=sums(held.layer_s[0], held.other_s[0]),
        states=sums(states, states),
        saved=sums(held.layer_bytes[0], saved),
        redone_s=np.stack([sums(each) for each in redone]) if len(redone) else np.zeros((0, 1)),
        spared=spared,
        fixed_s=ends @ held.other_s[0],
        fixed_bytes=ends @ states + live * (ends @ saved) + temporary,
        live=live,
        room=(capacity_bytes / tightness - framework.context_bytes) / (1 + framework.allocator_fraction),
        slowness=slowness,
        working=np.where(selective[:, 0], 0.0, 2 * float(saved[chain.layers].max())),
        filled=float(held.working(chain)[0]),
    )


def _least_recompute(p: _Pieces) -> Ints:
    """Fewest layers that stages of layers i to j must recompute to fit, [ways, stages, i, j]; -1 where they never
    do."""
    count, stages = len(p.seconds), len(p.live)
    longest = min(count - 1, LONGEST * -(-(count - 1) // stages))
    i, j = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    kept = (p.states[j] - p.states[i])[None] + p.fixed_bytes[:, None, None]
    kept = kept + p.live[:, None, None] * (p.saved[j] - p.saved[i])[None]
    excess = kept + p.filled * (j > i) - p.room[:, None, None]
    within = np.broadcast_to((j >= i) & (j - i <= longest), excess.shape)
    result = []
    for spared, working in zip(p.spared, p.working, strict=True):
        wanted = (excess + working) / p.live[:, None, None] * (1 + ROUNDING) + spared[i]
        least = np.maximum(np.searchsorted(spared, wanted, side="left") - i, 1)
        again = np.where(excess <= 0, 0, np.where(least <= j - i, least, -1))
        result.append(np.where(within, again, -1))
    return np.stack(result)


def _stage_seconds(p: _Pieces, again: Ints) -> Floats:
    """Seconds of a micro-batch on stages of layers i to j, infinite where they do not fit or must not be empty."""
    count = len(p.seconds)
    i, j = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    upto = i + np.maximum(again, 0)
    redone = np.stack([seconds[at] - seconds[i] for seconds, at in zip(p.redone_s, upto, strict=True)])
    cost = ((p.seconds[j] - p.seconds[i])[None] + p.fixed_s[:, None, None] + redone) * p.slowness[:, None, None]
    empty = np.broadcast_to(i == j, cost.shape).copy()
    empty[:, [0, -1]] &= (p.fixed_s[[0, -1]] == 0)[:, None, None]
    result: Floats = np.where((again < 0) | empty, np.inf, cost)
    return result
