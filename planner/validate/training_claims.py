"""What a training plan predicts, against the job, the devices and itself: rates, dollars, joules, days, rivals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from shardwright.models import ModelGraph, flops_per_token
from shardwright.topologies import Topology

from ..plan.training import Campaign, Prediction, TrainingPlan
from .common import TOLERANCE, close

ROUNDING_BYTES = 1e3
_PEAK_OF = {"fp32": ("tf32", "fp32"), "fp16": ("fp16",), "bf16": ("bf16",), "fp8": ("fp8",), "fp4": ("fp4",)}


def prediction_problems(plan: TrainingPlan, model: ModelGraph, topology: Topology) -> Iterator[str]:
    """The prediction against itself and against the peak of the devices, which nothing exceeds."""
    made, job = plan.prediction, plan.job
    if not (math.isfinite(made.step_s) and made.step_s > 0):
        yield f"prediction.step_s must be positive but is {made.step_s}"
        return
    kinds = [topology.accelerators[kind] for kind in topology.device_accelerator[list(plan.rank_to_device)].tolist()]
    yield from _same("prediction", made, _derived(plan, model, topology))
    wanted = next((dtype for dtype in _PEAK_OF[job.precision] if all(dtype in kind.peak_flops for kind in kinds)), "")
    if wanted and made.peak_flops not in {kind.peak_flops[wanted] for kind in kinds}:
        yield f"prediction.peak_flops is {made.peak_flops:.6g} but no device of the plan has that {wanted} peak"
    products = 3 if job.trained == "all" else 2
    fastest = sum(max(kind.peak_flops.values()) for kind in kinds)
    least_s = products * flops_per_token(model, job.sequence_length) * job.tokens_per_step / fastest
    if made.step_s < least_s:
        yield f"prediction.step_s {made.step_s:.6g} is faster than the devices' peak allows ({least_s:.6g})"
    if job.time_limit_s is not None and plan.optimality.candidates > 1 and made.step_s > job.time_limit_s:
        yield f"prediction.step_s {made.step_s:.6g} is longer than job.time_limit_s {job.time_limit_s:.6g}"
    if f"{job.memory_margin:.0%} of the device's memory stays free" not in plan.assumptions:
        yield f"assumptions do not name job.memory_margin, {job.memory_margin:.0%}"
    if any(term.unit != "s" for term in plan.breakdown):
        yield "breakdown must be in seconds"
    parts = sum(term.value for term in plan.breakdown)
    if not close(parts, made.step_s, 1e-3):
        yield f"breakdown adds up to {parts:.6g} s but the step takes {made.step_s:.6g} s"
    fullest = max(stage.total_bytes for stage in plan.memory)
    if len({kind.name for kind in kinds}) == 1 and abs(made.peak_memory_bytes - fullest) > ROUNDING_BYTES:
        yield f"prediction.peak_memory_bytes is {made.peak_memory_bytes:.0f} but the fullest device holds {fullest}"
    yield from _costs(plan, topology)


def _derived(plan: TrainingPlan, model: ModelGraph, topology: Topology) -> dict[str, float | None]:
    """Figures that follow from the step, the job and the devices. Model FLOPs count no recompute (Chowdhery et al.
    2022, PaLM, appendix B)."""
    made, job, world = plan.prediction, plan.job, plan.strategy.world_size
    tokens_per_s = job.tokens_per_step / made.step_s
    rate = flops_per_token(model, job.sequence_length, direction="both", mtp=True) * tokens_per_s / world
    prices = [
        job.usd_per_device_hour or topology.accelerators[kind].usd_per_hour
        for kind in topology.device_accelerator.tolist()
    ]
    usd = sum(price for price in prices if price) / 3600 * made.step_s if all(prices) else None
    return {
        "tokens_per_s": tokens_per_s,
        "tokens_per_s_per_device": tokens_per_s / world,
        "model_flops_per_s_per_device": rate,
        "mfu": rate / made.peak_flops if made.peak_flops > 0 else math.inf,
        "usd": usd,
    }


def _costs(plan: TrainingPlan, topology: Topology) -> Iterator[str]:
    """Joules of a step, which the rated power of all devices bounds, and the whole token budget."""
    made, steps = plan.prediction, plan.job.steps
    watts = [topology.accelerators[kind].tdp_watts for kind in topology.device_accelerator.tolist()]
    most_j = sum(each for each in watts if each is not None) * made.step_s
    if (made.energy_j is None) != (None in watts):
        yield "prediction.energy_j is known where the rated power of every device is"
    elif made.energy_j is not None and not 0 < made.energy_j <= most_j * (1 + TOLERANCE):
        yield f"prediction.energy_j is {made.energy_j:.6g} but the devices draw at most {most_j:.6g} J in a step"
    if (made.campaign is None) != (steps is None):
        yield "prediction.campaign is known where the job has a token budget"
    elif made.campaign is not None and steps is not None:
        if made.campaign.steps != steps:
            yield f"prediction.campaign.steps is {made.campaign.steps} but the token budget is {steps} steps"
        derived = {
            "days": steps * made.step_s / 86400,
            "usd": None if made.usd is None else steps * made.usd,
            "energy_j": None if made.energy_j is None else steps * made.energy_j,
        }
        yield from _same("prediction.campaign", made.campaign, derived)


def _same(place: str, record: Prediction | Campaign, derived: dict[str, float | None]) -> Iterator[str]:
    for name, wanted in derived.items():
        given: float | None = getattr(record, name)
        if (given is None) != (wanted is None):
            yield f"{place}.{name} is {given} but follows from the rest as {wanted}"
        elif given is not None and wanted is not None and not close(given, wanted):
            yield f"{place}.{name} is {given:.8g} but the step yields {wanted:.8g}"


def robustness_problems(plan: TrainingPlan) -> Iterator[str]:
    """Counts, ranks and regrets within each other."""
    found = plan.robustness
    if found is None:
        return
    if found.samples != plan.job.robustness_samples:
        yield f"robustness.samples is {found.samples} but the job asks for {plan.job.robustness_samples}"
    if not 0 <= found.best_in <= found.samples:
        yield f"robustness.best_in must be from 0 to {found.samples} but is {found.best_in}"
    if not 0 <= found.mean_regret <= found.worst_regret * (1 + TOLERANCE):
        yield "robustness.mean_regret must be from 0 to worst_regret"
    if (found.worst_regret == 0) != (found.best_in == found.samples):
        yield "robustness.worst_regret is 0 where the plan is best in all samples, and only there"
    if not 1 <= found.mean_rank <= found.worst_rank <= found.rivals_considered + 1:
        yield f"robustness: ranks must be from 1 to {found.rivals_considered + 1}, the mean no worse than the worst"
    if found.order_regret is not None and not 0 <= found.order_regret <= found.mean_regret * (1 + TOLERANCE):
        yield "robustness.order_regret must be from 0 to mean_regret"
    if sum(rival.wins for rival in found.rivals) > found.samples or any(rival.wins < 0 for rival in found.rivals):
        yield f"robustness.rivals cannot win more than the {found.samples} samples"
    if any(not 1 <= rival.mean_rank <= found.rivals_considered + 1 for rival in found.rivals):
        yield f"robustness.rivals: ranks must be from 1 to {found.rivals_considered + 1}"


def alternative_problems(plan: TrainingPlan) -> Iterator[str]:
    """What lost is no better than the plan, and stands in order."""
    claim = plan.optimality
    sign = 1.0 if claim.sense == "min" else -1.0
    values = [claim.value, *(other.value for other in plan.alternatives)]
    for at, (before, value) in enumerate(pairwise(values)):
        if not sign * value >= sign * before - TOLERANCE * abs(before):
            yield f"alternatives[{at}].value {value:.6g} is better than what stands before it, {before:.6g}"
    if not 0 <= claim.feasible <= claim.candidates:
        yield f"optimality.feasible must be from 0 to the {claim.candidates} candidates but is {claim.feasible}"
