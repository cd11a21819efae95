"""A lower bound on the makespan of a schedule with unequal stages, cheap and vectorized over candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...strategy import Schedule
from .orders import chunks_per_rank, stage_of
from .walk import BoundaryTimes, StageTimes

Floats = NDArray[np.float64]


def lower_bound_s(
    schedule: Schedule, pp: int, microbatches: int, stages: StageTimes, boundaries: BoundaryTimes, vpp: int = 1
) -> Floats:
    """Seconds no order of operations can beat, shape [...], with times as `walk` takes them.

    Every rank must wait for its first activation, do all its work, and then let the last gradient travel up; and one
    micro-batch must go all the way down and back.
    """
    forward, input_grad, weight_grad = np.broadcast_arrays(stages.forward_s, stages.input_grad_s, stages.weight_grad_s)
    split = schedule in ("zb-h1", "zb-v", "dualpipe")
    climbing = input_grad if split else input_grad + weight_grad
    trailing = weight_grad if split else np.zeros_like(weight_grad)
    chains = 2 if schedule == "dualpipe" else 1
    length = forward.shape[-1] // chains
    starts = np.arange(chains).repeat(length) * length
    head, tail = _before(forward, boundaries.forward_s, starts), _before(climbing, boundaries.backward_s, starts)
    bound = (head + tail + forward + climbing).max(axis=-1)
    each = microbatches // chains
    saved = _overlap_saving(schedule, pp, stages) * each
    for rank in range(pp):
        own = [stage_of(schedule, pp, rank, chunk) for chunk in range(chunks_per_rank(schedule, vpp))]
        wait = head[..., own].min(axis=-1)
        fill = each * (forward + climbing)[..., own].sum(axis=-1) - saved[..., own].sum(axis=-1)
        finish = (tail[..., own] + trailing[..., starts[own]]).min(axis=-1)
        late = each * trailing[..., own].sum(axis=-1)
        bound = np.maximum(bound, wait + fill + np.maximum(late, finish))
    return np.asarray(bound)


def _before(stage_s: Floats, boundary_s: Floats, starts: NDArray[np.int64]) -> Floats:
    """Time of the stages and boundaries between the start of each stage's chain and the stage."""
    steps = stage_s[..., :-1] + boundary_s
    total = np.concatenate([np.zeros((*steps.shape[:-1], 1)), np.cumsum(steps, axis=-1)], axis=-1)
    return np.asarray(total - total[..., starts])


def _overlap_saving(schedule: Schedule, pp: int, stages: StageTimes) -> Floats:
    """What overlapping saves at most per forward of every stage: with the backward of its rank's other chunk."""
    work = stages.forward_s + (stages.input_grad_s + stages.weight_grad_s)[..., ::-1]
    if stages.pair_s is None or schedule != "dualpipe":
        return np.zeros_like(work)
    return np.maximum(0.0, work - stages.pair_s)
