"""MoETuner's two programs: even clusters of items, then clusters to devices so that the heaviest pair is light."""

from __future__ import annotations

import numpy as np

from ..solution import Solution, Status
from . import heaviest
from .balancing import balance
from .bounds import load_floors
from .problem import Floats, Ints, PlacementProblem, peaks_of, score
from .programs import sequential
from .slots import SlotPlacement, one_copy_each, slot_loads

PROGRAM_CHOICES = 512
PROGRAM_PRODUCTS = 10_000
UNITS = 1 << 24
NEAR = 1e-4


def solve(problem: PlacementProblem, work: int, seed: int = 0) -> Solution[Ints]:
    """Device of every item, [layers, items], by the two stages; value and bound are of the problem's own objective.

    Go and Mahajan, "MoETuner: optimized mixture of expert serving with balanced expert placement and token routing"
    (2025). Layers and clusters too many for an integer program in seconds are balanced and levelled by exchanges.
    """
    clusters = even_clusters(problem, seed)
    if problem.transitions is None:
        device = clusters
    else:
        device = np.take_along_axis(_clusters_to_devices(problem, clusters, work, seed), clusters, axis=1)
    value = score(problem, device).value
    return Solution(Status.FEASIBLE, device, value, -np.inf, work=work)


def programs_fit(layers: int, items: int, devices: int) -> bool:
    """Whether both stages are solved as integer programs; larger ones are searched by exchanges."""
    return items * devices <= PROGRAM_CHOICES and (layers - 1) * devices**4 <= PROGRAM_PRODUCTS


def even_clusters(problem: PlacementProblem, seed: int) -> Ints:
    """Stage one: the cluster of every item so that the heaviest cluster of each layer is as light as can be."""
    owner = one_copy_each(problem)
    fair = np.repeat(np.arange(problem.devices), problem.slots)
    start = SlotPlacement(owner, np.tile(fair, (problem.layers, 1)).astype(np.int64))
    found = balance(problem, start, seed).placement.device
    loads = np.pad(problem.loads, ((0, 0), (0, 0), (0, owner.shape[1] - problem.items)))
    peaks = peaks_of(slot_loads(loads, found, problem.devices), problem.per_fair_share)
    floors = load_floors(problem, 0)
    out = found[:, : problem.items].copy()
    if problem.items * problem.devices <= PROGRAM_CHOICES:
        for layer in np.flatnonzero(peaks > floors * (1 + NEAR)):
            out[layer] = _even_layer(problem, int(layer), out[layer])
    return out


def _even_layer(problem: PlacementProblem, layer: int, hint: Ints) -> Ints:
    """The integer program of one layer: pick a cluster for every item, clusters full, the heaviest as light as can."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    unit = problem.per_fair_share / problem.per_fair_share.max()
    picks = [[model.new_bool_var("") for _ in problem.slots] for _ in range(problem.items)]
    for item, row in enumerate(picks):
        model.add_exactly_one(row)
        for cluster, pick in enumerate(row):
            model.add_hint(pick, int(hint[item] == cluster))
    peak = model.new_int_var(0, UNITS * problem.items, "")
    for cluster, size in enumerate(problem.slots):
        held = [row[cluster] for row in picks]
        model.add(sum(held) <= int(size))
        for loads in problem.loads[:, layer]:
            whole = np.rint(loads * unit[cluster] * UNITS).astype(int).tolist()
            model.add(sum(weight * pick for weight, pick in zip(whole, held, strict=True)) <= peak)
    model.minimize(peak)
    solver = sequential()
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return hint
    return np.array([[solver.value(pick) for pick in row].index(1) for row in picks], dtype=np.int64)


def _clusters_to_devices(problem: PlacementProblem, clusters: Ints, work: int, seed: int) -> Ints:
    """Stage two: the device of every cluster, [layers, clusters], so that the costliest pair of devices is cheap.

    Clusters move between devices of the same number of slots and the same speed only, which keeps stage one's balance.
    """
    coarse = _coarse(problem, clusters)
    stay = np.tile(np.arange(problem.devices), (problem.layers, 1)).astype(np.int64)
    if not problem.equal_devices:
        return stay
    found = heaviest.solve(coarse, stay, work, seed).point
    assert found is not None
    if (problem.layers - 1) * problem.devices**4 > PROGRAM_PRODUCTS:
        return found
    return _lightest_pairs(coarse, found)


def _coarse(problem: PlacementProblem, clusters: Ints) -> PlacementProblem:
    """The problem whose items are clusters, one to a device."""
    assert problem.transitions is not None
    member = np.eye(problem.devices)[clusters]
    flow = np.einsum("lec,lef,lfd->lcd", member[:-1], problem.transitions, member[1:])
    loads = np.einsum("kle,lec->klc", problem.loads, member)
    return PlacementProblem(loads, problem.link_cost, np.ones(problem.devices, dtype=np.int64), flow)


def _lightest_pairs(coarse: PlacementProblem, hint: Ints) -> Ints:
    """The integer program: a permutation for every layer, products of two layers' picks linear, largest pair least."""
    from ortools.sat.python import cp_model

    assert coarse.transitions is not None
    model, size = cp_model.CpModel(), coarse.devices
    picks = [[[model.new_bool_var("") for _ in range(size)] for _ in range(size)] for _ in range(coarse.layers)]
    for layer, table in enumerate(picks):
        for at in range(size):
            model.add_exactly_one(table[at])
            model.add_exactly_one(row[at] for row in table)
            for device in range(size):
                model.add_hint(table[at][device], int(hint[layer, at] == device))
    heavy = model.new_int_var(0, UNITS * coarse.layers, "")
    cost: Floats = coarse.link_cost / max(coarse.link_cost.max(), 1e-300)
    for here in range(size):
        for there in range(size):
            if here == there:
                continue
            terms = []
            for layer, flow in enumerate(coarse.transitions):
                for a in range(size):
                    for b in range(size):
                        both = model.new_bool_var("")
                        model.add(both >= picks[layer][a][here] + picks[layer + 1][b][there] - 1)
                        terms.append(round(flow[a, b] * cost[here, there] * UNITS) * both)
            model.add(sum(terms) <= heavy)
    model.minimize(heavy)
    solver = sequential()
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return hint
    found = [[[solver.value(pick) for pick in row].index(1) for row in table] for table in picks]
    return np.array(found, dtype=np.int64)
