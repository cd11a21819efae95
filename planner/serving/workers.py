"""Kinds of worker: a layout on a kind of device, its costs, and what it can carry within latency targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from shardwright.models import ModelGraph

from ..costs.serving.coefficients import Engine, Kernels, host_factor
from ..costs.serving.communication import Fabric
from ..costs.serving.measured import MeasuredOperators
from ..costs.serving.memory import ReplicaMemory, replica_memory
from ..costs.serving.shapes import ReplicaShapes, in_stages, replica_shapes
from ..costs.serving.step import LayerTables, Machine, StepCost, cost_of_shapes, layer_tables
from ..workload.serving import Targets
from ..workload.serving_layout import Layout, Quantization, Speculation
from .schedule import Schedule, StepTable, schedule_of
from .steady import (
    Array,
    Lengths,
    Steady,
    batched_prefill_seconds,
    lone_prefill_seconds,
    open_states,
    spaced,
)


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


def hand_grid(worker: WorkerType) -> np.ndarray:
    """Numbers of requests in hand worth looking at, densest where they are few."""
    top = max(2.0, min(worker.schedule.max_sequences, worker.schedule.cache_tokens, 4096))
    return np.unique(np.rint(spaced(top, 40)))


def most_in_hand(worker: WorkerType, lengths: Lengths) -> float:
    """Requests that the worker decodes together at most, where their ages are mixed."""
    held = lengths.isl + (lengths.osl if worker.schedule.reserve_output else lengths.osl / 2)
    return max(1.0, min(worker.schedule.max_sequences, worker.schedule.cache_tokens / held))


def within(steady: Steady, targets: Targets, osl: float) -> np.ndarray:
    """Where the means meet the targets."""
    good = np.ones(len(steady.concurrency), dtype=bool)
    limits = targets.limits()
    if "ttft" in limits:
        good &= steady.ttft_s <= limits["ttft"]
    if "tpot" in limits and osl > 1:
        good &= steady.tpot_s <= limits["tpot"]
    if "e2e" in limits:
        good &= steady.e2e_s(osl) <= limits["e2e"]
    return good


def expected_rate(worker: WorkerType, lengths: Lengths, targets: Targets) -> float:
    """Requests per second at which the means of the closed form still meet the targets."""
    found, rates = open_states(worker.cost, worker.schedule, lengths)
    good = within(found, targets, lengths.osl) & (found.concurrency <= found.running)
    return float(rates[good].max(initial=0.0))


def decode_rate(worker: WorkerType, lengths: Lengths, targets: Targets) -> float:
    """The same of a worker that only decodes."""
    grid = hand_grid(worker)
    held = lengths.isl + (lengths.osl if worker.schedule.reserve_output else lengths.osl / 2)
    grid = grid[grid * held <= worker.schedule.cache_tokens]
    if not grid.size:
        return 0.0
    step = worker.cost.decode_seconds(grid, lengths.context) / worker.cost.tokens_per_step
    limit = targets.limits().get("tpot", np.inf)
    rates = np.where(step <= limit, grid / (step * max(lengths.osl - 1, 1)), 0.0)
    return float(rates.max(initial=0.0))


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


def bound_grid(worker: WorkerType, most: float = 65536, points: int = 2400) -> Array:
    """Mean numbers of requests in hand, so dense that bounds between them, which hold at none lower, stay near."""
    top = max(2.0, min(worker.schedule.max_sequences, worker.schedule.cache_tokens, most))
    return spaced(top, points)


def rates_between(grid: Array, seconds: Array) -> Array:
    """More than n / seconds reaches from every point of a grid up to the next, where seconds rise with n."""
    return np.append(grid[1:], grid[-1:]) / seconds


def bound_steps(worker: WorkerType, lengths: Lengths) -> tuple[Array, Array]:
    """The bound's grid and the seconds a token takes at each of its points."""
    grid = bound_grid(worker)
    return grid, worker.cost.decode_seconds(grid, lengths.context) / worker.cost.tokens_per_step


def _least_prefill_seconds(worker: WorkerType, lengths: Lengths) -> float:
    """Less than any prompt adds to the steps of an engine that fills its budgets: beside a decode, which hides part of
    it, and even over the attention groups, as one prompt in each of them or as budgets that pieces of prompts fill."""
    key = ("least", worker.schedule, lengths)
    if key not in worker.cost.known:
        worker.cost.known[key] = _least_seconds(worker, lengths)
    return worker.cost.known[key]


def _least_seconds(worker: WorkerType, lengths: Lengths) -> float:
    cost, budget = worker.cost, worker.schedule.token_budget
    tokens = max(lengths.isl - lengths.cached, 1.0)
    pieces = np.array([1.0, cost.groups, max(cost.groups, budget / tokens)])
    full = cost.linear_seconds(np.ones(3), np.full(3, float(budget)), pieces) - cost.linear_seconds(1.0, 0.0, 0.0)
    pairs = tokens * (lengths.cached + tokens / 2)
    filled = float(full.min()) * tokens / budget + float(cost.pair_seconds(tokens, pairs)) / cost.groups
    beside_one = lone_prefill_seconds(cost, worker.schedule, lengths, beside=1) / cost.groups
    return min(filled, beside_one)


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
