"""Replicas from the cost model: none that matters is left out, and the ideal machine is never beaten."""

from __future__ import annotations

from itertools import product

import msgspec
import numpy as np
import pytest

from shardwright.planner import load_model
from shardwright.planner.costs.serving.communication import fabric
from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.fleet.candidates import request_classes
from shardwright.planner.fleet.columns import Columns, Known, serving_job
from shardwright.planner.fleet.job import plan_fleet
from shardwright.planner.fleet.machines import ideal, machine_topology
from shardwright.planner.fleet.offers import assemble
from shardwright.planner.fleet.planning import answered, best_found, plan_of
from shardwright.planner.fleet.split import candidate_of
from shardwright.planner.fleet.split_space import RATIOS, Space, Split, Splits
from shardwright.planner.fleet.what_if import parse_what_if
from shardwright.planner.serving.replica import Bucket, replica_rates
from shardwright.planner.serving.space import layouts
from shardwright.planner.validate import validate_plan
from shardwright.planner.workload.fleet import FleetJob, Offer
from shardwright.planner.workload.serving_layout import LayoutConstraints

SIZES = ((50, 400), (500, 100), (3000, 200))


def job(model: str = "llama-3.1-8b", **changes) -> FleetJob:
    """A chat model on two GPU types under latency targets, percentiles left to other tests."""
    served = {
        "model": model,
        "rate_per_s": 30.0,
        "lengths": [{"isl": isl, "osl": osl} for isl, osl in SIZES],
        "targets": {"ttft_s": 2.0, "tpot_s": 0.06},
    }
    offers = [{"gpu": "a10g", "usd_per_hour": 1.01}, {"gpu": "a100-80gb", "usd_per_hour": 3.67}]
    return msgspec.convert({"models": [served], "offers": offers, "simulate": False} | changes, FleetJob)


@pytest.mark.parametrize(
    ("model", "gpu", "format_"),
    [
        ("llama-3.1-8b", "RTX-4090", "w4a16"),
        ("llama-3.1-70b", "H100-SXM5-80GB", "fp8"),
        ("mixtral-8x7b", "A100-SXM4-80GB", "bf16"),
        ("gemma-3-27b", "H200-NVL-141GB", "bf16"),
    ],
)
@pytest.mark.parametrize("targets", [{}, {"ttft_s": 2.0, "tpot_s": 0.05}])
def test_no_layout_beats_the_ideal_machine_of_its_size(model, gpu, format_, targets):
    served = job(model).models[0]
    served = msgspec.structs.replace(served, targets=msgspec.convert(targets, type(served.targets)))
    graph, (topology, _) = load_model(model), machine_topology(gpu)
    classes = request_classes(msgspec.structs.replace(job(model), models=(served,)))
    machine = ideal(graph, gpu, format_, served)
    buckets = [Bucket(isl, osl) for isl, osl in SIZES]
    some = layouts(graph, fabric(topology), 8, 3000, LayoutConstraints())[::3]
    for layout in some:
        rates = replica_rates(graph, topology, layout, buckets, serving_job(served, format_, 0))
        assert (rates <= machine.rates(classes, served, layout.devices)).all(), layout.label()


def all_columns(task: FleetJob) -> Columns:
    """Every layout made, whatever it promises."""
    classes = request_classes(task)
    columns = Columns(task, classes, {each.model: load_model(each.model) for each in task.models}, [])
    columns._make(list(columns.left))
    assert not columns.left
    return columns


@pytest.mark.parametrize("rate", [2.0, 90.0])
def test_what_is_left_out_could_not_have_been_cheaper(rate):
    task = job()
    task = msgspec.structs.replace(task, models=(msgspec.structs.replace(task.models[0], rate_per_s=rate),))
    lazy, columns = plan_fleet(task), all_columns(task)
    every = plan_of(task, answered(task, assemble(task, columns.classes, columns.made)))
    assert lazy.optimality.value == pytest.approx(every.optimality.value, rel=1e-4)
    assert validate_plan(lazy) == []
    (note,) = [line for line in lazy.assumptions if "layouts were looked into" in line]
    looked, of = (int(word) for word in note.split() if word.isdigit())
    assert looked <= of == columns.layouts_all


def test_gpus_that_are_far_too_dear_are_not_looked_into():
    task = job()
    dear = ("h100", "h200", "a100-40gb")
    offers = (*task.offers[:1], *(Offer(gpu=gpu, usd_per_hour=60.0) for gpu in dear))
    task = msgspec.structs.replace(task, offers=offers)
    columns = Columns(task, request_classes(task), {"llama-3.1-8b": load_model("llama-3.1-8b")}, [])
    columns.serve_all()
    assert {gpu for made in columns.made for gpu, _ in made.gpus} == {"A10G"}
    assert columns.layouts_made < columns.layouts_all / 2


