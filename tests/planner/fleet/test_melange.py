"""Mélange's configurations: its published case, its own per-slice program as the oracle, and what is refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.fleet.melange import GpuInfo, MelangeConfig, melange_inputs, melange_problem, read_melange
from shardwright.planner.fleet.planning import plan_problem
from shardwright.planner.plan.fleet import FleetPlan
from shardwright.planner.validate import validate_plan
from tests.reference import shared_file

ARENA = {0.5: 1.01, 1: 2.02, 2: 3.03, 4: 4.68, 8: 8.35, 16: 16.70, 32: 33.40}
ALONE = {
    "A100-80GB": {0.5: 3.67, 1: 3.67, 2: 3.67, 4: 7.34, 8: 11.01, 16: 18.35, 32: 36.70},
    "A10G": {0.5: 1.01, 1: 2.02, 2: 3.03, 4: 5.05, 8: 10.10, 16: 19.19, 32: 37.37},
}


def two_types(**changes) -> MelangeConfig:
    """A cheap GPU that cannot take long outputs and a dear one that takes all, over 2 × 2 sizes."""
    fields = {
        "gpu_info": {
            "small": GpuInfo(1.0, ((8.0, 2.0), (4.0, 0.0))),
            "large": GpuInfo(3.0, ((20.0, 8.0), (10.0, 4.0))),
        },
        "workload_distribution": ((0.5, 0.25), (0.125, 0.125)),
        "total_request_rate": 8.0,
        "slice_factor": 2,
    }
    return msgspec.convert(msgspec.to_builtins(fields) | changes, MelangeConfig)


@pytest.mark.parametrize("rate", ARENA)
def test_the_published_case_costs_what_its_program_says_and_is_proven(rate):
    plan = plan_problem(*melange_inputs(str(shared_file("fleet/melange_arena.json")), rate))
    assert plan.optimality.value == pytest.approx(ARENA[rate], abs=1e-6)
    assert plan.optimality.status == "optimal"
    assert plan.optimality.bound == plan.optimality.value
    assert {each.gpu: round(each.usd_per_hour, 2) for each in plan.rental.single_type} == {
        gpu: costs[rate] for gpu, costs in ALONE.items()
    }
    assert validate_plan(plan) == []


def planned(config: MelangeConfig, *, fractional: bool = False) -> FleetPlan:
    """The plan of a configuration, read from a file as a user's would be."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        Path(file.name).write_bytes(msgspec.json.encode(config))
        return plan_problem(*melange_inputs(file.name, fractional=fractional))


def per_slice_optimum(config: MelangeConfig) -> float:
    """Mélange's own program: one binary per slice and GPU type, solved to optimality."""
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("CBC")
    room, units = {}, {}
    for name, info in config.gpu_info.items():
        units[name] = solver.IntVar(0, solver.infinity(), "")
        room[name] = solver.Constraint(-solver.infinity(), 0)
        room[name].SetCoefficient(units[name], -1)
        solver.Objective().SetCoefficient(units[name], info.cost)
    for row, shares in enumerate(config.workload_distribution):
        for column, share in enumerate(shares):
            for _ in range(config.slice_factor if share > 0 else 0):
                once = solver.Constraint(1, 1)
                for name, info in config.gpu_info.items():
                    if info.tputs[row][column] > 0:
                        chosen = solver.BoolVar("")
                        once.SetCoefficient(chosen, 1)
                        load = config.total_request_rate * share / config.slice_factor / info.tputs[row][column]
                        room[name].SetCoefficient(chosen, load)
    parameters = pywraplp.MPSolverParameters()
    parameters.SetDoubleParam(parameters.RELATIVE_MIP_GAP, 0.0)
    assert solver.Solve(parameters) == solver.OPTIMAL
    return solver.Objective().Value()


