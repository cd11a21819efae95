from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.costs.step import TrainingCosts
from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.strategy import Constraints, Strategy
from shardwright.planner.training import estimate_training, plan_training
from shardwright.planner.workload.legality import facts, violations
from shardwright.planner.workload.strategy_table import table_of
from shardwright.planner.workload.training import Tier, TrainingJob
from shardwright.topologies import cluster

LLAMA = model("llama-3.1-8b")
MIXTRAL = model("mixtral-8x7b")
TWO_NODES = cluster("dgx-h100:2")
JOB = TrainingJob(gbs=64, sequence_length=8192)
NVME = Tier(bytes_per_device=4e12, bytes_per_s=3e9)
COSTS = TrainingCosts(LLAMA, TWO_NODES, msgspec.structs.replace(JOB, nvme_tier=NVME))


def step(costs=COSTS, **fields):
    strategy = Strategy(**fields)
    assert violations(strategy, facts(costs.model, costs.job, 16)) == ()
    return costs.evaluate(table_of([strategy], costs.model.num_layers))


def held(made, category):
    names = ("weights", "gradients", "optimizer", "activations")
    return float(made.footprint.device[0, 0, names.index(category)])


def test_weights_kept_whole_per_node_are_gathered_faster_and_weigh_more():
    everywhere, per_node = step(dp_shard=16, zero=3), step(dp_shard=16, zero=3, weight_shard=8)
    assert held(per_node, "weights") == 2 * held(everywhere, "weights")
    assert held(per_node, "optimizer") == held(everywhere, "optimizer")
    assert per_node.sharding.weights_s[0] < everywhere.sharding.weights_s[0]


def test_a_partition_of_three_levels_holds_each_at_its_own():
    made = step(dp_shard=16, zero=3, weight_shard=2, gradient_shard=8)
    everywhere = step(dp_shard=16, zero=3)
    assert held(made, "weights") == 8 * held(everywhere, "weights")
    assert held(made, "gradients") == 2 * held(everywhere, "gradients")
    assert held(made, "optimizer") == held(everywhere, "optimizer")


def test_states_divided_in_a_pipeline_weigh_less_and_move_for_every_micro_batch():
    pipeline = {"pp": 4, "dp_shard": 4}
    states, gradients, weights = (step(zero=zero, **pipeline) for zero in (1, 2, 3))
    assert held(gradients, "gradients") == held(states, "gradients") / 4
    assert held(gradients, "weights") == held(states, "weights") == 4 * held(weights, "weights")
    assert held(weights, "optimizer") == held(states, "optimizer")
    assert states.sharding.gradients_s[0] < gradients.sharding.gradients_s[0] < weights.sharding.gradients_s[0]
    assert states.step_s[0] < gradients.step_s[0] < weights.step_s[0]


def test_every_rank_but_the_slowest_lengthens_the_fill_by_what_a_micro_batch_exposes():
    far = TrainingCosts(LLAMA, cluster("dgx-a100:2"), JOB)
    fields = {"pp": 2, "tp": 4, "sp": True, "dp_shard": 2, "zero": 3}
    plain, interleaved = step(far, **fields), step(far, vpp=2, **fields)
    microbatches = 32
    once = plain.sharding.weights_s[0] / (microbatches + 1)
    assert interleaved.sharding.weights_s[0] == pytest.approx(once * (microbatches + 0.5))


def test_a_model_that_fits_no_other_way_is_told_of_states_divided_in_pipelines():
    job = TrainingJob(gbs=64, sequence_length=8192, constraints=Constraints(pp=(2,), tp=(1,), cp=(1,), mbs=(1,)))
    with pytest.raises(Infeasible, match=r"exploring pipeline_sharding lets .* zero3 .* fit"):
        plan_training(model("llama-3.1-70b"), cluster("dgx-h100:8"), job)
    made = plan_training(
        model("llama-3.1-70b"), cluster("dgx-h100:8"), msgspec.structs.replace(job, explore=("pipeline_sharding",))
    )
    assert made.strategy.zero == 3
    assert made.optimality.gap == 0.0


def test_a_partition_over_all_ranks_is_no_partition():
    whole, named = step(dp_shard=16, zero=3), step(dp_shard=16, zero=3, weight_shard=16, gradient_shard=16)
    assert named.step_s[0] == pytest.approx(whole.step_s[0])
    assert named.memory_bytes[0] == pytest.approx(whole.memory_bytes[0])


