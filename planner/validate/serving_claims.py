"""What a serving plan predicts, held against itself: latencies, rates, prices, lost nodes, hours, the hand-over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from shardwright.models import ModelGraph, kv_bytes_per_token
from shardwright.topologies import Topology

from ..plan.serving import OBJECTIVES, Latency, PoolPlan, ServingPlan, objective_of
from .common import TOLERANCE, close

_NAMES = ("ttft", "tpot", "e2e")


def claims(plan: ServingPlan, model: ModelGraph, topology: Topology) -> Iterator[str]:
    """One sentence for every claim that contradicts another."""
    yield from _latencies(plan)
    yield from _rates(plan)
    yield from _prices(plan, topology)
    yield from _transfer(plan, model)
    yield from _node_loss(plan, topology)
    yield from _hours(plan)
    for term in plan.breakdown:
        if not term.name or term.unit != "s" or not term.value >= 0:
            yield f"breakdown: {term.name or 'a nameless part'} is {term.value} {term.unit}"


def device_count(pool: PoolPlan) -> int:
    """Devices of one worker."""
    return pool.layout.devices + (pool.feed_forward.devices if pool.feed_forward else 0)


def value_of(plan: ServingPlan) -> float | None:
    """The objective's value by the rest of the plan; None where it is not of this kind of plan.

    The highest rate is the one the run was offered, of which it served no more than chance allows (see `_rates`).
    """
    made = plan.prediction
    words = plan.optimality.objective
    if words == OBJECTIVES["throughput"]:
        return plan.optimality.value
    values = {
        objective_of("throughput", plan.load): made.output_tokens_per_s,
        OBJECTIVES["gpus"]: float(plan.devices_used),
        OBJECTIVES["cost"]: made.usd_per_hour,
        OBJECTIVES["latency"]: made.e2e.mean_s,
        OBJECTIVES["energy"]: made.joules_per_output_token,
    }
    return values.get(words)


def _latencies(plan: ServingPlan) -> Iterator[str]:
    made, limits = plan.prediction, plan.targets.limits()
    met = True
    for name, given in zip(_NAMES, (made.ttft, made.tpot, made.e2e), strict=True):
        yield from _ordered(f"prediction.{name}", given, plan.targets.percentile)
        limit = next((value for metric, value in limits.items() if metric == name), None)
        if given.target_s != limit:
            yield f"prediction.{name}.target_s is {given.target_s} but targets has {limit}"
        met = met and (limit is None or given.at_percentile_s <= limit)
    if met != plan.targets_met:
        reality = "every latency at the percentile is within" if met else "a latency at the percentile exceeds"
        yield f"targets_met is {str(plan.targets_met).lower()} but {reality} its target"
    if made.e2e.mean_s < made.ttft.mean_s * (1 - TOLERANCE):
        yield "prediction.e2e.mean_s is below that of the first token"
    lengths = plan.load.lengths
    if len(lengths) == 1 and not plan.load.spread and not plan.trace:
        whole = made.ttft.mean_s + made.tpot.mean_s * (lengths[0].osl - 1)
        if not close(made.e2e.mean_s, whole, 1e-6):
            yield f"prediction.e2e.mean_s is {made.e2e.mean_s:.6g} but first token and steps add up to {whole:.6g}"


def _ordered(name: str, given: Latency, at: float) -> Iterator[str]:
    """Percentiles do not fall, and a mean of what is not negative is no less than a part of each (Markov)."""
    known = ((0.0, 0.0), (50.0, given.p50_s), (90.0, given.p90_s), (99.0, given.p99_s), (100.0, math.inf))
    if not all(low <= high for (_, low), (_, high) in pairwise(known)):
        yield f"{name}: percentiles must not fall: {given.p50_s:.6g}, {given.p90_s:.6g}, {given.p99_s:.6g}"
    low = max(value for place, value in known if place <= at)
    high = min(value for place, value in known if place >= at)
    if not low * (1 - TOLERANCE) <= given.at_percentile_s <= high * (1 + TOLERANCE):
        yield f"{name}.at_percentile_s is {given.at_percentile_s:.6g}, not between the percentiles beside p{at:g}"
    least = max((1 - place / 100) * value for place, value in known[1:-1])
    if given.mean_s < least * 0.98 or given.mean_s < 0:
        yield f"{name}.mean_s is {given.mean_s:.6g} but its percentiles need at least {least:.6g}"


def _rates(plan: ServingPlan) -> Iterator[str]:
    made, load = plan.prediction, plan.load
    if made.requests < 1:
        yield f"prediction.requests must be at least 1 but is {made.requests}"
        return
    if not 0 <= made.goodput_per_s <= made.requests_per_s * (1 + TOLERANCE):
        yield f"prediction.goodput_per_s is {made.goodput_per_s:.6g}, not from 0 to requests_per_s"
    limits = len(plan.targets.limits())
    missed = limits * (1 - plan.targets.percentile / 100 + 1 / made.requests) if plan.targets_met else 1.0
    if made.goodput_per_s < made.requests_per_s * (1 - missed) * (1 - TOLERANCE):
        yield "prediction.goodput_per_s is less than targets met at their percentile leave"
    if not 0 < made.busy_share <= 1 + TOLERANCE or made.preemptions < 0:
        yield f"prediction: busy_share {made.busy_share:.6g} or preemptions {made.preemptions} cannot be"
    per_device = made.output_tokens_per_s / plan.devices_used
    if not close(made.output_tokens_per_s_per_device, per_device, 1e-3):
        yield f"prediction.output_tokens_per_s_per_device is not {per_device:.6g} over {plan.devices_used} devices"
    if plan.trace:
        return
    spread = 5 * max(each.osl for each in load.lengths) / load.mean_osl / math.sqrt(made.requests)
    exact = len(load.lengths) == 1 and not load.spread
    if not close(made.output_tokens_per_s, made.requests_per_s * load.mean_osl, 1e-6 if exact else spread):
        yield "prediction.output_tokens_per_s is not requests_per_s times the mean output"
    yield from _offered(plan)


def _offered(plan: ServingPlan) -> Iterator[str]:
    """Requests served against those offered: a run lasts from the first arrival to the last end.

    Arrivals of a Poisson rate vary by their square root; the last request to end is taken to take no more than three
    times the 99th percentile, or as much longer as its output is.
    """
    made, load = plan.prediction, plan.load
    if load.concurrency is not None:
        rounds = max(2, min(load.rounds, 6000 // load.concurrency))
        if made.requests != load.concurrency * rounds:
            yield f"prediction.requests is {made.requests} but {load.concurrency} in hand run {rounds} rounds"
        in_hand = made.requests_per_s * (made.e2e.mean_s - made.ttft.p50_s)
        if in_hand > load.concurrency * (1 + TOLERANCE):
            yield f"prediction: {in_hand:.6g} requests in hand are more than the concurrency {load.concurrency}"
        return
    rising = plan.optimality.objective == OBJECTIVES["throughput"] and plan.optimality.candidates > 1
    offered = plan.optimality.value if rising else load.rate_per_s or 0.0
    if offered <= 0:
        yield "optimality.value must be a rate above 0"
        return
    longest = 3 * made.e2e.p99_s * max(each.osl for each in load.lengths) / load.mean_osl
    chance = 5 / math.sqrt(made.requests)
    fewest = made.requests / (made.requests / offered * (1 + chance) + longest)
    if not fewest * (1 - TOLERANCE) <= made.requests_per_s <= offered * (1 + 2 * chance):
        yield f"prediction.requests_per_s is {made.requests_per_s:.6g} but {offered:.6g} a second are offered"
    if rising and offered < (load.rate_per_s or 0.0) * 0.97 > made.requests_per_s:
        yield f"optimality.value {offered:.6g} is less than the rate asked for, {load.rate_per_s:.6g}"
    if all(pool.requests_per_s > 0 for pool in plan.pools) and plan.optimality.candidates > 1:
        carried = _carried(plan, [pool.workers for pool in plan.pools])
        if carried < offered * (1 - 1e-6):
            yield f"pools carry {carried:.6g} requests a second together but {offered:.6g} are offered"


def _carried(plan: ServingPlan, workers: list[int]) -> float:
    """Requests per second of so many workers of each pool: decoders and prefill workers need each other."""
    sums = {"aggregated": 0.0, "prefill": 0.0, "decode": 0.0}
    for pool, number in zip(plan.pools, workers, strict=True):
        sums[pool.phase] += pool.requests_per_s * number
    return sums["aggregated"] + min(sums["prefill"], sums["decode"])


def _prices(plan: ServingPlan, topology: Topology) -> Iterator[str]:
    made = plan.prediction
    used = sorted({device for pool in plan.pools for worker in pool.devices for device in worker})
    kinds = [topology.accelerators[int(topology.device_accelerator[device])] for device in used]
    prices = [kind.usd_per_hour for kind in kinds if kind.usd_per_hour is not None]
    whole = sum(prices) if len(prices) == len(kinds) else None
    if (whole is None) != (made.usd_per_hour is None) or not close(made.usd_per_hour or 0.0, whole or 0.0):
        yield f"prediction.usd_per_hour is {made.usd_per_hour} but the devices cost {whole}"
    powers = [kind.tdp_watts for kind in kinds if kind.tdp_watts is not None]
    watts = None if made.joules_per_output_token is None else made.joules_per_output_token * made.output_tokens_per_s
    if (watts is None) != (len(powers) < len(kinds)) or (
        watts is not None and not 0.05 * sum(powers) <= watts <= sum(powers)
    ):
        yield "prediction.joules_per_output_token is not what the devices draw between idle and full power"
    if any(pool.requests_per_s < 0 for pool in plan.pools):
        yield "pools: requests_per_s must be at least 0"


def _transfer(plan: ServingPlan, model: ModelGraph) -> Iterator[str]:
    split = any(pool.phase == "decode" for pool in plan.pools) and plan.mode != "shared"
    over = plan.transfer
    if (over is not None) != split:
        yield "transfer is there for prefill and decode on devices of their own and for nothing else"
    if over is None:
        return
    size = kv_bytes_per_token(model, dtype_bytes=plan.quantization.cache_bytes)
    if not close(over.bytes_per_token, size):
        yield f"transfer.bytes_per_token is {over.bytes_per_token:.6g} but a token of {model.name} takes {size:.6g}"
    least = over.bytes_per_token * plan.load.mean_isl / over.bytes_per_s if over.bytes_per_s > 0 else math.inf
    if not least * (1 - TOLERANCE) <= over.seconds_per_request <= least * 1.001 + 1e-3:
        yield f"transfer.seconds_per_request is {over.seconds_per_request:.6g} but the bytes take {least:.6g}"
    if not 0 <= over.exposed_s_per_request <= over.seconds_per_request * (1 + TOLERANCE):
        yield "transfer.exposed_s_per_request is not from 0 to seconds_per_request"


def _node_loss(plan: ServingPlan, topology: Topology) -> Iterator[str]:
    loss = plan.node_loss
    if loss is None:
        return
    if loss.node not in topology.node_names:
        yield f"node_loss.node {loss.node!r} is not a node of {topology.name}"
        return
    node = topology.node_names.index(loss.node)
    lost = [
        sum(any(int(topology.device_node[device]) == node for device in worker) for worker in pool.devices)
        for pool in plan.pools
    ]
    devices = sum(number * device_count(pool) for number, pool in zip(lost, plan.pools, strict=True))
    if (loss.workers_lost, loss.devices_lost) != (sum(lost), devices):
        yield f"node_loss: {loss.node} takes {sum(lost)} workers of {devices} devices with it"
    left = {pool.phase for pool, number in zip(plan.pools, lost, strict=True) if pool.workers > number}
    serves = "aggregated" in left or {"prefill", "decode"} <= left
    figures = (loss.ttft_s, loss.tpot_s, loss.requests_per_s)
    if not serves and (loss.targets_met or any(figures)):
        yield f"node_loss: without {loss.node} no request can be served"
    if serves and (min(figures) < 0 or not loss.requests_per_s > 0):
        yield "node_loss: latencies and rate of what is left cannot be"
    limits = (plan.targets.ttft_s, plan.targets.tpot_s)
    if loss.targets_met and any(
        limit is not None and seen > limit for seen, limit in zip(figures[:2], limits, strict=True)
    ):
        yield "node_loss.targets_met is true but a latency exceeds its target"


def _hours(plan: ServingPlan) -> Iterator[str]:
    if plan.hours and not close(max(hour.rate_per_s for hour in plan.hours), plan.load.rate_per_s or 0.0):
        yield "hours: the busiest does not have the load's rate"
    given = next((each.document for each in plan.inputs if each.role == "load" and each.document is not None), None)
    if plan.hours and given != [[hour.hour, hour.rate_per_s] for hour in plan.hours]:
        yield "hours are not those of the schedule in inputs"
    sizes = [0 if plan.mode == "shared" and pool.phase == "decode" else device_count(pool) for pool in plan.pools]
    every = [pool.workers for pool in plan.pools]
    for hour in plan.hours:
        place = f"hours, {hour.hour}"
        if len(hour.workers) != len(every) or not all(0 <= n <= m for n, m in zip(hour.workers, every, strict=False)):
            yield f"{place}: workers are not some of those of the pools"
        elif hour.devices != sum(number * size for number, size in zip(hour.workers, sizes, strict=True)):
            yield f"{place}: devices is {hour.devices}, not those of its workers"
        elif list(hour.workers) != every and _carried(plan, list(hour.workers)) < hour.rate_per_s * (1 - 1e-6):
            yield f"{place}: its workers do not carry {hour.rate_per_s:.6g} requests a second"
