"""Stages fitted where a rank holds several of them: exact, never over the limit, and bounded."""

from __future__ import annotations

import functools
import itertools

import msgspec
import numpy as np
import pytest

from shardwright.models import TransformerShape, model, transformer
from shardwright.planner import estimate_training, export_plan
from shardwright.planner.costs.stages import placed
from shardwright.planner.errors import InputError
from shardwright.planner.strategy import RECOMPUTES, Constraints, Strategy
from shardwright.planner.training import plan_training
from shardwright.planner.training.fitting import Fitting
from shardwright.planner.training.planning import context_of
from shardwright.planner.training.search import evaluated
from shardwright.planner.training.shared_bounds import shared_floors
from shardwright.planner.training.shared_fitting import SharedFitting
from shardwright.planner.workload.strategy_table import module_bits, table_of
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster

LAYERS = 6
SMALL = transformer(
    TransformerShape(layers=LAYERS, hidden=1024, heads=8, kv_heads=8, ffn=4096, vocab=32000, gated=True, norm="rms")
)
NODE = cluster("dgx-h100:1")
JOB = TrainingJob(gbs=32, sequence_length=4096)
SHARED = {
    "interleaved": Strategy(pp=2, vpp=2, dp_shard=4),
    "three interleaved": Strategy(pp=2, vpp=3, dp_shard=4),
    "zb-v": Strategy(pp=2, schedule="zb-v", dp_shard=4),
    "dualpipe": Strategy(pp=4, schedule="dualpipe", dp_shard=2),
}
WAYS = {"full": ("full", ()), "norm": ("selective", ("norm",))}


@functools.cache
def costs():
    return context_of(SMALL, NODE, JOB).costs


def costed(strategies: list[Strategy]):
    made = evaluated(costs(), table_of(strategies, LAYERS))
    return made.step_s, made.memory_bytes


def alike(counts, owned, last: int) -> bool:
    """Whether stages of every rank have as many as each other or one more, but that the last may have fewer."""
    for pieces in owned:
        kept = [counts[piece] for piece in pieces if piece != last]
        if kept and max(counts[piece] for piece in pieces) > min(kept) + 1:
            return False
    return True


def every_cut(base: Strategy, way: str):
    """All layers and recomputes of a small pipeline's stages."""
    recompute, modules = WAYS[way]
    count = base.virtual_stages
    owned = placed(np.arange(count), base.schedule, base.pp).T.tolist()
    inner = range(0 if base.schedule == "interleaved" else 1, LAYERS + 1)
    for layers in itertools.product(range(LAYERS + 1), *[inner] * (count - 2), range(LAYERS + 1)):
        busy = all(any(layers[piece] for piece in pieces) for pieces in owned)
        if sum(layers) == LAYERS and busy and alike(layers, owned, count - 1):
            for again in itertools.product(*(range(each + 1) for each in layers)):
                if alike(again, owned, count - 1):
                    some = {"recompute": recompute, "recompute_modules": modules, "stage_recompute": again}
                    yield msgspec.structs.replace(base, stage_layers=layers, **(some if any(again) else {}))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SHARED)
def test_fitted_stages_of_shared_ranks_equal_brute_force(name, way):
    base = SHARED[name]
    step_s, held = costed(list(every_cut(base, way)))
    recompute, modules = WAYS[way]
    ways = ((RECOMPUTES.index(recompute), module_bits(modules)),)
    solved = 0
    for limit in np.quantile(held, [0.0, 0.02, 0.3, 1.0]) * (1 + 1e-9):
        least = step_s[held <= limit].min(initial=np.inf)
        table = table_of([base], LAYERS)
        fitting = SharedFitting(costs(), table, float(limit), ways)
        cut = fitting.best(np.inf, 1_000_000)
        for bound in (cut.least_s, fitting.least_s(), shared_floors(costs(), table, float(limit), ways)[0]):
            assert bound <= least * (1 + 1e-9)
        for built in fitting.built():
            assert costed([built.row(0)])[0][0] >= least * (1 - 1e-12)
        if cut.table is not None:
            found_s, found_bytes = costed([cut.table.row(0)])
            assert found_bytes[0] <= limit
            assert least <= found_s[0] <= least * 1.002
            assert cut.least_s >= found_s[0] * 0.97
            solved += 1
    assert solved >= 3


