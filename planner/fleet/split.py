"""Prefill and decode pools, on one GPU type or two, as replicas of their own (Splitwise, Patel et al. 2024).

A split replica of a prefill and b decode workers carries min(a P, b D) of a class, P and D what one worker of each
carries within TTFT and within TPOT. Where classes share it, its load is the larger of both pools' at every class, so
that what is counted on is never more than both pools hold.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from shardwright.solvers.binpacking.problem import Floats

from ..plan.fleet import ReplicaPool
from ..serving.pools import Phase
from ..serving.replica import Bucket, replica_rates
from ..workload.fleet import ServedModel
from ..workload.serving_layout import Layout
from .candidates import Candidate
from .columns import Columns, serving_job
from .machines import machine_topology
from .offers import units_of

MOST_WORKERS = 4
MOST_KEPT = 24
RATIOS = tuple(
    (few, many) for few, many in itertools.product(range(1, MOST_WORKERS + 1), repeat=2) if math.gcd(few, many) == 1
)
NOTES = (
    "caches reach the decode pool without delay, and prefill and decode pools are rented in one region and tier",
    f"of all split replicas of up to {MOST_WORKERS} workers a phase, the {MOST_KEPT} that spend a dollar best on some "
    "request class are planned with: the proof is of the fleets of these",
)

Worker = tuple[str, str, Layout, Floats]


def split_candidates(columns: Columns) -> list[Candidate]:
    """The split replicas that spend a dollar best on some class, of the layouts that whole replicas have."""
    found: list[tuple[float, Candidate]] = []
    prices = columns.prices()
    for served in columns.job.models:
        pools = {phase: _workers(columns, served, phase) for phase in _PHASES}
        for first, second in itertools.product(pools["prefill"], pools["decode"]):
            if first[1] != second[1]:
                continue
            for few, many in RATIOS:
                rates = np.minimum(few * first[3], many * second[3])
                made = _candidate(served, (first, few), (second, many), rates)
                units = [price for price, _ in units_of(columns.job, made.gpus)]
                if rates.any() and units:
                    worth = max(price.capacity / max(price.usd_per_hour, 1e-12) for price in units)
                    found.append((worth * float((rates * np.where(rates > 0, prices, 0.0)).max()), made))
    found.sort(key=lambda each: (-each[0], each[1].layout))
    return [made for _, made in found[:MOST_KEPT]]


_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def _workers(columns: Columns, served: ServedModel, phase: Phase) -> list[Worker]:
    """GPU type, format, degrees and rates of a worker of one phase, for every layout of a whole replica."""
    mine = [at for at, each in enumerate(columns.classes) if each.model == served.model]
    buckets = [Bucket(columns.classes[at].isl or 1, columns.classes[at].osl or 1) for at in mine]
    found = []
    for candidate in columns.made:
        degrees = candidate.pools[0].degrees
        if candidate.model != served.model or degrees is None or len(candidate.pools) > 1:
            continue
        topology, _ = machine_topology(candidate.gpus[0][0])
        rates = np.zeros(len(columns.classes))
        job = serving_job(served, candidate.format, columns.job.seed)
        rates[mine] = replica_rates(columns.models[served.model], topology, degrees, buckets, job, phase=phase)
        found.append((candidate.gpus[0][0], candidate.format, degrees, rates))
    return found


def simulated_split(columns: Columns, served: ServedModel, candidate: Candidate) -> Candidate:
    """The replica with both pools' throughputs from simulation, each phase's target at its percentile."""
    mine = [at for at, each in enumerate(columns.classes) if each.model == served.model]
    buckets = [Bucket(columns.classes[at].isl or 1, columns.classes[at].osl or 1) for at in mine]
    job = serving_job(served, candidate.format, columns.job.seed)
    rates = np.zeros(len(columns.classes))
    rates[mine] = np.inf
    for pool in candidate.pools:
        assert pool.degrees is not None
        topology, _ = machine_topology(pool.gpu)
        graph = columns.models[served.model]
        lone = replica_rates(graph, topology, pool.degrees, buckets, job, phase=pool.phase, exact=True)
        rates[mine] = np.minimum(rates[mine], pool.workers * lone)
    return replace(candidate, rates=rates, source="simulation")


def _candidate(
    served: ServedModel, prefill: tuple[Worker, int], decode: tuple[Worker, int], rates: Floats
) -> Candidate:
    pools = tuple(
        ReplicaPool(phase=phase, gpu=gpu, gpus=degrees.devices * workers, workers=workers, degrees=degrees)
        for phase, ((gpu, _, degrees, _), workers) in zip(_PHASES, (prefill, decode), strict=True)
    )
    names = [f"{pool.workers} × {pool.degrees.label() if pool.degrees else ''} on {pool.gpu}" for pool in pools]
    format_ = prefill[0][1]
    label = f"prefill {names[0]}, decode {names[1]}" + (f" {format_}" if format_ != "bf16" else "")
    return Candidate(served.model, pools, label, rates, "cost model", format_, served.engine)
