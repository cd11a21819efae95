"""From the best row of the search to a plan that names every rank, stage, device and second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

import numpy as np

from shardwright.models import Experts, ModelGraph, block_flops_per_token

from ..costs.breakdown import breakdown
from ..costs.footprint import CATEGORIES, SOURCES
from ..costs.stages import placed, without_vocabulary
from ..costs.step import StepCosts
from ..plan.base import Optimality, Provenance
from ..plan.frontier import Robustness
from ..plan.training import Campaign, Part, Prediction, StageMemory, TrainingPlan, VirtualStage
from ..strategy import Axis, Strategy
from ..workload.strategy_table import Ints, StrategyTable
from ..workload.training import TrainingJob
from .alternatives import alternatives
from .context import Context
from .links import link_terms
from .objectives import Measures, energy_j
from .robustness import robustness
from .search import Candidate


def read_back(
    context: Context,
    candidates: Sequence[Candidate],
    *,
    strategy: Strategy,
    optimality: Optimality,
    notes: Iterable[str] = (),
) -> TrainingPlan:
    """The plan of the first candidate; the others are its alternatives."""
    chosen = candidates[0]
    costs, table = chosen.costs, chosen.table
    rows = costs.rows(table)
    step = costs.step(rows)
    devices = range(strategy.world_size) if chosen.devices is None else chosen.devices.tolist()
    return TrainingPlan(
        inputs=context.inputs,
        optimality=optimality,
        assumptions=(*notes, *assumptions(context, strategy)),
        alternatives=alternatives(candidates, context.job.objective),
        provenance=provenance(context),
        model=context.model.name,
        cluster=context.topology.name,
        job=context.job,
        strategy=strategy,
        rank_groups=rank_groups(strategy),
        stages=virtual_stages(context, table),
        rank_to_device=tuple(devices),
        memory=stage_memory(context, table),
        capacity_bytes=int(costs.device.memory_bytes),
        memory_sources=SOURCES,
        prediction=prediction(context, step),
        breakdown=breakdown(costs, rows, step),
        links=() if chosen.devices is None else link_terms(context, chosen),
        robustness=_robustness(context, candidates),
    )


def _robustness(context: Context, candidates: Sequence[Candidate]) -> Robustness | None:
    samples = context.job.robustness_samples
    if len(candidates) < 2 or not samples:
        return None
    return robustness(context, candidates, samples=samples)


def rank_groups(strategy: Strategy) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Every group of every axis, by axis."""
    return {axis: tuple(map(tuple, strategy.rank_groups(axis).tolist())) for axis in get_args(Axis)}