def test_states_on_the_host_leave_the_device_and_cost_the_link():
    made, reference = step(dp_shard=16, offload_optimizer="cpu"), step(dp_shard=16)
    assert held(made, "optimizer") == 0.0
    assert made.footprint.moved_optimizer[0, 0] == held(reference, "optimizer")
    local = LLAMA.blocks and sum(run.repeat * run.block.parameters for run in LLAMA.runs) / 16
    host = COSTS.tiers.cpu
    expected = max(local * 4 / host.bytes_per_s, local * 30 / host.update_bytes_per_s)
    assert made.sharding.optimizer_s[0] == pytest.approx(expected, rel=1e-3)


def test_nvme_is_slower_than_the_host():
    cpu, nvme = step(dp_shard=16, offload_optimizer="cpu"), step(dp_shard=16, offload_optimizer="nvme")
    assert nvme.sharding.optimizer_s[0] > cpu.sharding.optimizer_s[0]


def test_activations_leave_but_for_two_layers_and_hide_under_compute_where_the_link_is_fast():
    made, reference = step(dp_shard=16, offload_activations="cpu"), step(dp_shard=16)
    assert held(made, "activations") == pytest.approx(held(reference, "activations") / 16, rel=0.01)
    slow = msgspec.structs.replace(JOB, cpu_tier=Tier(bytes_per_device=1e12, bytes_per_s=1e9))
    crawling = step(TrainingCosts(LLAMA, TWO_NODES, slow), dp_shard=16, offload_activations="cpu")
    assert crawling.step_s[0] > 2 * made.step_s[0] >= 2 * reference.step_s[0]


def test_a_host_without_room_fits_nothing():
    small = msgspec.structs.replace(JOB, cpu_tier=Tier(bytes_per_device=1e9, bytes_per_s=50e9))
    assert step(TrainingCosts(LLAMA, TWO_NODES, small), dp_shard=16, offload_optimizer="cpu").memory_bytes[0] == np.inf


def test_fused_transfers_and_paired_micro_batches_expose_less():
    tp = {"tp": 8, "sp": True, "dp_shard": 2}
    assert step(tp_overlap=True, **tp).step_s[0] < step(**tp).step_s[0]
    moe = TrainingCosts(MIXTRAL, TWO_NODES, JOB)
    ep = {"ep": 8, "dp_shard": 16, "zero": 3}
    plain, paired = step(moe, **ep), step(moe, ep_overlap="microbatch", **ep)
    assert paired.step_s[0] < plain.step_s[0]
    assert paired.memory_bytes[0] > plain.memory_bytes[0]


def test_averaging_rarely_hides_replicas_that_are_far_apart():
    often = step(dp_shard=8, dp_replicate=2, sync_period=1)
    rarely = step(dp_shard=8, dp_replicate=2, sync_period=100)
    assert rarely.sharding.gradients_s[0] <= often.sharding.gradients_s[0]
    assert held(rarely, "optimizer") > held(often, "optimizer")


def test_an_average_that_hides_or_is_of_pairs_costs_no_more_than_an_all_reduce():
    far = TrainingCosts(LLAMA, cluster("dgx-a100:2"), JOB)
    shared = {"dp_shard": 2, "dp_replicate": 8, "sync_period": 4}
    plain, hidden, pairs = (step(far, sync=sync, **shared) for sync in ("all_reduce", "overlapped", "pairs"))
    assert hidden.sharding.gradients_s[0] <= plain.sharding.gradients_s[0]
    assert pairs.sharding.gradients_s[0] < plain.sharding.gradients_s[0]
    assert held(hidden, "optimizer") > held(plain, "optimizer") == held(pairs, "optimizer")


def test_a_divided_vocabulary_evens_stages_out():
    gemma, job = model("gemma-3-27b"), msgspec.structs.replace(JOB, gbs=128)
    costs = TrainingCosts(gemma, TWO_NODES, job)
    layers = (8,) * 6 + (7,) * 2
    plain = step(costs, tp=2, sp=True, pp=8, stage_layers=layers)
    spread = step(costs, tp=2, sp=True, pp=8, stage_layers=layers, vocab_parallel=True)
    assert spread.step_s[0] < plain.step_s[0]
    assert spread.busy_s[0] == pytest.approx(plain.busy_s[0])
    parameters = [
        costs.step(costs.rows(table_of([Strategy(tp=2, sp=True, pp=8, vocab_parallel=on)], 62), every_stage=True))
        .footprint.device[0, :, 0]
        .sum()
        for on in (False, True)
    ]
    tied = 262208 * 5376 / 2 * 2
    assert parameters[0] - parameters[1] == pytest.approx(tied, rel=0.01)


