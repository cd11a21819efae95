"""Prefill and decode pools, on one GPU type or two, as replicas of their own (Splitwise, Patel et al. 2024).

Where classes share a split replica, its load is the larger of both pools' at every class, so that what is counted on is
never more than both pools hold. Which of them there are, split_space says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..plan.fleet import ReplicaPool
from ..serving.pools import Phase
from ..workload.fleet import ServedModel
from .candidates import Candidate
from .columns import Columns
from .split_space import Split, between, worker_of

_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def simulated_split(columns: Columns, served: ServedModel, candidate: Candidate) -> Candidate:
    """The replica with both pools' throughputs from simulation, each phase's target at its percentile."""
    assert candidate.transfer is not None
    workers = []
    for pool in candidate.pools:
        assert pool.degrees is not None
        workers.append(worker_of(columns, pool.gpu, candidate.format, pool.degrees))
    sizes = np.array([candidate.transfer.bytes_per_token * (each.isl or 1) for each in columns.classes])
    passed = candidate.transfer.bytes_per_s / np.maximum(sizes, 1e-300)
    parts = []
    for pool, worker in zip(candidate.pools, workers, strict=True):
        way = between(*workers) if pool.phase == "prefill" else None
        alone = columns.phase_rates(served, worker.key, pool.phase, (way,), exact=True)
        parts.append(np.minimum(pool.workers * alone[0], passed))
    return replace(candidate, rates=np.minimum(*parts), pool_rates=tuple(parts), source="simulation")


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
        model=split.served.model,
        pools=pools,
        layout=label,
        rates=split.rates,
        source="cost model",
        format=format_,
        engine=split.served.engine,
        transfer=split.transfer,
        pool_rates=split.pool_rates,
    )