@st.composite
def configurations(draw) -> MelangeConfig:
    """Two or three GPU types over 2 × 3 sizes, some cells that a type cannot serve and some without requests."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    types = draw(st.integers(2, 3))
    tables = rng.uniform(0.3, 9, (types, 2, 3))
    tables[1:][rng.random((types - 1, 2, 3)) < 0.25] = 0
    shares = rng.dirichlet(np.ones(6)).reshape(2, 3)
    shares[0, 0], shares[1, 2] = 0, shares[1, 2] + shares[0, 0]
    return MelangeConfig(
        gpu_info={
            f"type {at}": GpuInfo(round(float(rng.uniform(0.5, 5)), 2), tuple(map(tuple, table.tolist())))
            for at, table in enumerate(tables)
        },
        workload_distribution=tuple(map(tuple, shares.tolist())),
        total_request_rate=float(rng.uniform(0.5, 20)),
        slice_factor=draw(st.integers(1, 3)),
    )


@settings(derandomize=True, max_examples=12, deadline=None)
@given(configurations())
def test_the_cost_is_that_of_the_per_slice_program_and_fractional_routing_is_never_dearer(config):
    plan = planned(config)
    assert plan.optimality.value == pytest.approx(per_slice_optimum(config), abs=1e-6)
    assert validate_plan(plan) == []
    divided = planned(config, fractional=True)
    assert divided.optimality.value <= plan.optimality.value + 1e-9
    assert validate_plan(divided) == []


def test_a_size_that_a_type_cannot_serve_goes_elsewhere():
    plan = plan_problem(melange_problem(two_types()))
    names = [replica.name for replica in plan.rental.replicas]
    last = [row[3] for row in plan.rental.routing]
    assert last[names.index("large")] == 1
    assert [each.usd_per_hour for each in plan.rental.single_type if each.gpu == "small"] == [None]
    assert plan.rental.single_type[0].why == "cannot serve requests input 1, output 1 within the latency targets"


def test_a_size_that_nothing_serves_is_infeasible():
    table = ((8.0, 2.0), (4.0, 0.0))
    with pytest.raises(Infeasible, match=r"input 1, output 1 .* by no GPU type"):
        plan_problem(melange_problem(two_types(gpu_info={"small": {"cost": 1.0, "tputs": table}})))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workload_distribution": [[0.5, 0.2], [0.1, 0.1]]}, "sum to 1 but sums to 0.9"),
        ({"workload_distribution": [[1.5, -0.5], [0, 0]]}, r"workload_distribution\[0\]\[1\] must be .* but is -0.5"),
        ({"workload_distribution": [[1.0]]}, "2 × 2|1 × 1"),
        ({"workload_distribution": [[0.5, 0.5], [0]]}, "equal length"),
        ({"gpu_info": {"a": {"cost": -1.0, "tputs": [[1, 1], [1, 1]]}}}, "gpu_info.a.cost .* but is -1"),
        ({"gpu_info": {"a": {"cost": 1.0, "tputs": [[1, -1], [1, 1]]}}}, r"gpu_info.a.tputs\[0\]\[1\]"),
        ({"gpu_info": {}}, "at least one GPU type"),
        ({"total_request_rate": 0}, "total_request_rate"),
        ({"total_request_rate": None}, "total_request_rate"),
        ({"slice_factor": 0}, "slice_factor"),
        ({"slice_factor": None}, "slice_factor"),
    ],
)
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises(InputError, match=words):
        melange_problem(two_types(**changes))


def test_a_file_without_a_field_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"gpu_info": {}}))
    with pytest.raises(InputError, match=r"config\.json: .*workload_distribution"):
        read_melange(str(path))


def test_prices_throughputs_and_shares_that_the_file_does_not_give_are_found(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(msgspec.json.encode(two_types()))
    plan = plan_problem(*melange_inputs(str(path)))
    assert validate_plan(plan) == []
    first, *others = plan.rental.replicas
    cheap = msgspec.structs.replace(plan.rental.rented[0], usd_per_hour=0.5)
    for changes, words in (
        ({"rented": (cheap, *plan.rental.rented[1:])}, "0.5 $/h but"),
        ({"replicas": (msgspec.structs.replace(first, requests_per_s=(99.0,) * 4), *others)}, "are not those of"),
        ({"replicas": (msgspec.structs.replace(first, usable=1.5), *others)}, "a share above 0 and at most 1"),
    ):
        wrong = msgspec.structs.replace(plan, rental=msgspec.structs.replace(plan.rental, **changes))
        assert any(words in line for line in validate_plan(wrong))
