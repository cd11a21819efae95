"""Exact dynamic programming over the assignments of a layer, when they are few."""

from __future__ import annotations

from itertools import permutations
from math import comb

import numpy as np
from numpy.typing import NDArray

from ..solution import Solution, Status
from .problem import Floats, Ints, PlacementProblem, device_loads

MAX_PAIRS = 1_500_000_000
MAX_STATES = 20_000
MAX_SYMMETRIC_DEVICES = 6
ROWS = 256


def state_count(problem: PlacementProblem) -> int:
    """Ways to place the items of one layer, when every device gets its even share (or all slots are full)."""
    left, states = problem.items, 1
    for size in problem.slots:
        states *= comb(left, int(size))
        left -= int(size)
    return states if left == 0 else MAX_STATES + 1


def suits(problem: PlacementProblem) -> bool:
    """Whether the exact solver finishes in seconds: all slots taken and few states per layer."""
    if problem.slots.sum() != problem.items:
        return False
    states = state_count(problem)
    if states > MAX_STATES:
        return False
    return -(-states // len(symmetries(problem))) * states * problem.layers <= MAX_PAIRS


def solve(problem: PlacementProblem) -> Solution[Ints]:
    """The optimal placement, proven: least cost to go from every state, layer by layer from the last to the first.

    Cost to go does not change when devices are renamed by a symmetry of links, speeds and slots, so it is computed for
    one state of every orbit only. Without traffic every layer has its own best state. Bellman (1957); the states of a
    layer are its balanced assignments.
    """
    states = enumerate_states(problem.slots)
    if not problem.has_traffic:
        costs = _node_costs(problem, states)
        value = float(costs.min(axis=1).sum()) / max(1, problem.layers - 1)
        return Solution(Status.OPTIMAL, states[costs.argmin(axis=1)], value, value, work=costs.size)
    orbit, leaders = _orbits(states, problem)
    one_hot = np.eye(problem.devices)[states].reshape(len(states), -1)
    node = _node_costs(problem, states)
    to_go = node[-1]
    choices: list[NDArray[np.int64]] = []
    for layer in range(problem.layers - 2, -1, -1):
        ahead = _edge_features(problem, layer, one_hot)
        best, choice = _step(one_hot[leaders], ahead, to_go)
        choices.append(choice)
        to_go = (node[layer][leaders] + best)[orbit]
    path = _walk(states, orbit, leaders, int(to_go[leaders].argmin()), choices[::-1], problem)
    value = float(to_go.min()) / max(1, problem.layers - 1)
    work = len(leaders) * len(states) * (problem.layers - 1)
    return Solution(Status.OPTIMAL, path, value, value, work=work)


def enumerate_states(slots: Ints) -> Ints:
    """Every assignment of sum(slots) items that fills all slots, [states, items], in lexicographic order."""
    rows: list[list[int]] = []
    left = [int(size) for size in slots]
    row: list[int] = []

    def extend() -> None:
        if len(row) == sum(slots):
            rows.append(list(row))
            return
        for device, free in enumerate(left):
            if free:
                left[device] -= 1
                row.append(device)
                extend()
                row.pop()
                left[device] += 1

    extend()
    return np.array(rows, dtype=np.int64)


def symmetries(problem: PlacementProblem) -> list[tuple[int, ...]]:
    """Renamings of the devices that change no link, speed or slot count; only the identity above six devices."""
    identity = tuple(range(problem.devices))
    if problem.devices > MAX_SYMMETRIC_DEVICES:
        return [identity]

    def keeps(names: tuple[int, ...]) -> bool:
        order = list(names)
        return (
            bool(np.array_equal(problem.link_cost[order][:, order], problem.link_cost))
            and bool(np.array_equal(problem.speeds[order], problem.speeds))
            and bool(np.array_equal(problem.slots[order], problem.slots))
        )

    return [names for names in permutations(identity) if keeps(names)]


def _keys(states: Ints, devices: int) -> Ints:
    """One integer per state, in lexicographic order of the states."""
    powers = devices ** np.arange(states.shape[1] - 1, -1, -1, dtype=np.int64)
    return np.asarray(states @ powers, dtype=np.int64)


def _orbits(states: Ints, problem: PlacementProblem) -> tuple[Ints, Ints]:
    smallest = _keys(states, problem.devices)
    own = smallest
    for names in symmetries(problem):
        smallest = np.minimum(smallest, _keys(np.array(names)[states], problem.devices))
    leaders = np.flatnonzero(smallest == own)
    orbit = np.searchsorted(smallest[leaders], smallest)
    return orbit, leaders


def _node_costs(problem: PlacementProblem, states: Ints) -> Floats:
    """Cost of every state within its layer, scaled so that costs add up to (layers - 1) times the value."""
    scale = problem.load_weight * max(1, problem.layers - 1) / problem.layers
    out = np.zeros((problem.layers, len(states)))
    if scale == 0:
        return out
    for layer in range(problem.layers):
        loads = np.broadcast_to(problem.loads[:, layer, None, :], (len(problem.loads), *states.shape))
        total = device_loads(np.ascontiguousarray(loads), states, problem.devices) * problem.per_fair_share
        out[layer] = scale * (total.max(axis=(0, 2)) if problem.loads[:, layer].any() else 1.0)
    return out


def _edge_features(problem: PlacementProblem, layer: int, one_hot: Floats) -> Floats:
    """What each state of the next layer costs an item on a device of this one, [items × devices, states]."""
    if problem.transitions is None:
        return np.zeros((one_hot.shape[1], len(one_hot)))
    flow = problem.traffic_weight * problem.transitions[layer]
    weights = np.einsum("ef,gh->egfh", flow, problem.link_cost).reshape(one_hot.shape[1], -1)
    return np.asarray(weights @ one_hot.T, dtype=np.float64)


def _step(rows: Floats, ahead: Floats, to_go: Floats) -> tuple[Floats, Ints]:
    best = np.empty(len(rows))
    choice = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), ROWS):
        total = rows[start : start + ROWS] @ ahead + to_go
        choice[start : start + ROWS] = total.argmin(axis=1)
        best[start : start + ROWS] = total.min(axis=1)
    return best, choice


def _walk(states: Ints, orbit: Ints, leaders: Ints, first: int, choices: list[Ints], problem: PlacementProblem) -> Ints:
    """The states along the optimal path, undoing at every step the renaming that led to the orbit's leader."""
    names = symmetries(problem)
    current = states[leaders[first]]
    path = [current]
    index = {int(key): i for i, key in enumerate(_keys(states, problem.devices))}
    for choice in choices:
        position = index[int(_keys(current[None], problem.devices)[0])]
        leader = states[leaders[orbit[position]]]
        back = next(n for n in names if np.array_equal(np.array(n)[leader], current))
        current = np.array(back)[states[choice[orbit[position]]]]
        path.append(current)
    return np.array(path)
