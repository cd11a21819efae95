"""Deployments of an open load in simulation: long enough that what they show lasts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..workload.serving import Load, Trace
from .capacity import steady
from .deployments import PoolOf, Proposal, deployment
from .problem import Problem
from .simulation import Deployment, Outcome, simulate, simulate_within
from .steady import open_states
from .workers import hand_grid

REQUESTS, MOST_REQUESTS = 1200, 8000
REQUESTS_A_WORKER = 150
TURNS = 4.0


def run(problem: Problem, proposal: Proposal, rate: float, requests: int = REQUESTS) -> Outcome:
    """A deployment under the job's load at a rate, or under its trace; at least so many requests."""
    return simulate(*_described(problem, proposal, rate, requests))


def attempt(problem: Problem, proposal: Proposal, rate: float) -> Outcome | None:
    """The same where every target holds and lasts, else None as soon as that is certain."""
    outcome = simulate_within(*_described(problem, proposal, rate, REQUESTS), problem.job.targets)
    return outcome if outcome is not None and lasting(problem, outcome) else None


def lasting(problem: Problem, outcome: Outcome) -> bool:
    """Whether waiting does not grow and the later half of a run meets the targets too; a trace is as it is."""
    if problem.trace is not None:
        return True
    half = slice(len(outcome.ttft_s) // 2, None)
    later = replace(outcome, ttft_s=outcome.ttft_s[half], tpot_s=outcome.tpot_s[half], e2e_s=outcome.e2e_s[half])
    return steady(outcome) and later.meets(problem.job.targets)


def _described(problem: Problem, proposal: Proposal, rate: float, requests: int) -> tuple[Deployment, Trace]:
    problem.simulated += 1
    joined = deployment(proposal, problem.setting, problem.topology)
    if problem.trace is not None:
        return joined, problem.trace
    load = problem.job.load
    least = max(requests, REQUESTS_A_WORKER * sum(pool.workers for pool in proposal.pools))
    number = min(max(least, TURNS * rate * _life_s(problem, proposal, rate)), MOST_REQUESTS)
    sampled = Load(
        lengths=load.lengths, rate_per_s=rate, spread=load.spread, cached=load.cached, seed=problem.job.seed
    ).sample(int(number))
    return joined, sampled


def _life_s(problem: Problem, proposal: Proposal, rate: float) -> float:
    """How long a request stays with the workers that generate its tokens, by the closed form, at a rate."""
    lengths = problem.setting.lengths
    pools: list[PoolOf] = [pool for pool in proposal.pools if pool.phase != "prefill"]
    worker, each = pools[0].worker, rate / sum(pool.workers for pool in pools)
    if pools[0].phase == "aggregated":
        found, rates = open_states(worker.cost, worker.schedule, lengths)
        return float(np.interp(each, rates, found.e2e_s(lengths.osl)))
    grid = hand_grid(worker)
    life = worker.cost.decode_seconds(grid, lengths.context) / worker.cost.tokens_per_step * max(lengths.osl - 1, 1)
    return float(np.interp(each, np.maximum.accumulate(grid / life), life))
