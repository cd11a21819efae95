"""What a step takes at least, in every schedule, of the seconds of its slowest pipeline rank and of all of them.

`costs.pipeline` gives the seconds of every schedule; here is a linear function of the ranks' own seconds that none of
its values goes below, for solvers that cut a chain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..costs.keys import Floats
from ..costs.rows import DUALPIPE, SELECTIVE, Rows
from ..costs.schedules import EqualTimes, makespan_bound_s
from ..costs.sharding import local_parameters
from ..costs.stages import UNEVEN_ROUNDS
from ..costs.step import TrainingCosts
from ..strategy import SCHEDULES, Schedule
from ..workload.strategy_table import StrategyTable

FILLING: tuple[Schedule, ...] = ("1f1b", "gpipe", "interleaved")
STEP = 1e-6
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a step are at least `slowest` × the slowest rank's for a micro-batch + `total` × all ranks' + `rounds`
    × (the heaviest virtual stages of all rounds - the heaviest rank, as loads of `Chain.weight`) + `beyond_s`."""

    slowest: float
    total: float
    rounds: float
    beyond_s: float


def pace_of(costs: TrainingCosts, rows: Rows) -> Pace:
    """The pace of the first row, which recomputes nothing; every other row is it with one way of recomputing."""
    first = rows.table.take(np.zeros(1, np.int64))
    schedule, vpp = SCHEDULES[int(first.schedule[0])], int(first.vpp[0])
    microbatches = float(rows.microbatches[0])
    beyond_s = float(beyond_compute(costs, rows)[0])
    if schedule in ("1f1b", "gpipe"):
        return Pace(microbatches - 1, 1.0, 0.0, beyond_s)
    if schedule == "interleaved":
        rounds = UNEVEN_ROUNDS * microbatches * _seconds_per_weight(costs, rows)
        return Pace(microbatches - 1 / vpp, 1 / vpp, rounds, beyond_s)
    return _tangent(costs, rows, schedule, beyond_s)


def least_seconds(costs: TrainingCosts, table: StrategyTable) -> Floats:
    """Seconds that no cut of strategies that recompute nothing takes less than: all ranks as fast as their mean."""
    if not len(table):
        return np.zeros(0)
    rows = costs.rows(table)
    both = rows.gathered(rows.costs.forward_s + rows.costs.backward_s)
    total = rows.over_all(rows.stages.total, both) * np.where(table.schedule == DUALPIPE, 0.5, 1.0)
    speeds = {pp: float((1.0 / costs.chain.ranks.of_stages(pp)[0]).sum()) for pp in np.unique(table.pp).tolist()}
    share = total / np.array([speeds[pp] for pp in table.pp.tolist()])
    fills = np.isin(table.schedule, [SCHEDULES.index(name) for name in FILLING])
    fill = np.where(fills, np.maximum(total - share, 0.0) / table.vpp, 0.0)
    return np.asarray(rows.microbatches * share + fill + beyond_compute(costs, rows))


def beyond_compute(costs: TrainingCosts, rows: Rows) -> Floats:
    """Seconds of a step beside compute that no cut changes or goes below: sends that block, those of the first
    micro-batch's round trip where a schedule's tangent does not have them, the optimizer on the mean of all stages, and
    what is fixed."""
    table, step = rows.table, costs.step(rows)
    dense, expert = (
        rows.over_all(rows.stages.total, each) / table.pp
        for each in (rows.dense_parameters(), rows.gathered(rows.costs.expert_parameters))
    )
    local = local_parameters(table, dense, expert)
    optimizer_s = local * costs.states.touched / costs.device.effective_memory_bytes_per_s
    hop, hops = costs.hops(table)
    fills = np.isin(table.schedule, [SCHEDULES.index(name) for name in FILLING])
    trip = np.where(fills, 2 * (table.vpp * hops + (table.vpp - 1) * hop), 0.0)
    return np.asarray(step.pipeline.waiting_s + trip + optimizer_s + step.fixed_s)


