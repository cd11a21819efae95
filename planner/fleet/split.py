"""Prefill and decode pools, on one GPU type or two, as replicas of their own (Splitwise, Patel et al. 2024).

A split replica of a prefill and b decode workers carries min(a P, b D, L) of a class: P what one prefill worker carries
within TTFT, the caches' way to the decode pool counted (layer by layer, while later layers are computed), D what one
decode worker carries within TPOT, L what the links between the pools pass. Where classes share it, its load is the
larger of both pools' at every class, so that what is counted on is never more than both pools hold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from shardwright.models.quantities import kv_bytes_per_token
from shardwright.solvers.binpacking.problem import Floats

from ..plan.fleet import CacheTransfer, ReplicaPool
from ..serving.deployments import Link
from ..serving.pools import Phase
from ..workload.fleet import ServedModel
from ..workload.serving_layout import Layout, quantization
from .candidates import Candidate
from .columns import Columns, Known, ValueOf
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


@dataclass(frozen=True, slots=True)
class _Worker:
    """A layout on a GPU type as one worker of a phase, and what all its GPUs send or take."""

    gpu: str
    format: str
    degrees: Layout
    link: Link

    @property
    def key(self) -> tuple[str, str, Layout]:
        """What the columns know it by."""
        return self.gpu, self.format, self.degrees


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
    """The split replicas of the layouts that whole replicas have that may be in a better fleet, and what their units
    cost and are worth; `count` is how many there are in all.

    `known` is the value of a fleet of whole replicas, with the multiples of the rates and the hours behind it. Caches
    left out, a split replica carries at most min(a P, b D) for at least its GPUs' lowest prices; what the bound at
    those figures keeps out of every fleet better than the known one is not looked into.
    """

    columns: Columns
    known: Known
    splits: list[_Split] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        units = []
        prices: dict[tuple[tuple[str, int], ...], list[tuple[float, float]]] = {}
        for split in self._promising():
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

    def _promising(self) -> list[_Split]:
        """The splits that the bound leaves in, caches counted."""
        sides = [_Side.of(self.columns, served) for served in self.columns.job.models]
        self.count = sum(side.pairs * len(RATIOS) for side in sides)
        prices = self.columns.prices()
        for side in sides:
            for _, rates, rents in side.rows():
                with np.errstate(divide="ignore", invalid="ignore"):
                    costs = np.where(rates > 0, rents[..., None] / rates, np.inf)
                prices = np.minimum(prices, costs.reshape(-1, len(prices)).min(0, initial=np.inf))
        bound = float(self.columns.rates @ prices)
        found = []
        for side in sides:
            kept: list[tuple[int, int, int]] = []
            for first, rates, rents in side.rows():
                added = np.maximum(rents - (rates * np.where(np.isfinite(prices), prices, 0.0)).max(-1), 0.0)
                able = self.known.beaten(bound, added) & rates.any(-1)
                kept += [(first, int(second), int(ratio)) for second, ratio in np.argwhere(able)]
            found += side.exact(self.columns, kept)
        return found

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


@dataclass(frozen=True)
class _Side:
    """Workers of a model, what each carries in either phase with its caches left out, and its GPUs' lowest cost."""

    served: ServedModel
    workers: list[_Worker]
    prefill: Floats
    decode: Floats
    least: Floats

    @classmethod
    def of(cls, columns: Columns, served: ServedModel) -> _Side:
        """The layouts that whole replicas of the model have."""
        workers = [
            _worker(columns, each)
            for each in columns.made
            if each.model == served.model and len(each.pools) == 1 and each.pools[0].degrees is not None
        ]
        shape = (len(workers), len(columns.classes))
        free = [
            np.array([columns.phase_rates(served, each.key, phase)[0] for each in workers]).reshape(shape)
            for phase in _PHASES
        ]
        least = [
            min((unit.cost / unit.gpus for unit in prices_of(columns.job, ((each.gpu, 1),))), default=math.inf)
            * each.degrees.devices
            for each in workers
        ]
        return cls(served, workers, free[0], free[1], np.array(least))

    @property
    def pairs(self) -> int:
        """Pairs of workers in one number format."""
        formats = [each.format for each in self.workers]
        return sum(formats.count(each) for each in formats)

    def rows(self) -> Iterator[tuple[int, Floats, Floats]]:
        """For every prefill worker: its place, most rates [decode worker, ratio, class] of pairs, and least rents."""
        few, many = (np.array(each, dtype=float) for each in zip(*RATIOS, strict=True))
        formats = np.array([each.format for each in self.workers])
        for first, worker in enumerate(self.workers):
            same = (formats == worker.format)[:, None, None]
            rates = np.minimum(few[:, None] * self.prefill[first], many[:, None] * self.decode[:, None, :])
            yield first, np.where(same, rates, 0.0), few * self.least[first] + many * self.least[:, None]

    def exact(self, columns: Columns, kept: list[tuple[int, int, int]]) -> list[_Split]:
        """Splits (prefill worker, decode worker, ratio) with the caches' way between their pools."""
        if not kept:
            return []
        ways: dict[int, list[Link]] = {}
        for first, second, _ in kept:
            link = _between(self.workers[first], self.workers[second])
            if link not in ways.setdefault(first, []):
                ways[first].append(link)
        handing = {
            first: dict(
                zip(links, columns.phase_rates(self.served, self.workers[first].key, "prefill", links), strict=True)
            )
            for first, links in ways.items()
        }
        found = []
        for first, second, ratio in kept:
            workers = self.workers[first], self.workers[second]
            few, many = RATIOS[ratio]
            size = kv_bytes_per_token(
                columns.models[self.served.model], dtype_bytes=quantization(workers[0].format).cache_bytes
            )
            passed = min(few * workers[0].link.bytes_per_s, many * workers[1].link.bytes_per_s)
            sent = np.array([size * (each.isl or 1) for each in columns.classes])
            prefill = few * handing[first][_between(*workers)]
            rates = np.minimum(np.minimum(prefill, many * self.decode[second]), passed / np.maximum(sent, 1e-300))
            transfer = CacheTransfer(bytes_per_token=size, bytes_per_s=passed)
            found.append(_Split(self.served, workers, RATIOS[ratio], transfer, rates))
        return found