def virtual_stages(context: Context, table: StrategyTable) -> tuple[VirtualStage, ...]:
    """Layers of every virtual stage in chain order."""
    counts = context.costs.layers_of(table).tolist()
    chain = context.costs.chain
    if int(table.vocab_parallel[0]):
        chain = without_vocabulary(chain)
    schedule, pp = table.row(0).schedule, int(table.pp[0])
    home = np.argsort(placed(np.arange(len(counts)), schedule, pp)[: len(counts) // pp].reshape(-1)) % pp
    starts = np.cumsum([0, *counts]).tolist()

    def parts(number: Ints) -> list[Part]:
        order: tuple[Part, ...] = ("embedding", "mtp", "head")
        found = [block.role for block, n in zip(chain.blocks, number.tolist(), strict=True) for _ in range(n)]
        return [part for part in order for role in found if role == part]

    last = len(counts) - 1
    stages = []
    for index, count in enumerate(counts):
        held = chain.first if index == 0 else np.zeros_like(chain.first)
        held = held + (chain.last if index == last else 0)
        held = held + chain.beside[starts[index] : starts[index + 1]].sum(axis=0)
        stages.append(
            VirtualStage(
                pipeline_rank=int(home[index]),
                first_layer=starts[index],
                layers=count,
                holds=tuple(parts(held)),
                copy_on=pp - 1 - index if schedule == "dualpipe" else None,
            )
        )
    return tuple(stages)


def stage_memory(context: Context, table: StrategyTable) -> tuple[StageMemory, ...]:
    """Bytes per device of every pipeline rank."""
    costs = context.costs
    footprint = costs.step(costs.rows(table, every_stage=True)).footprint
    strategy = table.row(0)
    _, tightness = costs.chain.ranks.of_stages(strategy.pp)
    result = []
    for rank, values in enumerate(footprint.device[0]):
        categories = {name: round(value) for name, value in zip(CATEGORIES, values.tolist(), strict=True)}
        moved: dict[str, int] = {}
        for tier, size in (
            (strategy.offload_optimizer, footprint.moved_optimizer[0, rank]),
            (strategy.offload_activations, footprint.moved_activations[0, rank]),
        ):
            if tier != "none":
                moved[tier] = moved.get(tier, 0) + round(float(size))
        result.append(
            StageMemory(
                pipeline_rank=rank,
                categories=categories,
                total_bytes=sum(categories.values()),
                capacity_bytes=int(costs.device.memory_bytes / float(tightness[rank])),
                moved_bytes=moved,
            )
        )
    return tuple(result)


def prediction(context: Context, step: StepCosts) -> Prediction:
    """Throughput and cost from the only row of a table. Model FLOPs are three times the forward's, attention over what
    it attends to (Chowdhery et al. 2022, PaLM, appendix B, with the causal half)."""
    job, devices, step_s = context.job, context.topology.n_devices, float(step.step_s[0])
    measures = Measures(step.step_s, step.busy_s, step.memory_bytes)
    joules, dollars = energy_j(measures, context.goal.rates), context.goal.rates.usd_per_s
    energy = None if joules is None else float(joules[0])
    usd = None if dollars is None else step_s * dollars
    flops = 3 * job.tokens_per_step * forward_flops_per_token(context.model, job.sequence_length)
    device = context.costs.device
    peak = device.low_precision_peak_flops if device.low_precision else device.peak_flops
    rate = flops / step_s / devices
    return Prediction(
        step_s=step_s,
        tokens_per_s=job.tokens_per_step / step_s,
        tokens_per_s_per_device=job.tokens_per_step / step_s / devices,
        model_flops_per_s_per_device=rate,
        peak_flops=peak,
        mfu=rate / peak,
        peak_memory_bytes=float(step.memory_bytes[0]),
        energy_j=energy,
        usd=usd,
        campaign=campaign(job, step_s, energy, usd),
    )


def campaign(job: TrainingJob, step_s: float, energy: float | None, usd: float | None) -> Campaign | None:
    """The whole token budget at the predicted step, nothing lost to failures; None without a budget."""
    if job.steps is None:
        return None
    steps = job.steps
    return Campaign(
        steps=steps,
        days=steps * step_s / 86400,
        usd=None if usd is None else steps * usd,
        energy_j=None if energy is None else steps * energy,
    )


def forward_flops_per_token(model: ModelGraph, sequence: int) -> float:
    """FLOPs of one token's forward pass through every block."""
    return sum(run.repeat * block_flops_per_token(run.block, sequence) for run in model.runs)


def assumptions(context: Context, strategy: Strategy) -> tuple[str, ...]:
    """What the plan took for granted."""
    costs, job = context.costs, context.job
    framework = costs.device.coefficients.framework
    notes = [*costs.device.coefficients.assumptions, *context.model.assumptions]
    if len(context.topology.accelerators) > 1:
        notes.append("a pipeline rank goes at the pace of its slowest accelerator and holds what its smallest can")
        notes.append("all stages have the same tp: no launcher of `export` runs stages of unequal tp")
    notes.append(f"{job.memory_margin:.0%} of the device's memory stays free")
    if not job.constraints.schedule:
        notes.append("schedules 1f1b and interleaved were considered; others only when job.constraints.schedule asks")
    if framework.attention_kernel == "flash":
        notes.append("attention runs in a fused kernel that keeps no scores")
    if any(tier != "none" for tier in (strategy.offload_optimizer, strategy.offload_activations)):
        notes += costs.tiers.assumptions
    if strategy.sync_period > 1:
        source = {"all_reduce": "DiLoCo", "overlapped": "CO2", "pairs": "NoLoCo"}[strategy.sync]
        notes.append(f"averaging replicas every {strategy.sync_period} steps changes the optimization ({source})")
    if strategy.vocab_parallel:
        notes.append("every pipeline rank holds a share of the vocabulary: no launcher of `export` divides it so")
    if job.expert_load is not None:
        load = job.expert_load
        notes.append(f"the fullest expert rank has {load.imbalance:.4g} times the mean load, as placed")
        notes.append(f"dispatch is that of the placement where ep is {load.ranks}, and of even routing elsewhere")
    if framework.expert_imbalance == 1.0 and has_experts(context.model):
        notes.append("tokens are spread evenly over the experts")
    return tuple(dict.fromkeys(notes))


def has_experts(model: ModelGraph) -> bool:
    """Whether any block is a mixture of experts."""
    return any(isinstance(op, Experts) for block in model.blocks for op in block.operators)


def provenance(context: Context) -> Provenance:
    """What made the plan."""
    try:
        tool = version("shardwright")
    except PackageNotFoundError:
        tool = "unknown"
    coefficients = context.costs.device.coefficients
    return Provenance(
        tool_version=tool,
        solver="enumeration: branch and bound",
        libraries={"numpy": np.__version__},
        coefficients={"training": f"{coefficients.name}: {coefficients.kernels.source}"},
    )
