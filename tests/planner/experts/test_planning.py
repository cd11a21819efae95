"""Expert plans on small clusters: what each objective asks for, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shardwright.models import routing_from_counts, routing_from_ids, routing_from_transitions
from shardwright.planner import ExpertRequest, InputError, plan_experts, validate_plan
from shardwright.planner.experts.cluster import flat_cluster
from shardwright.planner.experts.workloads import workloads_of


def trace(seed=0, tokens=800, experts=16, layers=4, kept=2):
    """Tokens in groups that use the same few experts, [tokens, layers, kept]."""
    random = np.random.default_rng(seed)
    topic = random.integers(0, 4, size=tokens)
    order = np.stack([random.permutation(experts) for _ in range(layers)])
    picked = np.array([random.choice(experts // 4, kept, replace=False) for _ in range(tokens * layers)])
    return order[
        np.arange(layers)[:, None], topic[:, None, None] * (experts // 4) + picked.reshape(tokens, layers, kept)
    ]


def workloads(*seeds, held_out=0.0):
    return workloads_of([routing_from_ids(f"trace {seed}", trace(seed), experts=16) for seed in seeds], held_out)


@pytest.mark.parametrize("objective", ["transitions", "fanout", "load", "joint", "minimax"])
def test_every_objective_gives_a_plan_that_holds_and_beats_experts_in_order(objective):
    plan = plan_experts(workloads(0), flat_cluster(4, 2, 4.0), ExpertRequest(objective=objective, work=300_000))
    assert validate_plan(plan) == []
    assert plan.optimality.bound <= plan.optimality.value <= plan.alternatives[0].value
    assert plan.objective == objective


def test_tokens_that_return_home_reach_the_fewest_nodes():
    cluster = flat_cluster(4, 2, 4.0)
    home, load = (
        plan_experts(workloads(0), cluster, ExpertRequest(objective=objective, work=300_000)).scores[0]
        for objective in ("fanout", "load")
    )
    assert home.fanout_nodes < load.fanout_nodes
    assert home.fanout_gpus < load.fanout_gpus
    assert home.fanout_gpus == pytest.approx(1.0, abs=0.01)


def test_copies_bring_experts_nearer_without_meeting_on_a_gpu():
    ids = np.random.default_rng(0).integers(0, 16, size=(800, 4, 1))
    scattered = workloads_of([routing_from_ids("scattered", ids, experts=16)])
    few, many = (
        plan_experts(scattered, flat_cluster(4, 2, 4.0), ExpertRequest(redundant=spare, work=300_000))
        for spare in (0, 16)
    )
    assert validate_plan(many) == []
    assert many.scores[0].traffic < 0.8 * few.scores[0].traffic
    assert many.optimality.bound <= many.optimality.value < few.optimality.value


def test_copies_that_save_nothing_are_left_out_and_every_slot_is_filled():
    ids = np.repeat(np.arange(800) % 16, 4).reshape(800, 4, 1)
    apart = workloads_of([routing_from_ids("each its own", ids, experts=16)])
    plan = plan_experts(apart, flat_cluster(4), ExpertRequest(redundant=8, work=300_000))
    assert validate_plan(plan) == []
    assert plan.redundant == 0
    assert plan.slots == (4, 4, 4, 4)
    assert any("8 copies" in note for note in plan.assumptions)


def test_weights_decide_between_workloads():
    counts = [routing_from_counts(str(seed), np.random.default_rng(seed).integers(1, 50, (3, 16))) for seed in (0, 1)]
    both = workloads_of(counts)
    ratios = []
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        plan = plan_experts(both, 4, ExpertRequest(objective="load", workload_weights=weights))
        ratios.append([score.load_ratio for score in plan.scores])
    assert ratios[0][0] < 1.01 < ratios[0][1]
    assert ratios[1][1] < 1.01 < ratios[1][0]
    robust = plan_experts(both, 4, ExpertRequest(objective="load"))
    assert max(score.load_ratio for score in robust.scores) < min(ratios[0][1], ratios[1][0])


def test_slow_and_small_gpus_get_less():
    counts = workloads_of([routing_from_counts("even", np.ones((2, 12)))])
    cluster = replace(flat_cluster(3), speeds=np.array([1.0, 1.0, 2.0]), memory_bytes=np.array([2.0, 4.0, 6.0]))
    plan = plan_experts(counts, cluster, ExpertRequest(objective="load"))
    held = np.bincount([gpus[0] for gpus in plan.placement[0]], minlength=3)
    assert plan.slots == (2, 4, 6)
    assert held.tolist() == [2, 4, 6]


def test_held_out_tokens_are_judged_beside_those_planned_with():
    plan = plan_experts(workloads(0, held_out=0.25), 4, ExpertRequest(work=300_000, held_out=0.25))
    assert [score.held_out for score in plan.scores] == [False, True]
    assert plan.scores[0].tokens == 3 * plan.scores[1].tokens


def test_a_plan_of_all_tokens_comes_with_one_of_most_judged_on_the_rest():
    whole, most = (
        plan_experts(workloads(0, held_out=share), 4, ExpertRequest(objective="load", held_out=share))
        for share in (0.0, 0.2)
    )
    assert [score.held_out for score in whole.scores] == [False, True]
    assert whole.scores[0].tokens == 800
    assert whole.scores[1] == most.scores[1]
    assert any("first 80%" in line for line in whole.assumptions)


def test_the_same_seed_gives_the_same_plan():
    first, again = (plan_experts(workloads(0), flat_cluster(4, 2, 4.0), ExpertRequest(work=200_000)) for _ in range(2))
    assert first == again


def test_groups_of_a_router_stay_on_one_node():
    request = ExpertRequest(objective="load", expert_groups=4, redundant=4)
    counts = workloads_of([routing_from_counts("c", np.random.default_rng(0).integers(1, 50, (3, 16)))])
    plan = plan_experts(counts, flat_cluster(4, 2), request)
    assert validate_plan(plan) == []
    for row in plan.placement:
        for group in range(4):
            assert len({gpu // 2 for gpus in row[group * 4 : group * 4 + 4] for gpu in gpus}) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slots_per_gpu": 3}, "need as many slots but 4 GPUs have 12"),
        ({"redundant": 99}, "redundant must be at most 48"),
        ({"objective": "fanout", "redundant": 4}, "takes no redundant copies"),
        ({"objective": "minimax", "redundant": 4}, "takes no redundant copies"),
        ({"workload_weights": (1.0, 2.0)}, "workload-weight must be given 1 times"),
        ({"objective": "joint", "expert_groups": 4}, "expert-groups needs --objective load"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        plan_experts(workloads(0), 4, ExpertRequest(**options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "luck"}, "objective must be one of"),
        ({"load_weight": float("nan")}, "load-weight must be"),
        ({"workload_weights": (0.0, 0.0)}, "workload-weight must be"),
        ({"workload_weights": (float("nan"),)}, "workload-weight must be"),
        ({"held_out": 1.0}, "held-out must be"),
        ({"work": 0}, "work must be"),
    ],
)
def test_requests_that_mean_nothing_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        ExpertRequest(**options)


def test_traffic_of_mere_counts_is_refused():
    counts = workloads_of([routing_from_counts("counts", np.ones((3, 8)))])
    with pytest.raises(InputError, match="needs transitions or expert ids"):
        plan_experts(counts, 4, ExpertRequest(objective="joint"))
    flow = np.ones((2, 8, 8))
    with pytest.raises(InputError, match="expert ids of every token"):
        plan_experts(workloads_of([routing_from_transitions("t", flow)]), 4, ExpertRequest(objective="fanout"))


@pytest.mark.parametrize("method", ["moetuner", "exflow"])
def test_published_programs_are_judged_by_the_same_objective_and_bound(method):
    cluster = flat_cluster(4, 2, 4.0)
    own, other = (
        plan_experts(workloads(0), cluster, ExpertRequest(method=name, load_weight=1.0, work=100_000))
        for name in ("auto", method)
    )
    assert validate_plan(other) == []
    assert other.optimality.bound == pytest.approx(own.optimality.bound)
    assert own.optimality.value <= other.optimality.value * (1 + 1e-6)
    with pytest.raises(InputError, match=f"method {method} takes no redundant copies"):
        plan_experts(workloads(0), cluster, ExpertRequest(method=method, redundant=4))
