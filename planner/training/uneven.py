"""Stages fitted to each one's memory: which layers a stage holds, and how many of them it recomputes.

In 1F1B the first stages keep the most micro-batches alive, so the strategy that is fastest where memory allows fails
there first. An exact partition gives every stage as many layers, and as few recomputed, as suit its place (AdaPipe,
Sun et al. 2024, with the exact dynamic program of `solvers.partition`).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from shardwright.solvers.partition import PartitionProblem, solve

from ..costs.keys import Floats
from ..costs.rows import Rows
from ..costs.sharding import state_memory
from ..costs.stages import live_microbatches
from ..costs.step import TrainingCosts
from ..strategy import RECOMPUTES, SCHEDULES
from ..workload.strategy_table import Ints, StrategyTable, table_of
from .search import Candidate, Goal, evaluated
from .space import Nodes, Space

TRIED = 24
LOOKED_AT = 256
LONGEST = 4


def fitted(
    space: Space, nodes: Nodes, costs: TrainingCosts, goal: Goal, floors: Floats, best: float
) -> list[Candidate]:
    """Strategies with fitted stages that beat the best value found, best first.

    Tried are strategies that recompute nothing and would beat it if memory were no limit, those that come nearest to
    fitting first.
    """
    order = np.argsort(floors, kind="stable")
    chosen = order[floors[order] < best][:LOOKED_AT]
    if not len(chosen):
        return []
    table, _ = space.leaves(nodes, chosen)
    plain = (table.pp > 1) & (table.schedule == SCHEDULES.index("1f1b")) & (table.vocab_parallel == 0)
    plain &= (table.recompute == RECOMPUTES.index("none")) & (table.offload_activations == 0)
    table = table.take(plain & (table.offload_optimizer == 0))
    measures = evaluated(costs, table)
    unlimited = Goal(goal.objective, np.inf, goal.time_limit_s, goal.rates)
    values = unlimited.values(measures)
    ranked = np.lexsort((values, measures.memory_bytes))
    ranked = ranked[values[ranked] < best][:TRIED]
    found = []
    for row in ranked.tolist():
        made = fitted_stages(costs, table.take(np.array([row])), goal.capacity_bytes)
        if made is not None:
            value = float(goal.values(evaluated(costs, made))[0])
            if value < best:
                found.append(Candidate(made, costs, value))
    return sorted(found, key=lambda each: each.value)


def fitted_stages(costs: TrainingCosts, table: StrategyTable, capacity_bytes: float) -> StrategyTable | None:
    """The only row of a 1F1B table with the layers and the recompute of every stage fitted; None where nothing fits."""
    pieces = _pieces(costs, table, capacity_bytes)
    again = _least_recompute(pieces)
    cost = _stage_seconds(pieces, again)
    microbatches = int(costs.microbatches(table)[0])
    partition = solve(PartitionProblem(cost), weight=float(microbatches - 1)).point
    if partition is None:
        return None
    begins = partition.ends - partition.sizes
    redone = again[np.arange(len(begins)), begins, partition.ends]
    strategy = msgspec.structs.replace(
        table.row(0),
        stage_layers=tuple(partition.sizes.tolist()),
        recompute="full" if redone.any() else "none",
        stage_recompute=tuple(redone.tolist()) if redone.any() else None,
    )
    return table_of([strategy], len(costs.chain.layers))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Sums over the layers before each, [layers + 1]: seconds, seconds of a forward, and bytes of states, of a
    micro-batch kept and of its inputs alone. Per stage: `fixed_s`, `fixed_bytes`, `live` micro-batches, `room` in
    bytes, `slowness`. `working` are bytes that recomputing anything takes."""

    seconds: Floats
    forward_s: Floats
    states: Floats
    saved: Floats
    inputs: Floats
    fixed_s: Floats
    fixed_bytes: Floats
    live: Floats
    room: Floats
    slowness: Floats
    working: float


