"""Kinds of worker: a layout on a kind of device, its costs, and what it can carry within latency targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph

from ..costs.serving.coefficients import Engine, Kernels, host_factor
from ..costs.serving.communication import Fabric
from ..costs.serving.formulas import Array, StepCost
from ..costs.serving.measured import MeasuredOperators
from ..costs.serving.memory import ReplicaMemory, replica_memory
from ..costs.serving.shapes import ReplicaShapes, in_stages, replica_shapes
from ..costs.serving.step import LayerTables, Machine, cost_of_shapes, layer_tables
from ..workload.serving import Targets
from ..workload.serving_layout import Layout, Quantization, Speculation
from .schedule import Schedule, StepTable, schedule_of
from .stack import Stack, stacked
from .steady import (
    Lengths,
    Steady,
    batched_prefill_seconds,
    learn,
    lone_prefill_seconds,
    open_states,
    prefill_seconds,
    rows_of_spaced,
    spaced,
)

HAND_POINTS, BOUND_POINTS = 40, 2400


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of device of the cluster: its fabric, how many there are, its kernels."""

    index: int
    fabric: Fabric
    devices: int
    kernels: Kernels
    usd_per_hour: float | None
    tdp_watts: float | None
    operators: MeasuredOperators | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What all workers of a plan share: model, number formats, engine, speculation, and mean lengths."""

    model: ModelGraph
    quantization: Quantization
    engine: Engine
    speculation: Speculation | None
    lengths: Lengths
    longest: int


@dataclass(frozen=True)
class WorkerType:
    """One layout on one kind of device; `feed_forward` stands on devices of its own where it is apart (AFD)."""

    kind: Kind
    layout: Layout
    cost: StepCost
    schedule: Schedule
    memory: ReplicaMemory
    feed_forward: Layout | None = None

    @property
    def devices(self) -> int:
        """Devices of one worker."""
        return self.layout.devices + (self.feed_forward.devices if self.feed_forward else 0)

    @cached_property
    def table(self) -> StepTable:
        """Step times for simulation, made once."""
        return StepTable(self.cost)

    def label(self) -> str:
        """Layout and device: `tp4 on H100-SXM5-80GB`."""
        apart = f" with feed-forward {self.feed_forward.label()}" if self.feed_forward else ""
        return f"{self.layout.label()}{apart} on {self.kind.fabric.accelerator.name}"


class Workers:
    """Makes the workers of one kind of device; what layouts that differ in pp alone have in common is made once."""

    def __init__(self, setting: Setting, kind: Kind) -> None:
        self.setting, self.kind = setting, kind
        host = host_factor(kind.fabric.accelerator.name)
        self.machine = Machine(kind.fabric, kind.kernels, setting.engine, host, kind.operators)
        self._shapes: dict[Layout, ReplicaShapes] = {}
        self._tables: dict[Layout, LayerTables] = {}

    def worker(self, layout: Layout) -> WorkerType | None:
        """The worker, or None when its weights, workspace and the longest request do not fit its devices."""
        setting, kind = self.setting, self.kind
        stage = msgspec.structs.replace(layout, pp=1)
        if stage not in self._shapes:
            self._shapes[stage] = replica_shapes(setting.model, stage, setting.quantization)
        shapes = in_stages(self._shapes[stage], layout.pp)
        use = (setting.quantization, setting.engine, setting.lengths.isl + setting.lengths.osl / 2)
        memory = replica_memory(setting.model, shapes, kind.fabric, layout, use)
        if memory.cache_tokens / layout.attn_dp < setting.longest:
            return None
        if stage not in self._tables:
            self._tables[stage] = layer_tables(shapes, self.machine, stage, setting.quantization)
        cost = cost_of_shapes(
            shapes, self.machine, layout, setting.quantization, setting.speculation, self._tables[stage]
        )
        return WorkerType(kind, layout, cost, schedule_of(setting.engine, memory.cache_tokens, layout.attn_dp), memory)


def stack_of(types: Sequence[WorkerType], lengths: Lengths) -> Stack:
    """The workers as rows; each is told what will be asked of it about prompts of these lengths."""
    stack = stacked([each.cost for each in types], [each.schedule for each in types])
    least = _least_seconds(stack, lengths)[:, 0].tolist()
    learn([(each.cost, each.schedule) for each in types], stack, lengths)
    for worker, seconds in zip(types, least, strict=True):
        worker.cost.known[("least", worker.schedule, lengths)] = seconds
    return stack


def hand_grid(rows: WorkerType | Stack) -> Array:
    """Numbers of requests in hand worth looking at, densest where they are few, each once; of a stack, as often."""
    schedule = rows.schedule
    top = np.maximum(2.0, np.minimum(np.minimum(schedule.max_sequences, schedule.cache_tokens), 4096))
    if top.ndim == 0:
        return np.unique(np.rint(spaced(float(top), HAND_POINTS)))
    return np.rint(rows_of_spaced(top, HAND_POINTS))


def most_in_hand(worker: WorkerType, lengths: Lengths) -> float:
    """Requests that the worker decodes together at most, where their ages are mixed."""
    return max(1.0, min(worker.schedule.max_sequences, worker.schedule.cache_tokens / _held(worker, lengths)))


def _held(rows: WorkerType | Stack, lengths: Lengths) -> float:
    """Tokens of cache that a request holds on average."""
    return lengths.isl + (lengths.osl if rows.schedule.reserve_output else lengths.osl / 2)


def within(steady: Steady, targets: Targets, osl: float) -> NDArray[np.bool_]:
    """Where the means meet the targets."""
    good = np.ones(steady.ttft_s.shape, dtype=bool)
    limits = targets.limits()
    if "ttft" in limits:
        good &= steady.ttft_s <= limits["ttft"]
    if "tpot" in limits and osl > 1:
        good &= steady.tpot_s <= limits["tpot"]
    if "e2e" in limits:
        good &= steady.e2e_s(osl) <= limits["e2e"]
    return good


def expected_rates(rows: WorkerType | Stack, lengths: Lengths, targets: Targets) -> Array:
    """Requests per second at which the means of the closed form still meet the targets."""
    found, rates = open_states(rows.cost, rows.schedule, lengths)
    good = within(found, targets, lengths.osl) & (found.concurrency <= found.running)
    return np.asarray(np.where(good, rates, 0.0).max(axis=-1))


def expected_rate(worker: WorkerType, lengths: Lengths, targets: Targets) -> float:
    """The same of one worker."""
    return float(expected_rates(worker, lengths, targets))


def decode_rates(rows: WorkerType | Stack, lengths: Lengths, targets: Targets) -> Array:
    """The same of workers that only decode."""
    grid = hand_grid(rows)
    step = rows.cost.decode_seconds(grid, lengths.context) / rows.cost.tokens_per_step
    good = grid * _held(rows, lengths) <= rows.schedule.cache_tokens
    good &= step <= targets.limits().get("tpot", np.inf)
    return np.asarray(np.where(good, grid / (step * max(lengths.osl - 1, 1)), 0.0).max(axis=-1))


def decode_rate(worker: WorkerType, lengths: Lengths, targets: Targets) -> float:
    """The same of one worker."""
    return float(decode_rates(worker, lengths, targets))


def prefill_rate(worker: WorkerType, lengths: Lengths, targets: Targets) -> float:
    """Requests per second of a worker that only prefills, kept below full use so that queues end."""
    lone = lone_prefill_seconds(worker.cost, worker.schedule, lengths) * (1 + worker.cost.fill)
    lone += worker.cost.request_s
    limit = targets.limits().get("ttft", np.inf)
    if lone > limit:
        return 0.0
    return 0.95 / batched_prefill_seconds(worker.cost, worker.schedule, lengths)


def most_rate(
    worker: WorkerType, lengths: Lengths, targets: Targets, steps: tuple[Array, Array] | None = None
) -> float:
    """More requests per second than any schedule of the worker's steps can carry within the targets.

    n requests in hand need n (osl − 1) tokens, which take (osl − 1) steps of n, and n prefills at full budgets: a turn.
    `steps` is what `bound_steps` gives, where it is known.
    """
    grid, step = steps or bound_steps(worker, lengths)
    prefill = _least_prefill_seconds(worker, lengths)
    tokens = max(lengths.osl - 1, 0)
    return _most(grid, step * tokens + grid * prefill, targets, tokens)


def most_decode_rate(
    worker: WorkerType, lengths: Lengths, targets: Targets, steps: tuple[Array, Array] | None = None
) -> float:
    """The same for decoding alone, in a cache twice as large: more than sequences of mixed ages ever hold at their mean
    context."""
    grid, step = steps or bound_steps(worker, lengths)
    held = lengths.isl + (lengths.osl if worker.schedule.reserve_output else lengths.osl / 2)
    fitting = grid * held <= 2 * worker.schedule.cache_tokens
    tokens = max(lengths.osl - 1, 1)
    return _most(grid[fitting], step[fitting] * tokens, targets, tokens)


def most_prefill_rate(worker: WorkerType, lengths: Lengths) -> float:
    """The same for prefill alone."""
    return 1 / _least_prefill_seconds(worker, lengths)


def bound_grid(rows: WorkerType | Stack, most: float = 65536, points: int = BOUND_POINTS) -> Array:
    """Mean numbers of requests in hand, so dense that bounds between them, which hold at none lower, stay near."""
    schedule = rows.schedule
    top = np.maximum(2.0, np.minimum(np.minimum(schedule.max_sequences, schedule.cache_tokens), most))
    return spaced(float(top), points) if top.ndim == 0 else rows_of_spaced(top, points)


def rates_between(grid: Array, seconds: Array) -> Array:
    """More than n / seconds reaches from every point of a grid up to the next, where seconds rise with n."""
    following = np.concatenate([grid[..., 1:], grid[..., -1:]], axis=-1)
    return np.asarray(following / seconds)


def bound_steps(rows: WorkerType | Stack, lengths: Lengths) -> tuple[Array, Array]:
    """The bound's grid and the seconds a token takes at each of its points."""
    grid = bound_grid(rows)
    return grid, rows.cost.decode_seconds(grid, lengths.context) / rows.cost.tokens_per_step