def test_simulated_throughputs_stand_in_the_plan():
    task = msgspec.structs.replace(job(), simulate=True)
    made = plan_fleet(task)
    assert {replica.source for replica in made.rental.replicas} == {"simulation"}
    assert any("percentile 99 in simulation" in line for line in made.assumptions)
    assert made.optimality.value >= plan_fleet(job()).optimality.value * 0.9


def test_a_tighter_target_is_never_cheaper_and_what_ifs_say_so():
    made = plan_fleet(
        job(), what_if=[parse_what_if(text) for text in ("tpot=2", "rate=2", "without=a10g", "price.a10g=0.3")]
    )
    looser, busier, poorer, cheaper = made.alternatives[-4:]
    assert looser.value <= made.optimality.value <= busier.value
    assert made.optimality.value <= poorer.value
    assert cheaper.value <= made.optimality.value
    assert any(each.what == "1 ms more of TPOT" for each in made.rental.shadow_prices)


@pytest.mark.parametrize("text", ["rate", "rate=-1", "price=2", "speed=2", "without=", "price.tpu-v9=2", "e2e=2"])
def test_a_what_if_that_makes_no_sense_is_refused(text):
    with pytest.raises(InputError, match="what-if"):
        plan_fleet(job(), what_if=[parse_what_if(text)])


def test_targets_that_nothing_meets_are_infeasible():
    task = job()
    targets = msgspec.structs.replace(task.models[0].targets, ttft_s=1e-4)
    task = msgspec.structs.replace(task, models=(msgspec.structs.replace(task.models[0], targets=targets),))
    with pytest.raises(Infeasible, match="by no GPU type within the latency targets"):
        plan_fleet(task)


def test_a_model_that_no_type_holds_is_told_by_its_weights():
    served = {"model": "llama-3.1-405b", "rate_per_s": 1.0, "lengths": [{"isl": 500, "osl": 100}]}
    with pytest.raises(Infeasible, match=r"fits on no GPU type .* weights take 811\.\d GB, but 16 A10G hold 3\d\d"):
        plan_fleet(job(models=[served], offers=[{"gpu": "a10g", "usd_per_hour": 1.01}]))


def test_a_request_longer_than_the_context_is_wrong_input():
    lengths = [{"isl": 200_000, "osl": 100}]
    with pytest.raises(InputError, match=r"context of llama-3\.1-8b"):
        plan_fleet(job(models=[{"model": "llama-3.1-8b", "rate_per_s": 1.0, "lengths": lengths}]))


def test_a_gpu_that_the_catalog_does_not_know_needs_a_table():
    with pytest.raises(InputError, match="unknown accelerator 'quantum-1'"):
        plan_fleet(job(offers=[{"gpu": "quantum-1", "usd_per_hour": 1.0}]))


def test_every_accelerator_with_a_price_has_a_machine():
    for gpu in ("A30", "L40S", "MI300X", "GH200-96GB", "B200-SXM-180GB", "V100-SXM2-16GB", "RTX-A6000"):
        topology, note = machine_topology(gpu)
        assert {device.name for device in topology.accelerators} == {gpu}
        assert note


def test_fewer_bits_are_chosen_where_they_pay():
    task = job()
    served = msgspec.structs.replace(task.models[0], formats=("bf16", "w4a16"))
    made = plan_fleet(msgspec.structs.replace(task, models=(served,)))
    assert made.optimality.value <= plan_fleet(task).optimality.value + 1e-9
    assert np.isfinite(made.optimality.bound)


def every_split(task: FleetJob, step: int = 1) -> tuple[Columns, list[Split]]:
    """The split replicas of every layout that no other on the same GPUs decodes as fast as; of `step` one."""
    columns = all_columns(task)
    found = []
    for side in Space(columns).sides:
        places = range(len(side.prefill.workers)), range(len(side.decode.workers)), range(len(RATIOS))
        found += side.exact(columns, list(product(*places))[::step])
    return columns, found


