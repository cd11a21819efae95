"""Deployments of an open load in simulation: as busy from the start as in the long run, and so long that it shows."""

from __future__ import annotations

from ..workload.serving import Load, Trace
from .capacity import phase_targets
from .deployments import Proposal, deployment
from .probe import LONG, MOST_AMONG, Probe, safely_within, steady, warmed
from .problem import Problem
from .simulation import Deployment, Outcome, simulate, simulate_within
from .workers import most_in_hand

REQUESTS, CONFIRMED, MOST_REQUESTS = 1200, 4000, 8000
TOGETHER = 6000  # requests of a deployment's run at most: its workers alone are run for longer
REQUESTS_A_WORKER = 150
BEYOND = 40
TURNS = 3.0


def run(problem: Problem, proposal: Proposal, rate: float, requests: tuple[int, int] = (REQUESTS, TOGETHER)) -> Outcome:
    """A deployment under the job's load at a rate, or under its trace; at least and at most so many requests."""
    joined, load, begun = _described(problem, proposal, rate, requests)
    return simulate(joined, load, begun=begun)


def run_within(problem: Problem, proposal: Proposal, rate: float) -> Outcome | None:
    """The same where every target holds, else None as soon as that is certain."""
    joined, load, begun = _described(problem, proposal, rate, (REQUESTS, TOGETHER))
    return simulate_within(joined, load, problem.job.targets, begun=begun)


def attempt(problem: Problem, proposal: Proposal, rate: float) -> Outcome | None:
    """The same where every target holds and lasts."""
    outcome = run_within(problem, proposal, rate)
    if outcome is None or not lasting(problem, outcome):
        return None
    if problem.trace is None and len(outcome.ttft_s) < CONFIRMED:
        joined, load, begun = _described(problem, proposal, rate, (CONFIRMED, TOGETHER), seed=1)
        other = simulate_within(joined, load, problem.job.targets, begun=begun)
        if other is None or not (lasting(problem, other) and safely_within(other, problem.job.targets, 1.0)):
            return None
    return outcome


def lasting(problem: Problem, outcome: Outcome) -> bool:
    """Whether waiting does not grow; a trace is as it is."""
    return problem.trace is not None or steady(outcome.ttft_s)


def lasts(problem: Problem, proposal: Proposal, rate: float) -> bool:
    """Whether every worker alone carries its part of a rate in a long run of other requests; a trace is as it is."""
    if problem.trace is not None:
        return True
    for pool, share in zip(proposal.pools, proposal.shares(), strict=True):
        targets = phase_targets(problem.job.targets, pool.phase)
        probe = Probe(problem, pool.worker, pool.phase, targets, min(pool.workers, MOST_AMONG))
        if not probe.carries(rate * share / pool.workers, LONG):
            return False
    return True


def _described(
    problem: Problem, proposal: Proposal, rate: float, requests: tuple[int, int], seed: int = 0
) -> tuple[Deployment, Trace, int]:
    """What is run: the deployment, the requests, and how many of them are on their way already."""
    problem.simulated += 1
    joined = deployment(proposal, problem.setting, problem.topology)
    if problem.trace is not None:
        return joined, problem.trace, 0
    load = problem.job.load
    begun, life = _on_their_way(problem, proposal, rate)
    beyond = int(BEYOND / (1 - problem.job.targets.percentile / 100))
    least = max(requests[0], beyond, REQUESTS_A_WORKER * sum(pool.workers for pool in proposal.pools))
    origin = (problem.job.seed + seed) % 2**63
    sampled = Load(lengths=load.lengths, rate_per_s=rate, spread=load.spread, cached=load.cached, seed=origin).sample(
        int(min(max(least, TURNS * rate * life), requests[1]))
    )
    return joined, warmed(sampled, begun), begun


def _on_their_way(problem: Problem, proposal: Proposal, rate: float) -> tuple[int, float]:
    """Requests that the workers that generate tokens have in hand at a rate, by the closed form (Little's law), and how
    long one stays with them at most."""
    lengths, targets = problem.setting.lengths, problem.job.targets
    begun, longest = 0.0, 0.0
    for pool, share in zip(proposal.pools, proposal.shares(), strict=True):
        if pool.phase != "prefill" and pool.workers:
            each = rate * share / pool.workers
            life = Probe(problem, pool.worker, pool.phase, targets).life_s(each)
            begun += pool.workers * min(each * life, most_in_hand(pool.worker, lengths))
            longest = max(longest, life)
    return int(begun), longest
