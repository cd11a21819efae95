"""What weights, gradients and optimizer states must take, counted again from the model's shapes and the stages."""

from __future__ import annotations

import math
from collections.abc import Iterator

from shardwright.models import Block, Experts, ModelGraph

from ..plan.training import TrainingPlan, VirtualStage
from ..strategy import Strategy

_MOMENT_BYTES = {"adam8bit": 2, "sgd": 0, "sgd-momentum": 4, "muon": 4}
_MOST_COPIES_BYTES = 2.0


def expected_state_bytes(plan: TrainingPlan, model: ModelGraph, pipeline_rank: int) -> dict[str, tuple[float, float]]:
    """Least and most bytes per category on one device of a pipeline rank.

    ZeRO divides optimizer states (1), gradients (2) and weights (3) over cp × dp_shard ranks, and those of experts
    over what remains of edp (Rajbhandari et al. 2020, section 5), or over the smaller partitions that the strategy
    names. Replicas that average every many steps keep 8 bytes of their last average (DiLoCo), 4 more where it is on its
    way meanwhile (CO2). Every pipeline rank holds its share of a divided vocabulary. Low-precision training
    may keep further copies of a weight, up to two bytes a parameter.
    """
    strategy, job = plan.strategy, plan.job
    dense, expert = 0.0, 0.0
    for block in _blocks(plan, model, pipeline_rank):
        more_dense, more_expert = _parameters(block, strategy)
        dense, expert = dense + more_dense, expert + more_expert
    if strategy.vocab_parallel:
        ends = (run.block for run in model.runs if run.block.role in ("embedding", "head") for _ in range(run.repeat))
        dense += sum(_parameters(block, strategy)[0] for block in ends) / strategy.pp
    shards = strategy.cp * strategy.dp_shard
    expert_shards = max(strategy.edp // strategy.dp_replicate, 1)

    smaller = {3: strategy.weight_shard, 2: strategy.gradient_shard}

    def held(level: int) -> float:
        if strategy.zero < level:
            return dense + expert
        ranks = smaller.get(level) or shards
        return dense / ranks + expert / max(expert_shards // (shards // ranks), 1)

    if job.precision == "fp32":
        weight, gradient, optimizer = 4.0, 4.0, float(_MOMENT_BYTES.get(job.optimizer, job.moment_bytes))
    else:
        weight, gradient = 2.0, float(job.gradient_bytes)
        optimizer = float(job.master_weight_bytes + _MOMENT_BYTES.get(job.optimizer, job.moment_bytes))
    outer = (12.0 if strategy.sync == "overlapped" else 8.0) if strategy.sync_period > 1 else 0.0
    copies = _MOST_COPIES_BYTES if job.precision in ("fp8", "fp4") else 0.0
    if job.trained != "all":
        return {"weights": (weight * held(3), (weight + copies) * held(3))}
    return {
        "weights": (weight * held(3), (weight + copies) * held(3)),
        "gradients": (gradient * held(2),) * 2,
        "optimizer": (0.0 if strategy.offload_optimizer != "none" else (optimizer + outer) * held(1),) * 2,
    }


def _blocks(plan: TrainingPlan, model: ModelGraph, pipeline_rank: int) -> Iterator[Block]:
    layers = model.layer_blocks()
    for stage in plan.stages:
        if pipeline_rank in (stage.pipeline_rank, stage.copy_on):
            yield from layers[stage.first_layer : stage.first_layer + stage.layers]
            yield from _ends(stage, model)


def _ends(stage: VirtualStage, model: ModelGraph) -> Iterator[Block]:
    for part in dict.fromkeys(stage.holds):
        modules = [run.block for run in model.runs if run.block.role == part for _ in range(run.repeat)]
        yield from modules[: stage.holds.count(part)] if part == "mtp" else modules


def _parameters(block: Block, strategy: Strategy) -> tuple[float, float]:
    dense = float(sum(op.parameters_per_rank(strategy.tp) for op in block.operators if not isinstance(op, Experts)))
    if block.role == "head" and strategy.pp > 1 and not strategy.vocab_parallel:
        dense += _tied_copy(block, strategy)
    expert = 0.0
    for op in block.operators:
        if isinstance(op, Experts):
            local = math.ceil(op.experts / strategy.ep)
            expert += local * sum(each.parameters_per_rank(strategy.etp) for each in op.body)
    return dense, expert


def _tied_copy(block: Block, strategy: Strategy) -> float:
    """The weights that a tied head keeps of its own when the embedding is on another stage."""
    tied = (op for op in block.operators if getattr(op, "tied", False))
    return sum(op.active_parameters for op in tied) / strategy.tp