@pytest.mark.parametrize("schedule", ["gpipe", "zb-h1"])
def test_fitted_stages_of_other_schedules_equal_brute_force(schedule):
    base = Strategy(pp=4, dp_shard=2, schedule=schedule)
    made = costs()
    every = []
    for layers in itertools.product(range(4), *[range(1, 4)] * 2, range(4)):
        if sum(layers) == LAYERS:
            for again in itertools.product(*(range(each + 1) for each in layers)):
                some = {"recompute": "full", "stage_recompute": again} if any(again) else {}
                every.append(msgspec.structs.replace(base, stage_layers=layers, **some))
    values = evaluated(made, table_of(every, LAYERS))
    for share in (0.7, 0.85, 1.1):
        limit = share * evaluated(made, table_of([base], LAYERS)).memory_bytes[0]
        least = values.step_s[values.memory_bytes <= limit].min(initial=np.inf)
        fitting = Fitting(made, table_of([base], LAYERS), float(limit))
        found, bound = fitting.best()
        assert fitting.least_s() <= bound * (1 + 1e-12)
        if found is None:
            assert share < 1
            assert least == bound == np.inf
            continue
        value = evaluated(made, found)
        assert value.memory_bytes[0] <= limit
        assert bound <= least <= value.step_s[0] <= least * 1.005
        assert bound >= 0.93 * least


def test_chains_of_several_kinds_are_cut_within_their_memory():
    made = model("deepseek-v3")
    nodes = cluster("dgx-h100:32")
    job = TrainingJob(gbs=512, sequence_length=4096, precision="fp8")
    context = context_of(made, nodes, job)
    base = Strategy(pp=8, vpp=2, dp_shard=32, ep=32)
    table = table_of([base], made.num_layers)
    whole = evaluated(context.costs, table)
    fitting = SharedFitting(context.costs, table, float(whole.memory_bytes[0]) * 0.9)
    found = [*fitting.built()]
    assert found
    for each in found:
        value = evaluated(context.costs, each)
        assert value.memory_bytes[0] <= float(whole.memory_bytes[0]) * 0.9 * (1 + 1e-9)
        assert value.step_s[0] >= fitting.least_s()
        assert sum(each.row(0).stage_layers or ()) == made.num_layers


@pytest.fixture(scope="module")
def fitted_plan():
    held = Constraints(tp=(4,), pp=(8,), schedule=("interleaved",))
    job = TrainingJob(gbs=64, sequence_length=4096, constraints=held)
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    plain = plan_training(llama, nodes, job)
    return plain, plan_training(llama, nodes, msgspec.structs.replace(job, explore=("uneven",)))


def test_interleaved_stages_that_are_fitted_beat_equal_ones_with_a_small_gap(fitted_plan):
    plain, made = fitted_plan
    assert made.strategy.schedule == "interleaved"
    assert made.prediction.step_s < 0.97 * plain.prediction.step_s
    assert made.optimality.bound <= made.optimality.value
    assert made.optimality.gap < 0.005
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    again = estimate_training(llama, nodes, made.job, made.strategy)
    assert again.prediction.step_s == pytest.approx(made.prediction.step_s)
    assert all(stage.total_bytes <= stage.capacity_bytes * 0.95 + 1 for stage in made.memory)


def test_fitted_layers_reach_the_launcher_and_recompute_by_stage_is_refused():
    job = TrainingJob(gbs=64, sequence_length=2048)
    layers = (3, 4, 4, 4, 4, 4, 4, 1)
    plan = estimate_training("qwen3-0.6b", "dgx-h100:1", job, Strategy(pp=4, vpp=2, dp_shard=2, stage_layers=layers))
    assert "'Et*3|t*4|t*4|t*4|t*4|t*4|t*4|tL'" in export_plan(plan, "megatron").text
    again = msgspec.structs.replace(plan.strategy, recompute="full", stage_recompute=(1, *[0] * 7))
    with pytest.raises(InputError, match="this plan has 1 layers; with --recompute none layers alone are fitted"):
        export_plan(estimate_training("qwen3-0.6b", "dgx-h100:1", job, again), "megatron")


def test_a_schedule_without_a_pipeline_keeps_one_micro_batch_alive():
    table = table_of([Strategy(dp_shard=8, schedule=schedule) for schedule in ("1f1b", "gpipe", "zb-h1")], LAYERS)
    held = evaluated(costs(), table).memory_bytes
    assert np.all(held == held[0])
