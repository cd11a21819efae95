"""Fleets under caps, losses, wrong throughputs, hours, budgets, and beside a fleet that runs, on two small GPUs."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.plan.fleet import FleetPlan
from shardwright.planner.validate import validate_plan
from tests.planner.fleet.instances import CHAT, plan, problem, two_gpus, two_regions
from tests.solvers.test_covering import holds


def counts(made) -> dict[tuple[str, str, str], int]:
    rental = made.rental
    return {(rental.replicas[each.replica].name, each.region, each.tier): each.count for each in rental.rented}


def carries(task, units, factor=1.0) -> bool:
    """Whether units hold the load, by a linear program of its own."""
    with np.errstate(divide="ignore"):
        load = np.where(task.throughput > 0, task.rates / task.throughput, np.inf)
    return holds(load * factor, np.ones(len(task.classes)), task.capacity @ np.array(units, float) * (1 + 1e-6))


def cheapest_of_all(task, most, ok) -> float:
    """The least cost over every choice of units for which `ok` holds."""
    best = np.inf
    for units in itertools.product(range(most + 1), repeat=len(task.prices)):
        if task.cost @ units < best and ok(units):
            best = float(task.cost @ units)
    return best


def test_each_size_goes_where_it_is_cheapest():
    made = plan(two_gpus())
    assert counts(made) == {("small", "", "on-demand"): 2, ("large", "", "on-demand"): 1}
    assert made.optimality.value == 5.0
    assert made.optimality.status == "optimal"
    assert validate_plan(made) == []


@settings(derandomize=True, max_examples=6, deadline=None)
@given(st.floats(1, 12), st.integers(1, 4), st.integers(1, 3))
def test_a_tighter_quota_is_never_cheaper_and_fractions_never_dearer(rate, small, large):
    models = [CHAT | {"rate_per_s": rate}]
    free, whole = plan(two_gpus(models=models)), plan(two_gpus(models=models, slices=3))
    assert free.optimality.value <= whole.optimality.value + 1e-9
    quotas = [{"name": "s", "gpus": ["small"], "most": small}, {"name": "l", "gpus": ["large"], "most": large}]
    try:
        capped = plan(two_gpus(models=models, quotas=quotas))
    except Infeasible as error:
        task = problem(two_gpus(models=models))
        assert not carries(task, (small, large))
        assert "quota" in str(error)
        return
    assert capped.optimality.value >= free.optimality.value - 1e-9
    assert validate_plan(capped) == []


@pytest.mark.parametrize("lost", [1, 2])
def test_any_units_may_fail_at_the_least_cost(lost):
    made = plan(two_gpus(failures={"replicas": lost}))
    task = problem(two_gpus())

    def survives(units):
        losses = [each for each in itertools.product(range(lost + 1), repeat=2) if sum(each) == lost]
        return carries(task, units) and all(
            carries(task, np.maximum(np.array(units) - np.minimum(units, gone), 0)) for gone in losses
        )

    assert made.optimality.value == cheapest_of_all(task, 12, survives)
    assert made.optimality.status == "optimal"
    assert {sum(each.lost) for each in made.rental.contingencies} == {lost}
    assert validate_plan(made) == []


def test_a_region_may_fail():
    made = plan(two_regions(failures={"region": True}))
    task = problem(two_regions())
    regions = np.array([price.region for price in task.prices])

    def survives(units):
        return all(carries(task, np.where(regions == region, 0, units)) for region in ("east", "west"))

    units = [9, 9, 9, 9, 9]
    assert survives(units)
    assert made.optimality.value <= task.cost @ units
    rented = np.zeros(len(task.prices))
    for each in made.rental.rented:
        name = made.rental.replicas[each.replica].name
        at = next(
            at
            for at, price in enumerate(task.prices)
            if (task.replicas[price.replica].name, price.region, price.tier) == (name, each.region, each.tier)
        )
        rented[at] = each.count
    assert survives(rented)
    assert [each.name for each in made.rental.contingencies] == ["region east fails", "region west fails"]
    with pytest.raises(Infeasible, match="nothing is left"):
        plan(two_gpus(failures={"region": True}))


def test_half_of_the_load_after_a_loss_is_cheaper_than_all_of_it():
    whole, half = (plan(two_regions(failures={"region": True, "load_share": share})) for share in (1.0, 0.5))
    assert plan(two_regions()).optimality.value <= half.optimality.value < whole.optimality.value


def test_spot_counts_by_the_time_it_is_there():
    made = plan(two_regions())
    (spot,) = [each for each in made.rental.rented if each.tier == "spot"]
    assert spot.available == pytest.approx(1 / (1 + 0.2 * 900 / 3600))
    safe = plan(two_regions(failures={"spot": True}))
    assert safe.optimality.value >= made.optimality.value
    assert validate_plan(safe) == []


@pytest.mark.parametrize("shape", ["uniform", "normal"])
@pytest.mark.parametrize("rate", [6.0, 9.5, 27.0])
def test_the_chance_of_overload_is_as_promised_when_throughputs_are_drawn(shape, rate):
    models = [CHAT | {"rate_per_s": rate}]
    made = plan(two_gpus(models=models, error={"spread": 0.1, "overload": 0.05, "shape": shape}))
    rental = made.rental
    rng = np.random.default_rng(7)
    size = (40_000, len(rental.replicas))
    drawn = rng.uniform(0.9, 1.1, size) if shape == "uniform" else rng.normal(1.0, 0.1, size)
    overloaded = float((drawn < np.array(rental.utilization)).any(1).mean())
    assert overloaded == pytest.approx(rental.insurance.overload, abs=0.005)
    assert rental.insurance.overload <= 0.05 + 1e-9
    assert made.optimality.value >= rental.insurance.usd_per_hour_without
    assert rental.insurance.overload_without >= rental.insurance.overload
    assert made.optimality.bound <= made.optimality.value
    assert validate_plan(made) == []


def test_a_budget_carries_the_most():
    made = plan(two_gpus(objective="throughput", budget_usd_per_hour=12.0))
    task = problem(two_gpus())
    best = 0.0
    for units in itertools.product(range(13), range(5)):
        if task.cost @ units <= 12:
            low, high = 0.0, 5.0
            for _ in range(30):
                middle = (low + high) / 2
                low, high = (middle, high) if carries(task, units, middle) else (low, middle)
            best = max(best, low)
    assert made.optimality.sense == "max"
    assert made.optimality.value == pytest.approx(best, rel=1e-4)
    assert made.rental.usd_per_hour <= 12
    assert validate_plan(made) == []


HOURS = [("0", 0.3), ("1", 0.0), ("2", 0.6), ("3", 1.0), ("4", 0.8), ("5", 1.0)]


def best_path(job, most=(4, 2)) -> float:
    """The cheapest schedule that repeats, over all fleets in every hour, by dynamic programming from every start."""
    task = problem(job)
    start = np.array([price.usd_per_start for price in task.prices])
    fleets = [np.array(units) for units in itertools.product(*(range(each + 1) for each in most))]
    begin = [[float(np.maximum(after - before, 0) @ start) for after in fleets] for before in fleets]
    able = [[multiple == 0 or carries(task, units, multiple) for units in fleets] for _, multiple in job.hours]
    best = np.inf
    for first in range(len(fleets)):
        costs = np.full(len(fleets), np.inf)
        if able[0][first]:
            costs[first] = task.cost @ fleets[first]
        for hour in range(1, len(job.hours)):
            reached = (costs[:, None] + np.array(begin)).min(0)
            costs = np.where(able[hour], reached + [task.cost @ units for units in fleets], np.inf)
        best = min(best, float((costs + np.array(begin)[:, first]).min()))
    return best / len(job.hours)


@pytest.mark.parametrize("usd", [0.0, 1.5, 30.0])
def test_a_schedule_costs_the_least_of_all_paths(usd):
    job = two_gpus(hours=HOURS, switching={"usd_per_start": usd})
    made = plan(job)
    assert made.optimality.value == pytest.approx(best_path(job), abs=1e-6)
    assert made.optimality.value <= made.rental.schedule.usd_per_hour_static + 1e-9
    assert validate_plan(made) == []


def test_what_starts_stays():
    job = two_gpus(hours=HOURS, switching={"least_hours": 4})
    rows = np.array([hour.counts for hour in plan(job).rental.schedule.hours])
    for kind in rows.T:
        for hour in range(len(kind)):
            started = max(kind[hour] - kind[hour - 1], 0)
            assert all(kind[(hour + later) % len(kind)] >= started for later in range(4))
    assert plan(job).optimality.value >= plan(two_gpus(hours=HOURS)).optimality.value - 1e-9


def test_dear_starts_make_for_fewer_of_them():
    calm = plan(two_gpus(hours=HOURS, switching={"usd_per_start": 50.0})).rental.schedule
    free = plan(two_gpus(hours=HOURS, switching={"start_s": 0.0})).rental.schedule
    assert calm.starts < free.starts


def test_a_running_fleet_is_changed_when_that_pays():
    running = [{"gpu": "large", "count": 3}]
    made = plan(two_gpus(current=running))
    assert made.rental.change.started == (2, 0)
    assert made.rental.change.stopped == (0, 2)
    dear = plan(two_gpus(current=running, switching={"usd_per_start": 30.0}))
    assert counts(dear) == {("large", "", "on-demand"): 2}
    assert dear.rental.change.stopped == (1,)
    kept = plan(two_gpus(current=running, switching={"least_saving": 0.5}))
    assert kept.rental.change.kept
    assert counts(kept) == {("large", "", "on-demand"): 3}
    assert kept.optimality.bound == pytest.approx(made.optimality.value)
    for each in (made, dear, kept):
        assert validate_plan(each) == []


def test_a_fleet_that_is_kept_has_its_own_chance_of_overload():
    running = [{"gpu": "small", "count": 2}, {"gpu": "large", "count": 2}]
    error = {"spread": 0.1, "overload": 0.3}
    kept = plan(two_gpus(current=running, switching={"least_saving": 0.6}, error=error))
    assert kept.rental.change.kept
    assert validate_plan(kept) == []


def test_a_running_fleet_too_likely_to_be_overloaded_is_not_kept():
    job = two_gpus(
        offers=[{"gpu": "small", "usd_per_hour": 4.0}, {"gpu": "large", "usd_per_hour": 3.0}],
        current=[{"gpu": "small", "count": 1}, {"gpu": "large", "count": 1}],
        switching={"least_saving": 0.9},
        error={"spread": 0.1, "overload": 0.3},
        models=[CHAT | {"rate_per_s": 7.5}],
    )
    made = plan(job)
    assert not made.rental.change.kept
    assert made.rental.insurance.overload <= 0.3
    assert validate_plan(made) == []


def test_one_hour_after_what_runs_pays_for_its_starts_over_the_horizon():
    made = plan(two_gpus(current=[{"gpu": "large", "count": 1}], hours=[["now", 1.0]]))
    assert made.rental.schedule.starts > 0
    assert validate_plan(made) == []


def test_what_runs_but_cannot_be_rented_is_dropped_and_said():
    made = plan(two_gpus(current=[{"gpu": "ancient", "count": 2}]))
    assert made.rental.change.dropped == ("2 × ancient",)
    assert any("ancient" in line for line in made.assumptions)


def test_instances_are_rented_whole():
    job = two_gpus(
        offers=[{"gpu": "small", "usd_per_hour": 1.0, "instance_gpus": 4}, {"gpu": "large", "usd_per_hour": 3.0}]
    )
    made = plan(job)
    assert counts(made) == {("large", "", "on-demand"): 2}
    only_small = plan(two_gpus(offers=[job.offers[0]], tables=two_gpus().tables[:1]))
    assert [(each.copies, each.gpus) for each in only_small.rental.rented] == [(4, 4)]
    assert validate_plan(only_small) == []


def test_power_and_its_oversubscription():
    offers = [{"gpu": "small", "usd_per_hour": 1.0, "watts": 100}, {"gpu": "large", "usd_per_hour": 3.0, "watts": 500}]
    tight = [{"watts": 650.0}]
    capped = plan(two_gpus(offers=offers, power=tight, models=[CHAT | {"rate_per_s": 7.0}]))
    assert capped.rental.watts <= 650
    with pytest.raises(Infeasible, match="power of all regions"):
        plan(two_gpus(offers=offers, power=tight))
    wide = plan(two_gpus(offers=offers, power=[{"watts": 650.0, "oversubscription": 0.3}]))
    assert 650 < wide.rental.watts <= 650 * 1.3
    with pytest.raises(InputError, match="watts of small"):
        plan(two_gpus(power=tight))


def test_models_share_what_there_is():
    code = {"model": "code", "rate_per_s": 3.0, "lengths": [{"isl": 4000, "osl": 50}], "least_replicas": 2}
    tables = [
        {"model": "chat", "gpu": "small", "requests_per_s": [4.0, 0.4]},
        {"model": "chat", "gpu": "large", "requests_per_s": [9.0, 2.5]},
        {"model": "code", "gpu": "large", "requests_per_s": [5.0]},
    ]
    quota = [{"name": "large", "gpus": ["large"], "most": 2}]
    made = plan(two_gpus(models=[CHAT, code], tables=tables, quotas=quota))
    by_model = {}
    for each in made.rental.rented:
        model = made.rental.replicas[each.replica].model
        by_model[model] = by_model.get(model, 0) + each.count
    assert by_model["code"] == 2
    assert counts(made) == {("large", "", "on-demand"): 2, ("small", "", "on-demand"): by_model["chat"]}
    assert validate_plan(made) == []


def test_what_binds_has_its_price():
    quota = [{"name": "few", "gpus": ["small"], "most": 1}]
    free, capped = plan(two_gpus()), plan(two_gpus(models=[CHAT | {"rate_per_s": 11.0}], quotas=quota))
    assert any(each.what == "1 request/s more of the same mix" for each in free.rental.shadow_prices)
    worth = [each for each in capped.rental.shadow_prices if "quota few" in each.what]
    assert {each.how for each in worth} == {"dual of the relaxation", "plan made anew"}
    (anew,) = [each.worth for each in worth if each.how == "plan made anew"]
    wider = plan(two_gpus(models=[CHAT | {"rate_per_s": 11.0}], quotas=[quota[0] | {"most": 2}]))
    assert anew == pytest.approx(capped.optimality.value - wider.optimality.value)


def test_caps_that_cannot_hold_the_load_are_named_with_what_would():
    quotas = [{"name": "a", "gpus": ["small"], "most": 2}, {"name": "b", "gpus": ["large"], "most": 0}]
    with pytest.raises(Infeasible, match=r"quota a, 2 GPUs, binds: .* carries 24.6 .* at least 9 would do"):
        plan(two_gpus(quotas=quotas))
    with pytest.raises(Infeasible, match="budget, 2 "):
        plan(two_gpus(budget_usd_per_hour=2.0))


@pytest.mark.parametrize("failures", [{}, {"replicas": 1}])
def test_a_cap_that_binds_is_told_the_least_that_would_do(failures):
    """The cheapest fleet has more GPUs than need be: small ones."""

    def under(most: int) -> FleetPlan:
        return plan(two_gpus(quotas=[{"name": "all", "most": most}], failures=failures))

    with pytest.raises(Infeasible, match="quota all, 1 GPUs, binds") as caught:
        under(1)
    needed = int(re.search(r"at least (\d+) would do", str(caught.value))[1])
    assert under(needed).rental.gpus <= needed < plan(two_gpus(failures=failures)).rental.gpus
    with pytest.raises(Infeasible):
        under(needed - 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"offers": [{"gpu": "small", "usd_per_hour": -1.0}]}, "usd_per_hour of small"),
        ({"models": [CHAT | {"rate_per_s": 0.0}]}, "rate_per_s of chat"),
        ({"models": [CHAT | {"lengths": []}]}, "at least one length"),
        ({"tables": [{"model": "chat", "gpu": "small", "requests_per_s": [1.0]}]}, "must have 2 figures"),
        ({"tables": [{"model": "talk", "gpu": "small", "requests_per_s": [1.0, 1.0]}]}, "none of the models"),
        ({"tables": [{"model": "chat", "gpu": "tiny", "requests_per_s": [1.0, 1.0]}]}, "none of the offers"),
        ({"quotas": [{"name": "q", "gpus": ["tiny"], "most": 1}]}, "none of the offers"),
        ({"objective": "throughput"}, "needs budget"),
        ({"slices": 2, "failures": {"replicas": 1}}, "slices cannot be planned with failures"),
        ({"error": {"spread": 0.7}}, "spread"),
        ({"failures": {"replicas": 9}}, "replicas must be from 0 to 3"),
        ({"hours": [["0", -1.0]]}, r"hours\[0\]"),
        ({"hours": [["0", 0.0]]}, "at least one multiple above 0"),
        ({"models": [CHAT | {"rate_per_s": 1e300}]}, r"at most 1e\+12"),
        ({"models": [CHAT | {"lengths": [{"isl": 1, "osl": 1, "weight": 1e308}] * 2}]}, r"lengths\[0\].weight"),
        ({"offers": [{"gpu": "small", "usd_per_hour": 1e308}]}, "usd_per_hour of small"),
        ({"power": [{"watts": 0.0}]}, "watts"),
        ({"power": [{"watts": 9.0, "regions": ["eats"]}]}, "power names region 'eats'"),
        ({"quotas": [{"name": "q", "regions": ["eats"], "most": 1}]}, "q names region 'eats'"),
        ({"current": [{"gpu": "small", "count": -1}]}, "count of small"),
    ],
)
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises((InputError, ValueError), match=words):
        plan(two_gpus(**changes))
