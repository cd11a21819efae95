"""What data parallelism costs: gradient reduction, weight gathering, the optimizer step, and states per device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..workload.strategy_table import Ints, StrategyTable
from .coefficients import Framework
from .compute import Device
from .keys import Floats
from .memory import StateBytes
from .network import Groups, Network, groups_of


@dataclass(frozen=True, slots=True)
class StageLoad:
    """Arrays over strategies: parameters of the fullest rank, its layers, and one micro-batch's compute on it."""

    dense_parameters: Floats
    expert_parameters: Floats
    layers: Floats
    forward_s: Floats
    backward_s: Floats


@dataclass(frozen=True, slots=True)
class ShardingTime:
    """Exposed seconds per step: gradients reduced, weights gathered, optimizer states updated."""

    gradients_s: Floats
    weights_s: Floats
    optimizer_s: Floats


@dataclass(frozen=True, slots=True)
class ShardGroups:
    """Groups over which the states of one kind of parameter are divided, and over which they are replicated."""

    shard: Groups
    replicate: Groups


def dense_groups(table: StrategyTable, domain: int) -> ShardGroups:
    """cp × dp_shard ranks share the states; under ZeRO 0 every cp × dp rank is a replica."""
    shard = np.where(table.zero == 0, 1, table.cp * table.dp_shard)
    return _groups(table.tp, shard, table.cp * table.dp // shard, domain)


def expert_groups(table: StrategyTable, domain: int) -> ShardGroups:
    """The same for experts, whose replicas are the edp ranks."""
    shard = np.where(table.zero == 0, 1, np.maximum(table.edp // table.dp_replicate, 1))
    return _groups(table.ep * table.etp, shard, table.edp // shard, domain)


def _groups(stride: Ints, shard: Ints, replicate: Ints, domain: int) -> ShardGroups:
    return ShardGroups(groups_of(stride, shard, domain), groups_of(stride * shard, replicate, domain))


@dataclass(frozen=True, slots=True)
class _Transfers:
    reduce_s: Floats
    replicate_s: Floats
    gather_s: Floats
    messages: Floats


def sharding_time(
    table: StrategyTable, load: StageLoad, microbatches: Ints, network: Network, device: Device, states: StateBytes
) -> ShardingTime:
    """Exposed time by ZeRO stage (Rajbhandari et al. 2020, section 7): 0 reduces gradients once per step; 1 reduces
    and gathers once; 2 reduces after every micro-batch; 3 gathers twice and reduces once in every micro-batch.

    What hides does so under the compute of the last backward (gradients) and the first forward (weights), or of every
    micro-batch from ZeRO 2 on; one message of it never hides. An interleaved pipeline does pp micro-batches on one
    virtual stage before the next, so that all but one virtual stage's transfers have pp micro-batches to hide under
    (Narayanan et al. 2021, section 2.2).
    """
    framework = device.coefficients.framework
    parts = [
        _transfers(dense_groups(table, network.domain), load.dense_parameters, load, table.zero, network, device),
        _transfers(expert_groups(table, network.domain), load.expert_parameters, load, table.zero, network, device),
    ]
    reduce_s = sum((part.reduce_s for part in parts), np.zeros(len(table)))
    replicate_s = sum((part.replicate_s for part in parts), np.zeros(len(table)))
    gather_s = sum((part.gather_s for part in parts), np.zeros(len(table)))
    messages = parts[0].messages
    rounds = np.minimum(table.pp, microbatches)
    window = np.where(table.zero <= 1, 1 + (rounds - 1) * (1 - 1 / table.vpp), 1.0)
    backward = framework.grad_overlap * load.backward_s * window
    forward = framework.param_overlap * load.forward_s * window

    def exposed(seconds: Floats, window: Floats) -> Floats:
        shown = np.maximum(seconds - window, seconds / messages)
        result: Floats = shown + framework.hidden_cost * (seconds - shown)
        return result

    every = microbatches.astype(np.float64)
    once = exposed(reduce_s + replicate_s, backward)
    each = every * exposed(reduce_s, backward) + exposed(replicate_s, backward)
    whole = every * exposed(reduce_s + gather_s, backward) + exposed(replicate_s, backward)
    gradients = np.select([table.zero <= 1, table.zero == 2], [once, each], whole)
    weights = np.select(
        [table.zero == 0, table.zero <= 2],
        [np.zeros(len(table)), exposed(gather_s, forward)],
        every * exposed(gather_s, forward),
    )
    local = local_parameters(table, load.dense_parameters, load.expert_parameters)
    return ShardingTime(gradients, weights, local * states.touched / device.effective_memory_bytes_per_s)


def _transfers(
    groups: ShardGroups, parameters: Floats, load: StageLoad, zero: Ints, network: Network, device: Device
) -> _Transfers:
    framework = device.coefficients.framework
    size = parameters * (0.0 if device.frozen else framework.gradient_comm_bytes)
    buckets = np.ceil(size / bucket_bytes(groups.shard.degree * groups.replicate.degree, framework))
    messages = np.maximum(np.where(zero == 3, np.maximum(load.layers, buckets), buckets), 1.0)
    degree = groups.shard.degree
    reduce_s = messages * network.seconds("reduce_scatter", size / messages, groups.shard)
    updated = np.where((zero < 3) & device.frozen, 0.0, parameters * 2.0)
    gather_s = messages * network.seconds("all_gather", updated / messages, groups.shard)
    if framework.weights_by_broadcast:
        in_turn = degree * network.seconds("broadcast", updated / degree, groups.shard)
        gather_s = np.where(zero < 3, np.maximum(gather_s, in_turn), gather_s)
    replicate_s = messages * network.seconds("all_reduce", size / degree / messages, groups.replicate)
    return _Transfers(reduce_s, replicate_s, gather_s, messages)


def bucket_bytes(ranks: Ints, framework: Framework) -> Floats:
    """Bytes of gradients sent at a time: larger for many ranks, so that rings of many steps stay worth their latency
    (Megatron-LM, distributed_data_parallel_config.py: at least a million elements per rank)."""
    size: Floats = np.maximum(framework.bucket_bytes, 1e6 * ranks * framework.gradient_comm_bytes)
    return size


def local_parameters(table: StrategyTable, dense: Floats, expert: Floats) -> Floats:
    """Parameters whose optimizer states one rank updates."""
    dense_shard, expert_shard = shards(table)
    return np.where(table.zero == 0, dense + expert, dense / dense_shard + expert / expert_shard)


def shards(table: StrategyTable) -> tuple[Ints, Ints]:
    """Ranks that divide the states of dense and of expert parameters from ZeRO 1 on."""
    return table.cp * table.dp_shard, np.maximum(table.edp // table.dp_replicate, 1)


def state_memory(
    table: StrategyTable, dense: Floats, expert: Floats, states: StateBytes
) -> tuple[Floats, Floats, Floats]:
    """Bytes of weights, gradients and optimizer states on a rank holding those parameters; the arrays may have
    trailing stage axes."""
    dense_shard, expert_shard = shards(table)
    extra = (slice(None), *(None,) * (dense.ndim - 1))

    def divided(per_parameter: float, stage: int) -> Floats:
        on = (table.zero >= stage)[extra]
        result: Floats = per_parameter * (
            dense / np.where(on, dense_shard[extra], 1) + expert / np.where(on, expert_shard[extra], 1)
        )
        return result

    return divided(states.weights, 3), divided(states.gradients, 2), divided(states.optimizer, 1)