def _pieces(costs: TrainingCosts, table: StrategyTable, capacity_bytes: float) -> _Pieces:
    rows, chain, pp = costs.rows(table), costs.chain, int(table.pp[0])
    framework = costs.device.coefficients.framework
    both = rows.gathered(rows.costs.forward_s + rows.costs.backward_s)[0]
    forward = rows.gathered(rows.costs.forward_s)[0]
    states, saved, inputs = _block_bytes(costs, rows)
    layer = np.eye(len(chain.blocks))[chain.layers] + chain.beside
    own = np.eye(len(chain.blocks))[chain.layers]

    def sums(values: Floats, of: Floats = layer) -> Floats:
        return np.concatenate([[0.0], np.cumsum(of @ values)])

    ends = np.zeros((pp, len(chain.blocks)))
    ends[0] += chain.first
    ends[-1] += chain.last
    live = live_microbatches("1f1b", pp, 1, int(rows.microbatches[0]))[0].astype(np.float64)
    slowness, tightness = chain.ranks.of_stages(pp)
    dispatch = float(rows.gathered(rows.costs.dispatch_bytes)[0].max())
    room = capacity_bytes / tightness - framework.context_bytes
    return _Pieces(
        seconds=sums(both),
        forward_s=sums(forward, own),
        states=sums(states),
        saved=sums(saved),
        inputs=sums(inputs - saved, own),
        fixed_s=ends @ both,
        fixed_bytes=ends @ states + live * (ends @ saved) + framework.workspace_bytes + dispatch,
        live=live,
        room=room / (1 + framework.allocator_fraction),
        slowness=slowness,
        working=2 * float(saved[chain.layers].max()),
    )


def _block_bytes(costs: TrainingCosts, rows: Rows) -> tuple[Floats, Floats, Floats]:
    """Bytes of one block of each kind: its states on a rank, what a micro-batch keeps, and its input."""
    dense, expert = rows.dense_parameters(), rows.gathered(rows.costs.expert_parameters)
    states = sum(part[0] for part in state_memory(rows.table, dense, expert, costs.states))
    return np.asarray(states), rows.saved_bytes[0], rows.gathered(rows.costs.input_bytes)[0]


def _least_recompute(p: _Pieces) -> Ints:
    """Fewest layers that stages of layers i to j must recompute to fit, [stages, i, j]; -1 where they never do."""
    count = len(p.seconds)
    stages = len(p.live)
    longest = min(count - 1, LONGEST * -(-(count - 1) // stages))
    i, j = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    kept = (p.states[j] - p.states[i])[None] + p.fixed_bytes[:, None, None]
    kept = kept + p.live[:, None, None] * (p.saved[j] - p.saved[i])[None]
    result = np.full((stages, count, count), -1, np.int64)
    open_ = np.broadcast_to((j >= i) & (j - i <= longest), result.shape).copy()
    for again in range(longest + 1):
        upto = np.minimum(i + again, count - 1)
        size = kept + p.live[:, None, None] * (p.inputs[upto] - p.inputs[i])[None] + (p.working if again else 0.0)
        fits = open_ & (size <= p.room[:, None, None]) & (i + again <= j)[None]
        result[fits] = again
        open_ &= ~fits
        if not open_.any():
            break
    return result


def _stage_seconds(p: _Pieces, again: Ints) -> Floats:
    """Seconds of a micro-batch on stages of layers i to j, infinite where they do not fit or must not be empty."""
    count = len(p.seconds)
    i, j = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    redone = p.forward_s[np.minimum(i[None] + np.maximum(again, 0), count - 1)] - p.forward_s[i][None]
    cost = ((p.seconds[j] - p.seconds[i])[None] + redone + p.fixed_s[:, None, None]) * p.slowness[:, None, None]
    empty = np.broadcast_to(i == j, cost.shape).copy()
    empty[[0, -1]] &= (p.fixed_s[[0, -1]] == 0)[:, None, None]
    result: Floats = np.where((again < 0) | empty, np.inf, cost)
    return result
