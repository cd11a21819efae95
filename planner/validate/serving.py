"""Does a serving plan hold? Devices, degrees, memory, the cache it claims, and its targets against its latencies."""

from __future__ import annotations

from collections.abc import Iterator

from shardwright.models import ModelGraph, kv_bytes_per_token, parameters
from shardwright.topologies import Topology

from ..inputs import restored_model, restored_topology
from ..plan.base import PlanBase
from ..plan.serving import Latency, PoolPlan, ServingPlan
from .common import TOLERANCE, close, optimality_problems

# The narrowest formats in use: four bits a weight with their scales, eight bits a cached element.
LEAST_WEIGHT_BYTES = 0.5
LEAST_CACHED_BYTES = 1


def problems(plan: PlanBase) -> list[str]:
    """One sentence for everything that does not hold."""
    assert isinstance(plan, ServingPlan)
    model, topology = restored_model(plan), restored_topology(plan)
    found = [*_devices(plan, topology)]
    if found:
        return found
    return [
        *(problem for pool in plan.pools for problem in _memory(pool, model, topology)),
        *_latencies(plan),
        *optimality_problems(plan.optimality, plan.optimality.value),
    ]


def _devices(plan: ServingPlan, topology: Topology) -> Iterator[str]:
    used: list[int] = []
    if not plan.pools:
        yield "pools is empty: a deployment needs at least one worker"
    for index, pool in enumerate(plan.pools):
        place = f"pools[{index}]"
        size = pool.layout.devices + (pool.feed_forward.devices if pool.feed_forward else 0)
        if len(pool.devices) != pool.workers:
            yield f"{place}.devices lists {len(pool.devices)} workers but workers is {pool.workers}"
        if any(len(worker) != size for worker in pool.devices):
            yield f"{place}.devices has a worker that is not of {size} devices, as its layout needs"
        mine = [device for worker in pool.devices for device in worker]
        if not all(0 <= device < topology.n_devices for device in mine):
            yield f"{place}.devices names a device outside 0 … {topology.n_devices - 1}"
            return
        names = {topology.accelerators[int(topology.device_accelerator[device])].name for device in mine}
        if names - {pool.accelerator}:
            yield f"{place}.devices are {', '.join(sorted(names))} but accelerator is {pool.accelerator}"
        used += mine
    if plan.mode != "shared" and len(set(used)) != len(used):
        yield "pools gives one device to two workers"
    if plan.devices_used != len(set(used)) or plan.devices_used + plan.devices_idle != topology.n_devices:
        yield f"devices_used {plan.devices_used} and devices_idle {plan.devices_idle} do not count the devices"


def _memory(pool: PoolPlan, model: ModelGraph, topology: Topology) -> Iterator[str]:
    accelerator = topology.accelerators[int(topology.device_accelerator[pool.devices[0][0]])]
    if pool.capacity_bytes > accelerator.memory_bytes:
        yield f"{pool.phase}: capacity_bytes is {pool.capacity_bytes} but {accelerator.name} has less"
    total = sum(pool.memory.values())
    if total > pool.capacity_bytes * (1 + TOLERANCE):
        yield f"{pool.phase}: memory adds up to {total} bytes, more than the {pool.capacity_bytes} of a device"
    if min(pool.memory.values(), default=0) < 0:
        yield f"{pool.phase}: memory has a negative category"
    worker = len(pool.devices[0])
    weights = sum(size for name, size in pool.memory.items() if "weights" in name) * worker
    least = LEAST_WEIGHT_BYTES * parameters(model)
    if weights < least * (1 - TOLERANCE):
        yield f"{pool.phase}: a worker's weights are {weights} bytes but {model.name} needs at least {least:.0f}"
    cache = sum(size for name, size in pool.memory.items() if "cache" in name) * worker
    if pool.cache_tokens < 1:
        yield f"{pool.phase}: cache_tokens must be at least 1 but is {pool.cache_tokens}"
        return
    needed = pool.cache_tokens * kv_bytes_per_token(model, dtype_bytes=LEAST_CACHED_BYTES, context=pool.cache_tokens)
    if needed > cache * (1 + 1e-3):
        yield f"{pool.phase}: {pool.cache_tokens} cached tokens need {needed:.0f} bytes but the cache has {cache}"


def _latencies(plan: ServingPlan) -> Iterator[str]:
    made, targets = plan.prediction, plan.targets
    missed = False
    for name, given, limit in (
        ("ttft", made.ttft, targets.ttft_s),
        ("tpot", made.tpot, targets.tpot_s),
        ("e2e", made.e2e, targets.e2e_s),
    ):
        yield from _ordered(name, given)
        if limit is not None and given.at_percentile_s > limit * (1 + TOLERANCE):
            missed = True
    if missed and plan.targets_met:
        yield "targets_met is true but a latency at the percentile exceeds its target"
    if made.goodput_per_s > made.requests_per_s * (1 + TOLERANCE):
        yield "prediction.goodput_per_s exceeds requests_per_s"
    per_device = made.output_tokens_per_s / plan.devices_used
    if not close(made.output_tokens_per_s_per_device, per_device, 1e-3):
        yield f"prediction.output_tokens_per_s_per_device is not {per_device:.6g} over {plan.devices_used} devices"


def _ordered(name: str, given: Latency) -> Iterator[str]:
    if not 0 <= given.p50_s <= given.p90_s <= given.p99_s:
        yield f"prediction.{name}: percentiles must not fall: {given.p50_s:.6g}, {given.p90_s:.6g}, {given.p99_s:.6g}"
