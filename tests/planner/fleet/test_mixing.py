"""Replicas are simulated under the mix that is routed to them, and throughputs that do not hold there are lowered."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.planner import load_model, plan_fleet
from shardwright.planner.fleet.columns import Known, serving_job
from shardwright.planner.fleet.job import _planned, _ready, _Renting, _simulated
from shardwright.planner.fleet.machines import machine_topology
from shardwright.planner.fleet.mixing import Settling, parts_of, shares_of
from shardwright.planner.fleet.offers import assemble, undominated
from shardwright.planner.fleet.planning import answered, plan_of
from shardwright.planner.plan.fleet import FleetPlan
from shardwright.planner.serving.deployments import Link
from shardwright.planner.serving.replica import PoolUse, replica_outcome
from shardwright.planner.validate import validate_plan
from shardwright.planner.workload.fleet import FleetJob
from shardwright.planner.workload.serving import LengthBin, Load
from shardwright.planner.workload.serving_layout import Layout
from tests.planner.fleet.edits import survivors
from tests.planner.fleet.instances import plan, two_gpus
from tests.planner.fleet.test_columns import job
from tests.planner.fleet.test_validation import CLAIMS, NOTES

MIXED = {
    "model": "llama-3.1-8b",
    "rate_per_s": 30.0,
    "lengths": [{"isl": 500, "osl": 200, "weight": 3}, {"isl": 3000, "osl": 300}],
    "targets": {"ttft_s": 2.0, "tpot_s": 0.05},
}
OFFERS = [{"gpu": "h100", "usd_per_hour": 2.95, "clocks": [{"share": 0.6}]}]


@pytest.fixture(scope="module")
def mixed():
    return plan_fleet(job(models=[MIXED], offers=OFFERS, objective="energy", simulate=True))


def seen(replica, share, factor=1.0):
    """What requests see of one whole replica under a share of the load, simulated here."""
    (pool,) = replica.pools
    served = job(models=[MIXED]).models[0]
    load = Load(lengths=share.lengths, rate_per_s=share.rate * factor)
    task = msgspec.structs.replace(serving_job(served, "bf16", 0), load=load)
    use = PoolUse("aggregated", machine_topology(pool.gpu)[0], pool.degrees)
    return replica_outcome(load_model("llama-3.1-8b"), (use,), task)


def test_percentiles_of_the_mix_stand_in_the_plan_and_keep_the_targets(mixed):
    for replica, share in zip(mixed.rental.replicas, shares_of(mixed.rental), strict=True):
        outcome = seen(replica, share)
        assert replica.latencies.met
        assert replica.latencies.requests_per_s == pytest.approx(share.rate)
        assert replica.latencies.tpot_s == outcome.percentile("tpot", 99) <= 0.05
        assert replica.latencies.ttft_s == outcome.percentile("ttft", 99) <= 2.0
    assert validate_plan(mixed) == []


def alone(task: FleetJob) -> FleetPlan:
    """The plan at the throughputs that each size keeps alone."""
    columns = _ready(task, ()).columns
    made = _simulated(task, columns, list(columns.made))
    return plan_of(task, answered(task, assemble(task, columns.classes, undominated(task, made))))


def test_a_mix_that_misses_the_targets_lowers_what_is_counted_on():
    """At the throughputs that each size keeps alone a mix misses them; the plan counts on less, and costs no less."""
    lengths = [{"isl": 500, "osl": 200, "weight": 3}, {"isl": 6000, "osl": 300}]
    missed = 0
    for rate in (9.0, 9.4):
        task = job(models=[MIXED | {"rate_per_s": rate, "lengths": lengths}], offers=OFFERS, simulate=True)
        first, settled = alone(task), plan_fleet(task)
        pairs = zip(first.rental.replicas, shares_of(first.rental), strict=True)
        met = all(seen(replica, share).meets(task.models[0].targets) for replica, share in pairs if share is not None)
        assert all(each.latencies.met for each in settled.rental.replicas if each.latencies is not None)
        assert any("were lowered to what they carry" in line for line in settled.assumptions) == (not met)
        assert settled.optimality.value >= first.optimality.value * (1 - 1e-4)
        assert validate_plan(settled) == []
        missed += not met
    assert missed


def test_shares_are_what_reaches_one_replica_in_the_fullest_hour():
    made = plan(two_gpus(hours=[("0", 0.4), ("1", 1.0)]))
    rental = made.rental
    for kind, share in enumerate(shares_of(rental)):
        loads = []
        for hour in rental.schedule.hours:
            count = sum(n for n, row in zip(hour.counts, rental.rented, strict=True) if row.replica == kind)
            routed = sum(p * each.rate_per_s for p, each in zip(hour.routing[kind], rental.classes, strict=True))
            loads.append(hour.multiple * routed / count if count else 0.0)
        assert share is None or min(abs(share.rate - load) for load in loads) < 1e-9


def test_measured_replicas_are_not_simulated_and_a_job_may_leave_it_out():
    assert all(each.latencies is None for each in plan(two_gpus()).rental.replicas)
    assert all(each.latencies is None for each in plan_fleet(job()).rental.replicas)


def test_latencies_that_contradict_the_plan_are_found(mixed):
    first, *others = mixed.rental.replicas
    told = first.latencies
    for changes, words in (
        ({"requests_per_s": told.requests_per_s * 1.1}, "are routed to a replica"),
        ({"tpot_s": 0.06}, "says that targets are met"),
        ({"met": False}, "misses the targets"),
        ({"percentile": 50.0}, "at percentile 99"),
        ({"e2e_s": told.ttft_s / 2}, "ends after its first token"),
    ):
        wrong = msgspec.structs.replace(first, latencies=msgspec.structs.replace(told, **changes))
        rental = msgspec.structs.replace(mixed.rental, replicas=(wrong, *others))
        assert any(words in line for line in validate_plan(msgspec.structs.replace(mixed, rental=rental)))
    without = msgspec.structs.replace(mixed.rental, replicas=(msgspec.structs.replace(first, latencies=None), *others))
    assert any("is simulated" in line for line in validate_plan(msgspec.structs.replace(mixed, rental=without)))


def test_no_other_edit_of_a_simulated_plan_passes(mixed):
    simulated = {f"rental.replicas.latencies.{name}" for name in ("ttft_s", "tpot_s", "e2e_s", "requests")}
    assert survivors(mixed) <= NOTES | CLAIMS | simulated | {"rental.replicas.requests_per_s"}


def test_a_plan_that_came_to_cost_more_looks_into_more_replicas():
    """Left out against the fleet of the cost model's means, they may pay once a simulation has lowered that."""
    gpus = {"a10g": 1.01, "a100-80gb": 3.67, "h100": 4.5, "l4": 1.2}
    offers = [{"gpu": gpu, "usd_per_hour": usd} for gpu, usd in gpus.items()]
    task = job(models=[MIXED | {"rate_per_s": 18.0}], offers=offers, disaggregated=True, simulate=False)
    ready, value = _ready(task, ()), plan_fleet(task).optimality.value
    supply = ready.supply
    supply.split(lambda _: Known(value))
    assert supply.grow(Known(value)) == []
    more = supply.grow(Known(1.3 * value))
    assert any(len(each.pools) == 2 for each in more)
    assert supply.grow(Known(1.3 * value)) == []

    ready, dearer = _planned(msgspec.structs.replace(task, simulate=True), ())
    assert dearer.optimality.value > value
    assert ready.supply.grow(Known(dearer.optimality.value)) == []


