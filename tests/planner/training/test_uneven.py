"""Stages fitted to their memory: exact, never over the limit, and better where memory binds the first stages."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from shardwright.models import TransformerShape, model, transformer
from shardwright.planner import inputs
from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.strategy import Constraints, Strategy
from shardwright.planner.training import estimate_training, plan_training
from shardwright.planner.training.planning import context_of
from shardwright.planner.training.search import evaluated
from shardwright.planner.training.uneven import fitted_stages
from shardwright.planner.validate.training import problems
from shardwright.planner.workload.strategy_table import table_of
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster

SMALL = transformer(
    TransformerShape(layers=7, hidden=1024, heads=8, kv_heads=8, ffn=4096, vocab=32000, gated=True, norm="rms")
)
NODE = cluster("dgx-h100:1")
JOB = TrainingJob(gbs=16, sequence_length=4096)
BASE = Strategy(pp=4, dp_shard=2)


def costed(strategies: list[Strategy], costs):
    made = evaluated(costs, table_of(strategies, 7))
    return made.step_s, made.memory_bytes


def every_choice():
    """All layers and recomputes of four stages, of which the first and the last may have no layer."""
    for layers in itertools.product(range(8), range(1, 8), range(1, 8), range(8)):
        if sum(layers) == 7 and max(layers) <= 4:
            for again in itertools.product(*(range(count + 1) for count in layers)):
                full = {"recompute": "full", "stage_recompute": again} if any(again) else {}
                yield msgspec.structs.replace(BASE, stage_layers=layers, **full)


@pytest.fixture(scope="module")
def brute():
    costs = context_of(SMALL, NODE, JOB).costs
    return costs, *costed(list(every_choice()), costs)


@pytest.mark.parametrize("share", [0.55, 0.7, 0.85, 1.1])
def test_fitted_stages_equal_brute_force_over_all_layers_and_recomputes(brute, share):
    costs, step_s, held = brute
    limit = share * costed([BASE], costs)[1][0]
    least = step_s[held <= limit].min(initial=np.inf)
    made = fitted_stages(costs, table_of([BASE], 7), limit)
    if made is None:
        assert least == np.inf
        return
    found_s, found_bytes = costed([made.row(0)], costs)
    assert found_bytes[0] <= limit
    assert least <= found_s[0] <= least * 1.002


def test_where_memory_binds_the_first_stages_fitted_ones_are_faster_and_hold():
    job = TrainingJob(
        gbs=64, sequence_length=4096, explore=("uneven",), constraints=Constraints(tp=(4,), pp=(8,), vpp=(1,))
    )
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    plain = plan_training(llama, nodes, msgspec.structs.replace(job, explore=()))
    records = (inputs.model_input(llama), inputs.topology_input(nodes))
    made = plan_training(llama, nodes, job, inputs=records)
    assert made.prediction.step_s < plain.prediction.step_s
    assert made.strategy.stage_layers is not None
    assert made.strategy.stage_layers[0] < max(made.strategy.stage_layers)
    assert problems(made) == []
    assert made.optimality.bound < made.optimality.value
    again = estimate_training(llama, nodes, job, made.strategy)
    assert again.prediction.step_s == pytest.approx(made.prediction.step_s)


def test_a_plan_that_no_fitted_stages_beat_is_not_called_optimal_when_only_some_were_tried(monkeypatch):
    monkeypatch.setattr("shardwright.planner.training.planning.fitted", lambda *_: [])
    job = TrainingJob(gbs=64, sequence_length=4096, constraints=Constraints(tp=(4,), pp=(8,), vpp=(1,)))
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    plain = plan_training(llama, nodes, job).optimality
    made = plan_training(llama, nodes, msgspec.structs.replace(job, explore=("uneven",))).optimality
    assert made.value == plain.value
    assert made.bound < plain.bound
    assert made.status == "feasible"


def test_stages_that_cannot_be_fitted_leave_the_proof_alone():
    job = TrainingJob(gbs=64, sequence_length=4096, explore=("uneven",), constraints=Constraints(pp=(1,)))
    assert plan_training(model("llama-3.1-8b"), NODE, job).optimality.status == "optimal"


def test_what_fits_nowhere_fits_no_stage_either():
    job = TrainingJob(gbs=8, sequence_length=4096, explore=("uneven",), constraints=Constraints(pp=(8,), tp=(1,)))
    with pytest.raises(Infeasible, match="memory binds"):
        plan_training(model("llama-3.1-70b"), NODE, job)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"stage_recompute": (1, 0)}, "needs stage_layers"),
        ({"stage_layers": (3, 4), "stage_recompute": (1, 0)}, "recompute full"),
        ({"stage_layers": (3, 4), "stage_recompute": (4, 0), "recompute": "full"}, "at most stage_layers"),
        ({"stage_layers": (3, 4), "stage_recompute": (1,), "recompute": "full"}, "must give 2 counts"),
    ],
)
def test_recompute_by_stage_must_match_the_stages(fields, complaint):
    with pytest.raises(InputError, match=complaint):
        Strategy(pp=2, **fields)
