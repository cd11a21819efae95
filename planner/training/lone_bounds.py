"""What no cut of a strategy whose pipeline ranks hold one stage each takes less than, for many strategies at once.

Ranks are filled as if layers could stand anywhere, with as many as each has room and time for; the least time of the
slowest at which they hold all layers is found by bisection. Recomputing only some of a stage's layers counts in
fractions of a layer. Chains of several kinds of layers are bounded as in `shared_bounds`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..costs.footprint import largest_temporaries
from ..costs.keys import Floats
from ..costs.rows import Rows
from ..costs.sharding import state_memory
from ..costs.stages import live_microbatches
from ..costs.step import TrainingCosts
from ..strategy import SCHEDULES
from ..workload.strategy_table import StrategyTable
from .fitting import Way, held_layers
from .paces import FILLING, beyond_compute
from .shared_bounds import recomputed

HALVINGS = 50
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class _Layers:
    """Of one layer at least, [rows]: seconds, bytes of states, bytes that a micro-batch keeps; per way of recomputing
    seconds and bytes spared at most, [ways, rows]. `count` of them stand beside others if `mixed`."""

    count: int
    mixed: bool
    seconds: Floats
    states: Floats
    saved: Floats
    redone: Floats
    spared: Floats


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Of every row and rank: micro-batches alive, seconds of what stands on the ends, and bytes left for layers, [rows,
    ranks], and of those `working` bytes once there are any, [rows]; slowness, [ranks]."""

    live: Floats
    fixed_s: Floats
    room: Floats
    working: Floats
    slowness: Floats


def lone_floors(costs: TrainingCosts, table: StrategyTable, capacity_bytes: float, ways: tuple[Way, ...]) -> Floats:
    """Seconds that no cut of each row takes less than, infinite where none fits.

    What a row recomputes all its layers do; stages of a row that recomputes nothing may do so for some in one of the
    `ways`.
    """
    result = np.full(len(table), np.inf)
    for pp in np.unique(table.pp).tolist():
        here = np.flatnonzero(table.pp == pp)
        result[here] = _floors(costs, table.take(here), capacity_bytes, ways)
    return result


def _floors(costs: TrainingCosts, table: StrategyTable, capacity_bytes: float, ways: tuple[Way, ...]) -> Floats:
    """The same for rows of one pp."""
    rows, chain = costs.rows(table), costs.chain
    held = held_layers(rows)
    others = chain.first + chain.last + chain.beside.sum(axis=0)
    counts = np.bincount(chain.layers, minlength=len(chain.blocks))
    total = held.layer_s @ counts + held.other_s @ others
    ranks = _ranks(costs, rows, capacity_bytes)
    seconds = np.full((len(ways), len(table)), 0.0)
    for layers in _layers(costs, rows, ways):
        seconds = np.maximum(seconds, _slowest_s(layers, ranks))
    fills = np.isin(table.schedule, [SCHEDULES.index(name) for name in FILLING])
    turns = np.broadcast_to(rows.microbatches - fills, seconds.shape)
    least = np.multiply(turns, seconds, out=np.full(seconds.shape, np.inf), where=np.isfinite(seconds)).min(axis=0)
    return np.asarray(least + np.where(fills, total * ranks.slowness.min(), 0.0) + beyond_compute(costs, rows))


def _layers(costs: TrainingCosts, rows: Rows, ways: tuple[Way, ...]) -> list[_Layers]:
    """The commonest layer alone, and where there are others what all of them take at least."""
    chain, held = costs.chain, held_layers(rows)
    states = _states(costs, rows)
    redone, spared = [], []
    for code, bits in ways:
        again_s, freed = np.zeros_like(states), np.zeros_like(states)
        if code:
            codes, modules = (np.full(len(rows.table), each, np.int64) for each in (code, bits))
            again = costs.rows(replace(rows.table, recompute=codes, recompute_modules=modules))
            again_s, left = recomputed(again, (code, bits))
            freed = np.maximum(rows.saved_bytes - left, 0.0)
        redone.append(again_s)
        spared.append(freed)
    counts = np.bincount(chain.layers, minlength=len(chain.blocks))
    kinds = np.flatnonzero(counts)
    choices = [np.array([counts.argmax()]), kinds] if len(kinds) > 1 else [kinds]
    return [
        _Layers(
            count=int(counts[some].sum()),
            mixed=len(some) < len(kinds),
            seconds=held.layer_s[:, some].min(axis=1),
            states=states[:, some].min(axis=1),
            saved=held.layer_bytes[:, some].min(axis=1),
            redone=np.stack([each[:, some].min(axis=1) for each in redone]),
            spared=np.stack([each[:, some].max(axis=1) for each in spared]),
        )
        for some in choices
    ]


