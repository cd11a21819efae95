from __future__ import annotations

import msgspec
import pytest

from shardwright.models import model
from shardwright.planner.errors import Infeasible, InputError, LimitReached
from shardwright.planner.plan.io import dump, parse
from shardwright.planner.strategy import Constraints, Strategy
from shardwright.planner.training import estimate_training, plan_training
from shardwright.planner.workload.legality import facts, violations
from shardwright.planner.workload.training import TrainingJob
from shardwright.solvers import Work
from shardwright.topologies import accelerator, cluster, parse_topology

LLAMA = model("llama-3.1-8b")
TWO_NODES = cluster("dgx-h100:2")
JOB = TrainingJob(gbs=64, sequence_length=8192)


@pytest.fixture(scope="module")
def plan():
    return plan_training(LLAMA, TWO_NODES, JOB)


def test_a_plan_is_proven_optimal_legal_and_fits(plan):
    assert plan.optimality.status == "optimal"
    assert plan.optimality.gap == 0.0
    assert plan.optimality.candidates >= plan.optimality.work >= plan.optimality.feasible > 0
    assert violations(plan.strategy, facts(LLAMA, JOB, 16)) == ()
    usable = plan.capacity_bytes * (1 - JOB.memory_margin)
    assert all(0 < stage.total_bytes <= usable for stage in plan.memory)
    assert all(sum(stage.categories.values()) == stage.total_bytes for stage in plan.memory)


def test_the_breakdown_adds_up_and_every_term_says_why(plan):
    assert sum(term.value for term in plan.breakdown) == pytest.approx(plan.prediction.step_s)
    assert all(term.why for term in plan.breakdown)


def test_throughput_and_mfu_follow_from_the_step(plan):
    p = plan.prediction
    assert p.tokens_per_s * p.step_s == pytest.approx(64 * 8192)
    assert p.tokens_per_s_per_device == pytest.approx(p.tokens_per_s / 16)
    assert p.mfu == pytest.approx(p.model_flops_per_s_per_device / 989e12)
    assert 0.1 < p.mfu < 0.8


def test_every_layer_is_in_one_stage_and_every_rank_on_one_device(plan):
    assert sum(stage.layers for stage in plan.stages) == 32
    assert "embedding" in plan.stages[0].holds
    assert "head" in plan.stages[-1].holds
    assert sorted(plan.rank_to_device) == list(range(16))
    assert {axis: len(groups[0]) for axis, groups in plan.rank_groups.items()}["tp"] == plan.strategy.tp


def test_alternatives_are_slower_and_say_where(plan):
    values = [each.value for each in plan.alternatives]
    assert values == sorted(values)
    assert all(value >= plan.prediction.step_s for value in values)
    assert all("slower" in each.why for each in plan.alternatives)


def test_the_same_inputs_give_the_same_bytes_and_read_back(plan):
    text = dump(plan)
    assert dump(plan_training(LLAMA, TWO_NODES, JOB)) == text
    assert parse(text, "plan") == plan


def test_estimating_the_planned_strategy_predicts_the_planned_step(plan):
    estimate = estimate_training(LLAMA, TWO_NODES, JOB, plan.strategy)
    assert estimate.prediction == plan.prediction
    assert estimate.memory == plan.memory
    assert estimate.stages == plan.stages


def test_uneven_stages_are_written_out_and_read_back():
    job = msgspec.structs.replace(JOB, gbs=16, constraints=Constraints(pp=(16,), vpp=(1,)))
    deep = plan_training(model("llama-2-13b"), TWO_NODES, job)
    assert deep.strategy.stage_layers is not None
    assert sum(deep.strategy.stage_layers) == 40
    assert [stage.layers for stage in deep.stages] == list(deep.strategy.stage_layers)
    assert len(deep.memory) == 16
    estimate = estimate_training(model("llama-2-13b"), TWO_NODES, job, deep.strategy)
    assert estimate.prediction == deep.prediction


def test_an_illegal_strategy_is_refused_with_the_reason():
    with pytest.raises(InputError, match="strategy: tp × cp × dp × pp = 8 must equal the 16 devices"):
        estimate_training(LLAMA, TWO_NODES, JOB, Strategy(dp_shard=8))


def test_an_estimate_that_does_not_fit_says_so():
    estimate = estimate_training(LLAMA, TWO_NODES, JOB, Strategy(dp_shard=16, zero=0))
    assert "does not fit" in estimate.assumptions[0]
    assert estimate.optimality.feasible == 0


def test_selective_recompute_means_the_attention_core_unless_it_says_otherwise():
    estimate = estimate_training(LLAMA, TWO_NODES, JOB, Strategy(dp_shard=16, recompute="selective"))
    assert estimate.strategy.recompute_modules == ("core_attention",)


def test_too_large_a_model_names_the_memory_and_what_would_fit():
    with pytest.raises(Infeasible, match=r"memory binds: .* needs .* GB on its fullest device .* GB, or about"):
        plan_training(model("llama-3.1-405b"), TWO_NODES, msgspec.structs.replace(JOB, gbs=16))


