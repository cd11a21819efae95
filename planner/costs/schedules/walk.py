"""The event walk: when every operation of a pipeline schedule begins and ends, exactly, in O(operations).

An operation begins when its rank has finished the one before it and what it needs has arrived: a forward needs the
forward of the stage above, a backward the backward of the stage below, each one transfer later. Transfers run beside
compute and do not queue behind each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...strategy import Schedule
from .activations import held
from .orders import Op, chunks_per_rank, rank_orders, stage_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_COLUMN = {"F": 0, "B": 1, "W": 2, "BW": 3}


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of one micro-batch on every virtual stage, shape [..., stages]; leading axes are candidates.

    `input_grad_s` and `weight_grad_s` are the two halves of the backward; schedules that do not split it run both at
    once. `pair_s` is the time of a forward overlapped with another micro-batch's backward (DualPipe's F&B), by the
    forward's stage; by default the sum of the two.
    """

    forward_s: Floats
    input_grad_s: Floats
    weight_grad_s: Floats
    pair_s: Floats | None = None


@dataclass(frozen=True, slots=True)
class BoundaryTimes:
    """Seconds to send activations to the next virtual stage and gradients back, shape [..., stages - 1]."""

    forward_s: Floats
    backward_s: Floats


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule compiled for the walk: its slots sorted by level, so that each level is one array operation.

    `previous` is the slot before on the same rank and `needs` the slots of other operations, `len(rank)` standing for
    none; `arrives` are columns of the transfer times and `column` of the operation times.
    """

    schedule: Schedule
    pp: int
    stages: int
    microbatches: int
    orders: tuple[tuple[tuple[Op, ...], ...], ...]
    rank: Ints
    position: Ints
    previous: Ints
    needs: Ints
    arrives: Ints
    column: Ints
    level_ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Begin and end of every slot, shape [slots, ...] in the program's slot order, and what follows from them."""

    program: Program
    begin_s: Floats
    end_s: Floats

    @property
    def makespan_s(self) -> Floats:
        """Time from the first operation's begin to the last one's end, shape [...]."""
        return np.asarray(self.end_s.max(axis=0))

    @property
    def busy_s(self) -> Floats:
        """Compute time of every rank, shape [..., pp]."""
        spent = np.zeros((self.program.pp, *self.end_s.shape[1:]))
        np.add.at(spent, self.program.rank, self.end_s - self.begin_s)
        return np.moveaxis(spent, 0, -1)

    @property
    def bubble_s(self) -> Floats:
        """Idle time of every rank until the makespan, shape [..., pp]."""
        return self.makespan_s[..., None] - self.busy_s

    def rank_slots(self, rank: int) -> Ints:
        """Indices of a rank's slots in the order it runs them."""
        own = np.flatnonzero(self.program.rank == rank)
        return own[np.argsort(self.program.position[own])]

    def in_flight(self, rank: int) -> tuple[Floats, Ints]:
        """Begin of every slot of a rank, shape [slots, ...], and the activations it then holds, in micro-batch chunks.

        An activation is held from the begin of its forward to the end of its (input gradient) backward.
        """
        return self.begin_s[self.rank_slots(rank)], held(self.program.orders[rank])[0].sum(axis=1)