def _least_prefill_seconds(worker: WorkerType, lengths: Lengths) -> float:
    """Less than any prompt adds to the steps of an engine that fills its budgets: beside a decode, which hides part of
    it, and even over the attention groups, as one prompt in each of them or as budgets that pieces of prompts fill."""
    key = ("least", worker.schedule, lengths)
    if key not in worker.cost.known:
        worker.cost.known[key] = float(_least_seconds(worker, lengths)[0])
    return worker.cost.known[key]


def _least_seconds(rows: WorkerType | Stack, lengths: Lengths) -> Array:
    cost, budget = rows.cost, np.asarray(rows.schedule.token_budget, dtype=float)
    tokens = max(lengths.isl - lengths.cached, 1.0)
    groups = np.atleast_1d(np.asarray(cost.groups, dtype=float))
    pieces = np.concatenate([np.ones_like(groups), groups, np.maximum(groups, budget / tokens)], axis=-1)
    full = cost.linear_seconds(1.0, budget, pieces) - cost.linear_seconds(1.0, 0.0, 0.0)
    pairs = tokens * (lengths.cached + tokens / 2)
    filled = full.min(axis=-1, keepdims=True) * tokens / budget + cost.pair_seconds(tokens, pairs) / groups
    beside_one = prefill_seconds(cost, rows.schedule, lengths, 1.0) / groups
    least: Array = np.minimum(filled, beside_one)
    return least