def test_split_replicas_are_used_where_they_pay_and_hold():
    task = job(disaggregated=True)
    made, whole = plan_fleet(task), plan_fleet(job())
    assert made.optimality.value <= whole.optimality.value + 1e-9
    assert validate_plan(made) == []
    _, splits = every_split(task, step=11)
    assert any(len({worker.gpu for worker in each.workers}) == 2 for each in splits)
    for each in splits[:: len(splits) // 4]:
        lone = [
            replica_rates(
                load_model("llama-3.1-8b"), machine_topology(worker.gpu)[0], worker.degrees,
                [Bucket(isl, osl) for isl, osl in SIZES], serving_job(task.models[0], "bf16", 0), phase=phase,
            )
            for worker, phase in zip(each.workers, ("prefill", "decode"), strict=True)
        ]  # fmt: skip
        few, many = each.counts
        assert (each.rates <= np.minimum(few * lone[0], many * lone[1]) + 1e-9).all()


def long_and_fast() -> dict[str, object]:
    """Prompts are long and tokens must come fast."""
    return {
        "model": "llama-3.1-8b",
        "rate_per_s": 40.0,
        "lengths": [{"isl": 4000, "osl": 100}, {"isl": 800, "osl": 300}],
        "targets": {"ttft_s": 1.0, "tpot_s": 0.012},
    }


@pytest.mark.parametrize("objective", ["cost", "throughput"])
def test_split_replicas_left_out_could_not_have_been_better(objective):
    """At these targets and prices whole copies lose."""
    offers = [{"gpu": "h100", "usd_per_hour": 3.0}, {"gpu": "a100-80gb", "usd_per_hour": 1.7}]
    extra = {"objective": "throughput", "budget_usd_per_hour": 20.0} if objective == "throughput" else {}
    task = job(models=[long_and_fast()], offers=offers, disaggregated=True, **extra)
    lazy, (columns, splits) = plan_fleet(task), every_split(task)
    candidates = columns.made + [candidate_of(each) for each in splits[::40]]
    every = best_found(task, assemble(task, columns.classes, candidates))
    reached = every.multiple if objective == "throughput" else every.value
    assert any(len(each.pools) == 2 for each in lazy.rental.replicas)
    better = reached - lazy.optimality.value
    assert (better if objective == "throughput" else -better) <= 1e-4 * lazy.optimality.value
    assert validate_plan(lazy) == []


def test_few_split_replicas_are_left_by_the_bound_and_the_best_fleet_among_all_needs_no_other():
    offers = [{"gpu": "h100", "usd_per_hour": 3.0}, {"gpu": "a100-80gb", "usd_per_hour": 1.7}]
    task = job(models=[long_and_fast()], offers=offers, disaggregated=True)
    columns, splits = every_split(task)
    whole = best_found(task, assemble(task, columns.classes, columns.made))
    known = Known(whole.value)
    kept = Splits(columns, Space(columns).promising(known)).better(known)
    assert 0 < len(kept.splits) < len(splits) / 20

    def value(chosen: list[Split]) -> float:
        candidates = columns.made + [candidate_of(each) for each in chosen]
        return best_found(task, assemble(task, columns.classes, candidates)).value

    assert value(kept.splits) < whole.value
    assert value(kept.splits) <= value(splits[::25] + kept.splits) * (1 + 2e-4)


def test_a_proof_goes_no_further_than_the_replicas_left_out():
    task = job()
    columns = all_columns(task)
    problem = assemble(task, columns.classes, columns.made)
    whole = plan_of(task, answered(task, problem))
    short = plan_of(task, answered(task, problem), outside=whole.optimality.value * 0.9)
    assert short.optimality.value == whole.optimality.value
    assert short.optimality.bound == pytest.approx(whole.optimality.value * 0.9)
    assert short.optimality.status == "feasible"
    assert validate_plan(short) == []


def test_caches_take_their_time_and_room_between_the_pools():
    def carried(network: float) -> list[Split]:
        offers = [
            {"gpu": gpu, "usd_per_hour": usd, "network_bytes_per_s": network}
            for gpu, usd in (("a10g", 1.01), ("a100-80gb", 3.67))
        ]
        return every_split(job(offers=offers, disaggregated=True), step=11)[1]

    fast, slow, crawling = carried(1e12), carried(5e8), carried(1e6)
    assert any("Gb/s" in note for note in every_split(job(disaggregated=True), step=1000)[0].notes)

    def kind(each: Split) -> tuple[object, ...]:
        return (*((worker.gpu, worker.degrees) for worker in each.workers), each.counts)

    by_kind = {kind(each): each.rates for each in fast}
    assert slow
    for each in slow:
        assert (each.rates <= by_kind[kind(each)] + 1e-9).all()
        bytes_per_s = each.rates * each.transfer.bytes_per_token * [isl for isl, _ in SIZES]
        assert (bytes_per_s <= each.transfer.bytes_per_s * (1 + 1e-9)).all()
    assert any((each.rates < by_kind[kind(each)] * 0.9).any() for each in slow)
    assert all(each.rates[2] == 0.0 for each in crawling)  # 393 MB of a prompt would come seconds too late
