"""What data parallelism costs: gradient reduction, weight gathering, the optimizer step, and states per device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..strategy import SYNCS
from ..workload.strategy_table import Ints, StrategyTable, row_codes
from .coefficients import Framework
from .compute import Device
from .keys import Floats
from .memory import StateBytes
from .network import Network, groups_of


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
class Partition:
    """Ranks over which one kind of parameter is divided, neighbours first: weights, gradients and optimizer states,
    each level dividing the next, and the replicas beyond. `stride` is the distance between neighbours."""

    stride: Ints
    weights: Ints
    gradients: Ints
    states: Ints
    replicas: Ints


def dense_partition(table: StrategyTable) -> Partition:
    """cp × dp_shard ranks divide the states of dense parameters; under ZeRO 0 every cp × dp rank is a replica."""
    states = np.where(table.zero == 0, 1, table.cp * table.dp_shard)
    return _partition(table, table.tp, states, table.cp * table.dp // states)


def expert_partition(table: StrategyTable) -> Partition:
    """The same for experts, whose replicas are the edp ranks."""
    states = np.where(table.zero == 0, 1, np.maximum(table.edp // table.dp_replicate, 1))
    return _partition(table, table.ep * table.etp, states, table.edp // states)


def _partition(table: StrategyTable, stride: Ints, states: Ints, replicas: Ints) -> Partition:
    """A smaller partition of weights or gradients keeps its share of the states' ranks."""
    ranks = table.cp * table.dp_shard

    def divided(column: Ints, stage: int) -> Ints:
        copies = np.where(column == 0, 1, ranks // np.maximum(column, 1))
        return np.where(table.zero >= stage, np.maximum(states // copies, 1), 1)

    return Partition(stride, divided(table.weight_shard, 3), divided(table.gradient_shard, 2), states, replicas)


@dataclass(frozen=True, slots=True)
class _Transfers:
    """Seconds of one reduction and one gathering, of what follows once per step, and of averaging replicas."""

    reduce_s: Floats
    finish_s: Floats
    average_s: Floats
    pair_s: Floats
    gather_s: Floats
    renew_s: Floats
    messages: Floats


def sharding_time(
    table: StrategyTable, load: StageLoad, microbatches: Ints, network: Network, device: Device, states: StateBytes
) -> ShardingTime:
    """Exposed time by ZeRO stage (Rajbhandari et al. 2020, section 7): 0 reduces gradients once per step; 1 reduces
    and gathers once; 2 reduces after every micro-batch; 3 gathers twice and reduces once in every micro-batch. In a
    pipeline what a micro-batch exposes prolongs every rank's turn, so that the fill pays it once more per other rank.

    What hides does so under the compute of the last backward (gradients) and the first forward (weights), or of every
    micro-batch from ZeRO 2 on; one message of it never hides. An interleaved pipeline does pp micro-batches on one
    virtual stage before the next, so that all but one virtual stage's transfers have pp micro-batches to hide under
    (Narayanan et al. 2021, section 2.2). Partitions over fewer ranks than the states' (ZeRO++, Wang et al. 2023; MiCS,
    Zhang et al. 2022) finish the reduction and renew the weights once per step. Replicas that average every
    `sync_period` steps (DiLoCo, Douillard et al. 2023) pay that share of the averaging, of what the next period's
    compute does not hide of it (CO2, Sun et al. 2024), or of exchanging weights and momentum with one other replica
    (NoLoCo, Kolehmainen et al. 2025).
    """
    framework = device.coefficients.framework
    dense = _transfers(table, dense_partition(table), load.dense_parameters, load, network, device)
    expert = _transfers(table, expert_partition(table), load.expert_parameters, load, network, device)
    rounds = np.minimum(table.pp, microbatches)
    window = np.where(table.zero <= 1, 1 + (rounds - 1) * (1 - 1 / table.vpp), 1.0)
    backward = framework.grad_overlap * load.backward_s * window
    forward = framework.param_overlap * load.forward_s * window

    def exposed(seconds: Floats, window: Floats) -> Floats:
        shown = np.maximum(seconds - window, seconds / dense.messages)
        result: Floats = shown + framework.hidden_cost * (seconds - shown)
        return result

    turns = microbatches + (table.pp - 1) / table.vpp
    every = np.where(table.zero <= 1, 1, turns)
    reduce_s, gather_s = dense.reduce_s + expert.reduce_s, dense.gather_s + expert.gather_s
    average_s = dense.average_s + expert.average_s
    last = dense.finish_s + expert.finish_s + np.where(table.sync_period == 1, average_s, 0.0)
    again = np.where(table.zero == 3, gather_s, 0.0)
    gradients = np.where(
        table.zero <= 1,
        exposed(reduce_s + last, backward),
        every * exposed(reduce_s + again, backward) + exposed(last, backward),
    )
    gradients = gradients + _rare_average_s(table, load, microbatches, average_s, dense.pair_s + expert.pair_s)
    gathers = np.where(table.zero == 3, turns, 1)
    weights = gathers * exposed(gather_s, forward) + exposed(dense.renew_s + expert.renew_s, forward)
    local = local_parameters(table, load.dense_parameters, load.expert_parameters)
    return ShardingTime(gradients, weights, local * states.touched / device.effective_memory_bytes_per_s)


def _rare_average_s(
    table: StrategyTable, load: StageLoad, microbatches: Ints, average_s: Floats, pair_s: Floats
) -> Floats:
    """Seconds per step of averaging replicas every `sync_period` steps; none where they do so in every step."""
    hidden = table.sync_period * microbatches * (load.forward_s + load.backward_s)
    whole = np.choose(table.sync, [average_s, np.maximum(average_s - hidden, 0.0), pair_s])
    result: Floats = np.where(table.sync_period > 1, whole / table.sync_period, 0.0)
    return result


def _transfers(
    table: StrategyTable, part: Partition, parameters: Floats, load: StageLoad, network: Network, device: Device
) -> _Transfers:
    """Those of every row, worked out once for all rows that divide as many parameters in the same way."""
    columns = (part.stride, part.weights, part.gradients, part.states, part.replicas, table.zero)
    first, inverse = row_codes((*columns, parameters.astype(np.int64), load.layers.astype(np.int64)))
    chosen = Partition(*(column[first] for column in columns[:5]))
    made = _distinct_transfers(chosen, table.zero[first], parameters[first], load.layers[first], network, device)
    return _Transfers(*(getattr(made, name)[inverse] for name in _Transfers.__slots__))


def _distinct_transfers(
    part: Partition, zero: Ints, parameters: Floats, layers: Floats, network: Network, device: Device
) -> _Transfers:
    framework = device.coefficients.framework
    size = parameters * (0.0 if device.frozen else framework.gradient_comm_bytes)
    buckets = np.ceil(size / bucket_bytes(part.states * part.replicas, framework))
    messages = np.maximum(np.where(zero == 3, np.maximum(layers, buckets), buckets), 1.0)

    def seconds(op: str, whole: Floats, stride: Ints, degree: Ints) -> Floats:
        groups = groups_of(stride, degree, network.domain)
        return messages * network.crowded_seconds(op, whole / messages, groups, framework.crossing_slowdown)

    reduced = np.where(zero >= 2, part.gradients, part.states)
    gathered = np.where(zero == 3, part.weights, part.states)
    updated = np.where((zero < 3) & device.frozen, 0.0, parameters * 2.0)
    gather_s = seconds("all_gather", updated, part.stride, gathered)
    if framework.weights_by_broadcast:
        group = groups_of(part.stride, gathered, network.domain)
        sent_s = network.crowded_seconds("broadcast", updated / gathered, group, framework.crossing_slowdown)
        in_turn = gathered * sent_s
        gather_s = np.where(zero < 3, np.maximum(gather_s, in_turn), gather_s)
    return _Transfers(
        reduce_s=seconds("reduce_scatter", size, part.stride, reduced),
        finish_s=seconds("reduce_scatter", size / reduced, part.stride * reduced, part.states // reduced),
        average_s=seconds("all_reduce", size / part.states, part.stride * part.states, part.replicas),
        pair_s=seconds(
            "send_recv", 2 * size / part.states, part.stride * part.states, np.where(part.replicas % 2, 1, 2)
        ),
        gather_s=gather_s,
        renew_s=seconds("all_gather", updated / gathered, part.stride * gathered, part.states // gathered),
        messages=messages,
    )


def bucket_bytes(ranks: Ints, framework: Framework) -> Floats:
    """Bytes of gradients sent at a time: larger for many ranks, so that rings of many steps stay worth their latency
    (Megatron-LM, distributed_data_parallel_config.py: at least a million elements per rank)."""
    size: Floats = np.maximum(framework.bucket_bytes, 1e6 * ranks * framework.gradient_comm_bytes)
    return size


def local_parameters(table: StrategyTable, dense: Floats, expert: Floats) -> Floats:
    """Parameters whose optimizer states one rank updates."""
    return dense / dense_partition(table).states + expert / expert_partition(table).states


def state_memory(
    table: StrategyTable, dense: Floats, expert: Floats, states: StateBytes
) -> tuple[Floats, Floats, Floats]:
    """Bytes of weights, gradients and optimizer states on a rank holding those parameters; the arrays may have
    trailing stage axes. Replicas that average every many steps keep the weights and the momentum of the last average
    in 32 bits as well (DiLoCo, section 2), and what is on its way while it is hidden (CO2, section 3)."""
    parts = (dense_partition(table), expert_partition(table))
    extra = (slice(None), *(None,) * (dense.ndim - 1))
    outer = np.where(table.sync_period > 1, 8.0 + 4.0 * (table.sync == SYNCS.index("overlapped")), 0.0)[extra]

    def divided(per_parameter: float | Floats, by: tuple[Ints, Ints]) -> Floats:
        result: Floats = per_parameter * (dense / by[0][extra] + expert / by[1][extra])
        return result

    return (
        divided(states.weights, (parts[0].weights, parts[1].weights)),
        divided(states.gradients, (parts[0].gradients, parts[1].gradients)),
        divided(states.optimizer + outer, (parts[0].states, parts[1].states)),
    )
