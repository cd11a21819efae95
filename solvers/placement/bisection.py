"""ExFlow's program: halve the devices again and again so that little flow crosses each cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..solution import Solution, Status
from .annealing import Schedule, anneal
from .levels import levels
from .problem import Floats, Ints, PlacementProblem, score
from .programs import sequential
from .slots import SlotPlacement, one_copy_each
from .spectral import spectral_start

PROGRAM_PAIRS = 2_000
UNITS = 1 << 20


def solve(problem: PlacementProblem, work: int, seed: int = 0) -> Solution[Ints]:
    """Device of every item, [layers, items], cut by cut; value and bound are of the problem's own objective.

    Yao and others, "Exploiting inter-layer expert affinity for accelerating mixture-of-experts model inference"
    (ExFlow, 2024), with the tokens added up to flow between items, which has the same optimum in far fewer variables,
    and with every cut between nodes made before those within, at the links' own cost. Cuts of few items are
    integer programs; others are annealed. Needs equal devices and all slots taken.
    """
    if not problem.equal_devices or problem.slots.sum() != problem.items or problem.transitions is None:
        raise ValueError("bisection needs flow, equal devices and all slots taken")
    out = np.zeros((problem.layers, problem.items), dtype=np.int64)
    parts = [(np.arange(problem.devices), np.tile(np.arange(problem.items), (problem.layers, 1)))]
    spent = 0
    share = max(1, work // max(1, int(np.ceil(np.log2(max(2, problem.devices))))))
    while parts:
        devices, items = parts.pop()
        if len(devices) == 1:
            np.put_along_axis(out, items, devices[0], axis=1)
            continue
        sides = halves(problem.link_cost, devices)
        size = int(problem.slots[0])
        cut = _subproblem(problem, items, np.array([len(side) * size for side in sides]))
        effort = max(1, share * len(devices) // problem.devices)
        side_of = _cut(cut, effort, seed)
        spent += effort
        for at, side in enumerate(sides):
            rows = [row[chosen == at] for row, chosen in zip(items, side_of, strict=True)]
            parts.append((side, np.array(rows, dtype=np.int64)))
    value = score(problem, out).value
    return Solution(Status.FEASIBLE, out, value, -np.inf, work=spent)


def programs_fit(layers: int, items: int, devices: int) -> bool:
    """Whether every cut is solved as an integer program; larger ones are searched by exchanges."""
    return (layers - 1) * items**2 <= PROGRAM_PAIRS


def halves(link_cost: Floats, devices: Ints) -> tuple[Ints, Ints]:
    """The devices in two parts, whole groups of the coarsest level that tells them apart together."""
    own = link_cost[np.ix_(devices, devices)]
    for level in levels(own)[::-1]:
        if level.groups > 1:
            ordered = devices[np.argsort(level.group, kind="stable")]
            sizes = np.cumsum(np.bincount(level.group))
            middle = int(sizes[np.abs(sizes[:-1] - len(devices) / 2).argmin()])
            return ordered[:middle], ordered[middle:]
    middle = len(devices) // 2
    return devices[:middle], devices[middle:]


def _subproblem(problem: PlacementProblem, items: Ints, sizes: Ints) -> PlacementProblem:
    """Two devices of the given sizes, one apart, and the flow between the given items of each layer."""
    assert problem.transitions is not None
    pairs = zip(problem.transitions, items[:-1], items[1:], strict=True)
    flow = np.array([table[np.ix_(here, there)] for table, here, there in pairs])
    loads = np.take_along_axis(problem.loads, np.broadcast_to(items, (len(problem.loads), *items.shape)), axis=2)
    apart = np.array([[0.0, 1.0], [1.0, 0.0]])
    return PlacementProblem(loads, apart, sizes, flow.reshape(problem.layers - 1, items.shape[1], items.shape[1]))


def _cut(problem: PlacementProblem, work: int, seed: int) -> Ints:
    """Side of every item, [layers, items]."""
    owner = one_copy_each(problem)
    if problem.equal_devices:
        device = spectral_start(problem, seed)
    else:
        device = np.tile(np.repeat([0, 1], problem.slots), (problem.layers, 1)).astype(np.int64)
    schedule = replace(Schedule.for_size(problem.layers, problem.items, 2, work, seed), hot=0.1)
    found = anneal(problem, SlotPlacement(owner, device), schedule).placement.device
    pairs = (problem.layers - 1) * problem.items**2
    return _program(problem, found) if pairs <= PROGRAM_PAIRS else found


def _program(problem: PlacementProblem, hint: Ints) -> Ints:
    """The integer program of one cut: a side for every item, sides full, least flow between items of unlike sides."""
    from ortools.sat.python import cp_model

    assert problem.transitions is not None
    model = cp_model.CpModel()
    second = [[model.new_bool_var("") for _ in range(problem.items)] for _ in range(problem.layers)]
    for layer, row in enumerate(second):
        model.add(sum(row) == int(problem.slots[1]))
        for item, side in enumerate(row):
            model.add_hint(side, int(hint[layer, item]))
    terms = []
    scale = UNITS / max(float(problem.transitions.max()), 1e-300)
    for layer, flow in enumerate(problem.transitions):
        for a, b in np.argwhere(flow > 0):
            crosses = model.new_bool_var("")
            model.add(crosses >= second[layer][a] - second[layer + 1][b])
            model.add(crosses >= second[layer + 1][b] - second[layer][a])
            terms.append(round(flow[a, b] * scale) * crosses)
    model.minimize(sum(terms))
    solver = sequential()
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return hint
    return np.array([[solver.value(side) for side in row] for row in second], dtype=np.int64)
