"""Every split replica of a job, caches left out, and those of them that may be in a better fleet.

A split replica of a prefill and b decode workers carries min(a P, b D, L) of a class: P what one prefill worker
carries within TTFT, waiting at its percentile (see waiting) and the caches' way to the decode pool counted (layer by
layer, while later layers are computed), D what one decode worker carries within TPOT, L what the links between the
pools pass. Caches left out, it carries at most min(a P, b D) for at least its GPUs' lowest prices, all pairs and
ratios as arrays; the closed relaxation at those figures (see columns) says which of them are worth the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shardwright.models.quantities import kv_bytes_per_token
from shardwright.solvers.binpacking.narrowing import earned
from shardwright.solvers.binpacking.problem import Floats

from ..plan.fleet import CacheTransfer
from ..serving.deployments import Link
from ..serving.pools import Phase
from ..workload.fleet import ServedModel
from ..workload.serving import Targets
from ..workload.serving_layout import Layout, quantization
from .columns import Columns, Known
from .network import uplink
from .offers import prices_of
from .waiting import FULLEST, fullest

MOST_WORKERS = 4
RATIOS = tuple(
    (few, many) for few, many in itertools.product(range(1, MOST_WORKERS + 1), repeat=2) if math.gcd(few, many) == 1
)
FEW, MANY = (np.array(each, dtype=float) for each in zip(*RATIOS, strict=True))


@dataclass(frozen=True, slots=True)
class Worker:
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
class Split:
    """A prefill and b decode workers of a model, and what either pool carries of every class."""

    served: ServedModel
    workers: tuple[Worker, Worker]
    counts: tuple[int, int]
    transfer: CacheTransfer
    pool_rates: tuple[Floats, Floats]

    @property
    def rates(self) -> Floats:
        """What both pools carry."""
        return np.minimum(*self.pool_rates)

    @property
    def gpus(self) -> tuple[tuple[str, int], ...]:
        """The GPU type and the number of GPUs of either pool."""
        pairs = zip(self.workers, self.counts, strict=True)
        return tuple((worker.gpu, worker.degrees.devices * count) for worker, count in pairs)


def worker_of(columns: Columns, gpu: str, format_: str, degrees: Layout) -> Worker:
    """The worker; where its link is from is noted."""
    link, note = uplink(columns.job, gpu)
    if note not in columns.notes:
        columns.notes.append(note)
    return Worker(gpu, format_, degrees, Link(link.bytes_per_s * degrees.devices, link.latency_s))


def between(first: Worker, second: Worker) -> Link:
    """What joins one worker of each pool."""
    return Link(min(first.link.bytes_per_s, second.link.bytes_per_s), max(first.link.latency_s, second.link.latency_s))


@dataclass(frozen=True, slots=True)
class _Pool:
    """Workers of one phase, what each carries of every class with its caches left out, and its GPUs' lowest cost."""

    workers: list[Worker]
    rates: Floats
    least: Floats

    def part(self, kept: NDArray[np.bool_]) -> _Pool:
        """Some of the workers."""
        chosen = np.flatnonzero(kept)
        return _Pool([self.workers[at] for at in chosen], self.rates[chosen], self.least[chosen])

    def undominated(self) -> NDArray[np.bool_]:
        """Where no other worker on as many of the same GPUs carries as much of every class; of equals the first."""
        kept: NDArray[np.bool_] = np.asarray(self.rates.any(1))
        seats: dict[tuple[str, int], list[int]] = {}
        for at, worker in enumerate(self.workers):
            if kept[at]:
                seats.setdefault((worker.gpu, worker.degrees.devices), []).append(at)
        for same in seats.values():
            kept[same] = _undominated(self.rates[same])
        return kept