def _states(costs: TrainingCosts, rows: Rows) -> Floats:
    dense, expert = rows.dense_parameters(), rows.gathered(rows.costs.expert_parameters)
    return np.asarray(sum(state_memory(rows.table, dense, expert, costs.states)))


def _ranks(costs: TrainingCosts, rows: Rows, capacity_bytes: float) -> _Ranks:
    """The ranks of rows of one pp."""
    chain, framework, pp = costs.chain, costs.device.coefficients.framework, int(rows.table.pp[0])
    held, states = held_layers(rows), _states(costs, rows)
    live = _live(rows)
    fixed_s, fixed = np.zeros(live.shape), np.zeros(live.shape)
    for rank, ends in ((0, chain.first), (pp - 1, chain.last)):
        fixed_s[:, rank] += held.other_s @ ends
        fixed[:, rank] += states @ ends + live[:, rank] * (held.other_bytes @ ends)
    slowness, tightness = chain.ranks.of_stages(pp)
    room = (capacity_bytes / tightness - framework.context_bytes) / (1 + framework.allocator_fraction)
    beside = framework.workspace_bytes + largest_temporaries(rows, costs.states, chain.layers)
    return _Ranks(live, fixed_s, room - fixed - beside[:, None], held.working(chain), slowness)


def _live(rows: Rows) -> Floats:
    table, pp = rows.table, int(rows.table.pp[0])
    keys, inverse = np.unique(np.stack([table.schedule, rows.microbatches], axis=1), axis=0, return_inverse=True)
    each = [live_microbatches(SCHEDULES[schedule], pp, 1, count)[0] for schedule, count in keys.tolist()]
    return np.asarray(np.stack(each).astype(np.float64)[inverse.reshape(-1)])


def _slowest_s(layers: _Layers, ranks: _Ranks) -> Floats:
    """Seconds of a micro-batch that some rank takes at least, [ways, rows]; infinite where they do not fit."""
    most = layers.count * (layers.seconds + layers.redone)
    most = (most + ranks.fixed_s.max(axis=1)) * ranks.slowness.max()
    low, high = np.zeros_like(most), most * (1 + ROUNDING)
    possible = _hold_all(layers, ranks, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = _hold_all(layers, ranks, middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(possible, low, np.inf)


def _hold_all(layers: _Layers, ranks: _Ranks, seconds: Floats) -> NDArray[np.bool_]:
    """Whether ranks that take so many seconds each, [ways, rows], hold all layers."""
    left_s = seconds[:, :, None] / ranks.slowness - ranks.fixed_s
    each_s, redone = layers.seconds[:, None], layers.redone[:, :, None]
    each_bytes = layers.states[:, None] + ranks.live * layers.saved[:, None]
    spared, room = ranks.live * layers.spared[:, :, None], ranks.room - ranks.working[:, None]
    unspared = np.minimum(left_s / each_s, room / each_bytes)
    with np.errstate(divide="ignore", invalid="ignore"):
        turned = (left_s + redone * room / spared) / (each_s + redone * each_bytes / spared)
        spare = np.minimum(turned, np.where(each_bytes > spared, room / (each_bytes - spared), np.inf))
    crowded = (left_s / each_s > room / each_bytes) & (spared > 0) & (room >= 0)
    number = np.floor(np.where(crowded, np.maximum(unspared, spare), unspared) * (1 + ROUNDING) + ROUNDING)
    number = np.where((left_s >= 0) & (ranks.room >= 0), np.maximum(number, 0.0), number)
    needed = np.where((ranks.fixed_s > 0) | layers.mixed, 0, 1)
    return np.asarray((number >= needed).all(axis=2) & (np.maximum(number, 0).sum(axis=2) >= layers.count))
