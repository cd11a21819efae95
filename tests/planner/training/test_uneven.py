"""Stages fitted to their memory: exact, never over the limit, and better where memory binds the first stages."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from shardwright.models import TransformerShape, model, transformer
from shardwright.planner import inputs
from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.plan.training import AS_EVEN, CUT_ALIKE, CUT_FREELY
from shardwright.planner.strategy import RECOMPUTES, Constraints, Strategy
from shardwright.planner.training import estimate_training, plan_training
from shardwright.planner.training.fitting import NONE, Fitting
from shardwright.planner.training.lone_bounds import lone_floors
from shardwright.planner.training.planning import context_of, space_of
from shardwright.planner.training.search import evaluated, search
from shardwright.planner.validate.training import problems
from shardwright.planner.workload.strategy_table import module_bits, table_of
from shardwright.planner.workload.training import TrainingJob
from shardwright.solvers import Work
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


WAYS = {"full": ("full", ()), "norm": ("selective", ("norm",)), "norm and mlp": ("selective", ("norm", "mlp"))}


def every_choice(way: str):
    """All layers and recomputes of four stages, of which the first and the last may have no layer."""
    recompute, modules = WAYS[way]
    for layers in itertools.product(range(8), range(1, 8), range(1, 8), range(8)):
        if sum(layers) == 7 and max(layers) <= 4:
            for again in itertools.product(*(range(count + 1) for count in layers)):
                some = {"recompute": recompute, "recompute_modules": modules, "stage_recompute": again}
                yield msgspec.structs.replace(BASE, stage_layers=layers, **(some if any(again) else {}))


@pytest.fixture(scope="module", params=list(WAYS))
def brute(request):
    costs = context_of(SMALL, NODE, JOB).costs
    recompute, modules = WAYS[request.param]
    way = (RECOMPUTES.index(recompute), module_bits(modules))
    return way, costs, *costed(list(every_choice(request.param)), costs)


@pytest.mark.parametrize("share", [0.55, 0.7, 0.85, 1.1])
def test_fitted_stages_equal_brute_force_over_all_layers_and_recomputes(brute, share):
    way, costs, step_s, held = brute
    limit = share * costed([BASE], costs)[1][0]
    least = step_s[held <= limit].min(initial=np.inf)
    fitting = Fitting(costs, table_of([BASE], 7), limit, (way,))
    made, seconds = fitting.best()
    assert fitting.least_s() <= seconds * (1 + 1e-12)
    if made is None:
        assert least == seconds == np.inf
        return
    found_s, found_bytes = costed([made.row(0)], costs)
    assert found_bytes[0] <= limit
    assert seconds <= least <= found_s[0] <= least * 1.002


def cuts(recompute: str, modules: tuple[str, ...]):
    """All layers of four stages that recompute alike, of which the first and the last may have no layer."""
    some = {"recompute": recompute, "recompute_modules": modules}
    for layers in itertools.product(range(8), range(1, 8), range(1, 8), range(8)):
        if sum(layers) == 7 and max(layers) <= 4:
            yield msgspec.structs.replace(BASE, stage_layers=layers, **some)


@pytest.mark.parametrize("share", [0.55, 0.7, 0.85, 1.1])
@pytest.mark.parametrize("name", ["none", *WAYS])
def test_stages_that_recompute_alike_are_cut_as_brute_force_does(name, share):
    costs = context_of(SMALL, NODE, JOB).costs
    limit = share * costed([BASE], costs)[1][0]
    recompute, modules = ({"none": ("none", ())} | WAYS)[name]
    step_s, held = costed(list(cuts(recompute, modules)), costs)
    least = step_s[held <= limit].min(initial=np.inf)
    base = table_of([msgspec.structs.replace(BASE, recompute=recompute, recompute_modules=modules)], 7)
    made, seconds = Fitting(costs, base, limit, (NONE,)).best()
    floor = lone_floors(costs, base, limit, (NONE,))[0]
    assert floor <= seconds * (1 + 1e-9)
    if made is None:
        assert least == seconds == np.inf
        return
    found_s, found_bytes = costed([made.row(0)], costs)
    assert (made.row(0).recompute, made.row(0).stage_recompute) == (recompute, None)
    assert found_bytes[0] <= limit
    assert seconds <= least <= found_s[0] <= least * 1.005  # the program leaves the exposed reduction out
    assert floor >= 0.9 * least


@pytest.mark.parametrize("share", [0.55, 0.7, 0.85, 1.1])
def test_no_cut_takes_less_than_the_floor_of_its_strategy(brute, share):
    way, costs, step_s, held = brute
    limit = share * costed([BASE], costs)[1][0]
    least = step_s[held <= limit].min(initial=np.inf)
    floor = lone_floors(costs, table_of([BASE, BASE], 7), limit, (way,))
    assert floor[0] == floor[1]
    assert floor[0] <= least * (1 + 1e-9)
    assert floor[0] >= 0.9 * least or least == np.inf


def test_recompute_by_stage_costs_what_it_does_on_all_of_them():
    costs = context_of(SMALL, NODE, JOB).costs
    layers = (2, 2, 2, 1)
    for recompute, modules in WAYS.values():
        whole = msgspec.structs.replace(BASE, stage_layers=layers, recompute=recompute, recompute_modules=modules)
        staged = msgspec.structs.replace(whole, stage_recompute=layers)
        step_s, held = costed([whole, staged], costs)
        assert step_s[0] == pytest.approx(step_s[1], rel=0.01)  # the head of the last stage alone is not a layer
        assert held[0] == pytest.approx(held[1], rel=0.01)


def test_a_stage_may_recompute_modules_of_some_layers_only():
    job = TrainingJob(gbs=64, sequence_length=4096)
    strategy = msgspec.structs.replace(
        BASE,
        stage_layers=(2, 2, 2, 1),
        recompute="selective",
        recompute_modules=("norm",),
        stage_recompute=(2, 1, 0, 0),
    )
    made = estimate_training(SMALL, NODE, job, strategy)
    assert made.strategy.label().endswith("recompute:norm:by-stage uneven")
    assert sum(term.value for term in made.breakdown) == pytest.approx(made.prediction.step_s)
    held = [stage.categories["activations"] for stage in made.memory]
    plain = estimate_training(SMALL, NODE, job, msgspec.structs.replace(BASE, stage_layers=(2, 2, 2, 1)))
    before = [stage.categories["activations"] for stage in plain.memory]
    assert held[0] < before[0]
    assert held[1] < before[1]
    assert held[2:] == before[2:]
    assert before[1] - held[1] == pytest.approx((before[0] - held[0]) / 2 * 3 / 4)


def test_where_memory_binds_the_first_stages_fitted_ones_are_faster_and_hold():
    job = TrainingJob(
        gbs=64, sequence_length=4096, explore=("uneven",), constraints=Constraints(tp=(4,), pp=(8,), vpp=(1,))
    )
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    plain = plan_training(llama, nodes, msgspec.structs.replace(job, explore=()))
    records = (inputs.model_input(llama), inputs.topology_input(nodes))
    made = plan_training(llama, nodes, job, inputs=records)
    assert made.prediction.step_s < plain.prediction.step_s
    layers, again = made.strategy.stage_layers, made.strategy.stage_recompute
    assert layers is not None
    assert layers[0] < max(layers) or (again is not None and again[0] > again[-1])
    assert problems(made) == []
    assert made.optimality.gap < 0.005
    again = estimate_training(llama, nodes, job, made.strategy)
    assert again.prediction.step_s == pytest.approx(made.prediction.step_s)


def test_stages_are_cut_where_that_is_faster_without_being_asked_to_and_the_proof_says_of_what():
    job = TrainingJob(gbs=64, sequence_length=4096, constraints=Constraints(tp=(4,), pp=(8,), vpp=(1,)))
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    records = (inputs.model_input(llama), inputs.topology_input(nodes))
    made = plan_training(llama, nodes, job, inputs=records)
    context = context_of(llama, nodes, job)
    even = search(space_of(context), context.costs, context.goal).outcome.solution.value
    assert made.optimality.value < even
    assert made.strategy.stage_layers is not None
    assert made.strategy.stage_recompute is None
    assert (made.optimality.covers, made.optimality.gap) == (AS_EVEN, 0.0)
    assert made.optimality.beyond is not None
    assert made.optimality.beyond.covers == CUT_ALIKE
    assert 0 < made.optimality.beyond.gap < 0.005
    assert problems(made) == []
    freely = plan_training(llama, nodes, msgspec.structs.replace(job, explore=("uneven",))).optimality
    assert (freely.covers, freely.beyond) == (CUT_FREELY, None)
    assert freely.value <= made.optimality.value


def test_work_ends_the_fitting_of_stages_too():
    job = TrainingJob(gbs=64, sequence_length=4096, explore=("uneven",), constraints=Constraints(tp=(4,)))
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    whole = plan_training(llama, nodes, job).optimality
    some = plan_training(llama, nodes, job, stop=Work(whole.work // 2)).optimality
    assert some.work < 0.75 * whole.work
    assert some.bound <= whole.bound
    assert some.value >= whole.value


def test_the_bound_holds_for_every_strategy_that_was_looked_at_and_others():
    job = TrainingJob(gbs=64, sequence_length=4096, explore=("uneven",), constraints=Constraints(tp=(4,), pp=(8,)))
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    plain = plan_training(llama, nodes, msgspec.structs.replace(job, explore=())).optimality
    made = plan_training(llama, nodes, job).optimality
    assert made.bound <= made.value <= plain.value
    assert made.gap < 0.005


def test_a_search_that_gives_up_keeps_the_floor_of_what_is_left(monkeypatch):
    monkeypatch.setattr("shardwright.planner.training.uneven.MOST", -1)
    job = TrainingJob(gbs=64, sequence_length=4096, constraints=Constraints(tp=(4,), pp=(8,), vpp=(1,)))
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    plain = plan_training(llama, nodes, job).optimality
    made = plan_training(llama, nodes, msgspec.structs.replace(job, explore=("uneven",))).optimality
    assert made.bound < plain.value <= made.value
    assert made.status == "feasible"


def test_fitted_stages_keep_to_the_constraints():
    held = Constraints(tp=(4,), pp=(8,), vpp=(1,), recompute=("none", "selective"))
    job = TrainingJob(gbs=64, sequence_length=4096, explore=("uneven",), constraints=held)
    made = plan_training(model("llama-2-70b"), cluster("dgx-a100-40gb:8"), job).strategy
    assert made.recompute != "full"
    for held, gap in ((Constraints(pp=(8,), vpp=(10,)), 1e-3), (Constraints(pp=(8,), recompute=("full",)), 0.0)):
        job = TrainingJob(gbs=64, sequence_length=4096, explore=("uneven",), constraints=held)
        plan = plan_training(model("llama-2-70b"), cluster("dgx-a100-40gb:8"), job)
        assert plan.optimality.gap <= gap
        assert plan.strategy.vpp == 10 or not held.vpp


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
        ({"stage_layers": (3, 4), "stage_recompute": (1, 0)}, "recompute full or selective"),
        ({"stage_layers": (3, 4), "stage_recompute": (4, 0), "recompute": "full"}, "at most stage_layers"),
        ({"stage_layers": (3, 4), "stage_recompute": (1,), "recompute": "full"}, "must give 2 counts"),
    ],
)
def test_recompute_by_stage_must_match_the_stages(fields, complaint):
    with pytest.raises(InputError, match=complaint):
        Strategy(pp=2, **fields)
