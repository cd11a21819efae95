"""Prefill and decode pools, on one GPU type or two, as replicas of their own (Splitwise, Patel et al. 2024).

Where classes share a split replica, its load is the larger of both pools' at every class, so that what is counted on is
never more than both pools hold. Which replicas there are, split_space says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..plan.fleet import ReplicaPool
from ..serving.pools import Phase
from ..workload.fleet import ServedModel
from .candidates import Candidate
from .columns import Columns, Known, ValueOf
from .split_space import MOST_WORKERS, Space, Split, Splits, between, worker_of

FIRST_KEPT = 24
PLACED = "prefill and decode pools are rented in one region and tier"
_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def split_candidates(columns: Columns, value_of: ValueOf, most: int) -> tuple[list[Candidate], float | None, str]:
    """The split replicas that can be part of a better fleet, the best value of a fleet with one left out, and a note.

    Those are left out that the bound proves to be in no better fleet; of the others at most `most` stay, those that add
    least. The value (a cost, or a multiple of the rates under a budget) is None where every one left out is proven
    useless. Splits make requests cheaper, so that whole replicas may matter that did not; those are made too.
    """
    space = Space(columns)
    known = value_of(columns.made)
    columns.refine(known, space.prices)
    left = Splits(columns, space.promising(known)).better(known)
    whole = list(columns.made)
    first = [candidate_of(each) for each in left.splits[:FIRST_KEPT]]
    known = value_of(whole + first)
    left = left.better(known)
    outside = None
    if len(left.splits) > most:
        outside = _outside(left, known, most)
    kept = [candidate_of(each) for each in left.splits[:most]]
    rest = (
        "the others can be part of no better fleet" if outside is None else "the bound is that of a fleet with others"
    )
    note = (
        f"{len(kept)} of {space.count} split replicas of up to {MOST_WORKERS} workers a phase are planned with: "
        f"by the cost model's means {rest}"
    )
    return kept, outside, note


def _outside(splits: Splits, known: Known, most: int) -> float:
    """The best value of a fleet with one of the splits behind the first."""
    bound, added = splits.added(known)
    least = float(added[most:].min())
    if splits.columns.job.objective == "throughput":
        return (known.value - least) / bound
    return (bound * known.multiples + least) / known.hours


def simulated_split(columns: Columns, served: ServedModel, candidate: Candidate) -> Candidate:
    """The replica with both pools' throughputs from simulation, each phase's target at its percentile."""
    assert candidate.transfer is not None
    workers = []
    for pool in candidate.pools:
        assert pool.degrees is not None
        workers.append(worker_of(columns, pool.gpu, candidate.format, pool.degrees))
    sizes = np.array([candidate.transfer.bytes_per_token * (each.isl or 1) for each in columns.classes])
    rates = candidate.transfer.bytes_per_s / np.maximum(sizes, 1e-300)
    for pool, worker in zip(candidate.pools, workers, strict=True):
        way = between(*workers) if pool.phase == "prefill" else None
        alone = columns.phase_rates(served, worker.key, pool.phase, (way,), exact=True)
        rates = np.minimum(rates, pool.workers * alone[0])
    return replace(candidate, rates=rates, source="simulation")


def candidate_of(split: Split) -> Candidate:
    """The replica as others have it."""
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
