"""What one lost node does: the remaining workers under the same load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..plan.serving import NodeLoss
from .closed_loop import run as run_closed
from .deployments import PoolOf, Proposal
from .placement import Placement
from .problem import Problem
from .runs import run as run_open

TRIED = 3
REQUESTS = 600, 2000


def node_loss(problem: Problem, proposal: Proposal, placement: Placement) -> NodeLoss:
    """The loss of the node whose workers matter most; nodes that cost the same workers are one case."""
    topology = problem.topology
    owner = [place for place, pool in enumerate(proposal.pools) for _ in range(pool.workers)]
    stands = placement.nodes(topology)
    cases: dict[tuple[int, ...], int] = {}
    for node in sorted({each for nodes in stands for each in nodes}):
        lost = [0] * len(proposal.pools)
        for worker, nodes in enumerate(stands):
            lost[owner[worker]] += node in nodes
        cases.setdefault(tuple(lost), node)
    ranked = sorted(cases.items(), key=lambda case: -_weight(proposal, case[0]))
    found = [_after(problem, proposal, lost, node) for lost, node in ranked[:TRIED]]
    return max(found, key=lambda each: (not each.targets_met, each.ttft_s, each.workers_lost))


def _weight(proposal: Proposal, lost: Sequence[int]) -> float:
    """Share of a pool's workers that is lost, the largest of the pools."""
    return max(number / pool.workers for number, pool in zip(lost, proposal.pools, strict=True))


def _after(problem: Problem, proposal: Proposal, lost: Sequence[int], node: int) -> NodeLoss:
    name = problem.topology.node_names[node]
    left = tuple(
        PoolOf(pool.worker, pool.phase, pool.workers - number, pool.rate)
        for pool, number in zip(proposal.pools, lost, strict=True)
        if pool.workers > number
    )
    devices = sum(number * pool.worker.devices for number, pool in zip(lost, proposal.pools, strict=True))
    phases = {pool.phase for pool in left}
    if not {"prefill", "decode"} <= phases:
        left = tuple(pool for pool in left if pool.phase == "aggregated")
    serves = bool(left)
    if not serves:
        return NodeLoss(
            node=name,
            devices_lost=devices,
            workers_lost=sum(lost),
            targets_met=False,
            ttft_s=0.0,
            tpot_s=0.0,
            requests_per_s=0.0,
            why="no worker is left that can serve a request from prompt to last token",
        )
    rest = replace(proposal, pools=left)
    load = problem.job.load
    outcome = (
        run_closed(problem, rest, load.concurrency)
        if load.concurrency is not None
        else run_open(problem, rest, load.rate_per_s or 0.0, REQUESTS)
    )
    at = problem.job.targets.percentile
    return NodeLoss(
        node=name,
        devices_lost=devices,
        workers_lost=sum(lost),
        targets_met=outcome.meets(problem.job.targets),
        ttft_s=outcome.percentile("ttft", at),
        tpot_s=outcome.percentile("tpot", at),
        requests_per_s=outcome.requests_per_s,
        why=f"the remaining workers under the same load, latencies at p{at:g}",
    )
