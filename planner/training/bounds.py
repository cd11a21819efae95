"""Lower bounds on every leaf of a node: what no choice of sharding, schedule, layout or recompute can go below."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..costs.footprint import state_floor
from ..costs.step import TrainingCosts
from ..strategy import SCHEDULES
from ..workload.strategy_table import BALANCED
from .objectives import Measures
from .space import Nodes, Space

Floats = NDArray[np.float64]

ROUNDING = 1 - 1e-9


def node_floors(space: Space, nodes: Nodes, costs: TrainingCosts, *, interleaved: bool = True) -> Measures:
    """What no leaf of a node goes below, or with `interleaved` false none without virtual stages.

    Time: the slowest rank takes at least the mean of all ranks, weighted by speed, so m micro-batches take m · Σ / pp,
    and the fill at least (Σ - Σ / pp) / vpp with the largest vpp allowed (none for zero-bubble schedules); recompute,
    exposed reductions and stalls only add. Memory: the fullest rank holds at least the mean of the states.
    """
    spread = (nodes.pp > 1) & space.choices.may_spread()
    table = nodes.table(BALANCED, vocab_parallel=spread.astype(np.int64))
    rows = costs.rows(table)
    both = rows.gathered(rows.costs.forward_s + rows.costs.backward_s)
    total = rows.over_all(rows.stages.total, both)
    ranks = space.chain.ranks
    speeds = {pp: float((1.0 / ranks.of_stages(pp)[0]).sum()) for pp in np.unique(nodes.pp).tolist()}
    share = total / np.array([speeds[pp] for pp in nodes.pp.tolist()]) if speeds else total
    microbatches = rows.microbatches
    _, hops = costs.hops(table)
    framework = costs.device.coefficients.framework
    vpp = _largest_vpp(space, nodes, microbatches) if interleaved else 1.0
    fill = np.maximum(total - share, 0.0) / vpp + 2 * hops
    bubble_free = {"zb-h1", "zb-v", "dualpipe"} & set(space.scope.constraints.schedule)
    if bubble_free:
        fill = np.zeros(len(nodes))
    dense = rows.over_all(rows.stages.total, rows.dense_parameters()) / nodes.pp
    expert = rows.over_all(rows.stages.total, rows.gathered(rows.costs.expert_parameters)) / nodes.pp
    shard = (nodes.cp * nodes.dp).astype(np.float64)
    edp = np.maximum(nodes.tp * nodes.cp * nodes.dp // (nodes.ep * nodes.etp), 1).astype(np.float64)
    updated = dense / shard + expert / edp
    optimizer = updated * costs.states.touched / costs.device.effective_memory_bytes_per_s
    states = costs.states
    if space.choices.may_offload():
        optimizer, states = np.zeros(len(nodes)), replace(states, optimizer=0.0)
    seconds = microbatches * share + np.where(nodes.pp > 1, fill, 0.0) + optimizer + framework.step_s
    divided = (nodes.pp == 1) | space.choices.divides_pipelines()
    held = state_floor(dense, expert, shard, edp, divided, states)
    held = (held + framework.workspace_bytes) * (1 + framework.allocator_fraction) + framework.context_bytes
    held = held * float(ranks.tightness.min())
    return Measures(seconds * ROUNDING, microbatches * total / nodes.pp * ROUNDING, held * ROUNDING)


def _largest_vpp(space: Space, nodes: Nodes, microbatches: NDArray[np.int64]) -> Floats:
    """The largest virtual-stage count a node's interleaving may have; 1 where it may not interleave."""
    interleaved = SCHEDULES.index("interleaved")
    largest: dict[int, int] = {}
    for pp in np.unique(nodes.pp).tolist():
        largest[pp] = max((vpp for vpp, code, *_ in space.choices.pipelines(pp) if code == interleaved), default=1)
    per_node = np.array([largest[pp] for pp in nodes.pp.tolist()], dtype=np.float64)
    return np.where(microbatches % nodes.pp == 0, per_node, 1.0)
