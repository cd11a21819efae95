"""An expert plan checked from first principles: every expert held, no slot overfull, numbers that fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..plan.base import PlanBase
from ..plan.experts import ExpertPlan
from .common import optimality_problems


def problems(plan: PlanBase) -> list[str]:
    """One sentence for everything that does not hold. The record itself refuses lost experts and overfull slots."""
    assert isinstance(plan, ExpertPlan)
    return [*_copies(plan), *_scores(plan), *optimality_problems(plan.optimality, plan.optimality.value)]


def _copies(plan: ExpertPlan) -> Iterator[str]:
    if list(plan.moe_layers) != sorted(set(plan.moe_layers)):
        yield "moe_layers must be in ascending order without repetition"
    for layer in plan.moe_layers:
        extra = sum(len(gpus) for gpus in plan.placement[layer]) - plan.experts
        if extra > plan.redundant:
            yield f"placement[{layer}] has {extra} redundant copies but the plan allows {plan.redundant}"
    if plan.gpus_per_node > plan.gpus or plan.gpus_per_node < 1:
        yield f"gpus_per_node must be from 1 to {plan.gpus} but is {plan.gpus_per_node}"


def _scores(plan: ExpertPlan) -> Iterator[str]:
    if not plan.scores:
        yield "scores must name at least one workload"
    for at, score in enumerate(plan.scores):
        ratios = (score.load_ratio, score.load_ratio_p95, score.load_ratio_worst)
        if not all(math.isfinite(ratio) and ratio >= 1 - 1e-9 for ratio in ratios):
            yield f"scores[{at}]: a load ratio must be at least 1"
        elif max(score.load_ratio, score.load_ratio_p95) > score.load_ratio_worst * (1 + 1e-9):
            yield f"scores[{at}]: load_ratio and load_ratio_p95 must not exceed load_ratio_worst"
        if score.fanout_nodes is not None and (score.fanout_gpus or 0) < score.fanout_nodes - 1e-9:
            yield f"scores[{at}]: a token cannot reach more nodes than GPUs"