def test_split_pools_are_simulated_together():
    served = job().models[0]
    topology = machine_topology("H100-SXM5-80GB")[0]
    load = Load(lengths=(LengthBin(isl=2000, osl=100),), rate_per_s=5.0)
    task = msgspec.structs.replace(serving_job(served, "bf16", 0), load=load)
    pools = (PoolUse("prefill", topology, Layout()), PoolUse("decode", topology, Layout(), 2))
    graph = load_model("llama-3.1-8b")
    free, slow = (replica_outcome(graph, pools, task, link) for link in (None, Link(1e9, 1e-5)))
    sent = 2000 * 131072 / 1e9
    assert free.percentile("ttft", 50) < slow.percentile("ttft", 50) <= free.percentile("ttft", 50) + sent + 0.1


LONG = {
    "model": "llama-3.1-8b",
    "rate_per_s": 60.0,
    "lengths": [{"isl": 500, "osl": 100, "weight": 3}, {"isl": 6000, "osl": 20}],
    "targets": {"ttft_s": 1.0, "tpot_s": 0.012},
}
FOUR = [{"gpu": gpu, "usd_per_hour": usd} for gpu, usd in (("a10g", 1.01), ("l4", 0.8), ("h100", 2.95), ("gh200", 2.3))]


def test_prefill_and_decode_pools_never_make_a_fleet_dearer_once_simulated():
    task = job(models=[LONG | {"rate_per_s": 6.0}], offers=FOUR[1:3], simulate=True)
    whole, split = plan_fleet(task), plan_fleet(msgspec.structs.replace(task, disaggregated=True))
    assert split.optimality.value <= whole.optimality.value * (1 + 1e-9)
    for made in (whole, split):
        assert all(each.latencies.met for each in made.rental.replicas)
        assert made.optimality.bound <= made.optimality.value
        assert validate_plan(made) == []


def test_what_is_learnt_of_a_pool_counts_wherever_it_stands():
    task = job(models=[LONG], offers=FOUR, disaggregated=True, simulate=False)
    ready = _ready(task, ())
    ready.supply.split(lambda _: Known(40.0))
    settling = Settling(ready.columns, _Renting(ready, ready.columns.made))
    splits = [each for each in ready.columns.made if len(each.pools) == 2]
    part = parts_of(splits[0])[0]
    same = [each for each in splits if parts_of(each)[0] == part]
    assert len(same) > 1
    settling.carried[part] = 0.5
    for each in same:
        prefill, decode = each.pool_rates
        assert (settling.known(each).rates == np.minimum(prefill / 2, decode)).all()
    others = [each for each in splits if parts_of(each)[0] != part]
    assert all((settling.known(each).rates == each.rates).all() for each in others)
    assert all((settling.expected(each).rates <= each.rates).all() for each in others)
