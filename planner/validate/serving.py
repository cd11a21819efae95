"""Does a serving plan hold? Devices, degrees, memory, the cache it claims, and what it predicts (serving_claims)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from shardwright.models import ModelGraph, kv_bytes_per_token, parameters
from shardwright.models.operators import Attention, Experts
from shardwright.topologies import Topology

from ..files import sha256_of
from ..inputs import restored_model, restored_topology
from ..plan.base import PlanBase
from ..plan.serving import PoolPlan, ServingPlan
from ..workload.serving import ENGINES
from ..workload.serving_layout import Quantization, quantization
from .common import TOLERANCE, optimality_problems
from .serving_claims import claims, device_count, value_of


def problems(plan: PlanBase) -> list[str]:
    """One sentence for everything that does not hold."""
    assert isinstance(plan, ServingPlan)
    model, topology = restored_model(plan), restored_topology(plan)
    found = [*_inputs(plan, model, topology), *_devices(plan, topology)]
    if found:
        return found
    found = [
        problem for pool in plan.pools for problem in (*_layout(pool, model), *_memory(plan, pool, model, topology))
    ]
    found += [*claims(plan, model, topology), *_search(plan)]
    value = value_of(plan)
    if value is None:
        return [*found, f"optimality.objective {plan.optimality.objective!r} is none of a serving plan"]
    return [*found, *optimality_problems(plan.optimality, value)]


def _inputs(plan: ServingPlan, model: ModelGraph, topology: Topology) -> Iterator[str]:
    if plan.model != model.name:
        yield f"model is {plan.model} but inputs has {model.name}"
    if plan.cluster != topology.name:
        yield f"cluster is {plan.cluster} but inputs has {topology.name}"
    if plan.engine not in ENGINES:
        yield f"engine must be one of {', '.join(ENGINES)} but is {plan.engine!r}"
    if plan.quantization != quantization(plan.quantization.name):
        yield f"quantization {plan.quantization.name} has other formats than that name stands for"
    for record in plan.inputs:
        if record.role == "load" and record.document is not None and sha256_of(record.document) != record.sha256:
            yield f"inputs: the load {record.source} is not the one the plan was made from"
    if bool(plan.trace) != any(record.role == "load" and record.document is None for record in plan.inputs):
        yield f"trace is {plan.trace!r} but inputs {'lacks it' if plan.trace else 'has one'}"


def _search(plan: ServingPlan) -> Iterator[str]:
    claim = plan.optimality
    if not 0 <= claim.feasible <= claim.candidates or claim.candidates < 1 or claim.work < 1:
        yield f"optimality: {claim.feasible} of {claim.candidates} candidates, {claim.work} runs cannot be"
    if not all(each.label and math.isfinite(each.value) and each.value >= 0 for each in plan.alternatives):
        yield "alternatives: each needs a label and a value that is not negative"
    if plan.provenance.seed < 0:
        yield f"provenance.seed must be at least 0 but is {plan.provenance.seed}"


def _devices(plan: ServingPlan, topology: Topology) -> Iterator[str]:
    used: list[int] = []
    if not plan.pools:
        yield "pools is empty: a deployment needs at least one worker"
    for index, pool in enumerate(plan.pools):
        place = f"pools[{index}]"
        size = device_count(pool)
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
    if bool(plan.idle) != (plan.devices_idle > 0):
        yield f"idle is {plan.idle!r} but {plan.devices_idle} devices are"
    yield from _mode(plan)


def _mode(plan: ServingPlan) -> Iterator[str]:
    phases = {pool.phase for pool in plan.pools}
    legal = {
        "aggregated": phases == {"aggregated"},
        "disaggregated": phases == {"prefill", "decode"},
        "mixed": phases == {"aggregated", "prefill", "decode"},
        "shared": phases == {"prefill", "decode"},
        "afd": "decode" in phases,
    }
    if not legal[plan.mode]:
        yield f"mode is {plan.mode} but the pools are of {', '.join(sorted(phases))}"
    if (plan.mode == "afd") != any(pool.feed_forward for pool in plan.pools):
        yield "feed_forward stands apart in mode afd and nowhere else"


def _layout(pool: PoolPlan, model: ModelGraph) -> Iterator[str]:
    layout = pool.layout
    operators = [op for block in model.blocks for op in block.operators]
    if layout.pp > model.num_layers:
        yield f"{pool.phase}: pp is {layout.pp} but {model.name} has {model.num_layers} layers"
    if any(isinstance(op, Attention) and op.heads % layout.tp for op in operators):
        yield f"{pool.phase}: tp {layout.tp} does not divide the heads of {model.name}"
    for degrees in (layout, pool.feed_forward or layout):
        if any(isinstance(op, Experts) and op.experts % degrees.ep for op in operators):
            yield f"{pool.phase}: ep {degrees.ep} does not divide the experts of {model.name}"
    if layout.ep * layout.moe_tp > 1 and not any(isinstance(op, Experts) for op in operators):
        yield f"{pool.phase}: ep and moe_tp must be 1, {model.name} has no experts"
    engine = pool.engine
    if engine.token_budget < 1 or engine.max_sequences < 1 or not 0 < engine.memory_fraction <= 1:
        yield f"{pool.phase}: engine has a budget, a number of sequences or a share of memory that cannot be"


def _memory(plan: ServingPlan, pool: PoolPlan, model: ModelGraph, topology: Topology) -> Iterator[str]:
    accelerator = topology.accelerators[int(topology.device_accelerator[pool.devices[0][0]])]
    if pool.capacity_bytes != accelerator.memory_bytes:
        yield f"{pool.phase}: capacity_bytes is {pool.capacity_bytes} but {accelerator.name} has another"
    if min(pool.memory.values(), default=0) < 0:
        yield f"{pool.phase}: memory has a negative category"
    total, usable = sum(pool.memory.values()), pool.engine.memory_fraction * accelerator.memory_bytes
    if abs(total - usable) > len(pool.memory) + TOLERANCE * usable:
        yield f"{pool.phase}: memory adds up to {total} bytes but the engine takes {usable:.0f} of a device"
    worker = len(pool.devices[0])
    weights = sum(size for name, size in pool.memory.items() if "weights" in name) * worker
    least = _least_weights(model, plan.quantization)
    if weights < least * (1 - TOLERANCE):
        yield f"{pool.phase}: a worker's weights are {weights} bytes but {model.name} needs at least {least:.0f}"
    cache = sum(size for name, size in pool.memory.items() if "cache" in name) * worker
    if pool.cache_tokens < 1:
        yield f"{pool.phase}: cache_tokens must be at least 1 but is {pool.cache_tokens}"
        return
    size = plan.quantization.cache_bytes
    needed = pool.cache_tokens * kv_bytes_per_token(model, dtype_bytes=size, context=pool.cache_tokens)
    if needed > cache * (1 + 1e-3):
        yield f"{pool.phase}: {pool.cache_tokens} cached tokens need {needed:.0f} bytes but the cache has {cache}"


def _least_weights(model: ModelGraph, formats: Quantization) -> float:
    """Bytes below which the weights cannot be: experts in their format, the rest in no wider one than bf16."""
    experts = sum(
        run.repeat * op.parameters
        for run in model.runs
        if run.block.role == "layer"
        for op in run.block.operators
        if isinstance(op, Experts)
    )
    return experts * formats.expert_bytes + (parameters(model) - experts) * formats.weight_bytes