@dataclass(frozen=True, slots=True)
class Side:
    """The prefill and decode workers of a model in one number format."""

    served: ServedModel
    format: str
    prefill: _Pool
    decode: _Pool
    count: int

    @classmethod
    def of(cls, columns: Columns, served: ServedModel, format_: str) -> Side:
        """Every layout; decode workers that another on the same GPUs replaces are left out."""
        workers = [
            worker_of(columns, gpu, format_, layout)
            for (model, gpu, name), copies in columns.copies.items()
            if model == served and name == format_
            for layout in copies.layouts
        ]
        each_gpu = {each.gpu: _cheapest_gpu(columns, each.gpu) for each in workers}
        least = np.array([each_gpu[each.gpu] * each.degrees.devices for each in workers])
        shape = (len(workers), len(columns.classes))
        phases: tuple[Phase, ...] = ("prefill", "decode")
        prefill, decode = (
            _Pool(
                workers,
                np.array([columns.phase_rates(served, each.key, phase)[0] for each in workers]).reshape(shape),
                least,
            )
            for phase in phases
        )
        prefill = replace(prefill, rates=_unhurried(prefill.rates, served.targets))
        count = len(workers) ** 2 * len(RATIOS)
        return cls(
            served, format_, prefill.part(np.asarray(prefill.rates.any(1))), decode.part(decode.undominated()), count
        )

    def rows(self) -> Iterator[tuple[int, Floats, Floats]]:
        """For every prefill worker: its place, most rates [decode worker, ratio, class] of pairs, and least rents."""
        decode = MANY[:, None] * self.decode.rates[:, None, :]
        for first, rates in enumerate(self.prefill.rates):
            rents = FEW * self.prefill.least[first] + MANY * self.decode.least[:, None]
            yield first, np.minimum(FEW[:, None] * rates, decode), rents

    def exact(self, columns: Columns, kept: list[tuple[int, int, int]]) -> Iterator[Split]:
        """Splits (prefill worker, decode worker, ratio) with the caches' way between their pools."""
        if not kept:
            return
        prefill, decode = self.prefill.workers, self.decode.workers
        ways: dict[int, dict[Link, None]] = {}
        for first, second, _ in kept:
            ways.setdefault(first, {})[between(prefill[first], decode[second])] = None
        handing = {
            (first, link): rates
            for first, links in ways.items()
            for link, rates in zip(
                links, columns.phase_rates(self.served, prefill[first].key, "prefill", tuple(links)), strict=True
            )
        }
        numbers = quantization(self.format)
        size = kv_bytes_per_token(columns.models[self.served.model], dtype_bytes=numbers.cache_bytes)
        isl = np.array([each.isl or 1 for each in columns.classes])
        for first, second, ratio in kept:
            workers = prefill[first], decode[second]
            few, many = RATIOS[ratio]
            passed = min(few * workers[0].link.bytes_per_s, many * workers[1].link.bytes_per_s)
            handed = np.minimum(handing[first, between(*workers)], self.prefill.rates[first])
            handed = np.minimum(few * handed, passed / np.maximum(size * isl, 1e-300))
            transfer = CacheTransfer(bytes_per_token=size, bytes_per_s=passed)
            split = Split(self.served, workers, RATIOS[ratio], transfer, (handed, many * self.decode.rates[second]))
            if split.rates.any():
                yield split


