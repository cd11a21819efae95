"""Does a training plan hold? Ranks, groups, stages, divisibility and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from shardwright.models import Attention, Experts, ModelGraph
from shardwright.topologies import Topology

from ..inputs import restored_model, restored_topology
from ..plan.base import PlanBase
from ..plan.training import AS_EVEN, CUT_ALIKE, CUT_FREELY, StageMemory, TrainingPlan
from .common import optimality_problems
from .training_claims import alternative_problems, prediction_problems, robustness_problems
from .training_memory import expected_state_bytes

DENSE_AXES = ("tp", "cp", "dp_shard", "dp_replicate", "pp")
EXPERT_AXES = ("etp", "ep", "edp", "pp")
MEMORY_TOLERANCE = 0.01
ROUNDING_BYTES = 1e6


def problems(plan: PlanBase) -> list[str]:
    """One sentence for everything that does not hold."""
    assert isinstance(plan, TrainingPlan)
    model, topology = restored_model(plan), restored_topology(plan)
    found = [*_names(plan, model, topology), *_ranks(plan, topology), *_stages(plan, model), *_degrees(plan, model)]
    if found:
        return found
    return [
        *_groups(plan),
        *_memory(plan, model, topology),
        *prediction_problems(plan, model, topology),
        *optimality_problems(plan.optimality, _objective(plan), _covered(plan), CUT_ALIKE),
        *alternative_problems(plan),
        *robustness_problems(plan),
    ]


def _objective(plan: TrainingPlan) -> float:
    """What the plan predicts of what it was made for."""
    if plan.optimality.objective == "days":
        return math.nan if plan.prediction.campaign is None else plan.prediction.campaign.days
    return getattr(plan.prediction, plan.optimality.objective, math.nan) or math.nan


def _covered(plan: TrainingPlan) -> str:
    """What the bound may be claimed of; nothing for a strategy that was given."""
    if plan.optimality.candidates == 1 and not plan.optimality.covers:
        return ""
    return CUT_FREELY if "uneven" in plan.job.explore else AS_EVEN


def _names(plan: TrainingPlan, model: ModelGraph, topology: Topology) -> Iterator[str]:
    for name, given, made in (("model", plan.model, model.name), ("cluster", plan.cluster, topology.name)):
        if given != made:
            yield f"{name} is {given} but inputs has {made}"


def _ranks(plan: TrainingPlan, topology: Topology) -> Iterator[str]:
    world, devices = plan.strategy.world_size, plan.rank_to_device
    if len(devices) != world:
        yield f"rank_to_device has {len(devices)} entries but the strategy has {world} ranks"
    if len(set(devices)) != len(devices):
        yield "rank_to_device gives one device to two ranks"
    if not all(0 <= device < topology.n_devices for device in devices):
        yield f"rank_to_device names a device outside 0 … {topology.n_devices - 1}"


def _stages(plan: TrainingPlan, model: ModelGraph) -> Iterator[str]:
    strategy, stages = plan.strategy, plan.stages
    if len(stages) != strategy.virtual_stages:
        yield f"stages has {len(stages)} entries but the strategy has {strategy.virtual_stages} virtual stages"
        return
    if {stage.pipeline_rank for stage in stages} != set(range(strategy.pp)):
        yield "stages does not give every pipeline rank something to do"
    busy = {stage.pipeline_rank for stage in stages if stage.layers or stage.holds}
    idle = any(not (stage.layers or stage.holds) for stage in stages)
    if any(stage.layers < 0 for stage in stages) or (idle and strategy.schedule != "interleaved"):
        yield "stages has an empty stage"
    elif len(busy) != strategy.pp:
        yield "stages leaves a pipeline rank without anything to do"
    if stages[0].first_layer != 0 or any(a.first_layer + a.layers != b.first_layer for a, b in pairwise(stages)):
        yield "stages drops or repeats a layer between two stages"
    for at, stage in enumerate(stages):
        copy = strategy.pp - 1 - at if strategy.schedule == "dualpipe" else None
        if stage.copy_on != copy:
            yield f"stages[{at}].copy_on is {stage.copy_on} but schedule {strategy.schedule} has {copy}"
    last = stages[-1].first_layer + stages[-1].layers
    if last != model.num_layers:
        yield f"stages covers {last} layers but {model.name} has {model.num_layers}"
    if strategy.stage_layers is not None and strategy.stage_layers != tuple(stage.layers for stage in stages):
        yield "stages and strategy.stage_layers differ"
    for part in ("embedding", "head"):
        holders = [index for index, stage in enumerate(stages) if part in stage.holds]
        wanted = 0 if part == "embedding" else len(stages) - 1
        has_part = any(run.block.role == part for run in model.runs)
        if strategy.vocab_parallel and holders:
            yield f"stages must not hold the {part}, which every pipeline rank has a share of, but {holders} do"
        elif has_part and not strategy.vocab_parallel and holders != [wanted]:
            yield f"stages must hold the {part} once, on virtual stage {wanted}, but it is on {holders}"


def _degrees(plan: TrainingPlan, model: ModelGraph) -> Iterator[str]:
    strategy, job = plan.strategy, plan.job
    yield from _divides("gbs", job.gbs, "mbs × dp", strategy.mbs * strategy.dp)
    yield from _divides("sequence length", job.sequence_length, "cp", strategy.cp)
    operators = [op for block in model.blocks for op in block.operators]
    for op in operators:
        if isinstance(op, Attention):
            yield from _divides("attention heads", op.heads, "tp", strategy.tp)
        if isinstance(op, Experts):
            yield from _divides("experts", op.experts, "ep", strategy.ep)
    for name, level in (("weight_shard", 3), ("gradient_shard", 2)):
        if getattr(strategy, name) is not None and strategy.zero < level:
            yield f"strategy.{name} needs zero of at least {level} but got {strategy.zero}"
    if strategy.tp_overlap and strategy.tp == 1:
        yield "strategy.tp_overlap needs tp of at least 2 but got 1"
    if strategy.ep > 1 and not any(isinstance(op, Experts) for op in operators):
        yield f"strategy.ep is {strategy.ep} but {model.name} has no experts"


def _divides(what: str, whole: int, by: str, parts: int) -> Iterator[str]:
    if whole % parts:
        yield f"{what} {whole} must be a multiple of {by} {parts}"


def _groups(plan: TrainingPlan) -> Iterator[str]:
    strategy, groups = plan.strategy, plan.rank_groups
    problems: list[str] = []
    for axis in dict.fromkeys((*DENSE_AXES, *EXPERT_AXES)):
        degree = getattr(strategy, axis)
        if axis not in groups:
            if degree > 1:
                problems.append(f"rank_groups has no {axis} but its degree is {degree}")
            continue
        problems.extend(_partition(axis, groups[axis], degree, strategy.world_size))
    yield from problems
    if problems:
        return  # a grid is made of ranks that exist
    for axes in (DENSE_AXES, EXPERT_AXES):
        yield from _grid(axes, plan)


def _partition(axis: str, groups: Sequence[Sequence[int]], degree: int, world: int) -> Iterator[str]:
    if any(len(group) != degree for group in groups):
        yield f"rank_groups.{axis} has a group that is not of {degree} ranks"
    if sorted(rank for group in groups for rank in group) != list(range(world)):
        yield f"rank_groups.{axis} does not hold every rank exactly once"


def _grid(axes: Iterable[str], plan: TrainingPlan) -> Iterator[str]:
    """Groups of different axes of one grid share at most one rank: their group numbers tell all ranks apart."""
    strategy = plan.strategy
    present = [axis for axis in axes if axis in plan.rank_groups and getattr(strategy, axis) > 1]
    for axis in present:
        others = [other for other in present if other != axis]
        number = {other: _group_numbers(plan.rank_groups[other], strategy.world_size) for other in others}
        for group in plan.rank_groups[axis]:
            for other in others:
                seen = number[other][list(group)]
                if len(set(seen.tolist())) != len(group):
                    yield f"rank_groups.{axis} and rank_groups.{other} share more than one rank"
                    return


def _group_numbers(groups: Sequence[Sequence[int]], world: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    numbers = np.zeros(world, dtype=np.int64)
    for index, group in enumerate(groups):
        numbers[list(group)] = index
    return numbers


def _memory(plan: TrainingPlan, model: ModelGraph, topology: Topology) -> Iterator[str]:
    capacity = min(topology.accelerators[kind].memory_bytes for kind in set(_kinds(plan, topology)))
    if plan.capacity_bytes != capacity:
        yield f"capacity_bytes is {plan.capacity_bytes} but the smallest device has {capacity}"
    if sorted(stage.pipeline_rank for stage in plan.memory) != list(range(plan.strategy.pp)):
        yield "memory must have one entry per pipeline rank"
        return
    memory = np.array([topology.accelerators[kind].memory_bytes for kind in _kinds(plan, topology)])
    smallest = memory.reshape(plan.strategy.pp, -1).min(axis=1)
    for stage in plan.memory:
        usable = float(smallest[stage.pipeline_rank]) * (1 - plan.job.memory_margin)
        place = f"memory of pipeline rank {stage.pipeline_rank}"
        if sum(stage.categories.values()) != stage.total_bytes:
            yield f"{place}: categories add up to {sum(stage.categories.values())}, not {stage.total_bytes}"
        has = int(smallest[stage.pipeline_rank])
        if abs(stage.capacity_bytes - has) > ROUNDING_BYTES:
            yield f"{place}: capacity is {stage.capacity_bytes} but its smallest device has {has}"
        if min(stage.categories.values(), default=0) < 0:
            yield f"{place}: a category is negative"
        if stage.total_bytes > usable and plan.optimality.candidates > 1:
            yield f"{place}: {stage.total_bytes} bytes do not fit in the {usable:.0f} usable"
        yield from _state(place, stage, plan, model)


def _state(place: str, stage: StageMemory, plan: TrainingPlan, model: ModelGraph) -> Iterator[str]:
    for category, (least, most) in expected_state_bytes(plan, model, stage.pipeline_rank).items():
        given = stage.categories.get(category, 0)
        if (
            not least * (1 - MEMORY_TOLERANCE) - ROUNDING_BYTES
            <= given
            <= most * (1 + MEMORY_TOLERANCE) + ROUNDING_BYTES
        ):
            wanted = f"{least:.0f}" if least == most else f"{least:.0f} to {most:.0f}"
            yield f"{place}: {category} is {given} bytes but the model and strategy need {wanted}"


def _kinds(plan: TrainingPlan, topology: Topology) -> list[int]:
    kinds: list[int] = topology.device_accelerator[list(plan.rank_to_device)].tolist()
    return kinds