def _most(grid: Array, turn: Array, targets: Targets, tokens: float) -> float:
    """The rate that turns of n requests, `tokens` steps each, never exceed while the TPOT target holds.

    A request whose progress falls on turns of n requests takes the share turn / n of the worker's time for as much of
    it, and its TPOT is the mean turn over `tokens`. Requests within the target, a share p of all, so take at least the
    lower convex hull of turn / n over turn at the limit (`hull_below`), the others the least of turn / n; the rate is
    the reciprocal of what a request takes on average. That holds however latencies are spread, at any percentile p.
    """
    limit = targets.limits().get("tpot", np.inf) * tokens * (1 + 1e-9)
    if not turn.size or (tokens and turn[0] > limit):
        return 0.0
    least = 1 / rates_between(grid, turn)
    if not tokens or turn[-1] <= limit:
        return float(1 / least.min())
    share = targets.percentile / 100
    return float(1 / (share * hull_below(turn, least, limit) + (1 - share) * least.min()))


def hull_below(place: Array, height: Array, at: float) -> float:
    """The lower convex hull of points at a place between the first and the last of them, where it falls (else its end).

    A line through a point on either side is lowered onto the points below it until there are none.
    """
    left, right = 0, len(place) - 1
    while True:
        slope = min(float((height[right] - height[left]) / max(place[right] - place[left], 1e-300)), 0.0)
        above = height - slope * (place - at)
        lowest = int(above.argmin())
        line = float(height[left] - slope * (place[left] - at))
        if above[lowest] >= line * (1 - 1e-9) or slope == 0.0:
            return float(above[lowest])
        left, right = (lowest, right) if place[lowest] <= at else (left, lowest)