class Space:
    """The split replicas of every layout; `count` is how many there are, `prices` what a request of every class costs
    at least, on the whole replicas made or on any of these."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.sides = [Side.of(columns, served, format_) for served in columns.job.models for format_ in served.formats]
        self.count = sum(side.count for side in self.sides)
        prices = columns.prices()
        for side in self.sides:
            for _, rates, rents in side.rows():
                with np.errstate(divide="ignore"):
                    costs = rents[..., None] / rates
                prices = np.minimum(prices, costs.reshape(-1, len(prices)).min(0, initial=np.inf))
        self.prices = prices

    def promising(self, known: Known) -> list[Split]:
        """Those that the bound leaves in, caches counted; of equal GPUs only what no other replaces."""
        bound = float(self.columns.rates @ self.prices)
        demand = self.columns.rates * known.most
        found: dict[tuple[object, ...], list[Split]] = {}
        for side in self.sides:
            kept: list[tuple[int, int, int]] = []
            for first, rates, rents in side.rows():
                able = np.argwhere(known.beaten(bound, rents - (rates * self.prices).max(-1)) & rates.any(-1))
                second, ratio = able.T
                added = rents[second, ratio] - earned(rates[second, ratio], demand, self.prices)
                kept += [(first, *pair) for pair in able[known.beaten(bound, added)].tolist()]
            for split in side.exact(self.columns, kept):
                found.setdefault((split.served.model, split.gpus), []).append(split)
        return [
            each
            for same in found.values()
            for each, alive in zip(same, _undominated(np.array([split.rates for split in same])), strict=True)
            if alive
        ]


class Splits:
    """Split replicas as columns of the program: what their units cost, are worth and carry."""

    def __init__(self, columns: Columns, splits: list[Split]) -> None:
        prices: dict[tuple[tuple[str, int], ...], list[tuple[float, float]]] = {}
        for split in splits:
            if split.gpus not in prices:
                prices[split.gpus] = [(unit.cost, unit.capacity) for unit in prices_of(columns.job, split.gpus)]
        self.columns = columns
        self.splits = [split for split in splits if prices[split.gpus]]
        units = [prices[split.gpus] for split in self.splits]
        most = max(map(len, units), default=1)
        padded = [each + [(math.inf, 0.0)] * (most - len(each)) for each in units]
        table = np.array(padded, dtype=float).reshape(len(units), most, 2)
        self.rents, self.worths = table[:, :, 0], table[:, :, 1]
        self.rates = np.array([split.rates for split in self.splits]).reshape(len(units), len(columns.classes))

    def prices(self) -> Floats:
        """What a request of every class costs on the cheapest of these or of the replicas made."""
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(self.worths > 0, self.rents / self.worths, np.inf).min(1, initial=np.inf)
            costs = np.where(self.rates > 0, each[:, None] / self.rates, np.inf)
        least: Floats = np.minimum(self.columns.prices(), costs.min(0, initial=np.inf))
        return least

    def alone(self) -> Floats:
        """What as many whole units of each cost as hold all requests of its model; infinite where it cannot."""
        mine = np.array([[each.model == split.served.model for each in self.columns.classes] for split in self.splits])
        with np.errstate(divide="ignore", invalid="ignore"):
            load = np.where(mine, self.columns.rates / self.rates, 0.0).sum(1)
            units = np.ceil(np.where(self.worths > 0, load[:, None] / self.worths, np.inf) - 1e-9)
            costs = np.where(np.isfinite(self.rents), self.rents * units, np.inf)
        least: Floats = costs.min(1, initial=np.inf)
        return least

    def added(self, known: Known) -> tuple[float, Floats]:
        """The bound at the prices of these alone, and the least that one unit of each adds to it."""
        prices = self.prices()
        demand = self.columns.rates * known.most
        worth = earned(self.rates[:, None, :], demand, prices, self.worths)
        least: Floats = np.maximum((self.rents - worth).min(1, initial=np.inf), 0.0)
        return float(self.columns.rates @ prices), least

    def better(self, known: Known) -> Splits:
        """Those that may be in a better fleet than the one known, the least addition first.

        Without the others prices are higher, and so is the bound; this goes on until it leaves none out.
        """
        splits = self
        while True:
            bound, added = splits.added(known)
            order = np.argsort(added, kind="stable")
            order = order[known.beaten(bound, added[order])]
            kept = Splits(self.columns, [splits.splits[at] for at in order])
            if len(kept.splits) == len(splits.splits):
                return kept
            splits = kept


def _unhurried(rates: Floats, targets: Targets) -> Floats:
    """What prefill workers carry of every class alone where waiting counts at its percentile; as made they are FULLEST.

    A prompt takes at least as long as its share of a full batch does.
    """
    if targets.ttft_s is None:
        return rates
    with np.errstate(divide="ignore"):
        service = FULLEST / rates
    busy = fullest(service, targets.ttft_s - service, targets.percentile)
    return np.where(rates > 0, np.minimum(busy / service, rates), 0.0)


def _undominated(rates: Floats) -> NDArray[np.bool_]:
    """Rows that no other reaches in every column; of equal rows the first."""
    reached = (rates[None, :, :] >= rates[:, None, :]).all(-1)
    before = np.tri(len(rates), k=-1, dtype=bool)
    replaced = reached & (~reached.T | before)
    return np.asarray(~replaced.any(1))


def _cheapest_gpu(columns: Columns, gpu: str) -> float:
    return min((unit.cost / unit.gpus for unit in prices_of(columns.job, ((gpu, 1),))), default=math.inf)
