"""An expert plan checked from first principles: every expert held, no slot overfull, numbers that fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from ..files import is_file, read_document, sha256_of
from ..inputs import restored_topology
from ..plan.base import PlanBase
from ..plan.experts import SENTENCES, ExpertPlan, WorkloadScore
from ..plan.io import load
from .common import TOLERANCE, optimality_problems
from .expert_loads import load_problems, returning_value

SINGLE = 1e-5  # flows are added up in single precision


def problems(plan: PlanBase) -> list[str]:
    """One sentence for everything that does not hold. The record itself refuses lost experts and overfull slots."""
    assert isinstance(plan, ExpertPlan)
    return [
        *_labels(plan),
        *_copies(plan),
        *_cluster(plan),
        *_scores(plan),
        *_value(plan),
        *_migration(plan),
        *load_problems(plan),
        *optimality_problems(plan.optimality, plan.optimality.value),
    ]


def _labels(plan: ExpertPlan) -> Iterator[str]:
    if plan.optimality.objective != SENTENCES[plan.objective]:
        yield f"optimality.objective is not that of objective {plan.objective}"
    if plan.optimality.sense != "min":
        yield "optimality.sense must be min"
    fixed = {"load": 1.0, "transitions": 0.0}.get(plan.objective)
    if not (math.isfinite(plan.load_weight) and plan.load_weight >= 0):
        yield f"load_weight must be a number of at least 0 but is {plan.load_weight}"
    elif fixed is not None and plan.load_weight != fixed:
        yield f"load_weight must be {fixed:g} for objective {plan.objective} but is {plan.load_weight:g}"
    if (plan.flow == "home") != (plan.objective == "fanout"):
        yield f"flow is {plan.flow} but objective {plan.objective} has tokens go the other way"
    roles = [record.role for record in plan.inputs]
    if ("plan" in roles) != (plan.migration is not None):
        yield "inputs must name the plan in force where there is a migration, and only there"
    for at, other in enumerate(plan.alternatives):
        if not other.value >= plan.optimality.bound * (1 - TOLERANCE):
            yield f"alternatives[{at}] is below what the bound says is possible"


def _copies(plan: ExpertPlan) -> Iterator[str]:
    if not plan.moe_layers:
        yield "moe_layers must name at least one layer"
    if any(later <= earlier for earlier, later in pairwise(plan.moe_layers)):
        yield "moe_layers must be in ascending order without repetition"
    extras = [sum(len(gpus) for gpus in plan.placement[layer]) - plan.experts for layer in plan.moe_layers]
    for layer, extra in zip(plan.moe_layers, extras, strict=True):
        if extra > plan.redundant:
            yield f"placement[{layer}] has {extra} redundant copies but the plan allows {plan.redundant}"
    if plan.objective == "load" and extras and max(extras) != plan.redundant:
        yield f"redundant is {plan.redundant} but no layer has that many copies more than experts"
    if sum(plan.slots) < plan.experts + plan.redundant:
        yield f"slots hold {sum(plan.slots)} but experts and redundant copies are {plan.experts + plan.redundant}"


def _cluster(plan: ExpertPlan) -> Iterator[str]:
    if not 1 <= plan.gpus_per_node <= plan.gpus:
        yield f"gpus_per_node must be from 1 to {plan.gpus} but is {plan.gpus_per_node}"
        return
    if any(record.role == "topology" for record in plan.inputs):
        topology = restored_topology(plan)
        if plan.link_ratio is not None:
            yield f"link_ratio is {plan.link_ratio} but links are those of the topology"
        nodes = topology.device_node.tolist()
        if topology.n_devices != plan.gpus:
            yield f"gpus is {plan.gpus} but the topology has {topology.n_devices}"
        if (most := max(nodes.count(node) for node in set(nodes))) != plan.gpus_per_node:
            yield f"gpus_per_node is {plan.gpus_per_node} but the topology has {most}"
        return
    if len(set(plan.slots)) > 1:
        yield f"slots must be as many on all of the equal GPUs but are {min(plan.slots)} to {max(plan.slots)}"
    if plan.gpus % plan.gpus_per_node:
        yield f"gpus_per_node is {plan.gpus_per_node}, which does not divide the {plan.gpus} equal GPUs"
    if plan.link_ratio is not None and not (math.isfinite(plan.link_ratio) and plan.link_ratio >= 1):
        yield f"link_ratio must be at least 1 but is {plan.link_ratio}"
    shape = next((text for text in plan.assumptions if text.startswith("equal GPUs: ")), "")
    said = f"{plan.gpus} GPUs"
    if plan.gpus_per_node != plan.gpus:
        said += f" in nodes of {plan.gpus_per_node}, links {plan.link_ratio or 0:g}:1"
    if shape.removeprefix("equal GPUs: ") != said:
        yield f"gpus, gpus_per_node and link_ratio say {said} but the plan assumes {shape or 'no GPUs'}"


def _scores(plan: ExpertPlan) -> Iterator[str]:
    if all(score.held_out for score in plan.scores):
        yield "scores must name at least one workload that the plan was made with"
    for at, score in enumerate(plan.scores):
        for text in _score(plan, score):
            yield f"scores[{at}]: {text}"


def _score(plan: ExpertPlan, score: WorkloadScore) -> Iterator[str]:
    if not (math.isfinite(score.tokens) and score.tokens >= 0):
        yield f"tokens must be at least 0 but are {score.tokens}"
    ratios = (score.load_ratio, score.load_ratio_p95, score.load_ratio_worst)
    if not all(math.isfinite(ratio) and ratio >= 1 - 1e-9 for ratio in ratios):
        yield "a load ratio must be at least 1"
    elif max(score.load_ratio, score.load_ratio_p95) > score.load_ratio_worst * (1 + 1e-9):
        yield "load_ratio and load_ratio_p95 must not exceed load_ratio_worst"
    parts = (score.traffic, score.hops_per_token, score.heaviest_pair)
    if any(part is None for part in parts) != all(part is None for part in parts):
        yield "traffic, hops_per_token and heaviest_pair are all known or none is"
    elif score.traffic is not None and score.hops_per_token is not None and score.heaviest_pair is not None:
        if not math.isclose(score.hops_per_token, score.traffic * (len(plan.moe_layers) - 1), rel_tol=SINGLE):
            yield "hops_per_token must be traffic times the transitions between layers"
        if not 0 <= score.heaviest_pair <= score.hops_per_token * (1 + SINGLE):
            yield "heaviest_pair must be from 0 to hops_per_token"
    if (score.fanout_gpus is None) != (score.fanout_nodes is None):
        yield "fanout_gpus and fanout_nodes are both known or neither is"
    elif score.fanout_gpus is not None and score.fanout_nodes is not None:
        nodes = -(-plan.gpus // plan.gpus_per_node)
        if not 1 <= score.fanout_nodes <= min(nodes, score.fanout_gpus) + 1e-9 or score.fanout_gpus > plan.gpus:
            yield f"a token reaches from 1 to {nodes} nodes, on no more of them than GPUs, and at most {plan.gpus} GPUs"


def _value(plan: ExpertPlan) -> Iterator[str]:
    """The value from the score, where one workload was planned with."""
    seen = [score for score in plan.scores if not score.held_out]
    if len(seen) != 1:
        return
    traffic, pair = seen[0].traffic, seen[0].heaviest_pair
    value: float | None
    if plan.objective == "minimax":
        value = pair
    elif plan.objective == "fanout":
        if (value := returning_value(plan, seen[0])) is None:
            return
    elif plan.objective == "load":
        value = seen[0].load_ratio
    else:
        value = None if traffic is None else traffic + plan.load_weight * seen[0].load_ratio
    if value is None:
        yield f"scores: objective {plan.objective} needs traffic"
    elif not math.isclose(plan.optimality.value, value, rel_tol=SINGLE, abs_tol=1e-9):
        yield f"optimality.value is {plan.optimality.value:.6g} but the scores make {value:.6g}"


def _migration(plan: ExpertPlan) -> Iterator[str]:
    move = plan.migration
    if move is None:
        return
    held = sum(len(gpus) for layer in plan.moe_layers for gpus in plan.placement[layer])
    if move.residents != held:
        yield f"migration.residents is {move.residents} but the placement has {held} copies"
    before = _in_force(plan)
    if before is not None and before.gpus == plan.gpus and before.moe_layers == plan.moe_layers:
        moved = sum(
            len(set(now) - set(was))
            for layer in plan.moe_layers
            for now, was in zip(plan.placement[layer], before.placement[layer], strict=False)
        )
        if move.moved != moved:
            yield f"migration.moved is {move.moved} but {moved} copies are where the plan in force had none"
    if not 0 <= move.moved <= move.residents:
        yield f"migration.moved must be from 0 to the {move.residents} residents but is {move.moved}"
    if not (math.isfinite(move.bytes) and move.bytes >= 0 and (move.bytes > 0) == (move.moved > 0)):
        yield f"migration.bytes must be more than 0 where copies move but is {move.bytes}"
    if move.seconds is not None and not (math.isfinite(move.seconds) and move.seconds >= 0):
        yield f"migration.seconds must be at least 0 but is {move.seconds}"
    if move.pays_after_s is not None and not (move.seconds is not None and move.pays_after_s >= move.seconds):
        yield "migration.pays_after_s must be at least the seconds of the move"


def _in_force(plan: ExpertPlan) -> ExpertPlan | None:
    """The plan in force where its file still lies there unchanged."""
    record = next((each for each in plan.inputs if each.role == "plan"), None)
    if record is None or not is_file(record.source) or sha256_of(read_document(record.source, "plan")) != record.sha256:
        return None
    found = load(record.source)
    return found if isinstance(found, ExpertPlan) else None
