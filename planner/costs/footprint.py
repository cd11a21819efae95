"""Bytes on the fullest device by category, for every row and every stage worth looking at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..strategy import EXPERT_OVERLAPS
from ..workload.strategy_table import Ints
from .compute import Device
from .keys import Floats
from .memory import StateBytes
from .rows import SELECTIVE, Rows
from .sharding import state_memory

PAIRED = EXPERT_OVERLAPS.index("microbatch")
CATEGORIES = ("weights", "gradients", "optimizer", "activations", "logits", "temporary", "allocator", "context")

SOURCES = {
    "weights": "parameters on this rank × bytes per weight, divided over the shards under ZeRO 3",
    "gradients": "parameters on this rank × bytes per gradient, divided over the shards from ZeRO 2 on",
    "optimizer": "fp32 master weights and moments, divided over the shards from ZeRO 1 on (Rajbhandari et al. 2020)",
    "activations": "inputs kept for backward × micro-batches alive at the schedule's worst moment (Korthikanti et al. "
    "2022)",
    "logits": "the vocabulary head's outputs in 16 and 32 bits with their gradient, one micro-batch",
    "temporary": "kernel workspace, the layer being recomputed, the largest product's weight gradient before it is "
    "added to the others, weights gathered under ZeRO 3, dispatch buffers",
    "allocator": "what the caching allocator cannot reuse, a fraction of everything above",
    "context": "device context and communication library buffers",
}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on the device by category, [rows, stages, CATEGORIES], whose sum it must hold; and bytes of optimizer
    states and activations that were moved off it, [rows, stages]."""

    device: Floats
    moved_optimizer: Floats
    moved_activations: Floats


def device_memory(rows: Rows, device: Device, states: StateBytes, is_head: Floats) -> Footprint:
    """Bytes of every row and stage."""
    framework = device.coefficients.framework
    stages, costs = rows.stages, rows.costs
    dense = rows.by_stage(stages.count, rows.dense_parameters())
    expert = rows.by_stage(stages.count, rows.gathered(costs.expert_parameters))
    weights, gradients, optimizer = state_memory(rows.table, dense, expert, states)
    body = rows.saved_bytes * (1 - is_head)
    activations = rows.by_stage(stages.live, body)
    activations = activations + rows.by_stage(stages.live_inputs, rows.kept_bytes)
    paired = (rows.table.ep_overlap == PAIRED)[:, None]
    if paired.any():  # the micro-batch whose compute hides another's dispatch
        activations = activations + np.where(paired, rows.by_stage(stages.count - stages.again, body), 0.0)
    zero = np.zeros_like(optimizer)
    moved_optimizer = np.where((rows.table.offload_optimizer > 0)[:, None], optimizer, zero)
    moved_activations = zero
    if np.any(rows.table.offload_activations):
        window = np.minimum(activations, _two_layers(rows, body))
        moved_activations = np.where((rows.table.offload_activations > 0)[:, None], activations - window, zero)
    optimizer, activations = optimizer - moved_optimizer, activations - moved_activations
    logits = rows.by_stage(stages.live, rows.saved_bytes * is_head)
    temporary = _temporary(rows, device, states, body)
    allocated = weights + gradients + optimizer + activations + logits + temporary
    slack = allocated * framework.allocator_fraction
    context = np.broadcast_to(framework.context_bytes, allocated.shape)
    held = np.stack([weights, gradients, optimizer, activations, logits, temporary, slack, context], axis=2)
    return Footprint(held, moved_optimizer, moved_activations)


def _two_layers(rows: Rows, body: Floats) -> Floats:
    """Activations that stay while a layer's are on their way out or in: its own and the next one's."""
    present = rows.stages.count[rows.pipeline] > 0
    result: Floats = 2 * (present * body[:, None, :]).max(axis=2)
    return result


def _temporary(rows: Rows, device: Device, states: StateBytes, body: Floats) -> Floats:
    """One layer's activations and their gradients while it is recomputed, the widest product's weight gradient while
    it waits to be added, two layers' weights and gradients while ZeRO 3 has them whole, and the send and receive
    buffers of expert dispatch."""
    stages, costs = rows.stages, rows.costs
    present = stages.count[rows.pipeline] > 0
    recomputed = (stages.again[rows.pipeline] > 0) & (rows.table.recompute != SELECTIVE)[:, None, None]
    working = 2 * (recomputed * body[:, None, :]).max(axis=2)
    gathered = rows.dense_parameters() + rows.gathered(costs.expert_parameters)
    unsharded = 2 * (states.weights + states.gradients) * (present * gathered[:, None, :]).max(axis=2)
    dispatch = rows.gathered(costs.dispatch_bytes)
    buffers = (present * dispatch[:, None, :]).max(axis=2)
    added = states.gradients * (present * rows.gathered(costs.widest_product)[:, None, :]).max(axis=2)
    total: Floats = np.where((rows.table.zero == 3)[:, None], unsharded, added) + working + buffers
    return total + device.coefficients.framework.workspace_bytes


def largest_temporary(rows: Rows, states: StateBytes, blocks: Ints) -> float:
    """What a rank that holds those blocks needs beside workspace and recompute, for the first row."""
    return float(largest_temporaries(rows, states, blocks)[0])


def largest_temporaries(rows: Rows, states: StateBytes, blocks: Ints) -> Floats:
    """The same for every row."""
    gathered = rows.dense_parameters() + rows.gathered(rows.costs.expert_parameters)
    whole = 2 * (states.weights + states.gradients) * gathered[:, blocks].max(axis=1)
    added = states.gradients * rows.gathered(rows.costs.widest_product)[:, blocks].max(axis=1)
    held = np.where(rows.table.zero == 3, whole, added)
    result: Floats = held + rows.gathered(rows.costs.dispatch_bytes)[:, blocks].max(axis=1)
    return result


def state_floor(
    dense: Floats, expert: Floats, shard: Floats, expert_shard: Floats, divided: NDArray[np.bool_], states: StateBytes
) -> Floats:
    """Bytes of weights, gradients and optimizer states that remain whatever the ZeRO stage; `divided` says where it
    may divide gradients and weights."""
    shares = dense / shard + expert / expert_shard
    kept = np.where(divided, shares, dense + expert)
    result: Floats = (states.weights + states.gradients) * kept + states.optimizer * shares
    return result