@pytest.mark.parametrize("comm", ["all_gather", "a2a"])
def test_exchanges_that_hide_nothing_are_no_faster_than_a_ring_inside_a_node(comm):
    assert step(cp=8, dp_shard=2, cp_comm=comm).step_s[0] > step(cp=8, dp_shard=2).step_s[0] * 0.95


def test_swapping_heads_inside_a_node_spares_the_ring_between_nodes():
    assert step(cp=16, cp_comm="a2a+p2p").step_s[0] < step(cp=16).step_s[0]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"dp_shard": 16, "weight_shard": 8}, "weight_shard 8 needs zero 3"),
        ({"dp_shard": 16, "zero": 3, "weight_shard": 5}, "must divide cp × dp_shard = 16"),
        ({"dp_shard": 16, "zero": 1, "gradient_shard": 8}, "gradient_shard 8 needs zero 2 or 3"),
        ({"dp_shard": 16, "offload_optimizer": "nvme"}, "needs job.nvme_tier"),
        ({"dp_shard": 16, "tp_overlap": True}, "tp_overlap needs tp"),
        ({"dp_shard": 16, "ep_overlap": "shared"}, "ep_overlap shared needs ep above 1"),
        ({"dp_shard": 16, "sync_period": 10}, "sync_period 10 needs dp_replicate"),
        ({"dp_replicate": 16, "sync": "pairs"}, "sync pairs needs sync_period"),
        ({"dp_replicate": 8, "dp_shard": 2, "zero": 0, "sync_period": 4}, "zero beside cp, dp_shard or ep"),
        ({"dp_shard": 16, "vocab_parallel": True}, "vocab_parallel needs pp"),
        ({"pp": 16, "vocab_parallel": True, "schedule": "gpipe"}, "schedule 1f1b"),
        ({"cp": 4, "dp_shard": 4, "cp_comm": "a2a+p2p"}, "a2a\\+p2p needs a part of cp 4"),
    ],
)
def test_a_technique_out_of_place_is_refused(fields, complaint):
    with pytest.raises(InputError, match=complaint):
        estimate_training(LLAMA, TWO_NODES, JOB, Strategy(**fields))


def test_exploring_never_makes_the_plan_worse_and_lists_what_it_assumed():
    plain = plan_training(LLAMA, TWO_NODES, JOB)
    techniques = ("context", "partition", "offload", "tp_overlap", "expert_overlap")
    wider = plan_training(LLAMA, TWO_NODES, msgspec.structs.replace(JOB, explore=techniques))
    assert wider.optimality.candidates > 4 * plain.optimality.candidates
    assert wider.prediction.step_s <= plain.prediction.step_s
    assert wider.optimality.gap == 0.0


def test_offload_lets_a_model_fit_that_did_not():
    job = TrainingJob(gbs=16, sequence_length=2048, constraints=Constraints(offload_optimizer=("cpu",)))
    made = plan_training(model("llama-3.1-70b"), TWO_NODES, job)
    assert made.strategy.offload_optimizer == "cpu"
    assert made.memory[0].moved_bytes["cpu"] > 20e9
    assert any("host memory" in note for note in made.assumptions)


def test_a_plan_with_a_divided_vocabulary_holds():
    from shardwright.planner import inputs
    from shardwright.planner.validate.training import problems

    gemma = model("gemma-3-4b")
    job = TrainingJob(gbs=64, sequence_length=2048, constraints=Constraints(vocab_parallel=True, pp=(4, 8), mbs=(1,)))
    node = cluster("dgx-h100:1")
    plan = plan_training(gemma, node, job, inputs=(inputs.model_input(gemma), inputs.topology_input(node)))
    assert problems(plan) == []
    assert plan.strategy.vocab_parallel
    assert not any(stage.holds for stage in plan.stages)
    assert any("vocabulary" in note for note in plan.assumptions)


def test_a_wider_space_equals_brute_force():
    from shardwright.planner.training.planning import context_of, space_of
    from shardwright.planner.training.search import evaluated, search

    job = TrainingJob(
        gbs=16,
        sequence_length=2048,
        explore=("context", "partition", "offload", "tp_overlap", "low_communication", "vocabulary"),
        constraints=Constraints(mbs=(1, 2), recompute=("none", "full"), sp=True),
    )
    context = context_of(LLAMA, TWO_NODES, job)
    space = space_of(context)
    nodes = space.nodes()
    table, _ = space.leaves(nodes, np.arange(len(nodes)))
    values = context.goal.values(evaluated(context.costs, table))
    assert search(space, context.costs, context.goal).outcome.solution.value == pytest.approx(values.min())