def _worker(columns: Columns, candidate: Candidate) -> _Worker:
    (pool,) = candidate.pools
    assert pool.degrees is not None
    link, note = uplink(columns.job, pool.gpu)
    if note not in columns.notes:
        columns.notes.append(note)
    return _Worker(pool.gpu, candidate.format, pool.degrees, Link(link.bytes_per_s * pool.gpus, link.latency_s))


def _between(first: _Worker, second: _Worker) -> Link:
    """What joins one worker of each pool."""
    return Link(min(first.link.bytes_per_s, second.link.bytes_per_s), max(first.link.latency_s, second.link.latency_s))


def split_candidates(columns: Columns, value_of: ValueOf) -> tuple[list[Candidate], float | None, str]:
    """The split replicas that can be part of a better fleet, the best value of a fleet with one left out, and a note.

    Those are left out that the bound proves to be in no better fleet; of the others at most MOST_KEPT a round, the most
    promising first. The value (a cost, or a multiple of the rates under a budget) is None where every one left out is
    proven useless.
    """
    whole = list(columns.made)
    space = _Space(columns, value_of(whole))
    chosen = space.cheapest(columns.prices())
    outside = None
    for number in range(ROUNDS + 1):
        kept = [_candidate(space.splits[at]) for at in sorted(chosen)]
        columns.made = whole + kept
        known = value_of(columns.made)
        bound, added = float(columns.rates @ columns.prices()), space.added(columns.prices())
        able = known.beaten(bound, added)
        able[sorted(chosen)] = False
        left = sorted(np.flatnonzero(able).tolist(), key=lambda at: (added[at], at))
        if not left:
            break
        if number == ROUNDS:
            outside = (bound * known.multiples + float(added[left[0]])) / known.hours
            if columns.job.objective == "throughput":
                outside = (known.value - float(added[left[0]])) / bound
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
            f"{len(kept)} of {space.count} split replicas of up to {MOST_WORKERS} workers a phase, of layouts "
            f"looked into, are planned with: by the cost model's means {rest}"
        ),
    )


def simulated_split(columns: Columns, served: ServedModel, candidate: Candidate) -> Candidate:
    """The replica with both pools' throughputs from simulation, each phase's target at its percentile."""
    assert candidate.transfer is not None
    workers = []
    for pool in candidate.pools:
        assert pool.degrees is not None
        link, _ = uplink(columns.job, pool.gpu)
        whole = Link(link.bytes_per_s * pool.degrees.devices, link.latency_s)
        workers.append(_Worker(pool.gpu, candidate.format, pool.degrees, whole))
    sizes = np.array([candidate.transfer.bytes_per_token * (each.isl or 1) for each in columns.classes])
    rates = candidate.transfer.bytes_per_s / np.maximum(sizes, 1e-300)
    for pool, worker in zip(candidate.pools, workers, strict=True):
        way = _between(*workers) if pool.phase == "prefill" else None
        alone = columns.phase_rates(served, worker.key, pool.phase, (way,), exact=True)
        rates = np.minimum(rates, pool.workers * alone[0])
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