def test_a_binding_constraint_is_named_with_what_dropping_it_gives():
    job = msgspec.structs.replace(JOB, constraints=Constraints(zero=(0,), tp=(1,), pp=(1,), cp=(1,)))
    with pytest.raises(Infeasible, match=r"dropping the constraint on .* lets .* fit"):
        plan_training(LLAMA, TWO_NODES, job)


def test_a_constraint_without_any_legal_strategy_is_named():
    job = msgspec.structs.replace(JOB, constraints=Constraints(ep=(2,)))
    with pytest.raises(Infeasible, match="no strategy is legal: dropping the constraint on ep"):
        plan_training(LLAMA, TWO_NODES, job)


def test_a_batch_no_split_can_carry_is_named():
    with pytest.raises(Infeasible, match="no strategy is legal"):
        plan_training(model("llama-3.2-1b"), cluster("dgx-h100:25"), TrainingJob(gbs=1, sequence_length=8191))


def test_a_precision_the_accelerator_lacks_is_an_input_error():
    with pytest.raises(InputError, match="fp8"):
        plan_training(LLAMA, cluster("dgx-a100:2"), msgspec.structs.replace(JOB, precision="fp8"))


def test_a_limit_before_any_plan_is_said():
    job = msgspec.structs.replace(JOB, constraints=Constraints(recompute=("none",), cp=(1,), sp=False))
    with pytest.raises(LimitReached, match=r"stopped after .* strategies without one that fits"):
        plan_training(model("llama-3.1-70b"), cluster("dgx-h100:8"), job, stop=Work(1))


@pytest.mark.parametrize("schedule", ["gpipe", "zb-h1", "zb-v", "dualpipe"])
def test_every_schedule_can_be_asked_for(schedule):
    job = TrainingJob(gbs=32, sequence_length=2048, constraints=Constraints(schedule=(schedule,), pp=(4,)))
    made = plan_training(LLAMA, TWO_NODES, job)
    assert made.strategy.schedule == schedule
    assert made.optimality.gap == 0.0
    assert sum(stage.layers for stage in made.stages) == 32
    assert {stage.pipeline_rank for stage in made.stages} == set(range(4))
    assert {stage.copy_on for stage in made.stages} == (set(range(4)) if schedule == "dualpipe" else {None})
    if schedule == "zb-v":
        assert [stage.pipeline_rank for stage in made.stages] == [0, 1, 2, 3, 3, 2, 1, 0]
    estimate = estimate_training(LLAMA, TWO_NODES, job, made.strategy)
    assert estimate.prediction == made.prediction
    assert sum(term.value for term in made.breakdown) == pytest.approx(made.prediction.step_s)


def test_a_token_budget_becomes_days_dollars_and_joules():
    job = msgspec.structs.replace(JOB, token_budget=10**12)
    made = plan_training(LLAMA, TWO_NODES, job).prediction
    assert made.campaign.steps == -(-(10**12) // (64 * 8192))
    assert made.campaign.days == pytest.approx(made.campaign.steps * made.step_s / 86400)
    assert made.campaign.usd == pytest.approx(made.campaign.steps * made.usd)
    assert made.usd == pytest.approx(made.step_s * 16 * accelerator("h100").usd_per_hour / 3600)
    assert 0.4 * 700 * 16 < made.energy_j / made.step_s < 0.85 * 700 * 16


@pytest.mark.parametrize("objective", ["usd", "energy_j", "peak_memory_bytes"])
def test_other_objectives_are_proven_too_and_are_never_worse_by_their_own_measure(plan, objective):
    job = msgspec.structs.replace(JOB, objective=objective, time_limit_s=2 * plan.prediction.step_s)
    made = plan_training(LLAMA, TWO_NODES, job)
    assert made.optimality.objective == objective
    assert made.optimality.status == "optimal"
    assert made.optimality.value == pytest.approx(getattr(made.prediction, objective))
    assert getattr(made.prediction, objective) <= getattr(plan.prediction, objective) * (1 + 1e-9)
    assert made.prediction.step_s <= 2 * plan.prediction.step_s


def test_an_impossible_time_limit_names_the_fastest(plan):
    job = msgspec.structs.replace(JOB, time_limit_s=plan.prediction.step_s / 100)
    with pytest.raises(Infeasible, match="time binds"):
        plan_training(LLAMA, TWO_NODES, job)


def test_an_objective_without_its_figure_is_an_input_error():
    boxes = cluster("pcie-box")
    assert boxes.n_devices
    document = boxes.document
    kind = msgspec.to_builtins(boxes.accelerators[0])
    kind |= {"name": "nameless", "tdp_watts": None, "usd_per_hour": None, "source": {}}
    document["accelerators"] = [kind]
    for group in document["nodes"]:
        group["accelerator"] = "nameless"
    with pytest.raises(InputError, match="rated power"):
        plan_training(
            model("llama-3.2-1b"), parse_topology(document), msgspec.structs.replace(JOB, objective="energy_j")
        )
