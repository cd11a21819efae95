"""GPUs at lower clocks: less power and no more speed, used where power is short, and never for nothing."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.planner import export_plan, load_model, plan_fleet
from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.fleet.columns import serving_job
from shardwright.planner.fleet.machines import ideal, machine_topology
from shardwright.planner.serving.replica import Bucket, replica_rates
from shardwright.planner.validate import validate_plan
from shardwright.planner.workload.clocks import power_share
from shardwright.planner.workload.fleet import Clock, FleetJob, Offer
from shardwright.planner.workload.serving import Targets
from shardwright.planner.workload.serving_layout import Layout
from tests.planner.fleet.edits import survivors
from tests.planner.fleet.instances import plan, two_gpus
from tests.planner.fleet.test_columns import job
from tests.planner.fleet.test_validation import CLAIMS, NOTES

CLOCKS = (1.0, 0.9, 0.787, 0.7, 0.6, 0.5)
SIZES = (Bucket(2000, 20), Bucket(500, 200), Bucket(50, 400))


def rates(gpu: str, clock: float, **targets: float) -> np.ndarray:
    """What one GPU carries of long prompts, of a mix, and of long outputs."""
    topology, _ = machine_topology(gpu if clock == 1 else f"{gpu}@{clock:g}")
    served = msgspec.structs.replace(job().models[0], targets=Targets(**targets))
    return replica_rates(load_model("llama-3.1-8b"), topology, Layout(), SIZES, serving_job(served, "bf16", 0))


@pytest.mark.parametrize("gpu", ["A100-SXM4-80GB", "H100-SXM5-80GB", "L4"])
def test_a_lower_clock_raises_neither_throughput_nor_power(gpu):
    for targets in ({}, {"ttft_s": 2.0, "tpot_s": 0.1}):
        carried = np.array([rates(gpu, clock, **targets) for clock in CLOCKS])
        assert (np.diff(carried, axis=0) <= 1e-9).all()
        assert 0 < carried[-1, 0] < carried[0, 0]
    drawn = [power_share(clock) for clock in CLOCKS]
    assert drawn == sorted(drawn, reverse=True)
    assert drawn[0] == 1


def test_power_falls_and_speed_holds_as_the_published_measurements_say():
    """POLCA: an A100 at 1.11 of its 1.41 GHz draws 20 % less at its peak, for up to 7 % less performance."""
    assert power_share(1.11 / 1.41) == pytest.approx(0.8, abs=0.005)
    prompts, mix, outputs = rates("A100-SXM4-80GB", 0.787) / rates("A100-SXM4-80GB", 1.0)
    assert 0.787 <= prompts < mix < outputs <= 1
    seconds = []
    for gpu in ("A100-SXM4-80GB", "A100-SXM4-80GB@0.787"):
        cost = ideal(load_model("llama-3.1-8b"), gpu, "bf16", job().models[0]).cost
        prompt = float(cost.tables(2048.0, 2048.0, 1.0))
        seconds.append(prompt + 256 * float(cost.decode_seconds(np.float64(8), 2048 + 128)))
    assert seconds[0] < seconds[1] <= seconds[0] * 1.07


def task(**changes) -> FleetJob:
    """A chat model on A100s that may run at 80 and 60 % of their clock."""
    offers = [{"gpu": "a100-80gb", "usd_per_hour": 1.79, "clocks": [{"share": 0.8}, {"share": 0.6}]}]
    return job(offers=offers, **changes)


def test_a_power_cap_that_full_clocks_break_is_met_with_lower_ones():
    def least(offers) -> float:
        return plan_fleet(msgspec.structs.replace(task(objective="energy"), offers=offers)).rental.watts

    offers = task().offers
    full = (msgspec.structs.replace(offers[0], clocks=()),)
    cap = (least(offers) + least(full)) / 2
    assert cap < least(full)
    capped = plan_fleet(task(power=[{"watts": cap}]))
    assert any("@" in each.gpu for each in capped.rental.replicas)
    assert capped.rental.watts <= cap
    assert capped.optimality.value >= plan_fleet(task()).optimality.value
    assert validate_plan(capped) == []
    with pytest.raises(Infeasible, match="power of all regions"):
        plan_fleet(msgspec.structs.replace(task(power=[{"watts": cap}]), offers=full))


def test_without_a_want_of_power_clocks_change_nothing():
    slow = plan_fleet(task())
    plain = plan_fleet(msgspec.structs.replace(task(), offers=(Offer(gpu="a100-80gb", usd_per_hour=1.79),)))
    assert slow.rental == plain.rental


def test_the_least_power_is_no_more_than_that_of_the_cheapest_fleet():
    cheap, least = plan_fleet(task()), plan_fleet(task(objective="energy"))
    assert least.optimality.value == pytest.approx(least.rental.watts / 1e3)
    assert least.optimality.value < cheap.rental.watts / 1e3
    assert least.rental.usd_per_hour >= cheap.rental.usd_per_hour
    assert least.optimality.bound <= least.optimality.value
    assert validate_plan(least) == []
    assert survivors(least) <= NOTES | CLAIMS | {"rental.replicas.requests_per_s"}


MEASURED = {
    "offers": [
        {"gpu": "small", "usd_per_hour": 1.0, "watts": 100, "clocks": [{"share": 0.75, "watts": 70}]},
        {"gpu": "large", "usd_per_hour": 3.0, "watts": 500},
    ],
    "tables": [
        {"model": "chat", "gpu": "small", "requests_per_s": [4.0, 0.4]},
        {"model": "chat", "gpu": "small", "requests_per_s": [3.6, 0.36], "clock": 0.75},
        {"model": "chat", "gpu": "large", "requests_per_s": [9.0, 2.5]},
    ],
}


def test_measured_tables_have_clocks_and_figures_of_their_own():
    least = plan(two_gpus(objective="energy", **MEASURED))
    assert "small@0.75" in {each.gpu for each in least.rental.replicas}
    assert {(each.watts, least.rental.replicas[each.replica].gpu) for each in least.rental.rented} <= {
        (70.0, "small@0.75"), (100.0, "small"), (500.0, "large"),
    }  # fmt: skip
    assert least.optimality.value == pytest.approx(sum(each.count * each.watts for each in least.rental.rented) / 1e3)
    assert validate_plan(least) == []
    capped = plan(two_gpus(power=[{"watts": 690}], **MEASURED))
    assert capped.rental.watts <= 690
    assert validate_plan(capped) == []


def test_errors_of_a_type_are_the_same_at_all_its_clocks():
    made = plan(two_gpus(objective="energy", error={"spread": 0.1}, **MEASURED))
    assert validate_plan(made) == []
    assert made.rental.insurance.overload <= 0.05 + 1e-9


def test_exports_say_which_clocks_to_lock():
    made = plan_fleet(task(objective="energy"))
    for launcher in ("fleet-kubernetes", "fleet-skypilot"):
        exported = export_plan(made, launcher)
        assert any("nvidia-smi -lgc" in note for note in exported.cannot_express)
        assert "@" not in exported.text


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"gpu": "a100@0.8"}, "without @"),
        ({"clocks": [{"share": 0.1}]}, "share must be from 0.5"),
        ({"clocks": [{"share": 1.0}]}, "below 1"),
        ({"clocks": [{"share": 0.8}, {"share": 0.8}]}, "different shares"),
        ({"clocks": [{"share": 0.8, "watts": -1}]}, "clocks: watts"),
        ({"clocks": [{"share": 0.8, "watts": 900}], "watts": 400}, "must not draw more"),
    ],
)
def test_wrong_clocks_are_named(changes, word):
    with pytest.raises((InputError, msgspec.ValidationError), match=word):
        msgspec.convert({"gpu": "a100", "usd_per_hour": 1.0} | changes, Offer)


def test_energy_cannot_be_planned_with_hours_or_without_watts():
    with pytest.raises(InputError, match="objective energy cannot be planned with hours"):
        two_gpus(objective="energy", hours=[["0", 1.0], ["1", 0.5]])
    with pytest.raises(InputError, match="objective energy: the watts of small"):
        plan(two_gpus(objective="energy"))


def test_a_given_draw_is_never_above_that_of_the_full_clock():
    offer = Offer(gpu="a100", usd_per_hour=1.0, clocks=(Clock(share=0.8, watts=500.0),))
    assert offer.watts_at(0.8, 400.0) == 400.0
    assert offer.watts_at(1.0, 400.0) == 400.0
