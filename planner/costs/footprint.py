"""Bytes on the fullest device by category, for every row and every stage worth looking at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compute import Device
from .keys import Floats
from .memory import StateBytes
from .rows import Rows
from .sharding import state_memory

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "logits", "temporary", "allocator", "context")

SOURCES = {
    "weights": "parameters on this rank × bytes per weight, divided over the shards under ZeRO 3",
    "gradients": "parameters on this rank × bytes per gradient, divided over the shards from ZeRO 2 on",
    "optimizer": "fp32 master weights and moments, divided over the shards from ZeRO 1 on (Rajbhandari et al. 2020)",
    "activations": "inputs kept for backward × micro-batches alive at the schedule's worst moment (Korthikanti et al. "
    "2022)",
    "logits": "the vocabulary head's outputs in 16 and 32 bits with their gradient, one micro-batch",
    "temporary": "kernel workspace, the layer being recomputed, weights gathered under ZeRO 3, dispatch buffers",
    "allocator": "what the caching allocator cannot reuse, a fraction of everything above",
    "context": "device context and communication library buffers",
}


def device_memory(rows: Rows, device: Device, states: StateBytes, is_head: Floats) -> Floats:
    """Bytes by category, [rows, stages, CATEGORIES]; the sum over categories is what the device must hold."""
    framework = device.coefficients.framework
    stages, costs = rows.stages, rows.costs
    dense = rows.by_stage(stages.count, rows.dense_parameters())
    expert = rows.by_stage(stages.count, rows.gathered(costs.expert_parameters))
    weights, gradients, optimizer = state_memory(rows.table, dense, expert, states)
    body = rows.saved_bytes * (1 - is_head)
    activations = rows.by_stage(stages.live, body)
    activations = activations + rows.by_stage(stages.live_inputs, rows.gathered(costs.input_bytes))
    logits = rows.by_stage(stages.live, rows.saved_bytes * is_head)
    temporary = _temporary(rows, device, states, body)
    allocated = weights + gradients + optimizer + activations + logits + temporary
    slack = allocated * framework.allocator_fraction
    context = np.broadcast_to(framework.context_bytes, allocated.shape)
    return np.stack([weights, gradients, optimizer, activations, logits, temporary, slack, context], axis=2)


def _temporary(rows: Rows, device: Device, states: StateBytes, body: Floats) -> Floats:
    """One layer's activations and their gradients while it is recomputed, two layers' weights and gradients while
    ZeRO 3 has them whole, and the send and receive buffers of expert dispatch."""
    stages, costs = rows.stages, rows.costs
    present = stages.count[rows.pipeline] > 0
    recomputed = stages.again[rows.pipeline] > 0
    working = 2 * (recomputed * body[:, None, :]).max(axis=2)
    gathered = rows.dense_parameters() + rows.gathered(costs.expert_parameters)
    unsharded = 2 * (states.weights + states.gradients) * (present * gathered[:, None, :]).max(axis=2)
    dispatch = rows.gathered(costs.dispatch_bytes)
    buffers = (present * dispatch[:, None, :]).max(axis=2)
    total: Floats = np.where((rows.table.zero == 3)[:, None], unsharded, 0.0) + working + buffers
    return total + device.coefficients.framework.workspace_bytes


def state_floor(
    dense: Floats, expert: Floats, shard: Floats, expert_shard: Floats, alone: NDArray[np.bool_], states: StateBytes
) -> Floats:
    """Bytes of weights, gradients and optimizer states that remain whatever the ZeRO stage; `alone` marks pipelines of
    one stage, the only ones whose gradients and weights can be divided."""
    kept = states.weights + states.gradients
    divided = dense / shard + expert / expert_shard
    result: Floats = np.where(alone, kept * divided, kept * (dense + expert)) + states.optimizer * divided
    return result
