"""Two further ways to split the work: phases that share their devices, and attention apart from feed-forward.

**Shared** (RAPID-Serve, Nexus arXiv 2507.06608): prefill and decode run at the same time on the same devices, each on
a share of the compute units. Decode is bound by memory and keeps its speed until it has less than some two fifths of
the units (Nexus, section 3); prefill is bound by compute and slows down with its share.

**AFD** (Step-3, arXiv 2507.19427, section 4): attention devices hold KV cache and attention weights, feed-forward
devices the rest; three micro-batches in turn keep both and the network busy, so that a layer takes three times the
slowest of the three stages of one of them. Prompts are computed by workers of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..costs.serving.step import TOKEN_GRID, StepCost
from ..errors import Infeasible
from ..workload.serving_layout import Layout
from .closed_loop import run as run_closed
from .deployments import PoolOf, Proposal
from .open_loop import Found, nearest_target, value_of
from .open_loop import run as run_open
from .problem import Problem
from .workers import WorkerType, decode_rate, prefill_rate

SHARES = (0.3, 0.5, 0.7)
ENOUGH_FOR_DECODE = 0.4
PREFILL_TRAFFIC = 0.2
MICROBATCHES = 3
TRIES = 8


def search_mode(problem: Problem) -> Found:
    """The best deployment in the job's mode. Raises Infeasible when none meets the targets."""
    proposals = list(_shared(problem) if problem.job.mode == "shared" else _afd(problem))
    rising = problem.job.goal == "throughput"
    proposals.sort(key=lambda each: (-each.expected, each.devices, each.label()))
    load = problem.job.load
    best: Found | None = None
    for proposal in proposals[:TRIES]:
        outcome = (
            run_closed(problem, proposal, load.concurrency)
            if load.concurrency is not None
            else run_open(problem, proposal, load.rate_per_s or 0.0)
        )
        value = value_of(problem, proposal, outcome)
        if not outcome.meets(problem.job.targets):
            continue
        if best is None or (value > best.value if rising else value < best.value):
            bound = max(value, proposals[0].expected) if rising else min(value, float(proposal.devices))
            best = Found(proposal, outcome, value, bound, len(proposals), len(proposals))
    if best is None:
        raise Infeasible(nearest_target(problem))
    return best


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
    for worker in problem.types:
        number = problem.supply[problem.kinds.index(worker.kind)] // worker.devices
        for share in SHARES if number else ():
            slow, slower = shared_factors(share)
            prefill = replace(worker, cost=scaled(worker.cost, slow))
            decode = replace(worker, cost=scaled(worker.cost, slower))
            rate = min(prefill_rate(prefill, lengths, targets), decode_rate(decode, lengths, targets))
            if rate > 0:
                pools = (PoolOf(prefill, "prefill", number, rate), PoolOf(decode, "decode", number, rate))
                yield Proposal(pools, expected=rate * number, shared=True)


def _afd(problem: Problem) -> Iterator[Proposal]:
    """Prefill workers beside decoders whose attention and feed-forward stand on devices of their own."""
    lengths, targets = problem.setting.lengths, problem.job.targets
    prefills = sorted(
        problem.types, key=lambda each: (-prefill_rate(each, lengths, targets) / each.devices, each.devices)
    )[:3]
    for worker in problem.types:
        layout = worker.layout
        if layout.pp > 1 or layout.attn_dp * layout.tp < 2:
            continue
        supply = problem.supply[problem.kinds.index(worker.kind)]
        for beside in (1, 2, 4):
            decoder = _apart(worker, beside * worker.devices, lengths.context)
            rate = decode_rate(decoder, lengths, targets)
            for prefill in prefills if rate > 0 else ():
                need = rate / max(prefill_rate(prefill, lengths, targets), 1e-9)
                number = max(1, int(supply / (decoder.devices + need * prefill.devices)))
                first = max(1, round(need * number))
                if number * decoder.devices + first * prefill.devices <= supply:
                    pools = (PoolOf(prefill, "prefill", first), PoolOf(decoder, "decode", number, rate))
                    yield Proposal(pools, expected=rate * number)


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
