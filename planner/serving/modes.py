"""Two further ways to split the work: phases that share their devices, and attention apart from feed-forward.

**Shared** (RAPID-Serve, Nexus arXiv 2507.06608): prefill and decode run at the same time on the same devices, each on
a share of the compute units. Decode is bound by memory and keeps its speed until it has less than some two fifths of
the units (Nexus, section 3); prefill is bound by compute and slows down with its share.

**AFD** (Step-3, arXiv 2507.19427, section 4): attention devices hold KV cache and attention weights, feed-forward
devices the rest; three micro-batches in turn keep both and the network busy, so that a layer takes three times the
slowest of the three stages of one of them. Prompts are computed by workers of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..costs.serving.formulas import TOKEN_GRID, StepCost
from ..errors import Infeasible
from ..workload.serving_layout import Layout
from .closed_loop import run as run_closed
from .deployments import PoolOf, Proposal
from .open_loop import Found, nearest_target, value_of
from .problem import Problem
from .runs import lasting, lasts
from .runs import run as run_open
from .simulation import Outcome
from .workers import WorkerType, decode_rate, most_decode_rate, most_prefill_rate, prefill_rate

SHARES = (0.3, 0.5, 0.7)
ENOUGH_FOR_DECODE = 0.4
PREFILL_TRAFFIC = 0.2
MICROBATCHES = 3
TRIES = 8
FALL = 0.9


def search_mode(problem: Problem) -> Found:
    """The best deployment in the job's mode. Raises Infeasible when none meets the targets.

    The most promising are simulated in turn, after them those of fewest devices. The bound is over the same
    proposals, with rates that no schedule of their steps exceeds.
    """
    proposals = list(_shared(problem) if problem.job.mode == "shared" else _afd(problem))
    rising = problem.job.goal == "throughput"
    proposals.sort(key=lambda each: (-each.expected, each.devices, each.label()))
    tried = proposals[:TRIES]
    if not rising:
        enough = [each for each in proposals if each.bound >= (problem.job.load.rate_per_s or 0.0)]
        tried = sorted(enough, key=lambda each: (each.devices, -each.expected, each.label()))[: 3 * TRIES] + tried
    best: Found | None = None
    for proposal in tried:
        run = _run(problem, proposal)
        if run is not None and (best is None or (run[1] > best.value if rising else run[1] < best.value)):
            best = Found(proposal, run[0], run[1], run[1], len(proposals), len(proposals))
    if best is None:
        raise Infeasible(nearest_target(problem))
    bound = _bound(problem, proposals)
    return replace(best, bound=max(bound, best.value) if rising else min(bound, best.value))


def _run(problem: Problem, proposal: Proposal) -> tuple[Outcome, float] | None:
    """A proposal's run and value, None where it misses a target; the highest rate is sought downwards from above."""
    load, targets = problem.job.load, problem.job.targets
    if load.concurrency is not None:
        outcome = run_closed(problem, proposal, load.concurrency)
        return (outcome, value_of(problem, proposal, outcome)) if outcome.meets(targets) else None
    least = load.rate_per_s or 0.0
    rate = max(proposal.expected, least) if problem.job.goal == "throughput" and problem.trace is None else least
    while rate >= least:
        outcome = run_open(problem, proposal, rate)
        if outcome.meets(targets) and lasting(problem, outcome) and lasts(problem, proposal, rate):
            rising = problem.job.goal == "throughput"
            return outcome, rate if rising else value_of(problem, proposal, outcome)
        rate = least if rate > least > rate * FALL else rate * FALL
    return None


def _bound(problem: Problem, proposals: Sequence[Proposal]) -> float:
    """What none of the proposals can beat."""
    load, goal, lengths = problem.job.load, problem.job.goal, problem.setting.lengths
    if goal == "throughput":
        most = max(each.bound for each in proposals)
        return most * lengths.osl if load.concurrency is not None else most
    enough = [each for each in proposals if each.bound >= (load.rate_per_s or 0.0)]
    if goal == "gpus":
        return float(min((each.devices for each in enough), default=0))
    if goal == "cost":
        return min((each.usd_per_hour() or 0.0 for each in enough), default=0.0)
    if goal == "latency":
        context = lengths.context
        lone = min(float(each.pools[-1].worker.cost.decode_seconds(1.0, context)) for each in proposals)
        return lone / proposals[0].pools[-1].worker.cost.tokens_per_step * max(lengths.osl - 1, 0)
    return 0.0


def scaled(cost: StepCost, factor: float) -> StepCost:
    """The same steps, every kernel slower by a factor; the host keeps its pace."""
    return replace(
        cost,
        own_s=cost.own_s * factor,
        stage_s=cost.stage_s * factor,
        head_s=cost.head_s * factor,
        contexts=tuple(
            replace(each, read_s=each.read_s * factor, pair_s=each.pair_s * factor) for each in cost.contexts
        ),
    )


