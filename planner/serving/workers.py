"""Kinds of worker: a layout on a kind of device, its costs, and what it can carry within latency targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph

from ..costs.serving.coefficients import Engine, Kernels, host_factor
from ..costs.serving.communication import Fabric
from ..costs.serving.measured import MeasuredOperators
from ..costs.serving.memory import ReplicaMemory, replica_memory
from ..costs.serving.shapes import replica_shapes
from ..costs.serving.step import Machine, StepCost, cost_of_shapes
from ..workload.serving import Targets
from ..workload.serving_layout import Layout, Quantization, Speculation
from .schedule import Schedule, StepTable, schedule_of
from .steady import Array, Lengths, Steady, batched_prefill_seconds, open_states, steady_state


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


def worker_type(setting: Setting, kind: Kind, layout: Layout) -> WorkerType | None:
    """The worker, or None when its weights, workspace and the longest request do not fit its devices."""
    shapes = replica_shapes(setting.model, layout, setting.quantization)
    context = setting.lengths.isl + setting.lengths.osl / 2
    memory = replica_memory(setting.model, shapes, kind.fabric, layout, (setting.quantization, setting.engine, context))
    if memory.cache_tokens / layout.attn_dp < setting.longest:
        return None
    host = host_factor(kind.fabric.accelerator.name)
    machine = Machine(kind.fabric, kind.kernels, setting.engine, host, kind.operators)
    cost = cost_of_shapes(shapes, machine, layout, setting.quantization, setting.speculation)
    return WorkerType(kind, layout, cost, schedule_of(setting.engine, memory.cache_tokens, layout.attn_dp), memory)


def hand_grid(worker: WorkerType) -> np.ndarray:
    """Numbers of requests in hand worth looking at, densest where they are few."""
    top = max(2.0, min(worker.schedule.max_sequences, worker.schedule.cache_tokens, 4096))
    return np.unique(np.rint(np.geomspace(1, top, 40)))


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
    from .steady import prefill_seconds

    lone = float(prefill_seconds(worker.cost, worker.schedule, lengths)) * (1 + worker.cost.fill)
    lone += worker.cost.request_s
    limit = targets.limits().get("ttft", np.inf)
    if lone > limit:
        return 0.0
    return 0.95 / batched_prefill_seconds(worker.cost, worker.schedule, lengths)


def most_rate(worker: WorkerType, lengths: Lengths, targets: Targets) -> float:
    """More requests per second than any schedule of the worker's steps can carry within the targets.

    n requests in hand need n (osl − 1) tokens, which take (osl − 1) steps of n, and n prefills at full budgets. By
    Little's law their mean TPOT is the time of all that over osl − 1, so n stops where it exceeds the target (whose
    percentile is taken to be no faster than the mean).
    """
    grid = bound_grid(worker)
    step = worker.cost.decode_seconds(grid, lengths.context) / worker.cost.tokens_per_step
    prefill = (
        min(
            batched_prefill_seconds(worker.cost, worker.schedule, lengths),
            float(steady_state(worker.cost, worker.schedule, lengths, np.ones(1)).prefill_s[0]),
        )
        / worker.cost.groups
    )
    limit = targets.limits().get("tpot", np.inf)
    tokens = max(lengths.osl - 1, 0)
    turn = step * tokens + grid * prefill
    return _most(grid, turn, (turn <= limit * tokens) | (tokens == 0))


def most_decode_rate(worker: WorkerType, lengths: Lengths, targets: Targets) -> float:
    """The same for decoding alone, in a cache twice as large: more than sequences of mixed ages ever hold at their mean
    context."""
    grid = bound_grid(worker)
    held = lengths.isl + (lengths.osl if worker.schedule.reserve_output else lengths.osl / 2)
    step = worker.cost.decode_seconds(grid, lengths.context) / worker.cost.tokens_per_step
    limit = targets.limits().get("tpot", np.inf)
    within_both = (step <= limit) & (grid * held <= 2 * worker.schedule.cache_tokens)
    return _most(grid, step * max(lengths.osl - 1, 1), within_both)


def most_prefill_rate(worker: WorkerType, lengths: Lengths) -> float:
    """The same for prefill alone."""
    lone = float(steady_state(worker.cost, worker.schedule, lengths, np.ones(1)).prefill_s[0])
    return worker.cost.groups / min(batched_prefill_seconds(worker.cost, worker.schedule, lengths), lone)


def bound_grid(worker: WorkerType, most: float = 65536, points: int = 2400) -> Array:
    """Mean numbers of requests in hand, so dense that bounds between them, which hold at none lower, stay near."""
    top = max(2.0, min(worker.schedule.max_sequences, worker.schedule.cache_tokens, most))
    return np.geomspace(1, top, points)


def rates_between(grid: Array, seconds: Array) -> Array:
    """More than n / seconds reaches from every point of a grid up to the next, where seconds rise with n."""
    return np.append(grid[1:], grid[-1]) / seconds


def _most(grid: Array, seconds: Array, good: NDArray[np.bool_]) -> float:
    return float(np.where(good, rates_between(grid, seconds), 0.0).max(initial=0.0))
