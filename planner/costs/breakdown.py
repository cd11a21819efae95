"""Where the time of one strategy's step goes: terms that add up to it, each with the sentence that explains it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..plan.base import Term
from .rows import SELECTIVE, Rows
from .step import StepCosts, TrainingCosts

_DELAYED = ", with what a domain's other tp groups delay it by"


@dataclass(frozen=True, slots=True)
class _Stage:
    """Per micro-batch seconds on the slowest rank, by what they are spent on."""

    forward: float
    backward: float
    recompute: float
    tp: float
    cp: float
    ep: float


def breakdown(costs: TrainingCosts, rows: Rows, step: StepCosts) -> tuple[Term, ...]:
    """Terms of the only row of a table; their values add up to its step time."""
    s = rows.table.row(0)
    m = int(rows.microbatches[0])
    stage = _slowest_stage(rows, int(step.slowest[0]))
    times = m / 2 if s.schedule == "dualpipe" else float(m)  # each of DualPipe's two copies takes half of them
    framework = costs.device.coefficients.framework
    per_pipeline = f"{m} micro-batches of {s.mbs} × {costs.job.sequence_length} tokens"
    pipeline, sharding = step.pipeline, step.sharding
    terms = [
        ("forward", times * stage.forward, f"{per_pipeline} through the slowest rank's blocks, roofline per operator"),
        ("backward", times * stage.backward, "gradients of inputs and weights, two products for each of the forward's"),
        ("recompute", times * stage.recompute, f"forward work done again in backward: recompute {s.recompute}"),
        (
            "tp communication",
            times * stage.tp,
            f"{'all-gather and reduce-scatter' if s.sp else 'all-reduce'} over {s.tp} tp ranks around every block, "
            f"{framework.tp_overlap:.0%} hidden under its products{_DELAYED if framework.tp_interference else ''}",
        ),
        (
            "cp communication",
            times * stage.cp,
            f"keys and values between {s.cp} cp ranks ({s.cp_comm}), what attention does not hide",
        ),
        (
            "ep communication",
            times * stage.ep,
            f"dispatch and combine of expert tokens over {s.ep} ep ranks, {framework.ep_overlap:.0%} hidden",
        ),
        (
            "pipeline transfers",
            float(pipeline.waiting_s[0]),
            "sends and receives between pipeline ranks that the slowest rank waits for",
        ),
        (
            "pipeline bubble",
            float(pipeline.bubble_s[0]),
            f"fill and drain of {s.pp} ranks ({s.schedule}, vpp {s.vpp}) and round trips that outlast {s.pp} "
            "micro-batches",
        ),
        (
            "gradient reduction",
            float(sharding.gradients_s[0]),
            f"over {s.dp} dp × {s.cp} cp ranks (ZeRO {s.zero}), between domains "
            f"{framework.crossing_slowdown:g} times as long as one group alone, "
            f"beyond the {framework.grad_overlap:.0%} of a backward it hides under",
        ),
        (
            "weight gathering",
            float(sharding.weights_s[0]),
            f"of weights updated or stored in shards (ZeRO {s.zero}), beyond what forward hides",
        ),
        (
            "optimizer",
            float(sharding.optimizer_s[0]),
            f"{costs.job.optimizer} reads and writes {costs.states.touched:.0f} bytes per parameter of its shard",
        ),
        ("fixed", step.fixed_s, f"data loading, logging and launch per step in {costs.job.framework}"),
    ]
    return tuple(Term(name=name, value=float(value), unit="s", why=why) for name, value, why in terms)


def _slowest_stage(rows: Rows, stage: int) -> _Stage:
    key = int(rows.key[0])
    costs = rows.costs
    count = rows.stages.count[rows.pipeline[0], stage]
    again = rows.stages.again[rows.pipeline[0], stage]

    slowness = float(rows.stages.slowness[rows.pipeline[0], stage])
    selective = int(rows.table.recompute[0]) == SELECTIVE
    whole = np.zeros_like(again) if selective else again

    def moved(axis: str) -> float:
        forward = np.array([getattr(block, f"{axis}_forward")[key] for block in costs.transfers])
        backward = np.array([getattr(block, f"{axis}_backward")[key] for block in costs.transfers])
        return slowness * float(count @ (forward + backward) + whole @ forward)

    return _Stage(
        forward=slowness * float(count @ costs.compute_forward_s[key]),
        backward=slowness * float(count @ costs.compute_backward_s[key]),
        recompute=slowness
        * float(whole @ costs.compute_forward_s[key] + (again - whole) @ rows.redone_s[0] + count @ rows.again_s[0]),
        tp=moved("tp"),
        cp=moved("cp"),
        ep=moved("ep"),
    )
