"""What no cut of a strategy whose pipeline ranks hold several stages takes less than, for many strategies at once.

Ranks are filled as if layers could stand anywhere: a rank that holds n layers takes at least what they take and what it
must recompute of them to fit, which grows with n, and all ranks together must hold every layer. Chains of several kinds
of layers are bounded by their commonest kind alone, and by layers that are the least of all kinds in everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..costs.footprint import largest_temporaries
from ..costs.keys import Floats
from ..costs.rows import DUALPIPE, SELECTIVE, Rows
from ..costs.sharding import state_memory
from ..costs.stages import live_microbatches, placed
from ..costs.step import TrainingCosts
from ..strategy import SCHEDULES
from ..workload.strategy_table import Ints, StrategyTable, row_codes
from .fitting import Way
from .paces import least_seconds

TOGETHER = 256


@dataclass(frozen=True, slots=True)
class _Layer:
    """Of one layer at least, [rows]: seconds and bytes of states, and bytes that a micro-batch keeps; per way of
    recomputing, [ways, rows], the seconds it takes and the bytes it spares at most. `count` of them at least, beside
    `others`."""

    count: int
    others: int
    both: Floats
    states: Floats
    saved: Floats
    redone: Floats
    spared: Floats


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Of the ranks of rows of one pipeline: micro-batches alive of so many layers, at least and at most as stages may
    share them, [ranks, layers + 1]; fixed seconds and bytes, [rows, ranks]; room and slowness, [ranks]."""

    least_alive: Floats
    most_alive: Floats
    fixed_s: Floats
    fixed_bytes: Floats
    room: Floats
    slowness: Floats


def shared_floors(costs: TrainingCosts, table: StrategyTable, capacity_bytes: float, ways: tuple[Way, ...]) -> Floats:
    """Seconds that no cut of each row takes less than, infinite where none fits; the rows recompute nothing."""
    if not len(table):
        return np.zeros(0)
    rows = costs.rows(table)
    filling = Filling(costs, rows, capacity_bytes, [_recomputed(costs, table, way) for way in ways])
    slowest = np.empty(len(table))
    for some in _of_one_pipeline(rows):
        slowest[some] = filling.slowest_s(some).min(axis=0)
    extra = np.maximum(slowest - _mean_s(costs, rows), 0.0)
    # the slowest rank sets the pace of every micro-batch but those of the fill, which the mean already has
    pace = costs.microbatches(table) - np.where(table.vpp > 1, 1 / table.vpp, 0.0)
    return np.asarray(least_seconds(costs, table) + pace * extra)


def _recomputed(costs: TrainingCosts, table: StrategyTable, way: Way) -> tuple[Floats, Floats]:
    code, bits = (np.full(len(table), each, np.int64) for each in way)
    return recomputed(costs.rows(replace(table, recompute=code, recompute_modules=bits)), way)


def recomputed(rows: Rows, way: Way) -> tuple[Floats, Floats]:
    """Seconds and bytes left of every block where all of it is recomputed, of rows that do so in one way."""
    if not way[0]:
        return np.zeros_like(rows.saved_bytes), rows.saved_bytes
    return (rows.again_s, rows.saved_bytes) if way[0] == SELECTIVE else (rows.redone_s, rows.kept_bytes)


def some_rows(rows: Rows, which: Ints) -> Rows:
    """What some rows gathered."""
    names = ("key", "pipeline", "microbatches", "again_s", "saved_bytes", "redone_s", "kept_bytes")
    return replace(rows, table=rows.table.take(which), **{name: getattr(rows, name)[which] for name in names})


def _mean_s(costs: TrainingCosts, rows: Rows) -> Floats:
    """Seconds of a micro-batch on ranks that all take as long, recomputing nothing."""
    table = rows.table
    share = np.where(table.schedule == DUALPIPE, 0.5, 1.0)
    both = rows.gathered(rows.costs.forward_s + rows.costs.backward_s)
    speeds = {pp: float((1.0 / costs.chain.ranks.of_stages(pp)[0]).sum()) for pp in np.unique(table.pp).tolist()}
    return np.asarray(share * rows.over_all(rows.stages.total, both) / [speeds[pp] for pp in table.pp.tolist()])