def _seconds_per_weight(costs: TrainingCosts, rows: Rows) -> float:
    """Seconds of a micro-batch that any block takes at least per unit of its `Chain.weight`."""
    both = rows.gathered(rows.costs.forward_s + rows.costs.backward_s)[0]
    heavy = costs.chain.weight > 0
    return float((both[heavy] / costs.chain.weight[heavy]).min())


def _tangent(costs: TrainingCosts, rows: Rows, schedule: Schedule, beyond_s: float) -> Pace:
    """A schedule taken as if all ranks were the slowest: its makespan is convex in that one's forward, input gradient
    and weight gradient, so that a tangent bounds it, and the least tangent per second of any layer bounds that."""
    blocks = _parts(rows)
    chain, pp = costs.chain, int(rows.table.pp[0])
    microbatches = int(rows.microbatches[0])
    held = np.unique(chain.layers)
    common = blocks[0, np.bincount(chain.layers).argmax()]
    mean_s = float(rows.over_all(rows.stages.total, blocks[0].sum(axis=1)[None, :])[0]) / pp
    hop = float(costs.hops(rows.table)[1][0]) / max(pp - 1, 1)
    slope = _slope(schedule, pp, microbatches, np.array([*(common * mean_s / common.sum()), hop]))
    if slope is None:
        return Pace(microbatches, 0.0, 0.0, beyond_s)
    layers = blocks[:, held].reshape(-1, 3)
    per_second = float((layers @ slope[:3] / layers.sum(axis=1)).min())
    if per_second < microbatches:
        return Pace(microbatches, 0.0, 0.0, beyond_s)
    slowness, _ = chain.ranks.of_stages(pp)
    beside = chain.beside.sum(axis=0)
    ends = [np.zeros_like(beside), chain.first, chain.last, chain.first + chain.last]
    over = float(slowness.max()) * (blocks[0] @ slope[:3] - per_second * blocks[0].sum(axis=1))
    lower = min(float(end @ over) for end in ends) + float(beside @ np.minimum(over, 0.0))
    return Pace(per_second, 0.0, 0.0, beyond_s + float(slope[3]) * hop + lower)


def _parts(rows: Rows) -> Floats:
    """Seconds of forward, input gradient (with recomputing) and weight gradient, [rows, blocks, 3]."""
    costs = rows.costs
    forward, backward, weight = (rows.gathered(each) for each in (costs.forward_s, costs.backward_s, costs.weight_s))
    selective = (rows.table.recompute == SELECTIVE)[:, None]
    again = np.where(selective, rows.again_s, rows.redone_s)
    again[0] = 0.0
    return np.stack([forward, backward - weight + again, weight], axis=2)


def _slope(schedule: Schedule, pp: int, microbatches: int, at: Floats) -> Floats | None:
    """A subgradient of a schedule's makespan by seconds of forward, input gradient, weight gradient and hop; None where
    differences do not make one. Makespans are homogeneous, so that the slope at a smooth point gives the value."""
    at = at * (1.0, 1.0007, 0.9991, 1.0003)
    moved = at + STEP * at.max() * np.concatenate([np.zeros((1, 4)), np.eye(4)])
    values = _makespan(schedule, pp, microbatches, moved)
    slope = np.asarray((values[1:] - values[0]) / (STEP * at.max()))
    return slope if abs(float(slope @ at) - values[0]) <= ROUNDING * values[0] else None


def _makespan(schedule: Schedule, pp: int, microbatches: int, seconds: Floats) -> Floats:
    """Seconds of rows of forward, input gradient, weight gradient and hop, as `costs.pipeline` counts them."""
    pieces = 2.0 if schedule == "zb-v" else 1.0
    forward, inputs, weights, hop = seconds.T
    times = EqualTimes(forward / pieces, inputs / pieces, weights / pieces, hop, hop)
    return makespan_bound_s(schedule, times, pp, microbatches)