@lru_cache(maxsize=256)
def compile_schedule(schedule: Schedule, pp: int, microbatches: int, vpp: int = 1) -> Program:
    """Operations of a schedule with their dependencies. Raises InputError when it cannot run with these sizes."""
    orders = rank_orders(schedule, pp, microbatches, vpp)
    stages = pp * chunks_per_rank(schedule, vpp)
    starts, ends = ({0, pp}, {pp - 1, 2 * pp - 1}) if schedule == "dualpipe" else ({0}, {stages - 1})
    slots = [(rank, position) for rank, order in enumerate(orders) for position in range(len(order))]
    first = np.cumsum([0] + [len(order) for order in orders])
    done: dict[tuple[bool, int, int], int] = {}
    for index, (rank, position) in enumerate(slots):
        for kind, microbatch, chunk in orders[rank][position]:
            if kind != "W":
                done[kind == "F", stage_of(schedule, pp, rank, chunk), microbatch] = index
    count = len(slots)
    previous = np.array([index - 1 if position else count for index, (_, position) in enumerate(slots)])
    needs, arrives = np.full((count, 2), count), np.full((count, 2), 2 * (stages - 1))
    column = np.full((count, 2), 5 * stages)
    for index, (rank, position) in enumerate(slots):
        slot = orders[rank][position]
        for k, (kind, microbatch, chunk) in enumerate(slot):
            stage = stage_of(schedule, pp, rank, chunk)
            column[index, k] = _COLUMN[kind] * stages + stage
            if kind == "F" and stage not in starts:
                needs[index, k], arrives[index, k] = done[True, stage - 1, microbatch], stage - 1
            elif kind in ("B", "BW") and stage not in ends:
                needs[index, k], arrives[index, k] = done[False, stage + 1, microbatch], stages - 1 + stage
        if len(slot) == 2:
            column[index] = 4 * stages + stage_of(schedule, pp, rank, slot[0].chunk), 5 * stages
    levels = _levels(previous, needs)
    by_level = np.argsort(levels, kind="stable")
    new = np.empty(count + 1, dtype=np.int64)
    new[by_level], new[count] = np.arange(count), count
    return Program(
        schedule=schedule,
        pp=pp,
        stages=stages,
        microbatches=microbatches,
        orders=tuple(tuple(order) for order in orders),
        rank=np.repeat(np.arange(pp), np.diff(first))[by_level],
        position=np.array([position for _, position in slots])[by_level],
        previous=new[previous[by_level]],
        needs=new[needs[by_level]],
        arrives=arrives[by_level],
        column=column[by_level],
        level_ends=tuple(np.cumsum(np.bincount(levels)).tolist()),
    )


def _levels(previous: Ints, needs: Ints) -> Ints:
    """Longest path, in slots, to every slot; asserts that no slots wait for each other."""
    before = np.column_stack([previous, needs]).tolist()
    count = len(before)
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for index, row in enumerate(before):
        for other in row:
            if other < count:
                after[other].append(index)
                waiting[index] += 1
    level = [0] * count
    ready = [index for index in range(count) if not waiting[index]]
    for index in ready:
        for other in after[index]:
            level[other] = max(level[other], level[index] + 1)
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    assert len(ready) == count, "the schedule waits for itself"
    return np.array(level)


def walk(program: Program, stages: StageTimes, boundaries: BoundaryTimes | None = None) -> Timeline:
    """Run a compiled schedule on given times. Raises InputError when the times do not fit the program's stages."""
    columns = _columns(program, stages)
    transfers = _transfers(program, boundaries)
    batch = np.broadcast_shapes(columns.shape[:-1], transfers.shape[:-1])
    columns, transfers = (
        np.ascontiguousarray(np.broadcast_to(table, (*batch, table.shape[-1])).reshape(-1, table.shape[-1]).T)
        for table in (columns, transfers)
    )
    duration = columns[program.column[:, 0]] + columns[program.column[:, 1]]
    count = len(program.rank)
    end = np.zeros((count + 1, columns.shape[1]))
    low = 0
    for high in program.level_ends:
        level = end[low:high]
        np.maximum(
            end[program.needs[low:high, 0]] + transfers[program.arrives[low:high, 0]],
            end[program.needs[low:high, 1]] + transfers[program.arrives[low:high, 1]],
            out=level,
        )
        np.maximum(level, end[program.previous[low:high]], out=level)
        level += duration[low:high]
        low = high
    end = end[:count]
    return Timeline(program, (end - duration).reshape(count, *batch), end.reshape(count, *batch))


def _columns(program: Program, times: StageTimes) -> Floats:
    forward, input_grad, weight_grad = np.broadcast_arrays(times.forward_s, times.input_grad_s, times.weight_grad_s)
    backward = input_grad + weight_grad
    pair = np.broadcast_to(forward + backward if times.pair_s is None else times.pair_s, forward.shape)
    if forward.shape[-1] != program.stages:
        raise InputError(f"stage times must be given for {program.stages} virtual stages but got {forward.shape[-1]}")
    nothing = np.zeros((*forward.shape[:-1], 1))
    return np.concatenate([forward, input_grad, weight_grad, backward, pair, nothing], axis=-1, dtype=np.float64)


def _transfers(program: Program, times: BoundaryTimes | None) -> Floats:
    if times is None:
        return np.zeros(2 * program.stages - 1)
    forward, backward = np.broadcast_arrays(times.forward_s, times.backward_s)
    if forward.shape[-1] != program.stages - 1:
        raise InputError(
            f"boundary times must be given for {program.stages - 1} boundaries but got {forward.shape[-1]}"
        )
    return np.concatenate([forward, backward, np.zeros((*forward.shape[:-1], 1))], axis=-1, dtype=np.float64)
