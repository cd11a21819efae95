"""The load ratios of a placement counted again from the routing files that the plan was made from, where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from shardwright.models import ModelError, Routing, read_routing

from ..files import is_file
from ..inputs import routing_input
from ..plan.experts import ExpertPlan

SINGLE = 1e-5


def load_problems(plan: ExpertPlan) -> Iterator[str]:
    """One sentence for every workload whose load ratios are not those of the placement.

    Counted are equal GPUs whose copies share evenly, and files of counts or transitions: which ids of a token count and
    which tokens are held out, the plan does not say.
    """
    if any(record.role == "topology" for record in plan.inputs):
        return
    copied = any(len(gpus) > 1 for layer in plan.moe_layers for gpus in plan.placement[layer])
    if copied and plan.objective != "load":
        return
    counted = {routing.name: routing for routing in _routings(plan)}
    for at, score in enumerate(plan.scores):
        routing = counted.get(score.workload)
        if routing is None or routing.top_ids is not None:
            continue
        if (routing.experts, tuple(routing.layers.tolist())) != (plan.experts, plan.moe_layers):
            yield f"scores[{at}]: {score.workload} has other layers or experts than the plan"
            continue
        peaks = np.array([_peak(plan, layer, row) for layer, row in zip(plan.moe_layers, routing.loads, strict=True)])
        p95 = float(np.interp(0.95 * (len(peaks) - 1), np.arange(len(peaks)), np.sort(peaks)))
        found = {"load_ratio": peaks.mean(), "load_ratio_p95": p95, "load_ratio_worst": peaks.max()}
        for name, ratio in found.items():
            claimed = getattr(score, name)
            if not math.isclose(claimed, ratio, rel_tol=SINGLE):
                yield f"scores[{at}]: {name} is {claimed:.6g} but the placement makes {ratio:.6g}"


def _routings(plan: ExpertPlan) -> Iterator[Routing]:
    for record in plan.inputs:
        if record.role != "routing" or not is_file(record.source):
            continue
        try:
            if routing_input(record.source).sha256 == record.sha256:
                yield from read_routing(record.source)
        except ModelError:
            continue


def _peak(plan: ExpertPlan, layer: int, loads: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    held = np.zeros(plan.gpus)
    for share, gpus in zip(loads.tolist(), plan.placement[layer], strict=True):
        for gpu in gpus:
            held[gpu] += share / len(gpus)
    return float(held.max() * plan.gpus / max(loads.sum(), 1e-300))
