"""One replica that could be rented, before it has a price: what it carries of every request class."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shardwright.solvers.binpacking.problem import Floats

from ..errors import InputError
from ..inputs import catalog_gpu
from ..plan.fleet import CacheTransfer, ReplicaPool, RequestClass
from ..workload.clocks import at_clock, clocked
from ..workload.fleet import FleetJob


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica of a model: one pool, or a prefill and a decode pool; `rates` by request class of the job.

    `pool_rates` are those of each of two pools alone, the way between them counted in the first.
    """

    model: str
    pools: tuple[ReplicaPool, ...]
    layout: str
    rates: Floats
    source: str
    format: str = ""
    engine: str = ""
    transfer: CacheTransfer | None = None
    pool_rates: tuple[Floats, ...] = ()

    def carrying(self, shares: Sequence[float]) -> Candidate:
        """The same replica where every pool carries a share of what it does."""
        parts = self.pool_rates or (self.rates,)
        lowered = [rates * share for rates, share in zip(parts, shares, strict=True)]
        return replace(self, rates=functools.reduce(np.minimum, lowered))

    @property
    def gpus(self) -> tuple[tuple[str, int], ...]:
        """The GPU type and the number of GPUs of every pool."""
        return tuple((pool.gpu, pool.gpus) for pool in self.pools)


@functools.lru_cache(maxsize=1024)
def canonical(gpu: str) -> str:
    """The catalog's name of a GPU type, or the name as given where the catalog does not know it.

    A clock behind @ stays, and so does a second type behind +.
    """
    named = []
    for part in gpu.split("+"):
        name, clock = at_clock(part)
        named.append(clocked(catalog_gpu(name)[0], clock))
    return "+".join(named)


def offered_types(job: FleetJob) -> tuple[str, ...]:
    """The GPU types offered, and behind each its lower clocks where power is capped or minimized."""
    slower = bool(job.power) or job.objective == "energy"
    found: dict[str, None] = {}
    for offer in job.offers:
        name = canonical(offer.gpu)
        found[name] = None
        for each in offer.clocks if slower else ():
            found[clocked(name, each.share)] = None
    return tuple(found)


def request_classes(job: FleetJob) -> tuple[RequestClass, ...]:
    """One class per model and length; weights share out the model's rate."""
    several = len(job.models) > 1
    return tuple(
        RequestClass(
            name=f"{served.model + ': ' if several else ''}{each.isl} in, {each.osl} out",
            model=served.model,
            rate_per_s=served.rate_per_s * each.weight / sum(other.weight for other in served.lengths),
            isl=each.isl,
            osl=each.osl,
        )
        for served in job.models
        for each in served.lengths
    )


def measured_candidates(job: FleetJob, classes: tuple[RequestClass, ...]) -> list[Candidate]:
    """The replicas of the job's own tables."""
    found = []
    for table in job.tables:
        rates = np.zeros(len(classes))
        rates[[each.model == table.model for each in classes]] = table.requests_per_s
        gpu = clocked(canonical(table.gpu), table.clock)
        pool = ReplicaPool(phase="aggregated", gpu=gpu, gpus=table.gpus)
        found.append(Candidate(table.model, (pool,), table.layout, rates, "measured table"))
    offered = {canonical(offer.gpu) for offer in job.offers}
    for table in job.tables:
        if canonical(table.gpu) not in offered:
            raise InputError(f"tables: {table.gpu} is none of the offers ({', '.join(sorted(offered))})")
    return found


def covered_by_tables(job: FleetJob) -> set[tuple[str, str]]:
    """The (model, GPU type) pairs that tables answer for, at every clock."""
    gpus = offered_types(job)
    known = {(table.model, canonical(table.gpu)) for table in job.tables}
    return {(model, gpu) for model, name in known for gpu in {name, *gpus} if at_clock(gpu)[0] == name}