class Filling:
    """Ranks of every row filled with layers as if those could stand anywhere.

    The rows recompute nothing; `redone` are seconds and bytes left of every block and row, by way of recomputing.
    """

    def __init__(
        self, costs: TrainingCosts, rows: Rows, capacity_bytes: float, redone: list[tuple[Floats, Floats]]
    ) -> None:
        self.costs, self.rows, self.capacity_bytes = costs, rows, capacity_bytes
        self.share = np.where(rows.table.schedule == DUALPIPE, 0.5, 1.0)
        self.both = rows.gathered(rows.costs.forward_s + rows.costs.backward_s) * self.share[:, None]
        dense, expert = rows.dense_parameters(), rows.gathered(rows.costs.expert_parameters)
        self.states: Floats = np.asarray(sum(state_memory(rows.table, dense, expert, costs.states)))
        self.redone = np.stack([seconds for seconds, _ in redone]) * self.share[:, None]
        self.spared = np.stack([np.maximum(rows.saved_bytes - left, 0.0) for _, left in redone])
        self.alive: dict[tuple[int, ...], tuple[Floats, Floats, Ints, Ints]] = {}

    def slowest_s(self, some: Ints) -> Floats:
        """Seconds of a micro-batch that some rank takes at least, by way of recomputing and row of one pipeline."""
        ranks = self._ranks(some)
        return np.asarray(np.maximum.reduce([_slowest_s(layer, ranks) for layer in self._layers(some)]))

    def filled(self, row: int) -> list[Ints]:
        """Layers of every rank as they come if every layer goes to the rank that then takes least, by way of
        recomputing; later ranks, which keep fewer micro-batches alive, take the last layers of equals."""
        some = np.array([row])
        layer, ranks = self._layers(some)[-1], self._ranks(some)
        both = int(self.rows.table.schedule[row]) == DUALPIPE
        found = []
        for way in range(len(layer.redone)):
            seconds = _seconds(layer, ranks, way)[0]
            # DualPipe's two copies share ranks in pairs, of which the first half stands for all
            each = np.maximum(seconds, seconds[::-1])[: len(seconds) // 2] if both else seconds
            count = layer.count // 2 if both else layer.count
            order = np.lexsort((-np.indices(each[:, 1:].shape)[0].ravel(), each[:, 1:].ravel()))[:count]
            number = np.bincount(order // (each.shape[1] - 1), minlength=len(each))
            found.append(np.concatenate([number, number[::-1]]) if both else number)
        return found

    def _layers(self, some: Ints) -> list[_Layer]:
        """The commonest layer alone, and where there are others what all of them take at least."""
        chain = self.costs.chain
        counts = np.bincount(chain.layers, minlength=len(chain.blocks))
        kinds = np.flatnonzero(counts)
        choices = [np.array([counts.argmax()]), kinds] if len(kinds) > 1 else [kinds]
        copies = 2 if self.rows.table.schedule[some[0]] == DUALPIPE else 1
        return [
            _Layer(
                count=copies * int(counts[each].sum()),
                others=int(counts.sum() - counts[each].sum()),
                both=self.both[some][:, each].min(axis=1),
                states=self.states[some][:, each].min(axis=1),
                saved=self.rows.saved_bytes[some][:, each].min(axis=1),
                redone=self.redone[:, some][:, :, each].min(axis=2),
                spared=self.spared[:, some][:, :, each].max(axis=2),
            )
            for each in choices
        ]

    def _ranks(self, some: Ints) -> _Ranks:
        """The ranks of some rows of one pipeline."""
        table, chain, framework = self.rows.table, self.costs.chain, self.costs.device.coefficients.framework
        first = int(some[0])
        pp = int(table.pp[first])
        least, most, alive, owned = self._alive(first)
        slowness, tightness = chain.ranks.of_stages(pp)
        values, kinds = some_rows(self.rows, some), np.unique(chain.layers)
        temporary = np.minimum.reduce([largest_temporaries(values, self.costs.states, kind[None]) for kind in kinds])
        held, seconds = np.zeros((len(some), pp)), np.zeros((len(some), pp))
        for piece, ends in ((0, chain.first), (int(table.virtual_stages[first]) - 1, chain.last)):
            at = owned == piece
            held += at.sum(axis=1) * (self.states[some] @ ends)[:, None]
            held += (at * alive).sum(axis=1) * (self.rows.saved_bytes[some] @ ends)[:, None]
            seconds += at.sum(axis=1) * (self.both[some] @ ends)[:, None]
        room = (self.capacity_bytes / tightness - framework.context_bytes) / (1 + framework.allocator_fraction)
        fixed = held + framework.workspace_bytes + temporary[:, None]
        return _Ranks(least, most, seconds, fixed, room, slowness)

    def _alive(self, row: int) -> tuple[Floats, Floats, Ints, Ints]:
        """`least_alive` and `most_alive` of `_Ranks`, the micro-batches alive of every stage, and which they are."""
        table = self.rows.table
        key = tuple(int(each[row]) for each in (table.schedule, table.pp, table.vpp, self.rows.microbatches))
        if key not in self.alive:
            schedule, pp, vpp, microbatches = SCHEDULES[key[0]], *key[1:]
            alive = live_microbatches(schedule, pp, vpp, microbatches).T
            owned = placed(np.arange(int(table.take(np.array([row])).virtual_stages[0])), schedule, pp).T
            free = owned == owned.max()
            count = 2 * len(self.costs.chain.layers)
            least = np.stack([_shared(each, ends, count) for each, ends in zip(alive, free, strict=True)])
            most = np.stack([-_shared(-each, ends, count) for each, ends in zip(alive, free, strict=True)])
            self.alive[key] = least, most, alive, owned
        return self.alive[key]


def _of_one_pipeline(rows: Rows) -> Iterator[Ints]:
    """Rows of one schedule, pp, vpp and number of micro-batches, a bounded number at a time."""
    table = rows.table
    first, inverse = row_codes([table.schedule, table.pp, table.vpp, rows.microbatches])
    order = np.argsort(inverse, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(inverse, minlength=len(first)))[:-1]):
        for start in range(0, len(members), TOGETHER):
            yield members[start : start + TOGETHER]


def _shared(alive: Ints, free: NDArray[np.bool_], count: int) -> Floats:
    """Micro-batches alive at least of 0 … count layers on stages that have as many as each other or one more; those
    that are free may have fewer."""
    number = np.arange(count + 1)
    order = np.sort(alive[~free])
    if not len(order):
        return np.asarray(number * float(alive.min()))
    each, more = np.divmod(number, len(order))
    least: Floats = each * float(order.sum()) + np.concatenate([[0.0], np.cumsum(order)])[more]
    for extra in alive[free].tolist():
        made = least.copy()
        for here in range(1, count + 1):
            rest = number[here:] - here
            fits = each[rest] + 1 >= here
            if not fits.any():
                break
            made[here:] = np.where(fits, np.minimum(made[here:], least[rest] + extra * here), made[here:])
        least = made
    return least


def _slowest_s(layer: _Layer, ranks: _Ranks) -> Floats:
    """Seconds of a micro-batch that some rank takes at least, [ways, rows]."""
    result = []
    for way in range(len(layer.redone)):
        seconds = _seconds(layer, ranks, way)
        each = seconds[:, :, 1:].reshape(len(seconds), -1)
        filled = np.partition(each, layer.count - 1, axis=1)[:, layer.count - 1]
        result.append(np.maximum(filled, seconds[:, :, int(not layer.others)].max(axis=1)))
    return np.stack(result)


def _seconds(layer: _Layer, ranks: _Ranks, way: int) -> Floats:
    """Seconds of a micro-batch at least on every rank with any number of layers, [rows, ranks, layers + 1]; infinite
    where they do not fit."""
    number = np.arange(layer.count + 1)
    # where other layers stand between these, stages may differ by as many more
    slack = layer.others * float(np.abs(ranks.most_alive[:, 1]).max())
    least, most = (each[:, : layer.count + 1] for each in (ranks.least_alive, ranks.most_alive))
    both, states, saved = (each[:, None, None] for each in (layer.both, layer.states, layer.saved))
    held = states * number + saved * np.maximum(least - slack, 0.0)
    excess = held + (ranks.fixed_bytes - ranks.room)[:, :, None]
    wanted = excess / np.maximum(layer.spared[way], 1e-9)[:, None, None] - slack - 1e-6
    again = np.stack([np.searchsorted(have, wanted[:, rank]) for rank, have in enumerate(most)], axis=1)
    seconds = both * number + layer.redone[way][:, None, None] * np.minimum(again, number)
    fits = again <= number
    return np.where(fits, (seconds + ranks.fixed_s[:, :, None]) * ranks.slowness[:, None], np.inf)
