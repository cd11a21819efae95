"""Prefill and decode pools, on one GPU type or two, as replicas of their own (Splitwise, Patel et al. 2024).

A split replica of a prefill and b decode workers carries min(a P, b D, L) of a class: P what one prefill worker carries
within TTFT, the caches' way to the decode pool counted (layer by layer, while later layers are computed), D what one
decode worker carries within TPOT, L what the links between the pools pass. Where classes share it, its load is the
larger of both pools' at every class, so that what is counted on is never more than both pools hold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from shardwright.models.quantities import kv_bytes_per_token
from shardwright.solvers.binpacking.problem import Floats

from ..plan.fleet import CacheTransfer, ReplicaPool
from ..serving.deployments import Link
from ..serving.pools import Phase
from ..serving.replica import Bucket, replica_rates
from ..workload.fleet import ServedModel
from ..workload.serving_layout import Layout, quantization
from .candidates import Candidate
from .columns import SURE, Columns, serving_job
from .machines import machine_topology
from .network import uplink
from .offers import prices_of

MOST_WORKERS = 4
MOST_KEPT = 24
ROUNDS = 4
RATIOS = tuple(
    (few, many) for few, many in itertools.product(range(1, MOST_WORKERS + 1), repeat=2) if math.gcd(few, many) == 1
)
PLACED = "prefill and decode pools are rented in one region and tier"
_PHASES: tuple[Phase, ...] = ("prefill", "decode")

ValueOf = Callable[[list[Candidate]], tuple[float, float, int]]


@dataclass(frozen=True, slots=True)
class _Worker:
    """A layout on a GPU type as one worker of a phase, and what all its GPUs send or take."""

    gpu: str
    format: str
    degrees: Layout
    link: Link


@dataclass(frozen=True, slots=True)
class _Split:
    """A prefill and b decode workers of a model."""

    served: ServedModel
    workers: tuple[_Worker, _Worker]
    counts: tuple[int, int]
    transfer: CacheTransfer
    rates: Floats


@dataclass
class _Space:
    """Every split replica of the layouts that whole replicas have, and what its units cost and are worth."""

    columns: Columns
    splits: list[_Split] = field(default_factory=list)
    known: dict[tuple[object, ...], Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        units = []
        prices: dict[tuple[tuple[str, int], ...], list[tuple[float, float]]] = {}
        for split in self._all():
            gpus = _gpus(split)
            if gpus not in prices:
                prices[gpus] = [(unit.cost, unit.capacity) for unit in prices_of(self.columns.job, gpus)]
            if split.rates.any() and prices[gpus]:
                self.splits.append(split)
                units.append(prices[gpus])
        most = max(map(len, units), default=1)
        padded = [each + [(math.inf, 0.0)] * (most - len(each)) for each in units]
        table = np.array(padded, dtype=float).reshape(len(units), most, 2)
        self.rents, self.worths = table[:, :, 0], table[:, :, 1]
        self.rates = np.array([split.rates for split in self.splits]).reshape(len(units), len(self.columns.classes))

    def _all(self) -> list[_Split]:
        found = []
        for served in self.columns.job.models:
            layouts = [
                self._worker(each)
                for each in self.columns.made
                if each.model == served.model and len(each.pools) == 1 and each.pools[0].degrees is not None
            ]
            for first, second in itertools.product(layouts, repeat=2):
                if first.format == second.format:
                    found += self._ratios(served, first, second)
        return found

    def _worker(self, candidate: Candidate) -> _Worker:
        (pool,) = candidate.pools
        assert pool.degrees is not None
        link, note = uplink(self.columns.job, pool.gpu)
        if note not in self.columns.notes:
            self.columns.notes.append(note)
        whole = Link(link.bytes_per_s * pool.gpus, link.latency_s)
        return _Worker(pool.gpu, candidate.format, pool.degrees, whole)

    def _ratios(self, served: ServedModel, first: _Worker, second: _Worker) -> list[_Split]:
        size = kv_bytes_per_token(self.columns.models[served.model], dtype_bytes=quantization(first.format).cache_bytes)
        prompts = np.array([each.isl or 1 for each in self.columns.classes])
        between = Link(
            min(first.link.bytes_per_s, second.link.bytes_per_s), max(first.link.latency_s, second.link.latency_s)
        )
        prefill = self._rates(served, first, "prefill", between)
        decode = self._rates(served, second, "decode", None)
        found = []
        for few, many in RATIOS:
            passed = min(few * first.link.bytes_per_s, many * second.link.bytes_per_s)
            sent = passed / (size * prompts) if size else np.full(len(prompts), np.inf)
            rates = np.minimum(np.minimum(few * prefill, many * decode), sent)
            transfer = CacheTransfer(bytes_per_token=size, bytes_per_s=passed)
            found.append(_Split(served, (first, second), (few, many), transfer, rates))
        return found

    def _rates(self, served: ServedModel, worker: _Worker, phase: Phase, link: Link | None) -> Floats:
        key = (served.model, worker.gpu, worker.format, worker.degrees, phase, link)
        if key not in self.known:
            self.known[key] = _phase_rates(self.columns, served, worker, (phase, link))
        return self.known[key]

    def cheapest(self, prices: Floats) -> set[int]:
        """The splits that serve some class at less than its price, the cheapest for each; then none does."""
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(self.worths > 0, self.rents / self.worths, np.inf).min(1, initial=np.inf)
            costs = np.where(self.rates > 0, each[:, None] / self.rates, np.inf)
        if not len(costs):
            return set()
        best = costs.argmin(0)
        return {int(at) for at, price, cost in zip(best, prices, costs.min(0), strict=True) if cost < price}

    def added(self, prices: Floats) -> Floats:
        """The least that one unit of each adds to the bound at given prices of the classes (see columns)."""
        finite = np.where(np.isfinite(prices), prices, 0.0)
        worth = (self.rates * finite).max(1, initial=0.0)
        least: Floats = np.maximum((self.rents - self.worths * worth[:, None]).min(1, initial=np.inf), 0.0)
        return least


def split_candidates(columns: Columns, value_of: ValueOf) -> tuple[list[Candidate], float | None, str]:
    """The split replicas that can be part of a better fleet, the best value of a fleet with one left out, and a note.

    Those are left out that the bound proves to be in no better fleet; of the others at most MOST_KEPT a round, the most
    promising first. The value (a cost, or a multiple of the rates under a budget) is None where every one left out is
    proven useless.
    """
    space = _Space(columns)
    whole = list(columns.made)
    chosen = space.cheapest(columns.prices())
    outside = None
    for number in range(ROUNDS + 1):
        kept = [_candidate(space.splits[at]) for at in sorted(chosen)]
        columns.made = whole + kept
        value, multiples, hours = value_of(columns.made)
        prices = columns.prices()
        rates = np.array([each.rate_per_s for each in columns.classes])
        bound = float(rates @ prices)
        added = space.added(prices)
        able = bound * multiples + added < value * hours * (1 - SURE)
        able[sorted(chosen)] = False
        left = sorted(np.flatnonzero(able).tolist(), key=lambda at: (added[at], at))
        if not left:
            break
        if number == ROUNDS:
            outside = (bound * multiples + float(added[left[0]])) / hours
            if columns.job.objective == "throughput":
                outside = (value - float(added[left[0]])) / bound
            break
        chosen |= set(left[:MOST_KEPT])
    columns.made = whole
    rest = (
        "the others can be part of no better fleet" if outside is None else "the bound is that of a fleet with others"
    )
    return (
        kept,
        outside,
        (
            f"{len(kept)} of {len(space.splits)} split replicas of up to {MOST_WORKERS} workers a phase, of layouts "
            f"looked into, are planned with: by the cost model's means {rest}"
        ),
    )


def _phase_rates(
    columns: Columns, served: ServedModel, worker: _Worker, way: tuple[Phase, Link | None], exact: bool = False
) -> Floats:
    """What one worker of a phase carries of every class of a model."""
    phase, link = way
    mine = [at for at, each in enumerate(columns.classes) if each.model == served.model]
    buckets = [Bucket(columns.classes[at].isl or 1, columns.classes[at].osl or 1, link) for at in mine]
    topology, _ = machine_topology(worker.gpu)
    job = serving_job(served, worker.format, columns.job.seed)
    rates = np.zeros(len(columns.classes))
    graph = columns.models[served.model]
    rates[mine] = replica_rates(graph, topology, worker.degrees, buckets, job, phase=phase, exact=exact)
    return rates


def simulated_split(columns: Columns, served: ServedModel, candidate: Candidate) -> Candidate:
    """The replica with both pools' throughputs from simulation, each phase's target at its percentile."""
    assert candidate.transfer is not None
    workers = []
    for pool in candidate.pools:
        assert pool.degrees is not None
        link, _ = uplink(columns.job, pool.gpu)
        whole = Link(link.bytes_per_s * pool.degrees.devices, link.latency_s)
        workers.append(_Worker(pool.gpu, candidate.format, pool.degrees, whole))
    between = Link(min(each.link.bytes_per_s for each in workers), max(each.link.latency_s for each in workers))
    sizes = np.array([candidate.transfer.bytes_per_token * (each.isl or 1) for each in columns.classes])
    rates = np.where(sizes > 0, candidate.transfer.bytes_per_s / np.maximum(sizes, 1e-300), np.inf)
    for pool, worker in zip(candidate.pools, workers, strict=True):
        way = (pool.phase, between if pool.phase == "prefill" else None)
        rates = np.minimum(rates, pool.workers * _phase_rates(columns, served, worker, way, exact=True))
    return replace(candidate, rates=rates, source="simulation")


def _gpus(split: _Split) -> tuple[tuple[str, int], ...]:
    pairs = zip(split.workers, split.counts, strict=True)
    return tuple((worker.gpu, worker.degrees.devices * count) for worker, count in pairs)


def _candidate(split: _Split) -> Candidate:
    parts = zip(_PHASES, split.workers, split.counts, strict=True)
    pools = tuple(
        ReplicaPool(phase=phase, gpu=each.gpu, gpus=each.degrees.devices * count, workers=count, degrees=each.degrees)
        for phase, each, count in parts
    )
    names = [f"{pool.workers} × {pool.degrees.label() if pool.degrees else ''} on {pool.gpu}" for pool in pools]
    format_ = split.workers[0].format
    label = f"prefill {names[0]}, decode {names[1]}" + (f" {format_}" if format_ != "bf16" else "")
    return Candidate(
        split.served.model, pools, label, split.rates, "cost model", format_, split.served.engine, split.transfer
    )