def shared_factors(share: float) -> tuple[float, float]:
    """How much slower prefill and decode run when prefill has that share of the compute units."""
    decode = max(1.0, ENOUGH_FOR_DECODE / (1 - share)) / (1 - PREFILL_TRAFFIC * share)
    return 1 / share, decode


def _shared(problem: Problem) -> Iterator[Proposal]:
    """Both phases on all devices; the cache is the decoder's."""
    lengths, targets = problem.setting.lengths, problem.job.targets
    fewer = problem.job.goal in ("gpus", "cost", "energy")
    for worker in problem.types:
        most = problem.supply[problem.kinds.index(worker.kind)] // worker.devices
        for share in SHARES if most else ():
            slow, slower = shared_factors(share)
            prefill = replace(worker, cost=scaled(worker.cost, slow))
            decode = replace(worker, cost=scaled(worker.cost, slower))
            rate = min(prefill_rate(prefill, lengths, targets), decode_rate(decode, lengths, targets))
            limit = min(most_prefill_rate(prefill, lengths), most_decode_rate(decode, lengths, targets))
            for number in range(1, most + 1) if fewer and rate > 0 else (most,) if rate > 0 else ():
                pools = (PoolOf(prefill, "prefill", number, rate), PoolOf(decode, "decode", number, rate))
                yield Proposal(pools, expected=rate * number, bound=limit * number, shared=True)


def _afd(problem: Problem) -> Iterator[Proposal]:
    """Prefill workers beside decoders whose attention and feed-forward stand on devices of their own."""
    lengths, targets = problem.setting.lengths, problem.job.targets
    fewer = problem.job.goal in ("gpus", "cost", "energy")
    wanted = problem.job.load.rate_per_s
    ranked = sorted(
        problem.types, key=lambda each: (-prefill_rate(each, lengths, targets) / each.devices, each.devices)
    )
    for worker in problem.types:
        layout = worker.layout
        if layout.pp > 1 or layout.attn_dp * layout.tp < 2:
            continue
        supply = problem.supply[problem.kinds.index(worker.kind)]
        for times in (1, 2, 4):
            decoder = _apart(worker, times * worker.devices, lengths.context)
            rate = decode_rate(decoder, lengths, targets)
            limit = most_decode_rate(decoder, lengths, targets)
            prefills = [each for each in ranked if each.kind is worker.kind][:3]
            for prefill in prefills if rate > 0 else ():
                each = prefill_rate(prefill, lengths, targets)
                need = rate / max(each, 1e-9)
                most = max(1, int(supply / (decoder.devices + need * prefill.devices)))
                for number in range(1, most + 1) if fewer else (most,):
                    first = max(1, round(need * number))
                    if fewer and wanted is not None:
                        first = min(first, int(wanted / each) + 1)
                    first = min(first, (supply - number * decoder.devices) // prefill.devices)
                    if first >= 1:
                        pools = (PoolOf(prefill, "prefill", first), PoolOf(decoder, "decode", number, rate))
                        bound = min(limit * number, first * most_prefill_rate(prefill, lengths))
                        yield Proposal(pools, min(rate * number, each * first), bound)


def _apart(worker: WorkerType, attention_devices: int, context: float) -> WorkerType:
    """A decoder with attention on `attention_devices` and feed-forward on as many as the worker had."""
    cost = worker.cost
    groups = attention_devices // worker.layout.tp
    tokens = TOKEN_GRID / MICROBATCHES
    own = np.interp(tokens / groups, TOKEN_GRID, cost.own_s)
    own = own + cost.read_seconds(tokens / groups, context)
    routed = np.interp(tokens, TOKEN_GRID, cost.stage_s)
    slowest = np.maximum(own, routed) * MICROBATCHES
    # A step of few tokens cannot be cut into micro-batches: it takes both sides in turn.
    in_turn = np.interp(TOKEN_GRID / groups, TOKEN_GRID, cost.own_s) + np.interp(TOKEN_GRID, TOKEN_GRID, cost.stage_s)
    in_turn = in_turn + cost.read_seconds(TOKEN_GRID / groups, context)
    joined = np.where(TOKEN_GRID >= MICROBATCHES, np.minimum(slowest, in_turn), in_turn)
    apart = replace(cost, own_s=np.zeros_like(cost.own_s), stage_s=joined, contexts=(), groups=1)
    cache = worker.schedule.cache_tokens / worker.layout.attn_dp * groups
    return replace(
        worker,
        cost=apart,
        schedule=replace(worker.schedule, cache_tokens=cache),
        layout=Layout(tp=worker.layout.tp, attn_dp=groups),
        feed_forward=worker.layout,
    )
