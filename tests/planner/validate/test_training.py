"""Training plans that were edited by hand: whatever contradicts the job, the devices or the rest is refused."""

from __future__ import annotations

import pytest

from shardwright.planner import TrainingJob, plan_training
from shardwright.planner.plan.io import dump, parse
from shardwright.planner.validate import validate_plan
from tests.planner.fleet.edits import survivors

PROSE = {
    "alternatives.label",
    "alternatives.why",
    "assumptions",
    "breakdown.name",
    "breakdown.why",
    "inputs.source",
    "memory_sources.activations",
    "memory_sources.allocator",
    "memory_sources.context",
    "memory_sources.gradients",
    "memory_sources.logits",
    "memory_sources.optimizer",
    "memory_sources.temporary",
    "memory_sources.weights",
    "provenance.coefficients.training",
    "provenance.libraries.numpy",
    "provenance.seed",
    "provenance.solver",
    "provenance.tool_version",
    "robustness.rivals.label",
}
ASKED = {
    "job.expert_imbalance",
    "job.framework",
    "job.robustness_samples",
    "job.time_limit_s",
    "job.token_budget",
    "strategy.gradient_shard",
    "strategy.mbs",
    "strategy.tp_overlap",
    "strategy.weight_shard",
}
"""What was asked or chosen whose effect only the cost model could count again."""
COUNTED = {
    "alternatives.value",
    "memory.capacity_bytes",
    "optimality.candidates",
    "optimality.feasible",
    "optimality.work",
    "prediction.energy_j",
    "robustness.mean_rank",
    "robustness.mean_regret",
    "robustness.rivals.mean_rank",
    "robustness.rivals.wins",
    "robustness.rivals_considered",
    "robustness.seed",
    "robustness.spread",
    "robustness.worst_rank",
    "robustness.worst_regret",
    "robustness.best_in",
}
"""What only another search could count again: checked within limits and against each other."""

JOBS = {
    "tokens": ("gpt2", "dgx-h100:2", TrainingJob(gbs=64, sequence_length=1024, token_budget=10**10)),
    "robust": ("llama-3.2-1b", "dgx-a100:1", TrainingJob(gbs=16, sequence_length=2048, robustness_samples=3)),
    "usd": (
        "llama-3.2-1b",
        "dgx-h100:1",
        TrainingJob(gbs=16, sequence_length=2048, objective="usd", usd_per_device_hour=2.0, time_limit_s=60.0),
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_no_edit_of_what_is_promised_passes(name):
    assert survivors(plan_training(*JOBS[name])) <= PROSE | ASKED | COUNTED


@pytest.mark.parametrize(
    ("model", "cluster", "precision"),
    [
        ("deepseek-v2-lite", "dgx-h100:2", "fp8"),
        ("gpt2", "dgx-a100:1", "fp32"),
        ("t5-3b", "dgx-a100:2", "bf16"),
        ("wan2.1-t2v-1.3b", "dgx-h100:1", "bf16"),
    ],
)
def test_every_plan_that_is_made_holds(model, cluster, precision):
    job = TrainingJob(gbs=64, sequence_length=512, precision=precision, token_budget=10**9, objective="days")
    assert validate_plan(parse(dump(plan_training(model, cluster, job)), "plan")) == []
